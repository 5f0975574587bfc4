r"""Exact sums of terms coefficient * sqrt(integer) * symbols, read from a plain notation and shown
as one key. Roots of other degrees are symbols.

    read_sum(r"\frac{6}{\sqrt{3}}")  ->  "2*sqrt(3)"
    read_sum(r"\sqrt[3]{-16}")       ->  r"-2*\sqrt[3]{2}"
    read_sum("x(x+1)")               ->  "x^2+x"
    read_sum("1/2x")                 ->  None: it can mean two things

Left out: factoring and cancelling, symbolic powers, functions. Numbers, depth and the count of
terms are bounded, and nothing is evaluated as code. A key that is read again is its own key.
"""

import re
from math import gcd, isqrt

from answers.expressions import NUMBER_START, RANGE_OR_DATE, Parser, Unreadable

MAX_DEPTH = 16  # brackets within brackets
MAX_EXPONENT = 30
MAX_NUMBER = 10**40  # of numerators and denominators
MAX_RADICAND = 10**6  # square factors are found by trial division
MAX_TERMS = 16  # of a product, before like terms meet

_FUNCTIONS = frozenset("sin cos tan cot sec csc ln lg log exp".split())

# ({(radicand, ((symbol, exponent), ...)): numerator}, denominator): each entry is a term. Integers,
# not Fractions: most answers are short, and building Fractions would take most of the time.
Term = tuple[int, tuple[tuple[str, int], ...]]
Sum = tuple[dict[Term, int], int]
ONE: Term = (1, ())  # the key of plain numbers

# a sign that sums don't have, a word, another command, a subscript of nothing or without end, f^{-1}(x)
_UNKNOWN = re.compile(
    r"[^-+*/^(){}.0-9A-Za-zα-ωΑ-Ω∞_\\ ]|(?<![A-Za-z\\])[A-Za-z]{4}|\\(?!(?:frac|sqrt)(?![A-Za-z]))"
    r"|(?<![A-Za-zα-ωΑ-Ω∞])_|_(?![A-Za-z0-9])|[fgh]\^\{?-1\}? ?\("
)
_DEGREE = re.compile(r"(?<=sqrt)\[[^\[\]]*\]")
_TOKEN = re.compile(
    r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,2}(?![0-9]))?"
    r"|(?:[A-Za-z]{1,3}(?![A-Za-z])|[α-ωΑ-Ω∞])(?:_[A-Za-z0-9]+)?"
    r"|\\frac|\\sqrt|[^ ]"
)


def read_sum(text: str) -> str | None:
    """The key of a sum, None where the text is none."""
    if _UNKNOWN.search(_DEGREE.sub("", text) if "[" in text else text):
        return None
    if text[:1].isdigit() and RANGE_OR_DATE.fullmatch(text):
        return None
    try:
        return show(_Reader(text).read())
    except ValueError:
        return None


# --- arithmetic -----------------------------------------------------------------------------------


def _bounded(terms: dict, denominator: int) -> Sum:
    if 0 in terms.values():
        terms = {key: c for key, c in terms.items() if c}
    if denominator != 1:
        common = gcd(denominator, *terms.values())
        if common != 1:
            denominator, terms = denominator // common, {key: c // common for key, c in terms.items()}
        if denominator > MAX_NUMBER:
            raise Unreadable
    for (radicand, _), c in terms.items():
        if not -MAX_NUMBER <= c <= MAX_NUMBER or radicand > MAX_RADICAND:
            raise Unreadable
    return terms, denominator


def plus(a: Sum, b: Sum, sign: str = "+") -> Sum:
    (terms, p), (more, q) = a, _negative(b) if sign == "-" else b
    denominator = p if p == q else p * q // gcd(p, q)
    up, more_up = denominator // p, denominator // q
    total = terms.copy() if up == 1 else {key: c * up for key, c in terms.items()}
    for key, c in more.items():
        total[key] = total.get(key, 0) + c * more_up
    return _bounded(total, denominator)


def _negative(a: Sum) -> Sum:
    return {key: -c for key, c in a[0].items()}, a[1]


def _times(a: Sum, b: Sum) -> Sum:
    (terms, p), (more, q) = a, b
    if len(terms) == len(more) == 1:  # most products
        [((r, symbols), c)], [((s, others), d)] = terms.items(), more.items()
        if r == 1 or s == 1:
            key = (r * s, _merge(symbols, others) if symbols and others else symbols or others)
            return _bounded({key: c * d}, p * q)
    if len(terms) * len(more) > MAX_TERMS:
        raise Unreadable
    product: dict = {}
    for (r, symbols), c in terms.items():
        for (s, others), d in more.items():
            if r == 1 or s == 1:
                radicand, factor = r * s, c * d
            else:  # sqrt(r) sqrt(s) = common sqrt(r s / common^2), again free of squares
                common = gcd(r, s)
                radicand, factor = r * s // common**2, c * d * common
            key = (radicand, _merge(symbols, others) if symbols and others else symbols or others)
            product[key] = product.get(key, 0) + factor
    return _bounded(product, p * q)


