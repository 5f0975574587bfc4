r"""LaTeX, Unicode and code to one plain notation.

    plain_spelling(r"\dfrac{1}{2}\,\text{cm}")  ->  r"\frac{1}{2} cm"

Left out: what it says, which answers/keys.py and answers/equivalence.py read.
"""

import re
import unicodedata

from answers.extract import closing_brace
from answers.units import mark

_COMMANDS = (
    {unicodedata.name(letter).split()[-1].lower(): letter for letter in "αβγδεζηθικμνξπρστφχψω"}
    | {unicodedata.name(letter).split()[-1].capitalize(): letter for letter in "ΓΔΘΞΠΣΦΨΩ"}
    | {"lambda": "λ", "Lambda": "Λ", "varepsilon": "ε", "vartheta": "θ", "varphi": "φ"}
    | {
        "cdot": "*",
        "times": "*",
        "div": "/",
        "pm": "±",
        "infty": "∞",
        "circ": "°",
        "degree": "°",
        "angle": "∠",
    }
    | {"le": "≤", "leq": "≤", "leqslant": "≤", "ge": "≥", "geq": "≥", "geqslant": "≥", "ne": "≠", "neq": "≠"}
    | {
        "lt": "<",
        "gt": ">",
        "in": "∈",
        "cup": "∪",
        "cap": "∩",
        "emptyset": "∅",
        "varnothing": "∅",
        "triangle": "△",
    }
    | {"lbrace": "⦃", "rbrace": "⦄", "langle": "⟨", "rangle": "⟩", "dfrac": r"\frac", "tfrac": r"\frac"}
    | {"left": "", "right": "", "displaystyle": "", "rm": "", "bf": "", "quad": " ", "qquad": " "}
    | {"cfrac": r"\frac", "colon": ":", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|"}
    | {"approx": "≈", "dots": "...", "ldots": "...", "cdots": "..."}
)
_ESCAPES = (
    {"{": "⦃", "}": "⦄"}
    | dict.fromkeys("()[]!", "")
    | dict.fromkeys(",;:", " ")
    | {c: c for c in "%&#_"}
    | {"$": ""}
)
_SIGNS = str.maketrans(
    dict.fromkeys("−‐‑‒–—﹣", "-")
    | dict.fromkeys("×·⋅∙∗", "*")
    | dict.fromkeys("÷∕⁄", "/")
    | dict.fromkeys("º˚∘", "°")
    | dict.fromkeys("$€£¥", "")
    | {"√": r"\sqrt", "∆": "Δ", "⩽": "≤", "⩾": "≥", "~": " ", "…": "...", "ℝ": r"\mathbb{R}"}
)
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_SUBSCRIPT = re.compile("[₀-₉]+")
_VULGAR_FRACTION = re.compile("[¼½¾⅐-⅞]")
_WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it|sf|normal)|[mhf]box|boxed|underline|operatorname)\s*\{([^{}]*)\}"
)
_OUTER_WRAPPER = re.compile(r"[\s$]*\\(?:boxed|text(?:bf|it)?|math(?:rm|bf))\s*\{")
_COMMAND = re.compile(
    r"\\(?:(?:left|right)\s*\.|([A-Za-z]+)|(?<=[0-9]\\)(,)(?=[0-9]{3}(?![0-9]))|(\s|[^A-Za-z]))"  # 1\,000
)
_OVERLINE = re.compile(
    r"\\overline\s*\{([A-Za-z]+)\}|(?<![0-9.])([0-9]*)\.([0-9]*)\\(?:overline|bar)\s*\{([0-9]{1,9})\}"
)
_OVER = re.compile(r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}")
_ELLIPSIS = re.compile(r"(?<![0-9.])([0-9]*)\.([0-9]*?)([0-9]{1,4}?)\3{2,}\.\.\.")
_PLAIN = re.compile(
    r"\\?[A-Za-z]{2,}"
    r"|[<>]="
    r"|\^\s*(?:°|\{\s*°\s*\})"
    r"|(?<=[0-9])\{,\}(?=[0-9]{3})"
    r"|_\{([A-Za-z0-9]+)\}(?![A-Za-z0-9])"
    r"|(?<![0-9./^_])([0-9]+) ([0-9]+) ?/ ?([0-9]+)(?![0-9.])"  # 1 1/2
)
_EXACT = {"sqrt": r"\sqrt", "pi": "π", "<=": "≤", ">=": "≥", "{,}": ","}

