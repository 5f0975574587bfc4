"""MM-UPT: a vision-language model teaches itself by agreeing with its own majority.

    torchrun mmupt.py                                          the built-in run: no data, no download, a CPU is enough
    torchrun --nproc_per_node 8 mmupt.py --model Qwen/Qwen2.5-VL-7B-Instruct --train_data questions.jsonl --preset mm-upt

For each unlabelled question the model samples G answers. The commonest answer is the pseudo-label, agreeing with it earns
reward 1, and the policy is updated by GRPO: the clipped objective on group-normalised rewards, with a KL term to the frozen
base. The method is arXiv 2505.22453; GRPO is arXiv 2402.03300. This file is the whole algorithm; what it needs of a model is
in model_utils.py.

Left out: sharded training, LoRA, curricula, asynchronous rollouts.
"""

import random
import sys
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

import cli
import distributed
from data import DataError, Example, load
from data.answers import extract_answer, option_key
from data.prompts import INSTRUCTION
from data.stream import Questions
from distributed import World
from eval import evaluate, labelled, report, table
from model_utils import (
    Encoded,
    Rollout,
    generate,
    latest_checkpoint,
    load_checkpoint,
    load_model,
    load_processor,
    micro_batches,
    save_checkpoint,
    score,
    score_all,
)
from run_log import Meter, RunLog, StopSignal

HOME = Path(__file__).parent


def flag(default, help):
    return field(default=default, metadata={"help": help})


@dataclass
class Config:
    # what is trained, on what
    preset: str = flag("", "named settings: " + "mm-upt is the paper's code; flags given beside it win")
    model: str = flag(str(HOME / "data" / "tiny"), "checkpoint folder or hub id")
    train_data: str = flag("tiny", "tiny, or a .jsonl file; answers in it are not read")
    eval_data: str = flag("tiny", "labelled questions to measure on, or an empty string for none")
    eval_split: str = flag("test", "split of the evaluation data, where it has several")
    out: str = flag("", "run folder; empty is runs/ and the time")
    resume: bool = flag(False, "continue from the latest whole checkpoint in --out")
    seed: int = flag(0, "seed of the order of questions and of the sampling")
    # how long
    steps: int = flag(100, "rollout steps")
    questions: int = flag(32, "questions per step (P), over all processes")
    group_size: int = flag(8, "samples per question (G)")
    minibatch_questions: int = flag(0, "questions per update; 0 is all: one update per rollout")
    # optimiser
    lr: float = flag(1e-4, "AdamW learning rate")
    warmup_steps: int = flag(10, "steps of linear warm-up")
    weight_decay: float = flag(0.01, "AdamW weight decay")
    max_grad_norm: float = flag(1.0, "gradients are clipped to this norm")
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
    dual_clip: float = flag(0.0, "bound on ratio * |A| / |A| where A < 0; 0 is none")
    aggregate: Literal["grpo", "dapo", "bnpo", "dr_grpo"] = flag("grpo", "how token losses are averaged")
    bnpo_sequences: int = flag(4, "sequences per micro-batch mean of aggregate bnpo")
    ratio: Literal["token", "sequence"] = flag("token", "importance ratio per token, or per sequence (GSPO)")
    # sampling
    temperature: float = flag(1.0, "sampling temperature, also of every log-prob")
    top_p: float = flag(1.0, "nucleus sampling; 1 is off")
    max_new_tokens: int = flag(48, "longest response")
    max_prompt_tokens: int = flag(1024, "longer questions are skipped and counted, never cut")
    min_pixels: int = flag(0, "smaller images are enlarged to this; 0 is the checkpoint's own")
    max_pixels: int = flag(0, "larger images are shrunk to this; 0 is the checkpoint's own")
    instruction: str = flag(INSTRUCTION, "appended to every question")
    # memory
    tokens_per_forward: int = flag(16384, "tokens of one forward of an update")
    gradient_checkpointing: bool = flag(False, "recompute activations in the backward pass")
    # logging
    eval_every: int = flag(25, "steps between evaluations; 0: only the base and the end")
    eval_questions: int = flag(256, "questions per evaluation; 0 is all; the base and the end use all")
    eval_samples: int = flag(8, "samples per question in evaluations")
    save_every: int = flag(25, "steps between checkpoints; 0: only at the end")
    keep: int = flag(2, "checkpoints kept; 0 is all")
    log_questions: int = flag(2, "questions per step whose responses go to rollouts.jsonl")

    def __post_init__(self):
        def require(ok: bool, name: str, what: str):
            if not ok:
                raise cli.UsageError(f"--{name} must be {what} (got {getattr(self, name)})")

        for name in ("steps", "questions", "max_new_tokens", "max_prompt_tokens", "tokens_per_forward"):
            require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("bnpo_sequences", "eval_samples"):
            require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("eval_every", "eval_questions", "save_every", "keep", "log_questions", "warmup_steps"):
            require(getattr(self, name) >= 0, name, "0 or more")
        for name in ("beta", "kl_clamp", "weight_decay", "clip_high", "min_pixels", "max_pixels", "lr"):
            require(getattr(self, name) >= 0, name, "0 or more")
        if self.group_size < 2:
            raise cli.UsageError(f"--group_size must be at least 2 (got {self.group_size}): a vote needs company")
        require(0 <= self.clip_low <= 1, "clip_low", "between 0 and 1")
        require(0 <= self.min_share <= 1, "min_share", "between 0 and 1")
        require(self.dual_clip == 0 or self.dual_clip > 1, "dual_clip", "0 or above 1")
        require(self.temperature > 0, "temperature", "above 0")
        require(0 < self.top_p <= 1, "top_p", "above 0 and at most 1")
        require(self.max_grad_norm > 0, "max_grad_norm", "above 0")
        per_update = self.minibatch_questions or self.questions
        require(
            self.minibatch_questions >= 0 and self.questions % per_update == 0,
            "minibatch_questions", f"0 or a divisor of --questions {self.questions}",
        )  # fmt: skip
        require(not self.resume or self.out != "", "resume", "given together with --out")


