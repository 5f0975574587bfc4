"""MM-UPT: a vision-language model teaches itself by agreeing with its own majority.

    torchrun mmupt.py                                          the built-in run: no data, no download, a CPU is enough
    torchrun --nproc_per_node 8 mmupt.py --model Qwen/Qwen2.5-VL-3B-Instruct --train_data mine.jsonl
    --preset mm-upt

For each unlabelled question the model samples G answers. The commonest answer is the pseudo-label,
agreeing with it earns reward 1, and the policy is updated by GRPO: the clipped objective on
group-normalised rewards, with a KL term to the frozen base. The method is arXiv 2505.22453; GRPO is
arXiv 2402.03300. This file is the whole algorithm: the mathematics, the settings, the loop. What it
needs of a model is in model_utils.py.

Left out: sharded training, curricula, asynchronous rollouts.
"""

import gc
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

import model_utils
from answers import extract_answer, option_key
from common import cli, distributed, files
from common.cli import flag
from common.distributed import World
from common.errors import DataError, UsageError
from common.run_log import DISK_ERRORS, Meter, RunLog, StopSignal, saved_config
from data import TINY, load
from data.prompts import INSTRUCTION
from data.stream import Questions
from evaluation.answering import Decoding, evaluate, labelled
from evaluation.metrics import report, table
from model import lora
from model_utils import (
    Encoded,
    Processor,
    Rollout,
    generate,
    latest_checkpoint,
    load_checkpoint,
    load_model,
    load_processor,
    micro_batches,
    rollout_logprobs,
    save_checkpoint,
    token_logprobs,
)

# --- The algorithm: pure functions ----------------------------------------------------------------


class Vote(NamedTuple):
    winner: Hashable | None  # the pseudo-label; None: the group abstains
    share: float  # of all answers, unparsed ones included, for the commonest answer
    counts: Counter


def majority_vote(answers: Sequence[Hashable | None], min_share: float = 0.0) -> Vote:
    """Pseudo-label y* = argmax_y sum_i [y_i = y]   (arXiv 2505.22453, section 3).

    `answers` are canonical forms, so that equal answers in different notation vote together. None,
    an answer that did not parse, never votes. No parsed answer, a tie for first, or a share below
    `min_share`: the winner is None.
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
    """The vote of the paper's code, for comparison: identical strings vote, an unparsed answer
    votes as the string "None", and a tie goes to the first seen."""
    counts = Counter(UNPARSED if a is None else a for a in raw)
    winner, most = counts.most_common(1)[0]
    return Vote(winner, most / len(raw), counts)


def group_advantages(rewards: Tensor, scale: str = "std", eps: float = 1e-6) -> Tensor:
    """A_i = (r_i - mean(r)) / (std(r) + eps) within each group, ddof 1; scale "none": A_i = r_i -
    mean(r).

    rewards [P, G] -> [P, G] float32. A group of equal rewards is exactly 0 (its float mean need not
    equal its members).
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards must be [P, G] with G at least 2 (got {list(rewards.shape)})")
    if scale not in SCALES:
        raise ValueError(f"scale must be std or none (got {scale})")
    rewards = rewards.float()
    advantages = rewards - rewards.mean(1, keepdim=True)
    if scale == "std":
        advantages = advantages / (rewards.std(1, keepdim=True) + eps)
    return advantages.masked_fill((rewards == rewards[:, :1]).all(1, keepdim=True), 0.0)


SCALES = ("std", "none")


def kl_penalty(logprobs: Tensor, ref_logprobs: Tensor, kind: str = "k3") -> Tensor:
    """Per-token estimate of KL(policy || reference) from sampled tokens, in nats; d = logprobs -
    ref_logprobs.

    k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d   (Schulman 2020, "Approximating KL divergence").
    All three have the right mean or nearly so. As loss terms they differ: the expected gradient of
    k1 is 0, of k2 that of the reverse KL(policy || reference), of k3 that of the forward
    KL(reference || policy).
    """
    if kind not in KL:
        raise ValueError(f"kl must be k1, k2 or k3 (got {kind})")
    return KL[kind](logprobs - ref_logprobs)


KL: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda d: d,
    "k2": lambda d: d.square() / 2,
    "k3": lambda d: (
        torch.expm1(-d.clamp(-20, 20)) + d.clamp(-20, 20)
    ),  # beyond e^20 it is an overflow, no estimate
}


