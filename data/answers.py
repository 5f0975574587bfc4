r"""From a response to a vote: the boxed answer, and one key for all ways of writing it.

    extract_answer(r"so \boxed{\frac{1}{2}}")  ->  r"\frac{1}{2}"
    canonical(r"\frac{1}{2}")                  ->  "1/2", as for "0.5", ".50", "2/4" and "x = 1/2"
    equivalent(r"2\sqrt3", "sqrt(12)")         ->  True

`canonical` spells LaTeX and Unicode plainly, drops what carries no meaning (dollar signs, spacing, units, "x ="),
splits lists, tuples, sets and relations, and reads each piece as a sum of terms coefficient * sqrt(integer) * symbols
with exact rational coefficients. What it can't read stays text. Nothing is evaluated as code; number, depth and length
are bounded.

Decisions, where one could want either
- A unit is dropped, so are percent and degree signs: `5 cm` must vote with `5`, and so it also votes with `5 m`, and
  `50%` with `50`. One-letter units need a space before them (`5 m`): `5m` may be five times m.
- `(b)` is the choice B, but a bare `b` may be a variable. `B. 45` and `(B) 45` are the choice B.
- `(1,2)`, `[1,2]`, `{1,2}` and `1,2` differ: point or interval, closed interval, set, list. Only a set forgets order.
- `1,000` is a thousand outside brackets, `(1,000)` is a pair. `100, 200` with a space is a list.
- `3-5` stays text, since it may be a range; so do `2024-01-05` and `1/2x`, which can mean two things.
- `x=5` is `5`, whatever the one name on the left; `x=5, y=3` keeps its names, and `AB=CD` is a claim.

Left out: factoring and cancelling, symbolic powers, functions, matrices, number words, nouns that are no unit
(`5 apples`), conversion between units, products of letters without a space (`xy` is one name).
"""

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache
from hashlib import sha256
from math import gcd, isqrt

MAX_CHARS = 400  # a longer answer is compared as text
MAX_DEPTH = 16  # brackets within brackets
MAX_ROUNDS = 8  # rewriting normally settles after one round
MAX_EXPONENT = 30
MAX_NUMBER = 10**40  # of numerators and denominators
MAX_RADICAND = 10**6  # square factors are found by trial division
MAX_TERMS = 16  # of a product, before like terms meet

_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\[\\{}]|(\{)|(\})")  # escaped ones in neither group


def extract_answer(text: str) -> str | None:
    r"""Content of the last complete `\boxed{...}` (innermost, if nested); None where there is none or it is empty."""
    end = text.rfind("}") + 1  # nothing closes behind the last brace
    at = text.rfind("\\boxed", 0, end)
    while at >= 0:
        box = _BOX.match(text, at, end)
        if box:
            close = _closing_brace(text, box.end(), end)
            if close >= 0:
                return text[box.end() : close].strip() or None
            end = at  # this box never closes, so none that opens before it closes behind it: time stays linear
        at = text.rfind("\\boxed", 0, at)
    return None


def _closing_brace(text: str, start: int, end: int) -> int:
    """Index of the brace that closes a group whose content starts at `start`; -1 if none does before `end`."""
    depth = 1
    for match in _BRACE.finditer(text, start, end):
        depth += (match.lastindex == 1) - (match.lastindex == 2)
        if depth == 0:
            return match.start()
    return -1


def equivalent(a: str | None, b: str | None) -> bool:
    """Whether two answers have the same key; an empty answer is equivalent to nothing."""
    key = canonical(a)
    return key is not None and key == canonical(b)


def canonical(answer: str | None) -> str | None:
    """A string key, equal for answers that mean the same, and its own key. None for an empty answer.

    Never raises on a string, never evaluates it, and takes bounded time: beyond MAX_CHARS it is not read, only hashed.
    """
    if answer is None:
        return None
    if len(answer) > MAX_CHARS:
        answer = " ".join(answer.split())
    if len(answer) > MAX_CHARS:
        return _hashed(answer)
    return _shortcut(answer) or _settle(answer)


_READY = re.compile(r"[A-Z]|0|-?[1-9][0-9]{0,14}|text:[0-9a-f]{64}")
_SIMPLE = re.compile(
    r"(-?)(?:([0-9]{1,15})(?:\.([0-9]{1,15})|/([1-9][0-9]{0,14}))|\\[dt]?frac\{([0-9]{1,15})\}\{([1-9][0-9]{0,14})\})"
)


