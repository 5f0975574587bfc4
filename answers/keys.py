r"""One key for all ways of writing an answer, which is what a vote counts.

    canonical(r"\frac{1}{2}")                  ->  "1/2", as for "0.5", ".50", "2/4" and "x = 1/2"
    equivalent(r"2\sqrt3", "sqrt(12)")         ->  True

`canonical` spells LaTeX and Unicode plainly, drops what carries no meaning (dollar signs, spacing,
units, "x ="), splits lists, tuples, sets and relations, and reads each piece as a sum of terms
coefficient * sqrt(integer) * symbols with exact rational coefficients. What it can't read stays
text. Nothing is evaluated as code; number, depth and length are bounded.

Decisions, where one could want either
- A unit is dropped, so are percent and degree signs: `5 cm` must vote with `5`, and so it also
  votes with `5 m`, and `50%` with `50`. One-letter units need a space before them (`5 m`): `5m` may
  be five times m.
- `(b)` is the choice B, but a bare `b` may be a variable. `B. 45`, `B: 45` and `(B) 45` are B too.
- `(1,2)`, `[1,2]`, `{1,2}` and `1,2` differ: point or interval, closed interval, set, list. Only a
  set forgets order.
- `1,000` is a thousand outside brackets, `(1,000)` is a pair. `100, 200` with a space is a list.
- `3-5` stays text, since it may be a range; so do `2024-01-05` and `1/2x`, which can mean two things.
- `x=5` is `5`, whatever the one name on the left; `x=5, y=3` keeps its names, and `AB=CD` is a claim.
- `0.333...` is 1/3, `0.33` is not. `five` alone is `5`.

A key makes classes, so it must be transitive; what a grader accepts beyond it (the list `2, 1` for
`1, 2`, `0.5` for `50%`) stands in answers/equivalence.py. Left out of keys: factoring and
cancelling, symbolic powers, functions, matrices, nouns that are no unit (`5 apples`), conversion
between units, products of letters without a space (`xy` is one name).
"""

import re
from functools import lru_cache
from hashlib import sha256
from math import gcd

from answers.equivalence import Same, agreement
from answers.spelling import plain_spelling
from answers.sums import MAX_DEPTH, read_sum
from answers.words import number_in_words

MAX_CHARS = 400  # a longer answer is compared as text
MAX_WORDS = 100_000  # characters; a longer one is compared with its blanks
MAX_ROUNDS = 8  # rewriting normally settles after one round


def equivalent(a: str | None, b: str | None) -> bool:
    """Whether a grader who holds one of the answers for right would accept the other; symmetric.

    Wider than equal keys (answers/equivalence.py says in what) and not transitive: 50 ~ 50% ~ 0.5. An
    empty answer is equivalent to nothing.
    """
    return compare(a, b) > Same.NO


def compare(a: str | None, b: str | None) -> Same:
    """How far two answers agree: no, where one leaves out what the other says, or wholly."""
    key, other = canonical(a), canonical(b)
    if a is None or b is None or key is None or other is None or key == other:
        return Same.YES if key is not None and key == other else Same.NO
    return _compare(a, b) if max(len(a), len(b)) <= MAX_CHARS else Same.NO


@lru_cache(maxsize=8192)  # the samples of a question give the same wrong answers again and again
def _compare(a: str, b: str) -> Same:
    a, b = plain_spelling(a), plain_spelling(b)
    return agreement(a, b, canonical) if max(len(a), len(b)) <= MAX_CHARS else Same.NO


def canonical(answer: str | None) -> str | None:
    """A string key, equal for answers that mean the same, and its own key. None for an empty
    answer.

    Never raises on a string, never evaluates it, and takes bounded time: beyond MAX_CHARS it is not
    read, only hashed.
    """
    if answer is None:
        return None
    if len(answer) > MAX_CHARS:
        answer = " ".join(answer.split()) if len(answer) < MAX_WORDS else answer.strip()
    if len(answer) > MAX_CHARS:
        return _hashed(answer)
    return _shortcut(answer) or _settle(answer)


