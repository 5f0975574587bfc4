"""Numbers with words behind them: `5 apples` counts like a unit, `3 million` is a number, `5 below zero` is
neither.

    with_unit("5 apples")   ->  ("5", Unit of apples)
    with_unit("3 million")  ->  ("3*1000000", None)
"""

import re
from functools import lru_cache

from answers.units import Unit, split_unit

_FACTORS = (
    {"hundred": "100", "thousand": "10^3", "million": "10^6", "billion": "10^9", "trillion": "10^12"}
    | {"dozen": "12", "gross": "144", "lakh": "10^5", "crore": "10^7"}
    | {"half": "1/2", "halves": "1/2", "quarter": "1/4", "quarters": "1/4"}
    | {
        word + s: f"1/{n}"
        for s in ("", "s")
        for n, word in enumerate("third fourth fifth sixth seventh eighth ninth tenth".split(), 3)
    }
    | {"hundredth": "1/100", "hundredths": "1/100", "thousandth": "1/1000", "thousandths": "1/1000"}
)
# plurals that are no things, or make another number of it
_NO_NOUNS = frozenset(
    "dozens pairs scores times plus minus less gross tens ones hundreds thousands millions billions"
    " trillions lakhs crores halves quarters thirds fourths fifths sixths sevenths eighths ninths tenths"
    " percents has is was does across always perhaps unless versus modulus digits places terms bases"
    " factors powers roots".split()
)
_IRREGULAR = frozenset(
    "people children men women mice feet fish sheep deer geese dice cattle data vertices matrices".split()
)
_COUNTED = re.compile(
    r"(-?[0-9][0-9.,]*(?:/[0-9]+)?|[a-z]+)[ -]([A-Za-z]{3,}(?:[ -][A-Za-z]{3,})?)", re.IGNORECASE
)
_NOT_BEFORE_NOUNS = frozenset(
    "more less fewer other over under root times square cube and or not out of the power plus minus per"
    " choose mod modulo below above".split()
)


@lru_cache(maxsize=8192)
def with_unit(text: str) -> tuple[str, Unit | None]:
    """A value and its unit or noun."""
    found = split_unit(text)
    if found:
        return found
    match = _COUNTED.fullmatch(text)
    if not match:
        return text, None
    number, words = match[1], re.split("[ -]", match[2].lower())
    if words[0] in _FACTORS:
        if len(words) == 1:
            return f"{number}*({_FACTORS[words[0]]})", None
        return text, None
    noun = words[-1]
    plural = (
        (noun.endswith("s") and not noun.endswith("ss"))
        or noun in _IRREGULAR
        or number.lower() in ("1", "one")
    )
    if not plural or noun in _NO_NOUNS or set(words[:-1]) & (_NOT_BEFORE_NOUNS | _FACTORS.keys() | _NO_NOUNS):
        return text, None
    singular = noun.removesuffix("s")
    return number, Unit(match[2], "1", ((" ".join([*words[:-1], singular]), 1),))
