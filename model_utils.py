"""What training needs of a model: load it, put questions to it, sample, score, save, resume.

    processor = load_processor("data/tiny")
    model     = load_model("data/tiny")
    rollout   = generate(model, processor, examples, num_samples=8, max_new_tokens=64)
    logprobs  = token_logprobs(model, rollout)  # of those same tokens, with gradient

The model's code is transformers'. Sampling and scoring as the loop sees them are here, the parts in
model/: loading, processor and checkpoints; attention over shared prompts in packed_attention.py, the
decode steps in decode.py, and what differs between model families in families.py.

Letters: P questions, G samples each, B = P*G responses, L prompt tokens, T response tokens, V
vocabulary, D width, H key/value heads, R query heads per key/value head.

Left out: videos, beam search.
"""

import gc
import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common.distributed import World
from common.errors import ModelError
from common.pulse import tick
from data import Example
from kernels import linear_logprobs
from model import lora
from model.batch import Encoded, Model, Prompts, next_position, side_by_side
from model.checkpoint import checkpoint_to_resume, latest_checkpoint, load_checkpoint, save_checkpoint
from model.decode import decode
from model.families import product_dtype, with_positions
from model.layers import forward_packed, fused_layers, uses_fused_layers
from model.loading import (
    autocast,
    compute_dtype,
    freeze_vision,
    keep_freed_memory,
    load_model,
    recompute_activations,
)
from model.packed_attention import Layout, Sequences, width_class
from model.processor import Processor, load_processor
from model.sampling import Sampling, bias_against
from model.sharding import gathered, in_step, through, whole

__all__ = [
    "Encoded", "ModelError", "Processor", "Prompts", "Rollout", "checkpoint_to_resume", "compute_dtype",
    "forwards", "freeze_vision", "gathered", "generate", "keep_freed_memory", "latest_checkpoint",
    "load_checkpoint", "load_model", "load_models", "load_processor", "micro_batches",
    "recompute_activations", "rollout_logprobs", "save_checkpoint", "token_logprobs", "whole",
]  # fmt: skip


# --- The two models of a run ----------------------------------------------------------------------


def load_models(config, resumed: Path | None, world: World) -> tuple[torch.nn.Module, Callable | None]:
    """The policy of a run's settings, and what gives the reference within a `with`: the base, also
    after a resume; None where beta is 0.

    With LoRA the policy is the base under an adapter, and the reference is the policy with its
    adapter off.
    """
    if config.shard != "on":  # of shares it would keep what they save
        keep_freed_memory()
    precision = compute_dtype(config.dtype, world.device)
    load = partial(load_model, device=world.device, shard=config.shard == "on")
    reference: Callable[[], AbstractContextManager]
    if config.lora_rank:
        policy = load(config.model, dtype=precision)
        lora.add_adapter(policy, config.model, config.lora_rank, config.seed, resumed)
        reference = partial(lora.adapter_off, policy)
    else:
        policy = load(str(resumed or config.model), compute=precision)
        if config.freeze_vision:
            freeze_vision(policy)
        base = load(config.model, dtype=precision) if config.beta else None
        reference = partial(nullcontext, base)
    if config.gradient_checkpointing:
        recompute_activations(policy)
    gc.collect()  # what loading left in cycles may hold weights
    return policy, reference if config.beta else None


