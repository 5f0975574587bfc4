r"""Answers of known meaning, each written at random in one of the many ways that models write it.

    value = draw(rng);  spell(value, rng), spell(value, rng)   ->  r"x = 150\,\text{cm}", "1.5 m"
    respell("3/8", rng)                                        ->  r"\frac{6}{16}"

A value holds exact numbers, so which answers are equal is known by construction. Nothing of answers/ is
imported: it is what this measures. Left out: nested brackets, functions, matrices, equations.
"""

import re
from collections.abc import Hashable
from fractions import Fraction
from math import isqrt, lcm
from random import Random
from typing import NamedTuple


class Term(NamedTuple):
    """factor * sqrt(root) * pi^pi * symbols; the root has no square factor."""

    factor: Fraction
    root: int = 1
    pi: int = 0
    symbols: tuple[tuple[str, int], ...] = ()  # (letter, exponent), in alphabetical order


class Value(NamedTuple):
    terms: tuple[Term, ...] = ()  # their sum
    unit: str = ""  # a key of UNITS, or a noun
    shape: str = "number"  # set, point, ratio, choice, or an interval's brackets: (], ..
    items: tuple["Value", ...] = ()
    name: str = ""  # a key of NAMES: what a left side calls it


# --- meaning --------------------------------------------------------------------------------------

MEASURES = {  # of what is measured: each unit in the first one
    "length": {"m": "1", "cm": "1/100", "mm": "1/1000", "km": "1000"}, "feet": {"ft": "1", "inches": "1/12"},
    "area": {"m^2": "1", "cm^2": "1/10000", "mm^2": "1/1000000", "km^2": "1000000"},
    "volume": {"m^3": "1", "cm^3": "1/1000000", "L": "1/1000", "mL": "1/1000000"},
    "mass": {"g": "1", "kg": "1000", "mg": "1/1000"}, "time": {"s": "1", "min": "60", "h": "3600"},
    "speed": {"m/s": "1", "km/h": "5/18"}, "acceleration": {"m/s^2": "1"}, "force": {"N": "1", "kN": "1000"},
    "pressure": {"Pa": "1", "kPa": "1000"}, "frequency": {"Hz": "1", "kHz": "1000"},
    "energy": {"J": "1", "kJ": "1000"}, "particle energy": {"eV": "1"}, "power": {"W": "1", "kW": "1000"},
    "current": {"A": "1", "mA": "1/1000"}, "temperature": {"K": "1"}, "voltage": {"V": "1", "kV": "1000"},
    "molar mass": {"g/mol": "1"}, "angle": {"°": "1"}, "share": {"%": "1"},
}  # fmt: skip
UNITS = {name: (what, Fraction(size)) for what, units in MEASURES.items() for name, size in units.items()}
NOUNS = ("apples", "oranges", "students", "books", "triangles", "marbles")


def quantity_of(unit: str) -> tuple[str, Fraction]:
    return UNITS.get(unit, (unit, Fraction(1)))


def scaled(terms: tuple[Term, ...], factor: Fraction, pi: int = 0) -> tuple[Term, ...]:
    return tuple(t._replace(factor=t.factor * factor, pi=t.pi + pi) for t in terms)


def meaning(value: Value) -> Hashable:
    """Equal for values that are the same, and only for them."""
    if value.shape == "number":
        quantity, size = quantity_of(value.unit)
        if quantity == "angle":  # in radians
            return "", frozenset(scaled(value.terms, Fraction(1, 180), pi=1))
        if quantity == "share":
            return "", frozenset(scaled(value.terms, Fraction(1, 100)))
        return quantity, frozenset(scaled(value.terms, size))
    if value.shape == "ratio":
        a, b = (item.terms[0].factor for item in value.items)
        return "", frozenset([Term(a / b)])
    items = tuple(map(meaning, value.items))
    return (value.shape, frozenset(items)) if value.shape == "set" else (value.shape, value.name, items)


def bare(value: Value) -> Value:
    return value._replace(unit="")


def forgiven(a: Value, b: Value) -> bool:
    """Whether one leaves out a unit that the other may be written in: 5 or 0.05 beside 5 cm."""
    return any(
        bool(one.unit) != bool(other.unit) and meaning(bare(one)) == meaning(bare(other))
        for one in conversions(a)
        for other in conversions(b)
    )


def conversions(value: Value) -> list[Value]:
    """The same in each of its units; degrees also in radians, percent also as a number."""
    if value.unit in ("°", "%"):
        number = scaled(value.terms, Fraction(1, 180), pi=1) if value.unit == "°" else None
        return [value, bare(value)._replace(terms=number or scaled(value.terms, Fraction(1, 100)))]
    quantity, size = quantity_of(value.unit)
    units = [unit for unit, (what, _) in UNITS.items() if what == quantity] or [value.unit]
    return [value._replace(terms=scaled(value.terms, size / quantity_of(u)[1]), unit=u) for u in units]


