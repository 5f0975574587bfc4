"""Answers that mean the same share a key, others don't, and no text costs more than
milliseconds."""

import random
from itertools import combinations

import pytest
from answers_made import ALL, CALLED_THE_SAME, CLASSES, HARD_ANSWERS, PAIRS, WRITTEN, seconds, soup

from answers import canonical, equivalent, extract_answer, keys
from answers.spelling import plain_spelling
from bench.spellings import draw, spell


@pytest.mark.parametrize("line", CLASSES, ids=lambda line: line[0])
def test_answers_that_mean_the_same_share_a_key(line):
    assert {answer: canonical(answer) for answer in line} == dict.fromkeys(line, canonical(line[0]))


def test_answers_that_mean_different_things_have_different_keys():
    same = [(a[0], b[0]) for a, b in combinations(CLASSES, 2) if canonical(a[0]) == canonical(b[0])]
    assert same == []


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        ("0.50", "1/2"),
        (r"\frac{6}{\sqrt{3}} \text{ cm}", "2*sqrt(3) cm"),
        (r"\left( 1, 2 \right)", "(1, 2)"),
        ("(b)", "B"),
        ("(D) B, D and F turn", "D"),
        ("(D) both (A) and (B)", "D"),
        ("D is the correct answer", "D"),
        ("(d) 12", "D"),
        ("(D): 12", "D"),
        ("(A) + (B)", "A+B"),
        ("(A) 5, (B) 6", "(A)5, (B)6"),
        ("A: 5 and B: 6", "A:5 and B:6"),
        (r"x \leq -3", "x≤-3"),
        ("1 + 2x", "2*x+1"),
        (r"\frac{x^2}{2y} - 1", "x^2/(2*y)-1"),
        ("2^-1", "1/2"),
        ("x^-2", "1/x^2"),
        (r"\sqrt12", "2*sqrt(3)"),
        ("+".join(["(1)"] * 20), "20"),  # beside one another, so none too deep
        ("12 or 13", "12 or 13"),
    ],
)
def test_a_key_can_be_read(answer, key):
    assert canonical(answer) == key


@pytest.mark.parametrize("answer", [None, "", " ", "\n\t", "$$", "$ $", ".", r"\text{}", r"\,", " " * 5000])
def test_an_empty_answer_has_no_key(answer):
    assert canonical(answer) is None
    assert not equivalent(answer, answer)


def test_no_two_answers_that_differ_share_a_key_but_for_names():
    shared = {(r["a"], r["b"]) for r in PAIRS if not r["same"] and canonical(r["a"]) == canonical(r["b"])}
    assert shared == CALLED_THE_SAME


def test_a_key_is_its_own_key():
    assert [text for text in ALL + WRITTEN if canonical(canonical(text)) != canonical(text)] == []


def test_joined_answers_have_keys_that_are_their_own_keys():
    rng = random.Random(8)
    for _ in range(4000):
        text = rng.choice(WRITTEN) + rng.choice("+*=/,") + rng.choice(WRITTEN)
        assert canonical(canonical(text)) == canonical(text), text


def test_no_text_raises_and_every_key_is_its_own_key():
    rng = random.Random(0)
    for text in (soup(rng) for _ in range(6000)):
        extract_answer(text)
        key = canonical(text)
        assert key is None or (key and canonical(key) == key), ascii(text)


def long_way(answer):
    """The key, each round read the long way."""
    before, text = None, answer
    while text != before:
        before, text = text, keys._long_way(plain_spelling(text))[0]
    return text


def test_the_shortcut_gives_what_the_long_way_gives():
    rng = random.Random(2)
    parts = (
        ("", "-", "- ", "+", "x = ", "$"),
        ("", "0", "7", "1.5", ".5", "007", "12", f"{rng.randrange(10**15)}", r"3 \times 10^{-4}", "2*10^3"),
        (
            "",
            r"\frac{3}{4}",
            r"\dfrac{5}{3}",
            r" \frac12",
            r"\frac{2\sqrt{3}}{\sqrt2}",
            r"\frac{\pi}{6}",
            "/6",
        ),
        ("", r"\sqrt{12}", "√3", r" \sqrt{0}"),
        ("", r"\pi", " π", "x^2", "y", "e", "x_1", "∞"),
        ("", "/2", " / 4", " + 2x", " - 7", "-5", r"-\frac{1}{2}y^2", "+3π", "−√8", "."),
        ("", "", "", " cm", r"\text{ m}", r"\,\text{cm}^2", "^\\circ", "%", " m/s", " apples", "$"),
    )
    drawn = ["".join(rng.choice(part) * (rng.random() < 0.5) for part in parts) for _ in range(14_000)]
    drawn += [spell(draw(rng), rng) for _ in range(8000)] + ALL
    shortened = [answer for answer in dict.fromkeys(drawn) if keys.shortcut(answer)]
    assert len(shortened) > 5000
    for answer in shortened:
        assert keys.shortcut(answer) == long_way(answer), answer


def test_a_key_does_not_depend_on_what_was_asked_before():
    first = [canonical(answer) for answer in ALL]
    keys._settle.cache_clear()
    assert [canonical(answer) for answer in reversed(ALL)] == first[::-1]


def test_a_long_text_is_compared_by_its_words():
    words = ["word"] * 300
    assert canonical(" ".join(words)) == canonical("\n ".join(words))
    assert canonical(" ".join(words)) != canonical(" ".join([*words, "more"]))
    assert len(canonical("x" * 1_000_000)) < 100
    assert canonical(" " * 900 + "0.50" + " " * 900) == "1/2"


@pytest.mark.parametrize("answer", HARD_ANSWERS.values(), ids=HARD_ANSWERS)
def test_no_answer_takes_long(answer):
    assert seconds(canonical, answer) < 0.05
    assert seconds(extract_answer, answer) < 0.05
    for other in (answer + "1", "1" + answer, "x=" + answer[::-1], "sin 2"):
        assert seconds(equivalent, answer, other) < 0.05
    assert canonical(canonical(answer)) == canonical(answer)


@pytest.mark.parametrize("answer", HARD_ANSWERS.values(), ids=HARD_ANSWERS)
def test_nested_answers_leave_room_on_the_stack(answer):
    def called_from(depth):
        return called_from(depth - 1) if depth else canonical(answer)

    expected = canonical(answer)
    keys._settle.cache_clear()
    assert called_from(650) == expected


def test_short_answers_are_fast():
    rng = random.Random(3)
    short = [
        "5",
        "-3",
        "B",
        "0.5",
        "12.75",
        r"\frac{1}{2}",
        r"2\sqrt{3}",
        r"45^\circ",
        "5 cm",
        "(B)",
        "1,000",
        "x=5",
        "Yes",
    ]
    votes = [rng.choice(short) for _ in range(20_000)]
    numbers = [f"{i / 8:.3f}" for i in range(10_000)] + [rf"\frac{{{i}}}{{7}}" for i in range(10_000)]
    for batch in (votes, numbers):
        assert len(batch) / seconds(lambda batch=batch: [canonical(answer) for answer in batch]) > 50_000
