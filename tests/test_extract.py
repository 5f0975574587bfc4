"""The answer is found in a response of any format, at once."""

import pytest
from answers_made import seconds

from answers import extract_answer
from answers.extract import FORMATS, best_format, count_parsed


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
        (r"escaped once more: \\boxed{5}", "5"),
        (r"\boxed{ }", None),
        (r"\boxed{", None),
        (r"boxed{5}", None),
        ("", None),
        # a box that is empty hides none
        (r"so \boxed{7} (put in \boxed{})", "7"),
        (r"\boxed{1} and \boxed{ }", "1"),
        (r"\boxed{\boxed{}}", None),
        # other writings of a box
        (r"\fbox{5}", "5"),
        (r"\boxed 5", "5"),
        (r"it is \boxed -3.", "-3"),
        (r"\boxed B", "B"),
        (r"\boxed\frac{1}{2}", r"\frac{1}{2}"),
        # tags
        ("<answer>5</answer>", "5"),
        (r"\boxed{<answer>5</answer>}", "5"),
        (r"<answer>\boxed{5}</answer>", "5"),
        (r"<answer>1</answer> \boxed{}", "1"),
        (r"<answer>1</answer> \boxed{2}", "2"),
        (r"<answer>\boxed{5</answer>", None),
        # boxes that a joint makes one answer
        (r"\boxed{1} and \boxed{2}", "1, 2"),
        (r"\boxed{x=1} or \boxed{x=2}", "x=1, x=2"),
        (r"$x = \boxed{1}$, $y = \boxed{2}$", "1, 2"),
        (r"\boxed{1} \text{ or } x = \boxed{2}", "1, 2"),
        (r"\boxed{1} \quad \boxed{2}", "1, 2"),
        (r"\boxed{3} or \boxed 4 {5}", "3, 4"),
        (r"\boxed{\boxed{1} or \boxed{2}}", "1, 2"),
        (r"The length is \boxed{3} cm and the width is \boxed{4} cm.", "3, 4"),
        (r"\boxed{B}, \boxed{B}", "B"),
        (", ".join(rf"\boxed{{{n}}}" for n in range(30)), ", ".join(map(str, range(18, 30)))),
        # and boxes that are a way and its end
        (r"We get \boxed{3} and \boxed{5}. So \boxed{4}.", "4"),
        (r"\boxed{5}, so the answer is \boxed{6}", "6"),
        (r"the side is \boxed{3}, making the area \boxed{9}", "9"),
        (r"\boxed{2} + \boxed{3}", "3"),
        (r"\boxed{A} is wrong and \boxed{B} is right", "B"),
        ("\\boxed{1}\n\\boxed{2}", "2"),
        (r"\boxed{1} and " + "word " * 20 + r"\boxed{2}", "2"),
    ],
)
def test_the_last_complete_box_is_the_answer(text, content):
    assert extract_answer(text) == content


