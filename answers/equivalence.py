r"""What a grader accepts beyond equal keys, for two answers in the plain notation of answers/keys.py.

- One value written in two ways that the keys don't unify: 1/(1+sqrt(2)) and sqrt(2)-1, 2 ln 2 and
  ln 4. Both are computed at three points (names get fixed fractions) and must agree: exactly where
  no root or function is met, else to a relative 1e-12. So a rounded decimal is not the exact value:
  0.33 is not 1/3, 3.14 is not pi.
- `50%` is also 0.5. (It shares a key with 50, since a missing sign is forgiven.)
- Solutions forget their order and how they are joined: `1, 2`, `2, 1`, `{1, 2}`, `x = 1 or x = 2`.
  Tuples don't. `±3` stands for two solutions. `x=5, y=3` keeps its names.
- An inequality in one name is its interval: 1 < x <= 3 and (1, 3].
- Equations that are multiples of each other: y = 2x+1 and 2x-y+1 = 0.
- A bare number stands for the number with nouns behind it: 5 for `5 apples`, but `5 oranges` differ.
- In words case, articles and hyphens don't matter. `b` is B. `ABC` is triangle ABC, `P(3, 4)` a point.
- Ratios are reduced, matrices compared by entry, 3:30 stands for 3:30 pm, 30° for pi/6.

So it is symmetric but not transitive: 50 ~ 50% ~ 0.5. Left out: conversion between units, number
formats of other languages, sums of series, what holds only for some values of the names.
"""

import re
from collections.abc import Callable
from enum import IntEnum

from answers.calculator import same_number
from answers.nouns import with_unit
from answers.solutions import cut, is_union, solutions
from answers.statements import stated_value
from answers.units import Unit, in_base_units

MAX_ITEMS = 12  # of solutions whose order doesn't matter

Key = Callable[[str], str | None]


class Same(IntEnum):
    """How far two answers agree."""

    NO = 0
    FORGIVEN = 1  # one leaves out what the other says: a unit, a noun, am or pm
    YES = 2


def agreement(a: str, b: str, key: Key) -> Same:
    """How far two answers mean the same though `key` tells them apart."""
    if same := _each_solution(a, b, key):
        return same
    if lettered := _LETTERED.fullmatch(a) or _LETTERED.fullmatch(b):
        return Same.FORGIVEN if lettered[1] in (a, b) else Same.NO
    ours, theirs = (stated_value(text) if "=" in text else None for text in (a, b))
    if (ours is None) == (theirs is None):
        return Same.NO
    return min(Same.FORGIVEN, _each_solution(ours or a, theirs or b, key))


def _each_solution(a: str, b: str, key: Key) -> Same:
    ours, theirs = solutions(a), solutions(b)
    if len(ours) != len(theirs) or len(ours) > MAX_ITEMS or is_union(a, ours) != is_union(b, theirs):
        return Same.NO
    if len(ours) == 1:
        return _same_value(ours[0][1], theirs[0][1], key) if ours[0][0] == theirs[0][0] else Same.NO
    # both ways, so that it is symmetric
    return max(_each_in(ours, theirs, key), _each_in(theirs, ours, key))


def _each_in(ours: list[tuple[str, str]], theirs: list[tuple[str, str]], key: Key) -> Same:
    """The least agreement, where each finds its own."""
    left, least = list(theirs), Same.YES
    for name, value in ours:
        found = [_same_value(value, other, key) if name == its else Same.NO for its, other in left]
        best = max(found)
        if not best:
            return Same.NO
        least = min(least, best)
        del left[found.index(best)]
    return least


# --- one of them ----------------------------------------------------------------------------------

_ARTICLE = re.compile(r"(?:the|an?) (?=[A-Za-z]{2})", re.IGNORECASE)
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*")
_POINT = re.compile(r"[A-Z](\([^()]*,[^()]*\))|△ ?([A-Z]{3})")
_TIME = re.compile(r"0?([0-9]{1,2}:[0-5][0-9])(?: ?([ap])\.?m\.?)?", re.IGNORECASE)
_RATIO = re.compile(r"[0-9]+(?: ?: ?[0-9]+)+")
_MATRIX = re.compile(r"\\begin\{[pb]?matrix\}(.*)\\end\{[pb]?matrix\}")
_LETTERED = re.compile(r"([A-J]) - \S.*")  # B - 12
_NUMBER = re.compile(r"-?[0-9]+(?:/[0-9]+)?")
_REALS = (r"\mathbb{R}", r"\mathbbR", r"\mathbb R")


