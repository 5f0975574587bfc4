"""Faults of the loop for tests/test_verify.py: of each the line that has to name it, how it is planted with a
pytest.MonkeyPatch, and the flags under which it acts."""

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import pytest
import torch

import mmupt
import model_utils
from common.distributed import World
from model import checkpoint, decode, families, lora
from model_utils import Processor, Rollout


class Fault(NamedTuple):
    line: str
    plant: object
    flags: tuple = ()


def changed(module, name: str, change):
    """Plants `change` of what a function gives."""

    def plant(patch):
        real = getattr(module, name)
        patch.setattr(module, name, lambda *given, **more: change(real(*given, **more)))

    return plant


def called(module, name: str, call):
    """Plants `call(real, ...)` in a function's place."""

    def plant(patch):
        real = getattr(module, name)
        patch.setattr(module, name, lambda *given, **more: call(real, *given, **more))

    return plant


def without_an_image_token(encoded):
    image = next(
        (i for i, x in enumerate(encoded.ids) if encoded.vision and encoded.ids[i + 1 : i + 2] == [x]), None
    )
    return encoded if image is None else replace(encoded, ids=encoded.ids[:image] + encoded.ids[image + 1 :])


def second_best(real, logits, u, temperature, top_p, bias):
    tokens, logprobs = real(logits, u, temperature, top_p, bias)
    return (tokens if temperature else (logits + bias).topk(2).indices[:, 1]), logprobs


def blind_reference(real, config, policy, reference, rollout):
    """Of prompts without their pictures' features."""
    old, _ = real(config, policy, None, rollout)
    wiped = [
        {n: x.clamp(0.3, 0.3) if x.is_floating_point() else x for n, x in v.items()}
        for v in rollout.prompts.vision
    ]
    return old, real(
        config, policy, reference, replace(rollout, prompts=replace(rollout.prompts, vision=wiped))
    )[1]


def warm_reference(real, config, policy, reference, rollout):
    old, _ = real(config, policy, None, rollout)
    return old, real(config, policy, reference, replace(rollout, temperature=1.0))[1]


def coarse(real, hidden, weight, *given, **more):
    return real(hidden.bfloat16(), weight.bfloat16(), *given, **more)


@contextmanager
def adapter_stays(model):
    yield model


def one_weight_lost(stored):
    name = next(n for n in stored if n.endswith("layers.0.mlp.down_proj.weight"))
    return stored | {name: torch.zeros_like(stored[name])}


def own_gradients(self, model):
    for p in model.parameters():
        if p.requires_grad and p.grad is None:
            p.grad = torch.zeros_like(p)


def set_to(owner, name: str, value):
    return lambda patch: patch.setattr(owner, name, value)


def shorter_mask(rollout):
    last = (rollout.lengths - rollout.finished.long())[:, None]
    return torch.arange(rollout.tokens.shape[1], device=last.device) < last


def flipped(packed):
    return replace(packed, layout=replace(packed.layout, question=packed.layout.question.flip(0)))


FAULTS = {
    "decoding begins a position late": Fault(
        "cached = uncached log-probs", changed(decode, "next_position", lambda x: x + 1)
    ),
    "the sampler's log-probs are a hundredth high": Fault(
        "sampler = trainer", changed(decode, "sample_tokens", lambda x: (x[0], x[1] + 0.01))
    ),
    "predicted by the token after": Fault(
        "shared prompt = plain",
        changed(
            model_utils,
            "pack",
            lambda x: replace(x, predictor=(x.predictor + 1).clamp(max=x.ids.shape[1] - 1)),
        ),
    ),
    "responses read another question's prompt": Fault(
        "shared prompt = plain", changed(model_utils, "pack", flipped)
    ),
    "an adapter counts half": Fault("shared prompt = plain", set_to(lora, "SCALE", 1), ("--lora_rank", 4)),
    "responses begin behind the padding": Fault(
        "padding invariance",
        set_to(model_utils, "next_position", lambda x: torch.full_like(x.lengths, x.ids.shape[1])),
    ),
    "scored at temperature 1": Fault(
        "temperature in all log-probs",
        called(
            model_utils, "linear_logprobs", lambda real, *a, temperature, **k: real(*a, temperature=1.0, **k)
        ),
    ),
    "sampled at temperature 1": Fault(
        "temperature in all log-probs",
        called(
            mmupt,
            "generate",
            lambda real, *a, **k: real(*a[:5], float(a[5] > 0), *a[6:], **k),
        ),
    ),
    "the reference is scored at temperature 1": Fault(
        "temperature in all log-probs", called(mmupt, "logprobs_before", warm_reference)
    ),
    "the head's product is in bfloat16": Fault(
        "kernel = float64", called(model_utils, "linear_logprobs", coarse)
    ),
    "the trained log-probs are not the old ones": Fault(
        "ratio 1 on the first pass", changed(mmupt, "token_logprobs", lambda x: (1.01 * x[0], x[1]))
    ),
    "divisors are twice what they should be": Fault(
        "gradient = plain", changed(mmupt, "sequence_divisors", lambda x: 2 * x)
    ),
    "no gradient reaches the vision tower": Fault(
        "gradient = plain", changed(families, "flat", torch.Tensor.detach)
    ),
    "the end token is not in the mask": Fault(
        "end token trained", set_to(Rollout, "mask", property(shorter_mask))
    ),
    "one of several end tokens does not end": Fault(
        "end token trained",
        called(
            mmupt, "generate", lambda real, m, p, *a, **k: real(m, replace(p, eos_ids=p.eos_ids[:1]), *a, **k)
        ),
    ),
    "the reference is the policy": Fault(
        "reference = base", changed(model_utils, "load_models", lambda x: (x[0], partial(nullcontext, x[0])))
    ),
    "the adapter stays on in the reference": Fault(
        "adapter off in the reference", set_to(lora, "adapter_off", adapter_stays), ("--lora_rank", 4)
    ),
    "the reference sees no pictures": Fault(
        "pictures reach the reference", called(mmupt, "logprobs_before", blind_reference)
    ),
    "an image token is missing": Fault(
        "image tokens = image features", changed(Processor, "encode", without_an_image_token)
    ),
    "what is banned is sampled": Fault(
        "no banned token sampled",
        set_to(model_utils, "bias_against", lambda banned: torch.zeros(banned.shape)),
    ),
    "a special token is not banned": Fault(
        "no banned token sampled",
        changed(Processor, "banned", lambda x: x.index_fill(0, x.nonzero()[:1, 0], False)),
    ),
    "greedy takes the second best": Fault(
        "greedy = transformers' generate", called(decode, "sample_tokens", second_best)
    ),
    "a weight is lost in the checkpoint": Fault(
        "save and reload", changed(checkpoint, "weights_as_stored", one_weight_lost)
    ),
}
SUMMED = Fault("gradient summed over processes", set_to(World, "sum_gradients", own_gradients))


def run(argv: list[str], fault: bool) -> int:
    """`mmupt.main` with SUMMED planted or not, as tests/forks.py calls it."""
    patch = pytest.MonkeyPatch()
    if fault:
        SUMMED.plant(patch)
    return mmupt.main(argv)
