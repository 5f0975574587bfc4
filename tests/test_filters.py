"""What is read out of a written text, and what is dropped."""

import random
import time

import pytest

from data.prompts import with_choices
from programs.filters import (
    FILTERS,
    Filter,
    Written,
    asks,
    jaccard,
    parse_question,
    particulars,
    shingles,
    tokens_of,
)

# --- what is read out of a text


@pytest.mark.parametrize(
    ("text", "question", "choices", "answered"),
    [
        ("How long is AB?", "How long is AB?", (), False),
        (
            "Sure, here is a new question:\n\n**Question:** In ABC,\nAB = 5. Find BC.",
            "In ABC, AB = 5. Find BC.",
            (),
            False,
        ),
        ("### New Question\nWhat is **x**?", "What is x?", (), False),
        ('"How long is AB?"', "How long is AB?", (), False),
        ("Question 2: Which?\nA. red\nB. blue\nC. 4.5", "Which?", ("red", "blue", "4.5"), False),
        ("What is 3 + 4? (A) 7 (B) 8 Answer: A", "What is 3 + 4?", ("7", "8"), True),
        ("Which?\n**A)** up\n**B)** down (correct)\n\n**Answer:** B", "Which?", ("up", "down"), True),
        ("Which?\nA: up\nB: down\nSolution:\nlook up", "Which?", ("up", "down"), True),
        ("How many?\nThe correct answer is 5.", "How many?", (), True),
        ("Find x. It is 7. \\boxed{7}", "", (), True),  # where does the question end? so nothing is kept
        ("What is x? It is 7. \\boxed{7}", "What is x?", (), True),
        (
            "Find x. Please reason step by step, and put your final answer within \\boxed{}.",
            "Find x.",
            (),
            False,
        ),
        ("<think>A box, so 5.</think>How many boxes?", "How many boxes?", (), False),
        ("<think>a thought without an end, is it?", "", (), True),
        ("Choose the correct answer: A. red B. blue", "Choose the correct answer:", ("red", "blue"), False),
        ("The solution is heated. How hot is it?", "The solution is heated. How hot is it?", (), False),
        ("Which?\nA. red\nB. blue\n\nCorrect option: B", "Which?", ("red", "blue"), True),
        ("Which?\n(A) 3\n(B) 4\n\nThe correct option is (B).", "Which?", ("3", "4"), True),
        ("Which?\n\nA. 3\n\nB. 4\n\nNote: this is no choice.", "Which?", ("3", "4"), False),
        ("What is x?\n\nAns: 5", "What is x?", (), True),
        ("What is x?\nAns. 5", "What is x?", (), True),
        ("What is x?\n\nAnswer Key: 5", "What is x?", (), True),
        ("What is x?\n\nAnswer - 5", "What is x?", (), True),
        ("What is x? (Correct: 5)", "What is x?", (), True),
        ("What is the area?\n\nTo find the area, multiply 3 by 4.", "What is the area?", (), True),
        ("What is x?\n\nThis question needs two steps.", "What is x?", (), True),
        ("How many?\n\nTo find it, what is x?", "How many? To find it, what is x?", (), False),
        ("What is the area?\n\nGiven: AB = 5.", "What is the area? Given: AB = 5.", (), False),
        ("Which is the correct option?\nA. 1\nB. 2", "Which is the correct option?", ("1", "2"), False),
        ("Is the right answer - 5 - there?", "Is the right answer - 5 - there?", (), False),
        ("Vertices A. and B. are joined. Find AB.", "Vertices A. and B. are joined. Find AB.", (), False),
        ("Which?\nA. 1\nC. 2", "Which? A. 1 C. 2", (), False),  # a gap
        ("Which?\nA. 1\nB. 1", "Which? A. 1 B. 1", (), False),  # two alike
        ("<image>Where?\r\n", "Where?", (), False),
        ("", "", (), False),
    ],
)
def test_question_choices_and_answer_are_told_apart(text, question, choices, answered):
    assert parse_question(text) == Written(question, choices, answered)


def test_choices_are_read_as_the_prompt_writes_them():
    asked, choices = "Which line is longer?", ("upper", "lower", "the same")
    assert parse_question(with_choices(asked, choices)) == Written(asked, choices)


def test_reading_takes_bounded_time_on_any_text():
    started = time.monotonic()
    for piece in (
        "A. ",
        "Answer ",
        "question ",
        "\\boxed",
        "*",
        "\n",
        " ",
        "(A) ",
        "Find x. ",
        "?",
        "A:\n",
        "?\n\n",
        "?\n\nSince ",
        "?\n\nBy a",
    ):
        parse_question(piece * 3000)
        asks(piece * 3000)
    assert time.monotonic() - started < 5


