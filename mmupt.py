"""MM-UPT: a vision-language model teaches itself by agreeing with its own majority.

    torchrun mmupt.py                                          the built-in run: no data, no download, a CPU is enough
    torchrun --nproc_per_node 8 mmupt.py --model Qwen/Qwen2.5-VL-3B-Instruct --train_data questions.jsonl --preset mm-upt

For each unlabelled question the model samples G answers. The commonest answer is the pseudo-label, agreeing with it earns
reward 1, and the policy is updated by GRPO: the clipped objective on group-normalised rewards, with a KL term to the frozen
base. The method is arXiv 2505.22453; GRPO is arXiv 2402.03300. This file is the whole algorithm; what it needs of a model is
in model_utils.py.

Left out: sharded training, curricula, asynchronous rollouts.
"""

import gc
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

import cli
import distributed
import lora
from cli import flag
from data import DataError, Example, load
from data.answers import extract_answer, option_key
from data.prompts import INSTRUCTION
from data.stream import Questions
from distributed import World
from eval import evaluate, labelled, report
from model_utils import (
    Encoded,
    Processor,
    Rollout,
    compute_dtype,
    freeze_vision,
    generate,
    keep_freed_memory,
    latest_checkpoint,
    load_checkpoint,
    load_model,
    load_processor,
    micro_batches,
    recompute_activations,
    save_checkpoint,
    score,
    score_all,
)
from run_log import DISK_ERRORS, Meter, RunLog, StopSignal, saved_config

HOME = Path(__file__).parent


