"""MM-UPT: a vision-language model teaches itself by agreeing with its own majority.

    torchrun mmupt.py                     the built-in run: no data, no download, a CPU is enough
    torchrun --nproc_per_node 8 mmupt.py --model Qwen/Qwen2.5-VL-3B-Instruct --train_data mine.jsonl

For each unlabelled question the model samples G answers. The commonest answer is the pseudo-label, agreeing
with it earns reward 1, and the policy is updated by GRPO: the clipped objective on group-normalised rewards,
with a KL term to the frozen base. The method is arXiv 2505.22453; GRPO is arXiv 2402.03300. This file is the
whole algorithm: the mathematics, the settings, the loop. What it needs of a model is in model_utils.py.

Left out: curricula, asynchronous rollouts.
"""

import gc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

import model_utils
from answers import Compare, answer_classes, compare, extract_answer
from common import cli, distributed, files, pulse
from common.cli import UsageError, flag
from common.distributed import World
from common.machine import Machine
from common.resume import parse_run
from common.run_log import Diverged, Meter, RunLog, say_why
from common.stop import StopSignal, at_ticks
from data import TINY
from data.stream import Questions
from evaluation import reading
from evaluation.probe import Probe, Probing
from evaluation.sentinels import Sentinels, Watching
from model import defaults, plan
from model_utils import Encoded, Rollout, generate, rollout_logprobs, save_checkpoint, token_logprobs
from report import reported
from rewards import CONTROLS, VARIANTS, Group, Rewarding, Vote, answer_mask, custom, refill, variants, views
from verify import Loop, verify

SCALES, RATIOS, VOTES = ("std", "none"), ("token", "sequence"), ("sound", "published")
UNPARSED = "None"  # what the paper's code makes of an answer that did not parse

# --- The algorithm: pure functions ----------------------------------------------------------------


def majority_vote(answers: Sequence, min_share: float = 0.0, min_margin: float = 0.0) -> Vote:
    """Pseudo-label y* = argmax_y sum_i [y_i = y]   (arXiv 2505.22453, section 3).

    `answers` are names of classes (answers/vote.py): equal answers vote together, however written. None,
    an answer that did not parse, never votes. Nothing parsed, a tie, a share below `min_share`, or a lead of
    `min_margin` of the group or less (SCRL, arXiv 2603.19880): winner None.
    """
    counts = Counter(a for a in answers if a is not None)
    if not counts:
        return Vote(None, 0.0, counts)
    (first, most), (_, second) = [*counts.most_common(2), (None, 0)][:2]
    share, margin = most / len(answers), (most - second) / len(answers)
    return Vote(None if margin <= min_margin or share < min_share else first, share, counts)


def published_vote(raw: Sequence[str | None]) -> Vote:
    """The vote of the paper's code, for comparison: identical strings vote, an unparsed answer votes as the
    string "None", and a tie goes to the first seen."""
    counts = Counter(UNPARSED if a is None else a for a in raw)
    winner, most = counts.most_common(1)[0]
    return Vote(winner, most / len(raw), counts)


