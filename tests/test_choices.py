"""An option is its letter, its text or both."""

import random

import pytest
from answers_made import WRITTEN

from answers import option_key


def test_an_options_value_counts_as_its_letter():
    choices = ("red", "green", "7")
    assert option_key("green", choices) == option_key("B", choices) == option_key("(B)", choices) == "B"
    assert option_key("7", choices) == option_key("7.0", choices) == "C"
    assert option_key("blue", choices) == "blue" and option_key(None, choices) is None
    assert option_key("7") == "7"


@pytest.mark.parametrize(
    "written",
    [
        "B",
        "(B)",
        "b)",
        "b",
        "B.",
        r"\text{B}",
        "option B",
        "B. 12 cm",
        "B: 12 cm",
        "B) 12 cm",
        "B:12 cm",
        "(B) 12",
        r"\textbf{(B)}\ 12",
        "12",
        "12 cm",
        r"12\text{ cm}",
        "x = 12",
        "12.0",
        r"\frac{24}{2}",
        "B 12 cm",
        "B (12 cm)",
        "B - 12 cm",
        "B, 12",
        r"\text{B}\ 12\text{ cm}",
        "Answer B",
        "The correct option is B",
        r"\underline{B}",
        r"\text{B}\quad 12",
    ],
)
def test_an_option_is_named_by_its_letter_its_text_or_both(written):
    assert option_key(written, ("6 cm", "12 cm", r"\sqrt{12}\text{ cm}")) == "B"


def test_an_option_is_found_by_equivalence():
    choices = (r"$\frac{1}{1+\sqrt{2}}$", r"$50\%$", "5 apples", r"$x > 2$", "Isosceles triangle", "10")
    written = [r"\sqrt{2}-1", "0.5", "5", r"(2, \infty)", "an isosceles triangle", "ten"]
    assert [option_key(text, choices) for text in written] == list("ABCDEF")


def test_an_ambiguous_value_is_no_letter():
    assert option_key("0.5", ("1/2", "0.50", "3")) == "1/2"
    assert option_key("5", ("5 cm", "5 m", "7 m")) == "5"
    assert (
        option_key("5 m", ("5 cm", "5 m", "7 m")) == option_key(r"5\text{ m}", ("5 cm", "5 m", "7 m")) == "B"
    )
    assert option_key("50%", ("50", "0.5", "7")) == "B"  # what is equal comes before what is forgiven
    assert option_key("50%", ("50", "0.4", "7")) == "A"
    for square in ("6 cm²", "6 cm^2", r"6\text{ cm}^{2}"):
        assert option_key(square, ("6 cm", "6 cm^2")) == "B"


def test_a_letter_with_the_text_of_another_option_is_neither():
    assert option_key("A 12 cm", ("6 cm", "12 cm")) not in ("A", "B")
    assert option_key("AB", ("B", "C")) not in ("A", "B")


def test_a_letter_is_the_option_even_where_options_are_letters():
    assert option_key("B", ("B", "A", "C")) == "B"
    assert option_key("D", ("red", "green", "blue")) == "D"  # no such option
    assert option_key("(D)", ("red", "green", "blue")) == "D"


def test_a_key_from_option_key_is_its_own_key():
    rng = random.Random(7)
    for _ in range(1500):
        choices = tuple(rng.sample(WRITTEN, rng.randint(2, 5)))
        key = option_key(rng.choice([*choices, *rng.sample(WRITTEN, 3), "B", "b"]), choices)
        assert option_key(key, choices) == key, (key, choices)
