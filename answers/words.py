r"""What is said in words: numbers, sets of numbers, and the domain of a name.

    number_in_words("negative five and a half")      ->  "-11/2"
    leading_number("twenty-five red apples")         ->  ("25", "red apples")
    plain_words("all real numbers except 3")         ->  r"\mathbb{R}\setminus⦃3⦄"
    plain_words(r"2n where n is an integer")         ->  "2n"

Left out: ordinals (`fifth` alone), other languages, sentences.
"""

import re
from fractions import Fraction

_SMALL = {
    word: n
    for n, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
        " sixteen seventeen eighteen nineteen".split()
    )
}
_TENS = {
    word: n
    for n, word in zip(
        range(20, 100, 10), "twenty thirty forty fifty sixty seventy eighty ninety".split(), strict=True
    )
} | {"fourty": 40}
_SCALES = {"thousand": 10**3, "lakh": 10**5, "million": 10**6, "crore": 10**7, "billion": 10**9}
_SCALES |= {"trillion": 10**12}
_COLLECTIONS = {"dozen": 12, "gross": 144}
_PARTS = {"half": 2, "quarter": 4} | {
    word: n
    for n, word in enumerate(
        "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth"
        " sixteenth seventeenth eighteenth nineteenth twentieth".split(),
        3,
    )
}
_PARTS |= {"hundredth": 100, "thousandth": 1000, "millionth": 10**6}
_MANY_PARTS = {"halves": 2} | {word + "s": n for word, n in _PARTS.items() if word != "half"}
_SIGNS = {"negative": -1, "minus": -1, "positive": 1, "plus": 1}
_ALONE = {word: str(n) for word, n in (_SMALL | _TENS).items()} | {"half": "1/2"}
_FIRST = frozenset((*_ALONE, *_SIGNS, "a", "an", "point"))
_REST = frozenset(
    (*_ALONE, *_SCALES, "hundred", *_COLLECTIONS, *_PARTS, *_MANY_PARTS, "and", "point", "a", "one")
)
_LAST = _REST - _ALONE.keys() | {"half"}  # of what starts with a digit
_DIGITS = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,15})?")
MAX_WORDS = 16  # of a number
MAX_TAIL = 80  # characters of what says which numbers a name may be


def number_in_words(text: str) -> str | None:
    """The key of a number that all of the text says: "25", "-5", "11/2"; None of anything else,
    and of a number in digits alone."""
    if not (text[-1:].isalpha() and text[0].isalnum()):
        return None
    words = text.lower().replace("-", " ").split()
    if len(words) == 1:
        return _ALONE.get(words[0])
    starts = words[0] in _FIRST or (text[0].isdigit() and words[-1] in _LAST)
    if not starts or len(words) > MAX_WORDS or not _REST.issuperset(words[1:]):
        return None
    sign = _SIGNS.get(words[0])
    value = _value(words if sign is None else words[1:])
    return None if value is None else str(value * (sign or 1))


def leading_number(text: str) -> tuple[str, str] | None:
    """The longest number in words that the text starts with, as a key, and what follows it."""
    words = text.split()
    for n in range(min(len(words) - 1, MAX_WORDS), 0, -1):
        number = number_in_words(" ".join(words[:n]))
        if number:
            return number, " ".join(words[n:])
    return None


def _value(words: list[str]) -> int | Fraction | None:
    """Of three quarters, five and a half, two point five, a dozen, one hundred and five."""
    last = words[-1] if words else ""
    if "point" in words:
        return _decimal(words)
    if last in _COLLECTIONS:
        dozens = 1 if words[:-1] == ["a"] else _whole(words[:-1])
        return None if dozens is None else dozens * _COLLECTIONS[last]
    if last not in _PARTS and last not in _MANY_PARTS:
        return _whole(words)
    part = _part(words)
    if part is None and "and" in words:
        cut = len(words) - 1 - words[::-1].index("and")
        whole, part = _whole(words[:cut]), _part(words[cut + 1 :])
        return whole + part if whole is not None and part is not None and part < 1 else None
    return part