def group_advantages(rewards: Tensor, scale: str = "std", eps: float = 1e-6) -> Tensor:
    """A_i = (r_i - mean(r)) / (std(r) + eps) in each group, ddof 1; scale "none": A_i = r_i - mean(r).

    rewards [P, G] -> [P, G] float32. A group of equal rewards is exactly 0, whatever their mean rounds to.
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards must be [P, G] with G at least 2 (got {list(rewards.shape)})")
    if scale not in SCALES:
        raise ValueError(f"scale must be {' or '.join(SCALES)} (got {scale})")
    rewards = rewards.float()
    advantages = rewards - rewards.mean(1, keepdim=True)
    if scale == "std":
        advantages = advantages / (rewards.std(1, keepdim=True) + eps)
    return advantages.masked_fill((rewards == rewards[:, :1]).all(1, keepdim=True), 0.0)


KL: dict[str, Callable[[Tensor], Tensor]] = {  # of d = logprobs - ref_logprobs
    "k1": lambda d: d,
    "k2": lambda d: d.square() / 2,
    "k3": lambda d: torch.expm1(-d.clamp(-20, 20)) + d.clamp(-20, 20),  # beyond e^20 it is an overflow
}


def kl_penalty(logprobs: Tensor, ref_logprobs: Tensor, kind: str = "k3") -> Tensor:
    """Per-token estimate of KL(policy || reference) in nats from sampled tokens; d = logprobs - ref_logprobs.

    k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d   (Schulman 2020, "Approximating KL divergence").
    All have the right mean or nearly so. As loss terms they differ: the expected gradient of k1 is 0, of k2
    that of the reverse KL(policy || reference), of k3 that of the forward KL(reference || policy).
    """
    if kind not in KL:
        raise ValueError(f"kl must be {', '.join(KL)} (got {kind})")
    return KL[kind](logprobs - ref_logprobs)


def log_ratios(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, ratio: str = "token") -> Tensor:
    """log rho_t [B, T]: logp_t - old_t of each token, or "sequence": its mean over the sequence, for every
    token of it (GSPO, arXiv 2507.18071). Both log-probs are 0 where the mask is."""
    if ratio not in RATIOS:
        raise ValueError(f"ratio must be {' or '.join(RATIOS)} (got {ratio})")
    difference = logprobs - old_logprobs
    if ratio == "token":
        return difference
    return (difference.sum(1) / mask.sum(1).clamp(min=1))[:, None].expand_as(difference)


def clipped_objective(rho: Tensor, A: Tensor, low: float, high: float, dual: float | None = None) -> Tensor:
    """min(rho A, clip(rho, 1 - low, 1 + high) A), and with `dual` at least dual A where A < 0
    (arXiv 1912.09729). rho [B, T], A [B, 1]."""
    objective = torch.minimum(rho * A, rho.clamp(1 - low, 1 + high) * A)
    return torch.where(A < 0, torch.maximum(objective, dual * A), objective) if dual else objective


BNPO_BLOCK = 4  # sequences that aggregate bnpo takes one mean over: the micro-batch of the paper's code


def block_divisors(lengths: Tensor, block: int) -> Tensor:
    """[B] -> [B], (tokens of its block) * (blocks); the last block may be smaller."""
    block_of = torch.arange(len(lengths), device=lengths.device) // block
    blocks = int(block_of[-1]) + 1
    tokens = lengths.new_zeros(blocks).scatter_add_(0, block_of, lengths)
    return tokens[block_of] * blocks


DIVISORS: dict[str, Callable] = {  # of lengths [B], the longest there may be, sequences of a block
    "grpo": lambda lengths, most, block: len(lengths) * lengths.clamp(min=1),
    "dapo": lambda lengths, most, block: lengths.sum(),
    "dr_grpo": lambda lengths, most, block: torch.full_like(lengths, len(lengths) * most),
    "bnpo": lambda lengths, most, block: block_divisors(lengths, block),
}


def sequence_divisors(
    lengths: Tensor, aggregate: str = "grpo", max_new_tokens: int | None = None, block: int = BNPO_BLOCK
) -> Tensor:
    """lengths [B] of all responses of the optimiser batch -> [B] float32, what divides each one's loss.

    The loss is sum_i (sum_t l_it m_it) / divisor_i: any split of the batch into forwards sums to the same.
        grpo     B |o_i|                          a mean over tokens, then over sequences
        dapo     sum_j |o_j|                      a mean over all tokens
        dr_grpo  B max_new_tokens                 a sum over tokens, at constant length
        bnpo     (tokens of i's block) * blocks   a mean over tokens, then over blocks of sequences
    """
    if aggregate not in DIVISORS:
        raise ValueError(f"aggregate must be {', '.join(DIVISORS)} (got {aggregate})")
    if aggregate == "dr_grpo" and max_new_tokens is None:
        raise ValueError("aggregate dr_grpo needs max_new_tokens")
    return DIVISORS[aggregate](lengths, max_new_tokens, block).expand_as(lengths).clamp(min=1).float()


def grpo_loss(
    logprobs: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor | None, advantages: Tensor, mask: Tensor, *,
    clip_low: float = 0.2, clip_high: float = 0.2, dual_clip: float | None = None,
    beta: float = 0.0, kl: str = "k3", kl_clamp: float | None = None,
    aggregate: str = "grpo", ratio: str = "token",
    denominator: float | Tensor | None = None, max_new_tokens: int | None = None,
) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
    """The clipped GRPO objective, negated (arXiv 2402.03300, equation 3).

        l_t  = -min(rho_t A, clip(rho_t, 1 - clip_low, 1 + clip_high) A) + beta KL_t
        loss = sum_i (sum_t l_it m_it) / divisor_i           rho_t = exp(logp_t - old_t), m the mask

    logprobs, old_logprobs, ref_logprobs, mask [B, T]; advantages [B]. ref_logprobs may be None at beta 0.
    denominator: [B], from `sequence_divisors` of the whole optimiser batch; None: these rows are all of it,
    and one block of bnpo. A number: sequences (grpo), tokens (dapo), sequences * max_new_tokens (dr_grpo) or
    blocks (bnpo, these rows being one) of the whole batch.
    Whatever stands under the mask, NaN included, changes neither value nor gradient. -> (scalar, token_means)
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
        losses = losses + beta * penalty if beta else losses

    if denominator is None:
        denominator = sequence_divisors(lengths, aggregate, max_new_tokens, block=len(lengths))
    elif not isinstance(denominator, Tensor):
        own = {"grpo": lengths, "bnpo": lengths.sum()}.get(aggregate, torch.ones_like(lengths))
        denominator = denominator * own.clamp(min=1)
    loss = (losses.where(mask, 0.0).sum(1) / denominator).sum()
    return loss, token_means(rho, log_ratio, penalty, A, mask, clip_low, clip_high)


@torch.no_grad()
def token_means(rho, log_ratio, penalty, A, mask, clip_low: float, clip_high: float) -> dict[str, float]:
    """Means over the tokens under the mask. What is named here is logged."""
    low, high = (rho < 1 - clip_low) & (A < 0), (rho > 1 + clip_high) & (A > 0)
    approx_kl = rho - 1 - log_ratio  # k3 of KL(old || policy), as CleanRL logs it
    values = dict(clipped_low=low, clipped_high=high, clipfrac=low | high, approx_kl=approx_kl, kl=penalty)
    tokens = mask.sum().clamp(min=1)
    return {name: float(value.where(mask, 0).sum() / tokens) for name, value in values.items()}


# --- Rewards: one function each; more in rewards/ --------------------------------------------------


def majority_reward(group: Group, vote: str, **_) -> list[float]:
    """r_i = [y_i = y*], by meaning; where the group abstains nobody earns."""
    winner = group.vote.winner
    if vote == "published" and winner == UNPARSED:
        return [float(a is None or a == UNPARSED) for a in group.raw]
    if vote == "published":
        winner = next(key for a, key in zip(group.raw, group.keys, strict=True) if a == winner)
    return [float(key is not None and key == winner) for key in group.keys]


REWARDS: dict[str, Callable[..., list[float]]] = {"majority": majority_reward, **VARIANTS, **CONTROLS}


def compute_rewards(
    texts: list[str], questions: Sequence[Encoded], config: "Config", gold: dict[str, str], step: int,
    compare: Compare = compare,
) -> tuple[list[Group], Tensor]:  # fmt: skip
    """P x G responses -> answers with their votes, rewards [P, G]. `gold` is empty but for --reward gold."""
    G, groups = config.group_size, []
    for p, question in enumerate(questions):
        own = texts[p * G : (p + 1) * G]
        raw = [extract_answer(text, config.answer_format) for text in own]
        keys = answer_classes(raw, question.choices, compare)
        sound = majority_vote(keys, config.min_share, config.min_margin)
        vote = sound if config.vote == "sound" else published_vote(raw)
        halves = variants.halved(majority_vote, keys, config.views)
        groups.append(variants.gated(Group(question, raw, keys, vote, own, *halves), config.gate))
        pulse.tick()
    return groups, custom.total_rewards(groups, config, REWARDS, gold, step)


# --- Settings -------------------------------------------------------------------------------------


@dataclass
class Config(Watching, Rewarding, Probing, reading.Reading, Machine):
    preset: str = flag("", "named settings: mm-upt is the paper's code; flags given beside it win")
    model: str = flag(str(TINY), "checkpoint folder or hub id")
    train_data: list[str] = flag(["tiny"], "tiny; .jsonl, .json, .csv, .parquet files; folders; hub ids")
    out: str = flag("", "run folder; empty is runs/ and the time")
    resume: bool = flag(False, "continue the run in --out from its latest whole checkpoint; auto: if any")
    seed: int = flag(0, "seed of the order of questions and of the sampling")

    steps: int = flag(60, "rollout steps", "at least 1")
    questions: int = flag(32, "questions per step (P), over all processes", "at least 1")
    group_size: int = flag(8, "samples per question (G)", "at least 2: a vote needs company")
    minibatch_questions: int = flag(0, "questions per update; 0 is all: one update per rollout", "0 or more")

    lr: float = flag(1e-4, "AdamW learning rate; from 50 M parameters 5e-6, 1 B 1e-6; LoRA x 10", "0 or more")
    warmup_steps: int = flag(10, "steps of linear warm-up", "0 or more")
    weight_decay: float = flag(0.01, "AdamW weight decay", "0 or more")
    max_grad_norm: float = flag(1.0, "gradients are clipped to this norm", "above 0")
    freeze_vision: bool = flag(False, "train decoder and head alone, not the vision tower and its projector")
    lora_rank: int = flag(0, "train LoRA adapters of this rank, through peft; 0: the weights", "0 or more")

    reward: str = flag("majority", f"{', '.join(REWARDS)}, FILE.py:FUNCTION; several as a:1,b:0.2")
    vote: str = flag("sound", "published: strings vote, unparsed ones too, ties to the first", choices=VOTES)
    min_share: float = flag(0.0, "abstain where the winner has less of the group", "between 0 and 1")
    scale: str = flag("std", "of advantages: divide them by the group's standard deviation", choices=SCALES)

    beta: float = flag(0.01, "weight of the KL term; at 0 no reference is loaded", "0 or more")
    kl: str = flag("k3", "KL estimator", choices=KL)
    kl_clamp: float = flag(0.0, "bound on the KL of a token; 0 is none", "0 or more, inf included")
    clip_low: float = flag(0.2, "the ratio is clipped below 1 - clip_low", "between 0 and 1")
    clip_high: float = flag(0.2, "the ratio is clipped above 1 + clip_high", "0 or more, inf included")
    dual_clip: float = flag(0.0, "bound on the ratio where A < 0; 0 is none", "0 or above 1")
    aggregate: str = flag("grpo", "how token losses are averaged", choices=DIVISORS)
    ratio: str = flag("token", "importance ratio per token, or per sequence (GSPO)", choices=RATIOS)

    temperature: float = flag(1.0, "sampling temperature, also of every log-prob", "above 0")
    top_p: float = flag(1.0, "nucleus sampling; 1 is off", "above 0 and at most 1")
    max_new_tokens: int = flag(48, "longest response; from 50 M parameters 1024", "at least 1")
    max_prompt_tokens: int = flag(1024, "skip longer questions; from 50 M parameters 2048", "at least 1")

    save_every: int = flag(20, "steps between checkpoints; 0: only at the end", "0 or more")
    keep: int = flag(2, "checkpoints kept; 0 is all", "0 or more")

    GROUPS: ClassVar = dict(  # by the first flag of each
        preset="model and data", instruction="asking and reading", steps="length of the run", lr="optimiser",
        reward="reward", min_margin="beyond the plain majority", beta="objective", temperature="sampling",
        eval_data="evaluation", sentinels="health", save_every="checkpoints", dtype="machine",
    )  # fmt: skip
    # --resume can't change which question and draw come next, nor what the weights mean
    FIXED: ClassVar = ("model", "train_data", "seed", "questions", "lora_rank", "sentinels")
    SETTLED: ClassVar = ("answer_format",)  # by the first responses, where it was auto
    PRESETS: ClassVar = {
        # the paper's code to the letter, with what it gets wrong: github.com/waltonfuture/MM-UPT
        "mm-upt": dict(
            questions=512, minibatch_questions=128, group_size=10, temperature=0.7, top_p=0.99,
            max_new_tokens=2048, max_prompt_tokens=2048, min_pixels=262144, max_pixels=1204224,
            vote="published", lr=1e-6, warmup_steps=0, weight_decay=0.01, max_grad_norm=1.0, scale="std",
            clip_low=0.2, clip_high=0.3, dual_clip=3.0, beta=0.01, kl="k3", kl_clamp=10.0, aggregate="bnpo",
            gradient_checkpointing=True,
        ),
    }  # fmt: skip

    def __post_init__(self):
        super().__post_init__()
        variants.check_rewards(self, REWARDS)
        cli.require(self, "resume", not self.resume or self.out != "", "given together with --out")
        divides = self.questions % (self.minibatch_questions or self.questions) == 0
        cli.require(self, "minibatch_questions", divides, f"0 or a divisor of --questions {self.questions}")
        if self.out:
            files.check_out(self.out)


# --- The loop -------------------------------------------------------------------------------------


@dataclass
class LossInputs:
    """A rollout with everything the loss needs of it; rows are question by question."""

    rollout: Rollout
    old_logprobs: Tensor  # [B, T] of the policy before the update
    ref_logprobs: Tensor | None  # [B, T] of the base; None where beta is 0
    advantages: Tensor  # [B]
    trained: Tensor | None = None  # [B, T] bool, the tokens that have a gradient; None: all

    def select(self, questions: list[int]) -> "LossInputs":
        """These questions of the rollout with all their samples."""
        rows, part = self.rollout.rows(questions), self.rollout.select(questions)
        tensors = (self.old_logprobs, self.ref_logprobs, self.advantages, self.trained)
        return LossInputs(part, *(x if x is None else x[rows] for x in tensors))  # type: ignore[arg-type]


def train(config: Config, world: World, compare: Compare = compare) -> int:
    """Runs the whole training; returns the process's exit status."""
    resumed = model_utils.checkpoint_to_resume(config, world)
    run, stop = RunLog(asdict(config), world, resumed), StopSignal()
    config = plan.resolve(config, world)  # after the line above: a resumed run plans anew
    processor = model_utils.load_processor(config.model, config.min_pixels, config.max_pixels, config.system)
    policy, reference = model_utils.load_models(config, resumed, world)  # the latter is frozen
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, config.lr, (0.9, 0.999), 1e-8, config.weight_decay, fused=True)
    state: dict[str, Any] = {"step": 0, "nonfinite_updates": 0, "stream": {}}
    if resumed:
        state = model_utils.load_checkpoint(resumed, policy, optimizer)
        if state["step"] > config.steps:
            raise UsageError(f"--steps {config.steps}: {config.out} is at step {state['step']} already")
    stream = Questions(
        config.train_data, views.reader(processor, config.other_view), config.seed, config.max_prompt_tokens,
        config.instruction, labels=custom.reads_labels(config.reward), world=world, state=state["stream"],
        images_root=config.images_root,
    )  # fmt: skip
    probe = Probe(config, processor, world, compare)  # on labelled questions, which are part of no reward
    sentinels = Sentinels(config, processor, world, stream, state, compare)  # on unlabelled ones, held back
    reading.settle(config, run.config, world, policy, processor, stream)
    run.open(state["step"], state["nonfinite_updates"])
    gc.freeze()  # what is here stays: the garbage collector needn't look through it again and again

    def save(step: int, due: bool) -> None:
        now = {"stream": stream.state(), "sentinels": sentinels.state()}
        run.save(step, due, now, save_checkpoint, policy, processor, optimizer)

    if not resumed:
        run.base(sentinels.look(policy, reference, 0))
        save(0, due=False)
    if probe.is_due(state["step"]) and not run.has_report(state["step"]):
        run.evaluation(state["step"], probe.measure(policy, state["step"]), config.eval_samples)
    for step in run.steps(state["step"], config.steps):
        before = stream.state()
        with run.stage("data"):
            my_questions = stream.next(config.questions)  # no answer is in them
        with run.stage("rollout"), model_utils.gathered(policy), at_ticks():
            rollout, texts = sample(config, world, policy, processor, step, my_questions)
        if stop.anywhere(world):  # the policy is still that of the last finished step
            stream.rewind(before)
            save(step, due=step > 0)
            break
        with run.stage("reward"):
            groups, rewards = compute_rewards(texts, my_questions, config, stream.gold, step, compare)
            reading.warn(config.answer_format, texts, world, step)
        if config.refill:
            with run.stage("refill"), model_utils.gathered(policy):
                ask = partial(sample, config, world, policy, processor, step)
                earn = partial(compute_rewards, config=config, gold=stream.gold, step=step, compare=compare)
                found = refill.fill((rollout, texts, groups, rewards), ask, earn, stream, config, world)
                rollout, texts, groups, rewards = found
        with run.stage("score"):
            weights = variants.share_weights(groups, config.share_power)  # [P, 1]
            advantages = (group_advantages(rewards, config.scale) * weights).flatten().to(world.device)  # [B]
            scored = logprobs_before(config, policy, reference, rollout)
            inputs = LossInputs(rollout, *scored, advantages, answer_mask.outside(rollout, processor, config))
        with run.stage("update"):
            for group in optimizer.param_groups:  # linear warm-up, then constant
                group["lr"] = config.lr * min(1.0, (step + 1) / max(config.warmup_steps, 1))
            for update_questions in questions_of_each_update(config, world):
                accumulate_gradients(config, world, policy, inputs.select(update_questions), run.meter)
                run.count_update(step + 1, apply_gradients(config, world, policy, optimizer, run.meter))
        signals = sentinels.look(policy, reference, step + 1)
        run.step(step + 1, texts, groups, rewards, rollout, stream.state(), group["lr"], signals)
        del rollout, inputs  # the next rollout may have their memory, which pictures make large

        stopping, last = stop.anywhere(world) or run.stops, step + 1 == config.steps
        if probe.is_due(step + 1) and not stopping:
            run.evaluation(step + 1, probe.measure(policy, step + 1), config.eval_samples)
        save(step + 1, stopping or last or (config.save_every > 0 and (step + 1) % config.save_every == 0))
        if stopping:
            break

    stop.restore()
    stream.close()
    run.close(probe.base_beside_trained(run.reports))
    return 0 if run.saved_last else 1