@dataclass
class Config:
    # what is trained, on what
    preset: str = flag("", "named settings: " + "mm-upt is the paper's code; flags given beside it win")
    model: str = flag(str(HOME / "data" / "tiny"), "checkpoint folder or hub id")
    train_data: list[str] = flag(
        ["tiny"],
        "tiny, .jsonl or .parquet files, folders of parquet files, hub ids; answers are read for --reward gold alone",
    )
    eval_data: str = flag("tiny", "labelled questions to measure on, or an empty string for none")
    eval_split: str = flag("test", "split of the evaluation data, where it has several")
    out: str = flag("", "run folder; empty is runs/ and the time")
    resume: bool = flag(False, "continue from the latest whole checkpoint in --out")
    seed: int = flag(0, "seed of the order of questions and of the sampling")
    # how long
    steps: int = flag(60, "rollout steps")
    questions: int = flag(32, "questions per step (P), over all processes")
    group_size: int = flag(8, "samples per question (G)")
    minibatch_questions: int = flag(0, "questions per update; 0 is all: one update per rollout")
    # optimiser
    lr: float = flag(1e-4, "AdamW learning rate")
    warmup_steps: int = flag(10, "steps of linear warm-up")
    weight_decay: float = flag(0.01, "AdamW weight decay")
    max_grad_norm: float = flag(1.0, "gradients are clipped to this norm")
    freeze_vision: bool = flag(False, "train decoder and head alone, not the vision tower and its projector")
    lora_rank: int = flag(0, "train adapters of this rank (LoRA, through peft); 0 trains the weights themselves")
    lora_alpha: int = flag(32, "an adapter's part is scaled by lora_alpha / lora_rank")
    lora_targets: str = flag(
        "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj", "linears of the decoder that get an adapter"
    )
    # reward
    reward: Literal["majority", "gold", "random", "format"] = flag(
        "majority", "majority is label-free; the rest are controls"
    )
    vote: Literal["sound", "published"] = flag(
        "sound", "published: raw strings and unparsed answers vote, ties to the first"
    )
    min_share: float = flag(0.0, "abstain where the winner has less than this share of the group")
    scale: Literal["std", "none"] = flag("std", "divide advantages by the group's standard deviation")
    # objective
    beta: float = flag(0.01, "weight of the KL term; at 0 no reference is loaded")
    kl: Literal["k1", "k2", "k3"] = flag("k3", "KL estimator")
    kl_clamp: float = flag(0.0, "bound on the KL of a token; 0 is none")
    clip_low: float = flag(0.2, "the ratio is clipped below 1 - clip_low")
    clip_high: float = flag(0.2, "the ratio is clipped above 1 + clip_high")
    dual_clip: float = flag(0.0, "bound on the ratio where the advantage is negative; 0 is none")
    aggregate: Literal["grpo", "dapo", "bnpo", "dr_grpo"] = flag("grpo", "how token losses are averaged")
    bnpo_sequences: int = flag(4, "sequences per block of aggregate bnpo: the paper's code has micro-batches of 4")
    ratio: Literal["token", "sequence"] = flag("token", "importance ratio per token, or per sequence (GSPO)")
    # sampling
    temperature: float = flag(1.0, "sampling temperature, also of every log-prob")
    top_p: float = flag(1.0, "nucleus sampling; 1 is off")
    max_new_tokens: int = flag(48, "longest response")
    max_prompt_tokens: int = flag(1024, "longer questions are skipped and counted, never cut")
    min_pixels: int = flag(0, "smaller images are enlarged to this; 0 is the checkpoint's own")
    max_pixels: int = flag(0, "larger images are shrunk to this; 0 is the checkpoint's own")
    instruction: str = flag(INSTRUCTION, "appended to every question as it stands, so it begins with a space")
    # memory and precision
    dtype: Literal["auto", "float32", "bfloat16"] = flag(
        "auto", "of matrix products, not of the trained weights; auto: bfloat16 on a GPU"
    )
    tokens_per_forward: int = flag(16384, "tokens of one forward of an update")
    gradient_checkpointing: bool = flag(False, "recompute activations in the backward pass")
    # logging
    eval_every: int = flag(20, "steps between evaluations; 0: only the base and the end")
    eval_questions: int = flag(256, "questions per evaluation; 0 is all; the base and the end use all")
    eval_samples: int = flag(8, "samples per question in evaluations")
    save_every: int = flag(20, "steps between checkpoints; 0: only at the end")
    keep: int = flag(2, "checkpoints kept; 0 is all")
    log_questions: int = flag(2, "questions per step whose responses go to rollouts.jsonl")

    def __post_init__(self):
        def require(ok: bool, name: str, what: str):
            if not ok:
                raise cli.UsageError(f"--{name} must be {what} (got {getattr(self, name)})")

        for name in ("steps", "questions", "max_new_tokens", "max_prompt_tokens", "tokens_per_forward"):
            require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("bnpo_sequences", "eval_samples", "lora_alpha"):
            require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("eval_every", "eval_questions", "save_every", "keep", "log_questions", "warmup_steps"):
            require(getattr(self, name) >= 0, name, "0 or more")
        for name in ("beta", "kl_clamp", "weight_decay", "clip_high", "min_pixels", "max_pixels", "lr"):
            require(getattr(self, name) >= 0, name, "0 or more")
        require(self.lora_rank >= 0, "lora_rank", "0 or more")
        for name in ("lora_alpha", "lora_targets"):
            require(self.lora_rank or getattr(self, name) == getattr(Config, name), name, "given with --lora_rank")
        if self.group_size < 2:
            raise cli.UsageError(f"--group_size must be at least 2 (got {self.group_size}): a vote needs company")
        require(0 <= self.clip_low <= 1, "clip_low", "between 0 and 1")
        require(0 <= self.min_share <= 1, "min_share", "between 0 and 1")
        require(self.dual_clip == 0 or self.dual_clip > 1, "dual_clip", "0 or above 1")
        require(self.temperature > 0, "temperature", "above 0")
        require(0 < self.top_p <= 1, "top_p", "above 0 and at most 1")
        for name in ("lr", "temperature", "beta", "max_grad_norm", "weight_decay"):
            require(math.isfinite(getattr(self, name)), name, "finite")
        require(not self.max_pixels or self.min_pixels <= self.max_pixels, "min_pixels", "at most --max_pixels")
        require(
            self.vote == "sound" or not self.min_share, "min_share", "0 with --vote published, which never abstains"
        )
        require(self.max_grad_norm > 0, "max_grad_norm", "above 0")
        per_update = self.minibatch_questions or self.questions
        require(
            self.minibatch_questions >= 0 and self.questions % per_update == 0,
            "minibatch_questions", f"0 or a divisor of --questions {self.questions}{self.by_preset('minibatch_questions')}",
        )  # fmt: skip
        require(not self.resume or self.out != "", "resume", "given together with --out")
        if self.out:
            cli.check_out(self.out)

    def by_preset(self, name: str) -> str:
        """For an error: that nobody gave this flag."""
        set_here = PRESETS.get(self.preset, {}).get(name) == getattr(self, name) != getattr(Config, name)
        return f", but --preset {self.preset} sets it" if set_here else ""


