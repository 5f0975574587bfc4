r"""Units behind a value: what they are worth, and when letters are a unit and no factor.

    split_unit(r"\frac{1}{2} cm")  ->  (r"\frac{1}{2}", Unit("cm", "1/100", (("m", 1),)))
    split_unit(r"\frac{3}{2}mg")   ->  None: m times g

A unit stands apart: wrapped (`\text{m}`, which the plain notation keeps as ⟦m⟧), behind a plain number and
a space (`5 mg`, `2 A`), or, where its name can hardly be a product (`cm`, `kN`, `min`), anywhere behind a
number, fraction or root. Everything else is a factor: `3mg`, `2nm`, `\frac13\pi h`, `2 m g h`.

Values are converted by `scale`, a factor in plain notation to units of the SI: two units of one dimension are
compared through it. Temperatures in °C and °F have dimensions of their own, since their zeros differ; degrees
and percent have none. Left out: prefixes of rare units.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

Dimension = tuple[tuple[str, int], ...]


class Unit(NamedTuple):
    shown: str  # its spelling in a key; "" where it says nothing: square units
    scale: str  # its worth in base units, a formula
    dimension: Dimension  # exponents of base units, in their order

    def is_number(self, bare: str) -> bool:
        """Whether a value in this unit is a number without one too: 50% is 0.5, 30° is π/6 (but not .52)."""
        return not self.dimension and ("π" not in self.scale or "π" in bare)


class _Atom(NamedTuple):
    shown: str
    scale: Fraction
    dimension: Dimension


def _atom(shown: str, scale: Fraction | int | str, **dimension: int) -> _Atom:
    return _Atom(shown, Fraction(scale), tuple(sorted(dimension.items())))


_PREFIXES = dict(
    f="1e-15",
    p="1e-12",
    h="1e2",
    n="1e-9",
    μ="1e-6",
    u="1e-6",
    m="1e-3",
    c="1e-2",
    d="1e-1",
    k="1e3",
    M="1e6",
    G="1e9",
    T="1e12",
)
_PREFIX_WORDS = dict(
    pico="p", nano="n", micro="μ", milli="m", centi="c", deci="d", kilo="k", mega="M", giga="G", tera="T"
)
_SI = {  # symbol: (word, prefixes that are in use, the unit)
    "m": ("met(?:er|re)", "fpnμumcdk", _atom("m", 1, m=1)),
    "g": ("gram(?:me)?", "nμumk", _atom("g", "1/1000", kg=1)),
    "s": ("second", "fpnμum", _atom("s", 1, s=1)),
    "A": ("amp(?:ere)?", "nμumk", _atom("A", 1, A=1)),
    "K": ("kelvin", "m", _atom("K", 1, K=1)),
    "mol": ("mole", "μumk", _atom("mol", 1, mol=1)),
    "N": ("newton", "mkM", _atom("N", 1, kg=1, m=1, s=-2)),
    "J": ("joule", "mkMG", _atom("J", 1, kg=1, m=2, s=-2)),
    "W": ("watt", "mkMG", _atom("W", 1, kg=1, m=2, s=-3)),
    "V": ("volt", "mμukM", _atom("V", 1, kg=1, m=2, s=-3, A=-1)),
    "Pa": ("pascal", "hkMG", _atom("Pa", 1, kg=1, m=-1, s=-2)),
    "Hz": ("hertz", "kMGT", _atom("Hz", 1, s=-1)),
    "F": ("farad", "pnμum", _atom("F", 1, kg=-1, m=-2, s=4, A=2)),
    "C": ("coulomb", "pnμum", _atom("C", 1, A=1, s=1)),
    "H": ("henry", "nμum", _atom("H", 1, kg=1, m=2, s=-2, A=-2)),
    "T": ("tesla", "nμum", _atom("T", 1, kg=1, s=-2, A=-1)),
    "Wb": ("weber", "m", _atom("Wb", 1, kg=1, m=2, s=-2, A=-1)),
    "Ω": ("ohm", "mkM", _atom("Ω", 1, kg=1, m=2, s=-3, A=-2)),
    "L": ("lit(?:er|re)", "μumcdk", _atom("L", "1/1000", m=3)),
    "l": ("lit(?:er|re)", "mcd", _atom("L", "1/1000", m=3)),
    "eV": ("electron ?volt", "mkMG", _atom("eV", "1.602176634e-19", kg=1, m=2, s=-2)),
    "cal": ("calorie", "k", _atom("cal", "4.184", kg=1, m=2, s=-2)),
    "bar": ("bar", "m", _atom("bar", 100_000, kg=1, m=-1, s=-2)),
    "B": ("byte", "kMGT", _atom("B", 8, bit=1)),
    "bit": ("bit", "kMGT", _atom("bit", 1, bit=1)),
}
_OTHERS = {  # names: the unit
    "sec secs": _SI["s"][2],
    "min mins minute minutes": _atom("min", 60, s=1),
    "h hr hrs hour hours": _atom("h", 3600, s=1),
    "day days": _atom("day", 86_400, s=1),
    "week weeks": _atom("week", 604_800, s=1),
    "month months": _atom("month", 1, month=1),
    "year years yr yrs": _atom("year", 12, month=1),
    "in inch inches": _atom("in", "0.0254", m=1),
    "ft foot feet": _atom("ft", "0.3048", m=1),
    "yd yds yard yards": _atom("yd", "0.9144", m=1),
    "mi mile miles": _atom("mile", "1609.344", m=1),
    "mph": _atom("mph", "0.44704", m=1, s=-1),
    "kph kmph": _atom("km/h", "5/18", m=1, s=-1),
    "lb lbs pound pounds": _atom("lb", "0.45359237", kg=1),
    "oz ounce ounces": _atom("oz", "0.028349523125", kg=1),
    "t ton tons tonne tonnes": _atom("t", 1000, kg=1),
    "acre acres": _atom("acre", "4046.8564224", m=2),
    "ha hectare hectares": _atom("ha", 10_000, m=2),
    "gallon gallons gal": _atom("gallon", "0.003785411784", m=3),
    "atm atmosphere atmospheres": _atom("atm", 101_325, kg=1, m=-1, s=-2),
    "mmHg torr Torr": _atom("mmHg", "133.322", kg=1, m=-1, s=-2),
    "psi": _atom("psi", "6894.757", kg=1, m=-1, s=-2),
    "hp": _atom("hp", "745.7", kg=1, m=2, s=-3),
    "dyn dyne dynes": _atom("dyn", "1e-5", kg=1, m=1, s=-2),
    "erg ergs": _atom("erg", "1e-7", kg=1, m=2, s=-2),
    "Nm": _atom("J", 1, kg=1, m=2, s=-2),
    "Ns": _atom("kg*m/s", 1, kg=1, m=1, s=-1),
    "Ah": _atom("A*h", 3600, A=1, s=1),
    "mAh": _atom("mAh", "3.6", A=1, s=1),
    "S siemens": _atom("S", 1, kg=-1, m=-2, s=3, A=2),
    "Bq becquerel becquerels": _atom(
        "Bq", 1, decay=1, s=-1
    ),  # 5 Bq is not 5 Hz, 5 Sv not 5 Gy, 5 lm not 5 cd
    "Gy gray grays": _atom("Gy", 1, m=2, s=-2),
    "Sv sievert sieverts": _atom("Sv", 1, sievert=1),
    "cd candela candelas": _atom("cd", 1, cd=1),
    "lm lumen lumens": _atom("lm", 1, lm=1),
    "lx lux": _atom("lx", 1, lm=1, m=-2),
    "amu": _atom("amu", "1.66053907e-27", kg=1),
    "ppm": _atom("ppm", 1, ppm=1),
    "bpm": _atom("bpm", 1, beat=1, s=-1),
    "cc": _atom("cc", "1e-6", m=3),
    "Wh": _atom("Wh", 3600, kg=1, m=2, s=-2),
    "kWh": _atom("kWh", 3_600_000, kg=1, m=2, s=-2),
    "M": _atom("M", 1000, mol=1, m=-3),
    "dB decibel decibels": _atom("dB", 1, dB=1),
    "rpm": _atom("rpm", 1, turn=1, s=-1),
    "ly": _atom("ly", 9_460_730_472_580_800, m=1),
    "dollar dollars USD": _atom("dollars", 1, dollar=1),
    "cent cents": _atom("cents", "1/100", dollar=1),
    "euro euros EUR": _atom("euros", 1, euro=1),
    "GBP": _atom("GBP", 1, sterling=1),
    "rupee rupees Rs": _atom("rupees", 1, rupee=1),
    "yuan": _atom("yuan", 1, yuan=1),
    "yen": _atom("yen", 1, yen=1),
    "°C": _atom("°C", 1, celsius=1),
    "°F": _atom("°F", 1, fahrenheit=1),
    "rad rads radian radians": _atom("rad", 1),
    "% percent": _atom("%", "1/100"),
    "° deg degs degree degrees": _Atom("°", Fraction(1, 180), (("π", 1),)),
    "unit units": _atom("", 1),
}
# what is no product of letters even where it sticks to a number or follows a root
_CLEAR = frozenset(
    "cm mm km dm kg in ft yd mi mph kph lb lbs oz sec min hr mol Pa kPa MPa hPa Hz kHz MHz GHz kN kV kW kJ MJ"
    " eV keV MeV GeV cal kcal kWh dB rpm % ° °C °F kΩ MΩ Ω atm".split()
)


def _table() -> dict[str, _Atom]:
    atoms = {}
    for symbol, (_, prefixes, (shown, scale, dimension)) in _SI.items():
        atoms[symbol] = _Atom(shown, scale, dimension)
        for prefix in prefixes:
            name = ("μ" if prefix == "u" else prefix) + shown
            atoms[prefix + symbol] = _Atom(name, scale * Fraction(_PREFIXES[prefix]), dimension)
    for names, atom in _OTHERS.items():
        atoms |= dict.fromkeys(names.split(), atom)
    return atoms


_ATOMS = _table()
_WORDS = [
    (re.compile(rf"({'|'.join(_PREFIX_WORDS)})?{word}s?"), symbol) for symbol, (word, *_) in _SI.items()
]


@lru_cache(maxsize=4096)
def _named(name: str) -> _Atom | None:
    if name in _ATOMS:
        return _ATOMS[name]
    if len(name) > 3:
        for pattern, symbol in _WORDS:
            if word := pattern.fullmatch(name.lower()):
                return _ATOMS[_PREFIX_WORDS.get(word[1] or "", "") + symbol]
        return _ATOMS.get(name.lower())
    return None


# --- unit expressions -----------------------------------------------------------------------------

_TOKEN = re.compile(
    r"° *[CF](?![A-Za-z])|[A-Za-zμΩ]+|[°%]|\^ ?\{ ?(-? ?[0-9]) ?\}|\^ ?(-?[0-9])|(?<=[A-Za-z])([23])|[*/]"
    r"|\\frac ?\{([^{}]*)\}\{([^{}]*)\}| |(.)"
)
_BELOW = re.compile(r"/ ?\(([^()/]*)\)")  # J/(kg K)
_PHRASES = {
    "per cent": "percent", "percentage points": "percent", "percentage point": "percent",
    "years old": "years", "year old": "year", "degrees celsius": "°C", "degrees fahrenheit": "°F",
    "degree celsius": "°C", "degree fahrenheit": "°F", "deg C": "°C", "deg F": "°F",
    "light years": "ly", "light-years": "ly",
}  # fmt: skip
_AREAS = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3, "cu.": 3}
_BEHIND = {"squared": 2, "cubed": 3}
MAX_TAIL = 60  # characters


@lru_cache(maxsize=8192)
def read_unit(text: str) -> Unit | None:
    """The unit that a text is, None where it is none: "m/s^2", "square feet", "kg*m"."""
    text = text.strip()
    if len(text) > MAX_TAIL:
        return None
    if text[:1] == "(" and text[-1:] == ")":
        text = text[1:-1].strip()
    text = _PHRASES.get(text, text)
    text = text.replace("k Ω", "kΩ").replace("M Ω", "MΩ") if "Ω" in text else text
    if text[:5] == r"\frac":
        match = _TOKEN.fullmatch(text)
        above, below = (read_unit(match[i]) for i in (4, 5)) if match and match[4] else (None, None)
        return _over(above, below) if above and below else None
    factors: list[tuple[_Atom, int]] = []
    sign, power_ahead = 1, 1
    text = _BELOW.sub(lambda match: "/" + "/".join(re.split("[ *]+", match[1].strip())), text)
    for match in _TOKEN.finditer(text.replace("per ", "/")):
        token = match[0].replace(" ", "")
        power = match[1] or match[2] or match[3]
        if power or token in _BEHIND:
            if not factors:
                return None
            atom, exponent = factors[-1]
            factors[-1] = atom, exponent * (int(power.replace(" ", "")) if power else _BEHIND[token])
        elif token in _AREAS:
            power_ahead = _AREAS[token]
        elif token == "/":
            if not factors:
                return None
            sign = -1
        elif token not in ("", "*", "."):
            named = _named(token)
            if named is None:
                return None
            factors.append((named, sign * power_ahead))
            power_ahead = 1
    if not factors or power_ahead != 1:
        return None
    return _product(factors)


def _product(factors: list[tuple[_Atom, int]]) -> Unit:
    scale, dimension = Fraction(1), dict[str, int]()
    shown: dict[str, int] = {}
    for atom, exponent in factors:
        scale *= atom.scale**exponent
        shown[atom.shown] = shown.get(atom.shown, 0) + exponent
        for base, n in atom.dimension:
            dimension[base] = dimension.get(base, 0) + n * exponent
    π = dimension.pop("π", 0)
    text = ""
    for name, exponent in sorted(shown.items(), key=lambda item: (item[1] < 0, item[0])):
        if name and exponent:
            size = f"^{abs(exponent)}" if abs(exponent) > 1 else ""
            text += ("/" if exponent < 0 else "*" if text else "") + name + size
    if text[:1] == "/":
        text = f"{text[1:]}^-1"
    worth = str(scale) if not π else f"{scale}*π" if π == 1 else f"{scale}*π^({π})"
    return Unit(text, worth, tuple(sorted((base, n) for base, n in dimension.items() if n)))


def _over(above: Unit, below: Unit) -> Unit | None:
    return read_unit(f"{above.shown}/{below.shown}") if "/" not in above.shown + below.shown else None


# --- value and unit -------------------------------------------------------------------------------

_PLAIN = re.compile(r"[-+]? ?[0-9.][0-9 .,/*^{}()eE+-]*")
_VALUE = r"(?:[-+*/^(){} 0-9.,π]|\\frac|\\sqrt(?:\[[0-9]\])?|sqrt|(?<=[0-9])[eE](?=[-+]?[0-9]))*[0-9)}π.]"
_WITH_TAIL = re.compile(rf"({_VALUE})( ?)(\(?[A-Za-zμΩ%°⟦\\].*)", re.DOTALL)
_FIRST = re.compile(r"\(?(?:⟦|[A-Za-zμΩ]+|°(?: *[CF])?|%|\\frac)")
_ANY_VALUE = re.compile(r"(.*\S) ?(⟦[^⟦⟧]+⟧.*)", re.DOTALL)
_MARKS = str.maketrans("⟦⟧", "  ")
_LETTERS = re.compile(r"[A-Za-z](?:\^[23])?(?:(?: ?\* ?| )[A-Za-z](?:\^\{?[23]\}?)?)+")  # m g h is a product
_OF_LETTERS = frozenset("Nm Am Cm Tm Vm Ws Vs As Js Ns Ah Wh VA mK gm".split())  # but N m is a unit
_FUNCTION = re.compile(r"(?:sin|cos|tan|cot|sec|csc)")  # keeps the degrees of its argument


_DEGREES = Unit("°", "1/180*π", ())


@lru_cache(maxsize=8192)
def split_unit(text: str) -> tuple[str, Unit] | None:
    """(value, unit) of a text in plain notation, None where no unit ends it."""
    if "μ" in text:
        text = text.replace("μ ⟦", "⟦μ").replace("μ⟦", "⟦μ")
    if "°" in text and not _FUNCTION.search(text):  # 180°-60°, x°
        several = text.count("°") > 1  # then no range: 180-60 would be one
        value = re.sub(r"([0-9.]+) ?°", r"(\1)", text) if several else text.replace("°", "").strip()
        if text.rstrip()[-1] == "°":
            return (value, _DEGREES) if value and "°" not in value else None
    match = _WITH_TAIL.fullmatch(text)
    if match and (unit := read_unit(match[3].translate(_MARKS).replace("μ ", "μ"))):
        value, space, tail = match.groups()
        start = _FIRST.match(tail)
        first = start[0].lstrip("(").replace(" ", "") if start else ""
        plain = _PLAIN.fullmatch(value)
        clear = (
            first in ("⟦", r"\frac")
            or len(first) > 3
            or first in _CLEAR
            or (plain is not None and first in ("mL", "ml", "cL", "cl", "dL", "dl"))
        )
        squared = first == "m" and unit.shown in ("m^2", "m^3") and space  # 9π m^2
        symbols = _LETTERS.fullmatch(tail) and "".join(filter(str.isalpha, tail)) not in _OF_LETTERS
        if clear or squared or (plain and space and not symbols):
            return value.rstrip(), unit
    match = _ANY_VALUE.fullmatch(text) if "⟦" in text else None
    if match and (unit := read_unit(match[2].translate(_MARKS))):
        return match[1].translate(_MARKS), unit
    return None


def without_marks(text: str) -> str:
    return " ".join(text.translate(_MARKS).split()) if "⟦" in text or "⟧" in text else text


def mark(text: str) -> str:
    """A unit that a wrapper held, ready for `split_unit`; "" where it is none."""
    return f"⟦{text.strip()}⟧" if read_unit(text) else ""


def join_unit(value: str, unit: Unit) -> str:
    """The key of a value with its unit, which is read back as the two."""
    if not unit.shown:
        return value
    if unit.shown in ("°", "%"):
        return value + unit.shown
    text = f"{value} {unit.shown}"
    return text if split_unit(text) == (value, unit) else f"{value} ⟦{unit.shown}⟧"


def in_base_units(value: str, unit: Unit, key: Callable[[str], str | None]) -> str:
    """A formula of the number that is left where the unit is put in."""
    return f"({key(value) or value})*({unit.scale})"
