"""Prompts: pictures and choices in their places, and what asks for new questions."""

import pytest
from PIL import Image

from data import Example, prompts
from data.prompts import content, with_choices
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