def _shortcut(text: str) -> str | None:
    """The key of a plain letter, integer, decimal or fraction: what the long way gives, many times faster."""
    if _READY.fullmatch(text):
        return text
    match = _SIMPLE.fullmatch(text)
    if not match:
        return None
    sign, whole, decimals, below, numerator, denominator = match.groups("")
    n, d = int(numerator or whole + decimals), int(denominator or below or 1) * 10 ** len(decimals)
    common = gcd(n, d)
    return (sign if n else "") + str(n // common) + (f"/{d // common}" if d > common else "")


@lru_cache(maxsize=8192)  # the samples of a group repeat each other
def _settle(answer: str) -> str | None:
    """Rewrite until nothing changes, which makes every key its own key."""
    text = answer
    for _ in range(MAX_ROUNDS):
        before, text = text, _rewrite(text)
        if text == before or text == _shortcut(text):
            return text or None
        if len(text) > MAX_CHARS:
            break
    return _hashed(answer)


def _hashed(text: str) -> str:
    return "text:" + sha256(" ".join(text.split()).encode("utf-8", "surrogatepass")).hexdigest()


def _rewrite(text: str) -> str:
    text = _PHRASE.sub("", _plain_spelling(text), count=1)
    if len(text) > MAX_CHARS:  # one character of Unicode can stand for eighteen
        return text
    choice = _choice_letter(text)
    if choice:
        return choice
    named = _NAMED.fullmatch(text)
    text = named[1] if named else text
    return _read_structure(_THOUSANDS.sub(_join_thousands, text))


# --- spelling: LaTeX and Unicode to one plain notation ----------------------------------------------------------------

_COMMANDS = (
    {unicodedata.name(letter).split()[-1].lower(): letter for letter in "αβγδεζηθικμνξπρστφχψω"}
    | {unicodedata.name(letter).split()[-1].capitalize(): letter for letter in "ΓΔΘΞΠΣΦΨΩ"}
    | {"lambda": "λ", "Lambda": "Λ", "varepsilon": "ε", "vartheta": "θ", "varphi": "φ"}
    | {"cdot": "*", "times": "*", "div": "/", "pm": "±", "infty": "∞", "circ": "°", "degree": "°", "angle": "∠"}
    | {"le": "≤", "leq": "≤", "leqslant": "≤", "ge": "≥", "geq": "≥", "geqslant": "≥", "ne": "≠", "neq": "≠"}
    | {"lt": "<", "gt": ">", "in": "∈", "cup": "∪", "cap": "∩", "emptyset": "∅", "varnothing": "∅", "triangle": "△"}
    | {"lbrace": "⦃", "rbrace": "⦄", "langle": "⟨", "rangle": "⟩", "dfrac": r"\frac", "tfrac": r"\frac"}
    | {"left": "", "right": "", "displaystyle": "", "rm": "", "bf": "", "quad": " ", "qquad": " "}
)
_SIGNS = str.maketrans(
    dict.fromkeys("−‐‑‒–—﹣", "-")
    | dict.fromkeys("×·⋅∙∗", "*")
    | dict.fromkeys("÷∕⁄", "/")
    | dict.fromkeys("º˚∘", "°")
    | dict.fromkeys("$€£¥", "")
    | {"√": r"\sqrt", "∆": "Δ", "⩽": "≤", "⩾": "≥", "~": " "}
)
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_SUBSCRIPT = re.compile("[₀-₉]+")
_VULGAR_FRACTION = re.compile("[¼½¾⅐-⅞]")
_WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it|sf|normal)|[mhf]box|boxed|operatorname)\s*\{([^{}]*)\}"
)
_LATEX = [
    (re.compile(r"\\\{"), "⦃"),  # so that the braces of a set can't be taken for braces that group
    (re.compile(r"\\\}"), "⦄"),
    (re.compile(r"(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))"), ","),  # 1\,000
    (re.compile(r"\\[()\[\]!]|\\(?:left|right)\s*\."), ""),
    (re.compile(r"\\[,;:>\s]"), " "),
    (re.compile(r"\\([$%&#_])"), r"\1"),
    (re.compile(r"\\([A-Za-z]+)"), lambda match: _COMMANDS.get(match[1], match[0])),
]
_PLAIN = [
    (re.compile(r"(?<=[0-9])\{,\}(?=[0-9]{3})"), ","),
    (re.compile(r"<="), "≤"),
    (re.compile(r">="), "≥"),
    (re.compile(r"(?<![A-Za-z\\])sqrt(?![A-Za-z])"), r"\\sqrt"),
    (re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])"), "π"),
    (re.compile(r"\^\s*(?:°|\{\s*°\s*\})"), "°"),
    (re.compile(r"_\{([A-Za-z0-9]+)\}(?![A-Za-z0-9])"), r"_\1"),
    (re.compile(r"(?<![0-9./^_])([0-9]+) ([0-9]+) ?/ ?([0-9]+)(?![0-9.])"), r"\1\\frac{\2}{\3}"),  # 1 1/2
    (re.compile(r"\\?[A-Za-z]{2,}"), lambda match: _lower_word(match[0])),
]