def _part(words: list[str]) -> Fraction | None:
    """Two thirds; a third; but the twenty-third is no part."""
    last, above = words[-1], 1 if words[:-1] in ([], ["a"], ["an"]) else _whole(words[:-1])
    if above is None or (len(words) == 1 and last != "half"):
        return None
    if last in _MANY_PARTS:
        return Fraction(above) / _MANY_PARTS[last]
    is_part = above == 1 or (above < 20 and last != "quarter" and 2 < _PARTS.get(last, 0) <= 10)
    return Fraction(above) / _PARTS[last] if is_part and last in _PARTS else None


def _decimal(words: list[str]) -> Fraction | None:
    at = words.index("point")
    whole, digits = (
        _whole(words[:at]) if at else Fraction(0),
        [_SMALL.get(word, 10) for word in words[at + 1 :]],
    )
    if whole is None or not digits or max(digits) > 9:
        return None
    return whole + Fraction(int("".join(map(str, digits))), 10 ** len(digits))


def _whole(words: list[str]) -> int | Fraction | None:
    """Two thousand five hundred (and) twenty-five: scales fall, and each number stands where it can."""
    total: int | Fraction = 0
    group: int | Fraction | None = None
    scale, last = 10**15, ""
    for i, word in enumerate(words):
        is_open = group is None or (last in ("hundred", "and") and group % 100 == 0)
        if word == "and" and i + 1 < len(words) and (last == "hundred" or last in _SCALES):
            pass
        elif word in ("a", "an") and i == 0 and words[1:] and (words[1] == "hundred" or words[1] in _SCALES):
            group = 1
        elif i == 0 and _DIGITS.fullmatch(word):
            group = int(word) if word.isdigit() else Fraction(word)
        elif word in _SMALL and (is_open or (last in _TENS and 0 < _SMALL[word] < 10)):
            group = (group or 0) + _SMALL[word]
        elif word in _TENS and is_open:
            group = (group or 0) + _TENS[word]
        elif word == "hundred" and group and last != "and" and group < 100:
            group *= 100
        elif word in _SCALES and group and last != "and" and _SCALES[word] < scale:
            total, scale, group = total + group * _SCALES[word], _SCALES[word], None
        else:
            return None
        if group is not None and group >= scale:
            return None
        last = word
    return total + (group or 0) if words and last != "and" else None


# --- phrases, in the plain notation of answers/spelling.py ----------------------------------------

# a text with none of these words is what plain_words gives
TRIGGERS = frozenset(
    "percent percentage cent degree degrees negative minus positive plus all any every set null solution"
    " solutions roots real number numbers integer integers constant over root choose squared cubed"
    " factorial below times divided multiplied power arc ray vector exist".split()
)
_PERCENT_OR_DEGREES = (
    r"(?:(percentage points?|per ?cent)|degrees?(?: (celsius|fahrenheit|[CF](?![A-Za-z])))?)(?![A-Za-z])"
)
_OF_DIGITS = re.compile(rf"(?<=[0-9π)}}]) ?{_PERCENT_OR_DEGREES}", re.IGNORECASE)
_OF_WORDS = re.compile(
    rf"(?<![A-Za-z-])(?<![A-Za-z-] )([A-Za-z-]+(?: [A-Za-z-]+){{0,{MAX_WORDS}}}) {_PERCENT_OR_DEGREES}",
    re.IGNORECASE,
)
_SIGNED = re.compile(
    r"(?:(negative |minus )|(plus or minus |positive or negative )|positive |plus )"
    r"(?=[0-9.∞π\\(]|[a-z](?![a-z]))",
    re.IGNORECASE,
)
_LINE = re.compile(r"(?:(arc)|ray|vector) (?=[A-Z]{2}(?![A-Za-z]))", re.IGNORECASE)
_PHRASES = tuple(
    (re.compile(phrase, re.IGNORECASE), plain)
    for phrase, plain in (
        (
            r"(?:there (?:is|are) |(?:it|the (?:equation|inequality|system)(?: of equations)?) has )?"
            r"no (?:such |real )?(?:solutions?|roots?)(?: exists?)?|(?:the )?(?:empty|null) set",
            "∅",
        ),
        (r"(?:the limit |it )?does ?(?:not|n't) exist", "does not exist"),
        (
            r"(?:there are )?(?:infinitely many|(?:an )?infinite(?: number of)?) solutions",
            "infinitely many solutions",
        ),
    )
)