# --- what is dropped


def verdicts(texts, images=None, seeds=None, finished=None, **options):
    chosen = Filter(**options)
    images, seeds = images or ["one"] * len(texts), seeds or ["What else?"] * len(texts)
    finished = finished or [True] * len(texts)
    return [
        chosen.reason(parse_question(t), f, i, parse_question(s))
        for t, f, i, s in zip(texts, finished, images, seeds, strict=True)
    ]


def test_each_filter_by_hand():
    seed = "What is the area of the rectangle?"
    texts = {
        "How long is the red side?": None,
        "": "empty",
        " ?! ": "empty",
        "The picture shows a red triangle.": "no_question",
        "What is the area, of the rectangle ?": "copy",
        "how long is the  red side": "duplicate",
        "How long is a red side?": "near",
        "How long is the blue side?": None,
    }
    assert verdicts(list(texts), seeds=[seed] * len(texts)) == list(texts.values())
    assert verdicts(["How long is"], finished=[False]) == ["truncated"]
    for name in (
        "empty",
        "truncated",
        "no_question",
        "copy",
        "duplicate",
        "near",
    ):  # each can be switched off alone
        found = verdicts(
            [*texts, "How"], seeds=[seed] * 9, finished=[True] * 8 + [False], names=set(FILTERS) - {name}
        )
        assert name not in found


def test_the_same_words_about_another_image_are_another_question():
    asked = ["How long is the red side?"] * 3
    assert verdicts(asked, images=["one", "two", "one"]) == [None, None, "duplicate"]
    assert verdicts(asked, images=["one", "two", "one"], near_across=1.0) == [None, "near", "duplicate"]


def test_other_numbers_names_and_signs_make_other_questions():
    stem = "In the triangle that is shown in the image above, what is the length of the side "
    texts = [stem + end for end in ("AB?", "AC?", "x?", "X?", "x + 3?", "x - 3?", "x + 4?", "of x + 3?")]
    assert verdicts(texts) == [None] * 7 + ["near"]


def test_a_copy_has_the_choices_of_the_seed_or_none():
    seed = "Which line is longer?\nA. upper\nB. lower"
    texts = [
        "Which line is longer?",
        seed,
        "Which line is longer?\nA. the left\nB. the right",
        "Which line is shorter?",
    ]
    assert verdicts(texts, seeds=[seed] * 4) == ["copy", "copy", None, None]


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("Find the area.", True),
        ("In triangle ABC, calculate AB", True),
        ("If x = 3, what is y", True),
        ("Look closely. Is AB longer than BC", True),
        ("面积是多少？", True),
        ("Please determine the angle.", True),
        ("The line, which is red, is long.", False),
        ("A findings report.", False),
        ("left 4, right 3, 7.", False),
        ("I can not see it.", False),
    ],
)
def test_a_question_asks(text, question):
    assert asks(text) is question


def test_near_duplicates_are_those_of_comparing_all_pairs():
    rng = random.Random(0)
    words = "how long wide is red blue side top of rectangle circle 3 4 AB x and".split()
    texts = [" ".join(rng.choices(words, k=rng.randint(2, 9))) for _ in range(300)]
    for threshold in (0.3, 0.5, 0.7, 0.8, 1.0):
        kept, expected = [], []
        for text in texts:
            tokens = tokens_of(text)
            near = any(
                particulars(tokens) == particulars(k) and jaccard(shingles(tokens), shingles(k)) >= threshold
                for k in kept
            )
            expected.append("near" if near else None)
            if not near:
                kept.append(tokens)
        assert 5 < expected.count(None) < 300
        for corpus in ((), texts):
            assert verdicts(texts, names=["near"], near=threshold, corpus=corpus) == expected


@pytest.mark.slow
def test_filtering_ten_thousand_questions_takes_seconds():
    """From templates, so that all share their commonest shingles; about one image, and over all."""
    rng = random.Random(0)
    nouns = [f"{a}{b}" for a in ("cir", "squa", "tri") for b in ("cle", "re", "angle", "gon", "line", "bar")]
    texts = [
        f"In the image, what is the length of the {rng.choice(nouns)} next to the {rng.choice(nouns)} "
        f"above the {rng.choice(nouns)}, if the {rng.choice(nouns)} is {rng.randint(1, 9)} cm long?"
        for _ in range(10_000)
    ]
    started = time.monotonic()
    found = verdicts(texts, near=0.75, near_across=0.75, corpus=texts)
    assert time.monotonic() - started < 20
    assert found.count(None) > 5000 and found.count("near") > 100
