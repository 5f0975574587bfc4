"""Scores against counting by hand, and the program's own behaviour."""

import itertools
import json

import pytest
from conftest import run_program, write_rows

import cli
from data import Example
from eval import EvalConfig, compare, labelled, majority_at_n, pass_at_k, record, report, summary, table


@pytest.mark.parametrize("n", [1, 4, 6])
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_one(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        subsets = list(itertools.combinations(range(n), k))
        exact = sum(any(i < c for i in s) for s in subsets) / len(subsets)
        assert pass_at_k(n, c, k) == pytest.approx(exact, abs=1e-12)


def test_the_majority_is_right_wrong_or_shares_a_tie():
    assert majority_at_n(["1", "1", "2", None], "1") == 1
    assert majority_at_n(["2", "2", "1", None], "1") == 0
    assert majority_at_n(["2", "2", "1", "1"], "1") == 0.5
    assert majority_at_n([None, None, None, "1"], "1") == 1  # the unparsed never vote
    assert majority_at_n([None, None], "1") == 0


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


def test_a_comparison_is_paired_by_question_with_an_interval():
    def result(correct):
        return {
            "records": [{"id": i, "correct": c, "answers": [0] * 4, "majority": c / 4} for i, c in enumerate(correct)]
        }

    worse, better = result([0, 1, 2] * 30), result([1, 2, 3] * 30)
    change = compare(worse, better)
    assert change["pass@1"] == {"difference": 0.25, "low": 0.25, "high": 0.25} and change["questions"] == 90
    noisy = compare(worse, result([3, 0, 2] * 30))["pass@1"]
    assert noisy["low"] < noisy["difference"] < noisy["high"]
    with pytest.raises(cli.UsageError, match="share no question"):
        compare(worse, {"records": []})


def test_questions_that_cannot_be_graded_are_left_out_and_named(tmp_path, processor):
    from data import load

    rows = [{"question": "a", "answer": "1"}, {"question": "b"}, {"question": "", "answer": "2"}]
    rows += [
        {"question": "c", "answer": 3},
        {"question": "<|image_pad|>", "answer": "1"},
        {"question": "d " * 99, "answer": "1"},
    ]
    good, skipped = labelled(load(str(write_rows(tmp_path / "q.jsonl", rows)), labels=True), processor, 120)
    assert [e.question for e in good] == ["a", "c"]
    for problem, message in zip(skipped, ("no answer", "no question", "image token", "prompt tokens"), strict=True):
        assert message in problem


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "--num_samples must be at least 1"),
        ({"temperature": -1.0}, "--temperature"),
        ({"top_p": 0.0}, "--top_p"),
        ({"compare": ["a.json"]}, "two files"),
    ],
)
def test_values_out_of_range_name_the_flag(options, message):
    with pytest.raises(cli.UsageError, match=message):
        EvalConfig(**options)


def test_the_program_writes_a_json_and_compares_two(tmp_path, random_folder, questions_file):
    outs = []
    for seed in (0, 1):
        outs.append(tmp_path / f"{seed}.json")
        done = run_program(
            "eval.py", "--model", random_folder, "--data", questions_file[0], "--num_samples", 2, "--limit", 6,
            "--max_new_tokens", 5, "--seed", seed, "--out", outs[-1],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr == "" and "pass@1" in done.stdout  # no progress bar where there is no terminal
    result = json.loads(outs[0].read_text())
    assert {"pass@1", "maj@2", "pass@2", "parsed", "questions", "by_category", "records"} <= result.keys()
    assert result["questions"] == len(result["records"]) == 6
    assert summary(result["records"], 2)["pass@1"] == result["pass@1"]
    done = run_program("eval.py", "--compare", *outs)
    assert done.returncode == 0 and "over 6 questions" in done.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data", "gone.jsonl"], "gone.jsonl: no such file"),
        (["--model", "/nowhere/at/all"], "no such folder"),
        (["--samples", "3"], "unknown flag --samples; did you mean --num_samples?"),
        (["--num_samples", "many"], "--num_samples"),
        (["--compare", "gone.json", "gone.json"], "not a result of eval.py"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(argv, message):
    done = run_program("eval.py", *argv)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and message in done.stderr and done.stderr.startswith("error: ")