def plain_words(text: str) -> str:
    """Percent, degrees and signs as signs, sets and formulas in words as such, and without what only
    says which numbers a name may be."""
    text = _OF_DIGITS.sub(lambda match: _percent_or_degrees(match[1], match[2]), text)
    text = _OF_WORDS.sub(_words_as_digits, text)
    if match := _SIGNED.match(text):
        text = ("-" if match[1] else "±" if match[2] else "") + text[match.end() :]
    text = _LINE.sub(lambda match: "⌒" if match[1] else "→", text)
    for phrase, plain in _PHRASES:
        if phrase.fullmatch(text):
            return plain
    text = without_domain(_set_in_words(text))
    return _formula(text, MAX_WORDS) or text


def _words_as_digits(match: re.Match) -> str:
    """The angle is forty-five degrees: the angle is 45°."""
    words = match[1].split(" ")
    for i in range(len(words)):
        if number := number_in_words(" ".join(words[i:])):
            return " ".join([*words[:i], number]) + _percent_or_degrees(match[2], match[3])
    return match[0]


def _percent_or_degrees(percent: str | None, scale: str | None) -> str:
    return "%" if percent else "°" + (scale or "")[:1].upper()


_KINDS = {"real": "R", "integer": "Z", "whole": "N", "natural": "N", "rational": "Q", "complex": "C"}
_RAYS = {"positive": "(0, ∞)", "negative": "(-∞, 0)", "nonnegative": "[0, ∞)"}
_ALL = re.compile(
    r"(?:(?:[a-z] (?:is|can be) |[a-z] ?∈ ?)?(?:the )?(?:set of )?(?:all|any|every)(?: of)?(?: the)? "
    r"|(?:the )?set of )"
    rf"(?:(positive|negative|non-?negative) )?({'|'.join(_KINDS)})"
    r"(?:s| numbers?| values?)?(?: (?:for |of )?[a-z](?![a-z]))?(?=[ ,]|\Z)",
    re.IGNORECASE,
)
_EXCEPT = re.compile(
    r",? ?(?:except|excluding|besides|without|but not|but|other than|not equal to)(?: for)? (.+)"
)
_SUCH_THAT = re.compile(r",? ?(?:such that|so that|for which|where|with|satisfying) (.+)")
_AND = re.compile(r",? (?:and|or) |, ?")
_EXCEPTED = re.compile(r"(?:[a-z] ?[=≠] ?)?([^a-z=<>≠≤≥∈ ]+)")
_REALS_BUT = re.compile(  # R - {3}; x ∈ R, x ≠ 3
    r"(?:[a-z] ?∈ ?)?\\mathbb\{R\} ?"
    r"(?:(?:\\setminus|-|/) ?[⦃{](.+)[⦄}]|(?:[,|:;]|and|where|such that|with)? ?([a-z] ?≠.+))"
)
_BUILT = re.compile(r"⦃ ?([a-z])(?: ?∈ ?\\mathbb\{R\})? ?[|:] ?(.*(?<![A-Za-z])\1(?![A-Za-z]).*)⦄")


def _set_in_words(text: str) -> str:
    match = _ALL.match(text)
    if not match:
        return text
    sign, kind, rest = match[1], _KINDS[match[2].lower()], text[match.end() :]
    if sign:
        ray = _RAYS[sign.lower().replace("-", "")]
        of_integers = {"(0, ∞)": r"\mathbb{Z}^+", "(-∞, 0)": r"\mathbb{Z}^-"}.get(ray, text)
        return text if rest else ray if kind == "R" else of_integers if kind == "Z" else text
    if not rest:
        return rf"\mathbb{{{kind}}}"
    if (excepted := _EXCEPT.fullmatch(rest)) and (found := _without(kind, excepted[1])):
        return found
    condition = _SUCH_THAT.fullmatch(rest)
    return condition[1] if condition and kind == "R" else text


