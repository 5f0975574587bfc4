"""Formulas computed at three points, exactly where no root or function is met: what tells whether two
of them are one value or one equation."""

import cmath
import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from answers.expressions import RANGE_OR_DATE, Parser, Unreadable

MAX_DEPTH = 11  # brackets within brackets
MAX_BITS = 2048  # of an exact number
TOLERANCE = 1e-12

Number = int | Fraction | complex
POINTS = 3


def same_number(a: str, b: str) -> bool:
    ours, theirs = at_points(a), at_points(b)
    if not ours or not theirs:
        return False
    return all(_close(x, y) for x, y in zip(ours, theirs, strict=True))


def same_equation(a: str, b: str) -> bool:
    """Whether left minus right of one is a multiple of the other's."""
    if not a.count("=") == b.count("=") == 1:
        return False
    differences: list[tuple] = [at_points("({})-({})".format(*text.split("="))) or () for text in (a, b)]
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
def at_points(text: str) -> tuple[Number, ...] | None:
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
