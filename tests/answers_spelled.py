"""Pairs and groups of answers that are equal, or apart, by construction (bench/spellings.py)."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import NamedTuple

from bench import spellings
from bench.spellings import (
    KINDS,
    NOUNS,
    UNITS,
    Term,
    Value,
    bare,
    decimal,
    forgiven,
    meaning,
    spell,
    spelled,
    symbols,
)


class Pair(NamedTuple):
    a: str
    b: str
    same: bool
    kind: str


def equal_pair(rng: Random) -> Pair:
    """Two ways to write one value; of one with a unit, at times the second leaves it out."""
    kind = rng.choice(list(KINDS))
    value = KINDS[kind](rng)
    if value.unit and rng.random() < 0.25:
        a = next(text for text, how in iter(lambda: spelled(value, rng), None) if "converted" not in how)
        return Pair(a, spell(unnamed(bare(value)), rng), True, f"{kind}, unit left out")
    (a, how), (b, also) = spelled(value, rng), spelled(value, rng)
    ways = {"converted", "chain", "named", "rounded"} & {*how.split(), *also.split()}
    return Pair(a, b, True, ", ".join([kind, *sorted(ways)]))


# --- near misses ----------------------------------------------------------------------------------


def _changed(value: Value, rng: Random, change: Callable[[Fraction], Fraction]) -> Value | None:
    """With the factor of one of its terms changed."""
    if not value.terms:
        return None
    i = rng.randrange(len(value.terms))
    terms = list(value.terms)
    terms[i] = terms[i]._replace(factor=change(terms[i].factor))
    return value._replace(terms=tuple(t for t in terms if t.factor))


def other_sign(value: Value, rng: Random) -> Value | None:
    return _changed(value, rng, lambda q: -q)


def other_digit(value: Value, rng: Random) -> Value | None:
    step = rng.choice((1, -1, 10, -10, Fraction(1, 10)))
    return _changed(value, rng, lambda q: q + step)


def reciprocal(value: Value, rng: Random) -> Value | None:
    return _changed(value, rng, lambda q: 1 / q)


def power_of_ten(value: Value, rng: Random) -> Value | None:
    factor = rng.choice((10, 100, 1000, Fraction(1, 10), Fraction(1, 100)))
    return _changed(value, rng, lambda q: q * factor)


def rounded(value: Value, rng: Random) -> Value | None:
    if len(value.terms) != 1 or value.terms[0].symbols:
        return None
    [term] = value.terms
    exact = float(term.factor) * term.root**0.5 * 3.141592653589793**term.pi
    close = Fraction(f"{exact:.{rng.randint(1, 4)}f}")
    return value._replace(terms=(Term(close),)) if close else None


def root_moved(value: Value, rng: Random) -> Value | None:
    """2 sqrt(3) and 3 sqrt(2), 2 and 2 sqrt(3)."""
    if len(value.terms) != 1 or value.terms[0].root == 1:
        return None
    [term] = value.terms
    ways = [term._replace(root=1), term._replace(factor=term.factor * term.root, root=1)]
    ways.append(term._replace(root=next(r for r in (2, 3, 5, 7) if r != term.root)))
    if term.factor in (2, 3, 5, 6, 7):
        ways.append(term._replace(factor=Fraction(term.root), root=int(term.factor)))
    return value._replace(terms=(rng.choice(ways),))


def pi_lost(value: Value, rng: Random) -> Value | None:
    if len(value.terms) != 1 or not value.terms[0].pi:
        return None
    return value._replace(terms=(value.terms[0]._replace(pi=rng.choice((0, 2))),))


def symbol_lost(value: Value, rng: Random) -> Value | None:
    if len(value.terms) != 1 or not value.terms[0].symbols:
        return None
    kept = rng.choice(((), symbols(rng.choice(spellings.SYMBOLS)), value.terms[0].symbols[1:]))
    return value._replace(terms=(value.terms[0]._replace(symbols=kept),))


def other_unit(value: Value, rng: Random) -> Value | None:
    """Also of another quantity: cm and cm^2."""
    if not value.unit or value.shape != "number":
        return None
    near = [
        unit
        for unit in UNITS
        if UNITS[unit][0] == UNITS.get(value.unit, ("",))[0] or unit[0] == value.unit[0]
    ]
    return value._replace(unit=rng.choice(rng.choice((near, list(UNITS), NOUNS)) or list(UNITS)))


LIKE_UNITS = {"m g": "mg", "m": "m", "g": "g", "L": "L", "A": "A", "V": "V", "h": "h"}


def unit_for_symbol(value: Value, rng: Random) -> Value | None:
    """5 mg, and 5mg, which is five times m times g."""
    if len(value.terms) != 1 or value.shape != "number":
        return None
    [term] = value.terms
    for letters, unit in LIKE_UNITS.items():
        if value.unit == unit:
            return bare(value)._replace(terms=(term._replace(symbols=symbols(letters)),), name="")
        if term.symbols == symbols(letters):
            return value._replace(terms=(term._replace(symbols=()),), unit=unit)
    return None


def unit_and_none(value: Value, rng: Random) -> Value | None:
    """A number with a unit, and another number without."""
    changed = _changed(value, rng, lambda q: q + rng.choice((1, 2, 10)))
    return bare(changed)._replace(name="") if changed and value.unit else None


def other_items(value: Value, rng: Random) -> Value | None:
    """Another order, another item, one less, other brackets."""
    items = list(value.items)
    if not items or value.shape == "ratio":
        return None
    i = rng.randrange(len(items))
    shifted = Term(sum((t.factor for t in items[i].terms), Fraction(0)) + rng.choice((1, -1, Fraction(1, 2))))
    other = [*items[:i], items[i]._replace(terms=(shifted,) if shifted.factor else ()), *items[i + 1 :]]
    ways = [value._replace(items=tuple(other))]
    if value.shape == "point":
        ways += [value._replace(items=tuple(items[::-1])), value._replace(items=tuple(items[1:] + items[:1]))]
    if len(items) == 3:
        ways.append(value._replace(items=tuple(items[:2])))
    if len(items) == 2 and value.shape not in ("set", "point"):
        ways += [value._replace(shape=shape) for shape in ("(]", "[)", "[]")]
    if "∞" in value.shape:
        flipped = {"(∞": "[∞", "[∞": "∞)", "∞)": "∞]", "∞]": "(∞"}
        ways.append(value._replace(shape=flipped[value.shape]))
    return rng.choice(ways)


def upside_down(value: Value, rng: Random) -> Value | None:
    return value._replace(items=value.items[::-1]) if value.shape == "ratio" else None


def other_letter(value: Value, rng: Random) -> Value | None:
    return value._replace(name=rng.choice("ABCDE")) if value.shape == "choice" else None


OF_ANY = (other_sign, other_digit, reciprocal, power_of_ten, rounded)
OF_ITS_KIND = (
    root_moved, pi_lost, symbol_lost, other_unit, unit_for_symbol, unit_and_none, other_items, upside_down,
    other_letter,
)  # fmt: skip


# --- texts that look alike ------------------------------------------------------------------------


def lost_mark(rng: Random) -> tuple[str, str]:
    """A sign that holds the digits apart, and none."""
    a, b, c = rng.randint(1, 9), rng.randint(2, 9), rng.randint(2, 9)
    big = rng.randint(10_000, 999_999)
    comma = f"{big:,}"
    p, q = sorted(rng.sample(range(1, 10), 2))
    return rng.choice(
        [
            (f"{b}^{{{c}}}", f"{b}{c}"),
            (f"{b}^{c}", f"{b}{c}"),
            (f"{b}**{c}", f"{b}*{c}") if (b, c) != (2, 2) else ("2**3", "2*3"),
            (f"{a}.{b}", f"{a}{b}"),
            (rf"{a}\frac{{{p}}}{{{q}}}", rf"\frac{{{a}{p}}}{{{q}}}"),
            (f"{a} {p}/{q}", f"{a}{p}/{q}"),
            (f"{a}½", f"{a}1/2"),
            (comma, comma.replace(",", ", ")),
            (comma.replace(",", " "), comma.replace(",", ".")),
            (f"({comma.replace(',', ', ')})", comma),
            (f"{b}x^{{{c}}}", f"{b}x_{{{c}}}"),
            (rf"10^{{-{b}}}", rf"10^{{{b}}}"),
            (rf"\sqrt{{{b}}}{c}", rf"\sqrt{{{b}{c}}}"),
            (f"√{b}", f"{b}"),
            (f"x^{b}", f"x{b}"),
            (f"{a}:{b}", f"{a}{b}"),
            (f"{a}!" if a > 2 else "4!", f"{a}" if a > 2 else "4"),
            (f"{b}x + {c}", f"{b}(x + {c})"),
            (f"-{b}", f"{b}"),
            (f"|-{b}|", f"-{b}"),
            (rf"\frac{{{b}}}{{{c + 9}}}", rf"\frac{{{c + 9}}}{{{b}}}"),
            (f"{b}x", f"{b}"),
        ]
    )


def other_words(rng: Random) -> tuple[str, str]:
    """Words that make another number of it."""
    n = rng.randint(4, 99)  # 3 choose two is 3
    noun, other = rng.sample(NOUNS, 2)
    more = (
        "below zero", "less than", "choose two", "over six", "lakh", "dozen", "million", "thousand",
        "squared", "factorial", "times x", "hundredths", "percent of x", "to the fourth power",
    )  # fmt: skip
    return rng.choice([(f"{n} {rng.choice(more)}", str(n))] * 3 + [(f"{n} {noun}", f"{n} {other}")])


ALIKE = (lost_mark, other_words)


# --- pairs that differ, and groups ----------------------------------------------------------------


def apart(a: Value, b: Value) -> bool:
    """Not the same, none leaves something out, and a teacher would not hesitate: (1, 2) may be a point and
    an open interval."""
    doubtful = {a.shape, b.shape} == {"set", "point"} and a.items == b.items
    return meaning(a) != meaning(b) and not forgiven(a, b) and not doubtful


def writable(value: Value) -> bool:
    """No symbol stands alone, as B is a choice, no number outgrows what people write, no item stands twice,
    and an interval begins before it ends."""
    items = [sum((t.factor for t in item.terms), Fraction(0)) for item in value.items]
    if len(set(items)) < len(items) or (
        value.shape not in ("set", "point", "ratio") and items != sorted(items)
    ):
        return False
    alone = any(t.symbols and abs(t.factor) == 1 and t.root + t.pi == 1 for t in value.terms)
    long = any(t.factor.denominator > 10_000 and not decimal(t.factor) for t in value.terms)
    return not alone and not long


def unnamed(value: Value) -> Value:
    """So that the pair is not `x = 5` and `y = 7`."""
    return value._replace(name="") if value.shape == "number" else value


def near_miss(value: Value, rng: Random) -> tuple[str, Value]:
    """What was changed, and a value that is apart from this one."""
    for _ in range(20):
        change = rng.choice(OF_ITS_KIND if rng.random() < 0.8 else OF_ANY)
        other = change(value, rng)
        if other is not None and writable(other) and apart(value, other):
            return change.__name__.replace("_", " "), other
    other = next(v for v in iter(lambda: spellings.draw(rng), None) if apart(value, v))
    return "another", other


def unequal_pair(rng: Random) -> Pair:
    if rng.random() < 0.15:
        change = rng.choice(ALIKE)
        texts = list(change(rng))
        rng.shuffle(texts)
        return Pair(*texts, False, change.__name__.replace("_", " "))
    value = spellings.draw(rng)
    how, other = near_miss(value, rng)
    a, b = spell(value, rng), spell(unnamed(other), rng)
    return Pair(*rng.sample((a, b), 2), False, how)


@dataclass
class Group:
    answers: list[str | None]
    values: list[Value | None]


def group(rng: Random, size: int = 8) -> Group:
    """Samples of a question: a few values, near misses among them, each written in its ways."""
    values: list[Value] = [spellings.draw(rng)]
    while len(values) < rng.choice((2, 3, 4)):
        values.append(near_miss(values[0], rng)[1])
    if values[0].unit and rng.random() < 0.5:
        values.append(unnamed(bare(values[0])))
    picked = [rng.choice([*values, values[0]]) if rng.random() < 0.95 else None for _ in range(size)]
    return Group([value and spell(value, rng) for value in picked], picked)