PRESETS = {
    # the paper's code to the letter, with what it gets wrong: github.com/waltonfuture/MM-UPT
    "mm-upt": dict(
        questions=512, minibatch_questions=128, group_size=10, temperature=0.7, top_p=0.99, max_new_tokens=2048,
        max_prompt_tokens=2048, lr=1e-6, warmup_steps=0, weight_decay=0.01, max_grad_norm=1.0, min_pixels=262144,
        max_pixels=1204224, clip_low=0.2, clip_high=0.3, dual_clip=3.0, beta=0.01, kl="k3", kl_clamp=10.0,
        aggregate="bnpo", bnpo_sequences=4, vote="published", scale="std", gradient_checkpointing=True,
    ),
}  # fmt: skip


# --- The algorithm -----------------------------------------------------------------------------------------------


class Vote(NamedTuple):
    winner: Hashable | None  # the pseudo-label; None: the group abstains
    share: float  # of all answers, unparsed ones included, for the commonest answer
    counts: Counter


def majority_vote(answers: Sequence[Hashable | None], min_share: float = 0.0) -> Vote:
    """Pseudo-label y* = argmax_y sum_i [y_i = y]   (arXiv 2505.22453, section 3).

    `answers` are canonical forms, so that equal answers in different notation vote together. None, an answer that did not
    parse, never votes. No parsed answer, a tie for first, or a share below `min_share`: the winner is None.
    """
    counts = Counter(a for a in answers if a is not None)
    if not counts:
        return Vote(None, 0.0, counts)
    (first, most), *rest = counts.most_common(2)
    share = most / len(answers)
    tie = bool(rest) and rest[0][1] == most
    return Vote(None if tie or share < min_share else first, share, counts)


UNPARSED = "None"  # what the paper's code makes of an answer that did not parse


def published_vote(raw: Sequence[str | None]) -> Vote:
    """The vote of the paper's code, for comparison: identical strings vote, an unparsed answer votes as the string "None",
    and a tie goes to the first seen."""
    counts = Counter(UNPARSED if a is None else a for a in raw)
    winner, most = counts.most_common(1)[0]
    return Vote(winner, most / len(raw), counts)