def log_ratios(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, ratio: str = "token") -> Tensor:
    """log rho_t [B, T]: logp_t - old_t of each token, or "sequence": its mean over the sequence,
    for every token of it (GSPO, arXiv 2507.18071)."""
    if ratio not in RATIOS:
        raise ValueError(f"ratio must be token or sequence (got {ratio})")
    difference = logprobs - old_logprobs
    if ratio == "token":
        return difference
    return (difference.sum(1) / mask.sum(1).clamp(min=1))[:, None].expand_as(difference)


RATIOS = ("token", "sequence")


def clipped_objective(
    rho: Tensor, A: Tensor, clip_low: float, clip_high: float, dual_clip: float | None
) -> Tensor:
    """min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), and with dual_clip c at least c A where
    A < 0 (arXiv 1912.09729). rho [B, T], A [B, 1]."""
    objective = torch.minimum(rho * A, rho.clamp(1 - clip_low, 1 + clip_high) * A)
    return torch.where(A < 0, torch.maximum(objective, dual_clip * A), objective) if dual_clip else objective


BNPO_BLOCK = 4  # sequences whose tokens aggregate bnpo averages over: the micro-batch of the paper's code


def sequence_divisors(
    lengths: Tensor, aggregate: str = "grpo", max_new_tokens: int | None = None, block: int = BNPO_BLOCK
) -> Tensor:
    """lengths [B] of all responses of the optimiser batch -> [B] float32, by what each one's summed
    loss is divided.

    The loss is sum_i (sum_t l_it m_it) / divisor_i, so any split of the batch into forwards sums to
    the same.
        grpo     B |o_i|                          a mean over tokens, then over sequences
        dapo     sum_j |o_j|                      a mean over all tokens
        dr_grpo  B max_new_tokens                 a sum over tokens, at constant length
        bnpo     (tokens of i's block) * blocks   a mean over blocks of consecutive sequences, each a mean over tokens
    """
    if aggregate not in DIVISORS:
        raise ValueError(f"aggregate must be {', '.join(DIVISORS)} (got {aggregate})")
    if aggregate == "dr_grpo" and max_new_tokens is None:
        raise ValueError("aggregate dr_grpo needs max_new_tokens")
    return DIVISORS[aggregate](lengths, max_new_tokens, block).expand_as(lengths).clamp(min=1).float()


def block_divisors(lengths: Tensor, block: int) -> Tensor:
    of = torch.arange(len(lengths), device=lengths.device) // block  # the last block may be smaller
    blocks = int(of[-1]) + 1
    tokens = torch.zeros(blocks, dtype=lengths.dtype, device=lengths.device).scatter_add_(0, of, lengths)
    return tokens[of] * blocks