# --- Sampling -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rollout:
    """G responses to each of P questions; row p*G + g is sample g of question p."""

    prompts: Prompts
    num_samples: int
    tokens: Tensor  # [B, T], padded after each response's end
    lengths: Tensor  # [B], the first eos counted
    # [B, T] float32, of logits / temperature over the whole vocabulary; 0 after the end
    logprobs: Tensor
    finished: Tensor  # [B] bool: ended by an eos, not by max_new_tokens
    temperature: float

    @property
    def mask(self) -> Tensor:
        """[B, T] bool. From lengths, never from token values: pad may equal eos."""
        return torch.arange(self.tokens.shape[1], device=self.lengths.device) < self.lengths[:, None]

    @property
    def nonfinite(self) -> Tensor:
        """[B] bool: a token was drawn from logits that held NaN or inf, whose log-softmax is NaN."""
        return ~self.logprobs.isfinite().all(1)

    def rows(self, questions: Sequence[int]) -> list[int]:
        """Where the samples of these questions stand."""
        return [q * self.num_samples + g for q in questions for g in range(self.num_samples)]

    def select(self, questions: Sequence[int]) -> "Rollout":
        """These questions with all their samples."""
        rows = self.rows(questions)
        parts = {name: getattr(self, name)[rows] for name in ("tokens", "lengths", "logprobs", "finished")}
        return replace(self, prompts=self.prompts.select(questions), **parts)

    def joined(self, other: "Rollout") -> "Rollout":
        """The questions of both, of as many samples each."""
        return replace(
            self,
            prompts=self.prompts.joined(other.prompts),
            tokens=side_by_side([self.tokens, other.tokens]),
            lengths=torch.cat([self.lengths, other.lengths]),
            logprobs=side_by_side([self.logprobs, other.logprobs]),
            finished=torch.cat([self.finished, other.finished]),
        )

    def texts(self, processor: Processor) -> list[str]:
        return [
            processor.decode(row[:n])
            for row, n in zip(self.tokens.tolist(), self.lengths.tolist(), strict=True)
        ]


