"""Scores against counting by hand, and the program's own behaviour."""

import itertools
import json
import weakref
from pathlib import Path

import pytest
from conftest import ROOT, run_program, write_rows
from PIL import Image

from common import cli, files
from data import Example
from eval import EvalConfig, Partial, main
from evaluation.answering import answers, batches, labelled, usable, without_images
from evaluation.metrics import compare, majority_at_n, pass_at_k, record, report, summary, table


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


def test_votes_group_by_canonical_key_whatever_the_grader_holds_equal():
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
    for problem, message in zip(
        skipped, ("no answer", "no question", "image token", "prompt tokens"), strict=True
    ):
        assert message in problem


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "--num_samples must be at least 1"),
        ({"temperature": -1.0}, "--temperature"),
        ({"temperature": float("inf")}, "--temperature"),
        ({"temperature": float("nan")}, "--temperature"),
        ({"out": "data"}, "--out data is a folder: name a file in it"),
        ({"out": "README.md/r.json"}, "README.md is a file"),
        ({"top_p": 0.0}, "--top_p"),
        ({"compare": ["a.json"]}, "two files"),
        ({"benchmark": "mathvista2"}, "--benchmark must be one of auto, mathvista"),
        ({"grader": "gpt"}, "--grader must be one of ours, math-verify"),
        ({"min_pixels": 9, "max_pixels": 8}, "--min_pixels"),
        ({"grader_seconds": 0.0}, "--grader_seconds"),
    ],
)
def test_values_out_of_range_name_the_flag(options, message, monkeypatch):
    monkeypatch.chdir(ROOT)
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


# --- Memory and resuming --------------------------------------------------------------------------


class Rows(list):
    def where(self, index):
        return f"row {index}"


class Pictures:
    """A source of plain pictures that knows how many of them are alive."""

    def __init__(self, count, side):
        self.count, self.side, self.alive, self.most = count, side, 0, 0

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        if row >= self.count:
            raise IndexError(row)
        image = Image.new("RGB", (self.side, self.side), (row, 0, 0))
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(image, self.leave)
        return Example(f"q{row}", (image,), "?", "1")

    def leave(self):
        self.alive -= 1


def test_the_pictures_of_a_benchmark_are_not_all_held(processor):
    source = Pictures(40, 1100)  # shrunk for this processor: they outweigh their encodings
    good, _ = labelled(source, processor, 2048)
    assert len(good) == 40 and [e.id for e in good[3:7][1:]] == ["q4", "q5", "q6"]
    assert source.most <= 3
    for part in batches((without_images(e), processor.encode(e)) for e in good):
        assert len(part) == 40
    assert source.most <= 3


def test_small_pictures_stay_with_their_encodings(processor):
    source = Pictures(5, 28)
    good, _ = labelled(source, processor, 2048)
    assert good[2] is good[2] and good[1:][1] is good[2]
    assert processor.encode(good[2]) is processor.encode(good[2])


def test_batches_end_at_their_number_or_their_bytes(processor, monkeypatch):
    items = [(e, processor.encode(e)) for e in Pictures(7, 56)]
    assert [len(part) for part in batches(items, 3)] == [3, 3, 1]
    monkeypatch.setattr("evaluation.answering.BATCH_BYTES", 2 * items[0][1].bytes())
    assert [len(part) for part in batches(items, 3)] == [2, 2, 2, 1]


def test_an_id_that_comes_again_is_left_out(processor):
    rows, skipped = Rows(Example(i, (), "?", "1") for i in ("a", "b", "a", "c")), {}
    found = usable(rows, processor.encode, 2048, skipped, seen={"c"})
    assert [example.id for _, example, _ in found] == ["a", "b"]
    assert skipped == {2: "row 2: the id a is already taken", 3: "row 3: the id c is already taken"}