DIVISORS: dict[str, Callable[[Tensor, int | None, int], Tensor]] = {
    "grpo": lambda lengths, most, block: len(lengths) * lengths.clamp(min=1),
    "dapo": lambda lengths, most, block: lengths.sum(),
    "dr_grpo": lambda lengths, most, block: torch.full_like(lengths, len(lengths) * most),
    "bnpo": lambda lengths, most, block: block_divisors(lengths, block),
}


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

        l_t  = -min(rho_t A, clip(rho_t, 1 - clip_low, 1 + clip_high) A) + beta KL_t,    rho_t = exp(logp_t - old_t)
        loss = sum_i (sum_t l_it m_it) / divisor_i                                       m the mask

    logprobs, old_logprobs, ref_logprobs, mask [B, T]; advantages [B]. ref_logprobs may be None
    where beta is 0. denominator: [B], from `sequence_divisors` of the whole optimiser batch; None:
    these rows are the whole batch (and one block of bnpo). A number: sequences (grpo), tokens
    (dapo), sequences * max_new_tokens (dr_grpo) or blocks (bnpo, of which these rows are one) of
    the whole batch. Whatever stands under the mask, NaN included, changes neither value nor
    gradient. Returns (scalar, token_means).
    """
    if not logprobs.shape == old_logprobs.shape == mask.shape or advantages.shape != mask.shape[:1]:
        shapes = ", ".join(str(list(x.shape)) for x in (logprobs, old_logprobs, mask, advantages))
        raise ValueError(f"logprobs, old_logprobs and mask must be [B, T] and advantages [B] (got {shapes})")
    if beta and ref_logprobs is None:
        raise ValueError("ref_logprobs is needed where beta is above 0")
    mask = mask.bool()
    # where() rather than a product: 0 * NaN is NaN, in the value and in the gradient
    logprobs, old_logprobs = logprobs.where(mask, 0.0), old_logprobs.where(mask, 0.0)
    A, lengths = advantages[:, None], mask.sum(1)  # [B, 1], [B]

    log_ratio = log_ratios(logprobs, old_logprobs, mask, ratio)
    rho = log_ratio.clamp(-20, 20).exp()  # an overflow would make the gradient of the whole batch NaN
    losses = -clipped_objective(rho, A, clip_low, clip_high, dual_clip)
    penalty = torch.zeros_like(losses)
    if ref_logprobs is not None:
        bound = kl_clamp or float("inf")
        penalty = kl_penalty(logprobs, ref_logprobs.where(mask, 0.0), kl).clamp(-bound, bound)
        losses = losses + beta * penalty

    divisors = denominator
    if denominator is None:
        divisors = sequence_divisors(lengths, aggregate, max_new_tokens, block=len(lengths))
    elif not isinstance(denominator, Tensor):
        own = {"grpo": lengths, "bnpo": lengths.sum()}.get(aggregate, torch.ones_like(lengths))
        divisors = denominator * own.clamp(min=1)
    loss = (losses.where(mask, 0.0).sum(1) / divisors).sum()
    return loss, token_means(rho, log_ratio, penalty, A, mask, clip_low, clip_high)


@torch.no_grad()
def token_means(rho, log_ratio, kl, A, mask, clip_low: float, clip_high: float) -> dict[str, float]:
    """Means over the tokens under the mask: how many were clipped, and the KL to the old policy and
    to the reference."""
    low = (rho < 1 - clip_low) & (A < 0)
    high = (rho > 1 + clip_high) & (A > 0)
    approx_kl = rho - 1 - log_ratio  # k3 of KL(old || policy), as CleanRL logs it
    values = {
        "clipped_low": low,
        "clipped_high": high,
        "clipfrac": low | high,
        "approx_kl": approx_kl,
        "kl": kl,
    }
    tokens = mask.sum().clamp(min=1)
    return {name: float(value.where(mask, 0).sum() / tokens) for name, value in values.items()}


# --- Rewards: one function each -------------------------------------------------------------------


class Group(NamedTuple):
    """The G responses to one question, read."""

    question: Encoded
    raw: list[str | None]  # what stands in each box
    keys: list[str | None]  # canonical forms; None where nothing parsed
    vote: Vote


def majority_reward(group: Group, **_) -> list[float]:
    """r_i = [y_i = y*], by meaning; where the group abstains nobody earns."""
    if group.vote.winner == UNPARSED:  # which only the published vote can elect
        return [float(a is None or a == UNPARSED) for a in group.raw]
    winner = option_key(group.vote.winner, group.question.choices)  # a key is its own key
    return [float(key is not None and key == winner) for key in group.keys]


def gold_reward(group: Group, gold: dict[str, str], **_) -> list[float]:
    """A control: agreeing with the label."""
    return [float(key is not None and key == gold[group.question.id]) for key in group.keys]


def format_reward(group: Group, **_) -> list[float]:
    """A control: any answer that parses."""
    return [float(key is not None) for key in group.keys]


def random_reward(group: Group, seed: int, step: int, **_) -> list[float]:
    """A control: a coin that depends on (seed, step, question) alone."""
    rng = random.Random(f"reward {seed} {step} {group.question.id}")
    return [float(rng.random() < 0.5) for _ in group.keys]


REWARDS: dict[str, Callable[..., list[float]]] = {
    "majority": majority_reward, "gold": gold_reward, "random": random_reward, "format": format_reward,
}  # fmt: skip
VOTES = ("sound", "published")


@dataclass
class RewardBatch:
    """What the reward stage made of a rollout's P x G responses."""

    answers: list[list[str | None]]  # canonical forms
    votes: list[Vote]
    rewards: Tensor  # [P, G]


