"""A merged adapter is a plain checkpoint; one that doesn't fit is refused."""

import json
import shutil

import pytest
import torch
from lora_made import LORA, ONE, plain_logits

import mmupt
from data import TINY
from mmupt import Config
from model_utils import ModelError, load_models, load_processor
from programs import merge_adapter

pytest.importorskip("peft", reason="pip install peft")


def test_merged_it_is_a_plain_checkpoint_with_the_adapter_models_logits(lora_run, tmp_path, capsys):
    from transformers import AutoModelForImageTextToText

    folder, out = lora_run / "checkpoints" / "step-10", tmp_path / "merged"
    shutil.copytree(folder, tmp_path / "a")
    sizes = json.loads((tmp_path / "a" / "preprocessor_config.json").read_text())
    sizes["size"]["longest_edge"] //= 2  # as a run with --max_pixels saves it
    (tmp_path / "a" / "preprocessor_config.json").write_text(json.dumps(sizes))
    assert merge_adapter.main(["--adapter", str(tmp_path / "a"), "--out", str(out)]) == 0
    assert not list(tmp_path.glob("*.partial"))
    assert len({f.stat().st_mode for f in out.iterdir()}) == 1  # that of the umask
    prompts = torch.arange(10, 40)[None]
    merged = AutoModelForImageTextToText.from_pretrained(out, attn_implementation="eager")
    ours, _ = load_models(Config(model=str(TINY), **LORA), folder, ONE)
    ours.set_attn_implementation("eager")
    # in float64, so that what is left is the rounding of the merged weights: 6e-8 of each
    wanted = plain_logits(ours.double(), prompts)
    assert (plain_logits(merged.double(), prompts) - wanted).abs().max() < 2e-6 * wanted.abs().max()
    processor = load_processor(str(out))
    assert processor.image_processor.size["longest_edge"] == sizes["size"]["longest_edge"]
    assert processor.eos_ids == load_processor(str(TINY)).eos_ids
    with pytest.raises(mmupt.cli.UsageError, match="exists already"):
        merge_adapter.main(["--adapter", str(folder), "--out", str(out)])


def test_an_adapter_that_does_not_fit_is_refused(lora_run, tmp_path, random_folder):
    folder = lora_run / "checkpoints" / "step-10"
    with pytest.raises(ModelError, match="its adapter can't be used"):  # the base has fewer layers
        merge_adapter.merge(str(folder), str(random_folder))
    with pytest.raises(ModelError, match="no adapter folder"):
        merge_adapter.merge(str(TINY))
    with pytest.raises(ModelError, match="its adapter can't be used"):  # of another rank
        load_models(Config(model=str(TINY), lora_rank=8), folder, ONE)
    settings = json.loads((folder / "adapter_config.json").read_text())
    changes = {
        "only LoRA": {"peft_type": "IA3"},
        "not found": {"target_modules": ["nothing"]},
        "changing the base .pissa_niter_4.": {"init_lora_weights": "pissa_niter_4"},
        "--base must be given": {"base_model_name_or_path": None},
        "--base /nowhere: no such folder": {"base_model_name_or_path": "/nowhere"},
    }
    for n, (message, change) in enumerate(changes.items()):
        where = tmp_path / f"{n}"
        shutil.copytree(folder, where)
        (where / "adapter_config.json").write_text(json.dumps(settings | change))
        with pytest.raises(ModelError, match=message) as error:
            merge_adapter.merge(str(where))
        assert "\n" not in str(error.value)


def test_where_nothing_can_be_written_is_said_before_the_merge(lora_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(mmupt.cli.UsageError, match="file is a file"):
        merge_adapter.main(["--adapter", str(lora_run), "--out", str(tmp_path / "file" / "merged")])


def test_a_flipped_bit_in_an_adapter_is_named(lora_run, tmp_path):
    shutil.copytree(lora_run / "checkpoints" / "step-10", tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match="adapter can't be used .adapter_model.safetensors is not what was"):
        merge_adapter.merge(str(tmp_path / "a"))
