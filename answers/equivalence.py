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

import cmath
import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from answers.expressions import RANGE_OR_DATE, Parser, Unreadable

MAX_ITEMS = 12  # of solutions whose order doesn't matter
MAX_DEPTH = 11  # brackets within brackets
MAX_BITS = 2048  # of an exact number
TOLERANCE = 1e-12

Key = Callable[[str], str | None]


def same_meaning(a: str, b: str, key: Key) -> bool:
    """Whether two answers mean the same though `key` tells them apart."""
    if "=" in a and "=" in b and _same_equation(a, b):
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
        return _same_number(f"({ours})°", theirs) if a[-1] == "°" else _same_number(ours, f"({theirs})°")
    if _NUMBER.fullmatch(ours) and _NUMBER.fullmatch(theirs):
        return False
    if _NUMBER.fullmatch(ours) or _NUMBER.fullmatch(theirs):
        number, counted = (ours, b) if _NUMBER.fullmatch(ours) else (theirs, a)
        match = _COUNTED.fullmatch(counted)
        if match:
            return number == _count(match[1], match[2], key)
    return _same_number(ours, theirs)


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


# --- computed -------------------------------------------------------------------------------------

Number = int | Fraction | complex
POINTS = 3


def _same_number(a: str, b: str) -> bool:
    ours, theirs = _at_points(a), _at_points(b)
    if not ours or not theirs:
        return False
    return all(_close(x, y) for x, y in zip(ours, theirs, strict=True))


def _same_equation(a: str, b: str) -> bool:
    """Whether left minus right of one is a multiple of the other's."""
    if not a.count("=") == b.count("=") == 1:
        return False
    differences: list[tuple] = [_at_points("({})-({})".format(*text.split("="))) or () for text in (a, b)]
    if not all(differences) or any(abs(y) < TOLERANCE for row in differences for y in row):
        return False
    ratios = [x / y if isinstance(x, complex) else Fraction(x) / y for x, y in zip(*differences, strict=True)]
    one_value = all(_close(row[0], y) for row in differences for y in row)  # 3 = 4 says nothing of a name
    return not one_value and all(_close(ratios[0], ratio) for ratio in ratios)


def _close(x: Number, y: Number) -> bool:
    if not (isinstance(x, complex) or isinstance(y, complex)):
        return x == y
    try:
        x, y = complex(x), complex(y)
    except OverflowError:  # an exact one beyond every float, and one that was rounded
        return False
    return abs(x - y) <= TOLERANCE * max(abs(x), abs(y))


@lru_cache(maxsize=1024)
def _at_points(text: str) -> tuple[Number, ...] | None:
    """The value with three choices of the names in it; None where it can't be computed."""
    if text.isalpha() and text.isascii() and text not in ("e", "i"):
        return None  # a word
    if RANGE_OR_DATE.fullmatch(text):
        return None
    try:
        return tuple(_Calculator(text, point).read() for point in range(POINTS))
    except (ArithmeticError, ValueError):
        return None


_FUNCTIONS = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan,
    "exp": cmath.exp, "ln": cmath.log, "log": cmath.log10, "lg": cmath.log10,
    "cot": lambda x: 1 / cmath.tan(x), "sec": lambda x: 1 / cmath.cos(x), "csc": lambda x: 1 / cmath.sin(x),
    "arcsin": cmath.asin, "arccos": cmath.acos, "arctan": cmath.atan,
    "sinh": cmath.sinh, "cosh": cmath.cosh, "tanh": cmath.tanh,
}  # fmt: skip
_CONSTANTS = {"e": math.e + 0j, "i": 1j, "π": math.pi + 0j}
_TOKEN = re.compile(
    r"[0-9]+\.?[0-9]*(?:[eE][-+]?[0-9]{1,2}(?![0-9]))?|\.[0-9]+|\\[A-Za-z]+"
    rf"|(?:{'|'.join(_FUNCTIONS)})(?![A-Za-z])|(?<![A-Za-z\\])[A-Za-z]{{2,}}"
    r"|[A-Za-zα-ωΑ-Ω∞](?:_[A-Za-z0-9]+)?|[^ ]"
)


