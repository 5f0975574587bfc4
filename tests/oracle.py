"""What a run of the trainer should have computed, from what it sampled: an independent recomputation.

Every forward is transformers' own, in float64, of one sequence at a time: no cache, no packing, no shared
prompts. Vote, advantages, loss, divisors, clipping of gradients, AdamW and warm-up are written out here, and
nothing of the trainer's is imported but the canonical form of an answer. The recomputation begins at the base
checkpoint and goes on with its own weights, so a step's mistake shows in all later ones.

Left out: sampling itself (its log-probs are compared, its draws are not), bfloat16.
"""

import json
import random
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import accumulate
from math import sqrt
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.func import functional_call
from transformers import AutoModelForImageTextToText, AutoTokenizer, Qwen2VLImageProcessorPil

from data.answers import canonical

BETAS, ADAM_EPS, ADVANTAGE_EPS, NORM_EPS, BNPO_BLOCK = (0.9, 0.999), 1e-8, 1e-6, 1e-6, 4
# the letters that byte-level tokenizers write bytes as: those that print stand for themselves
PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_OF = {chr(b): b for b in PRINTED}
BYTE_OF |= {chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in PRINTED)}
MADE = Path(__file__).with_name("rewards_made.py")
LORA_A, LORA_B = ".lora_A.default.weight", ".lora_B.default.weight"


@dataclass
class Sample:
    """One response with all that the loss takes of it."""

    key: str  # of its question
    prompt: list[int]
    response: list[int]
    sampled: list[float]  # the sampler's log-probs
    handed: list[float]  # what the trainer was told they are
    trained: list[bool]  # of each token, whether it has a gradient
    advantage: float = 0.0
    old: Tensor | None = None  # [T]
    ref: Tensor | None = None  # [T]


@dataclass
class Update:
    gradients: dict[str, Tensor]  # after clipping
    norm: float  # before it
    loss: float
    logprobs: list[Tensor]  # of each response, under the weights before the update
    likelier: float  # the most probability that a token passed over


@dataclass
class Result:
    updates: list[Update] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)  # of each step
    start: dict[str, Tensor] = field(default_factory=dict)  # what is trained
    weights: list[dict[str, Tensor]] = field(default_factory=list)  # the same after each step
    logprob_error: float = 0.0  # the largest of the sampler's
    likelier: float = 0.0  # the most probability that a sampled token passed over
    seen: Counter = field(default_factory=Counter)  # how often each setting acted