# The forms that most answers have. The long way, `_rewrite`, must give the same keys: a test
# compares them.
_UNIT_WORD = (
    r"(?:[cmdkμn]m|(?:centi|milli|deci|kilo)?(?:met(?:er|re)|gram|lit(?:er|re))s?|in\.?|inch(?:es)?|ft|foot|feet"
    r"|yd|yards?|mi|miles?|[km]g|lbs?|pounds?|oz|ounces?|m[lL]|secs?|seconds?|mins?|minutes?|hrs?|hours?|days?|weeks?"
    r"|months?|years?(?: old)?|mph|dollars?|cents?|euros?|units?|%|per ?cent|°(?: ?[CF])?"
    r"|deg(?:rees?)?(?: (?:celsius|fahrenheit))?|rad(?:ians?)?|ohms?|Ω)"
)
_UNIT_LETTER = r"[mgshlLNJWV]"
_UNIT_POWER = r"(?: ?\^? ?(?:[23]|\{ ?[23] ?\})| squared| cubed)?"
_READY = re.compile(r"[A-Z]|0|-?[1-9][0-9]{0,14}|text:[0-9a-f]{64}")
_SIMPLE = re.compile(
    r"\$?(?:[A-Za-z] ?= ?)?(-?)(?:([0-9]{1,15})(?:\.([0-9]{1,15})|/([1-9][0-9]{0,14}))?"
    r"|\\[dtc]?frac ?\{([0-9]{1,15})\}\{([1-9][0-9]{0,14})\}|\\[dtc]?frac([0-9])([1-9]))"
    rf"(?:\^\\circ|\^\{{\\circ\}}|°|\\?%| ?{_UNIT_WORD}{_UNIT_POWER}"
    rf"|(?:\\,|\\ |~| )?\\(?:text|mathrm)\{{ ?(?:{_UNIT_WORD}|{_UNIT_LETTER})\}}{_UNIT_POWER})?\.?\$?"
)
_LETTER = re.compile(
    r"\$?(?:\\(?:text|mathrm|textbf|mathbf)\{\(?([A-Z])[).]?\}|\(([A-Z])\)|([A-Z])[).])\.?\$?"
)