# --- drawing values -------------------------------------------------------------------------------

SYMBOLS = [
    "m g", "m g h", "n h", "n m", "x", "x y", "a b", "a b c", "a h", "x2", "x2 y", "m v2", "k x2", "q r",
    "r2 h", "h", "L", "A", "V", "n", "k x", "a2", "t2", "g t2", "m", "g",
]  # fmt: skip
NAMES = {
    "x": ("x = {}", "x={}", "$x$ = {}"),
    "n": ("n = {}", "n={}"),
    "theta": (r"\theta = {}", "θ = {}"),
    "angle A": (r"\angle A = {}", "∠A = {}", r"m\angle A = {}"),
    "angle ABC": (r"\angle ABC = {}", r"\angle CBA = {}"),
    "AB": ("AB = {}", "AB={}", "|AB| = {}"),
    "f(2)": ("f(2) = {}", "f(2)={}"),
    "cos A": (r"\cos A = {}", "cos A = {}"),
    "area": ("The area is {}", "Area = {}", "Area: {}", r"\text{{Area}} = {}"),
    "perimeter": ("Perimeter: {}", "The perimeter is {}", "perimeter = {}"),
}
PLAIN_NAMES = ("x", "n", "AB", "f(2)")
SIMPLE_UNITS = [name for name in UNITS if name not in ("°", "%")]


def draw(rng: Random) -> Value:
    kind = rng.choice(list(KINDS))
    return KINDS[kind](rng)


def _fraction(rng: Random) -> Fraction:
    denominator = rng.choice((2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 20, 25))
    return Fraction(rng.choice((1, 1, -1)) * rng.randint(1, 60), denominator)


def _integer(rng: Random) -> Fraction:
    top = rng.choice((10, 100, 1000, 100_000, 10_000_000))
    return Fraction(rng.choice((1, 1, 1, -1)) * rng.randint(1, top))


def _small(rng: Random) -> Fraction:
    return Fraction(rng.choice([n for n in range(-9, 10) if abs(n) > 1]), rng.choice((1, 1, 1, 2, 3, 4, 5)))


def _root(rng: Random) -> int:
    return rng.choice((2, 3, 5, 6, 7, 10, 11, 13, 15))


def _number(*terms: Term, unit: str = "", name: str = "") -> Value:
    return Value(tuple(terms), unit, name=name)


def draw_number(rng: Random) -> Value:
    factor = rng.choice((_integer, _fraction))(rng)
    return _number(Term(factor), name=rng.choice((*PLAIN_NAMES, "cos A", "area", "perimeter")))


def draw_root(rng: Random) -> Value:
    return _number(Term(_small(rng), _root(rng)), name=rng.choice(PLAIN_NAMES))


def draw_pi(rng: Random) -> Value:
    return _number(Term(_small(rng), rng.choice((1, 1, 1, 2, 3)), 1), name=rng.choice(("x", "theta", "f(2)")))


def draw_sum(rng: Random) -> Value:
    return _number(Term(_small(rng)), Term(_small(rng), _root(rng)), name=rng.choice(PLAIN_NAMES))


def symbols(text: str) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((part[0], int(part[1:] or 1)) for part in text.split()))


def draw_product(rng: Random) -> Value:
    root, pi = rng.choice(((1, 0), (1, 0), (2, 0), (3, 0), (1, 1)))
    factor = Fraction(rng.choice((2, 3, 4, 5, 6, 7, 8, 9, -2, -3)), rng.choice((1, 1, 11)))
    factor = rng.choice((factor, factor, Fraction(1, 2), Fraction(1, 3), Fraction(3, 2), Fraction(3, 4)))
    return _number(Term(factor, root, pi, symbols(rng.choice(SYMBOLS))))


def draw_polynomial(rng: Random) -> Value:
    p, q = (rng.choice([n for n in range(-9, 10) if n]) for _ in range(2))
    if rng.random() < 0.5:
        return _number(Term(_small(rng), symbols=symbols("x")), Term(Fraction(q)))
    terms = (Term(Fraction(1), symbols=symbols("x2")), Term(Fraction(-p - q), symbols=symbols("x")))
    return _number(*(t for t in terms if t.factor), Term(Fraction(p * q)))