def _merge(symbols: tuple, others: tuple) -> tuple:
    exponents = dict(symbols)
    for name, n in others:
        exponents[name] = exponents.get(name, 0) + n
    return tuple(sorted((name, n) for name, n in exponents.items() if n))


def _inverse(a: Sum) -> Sum:
    terms, denominator = a
    if not terms:
        raise Unreadable  # 1/0
    if len(terms) > 1:
        return {(1, ((f"({show(a)})", -1),)): 1}, 1
    [((radicand, symbols), c)] = terms.items()
    key = (radicand, tuple((name, -n) for name, n in symbols) if symbols else symbols)
    return _bounded({key: denominator if c > 0 else -denominator}, abs(c) * radicand)


def _divide(a: Sum, b: Sum) -> Sum:
    return _times(a, _inverse(b))


def _power(base: Sum, exponent: Sum) -> Sum:
    (terms, denominator), n = exponent, exponent[0].get(ONE, 0)
    if denominator > 1:
        return _fractional_power(base, exponent)
    if terms.keys() - {ONE} or denominator != 1 or abs(n) > MAX_EXPONENT or (n <= 0 and not base[0]):
        raise Unreadable
    factor = _inverse(base) if n < 0 else base
    if factor[1] == 1 and len(factor[0]) == 1 and n:
        [((radicand, symbols), c)] = factor[0].items()
        if radicand == 1 and c == 1:  # x^2
            return {(1, tuple((name, k * abs(n)) for name, k in symbols)): 1}, 1
    result: Sum = ({ONE: 1}, 1)
    for bit in f"{abs(n):b}":
        result = _times(result, result)
        result = _times(result, factor) if bit == "1" else result
    return result


def _fractional_power(base: Sum, exponent: Sum) -> Sum:
    """b^(n/d) as the d-th root of b^n: of a positive number or, where n is 1, of a sum with names."""
    (terms, _), (exponents, d) = base, exponent
    positive = terms.keys() == {ONE} and terms[ONE] > 0
    has_name = bool(terms.keys() - {ONE})
    if exponents.keys() != {ONE} or not (positive or (exponents[ONE] == 1 and (has_name or d == 2))):
        raise Unreadable
    return _root(_power(base, ({ONE: exponents[ONE]}, 1)), d)


def _root(a: Sum, d: int) -> Sum:
    if d == 2:
        return _sqrt(a)
    if not 2 < d <= MAX_EXPONENT:
        raise Unreadable
    terms, denominator = a
    if terms.keys() - {ONE}:
        return {(1, ((rf"\sqrt[{d}]{{{show(a)}}}", 1),)): 1}, 1
    n = terms.get(ONE, 0)
    if n < 0:
        if d % 2 == 0:
            raise Unreadable
        return _negative(_root(_negative(a), d))
    above, below = _whole_root(n, d), _whole_root(denominator, d)
    if above is not None and below:
        return _bounded({ONE: above} if n else {}, below)
    return _root_of_integer(n * denominator ** (d - 1), d, denominator)


