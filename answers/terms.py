r"""An answer that is a letter, a word or a sum of plain terms, read at one look: most are, and the long way
of answers/keys.py costs several times as much.

    shortcut(r"$x = \dfrac{6\sqrt{3}}{4} \text{ cm}$")  ->  "3*sqrt(3)/2 cm"
    shortcut("(B)")                                     ->  "B"
    shortcut("y = 2x - 1")                              ->  "2*x-1"

A term is coefficient * sqrt(integer) * symbol^exponent / integer. Its coefficient is a number, a fraction
(with a root and a symbol, if need be), both as a mixed number, or a number times a power of ten. A single
word is its own key. What is found here is what the long way gives, as a test shows; anything else is None.
"""

import re
from functools import lru_cache
from math import gcd
from typing import Any

from answers.expressions import RANGE_OR_DATE, Unreadable
from answers.spelling import plain_spelling
from answers.sums import MAX_EXPONENT, MAX_NUMBER, Sum, plus, show, square_free
from answers.units import join_unit, split_unit
from answers.words import number_in_words

MAX_SIZE = MAX_NUMBER // 10**4  # so that nothing on the long way is beyond MAX_NUMBER

_BELOW = "[1-9][0-9]{0,14}+"
_NAMED = r"\$?+(?:[A-Za-z] ?= ?+)?+"
_NO_UNIT = r"\\(?:sqrt|pi|[dtc]?frac\{?[0-9\\]|cdot|times)"
_UNIT = rf"((?:\\,|\\ |~| )?(?!{_NO_UNIT})[\\A-Za-z%°^][\\A-Za-z%°^{{}}/ 23]{{0,30}})?\.?\$?"
READY = re.compile(r"[A-Za-z]|-?[π∞]|0|-?[1-9][0-9]{0,14}|text:[0-9a-f]{64}")  # a key as it stands
_START = re.compile(  # of what may be terms: neither a list, nor a number with words behind it
    r"(?!.*, |[0-9]+(?: [a-zA-Z]|\^| ?\\(?:text|le|ge|ne|pm)))"
    r"(?:[-+−$0-9.√π]|\\(?:[dtc]?frac|sqrt|pi)|[A-Za-z](?![A-Za-z]))"
)
_NUMBER = re.compile(
    rf"{_NAMED}(-?)(?:([0-9]{{1,15}})(?:\.([0-9]{{1,15}})|/({_BELOW}))?"
    rf"|\\[dtc]?frac ?\{{([0-9]{{1,15}})\}}\{{({_BELOW})\}}|\\[dtc]?frac([0-9])([1-9])){_UNIT}"
)
_LETTER = re.compile(
    r"\$?(?:\\(?:text|mathrm|textbf|mathbf)\{\(?([A-Z])[).]?\}|\(([A-Z])\)|([A-Z])[).])\.?\$?"
)


def _term(group: str) -> str:
    """Nothing in it is tried twice. The product of two radicands is in bounds."""
    root = rf"(?: ?(?:\\sqrt|√) ?{group}\{{[0-9]{{1,3}}\}}|[0-9]{{1,3}}+))?+"
    letter = r"[A-DF-Za-df-z](?![A-Za-z])|[eE](?![A-Za-z]| ?[-+]?[0-9])"
    symbol = rf"(?: ?\\pi(?![A-Za-z])| ?[π∞]|(?<![A-Za-z])(?:{letter})(?:_(?:[0-9]++|[a-z]))?+(?![\w{{]))"
    braced = rf"\{{{group}[0-9]{{0,15}}+){root}{group}{symbol})?+\}}\{{(?!\}}){group}{_BELOW})?+{root}\}}"
    fraction = rf" ?\\[dtc]?frac ?(?:{braced}|{group}[0-9]){group}[1-9]))"
    ten = rf" ?(?:\\times|\\cdot|×|\*) ?10\^{group}\{{-?[0-9]{{1,2}}\}}|[0-9])"
    return (
        r"(?=[0-9.√π∞]|\\[dtc]?frac|\\(?:sqrt|pi)|[A-Za-z](?![A-Za-z]))"
        rf"{group}[0-9]{{0,15}}+)(?:\.{group}[0-9]{{1,15}}+))?+(?:{ten})?+(?:{fraction})?+{root}"
        rf"(?:{group}{symbol})(?:\^{group}[2-9]|\{{[2-9]\}}))?+)?+(?: ?/ ?{group}{_BELOW}))?+"
    )


