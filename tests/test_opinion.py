"""A second opinion is asked where ours says no to what it can't read, and never beyond."""

import pytest

from answers import answer_classes, second_opinion
from answers.equivalence import Same
from answers.opinion import MAX_LATE, is_read, worth_asking


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("7", True),
        (r"\frac12 x", True),
        (r"\sin 30^\circ", True),
        (r"\sum_{k=1}^n k", False),
        ("5 apples", False),
        ("x < 5", False),
        ("(1, 2)", True),
        (r"1, \sqrt{2}", True),
        ("(1, cat)", False),
        ("3-5", True),
        ("2024-01-05", True),
        ("", False),
    ],
)
def test_what_can_be_computed_is_read(answer, read):
    assert is_read(answer) == read


@pytest.mark.parametrize(
    ("a", "b", "asked"),
    [
        (r"\sum_{k=1}^n k", r"\frac{n(n+1)}{2}", True),
        (r"\int_0^1 x\,dx", "1/2", True),
        (r"\{x : x > 5\}", r"(5, \infty)", True),
        (r"x = 1 \text{ or } x^3 = 8", r"x^3 = 8 \text{ and } x=1", True),
        ("3", "4", False),
        ("0.33", "1/3", False),
        ("x+1", "x+2", False),
        ("(1, 2)", "1, 2", False),
        ("5 apples", "5 oranges", False),
        ("5 miles", "5 parsecs", False),
        (r"5 \text{ blobs}", "5", False),
        ("cat", "act", False),
        ("AB", "BA", False),
        (r"\sum_{k=1}^n k" + " " * 500, "3", False),
    ],
)
def test_two_that_are_read_and_other_words_are_never_asked_about(a, b, asked):
    assert worth_asking(a, b) == worth_asking(b, a) == asked


def opinion(verdicts: dict):
    """(compare, what was asked), by scripted verdicts; everything else is a no."""
    asked = []

    def equal(a, b):
        asked.append((a, b))
        return verdicts.get((a, b), False)

    return second_opinion(equal), asked


A, B, C = (rf"\int {{{name}}}" for name in "abc")  # which ours can't read


def test_ours_comes_first_and_the_opinion_must_hold_both_ways():
    compare, asked = opinion({(A, B): True, (B, C): True, (C, B): True})
    assert compare("1/2", "0.5") == Same.YES and compare("3", "4") == Same.NO and not asked
    assert compare(A, B) == Same.NO and asked == [(A, B), (B, A)]
    assert compare(B, C) == Same.YES
    assert compare("5", "5 apples") == Same.FORGIVEN and len(asked) == 4


def test_an_answer_that_is_too_slow_is_left_alone():
    class Never:
        def get(self, *_):
            return None

    compare, asked = opinion(Never())
    slow = r"9^{9^{9^{9}}} < x"
    assert [compare(slow, f"x < {n}") for n in range(6)] == [Same.NO] * 6
    assert len(asked) == MAX_LATE
    compare("x < 0", "x < 9")  # its one time-out was another's
    assert len(asked) == MAX_LATE + 1


def test_a_class_joins_only_where_all_agree():
    pairs, answers = [(A, B), (B, A), (B, C), (C, B)], [A, B, B, C]
    assert len(set(answer_classes(answers, compare=opinion(dict.fromkeys(pairs, True))[0]))) == 3
    pairs += [(A, C), (C, A)]
    assert len(set(answer_classes(answers, compare=opinion(dict.fromkeys(pairs, True))[0]))) == 1


def test_math_verify_has_a_second_opinion():
    pytest.importorskip("math_verify", reason="pip install 'math-verify[antlr4_13_2]'")
    from evaluation.grader import MathVerify

    answers = [r"\int_0^1 x\,dx", "1/2", r"\int_0^1 2x\,dx"]
    assert len(set(answer_classes(answers))) == 3
    with MathVerify(seconds=10) as grader:
        compare = second_opinion(grader.equal)
        found = answer_classes(answers, compare=compare)
        assert found[0] == found[1] != found[2]
        assert len(set(answer_classes(["cat", "act", "5 apples", "5 oranges"], compare=compare))) == 4