def group_advantages(rewards: Tensor, scale: str = "std", eps: float = 1e-6) -> Tensor:
    """A_i = (r_i - mean(r)) / (std(r) + eps) within each group, ddof 1; scale "none": A_i = r_i - mean(r).

    rewards [P, G] -> [P, G] float32. A group of equal rewards is exactly 0 (its float mean need not equal its members).
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards must be [P, G] with G at least 2 (got {list(rewards.shape)})")
    if scale not in ("std", "none"):
        raise ValueError(f"scale must be std or none (got {scale})")
    rewards = rewards.float()
    advantages = rewards - rewards.mean(1, keepdim=True)
    if scale == "std":
        advantages = advantages / (rewards.std(1, keepdim=True) + eps)
    return advantages.masked_fill((rewards == rewards[:, :1]).all(1, keepdim=True), 0.0)


def kl_penalty(logprobs: Tensor, ref_logprobs: Tensor, kind: str = "k3") -> Tensor:
    """Per-token estimate of KL(policy || reference) from sampled tokens, in nats; d = logprobs - ref_logprobs.

    k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d   (Schulman 2020, "Approximating KL divergence").
    All three have the right mean or nearly so. As loss terms they differ: the expected gradient of k1 is 0, of k2 that of
    the reverse KL(policy || reference), of k3 that of the forward KL(reference || policy).
    """
    d = logprobs - ref_logprobs
    if kind == "k1":
        return d
    if kind == "k2":
        return d.square() / 2
    if kind == "k3":
        d = d.clamp(-20, 20)  # beyond e^20 it is an overflow, not an estimate
        return torch.expm1(-d) + d
    raise ValueError(f"kl must be k1, k2 or k3 (got {kind})")


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    beta: float = 0.0,
    kl: str = "k3",
    kl_clamp: float | None = None,
    aggregate: str = "grpo",
    ratio: str = "token",
    denominator: float | Tensor | None = None,
    max_new_tokens: int | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The clipped GRPO objective, negated (arXiv 2402.03300, equation 3).

        l_t = -min(rho_t A, clip(rho_t, 1 - clip_low, 1 + clip_high) A) + beta KL_t,    rho_t = exp(logp_t - old_t)
        dual_clip c: where A < 0 the objective is at least c A (arXiv 1912.09729)
        ratio "sequence": rho_t = exp(mean_t(logp_t - old_t)) for every t (GSPO, arXiv 2507.18071)

    Aggregation over B sequences of T tokens, m the mask:
        grpo     sum_i (sum_t l m / sum_t m) / denominator      denominator: sequences of the optimiser batch
        dapo     sum l m / denominator                          denominator: tokens of the optimiser batch
        dr_grpo  sum l m / denominator                          denominator: sequences * max_new_tokens
        bnpo     (sum l m / sum m) / denominator                denominator: blocks of the optimiser batch
    Without a denominator these rows are the whole optimiser batch. With the whole batch's denominator the parts of any
    split sum to the loss of the whole. bnpo is a mean over blocks of sequences, each a token mean; a
    denominator [B] from bnpo_divisors fixes the blocks beforehand: the loss is then sum_i (sum_t l m) / denominator_i.

    logprobs, old_logprobs, ref_logprobs, mask [B, T]; advantages [B]. ref_logprobs may be None where beta is 0. Whatever
    stands under the mask, NaN included, changes neither value nor gradient.
    Returns (scalar, token_means).
    """
    if not logprobs.shape == old_logprobs.shape == mask.shape or advantages.shape != mask.shape[:1]:
        shapes = ", ".join(str(list(x.shape)) for x in (logprobs, old_logprobs, mask, advantages))
        raise ValueError(f"logprobs, old_logprobs and mask must be [B, T] and advantages [B] (got {shapes})")
    mask = mask.bool()
    # where() rather than a product: 0 * NaN is NaN, in the value and in the gradient
    logprobs = logprobs.where(mask, 0.0)
    old_logprobs = old_logprobs.where(mask, 0.0)
    lengths = mask.sum(1)
    A = advantages[:, None]  # [B, 1]

    log_ratio = logprobs - old_logprobs
    if ratio == "sequence":
        log_ratio = (log_ratio.sum(1) / lengths.clamp(min=1))[:, None].expand_as(log_ratio)
    elif ratio != "token":
        raise ValueError(f"ratio must be token or sequence (got {ratio})")
    rho = log_ratio.clamp(-20, 20).exp()  # an overflow would make the gradient of the whole batch NaN
    objective = torch.minimum(rho * A, rho.clamp(1 - clip_low, 1 + clip_high) * A)
    if dual_clip:
        objective = torch.where(A < 0, torch.maximum(objective, dual_clip * A), objective)
    losses = -objective

    penalty = torch.zeros_like(losses)
    if ref_logprobs is not None:
        penalty = kl_penalty(logprobs, ref_logprobs.where(mask, 0.0), kl)
        if kl_clamp:
            penalty = penalty.clamp(-kl_clamp, kl_clamp)
    elif beta:
        raise ValueError("ref_logprobs is needed where beta is above 0")
    if beta:
        losses = losses + beta * penalty
    losses = losses.where(mask, 0.0)

    if denominator is None:
        denominator = loss_denominator(aggregate, len(mask), int(lengths.sum()), max_new_tokens)
    if isinstance(denominator, Tensor):
        return (losses.sum(1) / denominator).sum(), token_means(rho, log_ratio, penalty, A, mask, clip_low, clip_high)
    if aggregate == "grpo":
        total = (losses.sum(1) / lengths.clamp(min=1)).sum()
    elif aggregate == "bnpo":
        total = losses.sum() / lengths.sum().clamp(min=1)
    else:
        total = losses.sum()

    return total / denominator, token_means(rho, log_ratio, penalty, A, mask, clip_low, clip_high)


