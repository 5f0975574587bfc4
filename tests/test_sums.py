"""Arithmetic of answers: exact, and bounded."""

import random

import pytest

from answers import canonical


def test_division_follows_the_sign_not_the_blank():
    assert canonical(r"x^2/(2*y)") == canonical(r"\frac{x^2}{2 y}")
    assert canonical("6/2*3") == "9"
    assert canonical("6/(2*3)") == "1"
    assert canonical("-2^2") == "-4"
    assert canonical("(-2)^2") == "4"


def test_random_fractions_agree_however_they_are_written():
    rng = random.Random(1)
    for _ in range(500):
        n, d, k = rng.randint(-99, 99), rng.randint(1, 99), rng.randint(1, 9)
        forms = [
            f"{n}/{d}",
            rf"\frac{{{n}}}{{{d}}}",
            f"{k * n}/{k * d}",
            rf"x = \dfrac{{{k * n}}}{{{k * d}}}",
            f"({n})/{d} units",
        ]
        assert len(set(map(canonical, forms))) == 1, forms
        assert canonical(f"{n}/{d}") != canonical(f"{n * d + 1}/{d * d}")  # the next value


def test_numbers_in_a_power_or_product_stay_small():
    assert canonical("2^30") == str(2**30)
    assert canonical("10^{30}") == str(10**30)
    for beyond in ("2^31", "10^{400}", "(10^30)^2", "10^30*10^30", "1e31", "1e99", "9" * 50):
        assert canonical(beyond) == beyond
    for beyond in (r"\sqrt{1000003}", r"\sqrt{999983}*\sqrt{2}"):
        assert canonical(beyond) == beyond


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        (r"\sqrt[3]{8}", "2"),
        (r"\sqrt[3]{-16}", r"-2*\sqrt[3]{2}"),
        (r"\sqrt[3](27)", "3"),
        (r"\sqrt[5]{\frac{32}{243}}", "2/3"),
        (r"\sqrt[3]{\frac{1}{2}}", r"\sqrt[3]{4}/2"),
        (r"\sqrt[4]{36}", "sqrt(6)"),
        (r"\sqrt[6]{8}", "sqrt(2)"),
        (r"\sqrt[3]{0}", "0"),
        ("8^{2/3}", "4"),
        ("27^{-2/3}", "1/9"),
        ("2^{3/2}", "2*sqrt(2)"),
        (r"2^{\frac{2}{3}}", r"\sqrt[3]{4}"),
        ("x^{1/3}", r"\sqrt[3]{x}"),
        (r"\frac{1}{\sqrt[3]{x+1}}", r"1/\sqrt[3]{x+1}"),
        (r"\sqrt[4]{-16}", r"\sqrt[4]{-16}"),  # no real number
        ("(-8)^{1/3}", "(-8)^{1/3}"),
        (r"\sqrt[n]{x}", r"\sqrt[n]{x}"),
        (r"\sqrt[1]{5}", r"\sqrt[1]{5}"),
        (r"\sqrt[31]{5}", r"\sqrt[31]{5}"),
        (r"\sqrt[3]{1000003}", r"\sqrt[3]{1000003}"),
    ],
)
def test_roots_of_any_degree_are_exact(answer, key):
    assert canonical(answer) == canonical(key) == key


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        ("6+-4", "2"),
        ("6-+4", "2"),
        ("6++4", "10"),
        ("-+6", "-6"),
        ("x + -3y", "x-3*y"),
        ("9.0 + -2.0i", "-2*i+9"),
        (r"6 \cdot -4", "-24"),
        ("6/-4", "-3/2"),
        ("6--4", "6--4"),  # a dash of a range is also written so
        ("+-6", "+-6"),  # ±6
        ("6*--4", "6*--4"),
    ],
)
def test_a_sign_may_stand_behind_an_operator(answer, key):
    assert canonical(answer) == canonical(key) == key


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        (r"\frac{1}{2}mv^2", "m*v^2/2"),
        ("0.5v^2m", "m*v^2/2"),
        ("(mv)^2", "(mv)^2"),
        ("1/(xy)^2", "1/(xy)^2"),
        ("(AB)^2", "AB^2"),  # a segment is one number
        ("sin^2 x", "sin^2 x"),
    ],
)
def test_a_power_is_of_the_letter_before_it(answer, key):
    assert canonical(answer) == canonical(key) == key
    assert canonical("mv^2") != canonical("(mv)^2")
