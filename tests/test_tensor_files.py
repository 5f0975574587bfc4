"""Files written bit by bit are those that safetensors and transformers write."""

import json

import pytest
import torch
from families_made import RECIPES, make_checkpoint
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from data import TINY
from model.checkpoint import weights_as_stored
from model.tensor_files import flattened, in_file_order, in_files, write_tensors, write_weights
from model_utils import load_model

MIXED = {
    "b": torch.randn(3, 5), "a": torch.randn(7).bfloat16(), "step": torch.tensor(4.0), "c": torch.arange(6),
    "none": torch.zeros(0, 4), "half": torch.randn(2, 2, 3).half(),
}  # fmt: skip


def test_a_file_is_the_one_that_safetensors_writes(tmp_path):
    ordered = in_file_order(MIXED)
    write_tensors(tmp_path / "ours", ordered, iter([x for x in ordered.values() if x.numel()]))
    found = load_file(tmp_path / "ours")
    assert found.keys() == MIXED.keys()
    assert all(torch.equal(found[n], x) and found[n].dtype == x.dtype for n, x in MIXED.items())
    one_kind = {n: MIXED[n] for n in ("b", "step")}  # of numbers of one width: equal to the byte
    save_file(one_kind, tmp_path / "theirs", {"format": "pt"})
    write_tensors(tmp_path / "ours", in_file_order(one_kind), iter(in_file_order(one_kind).values()))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_blocks_of_rows_make_the_same_file_as_whole_tensors(tmp_path):
    x = torch.randn(10, 3)
    write_tensors(tmp_path / "whole", {"x": x}, iter([x]))
    write_tensors(tmp_path / "blocks", {"x": x}, iter(x.split(4)))
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "blocks").read_bytes()


def test_weights_above_a_bound_go_to_several_files_with_an_index(tmp_path):
    model = load_model(str(TINY))
    files = in_files(in_file_order(weights_as_stored(model)), most=10**6)
    assert len(files) > 2 and all(sum(4 * x.numel() for x in f.values()) <= 10**6 for f in files)
    for file in TINY.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    write_weights(tmp_path, files, iter(flattened(files)))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(4 * p.numel() for p in model.parameters())
    assert not (tmp_path / "model.safetensors").exists()
    for again in (load_model(str(tmp_path)), AutoModelForImageTextToText.from_pretrained(tmp_path)):
        for name, p in again.named_parameters():
            assert torch.equal(p, model.get_parameter(name)), name


@pytest.mark.parametrize("name", RECIPES)
def test_every_familys_weights_have_the_names_that_transformers_gives_them(name, tmp_path):
    make_checkpoint(tmp_path / "made", RECIPES[name])
    model = load_model(str(tmp_path / "made"))
    model.save_pretrained(tmp_path / "theirs")
    files = in_files(in_file_order(weights_as_stored(model)))
    (tmp_path / "ours").mkdir()
    write_weights(tmp_path / "ours", files, iter(flattened(files)))
    ours, theirs = ((tmp_path / who / "model.safetensors").read_bytes() for who in ("ours", "theirs"))
    assert ours == theirs