def _plain_spelling(text: str) -> str:
    """One spelling for each sign; text wrappers, spacing and closing punctuation removed; words in lower case."""
    if not text.isascii():  # before NFKC, which would read 5² as 52 and 1½ as 11/2
        text = _SUPERSCRIPT.sub(lambda match: "^{" + unicodedata.normalize("NFKC", match[0]) + "}", text)
        text = _SUBSCRIPT.sub(lambda match: "_{" + unicodedata.normalize("NFKC", match[0]) + "}", text)
        text = _VULGAR_FRACTION.sub(_fraction_command, text)
        text = unicodedata.normalize("NFKC", text.translate(_SIGNS))
    if "\\" in text:
        text = _WRAPPER.sub(r" \1 ", text)
        for pattern, plain in _LATEX:
            text = pattern.sub(plain, text)
    text = text.translate(_SIGNS)
    for pattern, plain in _PLAIN:
        text = pattern.sub(plain, text)
    return " ".join(text.split()).rstrip(" .,;:")


def _fraction_command(match: re.Match) -> str:
    numerator, _, denominator = unicodedata.normalize("NFKC", match[0]).partition("⁄")
    return rf"\frac{{{numerator}}}{{{denominator}}}"


def _lower_word(word: str) -> str:
    """Yes and YES are yes, Square is square; AB, ABC and ABCD stay the names of points."""
    is_word = (len(word) > 2 and word.istitle()) or word.lower() in ("yes", "no", "true", "false", "none")
    return word.lower() if is_word and word[0] != "\\" else word


# --- what stands around the answer ------------------------------------------------------------------------------------

_PHRASE = re.compile(
    r"^(?:(?:the )?(?:final |correct )?answer ?(?:is ?:?|:|=) ?)?(?:(?:option|choice) (?=\(?[A-Z]\b))?", re.IGNORECASE
)
_CHOICE = re.compile(r"\( ?([A-Za-h]) ?\)|([A-Z])\)")
_CHOICE_WITH_TEXT = re.compile(r"(?:\(([A-H])\)|([A-H])[.)]) (?!.*(?<![A-Za-z])[A-H](?![A-Za-z])).+")  # not (A) and (C)
_RELATIONS = "=<>≤≥≠∈"
_NAME = r"(?:m? ?[∠△] ?\w+|(?:[A-Za-z]+|[α-ωΑ-Ω])(?:_[A-Za-z0-9]+)?'?(?:\([A-Za-z]\))?)"
_NAMED = re.compile(rf"{_NAME} ?=(?! ?[A-Za-z]+\Z) ?([^{_RELATIONS}]+)")  # not AB = CD, which is a claim
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])")
_OPEN, _CLOSE = "([{⦃⟨", ")]}⦄⟩"


def _choice_letter(text: str) -> str | None:
    match = _CHOICE.fullmatch(text) or _CHOICE_WITH_TEXT.fullmatch(text)
    return (match[1] or match[2]).upper() if match else None


def _join_thousands(match: re.Match) -> str:
    before = match.string[: match.start()]
    inside_brackets = sum(map(before.count, _OPEN)) > sum(map(before.count, _CLOSE))
    return match[0] if inside_brackets else match[0].replace(",", "")


