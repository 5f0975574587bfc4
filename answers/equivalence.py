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

MAX_ITEMS = 12  # of solutions whose order doesn't matter

Key = Callable[[str], str | None]


def same_meaning(a: str, b: str, key: Key) -> bool:
    """Whether two answers mean the same though `key` tells them apart."""
    if "=" in a and "=" in b and same_equation(a, b):
        return True
    ours, theirs = _solutions(a), _solutions(b)
    if len(ours) != len(theirs) or len(ours) > MAX_ITEMS or _is_union(a, ours) != _is_union(b, theirs):
        return False
    # both ways, so that it is symmetric
    return _each_in(ours, theirs, key) or (len(ours) > 1 and _each_in(theirs, ours, key))


def _each_in(ours: list[tuple[str, str]], theirs: list[tuple[str, str]], key: Key) -> bool:
    left = list(theirs)
    for name, value in ours:
        match = next((item for item in left if name == item[0] and _same_value(value, item[1], key)), None)
        if not match:
            return False
        left.remove(match)
    return True


# --- several solutions ----------------------------------------------------------------------------

_CUT = re.compile(r"([(\[{⦃⟨])|([)\]}⦄⟩])|[,;] ?(?:(?:and|or) )?|∪| (?:and|or) ")
_ASSIGNED = re.compile(r"([A-Za-zα-ω](?:_[A-Za-z0-9])?) ?= ?([^=<>≤≥≠]+)")
_COMPARED = re.compile(r"([^<>≤≥]+)([<>≤≥])([^<>≤≥]+)(?:([<>≤≥])([^<>≤≥]+))?")
_ONE_NAME = re.compile(r" ?[A-Za-zα-ω] ?")
_MIRROR = str.maketrans("<>≤≥", "><≥≤")


def _solutions(text: str) -> list[tuple[str, str]]:
    """(name or "", value) of each solution, in the order they stand."""
    text = text.strip()
    if text[:1] + text[-1:] in ("⦃⦄", "{}") and len(text) > 2 and len(_cut(text[1:-1])) > 1:
        text = text[1:-1]
    pieces, items = _cut(text), []
    for piece in pieces:
        named = _ASSIGNED.fullmatch(piece)
        name, value = (named[1], named[2]) if named else ("", _interval(piece))
        parts = [value.replace("±", "+"), value.replace("±", "-")] if value.count("±") == 1 else [value]
        items += [(name, part) for part in parts]
    names = {name[:1] for name, _ in items if name}
    if len(names) <= 1:
        items = [("", value) for _, value in items]  # x = 1 or x = 2; x_1 = 1, x_2 = 2
    return items


def _cut(text: str) -> list[str]:
    pieces, start, depth = [], 0, 0
    for match in _CUT.finditer(text):
        depth += (match.lastindex == 1) - (match.lastindex == 2)
        if depth == 0 and not match.lastindex:
            pieces.append(text[start : match.start()].strip())
            start = match.end()
    return [*pieces, text[start:].strip()]


def _is_union(text: str, items: list) -> bool:
    """Of intervals, which a list of points is not."""
    return "∪" in text or (len(items) > 1 and bool(set("<>≤≥") & set(text)))


def _interval(text: str) -> str:
    """The interval of an inequality in one name; anything else as it is."""
    name, inside, rest = text.partition("∈")
    if inside and _ONE_NAME.fullmatch(name):
        return rest.strip()
    match = _COMPARED.fullmatch(text)
    if not match:
        return text
    left, sign, middle, second, right = match.groups()
    if second:
        if not _ONE_NAME.fullmatch(middle) or (sign in "<≤") != (second in "<≤"):
            return text
        if sign in ">≥":
            left, sign, second, right = right, second.translate(_MIRROR), sign.translate(_MIRROR), left
    elif _ONE_NAME.fullmatch(left):
        left, sign, second, right = ("-∞", "<", sign, middle) if sign in "<≤" else (middle, sign, "<", "∞")
    elif _ONE_NAME.fullmatch(middle):
        left, sign, second, right = (left, sign, "<", "∞") if sign in "<≤" else ("-∞", "<", sign, left)
    else:
        return text
    opened, closed = "[" if sign in "≤≥" else "(", "]" if second in "≤≥" else ")"
    return f"{opened}{left.strip()}, {right.strip()}{closed}"