class _Calculator(Parser):
    """Numbers, with one of three choices of the names."""

    def __init__(self, text: str, point: int):
        super().__init__(text)
        self.point = point

    def power(self) -> Number:
        token = self.tokens[self.at]
        name = token.lstrip("\\")
        if name in _FUNCTIONS:
            self.at += 1
            return self.function(name)
        # xy^2 is x times y^2
        if len(token) in (2, 3) and token.isascii() and token.islower() and token.isalpha():
            self.tokens[self.at] = token[-1]
            return self.name(token[:-1]) * self.power()
        return super().power()

    def function(self, name: str) -> Number:
        exponent: Number = 1
        apply: Callable[[complex], complex] | None = _FUNCTIONS[name]
        if self.take("_"):
            base = self.value()
            apply = (lambda x: cmath.log(x) / cmath.log(base)) if name == "log" else None
        if self.take("^"):
            exponent = self.exponent()
            if exponent == -1:
                apply, exponent = _FUNCTIONS.get("arc" + name), 1
        if not apply:
            raise Unreadable
        if self.tokens[self.at] in ("(", "{"):
            argument = self.value()
        else:
            argument = self.power()
            while self.value_follows() and self.tokens[self.at].lstrip("\\") not in _FUNCTIONS:
                argument = _checked(argument * self.power())
        return self.raised(_checked(complex(apply(complex(argument)))), exponent)

    def number(self, token: str) -> Number:
        if len(token) > 40:
            raise Unreadable
        number = Fraction(token.rstrip("."))
        return number.numerator if number.denominator == 1 else number

    def name(self, token: str) -> Number:
        if len(token) in (2, 3) and token.isalpha():  # AB^2 is the square of AB
            return math.prod(map(self.name, token))
        if not token[0].isalpha() or token[1:2] not in ("", "_"):
            raise Unreadable
        seed = sum(ord(c) * 31**k for k, c in enumerate(token[:8]))
        value = Fraction(seed * (17 + 11 * self.point) % 997 + 2, 499) * (-1 if self.point == 2 else 1)
        return _CONSTANTS.get(token, value)

    TOKEN, MAX_DEPTH, negative = _TOKEN, MAX_DEPTH, operator.neg
    signed = staticmethod(lambda x, sign: _checked(0 - x if sign == "-" else 0 + x))
    plus = staticmethod(lambda x, y, sign: _checked(x - y if sign == "-" else x + y))
    times = mixed_number = staticmethod(lambda x, y: _checked(x * y))
    size = staticmethod(lambda x: complex(abs(x)) if isinstance(x, complex) else abs(x))

    def fraction(self, x: Number, y: Number) -> Number:
        return x / y if isinstance(x, complex) or isinstance(y, complex) else Fraction(x) / y

    def divide(self, x: Number, y: Number) -> Number:
        return _checked(self.fraction(x, y))

    def raised(self, x: Number, n: Number) -> Number:
        if not isinstance(n, complex) and n.denominator == 1 and not isinstance(x, complex):
            if abs(n.numerator) * max(x.numerator.bit_length(), x.denominator.bit_length()) > MAX_BITS:
                raise Unreadable
            return Fraction(x) ** n.numerator
        return _checked(complex(x) ** complex(n))

    def root(self, x: Number, degree: Number) -> Number:
        if not isinstance(degree, int) or not 2 <= degree <= 30:
            raise Unreadable
        if degree % 2 and complex(x).imag == 0 and complex(x).real < 0:
            return -self.raised(-x, Fraction(1, degree))
        return self.raised(x, Fraction(1, degree))

    def postfix(self, x: Number, sign: str) -> Number:
        if sign == "°":
            return x * (math.pi / 180 + 0j)
        if isinstance(x, complex) or x.denominator != 1 or not 0 <= x <= 200:
            raise Unreadable
        return math.factorial(x.numerator)

    def binomial(self, n: Number, k: Number) -> Number:
        if isinstance(k, complex) or k.denominator != 1 or not 0 <= k <= 100:
            raise Unreadable
        return self.divide(math.prod(n - i for i in range(k.numerator)), math.factorial(k.numerator))


def _checked(x: Number) -> Number:
    if isinstance(x, complex):
        if not cmath.isfinite(x):
            raise Unreadable
    elif x.numerator.bit_length() > MAX_BITS or x.denominator.bit_length() > MAX_BITS:
        raise Unreadable
    return x
