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
from fractions import Fraction

from answers.calculator import same_equation, same_number
from answers.same import Same
from answers.shapes import same_shape
from answers.solutions import same_solutions

Key = Callable[[str], str | None]


def agreement(a: str, b: str, key: Key) -> Same:
    """How far two answers mean the same though `key` tells them apart."""
    if "=" in a and "=" in b and same_equation(a, b):
        return Same.YES
    return same_solutions(a, b, lambda x, y: _same_value(x, y, key))


# --- one of them ----------------------------------------------------------------------------------

_APPROXIMATELY = re.compile(r"(?:approximately|about|roughly|approx\.?|\\approx|≈) ?(?=[-0-9.\\])")
_ARTICLE = re.compile(r"(?:the|an?) (?=[A-Za-z]{2})", re.IGNORECASE)
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*")
_POINT = re.compile(r"[A-Z](\([^()]*,[^()]*\))|△ ?([A-Z]{3})")
_MULTIPLES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NO_NOUNS = set(
    "dozen dozens pair pairs score times and not out plus minus mod percent base squared cubed factorial tens"
    " hundreds thousands millions billions trillions".split()
)
_PARTS = (
    {"half": 2, "halves": 2, "quarter": 4, "quarters": 4}
    | {
        word + s: n
        for s in ("", "s")
        for n, word in enumerate("third fourth fifth sixth seventh eighth ninth tenth".split(), 3)
    }
    | {"hundredth": 100, "hundredths": 100, "thousandth": 1000, "thousandths": 1000}
)
_COUNTED = re.compile(  # two-thirds, but not x-axis
    rf"(-?[0-9][0-9.]*|[a-z]+)(?: |-(?={'|'.join(_PARTS)}))([a-z]{{3,}}(?: [a-z]{{3,}})?)", re.IGNORECASE
)
_FACTORS = _MULTIPLES | {word: Fraction(1, n) for word, n in _PARTS.items()}
_NUMBER = re.compile(r"-?[0-9]+(?:/[0-9]+)?")
_REALS = (r"\mathbb{R}", r"\mathbbR", r"\mathbb R")


def _same_value(a: str, b: str, key: Key) -> Same:
    a, b = _bare(a), _bare(b)
    ours, theirs = key(a), key(b)
    if ours is None or theirs is None:
        return Same.NO
    if ours == theirs:
        return Same.YES
    if _same_words(a, b):
        return Same.YES
    if same := same_shape(a, b, lambda x, y: _same_value(x, y, key)):
        return same
    if a[-1] == "%" or b[-1] == "%":
        is_percent = a[-1] != "%" and _is_percent(ours, theirs) or b[-1] != "%" and _is_percent(theirs, ours)
        return Same.YES if is_percent else Same.NO
    if (a[-1] == "°") != (b[-1] == "°") and "π" in ours + theirs:
        of_angles = (f"({ours})°", theirs) if a[-1] == "°" else (ours, f"({theirs})°")
        return Same.YES if same_number(*of_angles) else Same.NO
    if _NUMBER.fullmatch(ours) and _NUMBER.fullmatch(theirs):
        return Same.NO
    if _NUMBER.fullmatch(ours) or _NUMBER.fullmatch(theirs):
        number, counted = (ours, b) if _NUMBER.fullmatch(ours) else (theirs, a)
        match = _COUNTED.fullmatch(counted)
        if match:
            return Same.FORGIVEN if number == _count(match[1], match[2], key) else Same.NO
    return Same.YES if same_number(ours, theirs) else Same.NO


def _bare(text: str) -> str:
    text = _APPROXIMATELY.sub("", text.strip(), count=1) if not text[:1].isdigit() else text.strip()
    text = _ARTICLE.sub("", text, count=1) if text[:1] in ("a", "A", "t", "T") else text
    point = _POINT.fullmatch(text)
    return point[1] or point[2] if point else "(-∞, ∞)" if text in _REALS else "⦃⦄" if text == "∅" else text


def _same_words(a: str, b: str) -> bool:
    if not (_WORDS.fullmatch(a) and _WORDS.fullmatch(b)):
        return False
    one_letter = len(a) == 1 or len(b) == 1
    same = a.lower().replace("-", " ") == b.lower().replace("-", " ")
    return same and (not one_letter or a.lower() < "i")


def _is_percent(number: str, percentage: str) -> bool:
    if not (_NUMBER.fullmatch(number) and _NUMBER.fullmatch(percentage)):
        return False
    return Fraction(number) * 100 == Fraction(percentage)


def _count(number: str, nouns: str, key: Key) -> str | None:
    """The key of the number in `5 apples`, `two triangles`, `5 million`, `two thirds`."""
    words = nouns.lower().split()
    if words[0] in _FACTORS and len(words) == 1:
        value = key(number)
        return str(Fraction(value) * _FACTORS[words[0]]) if value and _NUMBER.fullmatch(value) else None
    return None if set(words) & (_NO_NOUNS | _FACTORS.keys()) else key(number)