def uniforms(seed: int, step: int, key: str, sample: int, count: int) -> np.ndarray:
    """`count` numbers in [0, 1) that depend on (seed, step, question, sample) and nothing else."""
    digest = hashlib.blake2b(f"{seed} {step} {sample} {key}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).random(count)


@torch.no_grad()
def generate(
    model: Model,
    processor: Processor,
    examples: Sequence[Example] | Prompts,
    num_samples: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    step: int = 0,
    memory: int = 0,
    progress: str | None = None,
) -> Rollout:
    """G responses to each question; greedy at temperature 0. `memory`: bytes, 0 chooses."""
    device = next(model.parameters()).device
    if isinstance(examples, Prompts):
        prompts = examples
    else:
        prompts = processor.collate([processor.encode(e) for e in examples], device)
    prompts = with_positions(model, prompts)
    sampling = Sampling(
        temperature,
        top_p,
        bias_against(processor.banned().to(device)),
        torch.tensor(processor.eos_ids, dtype=torch.long, device=device),
    )

    def draws(questions: list[int]) -> Tensor:
        rows = [
            [uniforms(seed, step, prompts.keys[q], g, max_new_tokens) for g in range(num_samples)]
            for q in questions
        ]
        return torch.from_numpy(np.array(rows))

    bar = tqdm(
        total=len(prompts) * num_samples,
        desc=progress,
        unit="resp",
        leave=False,
        disable=progress is None or None,
    )
    was_training = model.training
    model.eval()
    # inference mode spares every operation some bookkeeping, but autocast caches nothing in it: a
    # decoder's own forward would cast all weights at every step. What leaves it below is an
    # ordinary tensor again
    with torch.inference_mode() if uses_fused_layers(model) else torch.no_grad(), autocast(model), bar:
        out = decode(model, prompts, num_samples, max_new_tokens, sampling, draws, memory, bar)
    model.train(was_training)
    T, lengths = int(out.lengths.max()), out.lengths.clone()
    after = torch.arange(T, device=device) >= lengths[:, None]
    tokens = out.tokens[:, :T].masked_fill(after, processor.pad)
    logprobs = out.logprobs[:, :T].masked_fill(after, 0.0)
    return Rollout(prompts, num_samples, tokens, lengths, logprobs, out.finished.clone(), temperature)


# --- Scoring --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """A rollout as one flat row: all prompts, then all responses (model/packed_attention.py).

    The last token of a response is predicted but never read, so it has no place in the row.
    """

    ids: Tensor  # [1, N]
    positions: Tensor  # [A, 1, N]
    layout: Layout
    # index into N of what predicts each response token, in the order of rollout.mask
    predictor: Tensor


def pack(rollout: Rollout) -> Packed:
    prompts, G = rollout.prompts, rollout.num_samples
    own = rollout.lengths - 1
    order = torch.argsort(width_class(own), stable=True)  # of the responses in the row
    layout = Layout(Sequences(prompts.lengths), blocks=prompts.blocks)
    if bool(own.any()):
        layout = replace(layout, responses=Sequences(own[order]), question=order // G)
    steps = torch.arange(rollout.tokens.shape[1], device=own.device)
    read = steps < own[order, None]  # [B, T]
    after = next_position(prompts)[order // G]  # [B]
    ids = torch.cat([prompts.ids[layout.prompts.real], rollout.tokens[order][read]])
    own_positions = (after[:, None] + steps)[read]
    positions = torch.cat(
        [prompts.rope[:, layout.prompts.real], own_positions.expand(len(prompts.rope), -1)], 1
    )
    # a response's first token is predicted by its prompt's last, later ones by the token before
    prompt_end = prompts.lengths.cumsum(0).repeat_interleave(G) - 1
    start = torch.empty_like(own)
    start[order] = layout.prompts.total + own[order].cumsum(0) - own[order]
    predictor = torch.cat([prompt_end[:, None], start[:, None] + steps[:-1]], 1)
    return Packed(ids[None], positions[:, None], layout, predictor[rollout.mask])


@overload
def token_logprobs(model: Model, rollout: Rollout) -> Tensor: ...
@overload
def token_logprobs(model: Model, rollout: Rollout, with_entropy: Literal[True]) -> tuple[Tensor, Tensor]: ...
def token_logprobs(model: Model, rollout: Rollout, with_entropy: bool = False):
    """Log-probs [B, T] float32 of the rollout's tokens at its temperature; 0 after the end.

    Equal in value and gradient to a forward of each [prompt | response] on its own. With gradient
    where the caller has it enabled. `with_entropy` also gives the entropy [B, T] of each token's
    distribution, without gradient.
    """
    return through(model, score, rollout, with_entropy)


def score(model: Model, rollout: Rollout, with_entropy: bool):
    """`token_logprobs`, where weights can be read."""
    packed = pack(rollout)
    mask = rollout.mask
    with autocast(model):
        # in bfloat16 two ways of one forward differ by enough to show as KL between equal models
        lean = not torch.is_grad_enabled() and product_dtype(model) == torch.float32
        lean = lean and not getattr(model, "in_step", False)
        layers = fused_layers(model) if lean else None
        hidden = forward_packed(model, layers, packed.ids, rollout.prompts, packed.positions, packed.layout)
        out = linear_logprobs(
            hidden[packed.predictor],  # only what predicts a response token reaches the head
            model.get_output_embeddings().weight,
            rollout.tokens[mask],
            temperature=rollout.temperature or 1.0,
            return_entropy=with_entropy,
        )
    blank = torch.zeros(mask.shape, device=mask.device)
    if with_entropy:
        return blank.masked_scatter(mask, out[0]), blank.masked_scatter(mask, out[1])
    return blank.masked_scatter(mask, out)


def micro_batches(rollout: Rollout, questions: Sequence[int], tokens: int) -> list[list[int]]:
    """Splits questions into parts of at most `tokens` tokens, or of one; like lengths together."""
    read = tokens_read(rollout)
    parts: list[list[int]] = []
    room = 0
    for q in sorted(questions, key=lambda q: (read[q], q)):
        if read[q] > room:
            parts.append([])
            room = tokens
        parts[-1].append(q)
        room -= read[q]
    return parts


def tokens_read(rollout: Rollout) -> list[int]:
    """Of each question with its responses, whose last tokens are not read."""
    own = (rollout.lengths - 1).view(len(rollout.prompts), -1).sum(1)
    return (own + rollout.prompts.lengths).tolist()


def forwards(
    model: Model, rollout: Rollout, questions: Sequence[int], tokens: int
) -> list[tuple[list[int], bool]]:
    """Micro-batches, and whether each counts. All processes read a sharded model equally often: those with
    fewer micro-batches read their shortest question again, for nothing."""
    read = tokens_read(rollout)
    return in_step(model, micro_batches(rollout, questions, tokens), idle=[read.index(min(read))])


@torch.no_grad()
def rollout_logprobs(model: Model, rollout: Rollout, tokens: int) -> Tensor:
    """Log-probs [B, T] of a whole rollout, without gradient, in micro-batches."""
    out = torch.zeros(rollout.logprobs.shape, device=rollout.logprobs.device)
    for part, counts in forwards(model, rollout, range(len(rollout.prompts)), tokens):
        logprobs = token_logprobs(model, rollout.select(part))
        if counts:
            out[rollout.rows(part)] = logprobs
        tick()
    return out