PRESETS = {
    # the paper's code to the letter, with what it gets wrong: METHOD section 2
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


def published_vote(raw: Sequence[str | None]) -> Vote:
    """The vote of the paper's code, for comparison: identical strings vote, an unparsed answer votes as the string "None",
    and a tie goes to the first seen."""
    counts = Counter("None" if a is None else a for a in raw)
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
    denominator: float | None = None,
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
        bnpo     (sum l m / sum m) / denominator                denominator: micro-batches of the optimiser batch
    Without a denominator these rows are the whole optimiser batch. With the whole batch's denominator the parts of any
    split sum to the loss of the whole (bnpo alone depends on the split: it is a mean of means).

    logprobs, old_logprobs, ref_logprobs, mask [B, T]; advantages [B]. ref_logprobs may be None where beta is 0. Whatever
    stands under the mask, NaN included, changes neither value nor gradient.
    Returns (scalar, token means: clipfrac, clip_low, clip_high, approx_kl, kl).
    """
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
    rho = log_ratio.exp()
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
        denominator = loss_denominator(aggregate, len(mask), int(lengths.sum()), max_new_tokens, 1)
    if aggregate == "grpo":
        total = (losses.sum(1) / lengths.clamp(min=1)).sum()
    elif aggregate == "bnpo":
        total = losses.sum() / lengths.sum().clamp(min=1)
    else:
        total = losses.sum()

    with torch.no_grad():
        low = (rho < 1 - clip_low) & (A < 0) & mask
        high = (rho > 1 + clip_high) & (A > 0) & mask
        tokens = lengths.sum().clamp(min=1)
        per_token = {
            "clip_low": low,
            "clip_high": high,
            "clipfrac": low | high,
            "approx_kl": (rho - 1 - log_ratio).where(mask, 0.0),
            "kl": penalty.where(mask, 0.0),
        }
        metrics = {name: float(value.sum() / tokens) for name, value in per_token.items()}
    return total / denominator, metrics


def loss_denominator(
    aggregate: str, sequences: int, tokens: int, max_new_tokens: int | None, micro_batches: int
) -> float:
    """The divisor of a whole optimiser batch, for each aggregation of grpo_loss."""
    if aggregate == "dr_grpo" and max_new_tokens is None:
        raise ValueError("aggregate dr_grpo needs max_new_tokens")
    divisors = {
        "grpo": sequences,
        "dapo": tokens,
        "bnpo": micro_batches,
        "dr_grpo": sequences * (max_new_tokens or 0),
    }
    if aggregate not in divisors:
        raise ValueError(f"aggregate must be {', '.join(divisors)} (got {aggregate})")
    return max(divisors[aggregate], 1)


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
        keys = [option_key(a, question.choices) for a in raw]  # canonical forms
        if config.vote == "published":
            vote = published_vote(raw)
            winner = None if vote.winner == "None" else option_key(vote.winner, question.choices)
            agree = [key == winner for key in keys]
        else:
            vote = majority_vote(keys, config.min_share)
            agree = [vote.winner is not None and key == vote.winner for key in keys]
        if config.reward == "gold":
            agree = [key is not None and key == gold[question.id] for key in keys]
        elif config.reward == "format":
            agree = [key is not None for key in keys]
        elif config.reward == "random":
            rng = random.Random(f"reward {config.seed} {step} {question.id}")
            agree = [rng.random() < 0.5 for _ in keys]
        answers.append(keys)
        votes.append(vote)
        rewards.append([float(a) for a in agree])
    return Judged(answers, votes, torch.tensor(rewards))


# --- The loop ----------------------------------------------------------------------------------------------------

MAX_SKIPPED = 5  # updates in a row that may be skipped for a non-finite gradient


def train(config: Config, world: World) -> int:
    """Runs the whole training; returns the process's exit status."""
    checkpoints = Path(config.out) / "checkpoints"
    resumed = latest_checkpoint(checkpoints) if config.resume else None
    if checkpoints.exists() and any(checkpoints.iterdir()) and not config.resume:
        raise cli.UsageError(f"--out {config.out} holds a run already: add --resume, or name another folder")

    processor = load_processor(config.model, config.min_pixels, config.max_pixels)
    policy = load_model(str(resumed or config.model), device=world.device)
    # the reference is the base, also after a resume; not loaded at all where it has no weight
    reference = load_model(config.model, device=world.device).requires_grad_(False) if config.beta else None
    if config.gradient_checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(policy.parameters(), config.lr, betas=(0.9, 0.999), weight_decay=config.weight_decay)
    state = load_checkpoint(resumed, policy, optimizer) if resumed else {"step": 0, "skipped_updates": 0}

    questions = Questions(
        config.train_data, processor, config.seed, config.max_prompt_tokens, config.instruction, config.reward == "gold"
    )
    questions.position, questions.bad_rows, questions.too_long = state.get("questions", (0, 0, 0))
    held_out = load_held_out(config)
    note = (f"resumed from {resumed}" if resumed else "nothing to resume: starting anew") if config.resume else ""
    run, stop = RunLog(asdict(config), world, state["step"], note), StopSignal()
    reports, saved, skipped_in_a_row = {}, True, 0
    if held_out and not resumed:
        reports["base"] = measure(config, world, policy, processor, held_out, run, 0)

    for step in run.steps(config.steps):
        with run.stage("data"):
            mine = world.share(questions.next(config.questions))  # no answer is in them
            prompts = processor.collate(mine, world.device)
        with run.stage("rollout"):
            rollout = generate(
                policy, processor, prompts, config.group_size, config.max_new_tokens, config.temperature, config.top_p,
                config.seed, step, progress="rollout" if world.is_main else None,
            )  # fmt: skip
        with run.stage("reward"):
            texts = rollout.texts(processor)
            judged = judge(texts, mine, config, questions.gold, step)  # answers, votes, rewards
            advantages = group_advantages(judged.rewards, config.scale).flatten().to(world.device)  # [B]
        with run.stage("score"):
            old, ref = scores_before(config, policy, reference, rollout)  # [B, T] each
        with run.stage("update"):
            lr = config.lr * (min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0)
            for part in minibatches(config, world):
                updated = update(config, world, policy, optimizer, lr, rollout, old, ref, advantages, part, run.meter)
                skipped_in_a_row = 0 if updated else skipped_in_a_row + 1
                state["skipped_updates"] += not updated
                if skipped_in_a_row == MAX_SKIPPED:
                    raise Diverged(
                        f"{MAX_SKIPPED} updates in a row had no finite gradient, up to step {step + 1}; "
                        f"the last checkpoint is {latest_checkpoint(checkpoints)}"
                    )
        counts = (questions.position, questions.bad_rows, questions.too_long)
        state |= {"step": step + 1, "questions": counts}
        stopping, last = stop.anywhere(world), step + 1 == config.steps
        extra = {"lr": lr, "bad_rows": counts[1], "too_long": counts[2], "skipped_updates": state["skipped_updates"]}
        run.step(step + 1, mine, texts, judged, rollout, extra)
        if stopping or last or (config.save_every and (step + 1) % config.save_every == 0):
            saved = save(config, world, checkpoints, policy, processor, optimizer, state)
        if stopping:
            break
        if held_out and (last or (config.eval_every and (step + 1) % config.eval_every == 0)):
            some = held_out if last else held_out[: config.eval_questions or None]
            reports["trained"] = measure(config, world, policy, processor, some, run, step + 1)

    stop.restore()
    if world.is_main and state["step"] == config.steps and len(reports) == 2:
        print("\nheld-out questions, base beside trained\n" + table(reports, config.eval_samples), flush=True)
    return 0 if saved else 1


def scores_before(config: Config, policy, reference, rollout: Rollout) -> tuple[Tensor, Tensor | None]:
    """Token log-probs before the update [B, T]: of the policy (old) and of the reference.

    With one update per rollout the sampler's own log-probs are the policy's. With several, the trainer scores them itself,
    so that a ratio differs from 1 by training alone.
    """
    several = 0 < config.minibatch_questions < config.questions
    old = score_all(policy, rollout, config.tokens_per_forward) if several else rollout.logprobs
    ref = score_all(reference, rollout, config.tokens_per_forward) if reference is not None else None
    return old, ref


def minibatches(config: Config, world: World) -> list[list[int]]:
    """Each update's questions, as places in this rank's share. The same questions meet in one update for any world size."""
    per_update = (config.minibatch_questions or config.questions) // world.size
    count = config.questions // world.size
    return [list(range(i, i + per_update)) for i in range(0, count, per_update)]


def update(
    config: Config, world: World, policy, optimizer, lr: float, rollout: Rollout, old: Tensor, ref: Tensor | None,
    advantages: Tensor, questions: list[int], meter: Meter,
) -> bool:  # fmt: skip
    """One optimiser step on these questions of this rank; False where it was skipped for a non-finite gradient."""
    G = config.group_size
    rows = [q * G + g for q in questions for g in range(G)]
    tokens = int(world.sum(rollout.lengths[rows].sum().clone()))
    sequences = len(rows) * world.size
    denominator = loss_denominator(
        config.aggregate, sequences, tokens, config.max_new_tokens, -(-sequences // config.bnpo_sequences)
    )
    if not config.beta:  # without a KL term a group of equal rewards has no gradient: not computed at all
        questions = [q for q in questions if bool(advantages[q * G : (q + 1) * G].any())]

    optimizer.zero_grad()
    policy.train()
    for part in micro_batches(rollout, questions, config.tokens_per_forward):
        rows = [q * G + g for q in part for g in range(G)]
        mini = rollout.select(part)
        logprobs, entropy = score(policy, mini, with_entropy=True)  # [b, T]
        # bnpo's mean is over a set number of sequences, however many a forward holds
        width = config.bnpo_sequences if config.aggregate == "bnpo" else len(rows)
        loss = 0.0
        for i in range(0, len(rows), width):
            some = slice(i, i + width)
            here = torch.tensor(rows[some], device=world.device)
            piece, metrics = grpo_loss(
                logprobs[some],
                old[here, : logprobs.shape[1]],
                None if ref is None else ref[here, : logprobs.shape[1]],
                advantages[here],
                mini.mask[some],
                clip_low=config.clip_low,
                clip_high=config.clip_high,
                dual_clip=config.dual_clip or None,
                beta=config.beta,
                kl=config.kl,
                kl_clamp=config.kl_clamp or None,
                aggregate=config.aggregate,
                ratio=config.ratio,
                denominator=denominator,
                max_new_tokens=config.max_new_tokens,
            )
            loss = loss + piece
            meter.add(int(mini.lengths[some].sum()), **metrics)
        loss.backward()
        meter.add(int(mini.lengths.sum()), entropy=entropy.sum() / mini.lengths.sum())
        meter.add(loss=loss.detach() * world.size)
    policy.eval()
    world.sum_gradients(policy)
    grad_norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
    meter.add(grad_norm=grad_norm)
    if not torch.isfinite(grad_norm):
        optimizer.zero_grad()
        return False
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return True


class Diverged(RuntimeError):
    """Too many updates in a row had no finite gradient."""


# --- Around the loop ---------------------------------------------------------------------------------------------


def load_held_out(config: Config) -> list[Example]:
    if not config.eval_data:
        return []
    examples, skipped = labelled(load(config.eval_data, config.eval_split, labels=True))
    if skipped:
        print(f"--eval_data {config.eval_data}: skipped {len(skipped)} rows, the first: {skipped[0]}", file=sys.stderr)
    if not examples:
        raise DataError(f"--eval_data {config.eval_data}: no usable labelled question")
    return examples


def measure(config: Config, world: World, policy, processor, examples: list[Example], run: RunLog, step: int) -> dict:
    """Figures on labelled held-out questions: shown and logged, part of no reward. The main process works, the rest wait."""
    result = {}
    if world.is_main:
        records = evaluate(
            policy, processor, examples, config.eval_samples, config.max_new_tokens, config.temperature, config.top_p,
            config.seed, config.max_prompt_tokens, config.instruction,
        )  # fmt: skip
        result = report(records, config.eval_samples)
        run.evaluation(step, result, config.eval_samples)
    world.wait()
    return result


def save(config: Config, world: World, checkpoints: Path, policy, processor, optimizer, state: dict) -> bool:
    """A checkpoint of this step. A full disk is said, and training goes on with the last good one kept."""
    ok = True
    if world.is_main:
        try:
            save_checkpoint(checkpoints / f"step-{state['step']}", policy, processor, optimizer, state, config.keep)
        except OSError as error:
            kept = latest_checkpoint(checkpoints)
            tqdm.write(
                f"warning: step {state['step']} was not saved ({error}); the last checkpoint is {kept}", sys.stderr
            )
            ok = False
    world.wait()
    return ok


def main(argv: list[str]) -> int:
    config = cli.parse(Config, argv, PRESETS)
    config.out = config.out or time.strftime("runs/%Y%m%d-%H%M%S")
    world = distributed.start()
    try:
        per_update = config.minibatch_questions or config.questions
        if per_update % world.size:
            raise cli.UsageError(
                f"questions per update ({per_update}) must be a multiple of the {world.size} processes"
            )
        return train(config, world)
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: --out {config.out}: {error}; continue with --resume once there is room", file=sys.stderr)
        return 1
    finally:
        distributed.stop()


if __name__ == "__main__":
    cli.run(main)