class Oracle:
    def __init__(self, folder: Path, pictures: dict[str, list], gold: dict[str, str]):
        """`folder`: the base. `pictures`, `gold`: the pictures and the right answer of each question."""
        self.model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float64, attn_implementation="eager"
        ).eval()
        self.base = {name: p.detach() for name, p in self.model.named_parameters()}
        self.tokenizer, self.gold = AutoTokenizer.from_pretrained(folder), gold
        read = Qwen2VLImageProcessorPil.from_pretrained(folder)
        self.vision = {key: dict(read(images=x, return_tensors="pt")) for key, x in pictures.items() if x}
        self.of_base = {}  # log-probs under the base: runs that begin alike sample alike

    # --- the model

    def logprobs(self, weights: dict[str, Tensor], x: Sample, temperature: float) -> tuple[Tensor, ...]:
        """Of the response's tokens under softmax(logits / temperature), and at each of them the entropy and
        how much probability likelier tokens have. All [T]."""
        ids = torch.tensor([x.prompt + x.response])
        self.model.model.rope_deltas = None  # the module keeps those of the sequence before
        logits = functional_call(self.model, weights, kwargs=dict(
            input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False,
            mm_token_type_ids=(ids == self.model.config.image_token_id).int(), **self.vision.get(x.key, {}),
        )).logits[0, len(x.prompt) - 1 : -1]  # [T, V]  # fmt: skip
        everything = (logits.double() / temperature).log_softmax(-1)
        index = torch.tensor(x.response)[:, None]
        chosen = everything.gather(1, index)[:, 0]
        every = everything.detach()
        likelier = (every.exp() * (every > every.gather(1, index))).sum(-1)
        return chosen, -(every.exp() * every).sum(-1), likelier

    def effective(self, trained: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
        """The weights of a forward: the trained ones in the place of the base's, or, with an adapter,
        W + scale * B A (arXiv 2106.09685, section 4.1)."""
        weights = dict(self.base)
        for name, w in trained.items():
            if name.endswith(LORA_A):
                whole = name.removesuffix(LORA_A) + ".weight"
                weights[whole] = self.base[whole] + scale * trained[name.replace(LORA_A, LORA_B)] @ w
            elif not name.endswith(LORA_B):
                weights[name] = w
        return weights

    def pieces(self, ids: list[int]) -> list[bytes]:
        """What each token says, in bytes; special ones nothing."""
        known = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        tokens = ["" if i in known else self.tokenizer.convert_ids_to_tokens(i) for i in ids]
        return [bytes(BYTE_OF[letter] for letter in token) for token in tokens]

    # --- the run

    def run(self, settings: dict, records: list[dict], scale: float = 0.0) -> Result:
        """`settings`: every flag's value. `records`: of each rank. `scale`: of an adapter, alpha / rank."""
        s, result = settings, Result()
        if s["lora_rank"]:  # A is drawn at random: it is what it was
            trained = {name: w.double() for name, w in records[0]["start"].items()}
            assert not any(w.any() for name, w in trained.items() if name.endswith(LORA_B))
        else:
            frozen = ".visual." if s["freeze_vision"] else "nothing"
            trained = {name: w for name, w in self.base.items() if frozen not in name}
        result.start = dict(trained)
        moments = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in trained.items()}
        result.seen["several forwards"] = sum(n > 1 for n in records[0]["forwards"])
        result.seen["recomputed"] = records[0]["recomputed"]
        per_update = s["minibatch_questions"] or s["questions"]
        for step in range(s["steps"]):
            lr = s["lr"] * (min(1.0, (step + 1) / s["warmup_steps"]) if s["warmup_steps"] else 1.0)
            result.seen["warm-up"] += lr < s["lr"]
            groups = in_global_order([of_rank["rollouts"][step] for of_rank in records], s)
            metrics = self.reward(groups, s, step, result.seen)
            self.score(groups, self.effective(trained, scale), s, several=per_update < s["questions"])
            sums, updates = defaultdict(lambda: [0.0, 0]), []
            for first in range(0, len(groups), per_update):
                part = groups[first : first + per_update]
                updates.append(self.update(part, trained, scale, s, sums, result.seen))
                if first == 0:  # later ones see other weights than the sampler did
                    pairs = zip(updates[0].logprobs, [x for group in part for x in group], strict=True)
                    errors = [sampler_error(logprobs, x) for logprobs, x in pairs]
                    result.logprob_error = max(result.logprob_error, *errors)
                    result.likelier = max(result.likelier, updates[0].likelier)
                count = len(result.updates) + len(updates)
                trained = adamw(trained, moments, updates[-1].gradients, count, lr, s["weight_decay"])
            metrics |= {name: total / tokens for name, (total, tokens) in sums.items()} | {"lr": lr}
            metrics["loss"] = sum(u.loss for u in updates) / len(updates)
            metrics["grad_norm"] = sum(u.norm for u in updates) / len(updates)
            result.updates += updates
            result.metrics.append(metrics)
            result.weights.append(trained)
        return result

    def reward(self, groups: list[list[Sample]], s: dict, step: int, seen: Counter) -> dict[str, float]:
        """Gives every sample its advantage; returns the metrics of votes and rewards.

        sound      y* = argmax_y sum_i [y_i = y] over canonical answers; none at a tie or below min_share
        published  the same over raw strings, unparsed ones being "None"; a tie goes to the first seen
        A_i        (r_i - mean r) / (std r + 1e-6), ddof 1; scale none: r_i - mean r; 0 where all r are equal;
                   times share ** share_power
        halves     by parity of the sample, or by the picture seen; where they don't have one single winner
                   alike the gate is closed, and nobody earns; cross: y* of the other half
        """
        figures = defaultdict(list)
        for group in groups:
            G = len(group)
            texts = [self.tokenizer.decode(x.response, skip_special_tokens=True) for x in group]
            raw = [last_box(text) for text in texts]
            keys = [canonical(a) for a in raw]
            winner, share, tie = vote([a for a in keys if a is not None], G)
            lead = (
                keys.count(winner) - max([keys.count(k) for k in {*keys} - {winner, None}], default=0)
            ) / G
            if tie or share < s["min_share"] or lead <= s["min_margin"]:
                seen["abstained below the share"] += winner is not None and not tie and share < s["min_share"]
                seen["abstained by the margin"] += winner is not None and not tie and lead <= s["min_margin"]
                winner = None
            second = [i >= G // 2 if s["other_view"] != "none" else i % 2 == 1 for i in range(G)]
            by_half = []
            for half in (False, True):
                votes = [k for k, h in zip(keys, second, strict=True) if h == half and k is not None]
                best, _, even = vote(votes, G)
                by_half.append(None if even else best)
            closed = s["gate"] == "halves" and (None in by_half or len(set(by_half)) == 2)
            seen["the gate closed"] += closed and winner is not None
            winner = None if closed else winner
            agree = [key is not None and key == winner for key in keys]
            if s["vote"] == "published":
                sound = agree
                winner, share, _ = vote(["None" if a is None else a for a in raw], G)
                agree = [key is not None and key == canonical(winner) for key in keys]
                if winner == "None":
                    agree = [a in (None, "None") for a in raw]
                seen["unlike the sound vote"] += agree != sound
            draw = random.Random(f"reward {s['seed']} {step} {group[0].key}")
            others = [by_half[not h] for h in second]
            seen["labelled apart"] += None not in by_half and by_half[0] != by_half[1]
            known = {
                "majority": agree,
                "gold": [k is not None and k == canonical(self.gold[group[0].key]) for k in keys],
                "format": [k is not None for k in keys],
                "random": [draw.random() < 0.5 for _ in group],
                "frequency": [keys.count(k) / G if k is not None else 0 for k in keys],
                "cross": [k is not None and k == other for k, other in zip(keys, others, strict=True)],
                "steps": [
                    a is not None and bool(text.rpartition("\\boxed")[0].strip())
                    for a, text in zip(raw, texts, strict=True)
                ],
                "letters": [text.count("e") / 10 for text in texts],  # of rewards_made.py
            }
            rewards = [0.0] * G
            for word in s["reward"].split(","):
                name, _, weight = word.replace(str(MADE) + ":", "").partition(":")
                paid = [] if closed else known[name]
                rewards = [r + float(weight or 1) * x for r, x in zip(rewards, paid or [0] * G, strict=True)]
            equal, mean = len(set(rewards)) == 1, sum(rewards) / G
            std = sqrt(sum((r - mean) ** 2 for r in rewards) / (G - 1))
            unit = std + ADVANTAGE_EPS if s["scale"] == "std" else 1.0
            for x, r in zip(group, rewards, strict=True):
                x.advantage = 0.0 if equal else (r - mean) / unit * share ** s["share_power"]
            seen["shares below 1"] += share < 1 and not equal
            for x, text in zip(group, texts, strict=True) if s["mask_answer"] else ():
                x.trained = outside_box(text, self.pieces(x.response))
                seen["masked"] += x.trained.count(False)
            seen["equal groups" if equal else "unequal groups"] += 1
            figures["reward"].append(mean)
            figures["majority_share"].append(share)
            figures["parsed"].append(sum(key is not None for key in keys) / G)
            figures["zero_spread"].append(float(equal))
            figures["abstained"].append(float(winner is None))
            figures["response_length"].append(sum(len(x.response) for x in group) / G)
        return {name: sum(values) / len(values) for name, values in figures.items()}

    @torch.no_grad()
    def score(self, groups: list[list[Sample]], weights: dict[str, Tensor], s: dict, several: bool) -> None:
        """Log-probs before the update, all at the sampling temperature and of the whole softmax. Those of the
        base are the reference. The old ones are the sampler's, or the policy's if several updates follow."""
        for x in (x for group in groups for x in group):
            told = torch.tensor(x.handed, dtype=torch.float64)
            x.old = self.logprobs(weights, x, s["temperature"])[0] if several else told
            if s["beta"]:
                known = (x.key, tuple(x.response), s["temperature"])
                if known not in self.of_base:
                    self.of_base[known] = self.logprobs(self.base, x, s["temperature"])[0]
                x.ref = self.of_base[known]

    def update(self, groups, trained, scale: float, s: dict, sums: dict, seen: Counter) -> Update:
        """The gradient of one update, clipped to g * min(1, max_grad_norm / (|g| + 1e-6)), |g| over all that
        is trained. Adds what is logged of its tokens to `sums`, {name: [sum, tokens]}."""
        leaves = {name: w.clone().requires_grad_() for name, w in trained.items()}
        by = iter(divisors([len(x.response) for group in groups for x in group], s))
        total, found, most_likelier = 0.0, [], 0.0
        for group in groups:
            # without a KL term, groups without an advantage have no gradient and are in no mean
            is_logged = s["beta"] > 0 or any(x.advantage for x in group)
            for x in group:
                weights = self.effective(leaves, scale)
                logprobs, entropy, likelier = self.logprobs(weights, x, s["temperature"])
                losses, figures = token_losses(logprobs, x, s, seen)
                loss = losses.sum() / next(by)
                loss.backward()
                total += loss.item()
                found.append(logprobs.detach())
                most_likelier = max(most_likelier, likelier.max().item())
                for name, values in (figures | {"entropy": entropy}).items() if is_logged else ():
                    sums[name][0] += values.sum().item()
                    sums[name][1] += len(values)
        gradients = {n: torch.zeros_like(w) if w.grad is None else w.grad for n, w in leaves.items()}
        norm = sqrt(sum(g.square().sum().item() for g in gradients.values()))
        seen["norm above" if norm > s["max_grad_norm"] else "norm below"] += 1
        factor = min(1.0, s["max_grad_norm"] / (norm + NORM_EPS))
        return Update({name: g * factor for name, g in gradients.items()}, norm, total, found, most_likelier)


# --- its parts


def in_global_order(rollouts: list[dict], s: dict) -> list[list[Sample]]:
    """Question q of rank r is number q * ranks + r of the step. Of its two views one follows the other, each
    with half of the samples."""
    groups = defaultdict(list)
    views = 1 if s["other_view"] == "none" else 2
    each = s["group_size"] // views
    for rank, rollout in enumerate(rollouts):
        for q, (key, prompt) in enumerate(zip(rollout["keys"], rollout["prompts"], strict=True)):
            for row in range(q * each, q * each + each):
                said, *logprobs = (rollout[name][row] for name in ("responses", "logprobs", "handed"))
                sample = Sample(key, prompt, said, *logprobs, [True] * len(said))
                groups[q // views * len(rollouts) + rank].append(sample)
    return [groups[number] for number in sorted(groups)]


def outside_box(text: str, pieces: list[bytes]) -> list[bool]:
    """Of each token, whether it holds no byte of what the last box holds."""
    found = [m.span(1) for m in re.finditer(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}", text)]
    if not found or not text[slice(*found[-1])].strip():
        return [True] * len(pieces)
    start, end = (len(text[:at].encode()) for at in found[-1])
    ends = list(accumulate(map(len, pieces)))
    return [b <= start or b - len(p) >= end for b, p in zip(ends, pieces, strict=True)]


def sampler_error(logprobs: Tensor, x: Sample) -> float:
    return (logprobs - torch.tensor(x.sampled, dtype=torch.float64)).abs().max().item()


def last_box(text: str) -> str | None:
    """What the last complete box holds. The answers here have at most one pair of braces within another."""
    found = re.findall(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}", text)
    return (found[-1].strip() or None) if found else None


def vote(answers: list[str], G: int) -> tuple[str | None, float, bool]:
    """(the commonest answer, the first seen of equals; its share of the group; whether others equal it)."""
    best = max(answers, key=answers.count, default=None)
    most = answers.count(best)
    return best, most / G, sum(answers.count(a) == most for a in set(answers)) > 1


def token_losses(logprobs: Tensor, x: Sample, s: dict, seen: Counter) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of each token of a response, and the figures logged of it (arXiv 2402.03300, equation 3).

    rho   = exp(logp - old); ratio sequence: the exponential of the response's mean (GSPO, arXiv 2507.18071)
    J     = min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), where A < 0 at least dual_clip * A
            (arXiv 1912.09729)
    KL    = d, d^2 / 2, or exp(-d) - 1 + d with d = logp - ref, within +- kl_clamp (Schulman 2020)
    loss  = -J + beta KL
    """
    A, change = x.advantage, logprobs - x.old
    if s["ratio"] == "sequence":
        change = change.mean().expand(len(change))
    rho = change.exp()
    low, high = 1 - s["clip_low"], 1 + s["clip_high"]
    objective = torch.minimum(rho * A, rho.clamp(low, high) * A)
    if s["dual_clip"] and A < 0:
        seen["dual clip"] += int((objective < s["dual_clip"] * A).sum())
        objective = objective.clamp(min=s["dual_clip"] * A)
    penalty = torch.zeros_like(logprobs)
    if s["beta"]:
        d = logprobs - x.ref
        penalty = {"k1": d, "k2": d * d / 2, "k3": (-d).exp() - 1 + d}[s["kl"]]
        if bound := s["kl_clamp"]:
            seen["KL above"] += int((penalty > bound).sum())
            seen["KL below"] += int((penalty < -bound).sum())
            seen["KL within"] += int((penalty.abs() < bound).sum())
            penalty = penalty.clamp(-bound, bound)
    clipped_low, clipped_high = ((rho < low) & (A < 0)).double(), ((rho > high) & (A > 0)).double()
    seen["clipped low"] += int(clipped_low.sum())
    seen["clipped high"] += int(clipped_high.sum())
    figures = {
        "clipped_low": clipped_low, "clipped_high": clipped_high, "clipfrac": clipped_low + clipped_high,
        "approx_kl": (rho - 1 - change).detach(),
    }  # fmt: skip
    if s["beta"]:
        figures["kl"] = penalty.detach()
    losses = -objective + s["beta"] * penalty
    return losses.where(torch.tensor(x.trained), losses.detach()), figures


def divisors(lengths: list[int], s: dict) -> list[float]:
    """What the summed token losses of each of an update's B responses are divided by.

    grpo     B * its own length
    dapo     tokens of all
    dr_grpo  B * max_new_tokens
    bnpo     tokens of its block of 4 consecutive responses * number of blocks
    """
    B = len(lengths)
    blocks = [sum(lengths[i : i + BNPO_BLOCK]) for i in range(0, B, BNPO_BLOCK)]
    return {
        "grpo": [B * n for n in lengths],
        "dapo": [sum(lengths)] * B,
        "dr_grpo": [B * s["max_new_tokens"]] * B,
        "bnpo": [blocks[i // BNPO_BLOCK] * len(blocks) for i in range(B)],
    }[s["aggregate"]]


def adamw(weights, moments, gradients, t: int, lr: float, decay: float) -> dict[str, Tensor]:
    """Weights after update t, counted from 1; the moments change in place (arXiv 1711.05101, algorithm 2).

    m = .9 m + .1 g,  v = .999 v + .001 g^2,
    w = w - lr decay w - lr (m / (1 - .9^t)) / (sqrt(v / (1 - .999^t)) + 1e-8)
    """
    after = {}
    for name, g in gradients.items():
        m, v = moments[name]
        m.mul_(BETAS[0]).add_(g, alpha=1 - BETAS[0])
        v.mul_(BETAS[1]).add_(g * g, alpha=1 - BETAS[1])
        direction = (m / (1 - BETAS[0] ** t)) / ((v / (1 - BETAS[1] ** t)).sqrt() + ADAM_EPS)
        after[name] = weights[name] * (1 - lr * decay) - lr * direction
    return after


# --- what a run wrote


def saved_weights(folder: Path) -> dict[str, Tensor]:
    """Of a checkpoint, by the names that weights have here."""
    if (folder / "adapter_model.safetensors").exists():
        stored = load_file(folder / "adapter_model.safetensors").items()
        stored = ((name.removeprefix("base_model.model."), w) for name, w in stored)
        return {name.replace(".weight", ".default.weight"): w for name, w in stored}
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return {name: p.detach() for name, p in model.named_parameters()}


def adapter_scale(folder: Path) -> float:
    """alpha / rank (arXiv 2106.09685, section 4.1)."""
    said = json.loads((folder / "adapter_config.json").read_text())
    return said["lora_alpha"] / said["r"]
