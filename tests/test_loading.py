"""Folders of weights: read as transformers reads them, and refused in one line where they can't
be."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from model_utils import ModelError, generate, load_model, recompute_activations, token_logprobs


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: shutil.rmtree(f), "no such folder"),
        (lambda f: (f / "model.safetensors").unlink(), r"no \*.safetensors, so no weights"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "pickled .bin weights are never loaded",
        ),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "model.safetensors").write_bytes(b"short"), "--model"),
        (
            lambda f: (f / "config.json").write_text('{"model_type": "gpt2", "vocab_size": 8}'),
            "gpt2 is not served",
        ),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_named_in_one_line(tmp_path, random_folder, break_it, message):
    folder = tmp_path / "m"
    shutil.copytree(random_folder, folder)
    break_it(folder)
    with pytest.raises(ModelError, match=message) as error:
        load_model(str(folder))
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_lacks_a_weight_is_refused(tmp_path, random_folder):
    folder = tmp_path / "m"
    shutil.copytree(random_folder, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.self_attn.k_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="1 weights are missing"):
        load_model(str(folder))


def test_of_two_saves_in_one_folder_the_single_file_is_read_as_transformers_does(tmp_path, random_folder):
    shutil.copytree(random_folder, tmp_path / "m")
    model = load_model(str(random_folder))
    with torch.no_grad():
        model.lm_head.weight.zero_()
    model.save_pretrained(tmp_path / "m", max_shard_size="50KB")
    assert (tmp_path / "m" / "model.safetensors.index.json").exists()
    ours, theirs = (
        load_model(str(tmp_path / "m")),
        AutoModelForImageTextToText.from_pretrained(tmp_path / "m"),
    )
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    next((tmp_path / "m").glob("model-*.safetensors")).unlink()  # of no account
    assert load_model(str(tmp_path / "m")).lm_head.weight.any()


def test_a_weight_of_another_shape_is_named(tmp_path, random_folder):
    shutil.copytree(random_folder, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["text_config"]["intermediate_size"] += 8
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"mlp.\w+.weight is \[.*\] in its file, \[.*\] by its config.json"):
        load_model(str(tmp_path / "m"))


def test_a_family_that_no_test_covers_is_refused(tmp_path, random_folder):
    folder = tmp_path / "m"
    shutil.copytree(random_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["layer_types"] = ["full_attention", "sliding_attention"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="is not served"):
        load_model(str(folder))


def test_recomputed_activations_give_the_same_gradients(random_folder, processor, mixed_examples):
    found = []
    for recompute in (False, True):
        model = load_model(str(random_folder))
        if recompute:
            recompute_activations(model)
        rollout = generate(model, processor, mixed_examples, num_samples=2, max_new_tokens=6)
        model.train()
        token_logprobs(model, rollout).sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    assert found[0]["model.visual.patch_embed.proj.weight"].abs().max() > 0
    for name, grad in found[0].items():
        assert torch.allclose(grad, found[1][name], rtol=1e-4, atol=1e-4 * grad.abs().max()), name
