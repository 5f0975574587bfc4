"""Checkpoints give back what they were given, and a broken one is passed over."""

import json
import shutil

import pytest
import torch
from plain_transformers import plain_inputs
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoTokenizer

from model.checkpoint import is_whole
from model_utils import (
    generate,
    latest_checkpoint,
    load_checkpoint,
    load_model,
    load_processor,
    save_checkpoint,
    token_logprobs,
)


@pytest.fixture
def trained(model, processor, mixed_examples):
    """A model and optimiser after one step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    token_logprobs(model, generate(model, processor, mixed_examples, 2, 6)).sum().backward()
    optimizer.step()
    return model, optimizer


def save(folder, processor, trained, step, **options):
    save_checkpoint(folder / f"step-{step}", trained[0], processor, trained[1], {"step": step}, **options)


def test_a_checkpoint_gives_back_model_and_optimiser_exactly(tmp_path, processor, trained):
    save(tmp_path, processor, trained, 3)
    folder = latest_checkpoint(tmp_path)
    model = load_model(str(folder))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    assert load_checkpoint(folder, model, optimizer)["step"] == 3
    for (name, p), (_, q) in zip(model.named_parameters(), trained[0].named_parameters(), strict=True):
        assert torch.equal(p, q), name
        for key, value in trained[1].state[q].items():
            assert torch.equal(optimizer.state[p][key], value), (name, key)


def test_a_saved_checkpoint_loads_in_plain_transformers_with_the_same_logits(
    tmp_path, processor, trained, mixed_examples
):
    save(tmp_path, processor, trained, 1)
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "step-1")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "step-1")
    assert tokenizer.chat_template == processor.tokenizer.chat_template
    assert load_processor(str(tmp_path / "step-1")).eos_ids == processor.eos_ids
    inputs = plain_inputs(plain, processor, processor.encode(mixed_examples[1]))
    with torch.no_grad():
        assert torch.equal(plain(**inputs).logits, trained[0](**inputs).logits)


def test_older_checkpoints_go_once_a_newer_one_is_whole(tmp_path, processor, trained):
    for step in (9, 10, 11):
        save(tmp_path, processor, trained, step, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-10", "step-11"]


def test_a_broken_checkpoint_of_a_later_step_never_pushes_out_a_good_one(tmp_path, processor, trained):
    save(tmp_path, processor, trained, 20)
    save(tmp_path, processor, trained, 30)
    (tmp_path / "step-30" / "model.safetensors").unlink()
    save(tmp_path, processor, trained, 21, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-21"] and latest_checkpoint(
        tmp_path
    ).name == "step-21"


@pytest.mark.parametrize("damage", ["truncate", "delete", "no list", "empty list", "partial", "header"])
def test_a_half_written_checkpoint_is_passed_over(tmp_path, processor, trained, damage):
    save(tmp_path, processor, trained, 1)
    save(tmp_path, processor, trained, 2)
    newest = tmp_path / "step-2"
    weights = newest / "model.safetensors"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "header":
        weights.write_bytes(b"\xff" * weights.stat().st_size)
    elif damage == "delete":
        (newest / "optimizer.safetensors").unlink()
    elif damage == "no list":
        (newest / "trainer.json").unlink()
    elif damage == "empty list":
        (newest / "trainer.json").write_text('{"step": 2, "fi')
    else:
        shutil.move(newest, tmp_path / "step-2.partial")
    assert latest_checkpoint(tmp_path).name == "step-1"
    save(tmp_path, processor, trained, 2)  # its place can be written again
    assert latest_checkpoint(tmp_path).name == "step-2"


def test_nothing_in_a_checkpoint_is_pickled(tmp_path, processor, trained):
    save(tmp_path, processor, trained, 1)
    for file in (tmp_path / "step-1").iterdir():
        if file.suffix == ".safetensors":
            load_file(file)
        elif file.suffix == ".json":
            json.loads(file.read_text())
        else:
            assert file.name == "chat_template.jinja"
    assert is_whole(tmp_path / "step-1")


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_file_that_is_cut_makes_no_whole_checkpoint(tmp_path, processor, trained, name):
    save(tmp_path, processor, trained, 1)
    text = (tmp_path / "step-1" / name).read_text()
    (tmp_path / "step-1" / name).write_text(text[:-1])
    assert not is_whole(tmp_path / "step-1")
    (tmp_path / "step-1" / name).write_text(text)
    assert is_whole(tmp_path / "step-1")