def sample(config: Config, world: World, policy, processor, step: int, questions: list) -> tuple:
    """G responses to each question, half of them to its other view where there is one, and their texts."""
    rollout = generate(
        policy, processor, processor.collate(views.in_views(questions), world.device), config.per_view,
        config.max_new_tokens, config.temperature, config.top_p, config.seed, step,
        progress="rollout" if world.is_main else None,
    )  # fmt: skip
    return rollout, rollout.texts(processor)


def logprobs_before(config: Config, policy, reference, rollout: Rollout) -> tuple[Tensor, Tensor | None]:
    """Token log-probs [B, T] of the policy (old) and of the reference, at the rollout's temperature.

    With one update per rollout the sampler's own serve: of the whole softmax at that temperature, no top-p.
    With several the trainer scores them, so that a ratio differs from 1 by training alone.
    """
    several_updates, tokens = 0 < config.minibatch_questions < config.questions, config.tokens_per_forward
    old = rollout_logprobs(policy, rollout, tokens) if several_updates else rollout.logprobs
    if reference is None:
        return old, None
    with reference() as base:
        return old, rollout_logprobs(base, rollout, tokens)


def questions_of_each_update(config: Config, world: World) -> list[list[int]]:
    """Places in this rank's rollout, in a row: dealt in turn, the same ones meet at any number of ranks."""
    per_update = (config.minibatch_questions or config.questions) // world.size * config.views
    places = config.questions // world.size * config.views
    return [list(range(i, i + per_update)) for i in range(0, places, per_update)]


