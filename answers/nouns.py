"""Numbers with words behind them: a noun counts like a unit, and other words make another answer.

    with_unit("5 apples")       ->  ("5", Unit of apples)
    with_unit("five volts")     ->  ("5", Unit("V", ...))
    with_unit("1 h 15 min")     ->  (5/4 as a sum, Unit("h", ...))
    with_unit("5 below zero")   ->  ("5 below zero", None)

What is taken for a noun is a plural, or stands behind a one; at most one word before it may say which.
"""

import re
from fractions import Fraction
from functools import lru_cache

from answers.units import Unit, read_unit, split_unit, without_marks
from answers.words import leading_number

# plurals that are no things, or make another number of it
_NO_NOUNS = frozenset(
    "dozens pairs scores times plus minus less gross tens ones hundreds thousands millions billions"
    " trillions lakhs crores halves quarters thirds fourths fifths sixths sevenths eighths ninths tenths"
    " percents has is was does across always perhaps unless versus modulus digits places terms bases"
    " factors powers roots".split()
)
_NOT_BEFORE_NOUNS = _NO_NOUNS | frozenset(
    "more fewer other over under root square cube and or not out of the power per choose mod modulo below"
    " above half quarter third dozen hundred thousand million billion trillion lakh crore".split()
)
_IRREGULAR = frozenset(
    "people children men women mice feet fish sheep deer geese dice cattle data vertices matrices".split()
)
_NUMBER = r"-?(?:[0-9](?:[-+0-9.,/*^{} ]|[eE](?=[-+]?[0-9]))*(?<=[0-9}])|\\frac\{[0-9]+\}\{[0-9]+\})"
_NUMBER_AND_UNIT = re.compile(r"([0-9.]+) ?([A-Za-z]+),?")
_SEVERAL_UNITS = re.compile(r"[0-9.]+ ?[A-Za-z]+(?:,? [0-9.]+ ?[A-Za-z]+){1,2}")
_COUNTED = re.compile(rf"({_NUMBER})[ -]([A-Za-z]{{3,}}(?:[ -][A-Za-z]{{3,}})?)")


@lru_cache(maxsize=8192)
def with_unit(text: str) -> tuple[str, Unit | None]:
    """A value and its unit or noun."""
    if found := _of_several_units(text) or split_unit(text):
        return found
    match = _COUNTED.fullmatch(text)
    number, rest = (match[1], match[2]) if match else ("", "")
    unit = None
    if text[-1:].isalnum() and (in_words := leading_number(text)):  # fifty volts, 3 million people
        number, rest = in_words
        unit = read_unit(rest)
    unit = unit or (_noun(number, rest) if rest else None)
    return (number, unit) if unit else (text, None)


def _of_several_units(text: str) -> tuple[str, Unit] | None:
    """1 h 15 min, 5 feet 6 inches: a sum, in the first unit."""
    text = without_marks(text)
    if not text[:1].isdigit() or not _SEVERAL_UNITS.fullmatch(text):
        return None
    numbers, names = zip(*_NUMBER_AND_UNIT.findall(text), strict=True)
    units = [unit for unit in map(read_unit, names) if unit]
    scales = [Fraction(unit.scale) for unit in units if unit.dimension == units[0].dimension != ()]
    if len(scales) < len(names) or scales != sorted(set(scales), reverse=True):
        return None  # 5 m 6 m is none
    parts = zip(numbers, units, strict=True)
    return "+".join(f"{number}*({unit.scale})/({units[0].scale})" for number, unit in parts), units[0]


def _noun(number: str, text: str) -> Unit | None:
    words = re.split("[ -]", text.lower())
    noun = words[-1]
    plural = (noun.endswith("s") and not noun.endswith("ss")) or noun in _IRREGULAR or number == "1"
    if len(words) > 2 or not plural or noun in _NO_NOUNS or set(words[:-1]) & _NOT_BEFORE_NOUNS:
        return None
    return Unit(text, "1", ((" ".join([*words[:-1], noun.removesuffix("s")]), 1),))