def compute_rewards(
    texts: list[str], questions: Sequence[Encoded], config: "Config", gold: dict[str, str], step: int
) -> RewardBatch:
    """Responses -> answers, votes, rewards. `gold` is empty unless the control `--reward gold`
    asked for labels."""
    G, answers, votes, rewards = config.group_size, [], [], []
    for p, question in enumerate(questions):
        raw = [extract_answer(text) for text in texts[p * G : (p + 1) * G]]
        keys = [option_key(a, question.choices) for a in raw]
        vote = majority_vote(keys, config.min_share) if config.vote == "sound" else published_vote(raw)
        group = Group(question, raw, keys, vote)
        rewards.append(REWARDS[config.reward](group, gold=gold, seed=config.seed, step=step))
        answers.append(keys)
        votes.append(vote)
    return RewardBatch(answers, votes, torch.tensor(rewards))


# --- Settings -------------------------------------------------------------------------------------


@dataclass
class Config:
    preset: str = flag(
        "", "named settings: mm-upt is the paper's code; flags given beside it win", group="model and data"
    )
    model: str = flag(str(TINY), "checkpoint folder or hub id")
    train_data: list[str] = flag(
        ["tiny"], "tiny, .jsonl or .parquet files, folders of parquet files, hub ids"
    )
    eval_data: str = flag(
        "tiny", "labelled questions to measure on (SOURCE:SPLIT for another split), or an empty string"
    )
    out: str = flag("", "run folder; empty is runs/ and the time")
    resume: bool = flag(False, "continue from the latest whole checkpoint in --out")
    seed: int = flag(0, "seed of the order of questions and of the sampling")

    steps: int = flag(60, "rollout steps", "at least 1", group="length of the run")
    questions: int = flag(32, "questions per step (P), over all processes", "at least 1")
    group_size: int = flag(8, "samples per question (G)", "at least 2: a vote needs company")
    minibatch_questions: int = flag(0, "questions per update; 0 is all: one update per rollout", "0 or more")

    lr: float = flag(1e-4, "AdamW learning rate", "0 or more", group="optimiser")
    warmup_steps: int = flag(10, "steps of linear warm-up", "0 or more")
    weight_decay: float = flag(0.01, "AdamW weight decay", "0 or more")
    max_grad_norm: float = flag(1.0, "gradients are clipped to this norm", "above 0")
    freeze_vision: bool = flag(False, "train decoder and head alone, not the vision tower and its projector")
    lora_rank: int = flag(
        0, "train adapters of this rank (LoRA, through peft); 0: the weights themselves", "0 or more"
    )

    reward: str = flag(
        "majority",
        "majority needs no label; gold reads them; the rest are controls",
        choices=REWARDS,
        group="reward",
    )
    vote: str = flag(
        "sound", "published: raw strings and unparsed answers vote, ties to the first", choices=VOTES
    )
    min_share: float = flag(
        0.0, "abstain where the winner has less than this share of the group", "between 0 and 1"
    )
    scale: str = flag("std", "of advantages: divide them by the group's standard deviation", choices=SCALES)

    beta: float = flag(
        0.01, "weight of the KL term; at 0 no reference is loaded", "0 or more", group="objective"
    )
    kl: str = flag("k3", "KL estimator", choices=KL)
    kl_clamp: float = flag(0.0, "bound on the KL of a token; 0 is none", "0 or more, inf included")
    clip_low: float = flag(0.2, "the ratio is clipped below 1 - clip_low", "between 0 and 1")
    clip_high: float = flag(0.2, "the ratio is clipped above 1 + clip_high", "0 or more, inf included")
    dual_clip: float = flag(
        0.0, "bound on the ratio where the advantage is negative; 0 is none", "0 or above 1"
    )
    aggregate: str = flag("grpo", "how token losses are averaged", choices=DIVISORS)
    ratio: str = flag("token", "importance ratio per token, or per sequence (GSPO)", choices=RATIOS)

    temperature: float = flag(
        1.0, "sampling temperature, also of every log-prob", "above 0", group="sampling"
    )
    top_p: float = flag(1.0, "nucleus sampling; 1 is off", "above 0 and at most 1")
    max_new_tokens: int = flag(48, "longest response", "at least 1")
    max_prompt_tokens: int = flag(1024, "longer questions are skipped and counted, never cut", "at least 1")
    min_pixels: int = flag(0, "smaller images are enlarged to this; 0 is the checkpoint's own", "0 or more")
    max_pixels: int = flag(0, "larger images are shrunk to this; 0 is the checkpoint's own", "0 or more")
    instruction: str = flag(INSTRUCTION, "appended to every question as it stands, so it begins with a space")

    dtype: str = flag(
        "auto",
        "of matrix products, not of the trained weights; auto: bfloat16 on a GPU",
        choices=("auto", "float32", "bfloat16"),
        group="memory",
    )
    tokens_per_forward: int = flag(16384, "tokens of one forward of an update", "at least 1")
    gradient_checkpointing: bool = flag(False, "recompute activations in the backward pass")

    eval_every: int = flag(
        20,
        "steps between evaluations; 0: only the base and the end",
        "0 or more",
        group="evaluation and checkpoints",
    )
    eval_questions: int = flag(
        256, "questions per evaluation; 0 is all; the base and the end use all", "0 or more"
    )
    eval_samples: int = flag(8, "samples per question in evaluations", "at least 1")
    save_every: int = flag(20, "steps between checkpoints; 0: only at the end", "0 or more")
    keep: int = flag(2, "checkpoints kept; 0 is all", "0 or more")

    def __post_init__(self):
        cli.check(self)
        cli.check_pixels(self)
        cli.require(
            self,
            "min_share",
            self.vote == "sound" or not self.min_share,
            "0 with --vote published, which never abstains",
        )
        cli.require(self, "resume", not self.resume or self.out != "", "given together with --out")
        per_update = self.minibatch_questions or self.questions
        what = f"0 or a divisor of --questions {self.questions}" + self.by_preset("minibatch_questions")
        cli.require(self, "minibatch_questions", self.questions % per_update == 0, what)
        if self.out:
            files.check_out(self.out)

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
        aggregate="bnpo", vote="published", scale="std", gradient_checkpointing=True,
    ),
}  # fmt: skip


