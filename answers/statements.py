r"""What is stated of a name, in plain notation: `x = 5`, `x = 180-60 = 120`, `5 = x`, `the area is 24`.

    stated("A = π r^2 = 25π")       ->  "25π"
    stated("12\\sqrt{3} ≈ 20.78")   ->  "12\\sqrt{3}": the exact one counts
    stated("x+y = 7")               ->  "x+y = 7": an equation, which is more than its right side

`stated` is for keys, so it never drops what another answer could differ in, but the one name on the left.
`stated_value` goes on to `f(2) = 5`, `|AB| = 5`, `x+y = 7`: what a grader who holds 5 for right would accept.
"""

import re

from answers.calculator import same_number
from answers.expressions import RANGE_OR_DATE
from answers.nouns import with_unit
from answers.units import split_unit
from answers.words import number_in_words

RELATIONS = "=<>≤≥≠∈≈"
OPEN, CLOSE = "([{⦃⟨", ")]}⦄⟩"
MAX_DEPTH = 16  # brackets within brackets
MAX_SIDES = 8
_BRACKET = re.compile(r"[(\[{⦃⟨)\]}⦄⟩]")
_BRACKET_OR_CUT = re.compile(r"[(\[{⦃⟨)\]}⦄⟩,=<>≤≥≠∈≈]")
NAME = re.compile(  # but xy is a product
    r"(?:m? ?[∠△⌒→] ?\w+|Δ ?[A-Za-z]|\([a-z](?:, ?[a-z])+\)|[A-Z]{2}(?: ?[-+] ?[A-Z]{2})+"
    r"|[A-Za-z](?:\^\{?-1\}?|'{1,3})?\([a-z](?:, ?[a-z])*\)|[a-z]\([a-z]\([a-z]\)\)"
    r"|\([a-z] ?° ?[a-z]\)\([a-z]\)|\\frac\{d[a-z]\}\{d[a-z]\}|d[a-z]/d[a-z]"
    r"|(?:(?![a-z]{2}(?![A-Za-z]))[A-Za-z]+|[α-ορ-ωΑ-Ω])(?:_[A-Za-z0-9]+|_\{[A-Za-z0-9]+\})?'?(?:\([A-Za-z]\))?)"
)
_BARE_LETTERS = re.compile(r"[A-Za-z]+")
_FIGURE = re.compile(r"m? ?[∠△⌒]|(?<![A-Za-z])[A-Z]{2}(?![A-Za-z])")
_NAMED_TOO = re.compile(  # mean: 5, mode: 6
    r"(?:[,;]| and) ?(?:and )?(?:the )?[a-z]{3,}(?: [a-z]+){0,3}(?: ?[:=]| is | are )"
)
_OF_WORDS = re.compile(
    r"(?:(?:the |its |their )?(?!(?:approximately|about)\b)[a-z]{3,}(?: (?:[a-z]+|∠?[A-Z]{1,4})){0,5}?|[Ii]t)"
    r" ?(?: is| are| equals|:)(?: equal to)?"
    r" ?(?=[-+]? ?(?:[0-9.√π(]|\\(?:frac|sqrt)))(?P<value>.+)"
)
_IS_IT = re.compile(
    r"(\S+(?: \S+){0,3}) is (?:the )?(?:correct|right|final )?(?: ?(?:answer|option|choice))?"
)
_ABOUT = re.compile(r"(?:approximately|exactly|about|roughly|approx\.?|\\approx|≈|~) ?(?=[-0-9.\\])")
_ABOUT_BEHIND = re.compile(r" ?\(?(?<![A-Za-z])approx(?:\.|imately)?\)?")
_OR_ABOUT = re.compile(r",? ?(?:or|which is|i\.e\.) (?:approximately|about|roughly|approx\.?|≈) ?[-0-9.]+.*")
_SEVERAL = re.compile(r"(?<![A-Za-z])(?:or|and)(?![A-Za-z])|[;∨]|\\(?:lor|vee)(?![A-Za-z])")
_READ_AS_SIGNS = re.compile(r"\\?(?:frac|sqrt)|⟦[^⟦⟧]*⟧|(?<=[0-9])[eE](?=[-+]?[0-9])")
_DIGIT = re.compile("[0-9π∞]")
_LETTERS = re.compile(r"[A-Za-zα-ορ-ωΑ-Ω\\]")