def _same_value(a: str, b: str, key: Key) -> Same:
    a, b = _bare(a), _bare(b)
    ours, theirs = key(a), key(b)
    if ours is None or theirs is None:
        return Same.NO
    if ours == theirs:
        return Same.YES
    if same := _same_notation(a, b, key):
        return same
    (x, of_a), (y, of_b) = with_unit(a), with_unit(b)
    if of_a or of_b:
        return _with_units(x, of_a, y, of_b, key)
    if (x, y) != (a, b):  # 3 million
        return Same.YES if same_number(key(x) or x, key(y) or y) else Same.NO
    if _NUMBER.fullmatch(ours) and _NUMBER.fullmatch(theirs):
        return Same.NO
    return Same.YES if same_number(ours, theirs) else Same.NO


def _with_units(x: str, of_x: Unit | None, y: str, of_y: Unit | None, key: Key) -> Same:
    """Values of one dimension are converted; where one has no unit, none is asked of it."""
    if of_x and of_y:
        if of_x.dimension != of_y.dimension:
            return Same.NO
        if of_x.scale == of_y.scale:
            return _same_value(x, y, key)
        return Same.YES if same_number(in_base_units(x, of_x, key), in_base_units(y, of_y, key)) else Same.NO
    value, unit, bare = (x, of_x, y) if of_x else (y, of_y, x)
    assert unit is not None
    if unit.is_number(bare) and same_number(in_base_units(value, unit, key), key(bare) or ""):
        return Same.YES  # 50% and 0.5
    return min(Same.FORGIVEN, _same_value(value, bare, key))


def _bare(text: str) -> str:
    text = text.strip()
    text = _ARTICLE.sub("", text, count=1) if text[:1] in ("a", "A", "t", "T") else text
    point = _POINT.fullmatch(text)
    return point[1] or point[2] if point else "(-∞, ∞)" if text in _REALS else "⦃⦄" if text == "∅" else text


def _same_notation(a: str, b: str, key: Key) -> Same:
    """Words, times, ratios, tuples and matrices, each compared in its own way."""
    if _WORDS.fullmatch(a) and _WORDS.fullmatch(b):
        one_letter = len(a) == 1 or len(b) == 1
        same = a.lower().replace("-", " ") == b.lower().replace("-", " ")
        return Same.YES if same and (not one_letter or a.lower() < "i") else Same.NO
    if (ours := _TIME.fullmatch(a)) and (theirs := _TIME.fullmatch(b)):
        (time, half), (other, other_half) = ours.groups(""), theirs.groups("")
        if time != other or (half.lower() != other_half.lower() and half and other_half):
            return Same.NO
        return Same.YES if half.lower() == other_half.lower() else Same.FORGIVEN
    if _RATIO.fullmatch(a) and _RATIO.fullmatch(b):
        p, q = ([int(n) for n in text.split(":")] for text in (a, b))
        proportional = all(x * q[0] == y * p[0] for x, y in zip(p, q, strict=False))
        return Same.YES if len(p) == len(q) and any(p) and proportional else Same.NO
    if a[0] in "([" and a[0] == b[0] and a[-1] == b[-1] and a[-1] in ")]":
        return _same_rows([cut(a[1:-1])], [cut(b[1:-1])], key)
    matrices = _MATRIX.fullmatch(a), _MATRIX.fullmatch(b)
    rows = [[row.split("&") for row in match[1].split(r"\\")] for match in matrices if match]
    return _same_rows(rows[0], rows[1], key) if len(rows) == 2 else Same.NO


def _same_rows(a: list[list[str]], b: list[list[str]], key: Key) -> Same:
    cells = sum(map(len, a))
    if [*map(len, a)] != [*map(len, b)] or not 1 < cells <= MAX_ITEMS**2:
        return Same.NO
    least = Same.YES
    for row, other in zip(a, b, strict=True):
        for x, y in zip(row, other, strict=True):
            least = min(least, _same_value(x, y, key)) if least else least
    return least