_TERM = re.compile(f" ?([-+−]?) ?{_term('(')}")
_SUM = re.compile(rf"[-+−]? ?{_term('(?:')}(?: ?[-+−] ?{_term('(?:')})*+")
_ANSWER = re.compile(rf"({_NAMED})({_SUM.pattern}){_UNIT}")
_IS_SYMBOLIC = re.compile(r"frac|sqrt|pi|[π√]")
_HAS_NO_UNIT = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])|[^{][-+−]|∞")  # x, or several terms


def shortcut(text: str) -> str | None:
    """The key of an answer that is a letter, a word, a sum of terms, or a term with a unit."""
    return read_number(text) or read_answer(text)


def read_number(text: str) -> str | None:
    """The key of a letter or a plain number, with a unit or without: too fast to be remembered."""
    if READY.fullmatch(text):
        return text
    if match := _NUMBER.fullmatch(text):
        sign, whole, decimals, below, above, under, a, b, tail = match.groups("")
        n, d = int((whole or above or a) + decimals), int(below or under or b or 1) * 10 ** len(decimals)
        common = gcd(n, d)
        number = (sign if n else "") + str(n // common) + (f"/{d // common}" if d > common else "")
        unit = _unit(r"\frac12" if above or a else "1", tail) if tail else ""
        return None if unit is None else number + unit
    if text[-1:] in (")", ".", "}", "$") and (match := _LETTER.fullmatch(text)):
        return match[1] or match[2] or match[3]
    return None


def read_answer(text: str) -> str | None:
    """The key of a word, a sum of terms, or a term with a unit."""
    if not _START.match(text):
        return _word(text) if text.isalpha() and text.isascii() else None
    match = _ANSWER.fullmatch(text)
    if not match or (match[1] and match[2].isalpha()):  # x = y is a claim
        return None
    if not match[3]:
        return _key(text, *match.span(2))
    value = "1"
    if _IS_SYMBOLIC.search(match[2]):
        value = r"\frac{1}{2}" if match[2][-1] == "}" else r"\frac12"
    if _HAS_NO_UNIT.search(match[2]) or _unit(value, match[3]) is None:
        return None
    key = _key(text, *match.span(2))
    return key and key + (_unit(value, match[3], "π" in key or "(" in key) or "")


def _word(text: str) -> str | None:
    word = plain_spelling(text)
    return number_in_words(word) or word if word.isalpha() and word.isascii() else None


def read_terms(text: str) -> str | None:
    """The key of a sum of terms."""
    return _key(text, 0, len(text)) if _SUM.fullmatch(text) else None


def _key(text: str, start: int, end: int) -> str | None:
    """Of the terms that stand there, one after the other."""
    if text[start : start + 1].isdigit() and RANGE_OR_DATE.fullmatch(text[start:end].replace("−", "-")):
        return None
    total, at = None, start
    try:
        while at < end:
            if not (match := _TERM.match(text, at)):
                return None
            term, at = _value(match.groups("")), match.end()
            total = plus(total, term) if total else term
    except Unreadable:
        return None
    return show(total) if total else None


def _value(term: tuple[str | Any, ...]) -> Sum:
    """Of the groups of _TERM: r, s and q are root and symbol above and root below a fraction's line."""
    sign, whole, decimals, ten, above, r, s, under, q, a, b, root, symbol, e, below = term
    n, d, radicand = int(whole + decimals or 1), int(below or 1) * 10 ** len(decimals), 1
    if not any(term[1:-1]):
        raise Unreadable
    if ten:
        power = int(ten.strip("{}"))
        if abs(power) > MAX_EXPONENT or not whole + decimals:
            raise Unreadable
        n, d = n * 10 ** max(power, 0), d * 10 ** max(-power, 0)
    if under or a or q:
        p, t = int(above or a or 1), int(under or b or 1)
        mixed = whole or decimals
        if not (above or a or r or s) or (s and symbol) or (root and (r or q)):
            raise Unreadable
        if mixed and (not 0 < p < t or decimals or ten or r or s or q):
            raise Unreadable
        n, d = (n * t + p if mixed else p), d * t
    if r or q or root:
        for size in (r, q, root):
            radicand *= int(size.strip("{}") or 1)
        d *= int(q.strip("{}") or 1)
        outside, radicand = square_free(radicand)
        n *= outside
    if not 0 < d <= MAX_SIZE or n > MAX_SIZE:
        raise Unreadable
    if not n:
        return {}, 1
    name = symbol or s
    symbols = ((name.strip().replace(r"\pi", "π"), int(e.strip("{}") or 1)),) if name else ()
    common = gcd(n, d)
    return {(radicand, symbols): (-n if sign in ("-", "−") else n) // common}, d // common


@lru_cache(maxsize=4096)
def _unit(value: str, tail: str, is_symbolic: bool = False) -> str | None:
    """What a unit behind a value adds to its key, None where it is none."""
    found = split_unit(plain_spelling(value + tail))
    if not found or found[0] != plain_spelling(value):
        return None
    return join_unit("π" if is_symbolic else "1", found[1])[1:]
