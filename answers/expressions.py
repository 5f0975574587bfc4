r"""One parser of formulas in the plain notation of answers/keys.py; a subclass says what they come to.

    sum      [+-] product ([+-] product)*, where 3+-2 is 3-2, but 3--2 may be a range
    product  power ([*/] [+-] power)*, some of them without a sign: 2x, 3(x+1)
    power    value [!°]* [^ exponent], where exponent is [+-] value
    value    number, name, (sum), {sum}, |sum|, \frac part part, \binom part part, \sqrt[sum] part

answers/sums.py makes exact sums of them, answers/equivalence.py numbers. Left out: functions, which
only numbers have. Nothing is evaluated as code.
"""

import re
from collections.abc import Callable

RANGE_OR_DATE = re.compile(r"[0-9]+ ?- ?[0-9]+|[0-9]+(?: ?[-/] ?[0-9]+){2,}")  # no differences or quotients
NUMBER_START = frozenset("0123456789.")
_ENDS = frozenset(("", *"+-*/^!°)}],"))  # no value starts with these
_SIGNS = frozenset("+-")
_CLOSING = {"(": ")", "{": "}", "|": "|"}
_GROUPS = frozenset((*_CLOSING, r"\frac", r"\binom", r"\dbinom", r"\sqrt", "sqrt"))


class Unreadable(ValueError):
    """The text is no formula, or is beyond a bound."""


class Parser:
    """Recursive descent. A subclass has what is declared here, the last three only where it reads them."""

    __slots__ = ("tokens", "at", "depth", "bars")
    TOKEN: re.Pattern[str]
    MAX_DEPTH: int  # of brackets within brackets
    number: Callable  # (token)
    name: Callable  # (token)
    signed: Callable  # (a, sign)
    plus: Callable  # (a, b, sign)
    negative: Callable  # (a)
    times: Callable  # (a, b)
    divide: Callable  # (a, b)
    fraction: Callable  # (a, b)
    mixed_number: Callable  # (whole, fraction)
    raised: Callable  # (a, exponent)
    root: Callable  # (a, degree)
    size: Callable  # (a), of |a|
    postfix: Callable  # (a, sign), of ! and °
    binomial: Callable  # (n, k)

    def __init__(self, text: str):
        self.tokens, self.at, self.depth, self.bars = [*self.TOKEN.findall(text), ""], 0, 0, 0

    def take(self, *wanted: str) -> str:
        token = self.tokens[self.at]
        self.at += token in wanted
        return token if token in wanted else ""

    def read(self):
        total = self.sum()
        if self.tokens[self.at]:
            raise Unreadable
        return total

    def sum(self):
        sign = self.tokens[self.at]
        if sign == "-" or sign == "+":
            self.at += 1
            if sign == "-":  # +-5 may stand for ±5
                self.take("+")
        total = self.signed(self.product(), sign)
        while True:
            sign = self.tokens[self.at]
            if sign != "-" and sign != "+":
                return total
            self.at += 1
            if self.tokens[self.at] in _SIGNS:
                sign = self.second_sign(sign)
            total = self.plus(total, self.product(), sign)

    def second_sign(self, sign: str) -> str:
        second = self.take("+", "-")
        if sign == second == "-" and self.is_range():
            raise Unreadable
        return "+" if sign == second else "-"

    def is_range(self) -> bool:
        """3--2 is from 3 to -2, but x--2 and 3--2--1 are differences."""
        return len(self.tokens) < 7 and all(
            token[:1] in NUMBER_START or token in "-" for token in self.tokens
        )

    def product(self):
        tokens, start, divided = self.tokens, self.at, False
        total = self.power()
        if tokens[self.at] == r"\frac" and self.at == start + 1 and tokens[start].isdigit():
            total = self.mixed_number(total, self.power())
        while True:
            sign = tokens[self.at]
            negative = False
            if sign == "*" or sign == "/":
                self.at += 1
                if tokens[self.at] == "-":
                    self.at, negative = self.at + 1, True
            elif sign in _ENDS or (sign == "|" and self.bars):
                return total
            elif divided or not self.multiplies_silently(sign):
                raise Unreadable  # 1/2x, 2 3
            factor = self.negative(self.power()) if negative else self.power()
            divided = sign == "/"
            total = self.divide(total, factor) if divided else self.times(total, factor)

    def value_follows(self) -> bool:
        token = self.tokens[self.at]
        return token not in _ENDS and (token != "|" or not self.bars)

    def multiplies_silently(self, token: str) -> bool:
        """Whether what `token` starts is a factor without a sign."""
        return token[0] not in NUMBER_START

    def power(self):
        base = self.value()
        sign = self.tokens[self.at]
        while sign == "!" or sign == "°":
            base, self.at = self.postfix(base, sign), self.at + 1
            sign = self.tokens[self.at]
        if sign != "^":
            return base
        letters = self.tokens[self.at - 1]
        self.at += 1
        if 1 < len(letters) <= 3 and letters.islower() and letters.isalpha():  # xy^2 is x times y^2
            return self.times(self.name(letters[:-1]), self.raised(self.name(letters[-1]), self.exponent()))
        return self.raised(base, self.exponent())

    def exponent(self):
        sign = self.take("+", "-")
        value = self.value()
        return self.negative(value) if sign == "-" else value

    def value(self):
        token = self.tokens[self.at]
        self.at += 1
        if token[:1] in NUMBER_START:
            return self.number(token)
        if token in _GROUPS:
            return self.group(token)
        if token in _ENDS:
            raise Unreadable
        return self.name(token)

    def group(self, token: str):
        self.depth += 1
        if self.depth > self.MAX_DEPTH:
            raise Unreadable
        if token in _CLOSING:
            self.bars += token == "|"
            result = self.sum()
            if not self.take(_CLOSING[token]):
                raise Unreadable
            if token == "|":
                self.bars, result = self.bars - 1, self.size(result)
        elif token == r"\sqrt" or token == "sqrt":
            degree = 2
            if self.take("["):
                degree = self.sum()
                if not self.take("]"):
                    raise Unreadable
            result = self.root(self.radicand(), degree)
        else:
            above, below = self.part(), self.part()
            result = self.fraction(above, below) if token == r"\frac" else self.binomial(above, below)
        self.depth -= 1
        return result

    def part(self):
        r"""What \frac takes: a group or one sign, so that \frac12 is a half."""
        token = self.tokens[self.at]
        if len(token) > 1 and self.is_cut(token):
            self.tokens[self.at : self.at + 1] = [token[0], token[1:]]
        return self.value()

    radicand = value  # \sqrt12 is the root of 12
    is_cut: Callable[[str], bool] = staticmethod(str.isdigit)
