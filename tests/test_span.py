"""Where an answer stands is where extract_answer reads it, in every format and notation."""

import random

import pytest
import test_extract as made
from answers_made import seconds

from answers import extract, extract_answer
from answers.extract import FORMATS
from answers.span import answer_spans


def cases_of(test) -> list[tuple]:
    """The rows that a parametrised test of test_extract.py has."""
    return [row for mark in test.pytestmark if mark.name == "parametrize" for row in mark.args[1]]


TEXTS = [row[0] for row in cases_of(made.test_the_last_complete_box_is_the_answer)]
TEXTS += [row[1] for row in cases_of(made.test_every_other_format_finds_its_answer)]
PIECES = [
    r"\boxed{", r"\fbox{", r"\boxed ", r"\boxed{5}", r"\fbox{\frac{1}{2}}", r"\boxed 7", "}", "{", " and ",
    ", ", "<answer>", "</answer>", "<answer> 4 </answer>", "<answer>", "</answer>", "The answer is ", "**",
    "$", "12", "-3.5", "B", "(C)", "é", "😀", "\n", ". ", "not ", r"\frac{1}{2}", "x = ", "####",
]  # fmt: skip


def read_off(text: str, answer_format: str) -> str | None:
    """The answer as its spans say it."""
    parts = [text[a:b] for a, b in answer_spans(text, answer_format)]
    if answer_format == "choice":
        return parts[0].upper() if parts else None
    if answer_format == "last_number":
        return parts[0].replace("\\$", "").replace("$", "") if parts else None
    said = ", ".join(dict.fromkeys(filter(None, map(extract._peeled, parts)))) or None
    return said.replace("**", "") if said and answer_format == "phrase" else said


def written_alike(answer: str | None) -> str | None:
    """As `read_off`: of the answer alone."""
    return None if answer is None else answer.replace("**", "")


@pytest.mark.parametrize(
    ("text", "answer_format", "spans"),
    [
        (r"so \boxed{45}.", "boxed", ["45"]),
        (r"\boxed{1}. \boxed{ \frac{1}{2} }", "boxed", [r" \frac{1}{2} "]),
        (r"\boxed{<answer>5</answer>}", "boxed", ["<answer>5</answer>"]),
        (r"\boxed{3} and \boxed{4}", "boxed", ["3", "4"]),
        (r"\fbox{3} and \boxed 4.", "boxed", ["3", "4"]),
        (r"é😀 \fbox{x} so \boxed\frac{1}{2}", "boxed", [r"\frac{1}{2}"]),
        (r"\boxed{x = \boxed{5}}", "boxed", ["5"]),
        (r"<answer> 5 </answer>", "boxed", ["5"]),
        (r"<answer>\boxed{5}</answer>", "tag", ["5"]),
        ("The answer is **7 cm**. So", "phrase", ["7 cm"]),
        (r"Answer: \boxed{7} cm", "phrase", ["7"]),
        ("the B is (C), A triangle", "choice", ["C"]),
        ("1 + 2 = -3.5 cm", "last_number", ["-3.5"]),
        (r"\boxed{5", "boxed", []),
        (r"\boxed{ }", "boxed", []),
        ("nothing", "choice", []),
        ("nothing", "last_number", []),
    ],
)
def test_a_span_is_where_the_answer_stands(text, answer_format, spans):
    assert [text[a:b] for a, b in answer_spans(text, answer_format)] == spans


@pytest.mark.parametrize("answer_format", FORMATS)
def test_the_spans_of_every_text_read_as_its_answer(answer_format):
    rng = random.Random(0)
    texts = TEXTS + ["".join(rng.choices(PIECES, k=rng.randint(1, 9))) for _ in range(4000)]
    read = 0
    for text in texts:
        answer, spans = extract_answer(text, answer_format), answer_spans(text, answer_format)
        assert bool(spans) == (answer is not None), text
        assert all(0 <= a < b <= len(text) for a, b in spans), text
        assert written_alike(read_off(text, answer_format)) == written_alike(answer), text
        read += bool(spans)
    assert read > 200


@pytest.mark.parametrize("answer_format", FORMATS)
def test_no_span_takes_long(answer_format):
    for piece in (
        r"\boxed{5}",
        r"\fbox 5 ",
        r"\boxed{",
        "<answer>5</answer>",
        "the answer is not ",
        "(B) 12 ",
    ):
        assert seconds(answer_spans, piece * 3000, answer_format) < 1, piece
