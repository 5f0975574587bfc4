"""How far two answers agree."""

from collections.abc import Callable
from enum import IntEnum


class Same(IntEnum):
    NO = 0
    FORGIVEN = 1  # one leaves out what the other says: a unit, a noun, am or pm
    YES = 2


Compare = Callable[[str, str], Same]
