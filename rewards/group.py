"""What a reward is handed: the responses to one question, read, and their vote. No label is in it."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from model.batch import Encoded


class Vote(NamedTuple):
    winner: Hashable | None  # the pseudo-label; None: the group abstains
    share: float  # of all answers, unparsed ones included, for the commonest answer
    counts: Counter


class Group(NamedTuple):
    """The G responses to one question, read."""

    question: Encoded
    raw: list[str | None]  # what each says in --answer_format
    keys: list[str | None]  # the names of their classes; None where nothing parsed
    vote: Vote
    texts: Sequence[str] = ()
    half: Sequence[int] = ()  # 0 or 1, of each response
    half_votes: Sequence[Vote] = ()  # of each half alone