# --- The loop -------------------------------------------------------------------------------------

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
        rows = self.rollout.rows(questions)
        ref = None if self.ref_logprobs is None else self.ref_logprobs[rows]
        return LossInputs(self.rollout.select(questions), self.old_logprobs[rows], ref, self.advantages[rows])


def train(config: Config, world: World) -> int:
    """Runs the whole training; returns the process's exit status."""
    resumed = latest_checkpoint(Path(config.out) / "checkpoints") if config.resume else None
    run, stop = RunLog(asdict(config), world, resumed), StopSignal()
    processor = load_processor(config.model, config.min_pixels, config.max_pixels)
    policy, reference = load_models(config, resumed, world.device)
    optimizer = torch.optim.AdamW(
        [p for p in policy.parameters() if p.requires_grad],
        config.lr, betas=(0.9, 0.999), weight_decay=config.weight_decay, fused=True,
    )  # fmt: skip
    state = {"step": 0, "nonfinite_updates": 0, "stream": {}}
    if resumed:
        state = load_checkpoint(resumed, policy, optimizer)
        if state["step"] > config.steps:
            raise UsageError(f"--steps {config.steps}: {config.out} is at step {state['step']} already")
    stream = Questions(
        config.train_data, processor, config.seed, config.max_prompt_tokens, config.instruction,
        labels=config.reward == "gold", world=world, state=state["stream"],
    )  # fmt: skip
    held_out = load_held_out(config, processor)
    run.open(state["step"])
    gc.freeze()  # what is here stays: the garbage collector needn't look through it again and again

    nonfinite_in_a_row, saved = 0, True
    if not run.has_report(state["step"]):
        evaluate_and_log(config, world, policy, processor, held_out, run, state["step"])
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
            batch = compute_rewards(texts, my_questions, config, stream.gold, step)  # answers, votes, rewards
            advantages = group_advantages(batch.rewards, config.scale).flatten().to(world.device)  # [B]
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
        counts = {name: state["stream"][name] for name in ("bad_rows", "too_long")}
        counts |= {"nonfinite_updates": state["nonfinite_updates"], "lr": optimizer.param_groups[0]["lr"]}
        run.step(step + 1, my_questions, texts, batch, rollout, counts)

        stopping, last = stop.anywhere(world), step + 1 == config.steps
        if not stopping:
            evaluate_and_log(config, world, policy, processor, held_out, run, step + 1)
        if stopping or last or (config.save_every and (step + 1) % config.save_every == 0):
            saved = save(config, world, run, policy, processor, optimizer, state)
        if stopping:
            break

    stop.restore()
    stream.close()
    ends = [run.reports.get(step) for step in (0, config.steps)]
    figures = (
        table(dict(zip(("base", "trained"), ends, strict=True)), config.eval_samples) if all(ends) else ""
    )
    run.close(latest_checkpoint(run.checkpoints), figures)
    return 0 if saved else 1