@torch.no_grad()
def token_means(rho, log_ratio, kl, A, mask, clip_low: float, clip_high: float) -> dict[str, float]:
    """Means over the tokens under the mask: how many were clipped, and the KL to the old policy and to the reference."""
    low = (rho < 1 - clip_low) & (A < 0)
    high = (rho > 1 + clip_high) & (A > 0)
    approx_kl = rho - 1 - log_ratio  # k3 of KL(old || policy), as CleanRL logs it
    values = {"clipped_low": low, "clipped_high": high, "clipfrac": low | high, "approx_kl": approx_kl, "kl": kl}
    tokens = mask.sum().clamp(min=1)
    return {name: float(value.where(mask, 0).sum() / tokens) for name, value in values.items()}


def loss_denominator(aggregate: str, sequences: int, tokens: int, max_new_tokens: int | None = None) -> float:
    """The divisor of a whole optimiser batch, for each aggregation of grpo_loss."""
    if aggregate == "dr_grpo" and max_new_tokens is None:
        raise ValueError("aggregate dr_grpo needs max_new_tokens")
    divisors = {
        "grpo": sequences,
        "dapo": tokens,
        "bnpo": 1,  # one block; bnpo_divisors has the case of several
        "dr_grpo": sequences * (max_new_tokens or 0),
    }
    if aggregate not in divisors:
        raise ValueError(f"aggregate must be {', '.join(divisors)} (got {aggregate})")
    return max(divisors[aggregate], 1)


def bnpo_divisors(lengths: Tensor, sequences: int) -> Tensor:
    """lengths [B] -> [B]: for blocks of `sequences` consecutive rows, (tokens of its block) * (blocks).

    sum_i (sum_t l m) / divisor_i is then the mean over blocks of their token means.
    """
    block = torch.arange(len(lengths), device=lengths.device) // sequences
    count = int(block[-1]) + 1
    tokens = torch.zeros(count, dtype=lengths.dtype, device=lengths.device).scatter_add_(0, block, lengths)
    return (tokens[block] * count).float()


# --- Rewards -----------------------------------------------------------------------------------------------------


@dataclass
class Judged:
    """What the reward stage made of a rollout's P x G responses."""

    answers: list[list[str | None]]  # canonical forms
    votes: list[Vote]
    rewards: Tensor  # [P, G]


def judge(texts: list[str], questions: Sequence[Encoded], config: Config, gold: dict[str, str], step: int) -> Judged:
    """Responses -> answers, votes and rewards. `gold` is empty unless the control `--reward gold` asked for labels."""
    G = config.group_size
    answers, votes, rewards = [], [], []
    for p, question in enumerate(questions):
        raw = [extract_answer(text) for text in texts[p * G : (p + 1) * G]]
        keys = [option_key(a, question.choices) for a in raw]  # canonical forms; None where nothing parsed
        if config.vote == "published":
            vote = published_vote(raw)
            winner = option_key(vote.winner, question.choices)  # the reward compares by meaning
            unparsed_won = vote.winner == UNPARSED
        else:
            vote = majority_vote(keys, config.min_share)
            winner, unparsed_won = vote.winner, False
        if config.reward == "majority":
            agree = [key is not None and key == winner for key in keys]
            if unparsed_won:
                agree = [a is None or a == UNPARSED for a in raw]
        elif config.reward == "gold":
            agree = [key is not None and key == gold[question.id] for key in keys]
        elif config.reward == "format":
            agree = [key is not None for key in keys]
        else:  # random
            rng = random.Random(f"reward {config.seed} {step} {question.id}")
            agree = [rng.random() < 0.5 for _ in keys]
        answers.append(keys)
        votes.append(vote)
        rewards.append([float(a) for a in agree])
    return Judged(answers, votes, torch.tensor(rewards))


# --- The loop ----------------------------------------------------------------------------------------------------

MAX_NONFINITE = 5  # updates in a row that may be skipped for a gradient that is not finite


class Diverged(RuntimeError):
    """Too many updates in a row had no finite gradient."""


@dataclass
class LossInputs:
    """A rollout with everything the loss needs of it; rows are question by question."""

    rollout: Rollout
    old_logprobs: Tensor  # [B, T] of the policy before the update
    ref_logprobs: Tensor | None  # [B, T] of the base; None where beta is 0
    advantages: Tensor  # [B]

    def select(self, questions: list[int]) -> "LossInputs":
        """These questions with all their samples."""
        rollout, G = self.rollout.select(questions), self.rollout.num_samples
        rows = [q * G + g for q in questions for g in range(G)]
        ref = None if self.ref_logprobs is None else self.ref_logprobs[rows]
        return LossInputs(rollout, self.old_logprobs[rows], ref, self.advantages[rows])