# --- structure: lists, relations, tuples and sets of single values ----------------------------------------------------


def _read_structure(text: str, depth: int = 0) -> str:
    text = text.strip()
    items, sides = _split(text, ","), _split(text, _RELATIONS)
    if not items or not sides or depth > MAX_DEPTH:
        return _as_text(text)
    if len(items) > 1:
        return ", ".join(_read_structure(item, depth + 1) for item in items[::2])
    if len(sides) > 1:
        return "".join(side if side in _RELATIONS and side else _read_structure(side, depth + 1) for side in sides)
    inside = _split(text[1:-1], ",") if text[:1] in tuple(_OPEN) and text[-1] in _CLOSE else None
    return _read_bracketed(text, inside[::2], depth) if inside else _read_value(text)


def _read_bracketed(text: str, items: list[str], depth: int) -> str:
    opening, closing = text[0], text[-1]
    keys = [_read_structure(item, depth + 1) for item in items]
    if opening + closing in ("()", "{}") and len(keys) == 1 and keys[0]:
        return keys[0]
    if opening + closing in ("{}", "⦃⦄"):
        opening, closing, keys = "⦃", "⦄", sorted(set(keys))
    return opening + ", ".join(keys) + closing  # kinds may differ: [0, 1) is an interval


def _split(text: str, separators: str) -> list[str] | None:
    """[piece, separator, piece, ...], cut outside all brackets; None where the brackets don't match."""
    parts, start, depth = [], 0, 0
    for i, character in enumerate(text):
        if character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth -= 1
            if depth < 0:
                return None
        elif depth == 0 and character in separators:
            parts += [text[start:i], character]
            start = i + 1
    return None if depth else [*parts, text[start:]]


# --- a single value ---------------------------------------------------------------------------------------------------

_UNIT_WORD = (
    r"(?:[cmdkμn]m|(?:centi|milli|deci|kilo)?(?:met(?:er|re)|gram|lit(?:er|re))s?|in|inch(?:es)?|ft|foot|feet|yd|yards?"
    r"|mi|miles?|[km]g|lbs?|pounds?|oz|ounces?|m[lL]|secs?|seconds?|mins?|minutes?|hrs?|hours?|days?|weeks?|months?"
    r"|years?|mph|dollars?|cents?|euros?|units?|%|per ?cent|°(?: ?[CF])?|deg(?:rees?)?(?: (?:celsius|fahrenheit))?"
    r"|rad(?:ians?)?)"
)
_UNIT_LETTER = r"[mgshlLNJWV]"
_UNIT_POWER = r"(?: ?\^? ?(?:[23]|\{ ?[23] ?\})| squared| cubed)?"
_WITH_UNIT = re.compile(
    r"((?:[-+*/^(){} 0-9.π]|\\frac|\\sqrt)*[0-9)}π.])"
    rf"(?: ?(?:square |sq\.? |cubic |cu\.? )?{_UNIT_WORD}| {_UNIT_LETTER}){_UNIT_POWER}"
    rf"(?: ?(?:/|\*|per ) ?(?:{_UNIT_WORD}|{_UNIT_LETTER}){_UNIT_POWER})?"
)
_RANGE_OR_DATE = re.compile(r"[0-9]+ ?- ?[0-9]+|[0-9]+(?: ?[-/] ?[0-9]+){2,}")


def _read_value(text: str) -> str:
    with_unit = _WITH_UNIT.fullmatch(text)
    text = (with_unit[1] if with_unit else text).rstrip(" °")
    if _RANGE_OR_DATE.fullmatch(text):
        return _as_text(text)
    try:
        return _show(_Reader(text).read())
    except _Unreadable:
        return _as_text(text)


def _as_text(text: str) -> str:
    """What can't be read, with blanks only between words and no braces around a single exponent."""
    return re.sub(r"(?<!\w) | (?!\w)", "", re.sub(r"([\^_])\{(\w)\}(?!\w)", r"\1\2", text))


class _Unreadable(Exception):
    """The text is no sum of terms, or is beyond the bounds above."""


# A sum: {(radicand, ((symbol, exponent), ...)): coefficient}; each entry is coefficient * sqrt(radicand) * symbols.
Terms = dict[tuple[int, tuple[tuple[str, int], ...]], Fraction]
ONE = (1, ())  # the key of plain numbers


