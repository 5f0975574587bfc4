"""What tests/test_sharding.py has done in several processes (tests/forks.py)."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from common import distributed
from data import TINY, Example, load
from model.checkpoint import weights_as_stored
from model_utils import (
    ModelError,
    forwards,
    gathered,
    generate,
    load_model,
    load_processor,
    recompute_activations,
    save_checkpoint,
    token_logprobs,
    whole,
)


def questions(folder: str) -> list[Example]:
    """For two processes, dealt in turn: the second has no picture."""
    drawn = load("tiny", "train")
    texts = [Example(f"t{i}", (), f"What is {i} + {i}? " * (i + 1), None) for i in range(3)]
    seeing = [drawn[i] for i in range(3)] if load_processor(folder).whole is not None else texts
    return [one for pair in zip(seeing, texts, strict=True) for one in pair]


def sample(folder: str, sampled: str) -> None:
    """Responses by the model whole, in one process."""
    rollout = generate(load_model(folder), load_processor(folder), questions(folder), 3, 8, seed=3)
    save_file({"tokens": rollout.tokens, "lengths": rollout.lengths}, sampled)


def gradients(folder: str, sampled: str, out: str, shard: bool, compute: str, recompute: bool = False):
    """Of a weighted sum of log-probs of the responses in `sampled`, summed over processes; and what this
    process samples greedily."""
    world = distributed.start()
    model = load_model(folder, compute=getattr(torch, compute), shard=shard)
    processor = load_processor(folder)
    if recompute:
        recompute_activations(model)
    mine = list(range(world.rank, 6, world.size))
    examples = [questions(folder)[i] for i in mine]
    with gathered(model):
        rollout = generate(model, processor, examples, 3, 8, seed=3)
        greedy = generate(model, processor, examples, 1, 8, temperature=0.0)
    kept = load_file(sampled)
    rows = [3 * q + g for q in mine for g in range(3)]
    for name, x in kept.items():
        object.__setattr__(rollout, name, x[rows])
    # one process makes three forwards, each of two one or two
    tokens = 1 if world.rank == 0 else 10**6
    model.train()
    total = 0.0
    for part, counts in forwards(model, rollout, range(len(mine)), tokens):
        logprobs = token_logprobs(model, rollout.select(part))
        weight = torch.tensor([mine[q] + 1.0 for q in part]).repeat_interleave(3)[:, None]
        loss = (logprobs * weight).sum()
        (loss * counts).backward()
        total += float(loss.detach()) * counts
    world.sum_gradients(model)
    found = {n: whole(p.grad) for n, p in model.named_parameters() if p.requires_grad}
    found |= {"total": world.sum(torch.tensor(total))}
    found |= {f"weight {n}": whole(x) for n, x in weights_as_stored(model).items()}
    texts = world.gather_json([[i, t] for i, t in zip(mine, greedy.texts(processor), strict=True)])
    if world.is_main:
        save_file({n: x.contiguous() for n, x in found.items()}, out, {"greedy": repr(sorted(texts))})
    world.wait()
    distributed.stop()


def make(name: str, folder: str) -> None:
    """A family's small checkpoint, or an empty folder where this version of transformers can't."""
    import pytest
    from families_made import RECIPES, make_checkpoint

    Path(folder).mkdir()
    try:
        make_checkpoint(Path(folder), RECIPES.get(name, RECIPES["qwen3_vl"]))
    except pytest.skip.Exception:
        (Path(folder) / "config.json").unlink(missing_ok=True)


def held(out: str) -> None:
    """What each process holds of the built-in base, by bench.sharding -> OUT.json"""
    from bench.sharding import holdings

    world = distributed.start()
    found = world.gather_json([holdings(str(TINY), out, world)])
    if world.is_main:
        Path(f"{out}.json").write_text(json.dumps(found))
    world.wait()
    distributed.stop()


def refused(folder: str, out: str) -> None:
    """What each process says of a model that it should not load, and of one that it should not save."""
    world = distributed.start()
    said = [said_of(load_model, folder, shard=True)]
    model = load_model(str(TINY), shard=True)
    norm = dict(model.named_parameters())["model.language_model.norm.weight"]
    if world.rank == 1:
        norm.data.to_local()[-1] = float("nan")
    optimizer = torch.optim.AdamW(model.parameters())
    where = Path(out).with_name("step-1")
    said.append(
        said_of(save_checkpoint, where, model, load_processor(folder), optimizer, {}, main=world.is_main)
    )
    everywhere = world.gather_json([said])
    if world.is_main:
        Path(out).write_text(json.dumps(list(zip(*everywhere, strict=True))))
    world.wait()
    distributed.stop()


def said_of(call, *args, **options) -> str:
    try:
        call(*args, **options)
    except ModelError as error:
        return str(error)
    return ""