def train(config: Config, world: World) -> int:
    """Runs the whole training; returns the process's exit status."""
    run, stop = RunLog(asdict(config), world, resume=config.resume), StopSignal()
    processor = load_processor(config.model, config.min_pixels, config.max_pixels)
    policy, reference = load_models(config, run.resumed, world.device)
    if config.gradient_checkpointing:
        recompute_activations(policy)
    optimizer = torch.optim.AdamW(
        [p for p in policy.parameters() if p.requires_grad], config.lr, betas=(0.9, 0.999),
        weight_decay=config.weight_decay, fused=True,
    )  # fmt: skip
    state = {"step": 0, "nonfinite_updates": 0, "stream": {}}
    if run.resumed:
        state = load_checkpoint(run.resumed, policy, optimizer)
        if state["step"] > config.steps:
            raise cli.UsageError(f"--steps {config.steps}: {config.out} is at step {state['step']} already")
    spare_cores = world.device.type != "cpu" or torch.get_num_threads() < distributed.cores()
    stream = Questions(
        config.train_data, processor, config.seed, config.max_prompt_tokens, config.instruction,
        labels=config.reward == "gold", ahead=spare_cores, world=world, **state["stream"],
    )  # fmt: skip
    held_out = load_held_out(config, processor)
    run.open(state["step"])
    gc.freeze()  # what is here stays: the garbage collector needn't look through it again and again

    nonfinite_in_a_row, saved = 0, True
    if held_out and not run.has_report(state["step"]) and evaluation_is_due(config, state["step"]):
        measure(config, world, policy, processor, held_out, run, state["step"])
    for step in run.steps(state["step"], config.steps):
        with run.stage("data"):
            my_questions = stream.next(config.questions)  # no answer is in them
        with run.stage("rollout"):
            rollout = generate(
                policy, processor, processor.collate(my_questions, world.device), config.group_size,
                config.max_new_tokens, config.temperature, config.top_p, config.seed, step,
                progress="rollout" if world.is_main else None,
            )  # fmt: skip
        with run.stage("reward"):
            texts = rollout.texts(processor)
            judged = judge(texts, my_questions, config, stream.gold, step)  # answers, votes, rewards
            advantages = group_advantages(judged.rewards, config.scale).flatten().to(world.device)  # [B]
        with run.stage("score"):
            inputs = LossInputs(rollout, *logprobs_before(config, policy, reference, rollout), advantages)
        with run.stage("update"):
            set_learning_rate(optimizer, config, step)
            for update_questions in questions_of_each_update(config, world):
                accumulate_gradients(config, world, policy, inputs.select(update_questions), run.meter)
                finite = apply_gradients(config, world, policy, optimizer, run.meter)
                nonfinite_in_a_row = 0 if finite else nonfinite_in_a_row + 1
                state["nonfinite_updates"] += not finite
                if nonfinite_in_a_row == MAX_NONFINITE:
                    raise Diverged(
                        f"{MAX_NONFINITE} updates in a row had no finite gradient, up to step {step + 1}; "
                        f"the last checkpoint is {latest_checkpoint(run.checkpoints)}"
                    )
        state |= {"step": step + 1, "stream": stream.state()}
        counts = {k: state["stream"][k] for k in ("bad_rows", "too_long")}
        counts |= {"nonfinite_updates": state["nonfinite_updates"], "lr": optimizer.param_groups[0]["lr"]}
        run.step(step + 1, my_questions, texts, judged, rollout, counts)

        stopping, last = stop.anywhere(world), step + 1 == config.steps
        if held_out and not stopping and evaluation_is_due(config, step + 1):
            measure(config, world, policy, processor, held_out, run, step + 1)
        if stopping or last or (config.save_every and (step + 1) % config.save_every == 0):
            saved = save(config, world, run, policy, processor, optimizer, state)
        if stopping:
            break

    stop.restore()
    stream.close()
    run.close(config.steps, config.eval_samples)
    return 0 if saved else 1


