"""Formulas computed at three points, exactly where no root or function is met: what tells whether two
of them are one value or one equation.

Where an exact number outgrows MAX_BITS, its residue modulo one prime stands for it: 2*2^2005 and 2^2006. Two
numbers of a million bits that differ would share it once in 10^34, were the prime drawn at random.
"""

import cmath
import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache, reduce
from hashlib import sha256

from answers.expressions import RANGE_OR_DATE, Parser, Unreadable
from answers.sums import read_sum

MAX_DEPTH = 11  # brackets within brackets
MAX_BITS = 2048  # of an exact number
MAX_ROUND_BITS = 50  # of numerator and denominator: no closer than TOLERANCE to a number by rounding
TOLERANCE = 1e-12
PRIME = 100873718579356409015870070101383089347  # (PRIME - 1)/2 is prime too: powers don't repeat early
MAX_POWER = 2**64  # an exponent's residue is the exponent itself up to here
MAX_FACTORIALS = 6_000  # together

Number = int | Fraction | complex
POINTS = 3


def same_number(a: str, b: str) -> bool:
    if _is_normal(a) and _is_normal(b):
        return a == b
    for point in range(POINTS):  # most that differ do so at the first
        x, y = at_point(a, point), at_point(b, point)
        if x is None or y is None:
            return residue(a) is not None and residue(a) == residue(b)
        if not _close(x, y):
            return False
    return not any(_is_decimal(x) and isinstance(at_point(y, 0), complex) for x, y in ((a, b), (b, a)))


_ROOT_TERM = r"(?:[0-9]+|sqrt\([0-9]+\))(?:\*sqrt\([0-9]+\))?(?:/[0-9]+)?"
_ROOT_SUM = re.compile(rf"-?{_ROOT_TERM}(?:[-+]{_ROOT_TERM})*")


@lru_cache(maxsize=4096)
def _is_normal(text: str) -> bool:
    """A sum of square roots as its key has it: roots of numbers without square factors are independent."""
    return bool(_ROOT_SUM.fullmatch(text)) and read_sum(text.replace("sqrt", r"\sqrt")) == text


def _is_decimal(text: str) -> bool:
    """A number of so many digits that it may be a rounded one."""
    x, *others = at_points(text) or (0j,)
    if isinstance(x, complex) or any(x != y for y in others):
        return False
    return x.denominator > 1 and x.numerator.bit_length() + x.denominator.bit_length() > MAX_ROUND_BITS


_RELATION = re.compile(r"([^=<>≤≥]+)([=<>≤≥])([^=<>≤≥]+)")
_TURNED = str.maketrans("<>≤≥", "><≥≤")


def same_equation(a: str, b: str) -> bool:
    """Whether left minus right of one is a multiple of the other's; of inequalities one that keeps
    the sign."""
    relations = _RELATION.fullmatch(a), _RELATION.fullmatch(b)
    if not (relations[0] and relations[1]):
        return False
    signs = [match[2] for match in relations if match]
    differences: list[tuple] = [at_points(f"({match[1]})-({match[3]})") or () for match in relations if match]
    if not all(differences) or any(abs(y) < TOLERANCE for row in differences for y in row):
        return False
    ratios = [x / y if isinstance(x, complex) else Fraction(x) / y for x, y in zip(*differences, strict=True)]
    one_value = all(_close(row[0], y) for row in differences for y in row)  # 3 = 4 says nothing of a name
    if one_value or not all(_close(ratios[0], ratio) for ratio in ratios):
        return False
    return signs[0] == (signs[1] if complex(ratios[0]).real > 0 else signs[1].translate(_TURNED))


def _close(x: Number, y: Number) -> bool:
    if not (isinstance(x, complex) or isinstance(y, complex)):
        return x == y
    try:
        x, y = complex(x), complex(y)
    except OverflowError:  # an exact one beyond every float, and one that was rounded
        return False
    return abs(x - y) <= TOLERANCE * max(abs(x), abs(y))


def at_points(text: str) -> tuple[Number, ...] | None:
    """The value with three choices of the names in it; None where it can't be computed."""
    values = [at_point(text, point) for point in range(POINTS)]
    found = tuple(x for x in values if x is not None)
    return found if len(found) == POINTS else None


@lru_cache(maxsize=4096)
def at_point(text: str, point: int) -> Number | None:
    if point and _NAMELESS.fullmatch(text):
        return at_point(text, 0)
    try:
        return _Calculator(text, point).read() if _is_formula(text) else None
    except (ArithmeticError, ValueError):
        return None


_NAMELESS = re.compile(r"(?:[-+*/^(){}0-9. π]|\\?sqrt|\\frac)*")