def _shortcut(text: str) -> str | None:
    """The key of a plain letter, integer, decimal or fraction: what the long way gives, many times
    faster."""
    if _READY.fullmatch(text):
        return text
    match = _SIMPLE.fullmatch(text)
    if match:
        sign, whole, decimals, below, numerator, denominator, digit, over = match.groups("")
        if not decimals:
            n, d = int(whole or numerator or digit), int(below or denominator or over or 1)
        else:
            n, d = int(whole + decimals), 10 ** len(decimals)
        common = gcd(n, d)
        return (sign if n else "") + str(n // common) + (f"/{d // common}" if d > common else "")
    match = _LETTER.fullmatch(text)
    return match[1] or match[2] or match[3] if match else None


@lru_cache(maxsize=8192)  # the samples of a group repeat each other
def _settle(answer: str) -> str | None:
    """Rewrite until nothing changes, which makes every key its own key."""
    text = answer
    for _ in range(MAX_ROUNDS):
        before, (text, settled) = text, _rewrite(text)
        if len(text) > MAX_CHARS:
            break
        if settled or text == before or text == _shortcut(text) or _is_words(text):
            return text or None
    return _hashed(" ".join(answer.split()))


def _is_words(text: str) -> bool:
    """Whether it is words with nothing to take off any more."""
    return bool(_WORDS.fullmatch(text)) and plain_spelling(text) == text and not number_in_words(text)


def _hashed(text: str) -> str:
    return "text:" + sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


_WORDS = re.compile(r"[a-z]{2,}(?: [a-z]{2,})*")
# of a denominator, say: may open in the next round
_SUM_IN_BRACKETS = re.compile(r"(?<!sqrt)\(|sqrt\((?![0-9]+\))")


def _rewrite(text: str) -> tuple[str, bool]:
    """One round, and whether its result is known to be its own key: where all of it was read as
    sums."""
    text = plain_spelling(text)
    if len(text) > MAX_CHARS:  # one character of Unicode can stand for eighteen
        return text, False
    choice = _choice_letter(text) or number_in_words(text)
    if choice:
        return choice, True
    named = NAMED.fullmatch(text) if "=" in text else None
    if named:
        text = named[1]
    as_text: list[str] = []
    text = _read_structure(text, as_text)
    text = number_in_words(text) or text  # two-0
    return text, not as_text and not _SUM_IN_BRACKETS.search(text)


# --- what stands around the answer ----------------------------------------------------------------

_CHOICE = re.compile(r"\( ?([A-Za-h]) ?\)|([A-Za-h])\)|\[([A-H])\]")
_CHOICE_WITH_TEXT = re.compile(  # not (A) and (C)
    r"(?:\(([A-H])\)|([A-H])[.):]) (?!.*(?<![A-Za-z])[A-H](?![A-Za-z])).+"
)
_RELATIONS = "=<>≤≥≠∈"
_NAME = (
    r"(?:m? ?[∠△] ?\w+|(?:[A-Za-z]+|[α-ωΑ-Ω])(?:_[A-Za-z0-9]+)?'?(?:\([A-Za-z]\))?|\([a-z](?:, ?[a-z])+\)"
    r"|[A-Z]{2}(?: ?[-+] ?[A-Z]{2})+)"
)
NAMED = re.compile(rf"{_NAME} ?=(?! ?[A-Za-z]+\Z) ?([^{_RELATIONS}]+)")  # not AB = CD, which is a claim
_OPEN, _CLOSE = "([{⦃⟨", ")]}⦄⟩"


def _choice_letter(text: str) -> str | None:
    if text[:1] not in ("(", "[") and text[1:2] not in (".", ")", ":"):
        return None
    match = _CHOICE.fullmatch(text) or _CHOICE_WITH_TEXT.fullmatch(text)
    return match[match.lastindex or 0].upper() if match else None


# --- structure: lists, relations, tuples and sets of single values --------------------------------

_STRUCTURE = re.compile(r"^ *[({]|[,=<>≤≥≠∈\[\]⦃⦄⟨⟩]")
_BRACKET_OR_CUT = re.compile(r"[(\[{⦃⟨)\]}⦄⟩,=<>≤≥≠∈]")


def _read_structure(text: str, as_text: list[str]) -> str:
    """The key; pieces that are no sums are also added to `as_text`."""
    text = text.strip()
    if not _STRUCTURE.search(text):
        return _read_value(text, as_text)
    items, sides = _split(text, ","), _split(text, _RELATIONS)
    if not items or not sides:
        return _as_text(text, as_text)
    if len(items) > 1:
        return ", ".join([_read_structure(item, as_text) for item in items[::2]])
    if len(sides) > 1:
        key = "".join([s if s in _RELATIONS and s else _read_structure(s, as_text) for s in sides])
        if NAMED.fullmatch(key):
            as_text.append(key)  # 1x = 5 is x=5 after a round, and 5 after two
        return key
    inside = _split(text[1:-1], ",") if text[:1] in tuple(_OPEN) and text[-1] in _CLOSE else None
    return _read_bracketed(text, inside[::2], as_text) if inside else _read_value(text, as_text)


def _read_bracketed(text: str, items: list[str], as_text: list[str]) -> str:
    opening, closing = text[0], text[-1]
    keys = [_read_structure(item, as_text) for item in items]
    if opening + closing in ("()", "{}") and len(keys) == 1 and keys[0]:
        return keys[0]
    if opening + closing in ("{}", "⦃⦄"):
        opening, closing, keys = "⦃", "⦄", sorted(set(keys))
    return opening + ", ".join(keys) + closing  # kinds may differ: [0, 1) is an interval


def _split(text: str, separators: str) -> list[str] | None:
    """[piece, separator, piece, ...], cut outside all brackets; None where the brackets don't match
    or are too deep."""
    parts, start, depth = [], 0, 0
    for match in _BRACKET_OR_CUT.finditer(text):
        character = match[0]
        if character in _OPEN:
            depth += 1
            if depth > MAX_DEPTH:
                return None
        elif character in _CLOSE:
            depth -= 1
            if depth < 0:
                return None
        elif depth == 0 and character in separators:
            parts += [text[start : match.start()], character]
            start = match.end()
    return None if depth else [*parts, text[start:]]


# --- a single value -------------------------------------------------------------------------------

_UNIT = (
    rf"(?: ?\(?(?:square |sq\.? |cubic |cu\.? )?{_UNIT_WORD}| {_UNIT_LETTER}"
    rf"| ?\\frac\{{ ?{_UNIT_LETTER} ?\}}\{{ ?{_UNIT_LETTER}{_UNIT_POWER} ?\}})"
)
WITH_UNIT = re.compile(
    rf"((?:[-+*/^(){{}} 0-9.π]|\\frac|\\sqrt)*[0-9)}}π.]){_UNIT}{_UNIT_POWER}"
    rf"(?: ?(?:/|\*|per ) ?(?:{_UNIT_WORD}|{_UNIT_LETTER}){_UNIT_POWER})?\)?"
)
_FUNCTION = re.compile(r"(?:sin|cos|tan|cot|sec|csc)")  # keeps the degrees of its argument
_LOOSE_BRACES = re.compile(r"([\^_])\{(\w)\}(?!\w)")
_LOOSE_BLANK = re.compile(r"(?<!\w) | (?!\w)")
_HAS_NAME = re.compile(r"(?<![A-Za-z\\])[A-Za-z%°Ωμ]")


def _read_value(text: str, as_text: list[str]) -> str:
    if _HAS_NAME.search(text):
        with_unit = WITH_UNIT.fullmatch(text)
        text = with_unit[1] if with_unit else text
        text = text if _FUNCTION.search(text) else text.rstrip(" °")
    return read_sum(text) or _as_text(text, as_text)


def _as_text(text: str, as_text: list[str]) -> str:
    """What can't be read, with blanks only between words and no braces around a single exponent."""
    as_text.append(text)
    return _LOOSE_BLANK.sub("", _LOOSE_BRACES.sub(r"\1\2", text))