def load_models(config: Config, resumed: Path | None, device: torch.device) -> tuple[torch.nn.Module, Callable | None]:
    """The policy, and what gives the reference within a `with`: the base, also after a resume; None where beta is 0.

    With LoRA the policy is the base under an adapter, and the reference is the policy with its adapter off.
    """
    precision = compute_dtype(config.dtype, device)
    if config.lora_rank:
        policy = load_model(config.model, dtype=precision, device=device)
        lora.add_adapter(
            policy, config.model, config.lora_rank, config.lora_alpha, config.lora_targets, config.seed, resumed
        )
        return policy, partial(lora.adapter_off, policy) if config.beta else None
    policy = load_model(str(resumed or config.model), compute=precision, device=device)
    if config.freeze_vision:
        freeze_vision(policy)
    if not config.beta:
        return policy, None
    return policy, partial(nullcontext, load_model(config.model, dtype=precision, device=device))


def logprobs_before(config: Config, policy, reference, rollout: Rollout) -> tuple[Tensor, Tensor | None]:
    """Token log-probs before the update [B, T]: of the policy (old) and of the reference, at the rollout's temperature.

    With one update per rollout the sampler's own log-probs are the policy's: they are of the whole softmax at the sampling
    temperature, before top-p. With several updates the trainer scores them itself, so that a ratio differs from 1 by
    training alone.
    """
    several_updates = 0 < config.minibatch_questions < config.questions
    old = score_all(policy, rollout, config.tokens_per_forward) if several_updates else rollout.logprobs
    if reference is None:
        return old, None
    with reference() as base:
        return old, score_all(base, rollout, config.tokens_per_forward)


def set_learning_rate(optimizer, config: Config, step: int) -> None:
    """Linear warm-up, then constant."""
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    for group in optimizer.param_groups:
        group["lr"] = config.lr * warmup


def questions_of_each_update(config: Config, world: World) -> list[list[int]]:
    """Places in this rank's share, consecutive. Questions are dealt to ranks in turn, so that for any number of ranks the
    same questions meet in one update."""
    per_update = (config.minibatch_questions or config.questions) // world.size
    count = config.questions // world.size
    return [list(range(i, i + per_update)) for i in range(0, count, per_update)]