OTHERS = {
    "tag": [
        ("<answer>5</answer>", "5"),
        ("<ANSWER> 5 </Answer>", "5"),
        (r"<answer>so \boxed{5}</answer>", "5"),
        ("<answer>1</answer> <answer>2</answer>", "2"),
        ("<answer>1</answer> <answer>2", "1"),
        ("<answer>a <answer>5</answer>", "5"),
        ("<answer>3</answer> <answer> </answer>", "3"),
        ("<answer></answer>", None),
        (r"<answer>\boxed{5</answer>", None),
        ("5</answer>", None),
        (r"\boxed{5}", None),
    ],
    "phrase": [
        ("The answer is 5.", "5"),
        ("So the final answer is: **3.5**.", "3.5"),
        ("**Final Answer:** 5", "5"),
        ("Answer: B", "B"),
        ("Answer = 1,000.50.", "1,000.50"),
        ("### Answer\n\n7", "7"),
        ("#### 42", "42"),
        ("#### Step 1: add", None),
        ("The correct option is (B).", "(B)"),
        ("The solution is x = 3.", "x = 3"),
        ("the result is 12", "12"),
        ("The answer to the question is 1/2.", "1/2"),
        ("the answer is therefore 9", "9"),
        ("The answer is **5** apples", "5 apples"),
        ("The answer is 5, because it is.", "5"),
        ("The best answer is B since A is not", "B"),
        ("the answer is 1. Wait, the answer is 2.", "2"),
        ("The answer is 3. It is wrong that the answer is not 3", "3"),
        ("The answer is: $\\frac{1}{2}$.", "$\\frac{1}{2}$"),
        ("The answer is:\n\\[\n5\n\\]", "5"),
        (r"The answer is \(5\).", "5"),
        (r"The answer is \boxed{5}.", "5"),
        ("The answer is <answer>5</answer>", "5"),
        (r"The answer is \boxed{5", None),
        ("The answer is not 5.", None),
        ("the answer is", None),
        ("I can answer this.", None),
        ("<answer>5</answer>", None),
    ],
    "choice": [
        ("B", "B"),
        ("A\n", "A"),
        ("(B)", "B"),
        ("(b)", "B"),
        ("**B**", "B"),
        ("option B", "B"),
        ("B. 45", "B"),
        ("B) 45 cm", "B"),
        (r"\boxed{C}", "C"),
        (r"\textbf{(D)}", "D"),
        ("<answer>B</answer>", "B"),
        (r"Answer: \(B\)", "B"),
        ("Answer: **D**", "D"),
        ("Answer:C", "C"),
        ("The answer is B.", "B"),
        ("The answer is B because A is small", "B"),
        ("The correct answer is option D.", "D"),
        ("I think it is C", "C"),
        ("So, B", "B"),
        ("(A) or (B)", "B"),
        ("Option A looks right. Wait, no, C.", "C"),
        ("A triangle has three sides", None),
        ("**A triangle** it is", None),
        ("In triangle ABC", None),
        ("point B is at (0, 0)", None),
        ("points A, B, C.", None),
        ("f(a) = 3", None),
        ("I am", None),
    ],
    "last_number": [
        ("1 and 2", "2"),
        ("x = -5.", "-5"),
        ("(-3)", "-3"),
        ("−5", "−5"),
        ("-$5", "-5"),
        ("5-3", "3"),
        ("7 - 5", "5"),
        ("pages 3–5", "5"),
        ("is 3.50", "3.50"),
        (".5", ".5"),
        ("1,234,567.5 m", "1,234,567.5"),
        ("1{,}000", "1{,}000"),
        ("$1,000", "1,000"),
        (r"\$5", "5"),
        ("1,2", "2"),
        ("50%", "50"),
        ("1/2", "1/2"),
        ("1 1/2 cups", "1 1/2"),
        (r"-\frac{3}{4}", r"-\frac{3}{4}"),
        (r"2\frac{1}{2}", r"2\frac{1}{2}"),
        ("1.5e3", "1.5e3"),
        (r"3 \times 10^5", r"3 \times 10^5"),
        ("2^{10}", "2^{10}"),
        ("5cm", "5"),
        ("12 cm^2", "12"),
        ("12 cm^{2}", "12"),
        ("3x^{-2}", "3"),
        ("x_1", None),
        ("x^-2", None),
        ("H2O", None),
        ("no", None),
    ],
}


@pytest.mark.parametrize(
    ("answer_format", "text", "answer"), [(name, *row) for name, rows in OTHERS.items() for row in rows]
)
def test_every_other_format_finds_its_answer(answer_format, text, answer):
    assert extract_answer(text, answer_format) == answer


@pytest.mark.parametrize(
    ("parsed", "best"),
    [
        ((9, 9, 9, 9, 10), "boxed"),  # the last resort reads most, and waits
        ((5, 0, 0, 0, 10), "boxed"),
        ((4, 0, 0, 0, 10), "last_number"),
        ((4, 6, 5, 6, 10), "tag"),
        ((1, 0, 2, 1, 2), "phrase"),
        ((0, 0, 0, 0, 0), "boxed"),
    ],
)
def test_auto_takes_what_reads_most_and_the_last_number_where_nothing_else_reads_half(parsed, best):
    assert best_format({name: n / 10 for name, n in zip(FORMATS, parsed, strict=True)}) == best


def test_what_a_box_hides_is_not_counted_for_it():
    texts = ["<answer>5</answer>", r"\boxed{5}", r"The answer is \boxed{5}.", "The answer is (B)", "?"]
    expected = {"boxed": 2, "tag": 1, "phrase": 2, "choice": 1, "last_number": 3}
    assert count_parsed(texts) == expected


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
    "joined boxes": r"\boxed{5} and " * 50_000,
    "empty boxes": r"\boxed{}" * 20_000,
    "empty nested boxes": r"\boxed{ " * 50_000 + "}" * 50_000,
    "boxes without braces": r"\boxed 5" * 10_000,
}


@pytest.mark.parametrize("text", HARD_RESPONSES.values(), ids=HARD_RESPONSES)
def test_no_response_takes_long(text):
    assert seconds(extract_answer, text) < 0.05


HARD_OTHERS = {
    "digits": "x" + "9" * 300_000,
    "two numbers": "9" * 150_000 + " " + "9" * 150_000,
    "thousands": "1,234 " * 50_000,
    "fractions without an end": r"\frac{1}" * 40_000,
    "halves": "1/" * 150_000,
    "bold": "**" * 150_000,
    "bold blanks": "** " + " " * 300_000,
    "lines": "\n" * 300_000,
    "letters": "(A) " * 75_000,
    "open tags": "<answer>" * 40_000,
    "phrases": "the answer is " * 20_000,
    "phrases that deny": "the answer is not " * 16_000,
    "phrases without an end": "answer to " * 30_000,
    "phrases with open boxes": r"the answer is \boxed{ " * 14_000,
}


@pytest.mark.parametrize("text", HARD_OTHERS.values(), ids=HARD_OTHERS)
def test_no_format_takes_long(text):
    for answer_format in FORMATS:
        assert seconds(extract_answer, text, answer_format) < 0.5
