"""Scores and comparisons against counting by hand."""

import itertools

import pytest

from common import cli
from data import Example
from evaluation.metrics import compare, majority_at_n, pass_at_k, record, report, table


@pytest.mark.parametrize("n", [1, 4, 6])
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_one(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        subsets = list(itertools.combinations(range(n), k))
        exact = sum(any(i < c for i in s) for s in subsets) / len(subsets)
        assert pass_at_k(n, c, k) == pytest.approx(exact, abs=1e-12)


def majority(keys, gold):
    return majority_at_n(keys, [key == gold for key in keys])


def test_the_majority_is_right_wrong_or_shares_a_tie():
    assert majority(["1", "1", "2", None], "1") == 1
    assert majority(["2", "2", "1", None], "1") == 0
    assert majority(["2", "2", "1", "1"], "1") == 0.5
    assert majority([None, None, None, "1"], "1") == 1  # the unparsed never vote
    assert majority([None, None], "1") == 0


def test_votes_group_by_class_whatever_the_grader_holds_equal():
    # the grader takes both "a" and "b" for right, but they are two candidates beside three votes
    # for "c"
    assert majority_at_n(["a", "a", "b", "b", "c", "c", "c"], [True] * 4 + [False] * 3) == 0
    assert majority_at_n(["a", "a", "b", "b", "c", "c"], [True] * 4 + [False] * 2) == pytest.approx(2 / 3)
    assert majority_at_n(["a", "a"], [True, False]) == 0.5  # one key, spelled so that the grader differs


EXAMPLES = [
    Example("a", (), "?", "1/2", meta={"category": "x"}),
    Example("b", (), "?", "A", ("red", "blue"), {"category": "y"}),
]
TEXTS = [
    [r"\boxed{0.5}", r"\boxed{1/2}", r"\boxed{3}", "?"],
    [r"\boxed{red}", r"\boxed{B}", r"\boxed{B}", r"\boxed{C}"],
]


def records():
    return [record(e, t) for e, t in zip(EXAMPLES, TEXTS, strict=True)]


def test_a_report_is_what_counting_gives():
    result = report(records(), 4)
    assert result["pass@1"] == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert result["pass@2"] == pytest.approx((5 / 6 + 3 / 6) / 2)
    assert result["maj@4"] == 0.5 and result["pass@4"] == 1.0
    assert result["parsed"] == 7 / 8 and result["questions"] == 2
    assert result["by_category"]["x"]["maj@4"] == 1 and result["by_category"]["y"]["maj@4"] == 0


def test_the_table_shows_every_category_and_the_whole():
    lines = table({"base": report(records(), 4), "trained": report(records(), 4)}, 4).splitlines()
    assert lines[1].split() == ["category", *["pass@1", "maj@4", "pass@4"] * 2, "questions"]
    assert lines[-1].split() == ["all", *["0.375", "0.500", "1.000"] * 2, "2"]


def result(correct, **more):
    """A result file whose question i got correct[i] of 4 samples right."""
    rows = [
        {
            "id": str(i),
            "correct": c,
            "answers": [""] * 4,
            "majority": c / 4,
            "gold": "1",
            "by": {"category": ["xy"[i % 2]]},
        }
        for i, c in enumerate(correct)
    ]
    return {"benchmark": "plain", "grader": "ours", "records": rows} | more


def test_a_comparison_is_paired_by_question_with_an_interval():
    worse, better = result([0, 1, 2] * 30), result([1, 2, 3] * 30)
    change = compare(worse, better)
    assert change["questions"] == 90
    assert change["pass@1"] == pytest.approx({"difference": 0.25, "low": 0.25, "high": 0.25, "questions": 90})
    noisy = compare(worse, result([3, 0, 2] * 30))["pass@1"]
    assert noisy["low"] < noisy["difference"] < noisy["high"]


def test_the_interval_is_as_wide_as_the_normal_one_where_that_holds():
    after = [
        4 * ((i * 7) % 10 < 6) for i in range(400)
    ]  # 0.6 of 400 questions: sd of the mean sqrt(.24 / 400) = 0.0245
    change = compare(result([0] * 400), result(after))["pass@1"]
    assert change["difference"] == pytest.approx(0.6)
    assert change["low"] == pytest.approx(0.6 - 1.96 * 0.0245, abs=0.005)
    assert change["high"] == pytest.approx(0.6 + 1.96 * 0.0245, abs=0.005)


def test_a_comparison_shows_each_category():
    change = compare(result([0, 1] * 20), result([2, 1] * 20))["by"]["category"]
    assert change["x"] == pytest.approx({"difference": 0.5, "low": 0.5, "high": 0.5, "questions": 20})
    assert change["y"]["difference"] == 0


def test_questions_of_one_unit_are_drawn_together():
    before, after = result([0] * 40), result([4] * 20 + [0] * 20)
    for x in (before, after):
        for i, row in enumerate(x["records"]):
            row["unit"] = str(i // 20)  # two units: all right, all wrong
    change = compare(before, after)["pass@1"]
    assert (change["low"], change["high"]) == (0, 1)  # as few as two units say next to nothing


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (result([1, 2], grader="math-verify 0.9.0"), "A has grader ours, B math-verify 0.9.0"),
        (result([1, 2], benchmark="chartqa"), "A has benchmark plain, B chartqa"),
        (result([1, 2, 3]), "1 questions are in one file only"),
        (result([]), "share no question"),
    ],
)
def test_a_comparison_of_different_measurements_is_refused(other, message):
    with pytest.raises(cli.UsageError, match=message):
        compare(result([1, 2]), other)


def test_a_comparison_of_different_questions_or_numbers_of_samples_is_refused():
    other = result([1, 2])
    other["records"][1]["gold"] = "2"
    with pytest.raises(cli.UsageError, match="question 1 is not the same"):
        compare(result([1, 2]), other)
    fewer = result([1, 2])
    for row in fewer["records"]:
        row["answers"] = [""] * 2
    with pytest.raises(cli.UsageError, match="--num_samples"):
        compare(result([1, 2]), fewer)