def draw_quantity(rng: Random) -> Value:
    number = rng.choice((draw_number, draw_number, draw_root, draw_pi))(rng)
    if rng.random() < 0.5:
        number = _number(Term(Fraction(rng.randint(1, 99), rng.choice((1, 1, 2, 10)))))
    unit = rng.choice(SIMPLE_UNITS)
    name = {"area": "area", "length": "perimeter"}.get(UNITS[unit][0], rng.choice(("x", "f(2)")))
    return number._replace(unit=unit, name=name)


def draw_degrees(rng: Random) -> Value:
    degrees = Fraction(rng.randint(1, 71) * 5 if rng.random() < 0.8 else rng.randint(1, 359))
    return _number(Term(degrees), unit="°", name=rng.choice(("x", "theta", "angle A", "angle ABC")))


def draw_percent(rng: Random) -> Value:
    return _number(Term(Fraction(rng.randint(1, 400), rng.choice((1, 1, 2, 4)))), unit="%", name="x")


def draw_counted(rng: Random) -> Value:
    return _number(Term(Fraction(rng.randint(2, 200))), unit=rng.choice(NOUNS))


def _items(rng: Random, count: int) -> tuple[Value, ...]:
    numbers: list[Fraction] = []
    while len(numbers) < count:
        n = Fraction(rng.randint(-12, 12), rng.choice((1, 1, 1, 2, 3)))
        numbers += [n] if n not in numbers else []
    return tuple(_number(Term(n)) if n else _number() for n in numbers)


def draw_set(rng: Random) -> Value:
    items = _items(rng, rng.choice((2, 2, 3)))
    if rng.random() < 0.3 and items[0].terms:
        items = (items[0], items[0]._replace(terms=scaled(items[0].terms, Fraction(-1))))
    return Value(shape="set", items=items)


def draw_point(rng: Random) -> Value:
    return Value(shape="point", items=_items(rng, rng.choice((2, 2, 3))))


def draw_interval(rng: Random) -> Value:
    low, high = sorted(_items(rng, 2), key=lambda item: sum(t.factor for t in item.terms))
    shape = rng.choice(("(]", "[)", "[]", "(∞", "[∞", "∞)", "∞]"))
    return Value(shape=shape, items=(low, high) if "∞" not in shape else (low,))


def draw_ratio(rng: Random) -> Value:
    a, b = rng.sample(range(1, 13), 2)
    share = Fraction(a, b)
    return Value(
        shape="ratio",
        items=(_number(Term(Fraction(share.numerator))), _number(Term(Fraction(share.denominator)))),
    )


def draw_choice(rng: Random) -> Value:
    return Value(shape="choice", name=rng.choice("ABCDE"))


KINDS = {
    "number": draw_number, "root": draw_root, "pi": draw_pi, "sum": draw_sum, "product": draw_product,
    "polynomial": draw_polynomial, "quantity": draw_quantity, "degrees": draw_degrees,
    "percent": draw_percent, "noun": draw_counted, "set": draw_set, "point": draw_point,
    "interval": draw_interval, "ratio": draw_ratio, "choice": draw_choice,
}  # fmt: skip


# --- writing a rational ---------------------------------------------------------------------------

AMONG_OTHERS, BEFORE_A_UNIT, ALONE = range(3)  # how freely a number may be written
VULGAR = {
    Fraction(int(n), int(d)): sign
    for sign, n, d in zip("½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", "112131234151357", "233445555668888", strict=True)
}
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    " seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_PARTS = {2: ("half", "halves"), 3: ("third", "thirds"), 4: ("quarter", "quarters"), 5: ("fifth", "fifths")}


