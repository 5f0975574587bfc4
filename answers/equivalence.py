r"""What a grader accepts beyond equal keys, for two answers in the plain notation of answers/keys.py.

- One value written in two ways that the keys don't unify: 1/(1+sqrt(2)) and sqrt(2)-1, 2 ln 2 and
  ln 4. Both are computed at three points (names get fixed fractions) and must agree: exactly where
  no root or function is met, else to a relative 1e-12. So a rounded decimal is not the exact value:
  0.33 is not 1/3, 3.14 is not pi.
- Units of one dimension are converted: 5 cm and 0.05 m, 50% and 0.5, 30° and pi/6. A missing unit or noun
  is forgiven: 5 for `5 cm` and for `5 apples`, but `5 m` and `5 oranges` differ.
- Solutions forget their order and how they are joined: `1, 2`, `2, 1`, `{1, 2}`, `x = 1 or x = 2`.
  Tuples don't. `±3` stands for two solutions. `x=5, y=3` keeps its names.
- An inequality in one name is its interval: 1 < x <= 3 and (1, 3].
- Equations that are multiples of each other: y = 2x+1 and 2x-y+1 = 0. A value is forgiven what it is of:
  1/2 for `cos A = 1/2`, 7 for `x+y = 7`.
- In words case, articles and hyphens don't matter. `b` is B. `ABC` is triangle ABC, `P(3, 4)` a point.
- Ratios are reduced, matrices compared by entry, 3:30 stands for 3:30 pm. `AC` is `A, C`.

So it is symmetric but not transitive: 50 ~ 50% ~ 0.5. Left out: number formats of other languages, sums of
series, what holds only for some values of the names.
"""

import re
from collections.abc import Callable

from answers.calculator import same_number
from answers.nouns import with_unit
from answers.same import Same
from answers.shapes import same_shape
from answers.solutions import same_solutions
from answers.statements import stated_value
from answers.units import Unit, in_base_units

Key = Callable[[str], str | None]


def agreement(a: str, b: str, key: Key) -> Same:
    """How far two answers mean the same though `key` tells them apart."""

    def compare(x: str, y: str) -> Same:
        return _same_value(x, y, key)

    if (same := same_solutions(a, b, compare)) or (same := _same_letters(a, b)):
        return same
    if same := _same_letters(key(a) or a, key(b) or b):
        return same
    ours, theirs = (stated_value(text) if "=" in text else None for text in (a, b))
    if ours and theirs:
        of_one = _plain_name(ours[0], key) == _plain_name(theirs[0], key)
        return same_solutions(ours[1], theirs[1], compare) if of_one else Same.NO
    equation, other = (ours, b) if ours else (theirs, a)
    return min(Same.FORGIVEN, same_solutions(equation[1], other, compare)) if equation else Same.NO


def _plain_name(text: str, key: Key) -> str:
    return (key(text) or "").replace("\\", "")  # cos A is \\cos A


# --- one of them ----------------------------------------------------------------------------------

_ARTICLE = re.compile(r"(?:the|an?) (?=[A-Za-z]{2})", re.IGNORECASE)
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*")
_FIGURE = re.compile(r"(?:(angle)|triangle|quadrilateral|segment|side|point) ([A-Z]{1,4})")
_POINT = re.compile(r"[A-Z](\([^()]*,[^()]*\))|△ ?([A-Z]{3})")
_NUMBER = re.compile(r"-?[0-9]+(?:/[0-9]+)?")
_REALS = (r"\mathbb{R}", r"\mathbbR", r"\mathbb R")
_SYMBOL = r"[0-9]*(?:[A-Z]{1,2}|[a-z])(?![A-Za-z])"
_LETTER_AND_TEXT = re.compile(
    rf"([A-J]) - (?!{_SYMBOL}(?:[-+*/^0-9() ]+{_SYMBOL})*[-+*/^0-9() ]*\Z)\S.*"
)  # B - 12
_SUBSTANCE = re.compile(r"[0-9]*(?:\(?[A-Z][a-z]?[0-9_{} ^+)→-]*)+")
_NO_SUBSCRIPTS = str.maketrans("", "", "_{} ")
_LETTERS = re.compile(r"[A-H](?:(?:, )?[A-H])+")


def _same_value(a: str, b: str, key: Key) -> Same:
    if a[-1:] == b[-1:] == ")" and (point := _POINT.fullmatch(a)) and (other := _POINT.fullmatch(b)):
        return _same_value(point[1], other[1], key) if a[0] == b[0] else Same.NO
    a, b = _bare(a), _bare(b)
    ours, theirs = key(a), key(b)
    if ours is None or theirs is None:
        return Same.NO
    if ours == theirs or _same_words(a, b) or _same_substance(a, b):
        return Same.YES
    if same := same_shape(a, b, lambda x, y: _same_value(x, y, key)):
        return same
    if _NUMBER.fullmatch(ours) and _NUMBER.fullmatch(theirs):
        return Same.NO
    (x, of_a), (y, of_b) = with_unit(a), with_unit(b)
    if of_a or of_b:
        return _with_units(x, of_a, y, of_b, key)
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
    if text[-1:].isupper() and (figure := _FIGURE.fullmatch(text)):
        return "∠" * bool(figure[1]) + figure[2]
    point = _POINT.fullmatch(text)
    return point[1] or point[2] if point else "(-∞, ∞)" if text in _REALS else "⦃⦄" if text == "∅" else text


def _same_words(a: str, b: str) -> bool:
    if not (_WORDS.fullmatch(a) and _WORDS.fullmatch(b)):
        return False
    one_letter = len(a) == 1 or len(b) == 1
    same = a.lower().replace("-", " ") == b.lower().replace("-", " ")
    if len(a) == len(b) == 2 and {a, b} == {a.upper(), a.title()}:
        return False  # CO is no Co
    return same and (not one_letter or a.lower() < "i")


def _same_substance(a: str, b: str) -> bool:
    """CO_2 and CO2."""
    if "_" not in a + b or not (_SUBSTANCE.fullmatch(a) and _SUBSTANCE.fullmatch(b)):
        return False
    return a.translate(_NO_SUBSCRIPTS) == b.translate(_NO_SUBSCRIPTS)


def _same_letters(a: str, b: str) -> Same:
    """Of choices: `B - 12` is B, `A, C` is AC."""
    if lettered := _LETTER_AND_TEXT.fullmatch(a) or _LETTER_AND_TEXT.fullmatch(b):
        return Same.FORGIVEN if lettered[1] in (a, b) else Same.NO
    if not (_LETTERS.fullmatch(a) and _LETTERS.fullmatch(b)):
        return Same.NO
    ours, theirs = a.replace(", ", ""), b.replace(", ", "")
    in_order = list(ours) == sorted(set(ours))
    return Same.YES if in_order and ours == theirs else Same.NO
