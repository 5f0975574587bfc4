"""Numbers, sets and domains in words."""

import random

import pytest

from answers import canonical, equivalent
from answers.words import TRIGGERS, leading_number, number_in_words, plain_words

NUMBERS = {
    "thirteen": "13",
    "Twenty-Eight": "28",
    "sixty one": "61",
    "one hundred and four": "104",
    "nine hundred ninety-nine": "999",
    "fourteen hundred": "1400",
    "three thousand two hundred": "3200",
    "seven thousand and six": "7006",
    "a hundred": "100",
    "two million thirty thousand five": "2030005",
    "one hundred twenty thousand": "120000",
    "three lakh": "300000",
    "four dozen": "48",
    "a dozen": "12",
    "negative nineteen": "-19",
    "minus four": "-4",
    "negative zero": "0",
    "half": "1/2",
    "a third": "1/3",
    "five-sixths": "5/6",
    "negative three quarters": "-3/4",
    "eight and a half": "17/2",
    "six and two thirds": "20/3",
    "three point one four": "157/50",
    "7 million": "7000000",
    "2.5 thousand": "2500",
    "9 and a half": "19/2",
    "7 tenths": "7/10",
}
NO_NUMBERS = [
    *("", "a", "third", "the third", "twenty-third", "one hundred third", "seven eight", "seventy eleven"),
    *(
        "eight and nine",
        "eight and",
        "and eight",
        "one thousand twelve hundred",
        "two hundred hundred",
        "hundred",
        "point",
        "minus",
    ),
    *(
        "six and four thirds",
        "zero five",
        "eight apples",
        "12",
        "7 apples",
        "tens",
        "none",
        "zero and a",
        "-",
    ),
]


def test_a_number_in_words_is_read():
    assert {text: number_in_words(text) for text in NUMBERS} == NUMBERS
    assert [text for text in NO_NUMBERS if number_in_words(text) is not None] == []


def test_every_number_below_a_thousand_is_read_back():
    ones = ["", *"one two three four five six seven eight nine ten eleven twelve thirteen fourteen".split()]
    ones += "fifteen sixteen seventeen eighteen nineteen".split()
    tens = "twenty thirty forty fifty sixty seventy eighty ninety".split()

    def name(n: int) -> str:
        if n < 100:
            return ones[n] if n < 20 else "-".join(filter(None, (tens[n // 10 - 2], ones[n % 10])))
        return f"{ones[n // 100]} hundred {name(n % 100)}".strip()

    assert [n for n in range(1, 1000) if number_in_words(name(n)) != str(n)] == []


def test_a_number_may_lead_other_words():
    assert leading_number("thirty-one red apples") == ("31", "red apples")
    assert leading_number("eight and a half hours") == ("17/2", "hours")
    assert leading_number("eight") is None and leading_number("red apples") is None


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("14 percentage points", "14%"),
        ("14 per cent", "14%"),
        ("sixty percent", "60%"),
        ("20 degrees Celsius", "20°C"),
        ("the angle is sixty-five degrees", "the angle is 65°"),
        ("degrees", "degrees"),
        ("negative ∞", "-∞"),
        ("minus 8", "-8"),
        ("plus or minus 8", "±8"),
        ("negative slope", "negative slope"),
        ("there are no real solutions", "∅"),
        ("the empty set", "∅"),
        ("an infinite number of solutions", "infinitely many solutions"),
        ("doesn't exist", "does not exist"),
        ("all real numbers", r"\mathbb{R}"),
        ("every integer", r"\mathbb{Z}"),
        ("x is any real number", r"\mathbb{R}"),
        ("all positive real numbers", "(0, ∞)"),
        ("all real numbers except 6", r"\mathbb{R}\setminus⦃6⦄"),
        ("all real numbers other than x = 6 and x = -1", r"\mathbb{R}\setminus⦃-1, 6⦄"),
        ("all real numbers t such that t ≠ 6", "t ≠ 6"),
        ("all real numbers except the integers", "all real numbers except the integers"),
        ("5m where m is an integer", "5m"),
        ("3k + 1, for any integer k", "3k + 1"),
        ("x^2 + C, where C is a constant", "x^2 + C"),
        ("3k where m is an integer", "3k where m is an integer"),
        ("7 over nine", r"\frac{7}{9}"),
        ("root five over two", r"\frac{(\sqrt{5})}{2}"),
        ("the cube root of ten", r"\sqrt[3]{10}"),
        ("7 choose three", r"\binom{7}{3}"),
        ("nine squared", "9^2"),
        ("18° below zero", "-18°"),
        ("8 times as many", "8 times as many"),
    ],
)
def test_phrases_are_put_in_signs(text, plain):
    assert plain_words(text) == plain
    assert text == plain or not TRIGGERS.isdisjoint(text.split())


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("forty-seven", "47", True),
        ("forty-seven", "74", False),
        ("seventeen", "70", False),
        ("minus sixteen", "-16", True),
        ("minus sixteen", "16", False),
        ("x = two and a half", "2.5", True),
        ("twenty, thirty", "20, 30", True),
        ("All integers", "ℤ", True),
        ("all integers", "all real numbers", False),
        ("Infinity", r"\infty", True),
        ("infinity", "-∞", False),
        ("no solutions", r"\varnothing", True),
        ("no solution", "0", False),
        ("7n where n is an integer", r"7n,\ n \in \mathbb{Z}", True),
        ("7n where n is an integer", "7n+1", False),
        ("18 below zero", "18", False),
        ("18 below zero", "-18", True),
        ("six over seven", "6/7", True),
        ("six over seven", "6", False),
        ("12 percentage points", "12%", True),
        ("60 degrees", r"\frac{\pi}{3}", True),
    ],
)
def test_words_and_signs_that_mean_the_same_are_equal(a, b, same):
    assert equivalent(a, b) == equivalent(b, a) == same


def test_no_words_raise_and_every_key_is_its_own_key():
    rng, words = random.Random(10), sorted(TRIGGERS) + " ".join([*NUMBERS, *NO_NUMBERS]).split()
    words += "n k x real numbers except integer such that 3 -4 ∈ ℤ ( ) , solution zero six %".split()
    for _ in range(4000):
        text = " ".join(rng.choice(words) for _ in range(rng.randint(1, 9)))
        key = canonical(text)
        assert key is None or (key and canonical(key) == key), text