def test_a_partial_file_gives_back_what_it_was_given_and_drops_a_torn_line(tmp_path):
    out = str(tmp_path / "deep" / "r.json")
    first = Partial(out, {"seed": 0, "model": "m"})
    first.add(3, [{"id": "a"}], {1: "x"})
    first.add(5, [{"id": "b"}], {1: "x", 3: "y", 5: "z"})
    first.file.write(b'{"row": 7, "rec')
    first.file.close()
    again = Partial(out, {"seed": 0, "model": "m"})
    assert (again.row, again.records, again.skipped) == (5, [{"id": "a"}, {"id": "b"}], ["x", "y"])
    again.add(6, [{"id": "c"}], {5: "z"})
    again.file.close()
    last = Partial(out, {"seed": 0, "model": "m"})
    assert (last.row, len(last.records), last.skipped) == (6, 3, ["x", "y", "z"])
    with pytest.raises(cli.UsageError, match="begun with other model, seed; use the same, or another --out"):
        Partial(out, {"seed": 1, "model": "n"})


def test_a_killed_evaluation_continues_to_the_same_result(
    tmp_path, random_folder, questions_file, monkeypatch
):
    path, rows = questions_file
    rows.insert(5, {"question": "no answer"})
    rows.append({"question": "none either"})
    write_rows(path, rows)
    argv = ["--model", str(random_folder), "--data", str(path), "--num_samples", "2", "--max_new_tokens", "5"]
    monkeypatch.setattr("evaluation.answering.batches", lambda items, most: batches(items, 4))
    assert main([*argv, "--out", str(tmp_path / "whole.json")]) == 0
    calls = []

    def dies(*a):
        calls.append(a)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return answers(*a)

    def dies_at_the_end(*a):
        raise KeyboardInterrupt

    monkeypatch.setattr("evaluation.answering.answers", dies)
    argv += ["--out", str(tmp_path / "r.json")]
    assert main(argv) == 130 and not (tmp_path / "r.json").exists()
    assert len((tmp_path / "r.json.partial.jsonl").read_text().splitlines()) == 1 + 3
    with pytest.raises(cli.UsageError, match="begun with other seed"):
        main([*argv, "--seed", "1"])
    calls[:] = [None] * 4  # from now on it answers
    monkeypatch.setattr("eval.report", dies_at_the_end)
    assert main(argv) == 130 and len(calls) == 4 + 3
    monkeypatch.setattr("eval.report", report)
    assert main(argv) == 0 and len(calls) == 4 + 3
    whole, resumed = (json.loads((tmp_path / name).read_text()) for name in ("whole.json", "r.json"))
    whole["config"].pop("out"), resumed["config"].pop("out")
    assert whole == resumed and whole["questions"] == 24 and len(whole["skipped"]) == 2
    assert not list(tmp_path.glob("*.partial*"))


def test_one_process_at_a_time_writes_a_result(tmp_path, random_folder, questions_file, monkeypatch):
    out = tmp_path / "r.json"
    flags = [
        "--model",
        random_folder,
        "--data",
        questions_file[0],
        "--limit",
        2,
        "--max_new_tokens",
        5,
        "--out",
        out,
    ]
    partial = Path(f"{out}.partial.jsonl")
    partial.touch()
    files.hold(partial)
    done = run_program("eval.py", *flags)
    assert done.returncode == 2 and f"another process is writing {partial}" in done.stderr
    files.release()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(cli.UsageError, match="start it with python, not with torchrun"):
        main([str(f) for f in flags])
    monkeypatch.delenv("WORLD_SIZE")
    assert main([str(f) for f in flags]) == 0 and not partial.exists()


def test_the_papers_decoding_is_a_preset():
    config = cli.parse(EvalConfig, ["--preset", "paper-eval", "--seed", "3"])
    assert (config.temperature, config.num_samples, config.max_new_tokens, config.seed) == (0.2, 1, 16384, 3)
    assert (config.min_pixels, config.max_pixels) == (50176, 1003520)