@lru_cache(maxsize=1024)
def residue(text: str) -> int | None:
    """The value modulo PRIME, with residues for the names; None where it has roots or functions."""
    try:
        return _Residues(text).read() if _is_formula(text) else None
    except (ArithmeticError, ValueError):
        return None


_LETTERS = re.compile(r"[a-z]|[b-df-hj-np-tv-z]{2,3}")  # m times g; with a vowel it may be a word
_INVERSE = re.compile(r"[fgh]\^ ?\{? ?-1 ?\}? ?\(")  # of a function, not 1/f
_LITTLE_WORDS = re.compile(r" (?:mod|to|if|per|or|and|not|nor|but|for|is|of|on|at|as|by) ")  # no factors


def _is_formula(text: str) -> bool:
    is_word = text.isalpha() and text.isascii() and not _LETTERS.fullmatch(text)
    unreadable = RANGE_OR_DATE.fullmatch(text) or _LITTLE_WORDS.search(text) or _INVERSE.search(text)
    return not is_word and not unreadable


_FUNCTIONS = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan,
    "exp": cmath.exp, "ln": cmath.log, "log": cmath.log10, "lg": cmath.log10,
    "cot": lambda x: 1 / cmath.tan(x), "sec": lambda x: 1 / cmath.cos(x), "csc": lambda x: 1 / cmath.sin(x),
    "arcsin": cmath.asin, "arccos": cmath.acos, "arctan": cmath.atan,
    "sinh": cmath.sinh, "cosh": cmath.cosh, "tanh": cmath.tanh,
}  # fmt: skip
_CONSTANTS = {"e": math.e + 0j, "i": 1j, "π": math.pi + 0j}
# are never a factor before a bracket; and these aren't, where x is in it
_CALLED = frozenset("f det var Var cov Cov arg sgn max min gcd lcm mod erf".split())
_CALLED_OF_X = frozenset("g h F G".split())
_TOKEN = re.compile(
    r"[0-9]+\.?[0-9]*(?:[eE][-+]?[0-9]{1,2}(?![0-9]))?|\.[0-9]+|\\[A-Za-z]+"
    rf"|(?:{'|'.join(_FUNCTIONS)})(?![A-Za-z])|(?<![A-Za-z\\])[A-Za-z]{{2,}}"
    r"|[A-Za-zα-ωΑ-Ω∞](?:_[A-Za-z0-9]+)?|[^ ]"
)


class _Formula(Parser):
    """Products of letters apart; a subclass says what a single letter is."""

    TOKEN, MAX_DEPTH = _TOKEN, MAX_DEPTH
    letter: Callable  # (name, with its subscript)
    function: Callable  # (its name), of what follows
    shown: Callable  # (a), the same text for the same value

    def value(self):
        token = self.tokens[self.at]
        if not token[:1].isalpha() or self.tokens[self.at + 1] != "(" or not self._is_called(token):
            return super().value()
        self.at += 1
        argument = super().value()
        return self.size(argument) if token == "abs" else self.letter(f"{token}({self.shown(argument)})")

    def _is_called(self, name: str) -> bool:
        """f(2x), P(A), f(x+1); a(b+c) is a product."""
        if name in _CONSTANTS or name == "sqrt":
            return False
        inside, depth, start = [], 0, self.at + 2
        for token in self.tokens[start:]:
            depth += (token == "(") - (token == ")")
            if depth < 0:
                break
            inside.append(token)
        is_sum = any(sign in ("+", "-") for sign in inside[1:])
        return not is_sum or name in _CALLED or (name in _CALLED_OF_X and "x" in inside)

    def power(self):
        token = self.tokens[self.at]
        name = token.lstrip("\\")
        if name in _FUNCTIONS:
            self.at += 1
            return self.function(name)
        return super().power()

    def name(self, token: str):
        if token.isalpha() and len(token) <= 3:  # AB^2 is the square of AB
            return reduce(self.times, map(self.letter, token))
        if not token[0].isalpha() or token[1:2] != "_":
            raise Unreadable
        return self.letter(token)

    def mixed_number(self, whole, fraction):
        """2\\frac{1}{3} is 7/3, 2\\frac{x}{3} a product."""
        start = max(k for k in range(self.at) if self.tokens[k] == r"\frac")
        parts = [token for token in self.tokens[start + 1 : self.at] if token not in "{}"]
        if not all(map(str.isdigit, parts)):
            return self.times(whole, fraction)
        if len(parts) != 2 or not 0 < int(parts[0]) < int(parts[1]):
            raise Unreadable
        return self.plus(whole, fraction, "+")

    def binomial(self, n, k):
        if isinstance(k, complex) or k.denominator != 1 or not 0 <= k <= 100:
            raise Unreadable
        falling = reduce(self.times, (self.plus(n, i, "-") for i in range(k.numerator)), 1)
        return self.divide(falling, math.factorial(k.numerator))