def split(text: str, separators: str) -> list[str] | None:
    """[piece, separator, piece, ...], cut outside all brackets; None where the brackets don't match
    or are too deep."""
    if not _BRACKET.search(text):
        return re.split(f"([{separators}])", text)
    parts, start, depth = [], 0, 0
    for match in _BRACKET_OR_CUT.finditer(text):
        character = match[0]
        if character in OPEN:
            depth += 1
            if depth > MAX_DEPTH:
                return None
        elif character in CLOSE:
            depth -= 1
            if depth < 0:
                return None
        elif depth == 0 and character in separators:
            parts += [text[start : match.start()], character]
            start = match.end()
    return None if depth else [*parts, text[start:]]


def stated(text: str) -> str:
    """The value that is given to a name, else the text."""
    if "app" in text or "exact" in text or "ab" in text or "ro" in text:
        text = _OR_ABOUT.sub("", text, count=1) or text
        text = _ABOUT_BEHIND.sub("", text, count=1) if text[:1].isdigit() else _ABOUT.sub("", text, count=1)
    elif text[:1] == "≈":
        text = text[1:].strip()
    if " is " in text and (match := _IS_IT.fullmatch(text)) and is_value(match[1]):
        return match[1]
    if ":" in text or " is " in text or " are " in text or " equals " in text:
        match = _OF_WORDS.fullmatch(text)
        text = match["value"] if match and not _NAMED_TOO.search(text) else text
    if "=" not in text and "≈" not in text:
        return text
    sides = _sides(text)
    if len(sides) < 2:
        return sides[0] if sides else text
    first, last = sides[0], sides[-1]
    if NAME.fullmatch(first) and last and (first[0] != "(" or _in_order(first)):
        is_claim = _BARE_LETTERS.fullmatch(last) or (_FIGURE.match(first) and _FIGURE.search(last))
        return text if is_claim else last  # AB = CD, ∠A = 2∠B
    if len(sides) == 2 and NAME.fullmatch(last) and is_value(first):
        return first
    return last if all(map(is_value, sides)) and _all_equal(sides) else text


def _in_order(names: str) -> bool:
    """(x, y) says no more of a pair than its places do, (y, x) does."""
    letters = re.findall("[a-z]", names)
    return letters == sorted(letters)


def stated_value(text: str) -> tuple[str, str] | None:
    """(what, its value) of an equation with a value at its end or at its start; None of anything else."""
    sides = _sides(text)
    if len(sides) < 2:
        return None
    if all(map(is_value, sides)):
        return None  # 2+3 = 6, else `stated` has it
    (first, last) = sides[0], sides[-1]
    return (first, last) if is_value(last) else (last, first) if is_value(first) else None


def _sides(text: str) -> list[str]:
    """Of a chain of equalities, without what only approximates; none where it is another relation."""
    parts = split(text, RELATIONS)
    if not parts or len(parts) > 2 * MAX_SIDES or set(parts[1::2]) - set("=≈"):
        return []
    if len(parts) > 3 and (_SEVERAL.search(text) or len(split(text, ",") or []) > 1):  # x=5, y=3
        return []
    sides = [part.strip() for part in parts[::2]]
    if "≈" in parts:
        n = parts[1::2].index("≈") + 1
        exact = sides[:n]
        sides = [*exact, sides[n]] if all(map(NAME.fullmatch, exact)) else exact
    return sides if all(sides) else []


def is_value(text: str) -> bool:
    """Whether it is a number or a ratio, with or without unit: no name is in it."""
    signs = _READ_AS_SIGNS.sub("", text)
    if _LETTERS.search(signs):
        value = with_unit(text)[0]
        if number_in_words(value):
            return True
        signs = _READ_AS_SIGNS.sub("", value)
    return _DIGIT.search(signs) is not None and not _LETTERS.search(signs)


def _all_equal(sides: list[str]) -> bool:
    values = [found[0] if (found := split_unit(side)) else side for side in sides]
    if any(map(RANGE_OR_DATE.fullmatch, values)) and len(sides) < 3:
        return False
    return all(same_number(values[0], value) for value in values[1:])
