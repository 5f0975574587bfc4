"""The program eval.py: its flags, what it writes, and that it continues where it was killed."""

import json
from pathlib import Path

import pytest
from conftest import ROOT, held_elsewhere, write_rows

from common import cli
from eval import EvalConfig, Partial, main
from evaluation.answering import answers, batches
from evaluation.metrics import report, summary


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


def test_the_program_writes_a_json_and_compares_two(tmp_path, random_folder, questions_file, program):
    outs = []
    for seed in (0, 1):
        outs.append(tmp_path / f"{seed}.json")
        flags = ["--model", random_folder, "--data", questions_file[0], "--seed", seed, "--out", outs[-1]]
        flags += "--num_samples 2 --limit 6 --max_new_tokens 5".split()
        done = program(main, *flags)
        assert done.returncode == 0, done.stderr
        assert done.stderr == "" and "pass@1" in done.stdout  # no progress bar where there is no terminal
    result = json.loads(outs[0].read_text())
    assert {"pass@1", "maj@2", "pass@2", "parsed", "questions", "by_category", "records"} <= result.keys()
    assert result["questions"] == len(result["records"]) == 6
    assert summary(result["records"], 2)["pass@1"] == result["pass@1"]
    done = program(main, "--compare", *outs)
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
def test_a_users_mistake_is_one_line_and_status_2(argv, message, program):
    done = program(main, *argv)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and message in done.stderr and done.stderr.startswith("error: ")


# --- Memory and resuming --------------------------------------------------------------------------


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
    assert all(len(r["responses"]) == 2 for r in resumed["records"])
    assert not list(tmp_path.glob("*.partial*"))


def test_one_process_at_a_time_writes_a_result(tmp_path, random_folder, questions_file, monkeypatch, program):
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
    with held_elsewhere(partial):
        done = program(main, *flags)
    assert done.returncode == 2 and f"another process is writing {partial}" in done.stderr
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(cli.UsageError, match="start it with python, not with torchrun"):
        main([str(f) for f in flags])
    monkeypatch.delenv("WORLD_SIZE")
    assert main([str(f) for f in flags]) == 0 and not partial.exists()


def test_the_papers_decoding_is_a_preset():
    config = cli.parse(EvalConfig, ["--preset", "paper-eval", "--seed", "3"])
    assert (config.temperature, config.num_samples, config.max_new_tokens, config.seed) == (0.2, 1, 16384, 3)
    assert (config.min_pixels, config.max_pixels) == (50176, 1003520)