class _Calculator(_Formula):
    """Numbers, with one of three choices of the names."""

    def __init__(self, text: str, point: int):
        super().__init__(text)
        self.point = point

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
        number = _number(token)
        return number.numerator if number.denominator == 1 else number

    def letter(self, name: str) -> Number:
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        return Fraction(_drawn(name, self.point) % 997 + 2, 499 if self.point < 2 else -499)

    negative = operator.neg
    signed = staticmethod(lambda x, sign: _checked(0 - x if sign == "-" else 0 + x))
    plus = staticmethod(lambda x, y, sign: _checked(x - y if sign == "-" else x + y))
    times = staticmethod(lambda x, y: _checked(x * y))
    size = staticmethod(lambda x: complex(abs(x)) if isinstance(x, complex) else abs(x))
    shown = staticmethod(lambda x: f"{x:.9g}" if isinstance(x, complex) else str(x))

    def fraction(self, x: Number, y: Number) -> Number:
        return x / y if isinstance(x, complex) or isinstance(y, complex) else Fraction(x) / y

    def divide(self, x: Number, y: Number) -> Number:
        return _checked(self.fraction(x, y))

    def raised(self, x: Number, n: Number) -> Number:
        if not isinstance(n, complex) and n.denominator == 1 and not isinstance(x, complex):
            if abs(n.numerator) * max(x.numerator.bit_length(), x.denominator.bit_length()) > MAX_BITS:
                raise Unreadable
            return Fraction(x) ** n.numerator
        if isinstance(n, Fraction) and n.denominator % 2 and _is_negative(x):
            return _checked((-1) ** n.numerator * complex(-x) ** complex(n))  # the real one
        return _checked(complex(x) ** complex(n))

    def root(self, x: Number, degree: Number) -> Number:
        if not isinstance(degree, int) or not 2 <= degree <= 30:
            raise Unreadable
        return self.raised(x, Fraction(1, degree))

    def postfix(self, x: Number, sign: str) -> Number:
        if sign == "°":
            return x * (math.pi / 180 + 0j)
        if isinstance(x, complex) or x.denominator != 1 or not 0 <= x <= 200:
            raise Unreadable
        return math.factorial(x.numerator)


class _Residues(_Formula):
    """Integers modulo PRIME. Of π and e no algebra is known but their own, so they are names here."""

    def __init__(self, text: str):
        super().__init__(text)
        self.factorials = 0

    def number(self, token: str) -> int:
        value = _number(token)
        return self.divide(value.numerator, value.denominator)

    def letter(self, name: str) -> int:
        if name == "i":
            raise Unreadable
        return _drawn(name, 0) % PRIME

    signed = staticmethod(lambda x, sign: -x % PRIME if sign == "-" else x)
    plus = staticmethod(lambda x, y, sign: (x - y if sign == "-" else x + y) % PRIME)
    times = staticmethod(lambda x, y: x * y % PRIME)
    divide = fraction = staticmethod(lambda x, y: x * pow(y, -1, PRIME) % PRIME)  # 1/0 is a ValueError
    negative = staticmethod(lambda x: -x % PRIME)
    shown = str

    def raised(self, x: int, n: int) -> int:
        n = n if n < MAX_POWER else n - PRIME
        if abs(n) >= MAX_POWER or (n <= 0 and x == 0):
            raise Unreadable
        return pow(x, n, PRIME)

    def postfix(self, x: int, sign: str) -> int:
        self.factorials += x
        if sign != "!" or self.factorials > MAX_FACTORIALS:
            raise Unreadable
        return math.factorial(x) % PRIME

    def _unreadable(self, *_arguments) -> int:
        raise Unreadable

    function = root = size = _unreadable


def _is_negative(x: Number) -> bool:
    return complex(x).imag == 0 and complex(x).real < 0


def _number(token: str) -> Fraction:
    if len(token) > 40:
        raise Unreadable
    return Fraction(token.rstrip("."))


def _drawn(name: str, point: int) -> int:
    return int.from_bytes(sha256(f"{point}{name}".encode()).digest())


def _checked(x: Number) -> Number:
    if isinstance(x, complex):
        if not cmath.isfinite(x):
            raise Unreadable
    elif x.numerator.bit_length() > MAX_BITS or x.denominator.bit_length() > MAX_BITS:
        raise Unreadable
    return x
