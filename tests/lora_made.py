"""Adapters for the tests: of a run of ten steps, and moved off their start."""

import torch

from common.distributed import World
from data import TINY
from mmupt import Config
from model_utils import generate, load_models, load_processor

LORA = {"lora_rank": 4, "lr": 3e-3}
ONE = World(0, 1, torch.device("cpu"))


def plain_logits(model, prompts):
    """Of transformers' own forward on text, without anything of ours around it."""
    return model(input_ids=prompts, attention_mask=torch.ones_like(prompts)).logits


def adapted(folder=TINY, noise=0.0, **options):
    """(policy, reference) as training loads them; `noise` moves the adapter off its start."""
    policy, reference = load_models(Config(model=str(folder), lora_rank=4, **options), None, ONE)
    generator = torch.Generator().manual_seed(1)
    for p in policy.parameters():
        if p.requires_grad and noise:
            p.data += noise * torch.randn(p.shape, generator=generator)
    return policy, reference


def sampled(model, examples, **options):
    return generate(model, load_processor(str(TINY)), examples, 3, 12, **options)
