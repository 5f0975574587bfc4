"""What a reward is handed: the responses to one question, read, and their vote. No label is in it."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
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


def halved(
    vote: Callable[[list], Vote], keys: Sequence[str | None], views: int = 1
) -> tuple[list[int], list[Vote]]:
    """(the half that each sample is in, the vote of each half alone). A sample is in the half of its parity;
    of two views' samples the first half saw the one, the second half the other."""
    G = len(keys)
    half = [i % 2 if views == 1 else int(2 * i >= G) for i in range(G)]
    return half, [vote([key for key, h in zip(keys, half, strict=True) if h == x]) for x in (0, 1)]