# --- one of them ----------------------------------------------------------------------------------

_APPROXIMATELY = re.compile(r"(?:approximately|about|roughly|approx\.?|\\approx|≈) ?(?=[-0-9.\\])")
_ARTICLE = re.compile(r"(?:the|an?) (?=[A-Za-z]{2})", re.IGNORECASE)
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*")
_POINT = re.compile(r"[A-Z](\([^()]*,[^()]*\))|△ ?([A-Z]{3})")
_TIME = re.compile(r"0?([0-9]{1,2}:[0-5][0-9])(?: ?([ap])\.?m\.?)?", re.IGNORECASE)
_RATIO = re.compile(r"[0-9]+(?: ?: ?[0-9]+)+")
_MATRIX = re.compile(r"\\begin\{[pb]?matrix\}(.*)\\end\{[pb]?matrix\}")
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


def _same_value(a: str, b: str, key: Key) -> bool:
    a, b = _bare(a), _bare(b)
    ours, theirs = key(a), key(b)
    if ours is None or theirs is None:
        return False
    if ours == theirs or _same_notation(a, b, key):
        return True
    if a[-1] == "%" or b[-1] == "%":
        return (a[-1] != "%" and _is_percent(ours, theirs)) or (b[-1] != "%" and _is_percent(theirs, ours))
    if (a[-1] == "°") != (b[-1] == "°") and "π" in ours + theirs:
        return same_number(f"({ours})°", theirs) if a[-1] == "°" else same_number(ours, f"({theirs})°")
    if _NUMBER.fullmatch(ours) and _NUMBER.fullmatch(theirs):
        return False
    if _NUMBER.fullmatch(ours) or _NUMBER.fullmatch(theirs):
        number, counted = (ours, b) if _NUMBER.fullmatch(ours) else (theirs, a)
        match = _COUNTED.fullmatch(counted)
        if match:
            return number == _count(match[1], match[2], key)
    return same_number(ours, theirs)


def _bare(text: str) -> str:
    text = _APPROXIMATELY.sub("", text.strip(), count=1) if not text[:1].isdigit() else text.strip()
    text = _ARTICLE.sub("", text, count=1) if text[:1] in ("a", "A", "t", "T") else text
    point = _POINT.fullmatch(text)
    return point[1] or point[2] if point else "(-∞, ∞)" if text in _REALS else "⦃⦄" if text == "∅" else text


def _same_notation(a: str, b: str, key: Key) -> bool:
    """Words, times, ratios, tuples and matrices, each compared in its own way."""
    if _WORDS.fullmatch(a) and _WORDS.fullmatch(b):
        one_letter = len(a) == 1 or len(b) == 1
        same = a.lower().replace("-", " ") == b.lower().replace("-", " ")
        return same and (not one_letter or a.lower() < "i")
    if (ours := _TIME.fullmatch(a)) and (theirs := _TIME.fullmatch(b)):
        (time, half), (other, other_half) = ours.groups(""), theirs.groups("")
        return time == other and (half.lower() == other_half.lower() or not half or not other_half)
    if _RATIO.fullmatch(a) and _RATIO.fullmatch(b):
        p, q = ([int(n) for n in text.split(":")] for text in (a, b))
        return len(p) == len(q) and any(p) and all(x * q[0] == y * p[0] for x, y in zip(p, q, strict=True))
    if a[0] in "([" and a[0] == b[0] and a[-1] == b[-1] and a[-1] in ")]":
        return _same_rows([_cut(a[1:-1])], [_cut(b[1:-1])], key)
    matrices = _MATRIX.fullmatch(a), _MATRIX.fullmatch(b)
    rows = [[row.split("&") for row in match[1].split(r"\\")] for match in matrices if match]
    return len(rows) == 2 and _same_rows(rows[0], rows[1], key)


def _same_rows(a: list[list[str]], b: list[list[str]], key: Key) -> bool:
    cells = sum(map(len, a))
    if [*map(len, a)] != [*map(len, b)] or not 1 < cells <= MAX_ITEMS**2:
        return False
    return all(_same_value(x, y, key) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))


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
