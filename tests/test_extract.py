"""The last complete box is found, in any text, at once."""

import pytest
from answers_made import seconds

from answers import extract_answer


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{5}.", "5"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed {7}", "7"),
        ("\\boxed\n{7}", "7"),
        (r"\boxed{ 7 }", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a\}b}", r"a\}b"),
        (r"\boxed{a\\}", r"a\\"),
        (r"\boxed{3} and \boxed{4", "3"),
        (r"\boxed{3} and \boxed{4 and {x}", "3"),
        (r"\boxed{3} and \boxed{4\}", "3"),
        (r"\boxed{x = \boxed{5}}", "5"),
        (r"\boxed{open \boxed{5}", "5"),
        (r"\boxed{1} } { \boxed{2} }", "2"),
        (r"\boxed{3} or \boxed 4 {5}", "3"),
        (r"escaped once more: \\boxed{5}", "5"),
        (r"\boxed{1} and \boxed{}", None),
        (r"\boxed{ }", None),
        (r"\boxed{", None),
        (r"\boxed 5", None),
        (r"\fbox{5}", None),
        (r"boxed{5}", None),
        ("", None),
    ],
)
def test_the_last_complete_box_is_the_answer(text, content):
    assert extract_answer(text) == content


HARD_RESPONSES = {
    "unclosed boxes": r"\boxed{" * 100_000,
    "unclosed boxes before a brace": r"\boxed{" * 20_000 + "{}",
    "boxes": r"\boxed{5}" * 100_000,
    "nested boxes": r"\boxed{" * 100_000 + "}" * 100_000,
    "nested braces": r"\boxed{" + "{" * 10_000 + "}" * 10_000 + "}",
    "one nested brace too many": r"\boxed{" + "{" * 10_001 + "}" * 10_000 + "}",
    "a megabyte of words": "a b " * 250_000 + r"\boxed{3}",
    "a megabyte of backslashes": r"\boxed{5}" + "\\" * 1_000_000,
    "boxes that are none": r"\boxed " * 20_000 + "}",
}


@pytest.mark.parametrize("text", HARD_RESPONSES.values(), ids=HARD_RESPONSES)
def test_no_response_takes_long(text):
    assert seconds(extract_answer, text) < 0.05
