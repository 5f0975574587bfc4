r"""Where in a response its answer stands: what `extract_answer` reads, as places in the text.

    answer_spans(r"so \boxed{45}")                 ->  [(10, 12)]
    answer_spans(r"\boxed{3} and \boxed{4}")       ->  [(7, 8), (21, 22)]    one answer of two parts
    answer_spans("The answer is **B**.", "choice") ->  [(16, 17)]

A box counts with all that it holds, blanks too; elsewhere a span begins and ends with a character of the
answer. The loops are those of extract.py, whose answers tests/test_span.py reads off the spans.
"""

import re
from collections.abc import Callable

from answers import extract

Span = tuple[int, int]
_TRIM = ' \t\r\n*`"”'


def answer_spans(text: str, answer_format: str = "boxed") -> list[Span]:
    """[start, end) of each part of the answer, in their order; none where nothing parses."""
    return [] if extract.extract_answer(text, answer_format) is None else SPANS[answer_format](text)


def _in_boxes(text: str) -> list[Span]:
    places = list(range(len(text)))  # where each character of the next lines' text stands
    text, places = _rewritten(text, places, re.compile(r"\\fbox"), r"\boxed", "")
    text, places = _rewritten(text, places, extract._BARE_BOX, r"\boxed{", "}")
    return [(places[a], places[b - 1] + 1) for a, b in extract.box_spans(text) if text[a:b].strip()]


def _rewritten(text: str, places: list[int], pattern: re.Pattern, head: str, tail: str):
    """Each match as its last group, if any, between head and tail."""
    made, moved, at = [], [], 0
    for match in pattern.finditer(text):
        start, end = match.span()
        kept = slice(*match.span(match.lastindex)) if match.lastindex else slice(0, 0)
        made += [text[at:start], head, text[kept], tail]
        moved += places[at:start] + [places[start]] * len(head) + places[kept] + [places[end - 1]] * len(tail)
        at = end
    return "".join(made) + text[at:], moved + places[at:]


def _boxed(text: str) -> list[Span]:
    return _in_boxes(text) if extract.in_box(text) else _in_tag(text)


def _in_tag(text: str) -> list[Span]:
    found, start = (0, 0), -1
    for match in extract._TAG.finditer(text):
        if match[1] and start >= 0 and text[start : match.start()].strip():
            found = start, match.start()
        start = -1 if match[1] else match.end()
    return _within(text, found)


def _peeled(text: str) -> list[Span]:
    if "\\boxed" in text or "\\fbox" in text:
        return _in_boxes(text)
    return _in_tag(text) if extract._TAG.search(text) else _trimmed(text, None)


def _within(text: str, span: Span) -> list[Span]:
    return [(span[0] + a, span[0] + b) for a, b in _peeled(text[slice(*span)])]


def _trimmed(text: str, ends: str | None) -> list[Span]:
    """Without what stands at its ends; nothing where nothing is left."""
    start = len(text) - len(text.lstrip(ends))
    return [(start, len(text.rstrip(ends)))] if text.strip(ends) else []


def _in_phrase(text: str) -> list[Span]:
    for found in reversed([match.end() for match in extract._PHRASE.finditer(text)]):
        start = extract._FILLER.match(text, found).end()  # type: ignore[union-attr]
        if text[start : start + 4].lower() == "not ":
            continue
        end = extract._PHRASE_END.search(text, start)
        said = text[start : end.start() if end else len(text)]
        if "\\boxed" in said or "\\fbox" in said:
            return [(start + a, start + b) for a, b in _in_boxes(text[start:])]
        for a, b in _trimmed(said, _TRIM):
            return _within(text, (start + a, start + b))
    return []


def _last(pattern: re.Pattern) -> Callable[[str], list[Span]]:
    """Of the last match: from its first group to its last."""

    def spans(text: str) -> list[Span]:
        *_, match = pattern.finditer(text)
        groups = [match.span(n) for n in range(1, len(match.groups()) + 1) if match[n]]
        start, end = groups[0][0], groups[-1][1]
        return [(start + a, start + b) for a, b in _trimmed(text[start:end], None)]

    return spans


SPANS: dict[str, Callable[[str], list[Span]]] = {  # by the names of extract.FORMATS
    "boxed": _boxed, "tag": _in_tag, "phrase": _in_phrase, "choice": _last(extract._CHOICE),
    "last_number": _last(extract._NUMBER),
}  # fmt: skip
