"""--save_dtype: weights are saved in bfloat16, and a run goes on from float32 ones all the same."""

import json
from pathlib import Path

import pytest
import torch
from families_made import RECIPES, make_checkpoint
from lora_made import LORA, ONE
from running import fingerprint, rows, run, without_times
from safetensors import safe_open
from safetensors.torch import load_file
from test_sharding import call, training
from transformers import AutoModelForImageTextToText

from data import TINY
from mmupt import Config
from model import tensor_files
from model.checkpoint import MASTER
from model.plan import of_run
from model.plan import size as in_words
from model_utils import load_checkpoint, load_model, load_models, load_processor, save_checkpoint
from programs import merge_adapter

KINDS = {"weights": {}, "frozen tower": {"freeze_vision": True}, "adapter": LORA}
NARROW = {"save_dtype": "bfloat16"}


def saved(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = [*folder.glob("model.safetensors"), *folder.glob("adapter_model.safetensors")]
    return load_file(file)


def masters(folder: Path) -> dict[str, torch.Tensor]:
    found = load_file(folder / "optimizer.safetensors")
    return {n.removesuffix(f"|{MASTER}"): x for n, x in found.items() if n.endswith(MASTER)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_resumed_from_bfloat16_checkpoints_is_the_run_never_stopped(tmp_path, kind):
    options = KINDS[kind] | {"reward": "random", "minibatch_questions": 2}
    assert run(tmp_path / "whole", steps=4, **options) == 0
    assert run(tmp_path / "parts", steps=2, **options, **NARROW) == 0
    assert run(tmp_path / "parts", steps=3, **options, **NARROW, resume=True) == 0
    assert run(tmp_path / "parts", steps=4, **options, save_dtype="float32", resume=True) == 0
    logs = [list(map(without_times, rows(tmp_path / name))) for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    wide, narrow, last = (
        tmp_path / where for where in ("whole/checkpoints/step-3", "parts/checkpoints/step-3", "parts")
    )
    exact, rounded = saved(wide), saved(narrow)
    assert exact.keys() == rounded.keys() and {x.dtype for x in exact.values()} == {torch.float32}
    for name, x in exact.items():
        assert torch.equal(rounded[name], x.bfloat16()) and rounded[name].dtype == torch.bfloat16, name
    assert any(not torch.equal(x, rounded[name].float()) for name, x in exact.items())
    assert masters(narrow) and not masters(wide)
    moments = load_file(narrow / "optimizer.safetensors")
    for name, x in load_file(wide / "optimizer.safetensors").items():
        assert torch.equal(moments[name], x), name
    for name, x in saved(last / "checkpoints" / "step-4").items():
        assert torch.equal(x, saved(tmp_path / "whole" / "checkpoints" / "step-4")[name]), name


def test_the_folder_says_its_dtype_and_loads_in_plain_transformers(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_files, "MOST_BYTES", 10**6)  # several files
    model, processor = load_model(str(TINY)), load_processor(str(TINY))
    optimizer = torch.optim.AdamW(model.parameters())
    save_checkpoint(tmp_path / "step-1", model, processor, optimizer, {}, dtype=torch.bfloat16)
    index = json.loads((tmp_path / "step-1" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(2 * p.numel() for p in model.parameters())
    config = json.loads((tmp_path / "step-1" / "config.json").read_text())
    assert [part["dtype"] for part in (config, config["text_config"], config["vision_config"])] == [
        "bfloat16"
    ] * 3
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "step-1")
    assert {p.dtype for p in plain.parameters()} == {torch.bfloat16}
    for name, p in plain.named_parameters():
        assert torch.equal(p, model.get_parameter(name).bfloat16()), name


@pytest.mark.parametrize("name", RECIPES)
def test_every_family_gets_back_its_float32_weights(name, tmp_path):
    make_checkpoint(tmp_path / "made", RECIPES[name])
    model, processor = load_model(str(tmp_path / "made")), load_processor(str(tmp_path / "made"))
    optimizer = torch.optim.AdamW(model.parameters())
    save_checkpoint(tmp_path / "step-1", model, processor, optimizer, {"step": 1}, dtype=torch.bfloat16)
    again = load_model(str(tmp_path / "step-1"))
    assert any(not torch.equal(p, again.get_parameter(n)) for n, p in model.named_parameters())
    load_checkpoint(tmp_path / "step-1", again, torch.optim.AdamW(again.parameters()))
    assert all(torch.equal(p, again.get_parameter(n)) for n, p in model.named_parameters())
    where = {n: p.data_ptr() for n, p in again.named_parameters()}
    layer = "language_model.layers.0.self_attn"
    q, k = (next((a for n, a in where.items() if f"{layer}.{x}_proj.weight" in n), 0) for x in "qk")
    assert not q or 0 < k - q < 10**6  # they still lie in one product's matrix


def test_weights_that_are_bfloat16_are_not_saved_twice(tmp_path):
    model = load_model(str(TINY), dtype=torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters())
    processor = load_processor(str(TINY))
    save_checkpoint(tmp_path / "step-1", model, processor, optimizer, {}, dtype=torch.bfloat16)
    assert not masters(tmp_path / "step-1")


@pytest.mark.slow
def test_in_shares_it_is_the_same_folder_and_goes_on_from_the_same_weights(tmp_path):
    options = NARROW | dict(reward="random", keep=0, save_every=1)
    calls = [training(2, tmp_path / "whole", steps=3, shard="on", **options)]
    for steps, more in ((2, {}), (3, {"resume": True})):
        calls.append(training(2, tmp_path / "parts", steps=steps, shard="on", **options, **more))
    call(calls)
    for step in (1, 2, 3):
        assert fingerprint(tmp_path / "whole", step) == fingerprint(tmp_path / "parts", step)
    folder = tmp_path / "whole" / "checkpoints" / "step-3"
    policy, _ = load_models(Config(beta=0.0), folder, ONE)
    assert {n for n, _ in policy.named_parameters()} == masters(folder).keys()
    for name, x in masters(folder).items():
        assert torch.equal(policy.get_parameter(name), x.bfloat16().float()), name


def test_a_merged_adapter_is_rounded_once(lora_run, tmp_path):
    adapter = ["--adapter", str(lora_run / "checkpoints" / "step-10")]
    assert merge_adapter.main([*adapter, "--out", str(tmp_path / "wide")]) == 0
    assert merge_adapter.main([*adapter, "--out", str(tmp_path / "narrow"), "--save_dtype", "bfloat16"]) == 0
    exact, rounded = saved(tmp_path / "wide"), saved(tmp_path / "narrow")
    assert all(torch.equal(rounded[n], x.bfloat16()) for n, x in exact.items())
    config = json.loads((tmp_path / "narrow" / "config.json").read_text())
    assert [part["dtype"] for part in (config, config["text_config"], config["vision_config"])] == [
        "bfloat16"
    ] * 3
    load_model(str(tmp_path / "narrow"))


@pytest.mark.parametrize("kind", ["weights", "adapter"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_plan_knows_what_a_checkpoint_takes_on_disk(tmp_path, kind, dtype):
    options = KINDS[kind] | {"save_dtype": dtype, "reward": "random"}
    assert run(tmp_path / "r", steps=1, **options) == 0
    size = 0
    for file in (tmp_path / "r" / "checkpoints" / "step-1").glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            size += sum(
                x.numel() * x.element_size() for n in opened.keys() if (x := opened.get_tensor(n)).ndim
            )
    line = next(line for line in str(of_run(Config(**options), ONE)).splitlines() if "on disk" in line)
    assert f"checkpoint  {in_words(size)} on disk" in line