def _bounded(terms: Terms) -> Terms:
    terms = {key: c for key, c in terms.items() if c}
    for (radicand, _), c in terms.items():
        if max(abs(c.numerator), c.denominator) > MAX_NUMBER or radicand > MAX_RADICAND:
            raise _Unreadable
    return terms


def _times(a: Terms, b: Terms) -> Terms:
    if len(a) * len(b) > MAX_TERMS:
        raise _Unreadable
    product: Terms = {}
    for (r, symbols), c in a.items():
        for (s, more), d in b.items():
            common = gcd(r, s)  # sqrt(r) sqrt(s) = common sqrt(r s / common^2), again free of squares
            exponents = dict(symbols)
            for name, n in more:
                exponents[name] = exponents.get(name, 0) + n
            key = (r * s // common**2, tuple(sorted((name, n) for name, n in exponents.items() if n)))
            product[key] = product.get(key, 0) + c * d * common
    return _bounded(product)


def _inverse(terms: Terms) -> Terms:
    if not terms:
        raise _Unreadable  # 1/0
    if len(terms) > 1:
        return {(1, ((f"({_show(terms)})", -1),)): Fraction(1)}
    [((radicand, symbols), c)] = terms.items()
    return _bounded({(radicand, tuple((name, -n) for name, n in symbols)): 1 / (c * radicand)})


def _power(base: Terms, exponent: Terms) -> Terms:
    n = exponent.get(ONE, Fraction(0))
    if n == Fraction(1, 2) and len(exponent) == 1:
        return _sqrt(base)
    if exponent.keys() - {ONE} or n.denominator != 1 or abs(n) > MAX_EXPONENT or (n <= 0 and not base):
        raise _Unreadable
    factor = _inverse(base) if n < 0 else base
    result = {ONE: Fraction(1)}
    for bit in f"{abs(int(n)):b}":
        result = _times(result, result)
        result = _times(result, factor) if bit == "1" else result
    return result


def _sqrt(terms: Terms) -> Terms:
    if terms.keys() - {ONE}:
        return {(1, ((f"sqrt({_show(terms)})", 1),)): Fraction(1)}
    value = terms.get(ONE, Fraction(0))
    radicand, outside = value.numerator * value.denominator, Fraction(1, value.denominator)  # sqrt(p/q) = sqrt(p q)/q
    if radicand >= 0 and isqrt(radicand) ** 2 == radicand:
        return _bounded({ONE: isqrt(radicand) * outside})
    if not 0 < radicand <= MAX_RADICAND:
        raise _Unreadable
    for d in range(2, isqrt(radicand) + 1):
        while radicand % (d * d) == 0:
            radicand, outside = radicand // (d * d), outside * d
    return {(radicand, ()): outside}


def _show(terms: Terms) -> str:
    """The key of a sum: 2*sqrt(3)/3, x^2/(2*y)-1. Reading it again gives the same sum."""
    text = ""
    for radicand, symbols in sorted(terms, key=lambda key: (key == ONE, key[1], key[0])):
        c = terms[radicand, symbols]
        above = [f"sqrt({radicand})"] * (radicand > 1) + [_show_power(name, n) for name, n in symbols if n > 0]
        below = [str(c.denominator)] * (c.denominator > 1) + [_show_power(name, -n) for name, n in symbols if n < 0]
        above = [str(abs(c.numerator))] * (abs(c.numerator) > 1 or not above) + above
        text += ("-" if c < 0 else "+" if text else "") + "*".join(above)
        if below:
            text += "/" + (below[0] if len(below) == 1 else "(" + "*".join(below) + ")")
    return text or "0"


def _show_power(name: str, n: int) -> str:
    return name if n == 1 else f"{name}^{n}"


_TOKEN = re.compile(
    r" ?(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,2}(?![0-9]))?)"
    r"|(?P<name>(?:[A-Za-z]{1,3}(?![A-Za-z])|[α-ωΑ-Ω∞])(?:_[A-Za-z0-9]+)?)"
    r"|(?P<sign>\\(?:frac|sqrt)(?![A-Za-z])|[-+*/^(){}]))"
)


class _Reader:
    """Recursive descent: sum = [+-] product ([+-] product)*, product = power ([*/] power)*, power = value [^ value]."""

    def __init__(self, text: str):
        self.tokens, self.at, self.depth, end = [], 0, 0, 0  # tokens: (kind, text)
        while end < len(text):
            match = _TOKEN.match(text, end)
            if not match:
                raise _Unreadable
            self.tokens.append((match.lastgroup, match[match.lastgroup]))
            end = match.end()
        self.tokens.append(("end", ""))

    def take(self, *wanted: str) -> str:
        """The next token if it is one of these, else an empty string."""
        token = self.tokens[self.at][1]
        self.at += token in wanted
        return token if token in wanted else ""

    def read(self) -> Terms:
        total = self.sum()
        if self.tokens[self.at][0] != "end":
            raise _Unreadable
        return total

    def sum(self) -> Terms:
        total: Terms = {}
        sign = self.take("+", "-") or "+"
        while sign:
            for key, c in self.product().items():
                total[key] = total.get(key, 0) + (c if sign == "+" else -c)
            sign = self.take("+", "-")
        return _bounded(total)

    def product(self) -> Terms:
        whole = self.tokens[self.at][1].isdigit() and self.tokens[self.at + 1][1] == r"\frac"
        total, operator = self.power(), ""
        if whole:
            total = self.mixed_number(total)
        while True:
            after_division, operator = operator == "/", self.take("*", "/")
            if not operator and not self.multiplies_silently(after_division):
                return total
            factor = self.power()
            total = _times(total, _inverse(factor) if operator == "/" else factor)

    def multiplies_silently(self, after_division: bool) -> bool:
        """Whether a factor follows without a sign, as in 2x or 3(x+1). Raises where that could mean something else."""
        (last_kind, last), (kind, text) = self.tokens[self.at - 1 : self.at + 1]
        if text in ("", "+", "-", ")", "}"):
            return False
        two_words = kind == last_kind == "name" and len(last + text) > 2
        call = last_kind == "name" and text == "("
        if kind == "number" or text in ("^", "{") or after_division or two_words or call:
            raise _Unreadable
        return True

    def mixed_number(self, whole: Terms) -> Terms:
        r"""1\frac{1}{2} is 3/2, but 2\frac{x}{3} is a product; 2\frac{3}{2} could be either."""
        fraction = self.power()
        if fraction.keys() - {ONE}:
            return _times(whole, fraction)
        if not 0 < fraction.get(ONE, 0) < 1:
            raise _Unreadable
        return {ONE: whole.get(ONE, 0) + fraction[ONE]}

    def power(self) -> Terms:
        base = self.value()
        if not self.take("^"):
            return base
        sign = self.take("+", "-")
        exponent = self.value()
        return _power(base, {key: -c for key, c in exponent.items()} if sign == "-" else exponent)

    def value(self) -> Terms:
        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            return _bounded({ONE: _parse_number(text)})
        if kind == "name":
            return {(1, ((text, 1),)): Fraction(1)}
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Unreadable
        if text == r"\sqrt":
            result = _sqrt(self.value())
        elif text == r"\frac":
            result = _times(self.fraction_part(), _inverse(self.fraction_part()))
        elif text in ("(", "{"):
            result = self.sum()
            if not self.take(")" if text == "(" else "}"):
                raise _Unreadable
        else:
            raise _Unreadable
        self.depth -= 1
        return result

    def fraction_part(self) -> Terms:
        r"""What \frac takes: a group or one sign, so that \frac12 is a half."""
        kind, text = self.tokens[self.at]
        if kind == "number" and len(text) > 1:
            self.tokens[self.at : self.at + 1] = [(kind, text[0]), (kind, text[1:])]
        return self.value()


def _parse_number(text: str) -> Fraction:
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, decimals = mantissa.partition(".")
    shift = int(exponent or 0) - len(decimals)
    if len(mantissa) > 40 or abs(int(exponent or 0)) > MAX_EXPONENT or not (whole + decimals).isdigit():
        raise _Unreadable
    return int(whole + decimals) * Fraction(10) ** shift


def option_key(answer: str | None, choices: tuple[str, ...] = ()) -> str | None:
    """The canonical form of an answer to a question with lettered choices: an option's value counts as its letter."""
    key = canonical(answer)
    for i, choice in enumerate(choices):
        if key is not None and key == canonical(choice):
            return canonical(chr(65 + i))
    return key