def accumulate_gradients(config: Config, world: World, policy, batch: LossInputs, meter: Meter) -> None:
    """Gradients of one optimiser batch's loss, in as many forwards as the token budget needs."""
    G = config.group_size
    lengths = world.all_rows(batch.rollout.lengths, G)  # of the whole batch over ranks, question by question
    divisors = world.my_rows(sequence_divisors(lengths, config.aggregate, config.max_new_tokens), G)  # [B]
    # without a KL term a group of equal rewards has no gradient: not computed at all
    by_question = batch.advantages.view(-1, batch.rollout.num_samples)
    questions = [q for q, A in enumerate(by_question) if config.beta or bool(A.any())]

    policy.zero_grad()
    policy.train()
    total = 0.0
    for part, counts in model_utils.forwards(policy, batch.rollout, questions, config.tokens_per_forward):
        micro = batch.select(part)
        logprobs, entropy = token_logprobs(policy, micro.rollout, with_entropy=True)  # [b, T]
        if micro.trained is not None:
            logprobs = logprobs.where(micro.trained, logprobs.detach())
        loss, metrics = grpo_loss(
            logprobs, micro.old_logprobs, micro.ref_logprobs, micro.advantages, micro.rollout.mask,
            clip_low=config.clip_low, clip_high=config.clip_high, dual_clip=config.dual_clip or None,
            beta=config.beta, kl=config.kl, kl_clamp=config.kl_clamp or None, ratio=config.ratio,
            denominator=divisors[batch.rollout.rows(part)],
        )  # fmt: skip
        (loss * counts).backward()
        total += float(loss.detach()) * counts
        n = int(micro.rollout.lengths.sum())
        meter.add(n * counts, entropy=float(entropy.sum()) / n, **metrics)
        pulse.tick()
    policy.eval()
    meter.add(loss=total * world.size)  # the meter takes the mean over ranks, whose losses add up