def load_models(
    config: Config, resumed: Path | None, device: torch.device
) -> tuple[torch.nn.Module, Callable | None]:
    """The policy, and what gives the reference within a `with`: the base, also after a resume; None
    where beta is 0.

    With LoRA the policy is the base under an adapter, and the reference is the policy with its
    adapter off.
    """
    precision = model_utils.compute_dtype(config.dtype, device)
    reference: Callable | None
    if config.lora_rank:
        policy = load_model(config.model, dtype=precision, device=device)
        lora.add_adapter(policy, config.model, config.lora_rank, config.seed, resumed)
        reference = partial(lora.adapter_off, policy) if config.beta else None
    else:
        policy = load_model(str(resumed or config.model), compute=precision, device=device)
        base = load_model(config.model, dtype=precision, device=device) if config.beta else None
        reference = partial(nullcontext, base) if base is not None else None
    if config.freeze_vision:
        model_utils.freeze_vision(policy)
    if config.gradient_checkpointing:
        model_utils.recompute_activations(policy)
    return policy, reference


def logprobs_before(config: Config, policy, reference, rollout: Rollout) -> tuple[Tensor, Tensor | None]:
    """Token log-probs before the update [B, T]: of the policy (old) and of the reference, at the
    rollout's temperature.

    With one update per rollout the sampler's own log-probs are the policy's: they are of the whole
    softmax at the sampling temperature, before top-p. With several updates the trainer scores them
    itself, so that a ratio differs from 1 by training alone.
    """
    several_updates = 0 < config.minibatch_questions < config.questions
    old = (
        rollout_logprobs(policy, rollout, config.tokens_per_forward) if several_updates else rollout.logprobs
    )
    if reference is None:
        return old, None
    with reference() as base:
        return old, rollout_logprobs(base, rollout, config.tokens_per_forward)


def set_learning_rate(optimizer, config: Config, step: int) -> None:
    """Linear warm-up, then constant."""
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    for group in optimizer.param_groups:
        group["lr"] = config.lr * warmup


def questions_of_each_update(config: Config, world: World) -> list[list[int]]:
    """Places in this rank's share, consecutive. Questions are dealt to ranks in turn, so that for
    any number of ranks the same questions meet in one update."""
    per_update = (config.minibatch_questions or config.questions) // world.size
    count = config.questions // world.size
    return [list(range(i, i + per_update)) for i in range(0, count, per_update)]


def divisors_of_batch(config: Config, world: World, lengths: Tensor) -> Tensor:
    """sequence_divisors of the whole optimiser batch, of which `lengths` [B] is this rank's share
    -> [B]."""
    everywhere = world.gather(lengths).view(world.size, -1, config.group_size)
    in_order = everywhere.transpose(0, 1)  # [questions, ranks, G], as the questions were dealt
    divisors = sequence_divisors(in_order.flatten(), config.aggregate, config.max_new_tokens).view(
        in_order.shape
    )
    return divisors[:, world.rank].flatten()


def accumulate_gradients(config: Config, world: World, policy, batch: LossInputs, meter: Meter) -> None:
    """Gradients of one optimiser batch's loss, in as many forwards as the token budget needs. No
    collective but one."""
    divisors = divisors_of_batch(config, world, batch.rollout.lengths)  # before anything is split or left out
    G, groups = config.group_size, range(len(batch.rollout.prompts))
    # without a KL term a group of equal rewards has no gradient: not computed at all
    questions = [q for q in groups if config.beta or bool(batch.advantages[q * G : (q + 1) * G].any())]

    policy.zero_grad()
    policy.train()
    total = 0.0
    for micro_questions in micro_batches(batch.rollout, questions, config.tokens_per_forward):
        micro = batch.select(micro_questions)
        logprobs, entropy = token_logprobs(policy, micro.rollout, with_entropy=True)  # [b, T]
        loss, metrics = grpo_loss(
            logprobs, micro.old_logprobs, micro.ref_logprobs, micro.advantages, micro.rollout.mask,
            clip_low=config.clip_low, clip_high=config.clip_high, dual_clip=config.dual_clip or None,
            beta=config.beta, kl=config.kl, kl_clamp=config.kl_clamp or None, ratio=config.ratio,
            denominator=divisors[batch.rollout.rows(micro_questions)],
        )  # fmt: skip
        loss.backward()
        total += float(loss.detach())
        n = int(micro.rollout.lengths.sum())
        meter.add(n, entropy=float(entropy.sum()) / n, **metrics)
    policy.eval()
    meter.add(loss=total * world.size)  # the meter takes the mean over ranks, whose losses add up