def in_words(q: Fraction) -> str | None:
    """twenty-five, negative five, three quarters, five and a half."""
    whole, rest = divmod(abs(q), 1)
    if whole >= 100 or rest.denominator not in (1, *_PARTS):
        return None
    words = (
        _ONES[whole]
        if whole < 20
        else _TENS[whole // 10 - 2] + (f"-{_ONES[whole % 10]}" if whole % 10 else "")
    )
    if rest:
        one, many = _PARTS[rest.denominator]
        if whole and rest != Fraction(1, 2):
            return None
        part = f"one {one}" if rest.numerator == 1 else f"{_ONES[rest.numerator]} {many}"
        words = f"{words} and a half" if whole else part
    return ("negative " if q < 0 else "") + words


def decimal(q: Fraction) -> str | None:
    """Without a sign; None where it has no end within eight places."""
    places = next((p for p in range(9) if 10**p % q.denominator == 0), None)
    if places is None:
        return None
    digits = str(abs(q.numerator) * 10**places // q.denominator).zfill(places + 1)
    return digits[: len(digits) - places] + ("." + digits[-places:] if places else "")


def scientific(q: Fraction, rng: Random) -> str | None:
    """1.5 * 10^3, without a sign, for what is large or small."""
    text = decimal(q)
    digits = text.replace(".", "").strip("0") if text else ""
    if not text or len(digits) > 5 or not (abs(q) >= 100 or abs(q) < Fraction(1, 10)):
        return None
    exponent = 0
    while abs(q) >= Fraction(10) ** (exponent + 1) or abs(q) < Fraction(10) ** exponent:
        exponent += 1 if abs(q) >= 10 else -1
    mantissa = decimal(abs(q) / Fraction(10) ** exponent)
    power = f"10^{{{exponent}}}" if exponent < 0 or rng.random() < 0.5 else f"10^{exponent}"
    ways = [rf"{mantissa} \times {power}", rf"{mantissa}\times{power}", rf"{mantissa} \cdot {power}"]
    return rng.choice([*ways, f"{mantissa} × {power}", f"{mantissa}*{power}", f"{mantissa}e{exponent}"])


def grouped(n: int, rng: Random) -> str:
    comma = f"{n:,}"
    marks = [",", ",", "{,}", r"\,", ",\\!"] + ([" "] if n >= 10_000 else [])
    return comma.replace(",", rng.choice(marks))


def _whole(n: int, rng: Random, freedom: int) -> list[str]:
    """Ways to write a positive integer."""
    k = rng.randint(2, 6)
    ways = [str(n)] * 3 + [f"{n}.0"]
    ways += [grouped(n, rng) for _ in range(4)] if n >= 1000 and freedom else []
    if freedom < ALONE:
        return ways
    ways += [rf"\frac{{{n * k}}}{{{k}}}", f"{n * k}/{k}"] if n < 1000 else [f"{n}.00"]
    ways += [rf"\sqrt{{{n * n}}}", f"sqrt({n * n})"] if n < 60 else []
    for base in (2, 3, 5, 6, 7, 10):
        exponent = next((e for e in range(2, 12) if base**e == n), None)
        if exponent:
            ways += [f"{base}^{{{exponent}}}", f"{base}**{exponent}", f"{base}" + raised(exponent)]
    return ways


def _broken(q: Fraction, rng: Random, freedom: int) -> list[str]:
    """Ways to write a positive fraction that is no integer."""
    n, d, k = q.numerator, q.denominator, rng.randint(2, 6)
    whole, rest = divmod(q, 1)
    point = decimal(q)
    ways = [rf"\frac{{{n}}}{{{d}}}", rf"\dfrac{{{n}}}{{{d}}}", f"{n}/{d}"]
    ways += [point] if point else []
    if not freedom:
        return ways
    ways += [rf"\frac{{{n * k}}}{{{d * k}}}", f"{n * k}/{d * k}", rf"\tfrac{{{n}}}{{{d}}}", f"{n} / {d}"]
    ways += [rf"\frac{n}{d}", rf"\frac {n}{d}"] if n < 10 and d < 10 else []
    ways += [point + "0", point.removeprefix("0")] if point else []
    ways += [VULGAR[q]] * 2 if q in VULGAR else []
    ways += [f"{d}^{{-1}}"] if n == 1 and freedom == ALONE else []
    if whole:
        n = rest.numerator
        ways += [rf"{whole}\frac{{{n}}}{{{d}}}", f"{whole} {n}/{d}", rf"{whole} \frac{{{n}}}{{{d}}}"]
        ways += [f"{whole}{VULGAR[rest]}"] if rest in VULGAR else []
    return ways


def rational(q: Fraction, rng: Random, freedom: int = ALONE) -> str:
    if not q:
        return rng.choice(("0", "0", "0.0"))
    if freedom and rng.random() < 0.08 and (words := in_words(q)):
        return words
    if freedom and rng.random() < 0.3 and (power := scientific(q, rng)):
        return ("-" if q < 0 else "") + power
    size = abs(q)
    way = rng.choice(
        _whole(int(size), rng, freedom) if size.denominator == 1 else _broken(size, rng, freedom)
    )
    if q > 0:
        return "+" + way if freedom == ALONE and rng.random() < 0.03 else way
    if way.startswith(r"\frac{") and rng.random() < 0.3:
        return way.replace("{", "{-", 1)
    return rng.choice("--−") + way


# --- writing a sum --------------------------------------------------------------------------------


def raised(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))


def _power(base: str, exponent: int, style: str, rng: Random) -> str:
    if exponent == 1:
        return base
    ways = {"latex": ("^{}", "^{{{}}}"), "code": ("**{}", "^{}")}.get(style)
    return base + (rng.choice(ways).format(exponent) if ways else raised(exponent))


def _factors(term: Term, style: str, rng: Random) -> list[str]:
    """What is multiplied with the number. In Unicode a root has no bar, so it stands last."""
    names = list(term.symbols)
    rng.shuffle(names)
    if "".join(letter for letter, _ in names) in ("gm", "ha", "hr"):  # gram, hectare, hour
        names.reverse()
    letters = [_power(letter, exponent, style, rng) for letter, exponent in names]
    pi = (
        [_power({"latex": r"\pi", "code": "pi", "unicode": "π"}[style], term.pi, style, rng)]
        if term.pi
        else []
    )
    if term.root == 1:
        return pi + letters
    r = term.root
    ways = {
        "latex": (rf"\sqrt{{{r}}}", rf"\sqrt{{{r}}}", rf"\sqrt{r}" if r < 10 else rf"\sqrt{{{r}}}"),
        "code": (f"sqrt({r})", f"{r}**0.5", f"{r}^(1/2)", f"√{r}"),
        "unicode": (f"√{r}", f"√({r})"),
    }[style]
    root = rng.choice(ways)
    return [root, *pi, *letters] if style == "latex" else [*pi, *letters, root]


def _product(parts: list[str], style: str, rng: Random) -> str:
    """2\\pi r, 2πr, 2*pi*r; a command is kept apart from the letter behind it."""
    if style == "code":
        return "*".join(parts)
    sign = r" \cdot " if style == "latex" and len(parts) > 1 and rng.random() < 0.1 else ""
    text = parts[0]
    for part in parts[1:]:
        if sign or part[0].isdigit():
            text += (r" \cdot " if style == "latex" else "·") + part
        else:
            text += (" " if re.search(r"\\[a-z]+$", text) and part[0].isalpha() else "") + part
    return text


def _term(term: Term, style: str, rng: Random, plainly: bool = False) -> str:
    """A term without its sign."""
    size, factors = abs(term.factor), _factors(term, style, rng)
    if not factors:
        return rational(size, rng, AMONG_OTHERS)
    n, d = size.numerator, size.denominator
    above = _product([str(n)] * (n > 1) + factors, style, rng)
    if d == 1:
        whole = n * n * term.root
        if term.root > 1 and len(factors) == 1 and not plainly and rng.random() < 0.3:
            return {"latex": rf"\sqrt{{{whole}}}", "code": f"sqrt({whole})", "unicode": f"√{whole}"}[style]
        return above
    ways = [rf"\frac{{{above}}}{{{d}}}", rf"\frac{{{n}}}{{{d}}}" + _product(["", *factors], style, rng)]
    if style != "latex":
        ways = [f"{above}/{d}"]
    if point := decimal(size):
        ways.append(_product([point, *factors], style, rng))
    if term.root > 1 and len(factors) == 1 and style == "latex" and not plainly:
        over = size * term.root  # n sqrt(r)/d = n r/(d sqrt(r))
        below = str(over.denominator) * (over.denominator > 1) + rf"\sqrt{{{term.root}}}"
        ways.append(rf"\frac{{{over.numerator}}}{{{below}}}")
    return rng.choice(ways)


def _over_one(terms: list[Term], style: str, rng: Random) -> str:
    """(1 + sqrt(5))/2"""
    d = lcm(*(t.factor.denominator for t in terms))
    above = _joined([t._replace(factor=t.factor * d) for t in terms], style, rng)
    return rf"\frac{{{above}}}{{{d}}}" if style == "latex" else f"({above})/{d}"


def _joined(terms: list[Term], style: str, rng: Random) -> str:
    text = ""
    for term in terms:
        sign = "-" if term.factor < 0 else "+" if text else ""
        text += (f" {sign} " if sign and text and rng.random() < 0.6 else sign) + _term(
            term, style, rng, plainly=True
        )
    return text


def _factored(terms: tuple[Term, ...], style: str, rng: Random) -> str | None:
    """x^2 - (p + q) x + p q as (x - p)(x - q)."""
    of = {t.symbols: t.factor for t in terms}
    x2, x = symbols("x2"), symbols("x")
    if of.get(x2) != 1 or any(t.symbols not in (x2, x, ()) or t.root * (t.pi + 1) > 1 for t in terms):
        return None
    b, c = of.get(x, Fraction(0)), of.get((), Fraction(0))
    square = b * b - 4 * c
    if square < 0 or square.denominator > 1 or isqrt(int(square)) ** 2 != square:
        return None
    roots = [(-b + isqrt(int(square))) / 2, (-b - isqrt(int(square))) / 2]
    rng.shuffle(roots)
    parts = [f"(x{'-' if r > 0 else '+'}{abs(r)})" if r else "x" for r in roots]
    return (
        _power(parts[0], 2, style, rng)
        if roots[0] == roots[1]
        else ("*" if style == "code" else "").join(parts)
    )


def spell_sum(terms: tuple[Term, ...], rng: Random, freedom: int = ALONE) -> str:
    if not terms:
        return "0"
    if len(terms) == 1 and terms[0][1:] == (1, 0, ()):
        return rational(terms[0].factor, rng, freedom)
    style = rng.choice(("latex", "latex", "latex", "unicode", "code"))
    if len(terms) == 1:
        return ("-" if terms[0].factor < 0 else "") + _term(terms[0], style, rng)
    if rng.random() < 0.3 and (product := _factored(terms, style, rng)):
        return product
    shuffled = rng.sample(terms, len(terms))
    if rng.random() < 0.5 and any(t.factor.denominator > 1 for t in terms):
        return _over_one(shuffled, style, rng)
    return _joined(shuffled, style, rng)


# --- writing a quantity ---------------------------------------------------------------------------

UNMISTAKABLE = set("cm mm km kg min kN Hz kHz kJ kPa cm^2 mm^2 km^2 cm^3 km/h".split())
PLAIN = "[-+−]?[0-9][0-9,.]*"  # a number behind which a letter may be a unit
UNIT_WORDS = {  # in full, and shorter
    "m": ("meters", "metres"), "cm": ("centimeters", "centimetres"), "mm": ("millimeters",),
    "km": ("kilometers",), "ft": ("feet", "ft"), "inches": ("inches", "in."), "L": ("liters", "litres"),
    "m^2": ("square meters", "sq m"), "cm^2": ("square centimeters", "sq cm"), "m^3": ("cubic meters",),
    "cm^3": ("cubic centimeters",), "mL": ("milliliters",), "g": ("grams",), "kg": ("kilograms",),
    "mg": ("milligrams",), "s": ("seconds", "sec"), "min": ("minutes",), "h": ("hours", "hr"),
    "m/s": ("meters per second",), "km/h": ("kilometers per hour", "km/hr"), "N": ("newtons",),
    "Pa": ("pascals",), "Hz": ("hertz",), "J": ("joules",), "W": ("watts",), "A": ("amperes",),
    "K": ("kelvin",), "V": ("volts",), "eV": ("electronvolts",), "°": ("degrees",), "%": ("percent",),
    "kN": ("kilonewtons",), "kPa": ("kilopascals",), "kHz": ("kilohertz",), "kJ": ("kilojoules",),
    "kW": ("kilowatts",), "kV": ("kilovolts",), "mA": ("milliamperes",), "mm^2": ("square millimeters",),
    "km^2": ("square kilometers",), "m/s^2": ("meters per second squared",), "g/mol": ("grams per mole",),
}  # fmt: skip


def with_unit(number: str, unit: str, rng: Random) -> str:
    """A letter that could be a factor stands apart, and behind a fraction, root or pi in \\text."""
    if number[-1].isalpha() and "\\" not in number and number[-1] not in "πi":
        return f"{number} {rng.choice(UNIT_WORDS.get(unit, (unit,)))}"
    if unit == "°" and "^" in number[-6:]:
        return f"{number} degrees"
    if unit == "°":
        return number + rng.choice(("°", r"^\circ", r"^{\circ}", " degrees", "^o", r"\degree", r"^\circ"))
    if unit == "%":
        return number + rng.choice(("%", r"\%", r" \%", " percent", " %"))
    if unit in NOUNS:
        return number + rng.choice((f" {unit}", rf" \text{{ {unit}}}", rf"\text{{ {unit}}}"))
    if rng.random() < 0.15 and unit in UNIT_WORDS:
        words = UNIT_WORDS[unit] if re.fullmatch(PLAIN, number) else UNIT_WORDS[unit][:1]
        return f"{number} {rng.choice(words)}"
    name, hat, exponent = unit.partition("^") if "/" not in unit else (unit, "", "")
    power = rng.choice((f"^{exponent}", f"^{{{exponent}}}", raised(int(exponent)))) if hat else ""
    boxed = [rf"\{kind}{{{space}{name}}}{power}" for kind in ("text", "mathrm") for space in ("", " ")]
    if hat:
        boxed.append(rf"\text{{{name}{raised(int(exponent))}}}")
    ways = [gap + rng.choice(boxed) for gap in ("", r"\,", r"\ ", " ", r"\;")]
    if unit in UNMISTAKABLE or re.fullmatch(PLAIN, number):
        ways += [f" {name}{power}"] * 3
    if unit in UNMISTAKABLE and number.isdigit():
        ways += [f"{name}{power}"] * 2
    return number + rng.choice(ways)


def converted(value: Value, rng: Random) -> Value:
    """In another unit where the number stays writable."""
    return rng.choice(
        [way for way in conversions(value) if all(_writable(t.factor) for t in way.terms)] or [value]
    )


def _writable(q: Fraction) -> bool:
    return q.denominator < 100 or (decimal(q) is not None and len(decimal(q) or "") < 9)


def in_a_chain(q: Fraction, rng: Random) -> str:
    """An expression that comes to q."""
    if q.denominator == 1:
        n, k = int(q), rng.randint(2, 40)
        ways = [f"{n + k} - {k}", f"{n + k}-{k}", rf"\frac{{{n * k}}}{{{k}}}", f"{n * k}/{k}"]
        ways += [f"{n - k} + {k}"] if n > k else []
        ways += [rf"{n // f} \times {f}" for f in (2, 3, 5) if n % f == 0] if n > 0 else []
    else:
        n, d = q.numerator, q.denominator
        ways = [rf"\frac{{{2 * n}}}{{{2 * d}}}", f"{3 * n}/{3 * d}", rf"{n} \times \frac{{1}}{{{d}}}"]
        ways += [rf"1 - \frac{{{d - n}}}{{{d}}}"] if d > n else []
    return rng.choice(ways)


def _spell_number(value: Value, rng: Random) -> tuple[str, str]:
    how = ""
    if value.unit and rng.random() < 0.35:
        other = converted(value, rng)
        how, value = ("converted" if other != value else ""), other
    text = spell_sum(value.terms, rng, BEFORE_A_UNIT if value.unit else ALONE)
    if value.unit:
        text = with_unit(text, value.unit, rng)
    term = value.terms[0] if len(value.terms) == 1 else None
    if term and term[1:] == (1, 0, ()) and rng.random() < 0.1 and value.unit not in NOUNS:
        name = NAMES[value.name or "x"][0].format("")
        name = "" if not value.unit and rng.random() < 0.2 else name
        return f"{name}{in_a_chain(term.factor, rng)} = {text}", "chain"
    if term and not value.unit and not term.symbols and (term.root > 1 or term.pi) and rng.random() < 0.06:
        close = float(term.factor) * term.root**0.5 * 3.141592653589793**term.pi
        return rf"{text} \approx {close:.{rng.randint(1, 3)}f}", "rounded beside"
    if value.name and rng.random() < 0.2:
        return rng.choice(NAMES[value.name]).format(text), "named"
    return text, how


# --- writing several, and all of it ---------------------------------------------------------------


def _plain(item: Value, rng: Random) -> str:
    return rational(sum((t.factor for t in item.terms), Fraction(0)), rng, AMONG_OTHERS)


def _spell_set(value: Value, rng: Random) -> str:
    items = rng.sample(value.items, len(value.items))
    texts = [_plain(item, rng) for item in items]
    if len(items) == 2 and items[0].terms == scaled(items[1].terms, Fraction(-1)) and rng.random() < 0.4:
        size = _plain(max(items, key=lambda item: item.terms[0].factor), rng)
        return rng.choice((r"\pm {}", "±{}", r"\pm{}", r"x = \pm {}")).format(size)
    named = [f"x = {text}" for text in texts]
    inside = ", ".join(texts)
    ways = [inside, rf"\{{{inside}\}}", rf"\{{{inside}\}}", rf"x \in \{{{inside}\}}", ", ".join(named)]
    ways += [" or ".join(named), r" \text{ or } ".join(named), r" \lor ".join(named), f"x = {inside}"]
    ways += [" and ".join(texts)] if len(texts) == 2 else []
    ways.append(", ".join(f"x_{i} = {text}" for i, text in enumerate(texts, 1)))
    return rng.choice(ways)


def _spell_point(value: Value, rng: Random) -> str:
    texts = [_plain(item, rng) for item in value.items]
    inside, tight = ", ".join(texts), ",".join(texts)
    ways = [
        f"({inside})",
        f"({inside})",
        f"({tight})",
        rf"\left({inside}\right)",
        rf"\langle {inside} \rangle",
    ]
    rows = r" \\ ".join(texts)
    return rng.choice([*ways, rf"\begin{{pmatrix}} {rows} \end{{pmatrix}}", f"P({inside})"])


def _spell_interval(value: Value, rng: Random) -> str:
    texts = [_plain(item, rng) for item in value.items]
    left, right = value.shape
    infinity = rng.choice((r"\infty", "∞"))
    if left == "∞":
        low, high, left = "-" + infinity, texts[0], "("
    elif right == "∞":
        low, high, right = texts[0], rng.choice(("", "+")) + infinity, ")"
    else:
        low, high = texts
    inside = f"{left}{low}, {high}{right}"
    less, more = (
        ("<", ">")
        if left == "("
        else rng.choice(((r"\le", r"\ge"), (r"\leq", r"\geq"), ("≤", "≥"), ("<=", ">=")))
    )
    below, above = (
        ("<", ">") if right == ")" else rng.choice(((r"\le", r"\ge"), (r"\leq", r"\geq"), ("≤", "≥")))
    )
    ways = [inside, inside, rf"x \in {inside}", rf"\left{inside[:-1]}\right{inside[-1]}"]
    if value.shape[0] == "∞":
        ways += [f"x {below} {high}"] * 3 + [f"{high} {above} x"]
    elif value.shape[1] == "∞":
        ways += [f"x {more} {low}"] * 3 + [f"{low} {less} x"]
    else:
        ways += [f"{low} {less} x {below} {high}"] * 3 + [f"{high} {above} x {more} {low}"]
    return rng.choice(ways)


def _spell_ratio(value: Value, rng: Random) -> str:
    a, b = (int(item.terms[0].factor) for item in value.items)
    k = rng.choice((1, 1, 2, 3, 5))
    return rng.choice((f"{a * k}:{b * k}", f"{a * k} : {b * k}", rf"\frac{{{a}}}{{{b}}}", f"{a * k}:{b * k}"))


def _spell_choice(value: Value, rng: Random) -> str:
    ways = (
        "{}",
        "{}",
        "({})",
        "{}.",
        r"\text{{{}}}",
        r"\textbf{{({})}}",
        "Option {}",
        r"\mathrm{{{}}}",
        "{})",
    )
    return rng.choice(ways).format(value.name)


MARKS = (
    r"\boxed{{{}}}", "${}$", r"\({}\)", "**{}**", "`{}`", "__{}__", "<b>{}</b>", "{}.", r"$\boxed{{{}}}$",
    r"\displaystyle {}", "${}$.", "The answer is {}", "The answer is: {}", "Final answer: {}",
)  # fmt: skip


def spelled(value: Value, rng: Random) -> tuple[str, str]:
    """A way of writing it, and what was done to it beside that: converted, chain, named, a mark."""
    if value.shape == "number":
        text, how = _spell_number(value, rng)
    else:
        writer = {"set": _spell_set, "point": _spell_point, "ratio": _spell_ratio, "choice": _spell_choice}
        text, how = writer.get(value.shape, _spell_interval)(value, rng), ""
    marks = rng.choice(MARKS) if rng.random() < 0.3 else ""
    taken = (marks[:2] in ("${", r"\(", "$\\") and ("$" in text or re.search("[a-z]{3} |^The|: ", text))) or (
        "_" in marks and "_" in text
    )
    if (
        marks
        and not taken
        and not ("*" in marks and "*" in text)
        and not (how and marks.startswith(("The", "Final")))
    ):
        text = marks.format(text)
        how = " ".join(filter(None, (how, marks.format("").strip())))
    return text, how


def spell(value: Value, rng: Random) -> str:
    return spelled(value, rng)[0]


# --- respelling what a model wrote ----------------------------------------------------------------

_WRITTEN = re.compile(r"(-?)(?:(\d{1,9})(?:\.(\d{1,6})|/(\d{1,9}))?|\\frac\{(\d{1,9})\}\{(\d{1,9})\})")


def read(text: str, unit: str = "", name: str = "x") -> Value | None:
    """The value of a plainly written number or of a choice's letter; None for anything else."""
    if re.fullmatch("[A-E]", text):
        return Value(shape="choice", name=text)
    match = _WRITTEN.fullmatch(text)
    if not match:
        return None
    sign, whole, decimals, below, above, under = match.groups("")
    if not int(below or under or 1):
        return None
    number = Fraction(int((whole + decimals) or above), int(below or under or 10 ** len(decimals)))
    terms = (Term(-number if sign else number),) if number else ()
    return _number(*terms, unit=unit, name=name)


def respell(text: str, rng: Random, unit: str = "", choices: tuple[str, ...] = ()) -> str:
    """The same answer in another way: with its unit three times of four, a share as a percentage now and
    then, a choice with its text half of the time. What can't be read stays."""
    value = read(text, unit)
    if value is None:
        return text
    number = ord(value.name) - 65 if value.shape == "choice" else len(choices)
    if number < len(choices) and rng.random() < 0.5:
        return rng.choice(("{0}. {1}", "({0}) {1}", "{1}", r"\text{{{1}}}")).format(text, choices[number])
    if unit and rng.random() < 0.25:
        return spell(bare(value), rng)
    if not unit and value.terms and 0 < value.terms[0].factor < 1 and rng.random() < 0.2:
        value = value._replace(terms=scaled(value.terms, Fraction(100)), unit="%")
    return spell(value, rng)
