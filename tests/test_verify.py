"""`mmupt.py --verify` says nothing of sound models, of every family, and names what was planted."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, write_rows
from families_made import RECIPES, SEEING, make_checkpoint
from verify_faults import FAULTS, SUMMED

import mmupt
from common.errors import ModelError, UsageError
from verify import outcome, worst
from verify.checks import CHECKS, apart
from verify.evidence import Sterner

LINE = re.compile(r"^(.{31}) .*  (ok|FAILED)", re.M)


@pytest.fixture(scope="module")
def sources(tmp_path_factory, drawn) -> dict[bool, str]:
    """Files of four questions: with pictures of several sizes, two, one and none; and without any."""
    folder = tmp_path_factory.mktemp("rows")
    for i in range(3):
        drawn[i].images[0].save(folder / f"{i}.png")
    drawn[2].images[0].resize((112, 84)).save(folder / "wide.png")
    words = ["What is 3 + 4?", "How many sides has a square? " * 4, "Why?", "Who, and when?"]
    seen = [["0.png"], ["1.png", "wide.png"], [], ["wide.png"]]
    seeing = [
        {"id": str(i), "question": q, "images": x} for i, (q, x) in enumerate(zip(words, seen, strict=True))
    ]
    text = [{"id": str(i), "question": q} for i, q in enumerate(words)]
    return {
        True: str(write_rows(folder / "seeing.jsonl", seeing)),
        False: str(write_rows(folder / "text.jsonl", text)),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small checkpoint of a family, by its name."""
    folders: dict = {}

    def make(name: str):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            make_checkpoint(folders[name], RECIPES[name])
        return folders[name]

    return make


@pytest.fixture
def verified(program, made, sources):
    """(exit status, {check: ok or FAILED}, all that was said) of `--verify` with a family."""

    def verify(name: str, *flags):
        argv = "--verify", "--model", made(name), "--train_data", sources[name in SEEING], *flags
        done = program(mmupt.main, *argv)
        found = {check.strip(): verdict for check, verdict in LINE.findall(done.stdout)}
        return done.returncode, found, done.stdout + done.stderr

    return verify


# --- sound models


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ("internvl", "llama") else pytest.mark.slow) for n in RECIPES]
)
def test_no_family_has_a_false_alarm(verified, name):
    status, found, said = verified(name)
    assert status == 0 and found == dict.fromkeys(CHECKS, "ok"), said
    asked = {line[:31].strip() for line in said.splitlines() if "not asked" in line}
    pictures = {"image tokens = image features", "pictures reach the reference"}
    assert asked == {"gradient summed over processes", "adapter off in the reference"} | (
        set() if name in SEEING else pictures
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        "--lora_rank 4 --save_dtype bfloat16",
        "--temperature 0.7 --top_p 0.9 --aggregate dapo --kl k2 --kl_clamp 0.05",
        "--aggregate bnpo --kl k1 --ratio sequence --minibatch_questions 8 --scale none",
        "--aggregate dr_grpo --beta 0 --group_size 2 --freeze_vision --clip_low 0 --clip_high 0",
        "--other_view shift --gradient_checkpointing",
        "--dtype bfloat16",
        "--dtype bfloat16 --lora_rank 4",
    ],
)
def test_no_setting_has_a_false_alarm(verified, flags):
    if "lora" in flags:
        pytest.importorskip("peft", reason="pip install peft")
    status, found, said = verified("internvl", *flags.split())
    assert status == 0 and found == dict.fromkeys(CHECKS, "ok"), said


# --- planted faults


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_and_the_status_is_1(verified, monkeypatch, name):
    fault = FAULTS[name]
    if "--lora_rank" in fault.flags:
        pytest.importorskip("peft", reason="pip install peft")
    fault.plant(monkeypatch)
    status, found, said = verified("internvl", *fault.flags)
    assert status == 1 and found[fault.line] == "FAILED", said
    assert f"FAILED: {', '.join(n for n in CHECKS if found[n] == 'FAILED')}" in said


def test_there_are_faults_for_every_check():
    assert {fault.line for fault in [*FAULTS.values(), SUMMED]} == CHECKS.keys()


@pytest.mark.slow
def test_two_processes_sum_their_gradients_and_one_that_does_not_is_named(made, sources):
    four = Path(sources[True])
    eight = four.with_name("eight.jsonl")
    eight.write_text(four.read_text() + four.read_text().replace('"id": "', '"id": "again '))
    argv = ["--verify", "--model", str(made("internvl")), "--train_data", str(eight)]
    call = {"processes": 2, "call": "verify_faults:run"}
    calls = [call | {"given": {"argv": argv, "fault": fault}} for fault in (False, True)]
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "forks.py"],
        input=json.dumps(calls), capture_output=True, text=True, timeout=600, cwd=ROOT,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert re.findall(r"^statuses (.*)$", done.stderr, re.M) == ["[0, 0]", "[1, 1]"], said
    assert re.findall(r"^FAILED: (.*?)  \(", done.stdout, re.M) == [SUMMED.line], said


# --- the parts


@pytest.mark.parametrize(
    ("outcomes", "said", "passed"),
    [
        ([[1e-5, 2e-4, ""]], " 1.0e-05  at most  2e-04  ok", True),
        ([[1e-5, 2e-4, ""], [1e-3, 2e-4, ""]], " 1.0e-03  at most  2e-04  FAILED", False),
        ([[float("nan"), 2e-4, ""], [1e-3, 2e-4, ""]], "     nan  at most  2e-04  FAILED", False),
        ([[float("inf"), 0.0, ""]], "     inf  at most  0e+00  FAILED", False),
        ([[0.0, -1.0, "no pictures"]], "ok: not asked, no pictures", True),
        ([[0.0, -1.0, "no pictures"], [1.0, 0.0, ""]], " 1.0e+00  at most  0e+00  FAILED", False),
        ([[0.0, 0.0, ""], [None, None, "it broke"]], "FAILED: it broke", False),
    ],
)
def test_the_worst_of_all_processes_is_said(outcomes, said, passed):
    found, ok = worst(outcomes)
    assert found.endswith(said) and ok is passed


def test_a_check_that_raises_has_failed():
    def check(_):
        raise ModelError("no such thing\nmore")

    assert worst([outcome(check, None)]) == (worst([[None, None, "no such thing"]])[0], False)


def test_gradients_of_other_weights_are_infinitely_far():
    one = {"a": torch.tensor([3.0, 4.0])}
    assert apart({"a": torch.tensor([3.0, 4.5])}, one) == pytest.approx(0.1)
    assert apart(one | {"b": torch.ones(1)}, one) == apart(one, one | {"b": torch.ones(1)}) == float("inf")
    assert apart(one | {"b": torch.zeros(1)}, one) == 0


def test_a_sterner_processor_bans_what_the_first_does_and_more(processor):
    banned, more = processor.banned(), Sterner.than(processor, (65, 66)).banned()
    assert set((banned ^ more).nonzero()[:, 0].tolist()) == {65, 66}


def test_weights_in_shares_are_refused(monkeypatch, verified):
    def shared(config, world):
        config.shard = "on"
        return config

    monkeypatch.setattr(mmupt.plan, "resolve", shared)
    status, _, said = verified("internvl")
    assert status == 2 and "add --shard off" in said


def test_a_run_that_goes_on_is_not_verified():
    with pytest.raises(
        UsageError, match="--verify must be given without --resume .*: a checkpoint is a --model"
    ):
        mmupt.Config(verify=True, resume=True, out="nowhere")
