"""The staged GPU run: what a stage measured outlives it, whatever becomes of it, and every stage runs at
small sizes."""

import json
import math
import os
import sys
import time
from pathlib import Path

import pytest

from bench import gpu, gpu_stages
from bench.gpu import FIGURES, STAGES, Stage, read, run_stages, summary, write
from common import cli
from common.errors import UsageError

PLANTED = """
import os, subprocess, sys, time
from pathlib import Path
from bench.gpu import FIGURES, write
out, stage = Path(sys.argv[1]), sys.argv[2]
line = {"stage": stage, "unit": "", "device": "none", "versions": "none"}
write(out / FIGURES, line | {"name": "before", "value": 1})
print("said by", stage)
if stage == "fails":
    raise RuntimeError("planted")
if stage == "dies":
    with open(out / FIGURES, "a") as file:
        file.write('{"half a li')
    os.kill(os.getpid(), 9)
if stage == "hangs":
    child = subprocess.Popen(["sleep", "600"])
    (out / "child").write_text(str(child.pid))
    child.wait()
write(out / FIGURES, line | {"name": "after", "value": 2})
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_stage_that_fails_dies_or_hangs_loses_nothing_and_the_next_one_starts(tmp_path, capsys):
    names = ("fails", "dies", "hangs", "last")
    stages = {name: Stage(60, "planted") for name in names} | {"hangs": Stage(12, "planted")}
    command = lambda name: [sys.executable, "-c", PLANTED, str(tmp_path), name]  # noqa: E731
    began = time.monotonic()
    fates = run_stages(stages, command, tmp_path, 300)
    assert fates == {"fails": "failed", "dies": "failed", "hangs": "timed out", "last": "ok"}
    assert time.monotonic() - began < 120
    rows = read(tmp_path)
    found = {name: {r["name"]: r["value"] for r in rows if r["stage"] == name} for name in names}
    assert found["last"] == {"before": 1, "after": 2, "fate": "ok"}
    assert all(found[name] == {"before": 1, "fate": fates[name]} for name in names[:3])
    (seconds,) = [r["seconds"] for r in rows if r["stage"] == "hangs" and r["name"] == "fate"]
    assert 12 <= seconds < 24
    assert not is_running(int((tmp_path / "child").read_text()))  # what it had started went along with it
    printed = capsys.readouterr().out
    assert "RuntimeError: planted" in printed and "said by hangs" in printed
    assert "said by last" not in printed and "said by last" in (tmp_path / gpu.LOG).read_text()
    lines = summary(tmp_path).splitlines()
    assert lines[2].split()[:3] == ["hangs", "timed", "out"] and sum(" before " in x for x in lines) == 4


def test_stages_for_which_no_time_is_left_are_named(tmp_path):
    stages = {name: Stage(60, "planted") for name in ("slow", "late")}
    command = lambda name: [sys.executable, "-c", "import time; time.sleep(60)"]  # noqa: E731
    assert run_stages(stages, command, tmp_path, 1.5) == {"slow": "timed out", "late": "no time left"}
    assert [r["value"] for r in read(tmp_path)] == ["timed out", "no time left"]


def test_a_line_after_one_that_was_cut_is_whole(tmp_path):
    path = tmp_path / FIGURES
    write(path, {"a": 1})
    with open(path, "a") as file:
        file.write('{"b": ')
    write(path, {"c": 3})
    assert read(tmp_path) == [{"a": 1}, {"c": 3}]


@pytest.mark.parametrize("fate, status", [("ok", 0), ("failed", 1), ("timed out", 1), ("no time left", 1)])
def test_the_exit_status_is_0_where_every_stage_ran(tmp_path, monkeypatch, fate, status):
    asked = []

    def pretended(stages, command, out, seconds):
        asked.append((list(stages), command("rows")))
        write(out / FIGURES, {"stage": "rows", "name": "fate", "value": fate, "seconds": 1.0, "limit": 2.0})
        return {"rates": "ok", "rows": fate}

    monkeypatch.setattr(gpu, "run_stages", pretended)
    monkeypatch.setattr(gpu.signal, "signal", lambda *_: None)
    assert gpu.main(["--out", str(tmp_path / "r"), "--rehearse", "--stages", "rows,rates"]) == status
    (names, command) = asked[0]
    assert names == ["rates", "rows"]  # in their own order, what is right before what is fast
    options = ["--stage", "rows", "--out", str(tmp_path / "r"), "--rehearse"]
    assert command[1:] == ["-m", "bench.gpu_stages", *options]
    with pytest.raises(UsageError, match="holds figures already"):
        gpu.main(["--out", str(tmp_path / "r")])


def test_unknown_stages_are_named(tmp_path):
    with pytest.raises(cli.UsageError, match="--stages speed: there is rates, kernels"):
        gpu.main(["--out", str(tmp_path / "r"), "--stages", "speed"])
    with pytest.raises(cli.UsageError, match="--stage: invalid choice: 'speed'"):
        gpu_stages.main(["--out", str(tmp_path), "--stage", "speed"])


def test_every_stage_is_there_and_the_first_ones_fit_the_time():
    assert all(hasattr(gpu_stages, f"stage_{name}") for name in STAGES)
    limits = [stage.limit for stage in STAGES.values()]
    assert list(STAGES)[-1] == "static" and sum(limits[:-1]) <= 540
    assert gpu.Settings().seconds < 480


@pytest.mark.slow
@pytest.mark.parametrize("stage", [name for name in STAGES if name not in ("kernels", "tests")])
def test_a_stage_rehearses(stage, tmp_path):
    """Here in one process; `make gpu ARGS=--rehearse` gives each its own."""
    if stage == "lora_3b":
        pytest.importorskip("peft", reason="pip install peft")
    assert gpu_stages.main(["--stage", stage, "--out", str(tmp_path), "--rehearse"]) == 0
    rows = [json.loads(line) for line in (tmp_path / FIGURES).read_text().splitlines()]
    assert len(rows) > 3 and all(r["stage"] == stage and r["device"] and r["versions"] for r in rows)
    assert all(math.isfinite(r["value"]) for r in rows)


@pytest.mark.slow
def test_the_outcome_of_each_test_is_a_figure(tmp_path):
    planted = tmp_path / "test_planted.py"
    planted.write_text(
        "import pytest\ndef test_right(): pass\ndef test_wrong(): assert False\n"
        "@pytest.mark.skip(reason='no')\ndef test_left(): pass\n"
    )
    done = os.spawnv(
        os.P_WAIT,
        sys.executable,
        [sys.executable, "-c", OF_TESTS, str(tmp_path), str(planted)],
    )
    found = {r["name"]: r["value"] for r in read(tmp_path)}
    assert done == 1 and (tmp_path / "tests.xml").exists()
    assert found == {
        "test_right": "passed", "test_wrong": "failed", "test_left": "skipped",
        "passed": 1, "failed": 1, "skipped": 1,
    }  # fmt: skip


OF_TESTS = """
import sys
from pathlib import Path
import torch
from bench.gpu_kit import Bench
from bench.gpu_stages import run_tests
run_tests(Bench("tests", Path(sys.argv[1]), torch.device("cpu")), [sys.argv[2], "--rootdir", sys.argv[1]])
"""
