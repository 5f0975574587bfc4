r"""From a response to the answer in it, in the format that it was asked for.

    extract_answer(r"so \boxed{\frac{1}{2}}")                ->  r"\frac{1}{2}"
    extract_answer("The answer is **B**.", "phrase")         ->  "B"

    boxed        the last `\boxed{}` or `\fbox{}` that is whole and not empty, else the last <answer>.
                 Boxes of one sentence that only a joint stands between (`,` `;` `and` `or`, up to
                 MOST_WORDS other words, none that concludes: so, then, which ...) are one answer of several
                 parts, joined by ", " and each once
    tag          the last <answer>...</answer>
    phrase       what follows the last "the answer is", "Answer:", "the correct option is", "####" and the
                 like, up to the end of its sentence
    choice       the last letter that names an option: `(B)`, `**B**`, "option B", `B.` before a line, or B
                 alone; not the letter of "point B" or "A triangle"
    last_number  the last number, with its sign, decimals, fraction, thousands and power of ten

What stands between tags or behind a phrase may be boxed. Cut off before it closes, neither box nor tag is an
answer. Every format takes time linear in the text.
"""

import re
from collections.abc import Callable, Sequence

MAX_PARTS = 12  # boxes that are one answer
MOST_GAP, MOST_WORDS = 80, 5  # characters and words between two of them

_BRACE = re.compile(r"\\[\\{}]|(\{)|(\})")  # escaped ones in neither group
_BOX = re.compile(r"\\boxed\s*+\{(\s*+\})?")
_BARE_BOX = re.compile(
    r"\\boxed(?:\s*+(-?(?:[0-9]+(?:[.,/][0-9]+)*|\\[dt]?frac\{[^{}]*\}\{[^{}]*\}))|\s++([A-Za-z])(?![A-Za-z]))"
)


def extract_answer(text: str, answer_format: str = "boxed") -> str | None:
    """The answer in a text, by a name of FORMATS; None where there is none or it is empty."""
    return FORMATS[answer_format](text)


# --- boxes and tags -------------------------------------------------------------------------------


def boxed(text: str) -> str | None:
    found = in_box(text)
    return found if found or "<" not in text else in_tag(text)


def in_box(text: str) -> str | None:
    if "\\boxed" not in text and "\\fbox" not in text:
        return None
    text = text.replace("\\fbox", "\\boxed")
    if text.count("\\boxed") > text.count("\\boxed{"):
        text = _BARE_BOX.sub(r"\\boxed{\1\2}", text)
    parts = [_peeled(text[start:end]) for start, end in box_spans(text)]
    return ", ".join(part for part in dict.fromkeys(parts) if part) or None


def box_spans(text: str) -> list[tuple[int, int]]:
    """[start, end) of what each box of the answer holds, in a text whose boxes are all `\\boxed{}`."""
    at = len(text)
    while True:
        # Nothing closes behind the last brace. And a box that is empty or never closes hides those that open
        # before it and close behind it, so that no text is read twice.
        end = text.rfind("}", 0, at) + 1
        at = text.rfind("\\boxed", 0, end)
        if at < 0:
            return []
        box = _BOX.match(text, at, end)
        close = closing_brace(text, box.end(), end) if box and not box[1] else -1
        if box and close >= 0:
            return _with_parts_before(text, at, (box.end(), close))


def _with_parts_before(text: str, start: int, last: tuple[int, int]) -> list[tuple[int, int]]:
    """The box that opens at `start`, behind the boxes it is one answer with."""
    parts = [last]
    while len(parts) < MAX_PARTS:
        before = text.rfind("\\boxed", 0, start)
        box = _BOX.match(text, before, start) if before >= 0 else None
        close = closing_brace(text, box.end(), start) if box else -1
        if box is None or close < 0 or start - close > MOST_GAP or not _joins(text[close + 1 : start]):
            break
        parts.insert(0, (box.end(), close))
        start = before
    return parts


_MARKUP = re.compile(r"\\(?:text|mathrm|mbox)\{([^{}]*)\}|\\(?:q?quad|[,;:! ()\[\]])|[$~*]")
_STOP = re.compile(
    r"[.?!:]\s|\n\s*\n|[+/<>→⇒≈\\{}]|(?<![\w^])[0-9]"
    r"|\b(?:so|thus|hence|therefore|then|thereby|giv\w+|mean\w*|which|that|because|since|from|not|but|instead"
    r"|answer|we|equal\w*|wait|actually|(?:in)?correct|right|wrong|[a-z]+ing)\b",
    re.IGNORECASE,
)
_JOINT = re.compile(r"[,;&]|\b(?:and|or)\b", re.IGNORECASE)


def _joins(gap: str) -> bool:
    """Whether what stands between two boxes makes them parts of one answer."""
    gap = _MARKUP.sub(r" \1 ", gap)
    if _STOP.search(gap):
        return False
    return len(_JOINT.sub(" ", gap).split()) <= MOST_WORDS if _JOINT.search(gap) else gap.strip(" ") == ""


def closing_brace(text: str, start: int, end: int) -> int:
    """Index of the brace that closes a group whose content starts at `start`; -1 if none does
    before `end`."""
    depth = 1
    for match in _BRACE.finditer(text, start, end):
        depth += (match.lastindex == 1) - (match.lastindex == 2)
        if depth == 0:
            return match.start()
    return -1


_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)


def in_tag(text: str) -> str | None:
    found, start = None, -1
    for match in _TAG.finditer(text):
        if match[1] and start >= 0:
            found = text[start : match.start()].strip() or found
        start = -1 if match[1] else match.end()
    return _peeled(found) if found else None


