r"""One key for all ways of writing an answer, which is what a vote counts.

    canonical(r"\frac{1}{2}")                  ->  "1/2", as for "0.5", ".50", "2/4" and "x = 1/2"
    equivalent(r"2\sqrt3", "sqrt(12)")         ->  True

`canonical` spells LaTeX and Unicode plainly, drops what carries no meaning (dollar signs, spacing,
"x ="), splits lists, tuples, sets and relations, and reads each piece as a sum of terms
coefficient * sqrt(integer) * symbols with exact rational coefficients, with its unit. What it can't
read stays text. Nothing is evaluated as code; number, depth and length are bounded.

Decisions, where one could want either
- A unit is part of the key: `5 cm`, `0.05 m` and `5` have three, of which the vote joins what is one
  value (answers/vote.py). `5m` and `\frac32mg` are products (answers/units.py says when).
- `(b)` is the choice B, but a bare `b` may be a variable. `B. 45`, `B: 45` and `(B) 45` are B too.
- `(1,2)`, `[1,2]`, `{1,2}` and `1,2` differ: point or interval, closed interval, set, list. Only a
  set forgets order.
- `1,000` is a thousand outside brackets, `(1,000)` is a pair. `100, 200` with a space is a list.
- `3-5` stays text, since it may be a range; so do `2024-01-05` and `1/2x`, which can mean two things.
- `x=5` is `5`, whatever the one name on the left; `x=5, y=3` keeps its names, `AB=CD` is a claim, and
  so is `x+y=7` (answers/statements.py). Of `x = 180-60 = 120` it is the last member.
- `0.333...` is 1/3, `0.33` is not. `five` alone is `5`.

A key makes classes, so it must be transitive; what a grader accepts beyond it (the list `2, 1` for
`1, 2`, `5` for `5 cm`) stands in answers/equivalence.py. Left out of keys: factoring and cancelling,
symbolic powers, functions, matrices, nouns (`5 apples`), conversion between units, products of letters
without a space (`xy` is one name).
"""

import re
from functools import lru_cache
from hashlib import sha256

from answers.calculator import same_equation, same_number
from answers.equivalence import agreement
from answers.same import Same
from answers.spelling import plain_spelling
from answers.statements import CLOSE, OPEN, RELATIONS, split, stated
from answers.sums import read_sum
from answers.terms import READY, read_answer, read_number, read_terms, shortcut
from answers.units import join_unit, split_unit, without_marks
from answers.words import TRIGGERS, leading_number, number_in_words

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
    if _NUMBER.fullmatch(key) and _NUMBER.fullmatch(other):
        return Same.YES if same_number(key, other) else Same.NO
    return _compare(a, b) if max(len(a), len(b)) <= MAX_CHARS else Same.NO


_NUMBER = re.compile(r"(?:[-+*/^()0-9.π]|sqrt)+")  # without name and unit


@lru_cache(maxsize=8192)  # the samples of a question give the same wrong answers again and again
def _compare(a: str, b: str) -> Same:
    (spelled, value), (other, its_value) = _read(a), _read(b)
    if max(len(spelled), len(other)) > MAX_CHARS:
        return Same.NO
    if "=" in spelled and "=" in other and same_equation(spelled, other):
        return Same.YES
    return agreement(value, its_value, _remembered)


@lru_cache(maxsize=8192)  # each is compared with all the others
def _read(answer: str) -> tuple[str, str]:
    """An answer in plain spelling, and what it states."""
    text = plain_spelling(answer)
    value = stated(text)
    if " and " in value:  # eighteen and a half liters are no list of two
        value = number_in_words(value) or " ".join(leading_number(value) or [value])
    return text, value


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
    return read_number(answer) or _settle(answer)


_remembered = lru_cache(maxsize=8192)(canonical)


@lru_cache(maxsize=8192)  # the samples of a group repeat each other
def _settle(answer: str) -> str | None:
    """Rewrite until nothing changes, which makes every key its own key."""
    if key := read_answer(answer):
        return key
    text = answer
    for _ in range(MAX_ROUNDS):
        before, (text, settled) = text, _rewrite(text)
        if len(text) > MAX_CHARS:
            break
        if settled or text == before or text == shortcut(text):
            return text or None
    return _hashed(" ".join(answer.split()))


def _hashed(text: str) -> str:
    return "text:" + sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# of a denominator, say: may open in the next round
_TERM = r"-?(?:[0-9/*∞π]|sqrt\([0-9]+\))+"  # in an interval or a point
_SUM_IN_BRACKETS = re.compile(rf"(?<!sqrt)\((?!(?:{_TERM}, )+{_TERM}[)\]])|sqrt\((?![0-9]+\))")
_WORDS = re.compile(r"(?!.*(?:answer|option|choice))[a-z]{2,}(?: [a-z]{2,})*")  # nothing to take off any more


def _rewrite(text: str) -> tuple[str, bool]:
    """One round, and whether its result is known to be its own key: where all of it was read as
    sums."""
    before, text = text, plain_spelling(text)
    if len(text) > MAX_CHARS:  # one character of Unicode can stand for eighteen
        return text, False
    key = shortcut(text) if text != before else None
    return (key, True) if key else _long_way(text)


