"""Flags: a user's mistake is one line that names the flag, and presets."""

import re
from dataclasses import fields

import pytest
from conftest import ROOT, run_program
from running import run

import mmupt
from common.cli import ELSEWHERE
from common.resume import parse_run
from eval import EvalConfig
from eval import main as eval_program


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 1}, r"--group_size must be at least 2 \(got 1\): a vote needs company"),
        ({"steps": 0}, r"--steps must be at least 1 \(got 0\)"),
        ({"temperature": 0}, "--temperature must be above 0"),
        ({"top_p": 1.5}, "--top_p must be above 0 and at most 1"),
        ({"min_share": 2}, "--min_share must be between 0 and 1"),
        ({"dual_clip": 0.5}, "--dual_clip must be 0 or above 1"),
        ({"minibatch_questions": 3}, "--minibatch_questions must be 0 or a divisor of --questions 4"),
        ({"beta": -1}, "--beta must be 0 or more"),
        ({"temperature": "inf"}, "--temperature must be finite"),
        ({"lr": "nan"}, "--lr must be"),
        ({"min_pixels": 9, "max_pixels": 8}, "--min_pixels must be at most --max_pixels"),
        ({"vote": "published", "min_share": 0.5}, "never abstains"),
        ({"lr": "fast"}, "lr"),
        ({"reward": "love"}, "reward"),
        ({"group_sise": 4}, r"unknown flag --group_sise; did you mean --group_size\?"),
        ({"learning_rate": 1}, r"unknown flag --learning_rate; did you mean --lr\?"),
        ({"batch-size": 8}, r"--batch-size; did you mean --questions or --minibatch_questions\?"),
        ({"actor_rollout_ref.rollout.n": 8}, r"did you mean --group_size\?"),
        ({"zzz": 8}, "unknown flag --zzz; --help lists the flags"),
        ({"train_data": "gone.jsonl"}, "gone.jsonl: no such file"),
        ({"model": "/nowhere/at/all"}, "--model /nowhere/at/all: no such folder"),
        ({"preset": "mmupt"}, "--preset mmupt: there is mm-upt"),
        ({"preset": "mm-upt"}, r"a divisor of --questions 4, but --preset mm-upt sets it \(got 128\)"),
    ],
)
def test_a_users_mistake_names_the_flag(tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as error:
        run(tmp_path / "r", **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "r").exists()


def test_a_users_mistake_is_one_line_and_status_2_on_the_command_line(program):
    for argv, message in (
        (["--lrr", "1"], "unknown flag --lrr; did you mean --lr?"),
        (["--group_size", "1"], "--group_size must be at least 2"),
        (["--resume"], "--resume must be given together with --out"),
    ):
        done = program(mmupt.main, *argv)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr


def test_names_of_other_trainers_lead_to_flags_that_there_are(program):
    own = [f.name for cls in (mmupt.Config, EvalConfig) for f in fields(cls)]
    assert {flag for flags in ELSEWHERE.values() for flag in flags.split()} <= set(own)
    assert not ELSEWHERE.keys() & set(own)
    for name, flag in (("num_generations", "num_samples"), ("dataset_name", "data")):  # of eval.py, not ours
        done = program(eval_program, f"--{name}", "1")
        assert done.returncode == 2 and done.stderr.endswith(f"did you mean --{flag}?\n")


def test_the_version_is_that_of_the_changelog(program, monkeypatch, tmp_path):
    """With a + where changes follow the release."""
    changes = ROOT / "CHANGELOG.md"
    newest = re.search(r"^## ([0-9]\S*)", changes.read_text(), re.M)[1]
    done = program(mmupt.main, "--version")
    assert done.returncode == 0 and re.match(rf"mmupt {re.escape(newest)}\+? \(torch ", done.stdout)
    (tmp_path / "common").mkdir()
    monkeypatch.setattr("common.cli.__file__", str(tmp_path / "common" / "cli.py"))
    for text, said in (("## 0.2.0\n## 0.1.0\n", "0.2.0 "), ("## Unreleased\n## 0.2.0\n", "0.2.0+ ")):
        (tmp_path / "CHANGELOG.md").write_text(text)
        assert program(eval_program, "--version").stdout.startswith(f"mmupt {said}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mmupt.py", "eval.py", "-m data", "-m data.synthesize", "-m programs.merge_adapter"]
)
def test_every_program_runs_by_its_name(name):
    done = run_program(*name.split(), "--nothing", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown flag --nothing") and done.stderr.count("\n") == 1


def test_flags_beside_resume_are_checked_against_the_runs_own(tmp_path):
    assert run(tmp_path / "r", steps=1, questions=6, minibatch_questions=2) == 0
    argv = ["--resume", "--out", str(tmp_path / "r"), "--minibatch_questions", "3"]
    assert parse_run(mmupt.Config, argv).questions == 6  # the default of 32 has no such divisor
    with pytest.raises(mmupt.cli.UsageError, match="--questions was 6 in .* and can't change"):
        parse_run(mmupt.Config, [*argv, "--questions", "3"])
    assert parse_run(mmupt.Config, ["--resume", "False", "--out", str(tmp_path / "new")]).questions == 32


def test_the_papers_preset_is_its_code_and_flags_beside_it_win():
    config = mmupt.cli.parse(mmupt.Config, ["--preset", "mm-upt", "--questions", "256"])
    assert config.questions == 256 and config.minibatch_questions == 128
    paper = {
        "group_size": 10,
        "temperature": 0.7,
        "top_p": 0.99,
        "max_prompt_tokens": 2048,
        "max_new_tokens": 2048,
        "lr": 1e-6,
        "weight_decay": 1e-2,
        "max_grad_norm": 1.0,
        "min_pixels": 262144,
        "max_pixels": 1204224,
        "clip_low": 0.2,
        "clip_high": 0.3,
        "dual_clip": 3.0,
        "beta": 0.01,
        "kl": "k3",
        "kl_clamp": 10.0,
        "scale": "std",
        "aggregate": "bnpo",
        "vote": "published",
        "reward": "majority",
    }
    for name, value in paper.items():
        assert getattr(config, name) == value, name
    assert mmupt.cli.parse(mmupt.Config, ["--preset", "mm-upt"]).questions == 512
