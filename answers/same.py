"""How far two answers agree."""

from enum import IntEnum


class Same(IntEnum):
    NO = 0
    FORGIVEN = 1  # one leaves out what the other says: a unit, a noun, am or pm
    YES = 2