def apply_gradients(config: Config, world: World, policy, optimizer, meter: Meter) -> bool:
    """Sums gradients over ranks, clips, steps. False, on every rank alike, where they are not
    finite: no step then."""
    world.sum_gradients(policy)
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
    finite = bool(torch.isfinite(norm))
    if finite:
        meter.add(grad_norm=norm)
        optimizer.step()
    policy.zero_grad()  # the next rollout may have their memory
    return finite


# --- Around the loop ------------------------------------------------------------------------------


def load_held_out(config: Config, processor: Processor) -> Sequence:
    if not config.eval_data:
        return ()
    source = load(config.eval_data, "test", labels=True)
    held_out, skipped = labelled(source, processor, config.max_prompt_tokens, config.instruction)
    if skipped:
        print(
            f"--eval_data {config.eval_data}: skipped {len(skipped)} rows, the first: {skipped[0]}",
            file=sys.stderr,
        )
    if not held_out:
        raise DataError(f"--eval_data {config.eval_data}: no usable labelled question")
    return held_out


def evaluate_and_log(
    config: Config, world: World, policy, processor, held_out: Sequence, run: RunLog, step: int
) -> None:
    """Where it is due: figures on labelled held-out questions, part of no reward. The base and the
    end use all of them."""
    whole = step in (0, config.steps)
    if not held_out or not (whole or config.eval_every and step % config.eval_every == 0):
        return
    examples = held_out if whole else held_out[: config.eval_questions or None]
    decoding = Decoding(
        config.eval_samples, config.max_new_tokens, config.temperature, config.top_p, config.seed
    )
    records = evaluate(policy, processor, world.my_part(examples), decoding, config.instruction)
    run.evaluation(step, report(world.gather_json(records), config.eval_samples), config.eval_samples)


def save(config: Config, world: World, run: RunLog, policy, processor, optimizer, state: dict) -> bool:
    """A checkpoint of this step. A full disk is said, and training goes on with the last good one
    kept."""
    ok = True
    if world.is_main:
        try:
            folder = run.checkpoints / f"step-{state['step']}"
            save_checkpoint(folder, policy, processor, optimizer, state, config.keep)
        except OSError as error:
            kept = latest_checkpoint(run.checkpoints)
            message = f"warning: step {state['step']} was not saved ({error}); the last checkpoint is {kept}"
            tqdm.write(message, file=sys.stderr)
            ok = False
    world.wait()
    return ok


def parse_config(argv: list[str]) -> Config:
    """Flags over a preset's values over the defaults; with --resume, flags over the run's own saved
    values."""
    out = cli.value_of(argv, "--out")
    resume = any(word.split("=")[0] == "--resume" for word in argv)
    saved = saved_config(out) if resume and out else {}  # a flag may only be right beside the run's own
    config = cli.parse(Config, argv, PRESETS, defaults=saved | {"resume": False})
    if not config.resume:
        config.out = config.out or time.strftime("runs/%Y%m%d-%H%M%S")
        return config
    # which question and draw come next, and what the checkpoint's weights mean
    for name in ("model", "train_data", "seed", "questions", "lora_rank"):
        if getattr(config, name) != saved.get(name, getattr(config, name)):
            raise UsageError(f"--{name} was {saved[name]!r} in {config.out} and can't change on --resume")
    return config


def main(argv: list[str]) -> int:
    config = parse_config(argv)
    world = distributed.start()
    model_utils.keep_freed_memory()
    try:
        per_update = config.minibatch_questions or config.questions
        if per_update % world.size:
            raise UsageError(
                f"questions per update ({per_update}) must be a multiple of the {world.size} processes"
            )
        config.out = world.gather_json([config.out])[0]  # its default holds the time of day
        return train(config, world)
    except (Diverged, OSError) as error:
        if isinstance(error, OSError) and error.errno not in DISK_ERRORS:
            raise
        then = "" if isinstance(error, Diverged) else "; continue with --resume once that is mended"
        print(f"error: --out {config.out}: {error}{then}", file=sys.stderr)
        return 1
    finally:
        files.release()
        gc.unfreeze()
        distributed.stop()


if __name__ == "__main__":
    cli.run(main)