def _peeled(text: str) -> str | None:
    """Out of the boxes or tags that it stands in."""
    if "\\boxed" in text or "\\fbox" in text:
        return in_box(text)
    return in_tag(text) if _TAG.search(text) else text.strip() or None


# --- phrases --------------------------------------------------------------------------------------

_SAYS = r"(?:\b(?:is|are|was|(?:would|will|should|must) be|equals)\b|[:：=])"
_PHRASE = re.compile(
    r"\banswers?\b(?:[ *_]+(?:choice|option|letter|to|of|for|in|here|we)\b(?:(?!answer)[^.:：=\n]){0,80}?)?"
    rf"[ *_]*{_SAYS}"
    r"|\b(?:(?:correct|right|best|final) (?:option|choice|result)|solution|result)[*_]* (?:is|are|equals)\b"
    r"|^[ \t#*_]*+(?:the )?(?:final )?answer[ \t*_]*$"
    r"|^####[ \t]*(?=[-+$]*[0-9][0-9.,/]*\s*$)",
    re.IGNORECASE | re.MULTILINE,
)
_FILLER = re.compile(
    r"(?:[\s:：*_`\"“”]|\\[\[(]|\$\$|(?:therefore|thus|then|hence|indeed|simply|just|clearly)\b,?)*+",
    re.IGNORECASE,
)
_PHRASE_END = re.compile(
    r"\n|[.!?](?=[\s*]|\Z)|,?\s\(?(?:because|since|as|which|where|so|but|when|given|i\.e)\b|\\[\])]",
    re.IGNORECASE,
)


def in_phrase(text: str) -> str | None:
    for found in reversed([match.end() for match in _PHRASE.finditer(text)]):
        start = _FILLER.match(text, found).end()  # type: ignore[union-attr]
        if text[start : start + 4].lower() == "not ":
            continue
        end = _PHRASE_END.search(text, start)
        said = text[start : end.start() if end else len(text)]
        if "\\boxed" in said or "\\fbox" in said:
            return in_box(text[start:])
        if said := said.replace("**", "").strip(' \t\r*`"”'):
            return _peeled(said)
    return None


# --- letters --------------------------------------------------------------------------------------

# not the article of "A triangle", not a name in a formula
_ENDS = r"(?![\w'’^=+/]|\s[=+/<>]| (?!(?:is|because|since|as)\b)[a-z])"
_CHOICE = re.compile(
    r"(?<![\w\\])\((?:([A-J])|([a-j]))\)"  # (B), (b)
    rf"|(?:\*\*|__|\\boxed\{{|\\text(?:bf)?\{{|\\\(|<answer>)[\s({{]*+([A-J]){_ENDS}"  # **B**, \boxed{{B}}
    rf"|\b(?i:option|choice|answer)(?i: is)?[:：]?[ *($]++([A-J]){_ENDS}"  # option B
    r"|^[ \t*]*+([A-HJ])(?=[.):*][\s*]|[ \t*.]*+$)"  # a line that begins with B. or is B
    r"|(?:\b(?i:is|be|it's|choose|pick|select|so|therefore|thus|hence|wait|no|actually),? |[:：→⇒] *)"
    r"\$?([A-HJ])(?=\$?(?:[.,;:!?)*\n]|\Z| (?:because|since|as|is)\b))",
    re.MULTILINE,
)


def choice_letter(text: str) -> str | None:
    found = None
    for match in _CHOICE.finditer(text):
        found = match[match.lastindex or 0]
    return found.upper() if found else None


# --- numbers --------------------------------------------------------------------------------------

_DIGITS = r"(?:[0-9]{1,3}(?:(?:,|\{,\})[0-9]{3})++(?![0-9])|[0-9]++)"
_NUMBER = re.compile(
    r"((?<![\w)\]}.^])(?<![\^_]\{)[-−+])?(?:\\?\$)?(?<![\w.^_])(?<![\^_][{-])(?<![\^_]\{-)"  # no exponent
    r"([0-9]*+ ?\\[dtc]?frac\{-?[0-9]+\}\{[0-9]+\}"
    r"|[0-9]++ [0-9]++/[0-9]++"
    rf"|(?:{_DIGITS}(?:\.[0-9]++)?|\.[0-9]++)(?:/[0-9]++)?(?:[eE][-+]?[0-9]++)?"
    r"(?: ?(?:\\times|\\cdot|×|\*|·) ?10(?=\^))?(?:\^\{?-?[0-9]++\}?)?)"
)


def last_number(text: str) -> str | None:
    found = None
    for match in _NUMBER.finditer(text):
        found = match
    return (found[1] or "") + found[2].strip() if found else None


# --- all of them ----------------------------------------------------------------------------------

FORMATS: dict[str, Callable[[str], str | None]] = {
    "boxed": boxed, "tag": in_tag, "phrase": in_phrase, "choice": choice_letter, "last_number": last_number,
}  # fmt: skip
LAST_RESORT = "last_number"  # reads nearly everything


def count_parsed(texts: Sequence[str], formats: Sequence[str] = tuple(FORMATS)) -> dict[str, int]:
    """How many texts each format finds an answer in; boxed counts those with a box alone."""
    readers = FORMATS | {"boxed": in_box}
    return {name: sum(readers[name](text) is not None for text in texts) for name in formats}


def best_format(shares: dict[str, float]) -> str:
    """The format that reads the largest share of the texts, ties in the order of FORMATS; where another reads
    half of them the last resort doesn't count."""
    enough = [name for name in FORMATS if name != LAST_RESORT and shares[name] >= 0.5]
    return max(enough or FORMATS, key=lambda name: shares[name])
