"""Whole runs: what they write, that labels never leak, that kills change nothing, and bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields

import pytest
import torch
from conftest import ROOT, run_program, write_rows
from PIL import Image
from running import fingerprint, flags, rows, run, without_times
from safetensors.torch import load_file

import mmupt
import model_utils
from common import run_log
from common.errors import DataError
from data import HELD_OUT, TINY

# --- what a run does and writes


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(HELD_OUT, "validation", 48)
        assert run(out, steps=4, eval_data="tiny:validation", eval_questions=8, eval_every=3, keep=2) == 0
    return out


def test_a_run_folder_holds_config_metrics_rollouts_and_checkpoints(finished):
    config = json.loads((finished / "config.json").read_text())
    assert config["steps"] == 4 and set(config) == {f.name for f in fields(mmupt.Config)}
    assert sorted(p.name for p in (finished / "checkpoints").iterdir()) == ["step-3", "step-4"]
    steps = [r for r in rows(finished) if "reward" in r]
    assert [r["step"] for r in steps] == [1, 2, 3, 4]
    expected = "reward majority_share vote_entropy parsed zero_spread top_answer_share response_length"
    expected += " loss kl approx_kl clipfrac entropy grad_norm tokens_per_second seconds/rollout"
    expected += " seconds/update peak_memory_mb"
    assert set(expected.split()) <= steps[0].keys()
    logged = rows(finished, "rollouts.jsonl")
    assert len(logged) == 8 and len(logged[0]["responses"]) == 4
    measured = [r for r in rows(finished) if "eval/pass@1" in r]
    assert [(r["step"], r["eval/questions"]) for r in measured] == [(0, 48), (3, 8), (4, 48)]


def test_training_moves_every_kind_of_weight(finished):
    before, after = (load_file(f / "model.safetensors") for f in (TINY, finished / "checkpoints" / "step-4"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    for part in (
        "visual.patch_embed",
        "visual.merger",
        "layers.0.self_attn.q_proj",
        "embed_tokens",
        "post_attention_layernorm",
    ):
        assert any(part in name for name in moved), part


def test_the_first_update_sees_ratios_of_one(finished):
    first = rows(finished)[1]
    assert abs(first["approx_kl"]) < 1e-6 and first["clipfrac"] == 0 and abs(first["kl"]) < 1e-6


def test_metrics_agree_with_the_logged_rollouts(tmp_path, monkeypatch):
    monkeypatch.setattr(run_log, "LOGGED_QUESTIONS", 4)
    assert run(tmp_path / "r", steps=1) == 0
    (row,), groups = rows(tmp_path / "r"), rows(tmp_path / "r", "rollouts.jsonl")
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    assert row["reward"] == pytest.approx(mean([mean(g["rewards"]) for g in groups]))
    assert row["majority_share"] == pytest.approx(mean([g["share"] for g in groups]))
    assert row["abstained"] == mean([g["winner"] is None for g in groups])
    for g in groups:
        assert g["rewards"] == [float(g["winner"] is not None and a == g["winner"]) for a in g["answers"]]


def test_several_updates_per_rollout_move_the_ratio(tmp_path):
    assert run(tmp_path / "r", steps=1, minibatch_questions=1, lr=1e-3, reward="random") == 0
    (row,) = rows(tmp_path / "r")
    assert row["approx_kl"] > 1e-5


def test_beta_zero_loads_no_reference(tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        model_utils,
        "load_model",
        lambda *a, load=model_utils.load_model, **k: loaded.append(a) or load(*a, **k),
    )
    assert run(tmp_path / "r", steps=1, beta=0.0) == 0
    assert len(loaded) == 1 and "kl" not in rows(tmp_path / "r")[0]


def test_groups_without_advantage_are_not_computed_where_beta_is_zero(tmp_path, monkeypatch):
    scored = []
    original = mmupt.token_logprobs
    monkeypatch.setattr(
        mmupt, "token_logprobs", lambda p, r, **k: scored.append(len(r.prompts)) or original(p, r, **k)
    )
    assert run(tmp_path / "r", steps=2, beta=0.0) == 0
    with_spread = sum(round(4 * (1 - r["zero_spread"])) for r in rows(tmp_path / "r"))
    assert sum(scored) == with_spread < 8


@pytest.mark.parametrize(
    "aggregate, beta", [("grpo", 0.1), ("dapo", 0.1), ("dr_grpo", 0.1), ("bnpo", 0.1), ("bnpo", 0.0)]
)
def test_the_update_does_not_depend_on_how_a_batch_is_split_into_forwards(tmp_path, aggregate, beta):
    """Group size and micro-batch size of bnpo don't divide each other: a micro-batch spans
    questions."""
    options = dict(steps=2, group_size=6, aggregate=aggregate, beta=beta, minibatch_questions=2)
    options["save_every"] = 0
    found = []
    for tokens in (1, 300, 100_000):
        assert run(tmp_path / f"{tokens}", tokens_per_forward=tokens, **options) == 0
        found.append(rows(tmp_path / f"{tokens}"))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            for name in ("grad_norm", "loss", "entropy", *(["kl"] if beta else [])):
                assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-6), name


# --- labels never leak


def test_labels_present_permuted_or_absent_give_the_same_checkpoint_bit_for_bit(tmp_path, questions_file):
    path, labelled_rows = questions_file
    answers = [r["answer"] for r in labelled_rows]
    files = {
        "present": labelled_rows,
        "permuted": [
            r | {"answer": a} for r, a in zip(labelled_rows, answers[5:] + answers[:5], strict=True)
        ],
        "absent": [{k: v for k, v in r.items() if k != "answer"} for r in labelled_rows],
    }
    found = []
    for name, content in files.items():
        source = write_rows(path.with_name(f"{name}.jsonl"), content)
        assert run(tmp_path / name, train_data=source, steps=3) == 0
        found.append((fingerprint(tmp_path / name, 3), [without_times(r) for r in rows(tmp_path / name)]))
    assert found[0] == found[1] == found[2]
    assert any(r["reward"] > 0 for r in rows(tmp_path / "absent"))


def test_the_gold_control_does_read_labels(tmp_path, questions_file, capsys):
    path, labelled_rows = questions_file
    nobody = write_rows(
        path.with_name("absent.jsonl"), [{k: v for k, v in r.items() if k != "answer"} for r in labelled_rows]
    )
    with pytest.raises(DataError, match="0 usable questions of 24"):
        run(tmp_path / "r", train_data=nobody, reward="gold")
    assert "no answer, which --reward gold needs" in capsys.readouterr().err


# --- kills, signals, resume


def test_a_resumed_run_is_the_run_never_stopped(tmp_path):
    assert run(tmp_path / "whole", steps=4, minibatch_questions=2) == 0
    assert run(tmp_path / "parts", steps=2, minibatch_questions=2) == 0
    assert run(tmp_path / "parts", steps=4, minibatch_questions=2, resume=True) == 0
    assert fingerprint(tmp_path / "whole", 4) == fingerprint(tmp_path / "parts", 4)
    assert [without_times(r) for r in rows(tmp_path / "whole")] == [
        without_times(r) for r in rows(tmp_path / "parts")
    ]


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(tmp_path):
    options = flags(steps=45, questions=2, group_size=4, keep=2)
    assert mmupt.main([*options, "--out", str(tmp_path / "whole")]) == 0
    done = run_program(
        ROOT / "tests" / "killer.py", 0, 20, tmp_path / "killed", *options, OMP_NUM_THREADS="1"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("killed at step") == 20
    assert fingerprint(tmp_path / "whole", 45) == fingerprint(tmp_path / "killed", 45)
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        whole, killed = ([without_times(r) for r in rows(tmp_path / n, name)] for n in ("whole", "killed"))
        assert whole == killed


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_exits_0(tmp_path, number):
    out = tmp_path / "r"
    process = subprocess.Popen(
        [sys.executable, "mmupt.py", *flags(out=out, steps=10_000, save_every=0)],
        cwd=ROOT,
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    while not (out / "metrics.jsonl").exists() or not rows(out):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0 and "stopping after this step" in stderr
    last = rows(out)[-1]["step"]
    assert [p.name for p in (out / "checkpoints").iterdir()] == [f"step-{last}"]


def test_a_half_written_checkpoint_is_passed_over_on_resume(tmp_path, capsys):
    assert run(tmp_path / "r", steps=3) == 0
    expected = fingerprint(tmp_path / "r", 3)
    weights = tmp_path / "r" / "checkpoints" / "step-3" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: 2**20])
    (tmp_path / "r" / "checkpoints" / "step-9.partial").mkdir()
    assert run(tmp_path / "r", steps=3, resume=True) == 0
    assert "resumed from" in (out := capsys.readouterr().out) and "step-2" in out
    assert fingerprint(tmp_path / "r", 3) == expected


def test_resume_goes_on_with_the_runs_own_settings(tmp_path):
    options = {"steps": 2, "lr": 3e-5, "group_size": 3}
    assert run(tmp_path / "r", **options) == 0
    assert mmupt.main(["--resume", "--out", str(tmp_path / "r"), "--steps", "3"]) == 0
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert (config["lr"], config["group_size"], config["steps"]) == (3e-5, 3, 3) and rows(tmp_path / "r")[-1][
        "step"
    ] == 3
    with pytest.raises(mmupt.cli.UsageError, match="--seed was 0 in .* and can't change"):
        mmupt.main(["--resume", "--out", str(tmp_path / "r"), "--seed", "1"])


def test_evaluations_are_neither_lost_nor_doubled_by_a_resume(tmp_path, capsys):
    source = write_rows(
        tmp_path / "e.jsonl", [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(3)]
    )
    options = {"steps": 2, "eval_data": source, "eval_every": 1, "eval_samples": 2}
    assert run(tmp_path / "r", **options) == 0
    for path in (tmp_path / "r" / "checkpoints").iterdir():  # as if killed before the first save
        shutil.rmtree(path)
    assert run(tmp_path / "r", **options, resume=True) == 0
    measured = [r["step"] for r in rows(tmp_path / "r") if "eval/pass@1" in r]
    assert measured == [0, 1, 2]
    capsys.readouterr()
    assert run(tmp_path / "r", **options, resume=True) == 0  # nothing left to do but to say how it ended
    assert "base beside trained" in capsys.readouterr().out


def test_an_old_run_is_not_overwritten(tmp_path):
    assert run(tmp_path / "r", steps=1) == 0
    with pytest.raises(mmupt.cli.UsageError, match="holds a run already"):
        run(tmp_path / "r", steps=1)
    shutil.rmtree(tmp_path / "r" / "checkpoints")  # killed before its first save
    with pytest.raises(mmupt.cli.UsageError, match="holds a run already: add --resume"):
        run(tmp_path / "r", steps=1)


def test_a_run_is_not_continued_on_other_questions_nor_to_an_earlier_step(tmp_path, questions_file, capsys):
    path, given = questions_file
    assert run(tmp_path / "r", train_data=path, steps=2) == 0
    assert f"the last checkpoint is {tmp_path / 'r' / 'checkpoints' / 'step-2'}" in capsys.readouterr().out
    before = (tmp_path / "r" / "config.json").read_text()
    with pytest.raises(mmupt.cli.UsageError, match="--steps 1: .* is at step 2 already"):
        run(tmp_path / "r", train_data=path, steps=1, resume=True)
    write_rows(path, given[:-1])
    with pytest.raises(ValueError, match="questions.jsonl is not what it was when this run began"):
        run(tmp_path / "r", train_data=path, steps=3, resume=True)
    assert (tmp_path / "r" / "config.json").read_text() == before
    write_rows(path, given)
    assert run(tmp_path / "r", train_data=path, steps=3, resume=True) == 0


FULL_DISK = """
import resource, sys
import mmupt
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))  # every file ends at a megabyte, as on a full disk
sys.exit(mmupt.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_last_good_checkpoint_stays(tmp_path):
    assert run(tmp_path / "r", steps=2) == 0
    good = fingerprint(tmp_path / "r", 2)
    done = run_program("-c", FULL_DISK, *flags(out=tmp_path / "r", steps=4, keep=1, resume=True))
    assert done.returncode == 1, done.stderr
    assert (
        "step 4 was not saved" in done.stderr and "step-2" in done.stderr and "Traceback" not in done.stderr
    )
    assert fingerprint(tmp_path / "r", 2) == good
    assert not list((tmp_path / "r" / "checkpoints").glob("*.partial"))
    assert run(tmp_path / "r", steps=4, resume=True) == 0


# --- bad input


def test_a_non_finite_gradient_is_skipped_and_counted_and_training_goes_on(tmp_path, monkeypatch):
    original, calls = mmupt.token_logprobs, []

    def sometimes_nan(policy, rollout, **options):
        logprobs, entropy = original(policy, rollout, **options)
        calls.append(1)
        return (logprobs * float("nan"), entropy) if len(calls) == 2 else (logprobs, entropy)

    monkeypatch.setattr(mmupt, "token_logprobs", sometimes_nan)
    assert run(tmp_path / "r", steps=3, reward="random") == 0
    assert [r["nonfinite_updates"] for r in rows(tmp_path / "r")] == [0, 1, 1]
    one, two, three = (fingerprint(tmp_path / "r", s) for s in (1, 2, 3))
    assert one == two != three
    assert all(
        torch.isfinite(w).all()
        for w in load_file(tmp_path / "r/checkpoints/step-3/model.safetensors").values()
    )


def test_several_non_finite_gradients_in_a_row_stop_the_run(tmp_path, monkeypatch, capsys):
    original = mmupt.token_logprobs

    def always_nan(policy, rollout, **options):
        logprobs, entropy = original(policy, rollout, **options)
        return logprobs * float("inf"), entropy

    monkeypatch.setattr(mmupt, "token_logprobs", always_nan)
    assert run(tmp_path / "r", steps=20, reward="random") == 1
    assert "5 updates in a row had no finite gradient" in capsys.readouterr().err
    assert len(rows(tmp_path / "r")) == run_log.MAX_NONFINITE - 1


def test_unusable_rows_are_skipped_counted_and_named_once(tmp_path, questions_file, capsys):
    path, good = questions_file
    Image.new("1", (10_000, 10_000)).save(tmp_path / "huge.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:-60])
    bad = [
        {"question": "q", "images": ["gone.png"]},
        {"question": "q", "images": ["huge.png"]},
        {"question": "q", "images": ["cut.png"]},
        {"images": []},
        {"question": "<|image_pad|>"},
    ]
    long = {"id": "long", "question": "word " * 3000}
    source = write_rows(tmp_path / "mixed.jsonl", good[:6] + [*bad, long])
    # two epochs, at four questions a step
    assert run(tmp_path / "r", train_data=source, steps=3, max_prompt_tokens=200) == 0
    last, err = rows(tmp_path / "r")[-1], capsys.readouterr().err
    assert last["bad_rows"] >= 5 and last["too_long"] >= 1
    assert err.count("skipped ") == 6
    for message in (
        "no such image",
        "10000 x 10000",
        "not a whole image",
        "no question",
        "image token",
        "tokens, more than",
    ):
        assert message in err


def test_images_of_odd_kinds_train(tmp_path):
    Image.new("CMYK", (60, 60), (0, 200, 200, 0)).save(tmp_path / "a.jpg")
    palette = Image.new("P", (60, 60), 1)
    palette.putpalette([255, 0, 0, 0, 0, 0])
    palette.save(tmp_path / "b.png", transparency=1)
    Image.new("RGB", (1, 1)).save(tmp_path / "c.png")
    content = [
        {"question": f"What is {i}?", "images": [n]} for i, n in enumerate(["a.jpg", "b.png", "c.png"])
    ]
    content.append({"question": "Both?", "images": ["a.jpg", "c.png"]})
    assert run(tmp_path / "r", train_data=write_rows(tmp_path / "odd.jsonl", content), steps=1) == 0
    assert rows(tmp_path / "r")[0]["bad_rows"] == 0


def test_a_model_folder_without_weights_and_an_empty_file_stop_before_anything_is_written(tmp_path):
    shutil.copytree(TINY, tmp_path / "m")
    os.remove(tmp_path / "m" / "model.safetensors")
    with pytest.raises(ValueError, match="no weights"):
        run(tmp_path / "r", model=tmp_path / "m")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="no rows"):
        run(tmp_path / "r", train_data=tmp_path / "empty.jsonl")
    assert not (tmp_path / "r").exists()


def test_fewer_usable_questions_than_a_step_needs_is_an_error(tmp_path, questions_file):
    source = write_rows(questions_file[0].with_name("few.jsonl"), questions_file[1][:3])
    with pytest.raises(ValueError, match="3 usable questions of 3, but --questions is 4"):
        run(tmp_path / "r", train_data=source)
