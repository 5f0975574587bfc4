r"""A second opinion on two answers, asked for where ours tells them apart and could not read one of them.

    compare = second_opinion(MathVerify().equal)
    answer_classes([r"\sum_{k=1}^n k", r"\frac{n(n+1)}{2}"], compare=compare)

Ours comes first, and what it can read is settled by it: two numbers, two formulas, a point and a list.
Answers whose words differ (5 apples and 5 oranges; cat and act, which a reader of formulas takes for
products) are never asked about, nor are answers that were too slow MAX_LATE times. The opinion must hold
both ways; a time-out is a no.
"""

import re
from collections import Counter
from collections.abc import Callable

from answers.calculator import at_points
from answers.expressions import RANGE_OR_DATE
from answers.keys import MAX_CHARS, canonical, compare
from answers.same import Compare, Same
from answers.solutions import cut

MAX_LATE = 2

_COMMAND = re.compile(r"\\(?:begin|end)\{[^{}]*\}|\\(?!text)[A-Za-z]+|\\text[a-z]*")
_WORD = re.compile(r"[A-Za-z]{2,}")
_OF_FORMULAS = set(
    "sin cos tan cot sec csc arcsin arccos arctan ln log lg exp sqrt pi dx dy dz dt du dr and or".split()
)


def second_opinion(equal: Callable[[str, str], bool | None]) -> Compare:
    """Ours, then `equal`: whether two texts mean the same, None where that took too long."""
    late: Counter[str] = Counter()

    def compare_twice(a: str, b: str) -> Same:
        ours = compare(a, b)
        if ours != Same.NO or not worth_asking(a, b) or max(late[a], late[b]) >= MAX_LATE:
            return ours
        for one, other in ((a, b), (b, a)):
            same = equal(one, other)
            if same is None:
                late.update((a, b))
            if not same:
                return Same.NO
        return Same.YES

    return compare_twice


def worth_asking(a: str, b: str) -> bool:
    if max(len(a), len(b)) > MAX_CHARS or _words(a) != _words(b):
        return False
    return not (is_read(a) and is_read(b))


def is_read(answer: str) -> bool:
    """Whether its key is a number or a formula that can be computed, a list or tuple of some, a range or a
    date."""
    key = canonical(answer)
    if key is None or RANGE_OR_DATE.fullmatch(key):
        return key is not None
    inside = key[1:-1] if key[0] in "([⦃" and key[-1] in ")]⦄" else key
    return at_points(key) is not None or all(at_points(piece) is not None for piece in cut(inside))


def _words(text: str) -> list[str]:
    found = _WORD.findall(_COMMAND.sub(" ", text))
    return sorted(word.lower() for word in found if word.lower() not in _OF_FORMULAS)