def accumulate_gradients(config: Config, world: World, policy, batch: LossInputs, meter: Meter) -> None:
    """Gradients of one optimiser batch's loss, in as many forwards as the token budget needs. No collective but one count."""
    lengths, G = batch.rollout.lengths, config.group_size
    tokens = int(world.sum(lengths.sum().clone()))
    sequences = len(lengths) * world.size
    # the divisors of the whole batch are fixed before anything is split or left out
    if config.aggregate == "bnpo":
        # blocks are cut from the whole batch in the order of its questions, which were dealt to ranks in turn
        everywhere = world.gather(lengths).view(world.size, -1, G).transpose(0, 1)  # [questions, ranks, G]
        divisors = bnpo_divisors(everywhere.flatten(), config.bnpo_sequences).view_as(everywhere)
        divisor = divisors[:, world.rank].flatten()  # [B]
    else:
        divisor = loss_denominator(config.aggregate, sequences, tokens, config.max_new_tokens)
    questions = list(range(len(lengths) // G))
    if not config.beta:  # without a KL term a group of equal rewards has no gradient: not computed at all
        questions = [q for q in questions if bool(batch.advantages[q * G : (q + 1) * G].any())]

    policy.zero_grad()
    policy.train()
    total = 0.0
    for micro_questions in micro_batches(batch.rollout, questions, config.tokens_per_forward):
        micro = batch.select(micro_questions)
        logprobs, entropy = score(policy, micro.rollout, with_entropy=True)  # [b, T]
        rows = [q * G + g for q in micro_questions for g in range(G)]
        loss, metrics = grpo_loss(
            logprobs,
            micro.old_logprobs,
            micro.ref_logprobs,
            micro.advantages,
            micro.rollout.mask,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            dual_clip=config.dual_clip or None,
            beta=config.beta,
            kl=config.kl,
            kl_clamp=config.kl_clamp or None,
            aggregate=config.aggregate,
            ratio=config.ratio,
            denominator=divisor[rows] if isinstance(divisor, Tensor) else divisor,
        )
        loss.backward()
        total += float(loss.detach())
        n = int(micro.rollout.lengths.sum())
        meter.add(n, entropy=float(entropy.sum()) / n, **metrics)
    policy.eval()
    meter.add(loss=total * world.size)


def apply_gradients(config: Config, world: World, policy, optimizer, meter: Meter) -> bool:
    """Sums gradients over ranks, clips, steps. False, on every rank alike, where they are not finite: no step is taken."""
    world.sum_gradients(policy)
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
    if not torch.isfinite(norm):
        policy.zero_grad()
        return False
    meter.add(grad_norm=norm)
    optimizer.step()
    policy.zero_grad()  # the next rollout may have their memory
    return True


# --- Around the loop ---------------------------------------------------------------------------------------------


def load_held_out(config: Config, processor: Processor) -> list[Example]:
    if not config.eval_data:
        return []
    examples, skipped = labelled(
        load(config.eval_data, config.eval_split, labels=True), processor, config.max_prompt_tokens, config.instruction
    )
    if skipped:
        print(f"--eval_data {config.eval_data}: skipped {len(skipped)} rows, the first: {skipped[0]}", file=sys.stderr)
    if not examples:
        raise DataError(f"--eval_data {config.eval_data}: no usable labelled question")
    return examples


def evaluation_is_due(config: Config, step: int) -> bool:
    return step in (0, config.steps) or bool(config.eval_every) and step % config.eval_every == 0


def measure(config: Config, world: World, policy, processor, held_out: list[Example], run: RunLog, step: int) -> None:
    """Figures on labelled held-out questions: shown and logged, part of no reward. The base and the end use all of them."""
    whole = step in (0, config.steps)
    examples = held_out if whole else held_out[: config.eval_questions or None]
    records = evaluate(
        policy, processor, world.my_part(examples), config.eval_samples, config.max_new_tokens, config.temperature,
        config.top_p, config.seed, config.instruction,
    )  # fmt: skip
    run.evaluation(step, report(world.gather_json(records), config.eval_samples), config.eval_samples)


def save(config: Config, world: World, run: RunLog, policy, processor, optimizer, state: dict) -> bool:
    """A checkpoint of this step. A full disk is said, and training goes on with the last good one kept."""
    ok = True
    if world.is_main:
        try:
            save_checkpoint(run.checkpoints / f"step-{state['step']}", policy, processor, optimizer, state, config.keep)
        except OSError as error:
            kept = latest_checkpoint(run.checkpoints)
            message = f"warning: step {state['step']} was not saved ({error}); the last checkpoint is {kept}"
            tqdm.write(message, file=sys.stderr)
            ok = False
    world.wait()
    return ok


def parse_config(argv: list[str]) -> Config:
    """Flags over a preset's values over the defaults; with --resume, flags over the run's own saved values."""
    out = cli.value_of(argv, "--out")
    resume = any(word.split("=")[0] == "--resume" for word in argv)
    saved = saved_config(out) if resume and out else {}  # a flag may only be right beside the run's own
    config = cli.parse(Config, argv, PRESETS, defaults=saved | {"resume": False})
    if not config.resume:
        config.out = config.out or time.strftime("runs/%Y%m%d-%H%M%S")
        return config
    fixed = ("model", "train_data", "seed", "questions")  # these decide which question and draw come next
    for name in (*fixed, "lora_rank", "lora_alpha", "lora_targets"):  # and these what the checkpoint's weights mean
        if getattr(config, name) != saved.get(name, getattr(config, name)):
            raise cli.UsageError(f"--{name} was {saved[name]!r} in {config.out} and can't change on --resume")
    return config


def main(argv: list[str]) -> int:
    config = parse_config(argv)
    world = distributed.start()
    keep_freed_memory()
    try:
        per_update = config.minibatch_questions or config.questions
        if per_update % world.size:
            raise cli.UsageError(
                f"questions per update ({per_update}) must be a multiple of the {world.size} processes"
            )
        config.out = world.gather_json([config.out])[0]  # its default holds the time of day
        return train(config, world)
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        print(f"error: --out {config.out}: {error}; continue with --resume once that is mended", file=sys.stderr)
        return 1
    finally:
        cli.release()
        gc.unfreeze()
        distributed.stop()


if __name__ == "__main__":
    cli.run(main)
