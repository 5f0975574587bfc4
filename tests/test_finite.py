"""NaN and inf are named where weights are read, trained, saved and sampled from, and end what they spoil."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from lora_made import LORA, ONE
from running import flags, rows, run
from safetensors.torch import load_file, save_file
from test_sharding import call

import eval as evaluating
import mmupt
from data import TINY
from mmupt import Config
from model.damage import checksum
from model.finite import nonfinite
from model_utils import ModelError, latest_checkpoint, load_model, load_models
from programs import merge_adapter

NAN, INF, MOST = float("nan"), float("inf"), torch.finfo(torch.float32).max
UP_PROJ = "layers.0.mlp.up_proj.weight"


def planted(folder: Path, name: str, value: float, at: int = -1, file: str = "model.safetensors") -> Path:
    """One number of the tensor whose name ends so."""
    weights = load_file(folder / file)
    (found,) = [key for key in weights if key.endswith(name) and "visual" not in key]
    weights[found].view(-1)[at] = value
    save_file(weights, folder / file, {"format": "pt"})
    if (trainer := folder / "trainer.json").exists():  # as if that had been saved
        saved = json.loads(trainer.read_text())
        saved["crc32"][file] = checksum(folder / file)
        trainer.write_text(json.dumps(saved))
    return folder


@pytest.fixture
def broken(tmp_path) -> Path:
    shutil.copytree(TINY, tmp_path / "M")
    weights = load_file(tmp_path / "M" / "model.safetensors")
    weights[f"model.{UP_PROJ}"].fill_(NAN)
    save_file(weights, tmp_path / "M" / "model.safetensors", {"format": "pt"})
    return tmp_path / "M"


# --- which tensors


@pytest.mark.parametrize(
    "values, dtype, found",
    [
        ([0.0, 1.0], torch.float32, False),
        ([NAN, 1.0], torch.float32, True),
        ([1.0, NAN], torch.bfloat16, True),
        ([1.0, INF], torch.float32, True),
        ([-INF, 1.0], torch.float16, True),
        ([NAN, INF], torch.float32, True),
        ([MOST, -MOST], torch.float32, False),
        ([65504.0] * 3, torch.float16, False),
        ([], torch.float32, False),
        ([1.0] * 1000 + [NAN] + [1.0] * 1000, torch.float32, True),
    ],
)
def test_a_tensor_with_one_bad_number_is_found(values, dtype, found):
    x = torch.tensor(values, dtype=dtype)
    assert nonfinite({"good": torch.ones(2, 3), "x": x}) == ("x holds NaN or inf" if found else "")


def test_the_first_is_named_and_the_others_counted():
    tensors = {
        "step": torch.tensor(4.0),
        "a": torch.tensor([INF]),
        "b": torch.ones(0),
        "c": torch.tensor(NAN),
    }
    assert nonfinite(tensors) == "a holds NaN or inf, the first of 2 such"
    assert nonfinite({}) == ""


# --- what is loaded


@pytest.mark.parametrize("main, more", [(evaluating.main, ["--limit", "8"]), (mmupt.main, flags(steps=2))])
def test_a_program_refuses_such_weights_in_one_line(broken, tmp_path, program, main, more):
    out = tmp_path / "out"
    done = program(main, "--model", broken, *more, "--out", out)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and len(lines) == 1 and not out.exists()
    assert f"--model {broken}: " in lines[0] and f"{UP_PROJ} holds NaN or inf" in lines[0]
    assert "0.000" not in done.stdout


@pytest.mark.parametrize(
    "name, value, dtype",
    [
        (UP_PROJ, NAN, torch.float32),
        ("layers.0.self_attn.k_proj.bias", INF, torch.float32),  # moved to where its like are
        ("embed_tokens.weight", -INF, torch.bfloat16),
        ("model.norm.weight", MOST, torch.bfloat16),  # which rounds to inf
    ],
)
def test_one_bad_number_in_any_kind_of_weight_is_enough(tmp_path, name, value, dtype):
    shutil.copytree(TINY, tmp_path / "M")
    planted(tmp_path / "M", name, value)
    with pytest.raises(ModelError, match=f"{name.removeprefix('model.')} holds NaN or inf") as error:
        load_model(str(tmp_path / "M"), dtype=dtype)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_each_process_looks_at_its_share_and_all_stop_with_one_message(tmp_path):
    """The last row, and so the second process's share."""
    shutil.copytree(TINY, tmp_path / "M")
    planted(tmp_path / "M", "embed_tokens.weight", NAN)
    given = dict(folder=str(tmp_path / "M"), out=str(tmp_path / "said.json"))
    call([dict(processes=2, call="in_shares:refused", given=given)])
    at_load, at_save = json.loads((tmp_path / "said.json").read_text())
    assert len(at_load) == 2 and len(set(at_load)) == 1 and "embed_tokens.weight holds NaN" in at_load[0]
    assert len(at_save) == 2 and set(at_save) == {"model.language_model.norm.weight holds NaN or inf"}
    assert not list(tmp_path.glob("step-*"))


def test_an_adapter_that_is_not_finite_is_neither_resumed_nor_merged(lora_run, tmp_path):
    shutil.copytree(lora_run / "checkpoints" / "step-10", tmp_path / "a")
    name = "layers.0.mlp.up_proj.lora_B.weight"
    planted(tmp_path / "a", name, INF, file="adapter_model.safetensors")
    for use in (
        lambda: load_models(Config(model=str(TINY), **LORA), tmp_path / "a", ONE),
        lambda: merge_adapter.merge(str(tmp_path / "a")),
    ):
        with pytest.raises(ModelError, match=rf"its adapter can't be used \(.*{name} holds NaN or inf\)"):
            use()