_PHRASE = re.compile(
    r"^(?:(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final |correct )?answer ?(?:is ?:?|:|=) ?)?"
    r"(?:(?:option|choice) (?=\(?[A-Z]\b)"
    r"|(?:the )?(?:correct |right |best )?(?:answer|option|choice) (?:is:? )?(?=\(?[A-Z]\)?\Z))?",
    re.IGNORECASE,
)


def plain_spelling(text: str) -> str:
    """One spelling for each sign; wrappers, spacing, closing punctuation and opening phrases
    removed; words in lower case."""
    if not text.isascii():  # before NFKC, which would read 5² as 52 and 1½ as 11/2
        text = _SUPERSCRIPT.sub(lambda match: "^{" + unicodedata.normalize("NFKC", match[0]) + "}", text)
        text = _SUBSCRIPT.sub(lambda match: "_{" + unicodedata.normalize("NFKC", match[0]) + "}", text)
        text = _VULGAR_FRACTION.sub(_fraction_command, text)
        text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS)
    if "\\" in text:
        text = _WRAPPER.sub(_unwrapped, _without_outer_wrapper(text))
        if r"\over" in text or r"\bar" in text:
            text = _OVER.sub(r"\\frac{\1}{\2}", _OVERLINE.sub(_over_line, text))
        text = _COMMAND.sub(_plain_command, text)
    text = text.replace("$", "").replace("~", " ")
    if "..." in text:
        text = _ELLIPSIS.sub(_repeating, text)
    text = " ".join(_PLAIN.sub(_plain_word, text).strip("* \t\n").split()).rstrip(" .,;:")
    if " " in text or ":" in text:
        phrase = _PHRASE.match(text)
        if phrase:
            return text[phrase.end() :]
    return text


def _fraction_command(match: re.Match) -> str:
    numerator, _, denominator = unicodedata.normalize("NFKC", match[0]).partition("⁄")
    return rf"\frac{{{numerator}}}{{{denominator}}}"


def _without_outer_wrapper(text: str) -> str:
    r"""What stands within \boxed{\frac{1}{2}}; wrappers that hold no braces are taken off wherever
    they stand."""
    match = _OUTER_WRAPPER.match(text)
    if match and text.count("{") > 1:
        inside = text.rstrip(" $.")
        if closing_brace(inside, match.end(), len(inside)) == len(inside) - 1:
            return inside[match.end() : -1]
    return text


def _unwrapped(match: re.Match) -> str:
    """What a wrapper holds. A unit behind a value stays marked as one."""
    before = match.string[: match.start()].rstrip(" \\,;:!~")
    behind_value = before[-1:].isalnum() or before[-1:] in ("}", ")", "/", "*", "°")
    return behind_value and mark(match[1]) or f" {match[1]} "


def _plain_command(match: re.Match) -> str:
    name, comma, sign = match.groups()
    if name:
        return _COMMANDS.get(name, match[0])
    if comma or not sign:
        return comma or ""
    return _ESCAPES.get(sign, " " if sign.isspace() else match[0])


def _plain_word(match: re.Match) -> str:
    """Yes and YES are yes, Square is square; AB, ABC and ABCD stay the names of points."""
    text = match[0]
    if text in _EXACT:
        return _EXACT[text]
    subscript, whole, above, below = match.groups()
    if whole:
        return rf"{whole}\frac{{{above}}}{{{below}}}"
    if subscript:
        return "_" + subscript
    if text[0] == "^":
        return "°"
    if text[0] == "\\" or text.islower():
        return text
    is_word = (len(text) > 2 and text.istitle()) or text.lower() in ("yes", "no", "true", "false", "none")
    return text.lower() if is_word else text


def _over_line(match: re.Match) -> str:
    letters, whole, decimals, period = match.groups()
    return letters if letters else _as_fraction(whole, decimals, period)


def _repeating(match: re.Match) -> str:
    return _as_fraction(*match.groups())


def _as_fraction(whole: str, decimals: str, period: str) -> str:
    """0.1666... is 1/6: (16 - 1)/90."""
    above = int(whole + decimals + period) - int(whole + decimals or 0)
    return rf"\frac{{{above}}}{{{(10 ** len(period) - 1) * 10 ** len(decimals)}}}"
