"""A run that is asked to stop while it samples ends there, with the last finished step."""

import json
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, write_rows
from running import fingerprint, flags, rows, run, without_times
from stops import asked_in_rollout

import evaluation.answering
import mmupt
from common import pulse, stop


def folders(out) -> list[str]:
    return sorted(p.name for p in (out / "checkpoints").iterdir())


def test_a_block_ends_at_its_next_tick_once_a_stop_is_asked_for():
    signals, seen = stop.StopSignal(), []
    try:
        for asked in (False, True):
            if asked:
                signal.raise_signal(signal.SIGTERM)
            pulse.tick()  # outside it nothing ends
            with stop.at_ticks():
                seen.append("begun")
                pulse.tick()
                seen.append("went on")
            seen.append("behind")
        with pytest.raises(ZeroDivisionError), stop.at_ticks():
            1 / 0  # noqa: B018
    finally:
        signals.restore()
    assert seen == ["begun", "went on", "behind", "begun", "behind"] and pulse.at_tick is None


@pytest.mark.parametrize(
    "step, save_every, kept", [(1, 0, []), (1, 1, []), (3, 0, ["step-2"]), (3, 1, ["step-1", "step-2"])]
)
def test_a_stop_within_a_rollout_leaves_the_last_finished_step(
    tmp_path, monkeypatch, capfd, step, save_every, kept
):
    options = dict(steps=4, save_every=save_every)
    written, real = [], mmupt.save_checkpoint
    monkeypatch.setattr(mmupt, "save_checkpoint", lambda *a, **k: written.append(a[0].name) or real(*a, **k))
    monkeypatch.setattr(mmupt, "generate", asked_in_rollout(step))
    assert run(tmp_path / "r", **options) == 0
    monkeypatch.undo()
    assert written == kept  # each once
    said = capfd.readouterr()
    assert said.err.count("stopping after this step, or now where it samples (again to stop at once)\n") == 1
    assert ("the last checkpoint is" in said.out) == bool(kept)
    assert folders(tmp_path / "r") == kept
    metrics = tmp_path / "r" / "metrics.jsonl"
    assert [row["step"] for row in (rows(tmp_path / "r") if metrics.exists() else [])] == list(range(1, step))
    # what goes on is the run never stopped
    assert run(tmp_path / "r", **options, resume=True) == 0
    assert run(tmp_path / "whole", **options) == 0
    assert fingerprint(tmp_path / "r", 4) == fingerprint(tmp_path / "whole", 4)
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        parts, whole = ([without_times(row) for row in rows(tmp_path / out, name)] for out in ("r", "whole"))
        assert parts == whole


@pytest.mark.parametrize("number, steps", [(1, []), (2, [1])])
def test_a_stop_within_an_evaluation_leaves_it_to_the_resumed_run(tmp_path, monkeypatch, number, steps):
    asked = [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(3)]
    source = write_rows(tmp_path / "e.jsonl", asked)
    options = dict(steps=2, eval_data=source, eval_every=1, eval_samples=2, save_every=0)
    monkeypatch.setattr(evaluation.answering, "generate", asked_in_rollout(number))
    assert run(tmp_path / "r", **options) == 0
    monkeypatch.undo()
    assert folders(tmp_path / "r") == [f"step-{step}" for step in steps]
    assert [row["step"] for row in done(tmp_path / "r") if "reward" in row] == steps
    assert [row["step"] for row in done(tmp_path / "r") if "eval/pass@1" in row] == [0][: number - 1]
    assert run(tmp_path / "r", **options, resume=True) == 0
    assert [row["step"] for row in rows(tmp_path / "r") if "eval/pass@1" in row] == [0, 1, 2]


def done(out) -> list[dict]:
    return rows(out) if (out / "metrics.jsonl").exists() else []


@pytest.mark.slow
def test_processes_stop_together_whichever_was_asked(tmp_path):
    out = tmp_path / "r"
    given = {"argv": flags(out=out, steps=4, save_every=0), "number": 3}
    call = [{"processes": 2, "call": "stops:stopped", "given": given}]
    ended = subprocess.run(
        [sys.executable, "tests/forks.py"], input=json.dumps(call), cwd=ROOT, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert "statuses [0, 0]" in ended.stderr, ended.stderr
    assert [row["step"] for row in rows(out)] == [1, 2] and folders(out) == ["step-2"]


@pytest.mark.slow
def test_a_program_that_decodes_for_minutes_ends_in_seconds(tmp_path, random_folder):
    out = tmp_path / "r"
    more = dict(model=random_folder, questions=128, group_size=32, max_new_tokens=4000, max_prompt_tokens=200)
    process = subprocess.Popen(
        [sys.executable, "mmupt.py", *flags(out=out, save_every=1, **more)],
        cwd=ROOT, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while not (out / "events.jsonl").exists():
        time.sleep(0.05)
        assert process.poll() is None
    time.sleep(1)  # by now it decodes, or is about to
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 0 and "stopping after this step, or now where it samples" in stderr
    assert time.monotonic() - asked < 60 and folders(out) == [] and not done(out)


def test_a_rollout_is_given_up_at_its_next_token(tmp_path, monkeypatch):
    finished = []

    def sample(*given, then=mmupt.sample):
        monkeypatch.setattr(stop, "asked", True)
        finished.append(then(*given))
        return finished[-1]

    monkeypatch.setattr(mmupt, "sample", sample)
    assert run(tmp_path / "r") == 0 and finished == []