@pytest.mark.parametrize("kind", ["weights", "moments", "an adapter's moments"])
def test_a_checkpoint_that_is_not_finite_is_not_resumed(tmp_path, kind):
    options = LORA if "adapter" in kind else {}
    assert run(tmp_path / "r", steps=1, reward="random", **options) == 0
    folder = tmp_path / "r" / "checkpoints" / "step-1"
    if kind == "weights":
        name = "layers.1.mlp.down_proj.weight"
        planted(folder, name, NAN)
    else:
        name = f"layers.1.mlp.down_proj{'.lora_B.default' * bool(options)}.weight|exp_avg_sq"
        planted(folder, name, INF, file="optimizer.safetensors")
    with pytest.raises(ModelError) as error:
        run(tmp_path / "r", steps=2, resume=True, **options)
    assert str(folder) in str(error.value) and f"{name} holds NaN or inf" in str(error.value)


# --- what is saved


@pytest.mark.parametrize("options", [{}, LORA], ids=["weights", "adapter"])
def test_weights_that_an_update_spoiled_are_not_saved(tmp_path, monkeypatch, capsys, options):
    original, updates = mmupt.apply_gradients, []

    def spoiling(config, world, policy, optimizer, meter):
        done = original(config, world, policy, optimizer, meter)
        updates.append(done)
        if len(updates) == 2:
            trained = [p for p in policy.parameters() if p.requires_grad]
            trained[-1].data.view(-1)[-1] = NAN
        return done

    monkeypatch.setattr(mmupt, "apply_gradients", spoiling)
    assert run(tmp_path / "r", steps=3, keep=1, reward="random", **options) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "step 2 was not saved: " in last and "holds NaN or inf; the last checkpoint is" in last
    assert [p.name for p in (tmp_path / "r" / "checkpoints").iterdir()] == ["step-1"] and "step-1" in last
    monkeypatch.setattr(mmupt, "apply_gradients", original)
    assert run(tmp_path / "r", steps=3, resume=True, reward="random", **options) == 0


def test_a_moment_that_overflows_is_not_saved(tmp_path, monkeypatch, capsys):
    """Its weight would stand still from there on."""
    monkeypatch.setattr(mmupt.torch.nn.utils, "clip_grad_norm_", spread)
    assert run(tmp_path / "r", steps=1, reward="random") == 1
    assert "|exp_avg_sq holds NaN or inf" in capsys.readouterr().err
    assert latest_checkpoint(tmp_path / "r" / "checkpoints") is None


def spread(parameters, *_):
    for p in parameters:
        p.grad.fill_(1e25)
    return torch.tensor(1.0)


@pytest.mark.parametrize("bad, status", [({1, 2}, 1), ({1}, 0), ({2}, 0)])
def test_a_run_whose_updates_were_all_skipped_ends_in_failure(tmp_path, monkeypatch, capsys, bad, status):
    original, calls = mmupt.token_logprobs, []

    def spoiled(policy, rollout, **options):
        logprobs, entropy = original(policy, rollout, **options)
        calls.append(1)
        return (logprobs * NAN, entropy) if len(calls) in bad else (logprobs, entropy)

    monkeypatch.setattr(mmupt, "token_logprobs", spoiled)
    assert run(tmp_path / "r", steps=2, reward="random") == status
    said = "none of 2 updates had a finite gradient" in capsys.readouterr().err
    assert said == bool(status) and rows(tmp_path / "r")[-1]["nonfinite_updates"] == len(bad)
    assert run(tmp_path / "r", steps=2, resume=True, reward="random") == status  # nothing is left to do
    monkeypatch.setattr(mmupt, "token_logprobs", original)
    assert run(tmp_path / "r", steps=3, resume=True, reward="random") == 0


# --- what is sampled from


@pytest.fixture
def overflowing(tmp_path) -> Path:
    """Finite weights whose logits aren't."""
    shutil.copytree(TINY, tmp_path / "M")
    weights = load_file(tmp_path / "M" / "model.safetensors")
    weights["model.norm.weight"].fill_(MOST)
    save_file(weights, tmp_path / "M" / "model.safetensors", {"format": "pt"})
    return tmp_path / "M"


@pytest.mark.parametrize("temperature", [0, 1])
def test_an_evaluation_of_a_model_that_overflows_says_so(overflowing, tmp_path, program, temperature):
    done = program(evaluating.main, "--model", overflowing, "--limit", 4, "--temperature", temperature)
    assert done.returncode == 2 and "0.000" not in done.stdout
    assert "the model's logits are NaN or inf in 32 of 32 responses, the first to question" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("it overflows in torch.float32")


def test_a_run_on_a_model_that_overflows_warns_and_ends_in_failure(
    overflowing, questions_file, tmp_path, capsys
):
    assert run(tmp_path / "r", model=overflowing, steps=2) == 1
    said = capsys.readouterr().err
    assert said.count("100.0% of responses were drawn from logits that are NaN or inf") == 2
    assert [r["nonfinite_responses"] for r in rows(tmp_path / "r")] == [1, 1]
    assert run(tmp_path / "e", model=overflowing, steps=2, eval_data=questions_file[0]) == 1
    assert "the evaluation of step 0: the model's logits are NaN or inf" in capsys.readouterr().err
