"""Prompts: pictures and choices in their places, and what asks for new questions."""

import pytest
from answers_made import seconds
from conftest import every, write_rows
from PIL import Image

from answers import option_key
from data import Example, load, prompts
from data.prompts import content, listed_choices, with_choices
from programs.build_tiny import demonstration


def test_pictures_stand_where_their_tags_stand(processor):
    red, blue = (Image.new("RGB", (56, 56), c) for c in ("red", "blue"))
    image, words = {"type": "image"}, lambda text: {"type": "text", "text": text}
    cases = [
        ((red,), "What?", (), [image, words("What?!")]),
        ((red,), "<image>What?", (), [image, words("What?!")]),
        ((red,), "Is <image> red?", (), [words("Is "), image, words(" red?!")]),
        ((red, blue), "<image><image>What?", ("yes",), [image, image, words("What?\nA. yes!")]),
        ((red, blue), "What of <image>", (), [image, words("What of "), image, words("!")]),
        ((red, blue), "<image> or <image>?", (), [image, words(" or "), image, words("?!")]),
        ((), "No picture", (), [words("No picture!")]),
    ]
    for images, question, choices, expected in cases:
        assert content(Example("q", images, question, choices=choices), "!") == expected
    one = processor.encode(Example("q", (red, blue), "<image>A<image>B"))
    marks = processor.tokenizer.convert_ids_to_tokens(one.ids)
    picture = processor.tokenizer.convert_ids_to_tokens(processor.image_token_id)
    runs = "".join("P" if m == picture else m for m in marks if m in ("A", "B", picture))
    assert runs.replace("PPPP", "P").startswith("PAPB")
    assert (
        processor.encode(Example("q", (red,), "<image>A")).ids
        == processor.encode(Example("q", (red,), "A")).ids
    )
    with pytest.raises(ValueError, match="question q: 2 <image> tags but 1 images"):
        processor.encode(Example("q", (red,), "<image> <image>"))


def test_choices_are_shown_once():
    choices = ("3", "4 cm")
    assert with_choices("How?", choices) == "How?\nA. 3\nB. 4 cm"
    for listed in (
        "How?\nChoices:\n(A) 3\n(B) 4 cm",
        "How? A. 3 B. 4 cm",
        "How?\nA:3\nB:4 cm",
        "How?\nA) 3\nB) 4 cm",
    ):
        assert with_choices(listed, choices) == listed
    for other in ("How? A. 30 B. 4 cm", "How many As: 3 or 4 cm?", "How?\nA. 3", "Plan A. 5 or B. 4 cm"):
        assert with_choices(other, choices) == other + "\nA. 3\nB. 4 cm"


def test_the_brief_prompts_are_those_the_built_in_base_was_taught():
    asked = {a for _, a, _ in (demonstration(i) for i in range(600)) if "Write a" in a}
    for mode, start in (("direct", "Write a new"), ("in-context", "A question about")):
        made = prompts.write_question("brief", mode, "How long is the segment?", ("unseen",))
        assert made.startswith(start) and made in asked


def test_the_full_prompt_holds_question_and_choices_and_the_answer_only_where_given():
    made = prompts.write_question("full", "in-context", "Which {x}?", ("up", "down"))
    assert "Which {x}?\nA. up\nB. down\n" in made and "Its answer" not in made and prompts.RULES in made
    assert "B. down\nIts answer: B\n" in prompts.write_question(
        "full", "in-context", "Which?", ("up", "down"), "B"
    )
    assert "Which" not in prompts.write_question("full", "direct", "Which?")


@pytest.mark.parametrize(
    ("question", "choices"),
    [
        ("How long is x?\nA. 3 cm\nB. 4 cm", ("3 cm", "4 cm")),
        ("What is x? (A) 3 (B) 4 (C) 5", ("3", "4", "5")),
        ("What is x? A. 3  B. 4  C. 5", ("3", "4", "5")),
        ("What is x?A. 3 B. 4", ("3", "4")),
        ("Which? A. 1, B. 2, C. 3, D. 4", ("1", "2", "3", "4")),
        ("What is x?\nA) 3;\nB) 4;\n", ("3", "4")),
        ("x =\n\nA. 3\n\nB. 4", ("3", "4")),
        ("x is\n(A) 3\n(B) 4\nAnswer with the letter.", ("3", "4")),
        ("Find angle C. ( )\nChoices:\nA:145°\nB:35°", ("145°", "35°")),
        ("求x ( )\nA、3\nB、4", ("3", "4")),
        ("Choose: A. The sun rises. B. The moon sets.", ("The sun rises.", "The moon sets.")),
        (r"Then $x =$ $\textbf{(A)}\ 3 \qquad\textbf{(B)}\ \frac12$", ("3", r"\frac12")),
        ("Which?\nA. $1$\nB. $2$", ("$1$", "$2$")),
    ],
)
def test_options_in_a_question_are_its_choices_and_are_not_shown_twice(question, choices):
    assert listed_choices(question) == choices
    assert with_choices(question, choices) == question


@pytest.mark.parametrize(
    "question",
    [
        "",
        "Which? A. 3",
        "Which? A. 3 C. 5",
        "Which? A. 3 B. 3",
        "Which? A. 3 B) 4",
        "Which? A. 3 B. 4. Explain your answer.",
        "Plan A. 5 or B. 4 cm",
        "Points (A) and (B) are given.",
        "The answer is (A) or (B)?",
        "Is A. Smith older than B. Jones?",
        "Mr. A. B. C. Smith is how old?",
        "Find A. Then find B.",
        "Where do A(1, 2) and B(3, 4) lie?",
        "How many As: 3 or 4 cm?",
        "Given the sets A: {1, 2} and B: {2, 3}, find the union.",
        "Angle A: 30, angle B: 40. Find C.",
        "The vertices are\nA: (0, 0)\nB: (1, 0)",
        "In the triangle.\nA. Find the area.\nB. Find the perimeter.",
        "Answer both.\nA. What is x?\nB. What is y?",
        "Two plans:\nA. 3 dollars a day\nB. 20 dollars\nFor how many days is plan A cheaper?",
        "Which?\nA. <image>\nB. <image>",
    ],
)
def test_ordinary_text_lists_no_options(question):
    assert listed_choices(question) == ()


@pytest.mark.parametrize(
    "question",
    ["(A) " * 50_000, "? A. 3 B. 4 " * 20_000, "A." + " " * 300_000, "?\nA. 3\nB. 4\n" + "answer " * 50_000],
)
def test_no_question_takes_long(question):
    assert seconds(listed_choices, question) < 0.5


def test_letter_option_and_value_vote_together_where_the_question_lists_its_options(tmp_path):
    rows = [
        {"question": "What is x?\nA. 3\nB. 4"},
        {"question": "What is x?\nA. 3\nB. 4", "choices": ["5", "6"]},
    ]
    listed, own = every(load(str(write_rows(tmp_path / "q.jsonl", rows))))
    assert listed.choices == ("3", "4") and own.choices == ("5", "6")
    assert {option_key(said, listed.choices) for said in ("B", "(B) 4", "4")} == {"B"}
    (said,) = content(listed)
    assert said["text"] == rows[0]["question"]