@lru_cache(maxsize=8192)  # $(3, 4)$ and (3, 4) are spelled alike
def _long_way(text: str) -> tuple[str, bool]:
    choice = _choice_letter(text) or number_in_words(text)
    if choice:
        return choice, True
    spelled, text = text, stated(text)
    if text == spelled and _WORDS.fullmatch(text):
        return text, TRIGGERS.isdisjoint(text.split())
    as_text: list[str] = []
    text = _read_structure(text, as_text)
    if as_text:
        return number_in_words(text) or text, False  # two-0
    if ("=" in text or "≈" in text) and stated(text) != text:
        return text, False  # 1x = 5 is x=5 after a round, and 5 after two
    return text, not _SUM_IN_BRACKETS.search(text)


# --- what stands around the answer ----------------------------------------------------------------

_CHOICE = re.compile(
    r"\( ?([A-Za-h]) ?\)|([A-Za-h])\)|\[([A-H])\]"
    r"|([A-J]) is (?:the )?(?:correct|right)(?: (?:answer|option|choice))?"
)
_CHOICE_WITH_TEXT = re.compile(
    r"(?:\(([A-J])\)[.:]?|([A-J]) ?[.):]|\(([a-e])\)(?= [0-9]|[^=]* [A-Za-z]{3})) "
    r"(?!(?:and|or) |[&,+*/=^<>]|- ?\()"
    r"(?!.*[0-9}%°,;] ?(?:and )?(?:\([A-Ja-e]\)|[A-J][.):]) ?\S)\S.*"  # (A) 5, (B) 6 are two answers
)
_CHOICES = re.compile(r"\(?[A-J]\)?(?:(?: ?[,;&] ?(?:and )?| and )\(?[A-J]\)?)+")  # (A) and (C)


def _choice_letter(text: str) -> str | None:
    """A choice with its text or without; several as a list."""
    if text[:1] not in ("(", "[") and text[1:2] not in (".", ")", ":", " ", ",", "&", ";"):
        return None
    match = _CHOICE.fullmatch(text) or _CHOICE_WITH_TEXT.fullmatch(text)
    if match:
        return match[match.lastindex or 0].upper()
    return ", ".join(re.findall("[A-J]", text)) if _CHOICES.fullmatch(text) else None


# --- structure: lists, relations, tuples and sets of single values --------------------------------

_STRUCTURE = re.compile(r"^ *[({]|[,=<>≤≥≠∈≈\[\]⦃⦄⟨⟩]")
_RELATED = re.compile(f"[{RELATIONS}]")


def _read_structure(text: str, as_text: list[str]) -> str:
    """The key; pieces that are no sums are also added to `as_text`."""
    if not _STRUCTURE.search(text):
        return _read_value(text, as_text)
    items = split(text, ",")
    if not items:
        return _as_text(text, as_text)
    if len(items) > 1:
        return ", ".join([_read_piece(item, as_text) for item in items[::2]])
    sides = (_RELATED.search(text) and split(text, RELATIONS)) or items
    if len(sides) > 1:
        return "".join([s if s in RELATIONS and s else _read_piece(s, as_text) for s in sides])
    inside = split(text[1:-1], ",") if text[:1] in tuple(OPEN) and text[-1] in CLOSE else None
    return _read_bracketed(text, inside[::2], as_text) if inside else _read_value(text, as_text)


def _read_piece(text: str, as_text: list[str]) -> str:
    text = text.strip()
    return text if READY.fullmatch(text) else read_terms(text) or _read_structure(text, as_text)


def _read_bracketed(text: str, items: list[str], as_text: list[str]) -> str:
    opening, closing = text[0], text[-1]
    keys = [_read_piece(item, as_text) for item in items]
    if opening + closing in ("()", "{}") and len(keys) == 1 and keys[0]:
        return keys[0]
    if opening + closing in ("{}", "⦃⦄"):
        opening, closing, keys = "⦃", "⦄", sorted(set(keys))
    return opening + ", ".join(keys) + closing  # kinds may differ: [0, 1) is an interval


# --- a single value -------------------------------------------------------------------------------

_LOOSE_BRACES = re.compile(r"([\^_])\{(\w)\}(?!\w)")
_LOOSE_BLANK = re.compile(r"(?<!\w) | (?!\w)")
_HAS_NAME = re.compile(r"(?<![A-Za-z\\])[A-Za-z%°Ωμ⟦]")


def _read_value(text: str, as_text: list[str]) -> str:
    if _HAS_NAME.search(text):
        if found := split_unit(text):
            value, unit = found
            return join_unit(read_sum(value) or _as_text(value, as_text), unit)
        text = without_marks(text)
    return read_sum(text) or _as_text(text, as_text)


def _as_text(text: str, as_text: list[str]) -> str:
    """What can't be read, with blanks only between words and no braces around a single exponent."""
    as_text.append(text)
    if "{" in text:
        text = _LOOSE_BRACES.sub(r"\1\2", text)
    return _LOOSE_BLANK.sub("", text) if " " in text else text
