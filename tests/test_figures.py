"""The built-in questions: drawn, answered and misread."""

import random

import pytest

from answers import canonical
from data import figures


def test_a_drawn_question_is_the_same_every_time():
    for i in range(20):
        one, two = figures.figure("train", i), figures.figure("train", i)
        assert one == two and one.image().tobytes() == two.image().tobytes()


def test_no_image_and_question_is_in_two_splits():
    drawn = {
        "train": [figures.figure("train", i) for i in range(3000)],
        "validation": figures.held_out("validation", 512),
        "test": figures.held_out("test", 1024),
    }
    content = {name: {(f.image().tobytes(), f.question, f.choices) for f in fs} for name, fs in drawn.items()}
    assert len(content["test"]) == 1024 and len(content["validation"]) == 512
    assert not content["train"] & content["test"]
    assert not content["train"] & content["validation"]
    assert not content["validation"] & content["test"]


def test_there_are_five_families_and_several_kinds_of_answer():
    answers = {}
    for drawn in figures.held_out("test", 300):
        answers.setdefault(drawn.family, set()).add(drawn.answer)
    assert len(answers) == 5 and all(len(a) >= 3 for a in answers.values())
    assert all(a.isdigit() for a in answers["bars"] | answers["area"])
    assert all("/" in a for a in answers["fraction"])
    assert any("." in a for a in answers["ruler"])
    assert answers["lines"] == set("ABC")


@pytest.mark.parametrize(
    ("family", "params", "question", "answer", "steps"),
    [
        (
            "bars",
            (4, 3, "red", "blue", "sum"),
            "What do the two bars add up to?",
            "7",
            "left 4, right 3, 4 + 3 = 7.",
        ),
        ("bars", (9, 4, "red", "blue", "difference"), "How much taller is the left bar?", "5", None),
        ("area", (3, 5, "red", 0, 0, "area"), "What is the area of the rectangle?", "15", None),
        ("area", (3, 5, "red", 0, 0, "border"), "How long is the border of the rectangle?", "16", None),
        ("fraction", (8, 3, "red", 0, "white"), "What fraction of the disc is white?", "5/8", None),
        (
            "ruler",
            (3, 8, "red", 0, "length"),
            "How long is the segment?",
            "2.5",
            "from 1.5 to 4, 4 - 1.5 = 2.5.",
        ),
        (
            "lines",
            (4, 9, "red", "blue", "shorter"),
            "Which line is shorter?",
            "A",
            "upper 4, lower 9, so upper.",
        ),
        ("lines", (4, 9, "red", "blue", "longer"), "Which line is longer?", "B", None),
        (
            "lines",
            (5, 5, "red", "blue", "longer"),
            "Which line is longer?",
            "C",
            "upper 5, lower 5, so the same.",
        ),
    ],
)
def test_questions_worked_out_by_hand(family, params, question, answer, steps):
    drawn = figures.make_figure(family, params)
    assert (drawn.question, drawn.answer) == (question, answer)
    if steps:
        assert drawn.work(drawn.readings)[0] == steps


def test_the_pictures_show_what_the_parameters_say():
    bars = figures.make_figure("bars", (4, 9, "red", "green", "sum")).image()
    for x, colour, height in ((15, "red", 4), (39, "green", 9)):
        column = [bars.getpixel((x, y)) for y in range(56)]
        assert column.count(figures.COLOURS[colour]) == 5 * height
    lines = figures.make_figure("lines", (4, 2, "red", "green", "longer")).image()
    assert [lines.getpixel((x, 15)) for x in range(56)].count(figures.COLOURS["red"]) == 5 * 4
    disc = figures.make_figure("fraction", (4, 1, "red", 0, "shaded")).image()
    red = sum(p == figures.COLOURS["red"] for p in disc.get_flattened_data())
    assert 0.7 < red / (3.1416 * 24.5**2 / 4) <= 1


def test_a_careful_reader_is_never_wrong_and_a_careless_one_sometimes():
    rng = random.Random(0)
    drawn = [figures.figure("train", i) for i in range(400)]
    assert all(figures.misread(f, rng, 0.0) == f.readings for f in drawn)
    wrong = [f.work(figures.misread(f, rng, 0.3))[1] != f.answer for f in drawn]
    assert 0.2 < sum(wrong) / len(wrong) < 0.6


def test_notations_of_an_answer_mean_the_same():
    rng = random.Random(0)
    seen = {figures.notation("2/4", rng) for _ in range(50)}
    assert seen == {"2/4", "\\frac{2}{4}", "0.5"} and {canonical(s) for s in seen} == {canonical("1/2")}


def test_other_questions_fit_the_picture_and_are_other():
    for i in range(50):
        drawn = figures.figure("train", i)
        others = figures.other_questions(drawn)
        assert others and drawn.question not in others