def _root_of_integer(radicand: int, d: int, denominator: int) -> Sum:
    """Free of d-th powers and of the least degree: the 4th root of 36 is that of 6."""
    if radicand > MAX_RADICAND:
        raise Unreadable
    outside, f = 1, 2
    while f**d <= radicand:
        while radicand % f**d == 0:
            radicand, outside = radicand // f**d, outside * f
        f += 1
    for g in range(d // 2, 1, -1):
        if d % g == 0 and (smaller := _whole_root(radicand, g)):
            return _times(_root(({ONE: smaller}, 1), d // g), _bounded({ONE: outside}, denominator))
    return _bounded({(1, ((rf"\sqrt[{d}]{{{radicand}}}", 1),)): outside}, denominator)


def _whole_root(n: int, d: int) -> int | None:
    near = round(n ** (1 / d))  # exact, as n is at most MAX_NUMBER and d at least 2
    return next((k for k in (near - 1, near, near + 1) if k**d == n), None)


def _sqrt(a: Sum) -> Sum:
    terms, denominator = a
    if terms.keys() - {ONE}:
        return {(1, ((f"sqrt({show(a)})", 1),)): 1}, 1
    radicand = terms.get(ONE, 0) * denominator  # sqrt(p/q) = sqrt(p q)/q
    if radicand >= 0 and isqrt(radicand) ** 2 == radicand:
        return _bounded({ONE: isqrt(radicand)}, denominator)
    if not 0 < radicand <= MAX_RADICAND:
        raise Unreadable
    outside, radicand = square_free(radicand)
    return _bounded({(radicand, ()): outside}, denominator)


def square_free(n: int) -> tuple[int, int]:
    """(k, r), where n = k^2 r and r has no square factor, (0, 1) of 0."""
    if n == 0:
        return 0, 1
    outside, d = 1, 2
    while d * d <= n:
        while n % (d * d) == 0:
            n, outside = n // (d * d), outside * d
        d += 1
    return outside, n


def show(a: Sum) -> str:
    """The key of a sum: 2*sqrt(3)/3, x^2/(2*y)-1. Reading it again gives the same sum."""
    terms, denominator = a
    if len(terms) == 1 and ONE in terms:
        return str(terms[ONE]) + (f"/{denominator}" if denominator > 1 else "")
    text = ""
    for key in sorted(terms, key=_place) if len(terms) > 1 else terms:
        (radicand, symbols), c = key, terms[key]
        common = gcd(c, denominator)
        n, d = abs(c) // common, denominator // common
        above = [f"sqrt({radicand})"] if radicand > 1 else []
        below = [str(d)] if d > 1 else []
        for name, exponent in symbols:
            size = abs(exponent)
            if size > 1:
                in_brackets = name.islower() and 1 < len(name) <= 3 and name.isalpha()  # xy^2 is x times y^2
                name = (f"({name})" if in_brackets else name) + f"^{size}"
            (above if exponent > 0 else below).append(name)
        if n > 1 or not above:
            above.insert(0, str(n))
        text += ("-" if c < 0 else "+" if text else "") + "*".join(above)
        if below:
            text += "/" + (below[0] if len(below) == 1 else "(" + "*".join(below) + ")")
    return text or "0"


def _place(key: tuple) -> tuple:
    return key == ONE, key[1], key[0]


# --- reading --------------------------------------------------------------------------------------


class _Reader(Parser):
    __slots__ = ()
    TOKEN, MAX_DEPTH = _TOKEN, MAX_DEPTH
    plus, negative, times = staticmethod(plus), staticmethod(_negative), staticmethod(_times)
    divide = fraction = staticmethod(_divide)
    raised = staticmethod(_power)
    signed = staticmethod(lambda a, sign: _negative(a) if sign == "-" else a)
    is_cut = staticmethod(lambda token: token[0] in NUMBER_START)

    def number(self, token: str) -> Sum:
        if token.isdigit() and len(token) <= 40:
            n = int(token)
            return {ONE: n} if n else {}, 1
        mantissa, _, exponent = token.lower().partition("e")
        whole, _, decimals = mantissa.partition(".")
        n, shift = int(whole + decimals), int(exponent or 0) - len(decimals)
        if len(mantissa) > 40 or abs(int(exponent or 0)) > MAX_EXPONENT:
            raise Unreadable
        return _bounded({ONE: n * 10 ** max(shift, 0)} if n else {}, 10 ** max(-shift, 0))

    def name(self, token: str) -> Sum:
        if token in _FUNCTIONS:
            raise Unreadable
        return {(1, ((token, 1),)): 1}, 1

    def root(self, a: Sum, degree: Sum | int) -> Sum:
        if degree == 2:
            return _sqrt(a)
        if not isinstance(degree, tuple) or degree[0].keys() != {ONE} or degree[1] > 1:
            raise Unreadable
        return _root(a, degree[0][ONE])

    def multiplies_silently(self, token: str) -> bool:
        """Also that it can mean nothing else."""
        last = self.tokens[self.at - 1]
        if token[0] in NUMBER_START or token == "{":
            return False
        if last[0].isalpha() or last == "∞":  # two words, or the call of a function
            return token != "(" and (token[0] == "\\" or len(last) + len(token) == 2)
        return True

    def mixed_number(self, whole: Sum, fraction: Sum) -> Sum:
        r"""1\frac{1}{2} is 3/2, but 2\frac{x}{3} is a product; 2\frac{3}{2} could be either."""
        if fraction[0].keys() - {ONE}:
            return _times(whole, fraction)
        if not 0 < fraction[0].get(ONE, 0) < fraction[1]:
            raise Unreadable
        return plus(whole, fraction)