def plain_sets(text: str) -> str:
    r"""The reals but some, however it is written, as \mathbb{R}\setminus⦃3⦄, and {x | x > 3} as x > 3."""
    if (match := _REALS_BUT.fullmatch(text)) and (found := _without("R", match[1] or match[2])):
        return found
    built = _BUILT.fullmatch(text)
    return built[2].strip() if built else text


def _without(kind: str, excepted: str) -> str | None:
    items = [_EXCEPTED.fullmatch(item) for item in _AND.split(excepted)]
    values = ", ".join(sorted(match[1] for match in items if match))
    return rf"\mathbb{{{kind}}}\setminus⦃{values}⦄" if all(items) else None


_NAMES = r"([A-Za-zα-ω])(?:_[0-9A-Za-z])?(?:, ?[A-Za-zα-ω](?:_[0-9A-Za-z])?){0,3}"
_ANY = r"(?:(?:an?|any|all|some|every|each|both) )?"
_NUMBERS = (
    r"(?:(?:arbitrary|positive|negative|non-?negative|non-?zero|real|natural|whole|rational) )*"
    r"(?:integers?|numbers?|constants?|reals?|values?(?: of)?)"
)
_DOMAIN = re.compile(
    r"(?:[,;] ?| )\(?(?:(?:where|for|with|when|if|and) )?"
    rf"(?:{_ANY}{_NAMES} ?∈ ?(?:\\mathbb\{{[A-Z]\}}|[ZNR])(?:[\^_]?[+*])?"
    rf"|{_NAMES} (?:(?:is|are|being) )?{_ANY}{_NUMBERS}|{_ANY}{_NUMBERS} {_NAMES}|(?:all|any|every) {_NAMES}"
    r")\)?\Z"
)


def without_domain(text: str) -> str:
    """2n where n is an integer, 2n for all n, 2n (n ∈ Z): 2n."""
    match = _DOMAIN.search(text, max(1, len(text) - MAX_TAIL))
    return text[: match.start()] if match and match[match.lastindex or 0] in text[: match.start()] else text


_OPERATORS = (  # those that bind least come first
    ("plus or minus", "{}±{}"),
    ("plus", "{}+{}"),
    ("minus", "({})-{}"),  # 8-3 would be a range
    ("over", r"\frac{{{}}}{{{}}}"),
    ("divided by", r"\frac{{{}}}{{{}}}"),
    ("times", "{}*{}"),
    ("multiplied by", "{}*{}"),
    ("choose", r"\binom{{{}}}{{{}}}"),
    ("to the power of", "{}^{{{}}}"),
)
_ROOT = re.compile(r"(?:(.+?) )??(?:the )?(?:(cube )|square )?root (?:of )?(.+)", re.IGNORECASE)
_POSTFIXES = (("squared", "{}^2"), ("cubed", "{}^3"), ("factorial", "{}!"), ("below zero", "-{}"))
_OPERAND = re.compile(r"-?[0-9]*\.?[0-9]+(?:\^\{?-?[0-9]+\}?)? ?[a-zπ]?|[a-zπ]|[0-9]+°[CF]?")


def _formula(text: str, depth: int) -> str | None:
    """5 over six, root three over two, two squared; None where it is none."""
    if depth <= 0:
        return None
    for operator, form in _OPERATORS:
        left, found, right = text.rpartition(f" {operator} ")
        if found:
            a, b = _operand(left, depth), _operand(right, depth)
            return form.format(a, b) if a and b else None
    if root := _ROOT.fullmatch(text):
        factor, inside = _operand(root[1], depth) if root[1] else "", _operand(root[3], depth)
        command = r"\sqrt[3]" if root[2] else r"\sqrt"
        return None if factor is None or inside is None else f"{factor}{command}{{{inside}}}"
    for word, form in _POSTFIXES:
        if text.endswith(" " + word):
            a = _operand(text[: -len(word) - 1], depth)
            return form.format(a) if a else None
    return None


def _operand(text: str, depth: int) -> str | None:
    operand = number_in_words(text) or (text if _OPERAND.fullmatch(text) else _formula(text, depth - 1))
    return operand if operand is None or operand.isalnum() or "°" in operand else f"({operand})"