def apply_gradients(config: Config, world: World, policy, optimizer, meter: Meter) -> bool:
    """Sums gradients over ranks, clips, steps. Where one is not finite: no step, and False, on every rank."""
    world.sum_gradients(policy)
    norm = model_utils.whole(torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm))
    if finite := bool(torch.isfinite(norm)):
        meter.add(grad_norm=norm)
        optimizer.step()
    policy.zero_grad()  # the next rollout may have their memory
    return finite


def main(argv: list[str]) -> int:
    config = parse_run(Config, argv, defaults.fitting)
    world = distributed.start(config.rank_timeout)
    try:
        n = config.minibatch_questions or config.questions
        if n % (processes := config.plan_gpus or world.size):
            raise UsageError(f"questions per update ({n}) must be a multiple of the {processes} processes")
        config.out = world.gather_json([config.out])[0]  # its default holds the time of day
        with reported(config, world), reading.comparing(config) as compare:
            if config.verify:
                loop = sample, group_advantages, logprobs_before, accumulate_gradients, apply_gradients
                return verify(config, world, Loop(LossInputs, *loop))
            return plan.show(config, world) if config.plan else train(config, world, compare)
    except (Diverged, OSError) as error:
        return say_why(error, config.out)
    finally:
        files.release()
        gc.unfreeze()
        distributed.stop()


if __name__ == "__main__":
    cli.run(main)
