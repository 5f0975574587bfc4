"""One function for each check: (figure, the most that it may be), or in words why it was not asked.

Figures are the largest difference over tokens in nats, gradients' a share of their norm, others counts of
what may not be. Bounds: float32 rounds log-probs of a small model by 1e-6 to 3e-5 (of 30 layers 2.5e-5), so
that 2e-4 is noise no more. Where products are bfloat16 a token may be off by some tenths.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

import model_utils
from model.loading import autocast
from verify.evidence import COLDER, Evidence, Sterner
from verify.plain import adapters

NATS, GRADIENT = 2e-4, 1e-3  # in float32
NATS_16, GRADIENT_16 = 0.5, 0.2  # in bfloat16
Found = tuple[float, float] | str


def nats(e: Evidence) -> float:
    return NATS if e.exact else NATS_16


def furthest(x: Tensor, y: Tensor, mask: Tensor) -> float:
    """NaN where one is not finite."""
    return float((x.double() - y.double())[mask].abs().max())


def apart(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """|found - wanted| / |wanted| over all; inf where they are not of the same weights."""
    if missing := wanted.keys() ^ found.keys():
        left = [(wanted | found)[name] for name in missing]
        if any(bool(x.any()) for x in left):
            return math.inf
    both = [(found[name].double(), g.double()) for name, g in wanted.items() if name in found]
    off = sum(float((x - g).square().sum()) for x, g in both)
    return math.sqrt(off / max(sum(float(g.square().sum()) for _, g in both), 1e-30))


# --- log-probs


def cached_is_uncached(e: Evidence) -> Found:
    """The sampler's, of its cache, beside transformers' without one."""
    return furthest(e.rollout.logprobs, e.logprobs, e.rollout.mask), nats(e)


def sampler_is_trainer(e: Evidence) -> Found:
    return furthest(e.rollout.logprobs, e.scored, e.rollout.mask), nats(e)


def shared_prompt_is_plain(e: Evidence) -> Found:
    """The trainer's, a prompt once for all samples, beside a forward of each on its own."""
    return furthest(e.scored, e.logprobs, e.rollout.mask), nats(e)


def padding_is_not_read(e: Evidence) -> Found:
    """Each question alone, and all with another token in the place of padding, beside all together."""
    rollout, prompts, mask = e.rollout, e.rollout.prompts, e.rollout.mask
    junk = rollout.tokens[0, 0]
    real = torch.arange(prompts.ids.shape[1], device=mask.device) < prompts.lengths[:, None]
    filled = replace(prompts, ids=prompts.ids.where(real, junk))
    dirty = e.score(replace(rollout, prompts=filled, tokens=rollout.tokens.where(mask, junk)))
    far = [furthest(dirty, e.scored, mask)]
    for q in range(len(prompts)):
        one = rollout.select([q])
        together = e.scored[rollout.rows([q])]
        far.append(furthest(e.score(one), together, one.mask))
    return max(far), nats(e)


def temperature_is_everywhere(e: Evidence) -> Found:
    """Sampler, trainer and reference at another temperature, beside transformers' logits over it."""
    cold, T = e.colder, COLDER * e.config.temperature
    plain = e.plain.logprobs(cold, T)
    old, ref = e.loop.logprobs_before(e.config, e.policy, e.reference, cold)
    far = [furthest(x, plain, cold.mask) for x in (cold.logprobs, old, e.score(cold))]
    if ref is not None:
        far.append(furthest(ref, e.base.colder, cold.mask))
    return max(far), nats(e)


def kernel_is_float64(e: Evidence) -> Found:
    """Head and log-softmax as the trainer has them, chunk by chunk, beside the same in float64."""
    rollout, far = e.rollout, []
    weight, T = e.policy.get_output_embeddings().weight.detach(), e.config.temperature
    for b in rollout.rows(range(len(rollout.prompts)))[:: rollout.num_samples]:
        tokens = rollout.tokens[b, : rollout.lengths[b]]
        hidden = e.plain.hidden(rollout.prompts, b // rollout.num_samples, tokens).to(weight.dtype)
        with autocast(e.policy):
            found = model_utils.linear_logprobs(hidden, weight, tokens, temperature=T)
        exact = (hidden.double() @ weight.double().T / T).log_softmax(-1)
        far.append(furthest(found, exact.gather(-1, tokens[:, None])[:, 0], tokens == tokens))
    return max(far), nats(e)


# --- the update


def ratio_is_one(e: Evidence) -> Found:
    """The root mean square of log ratios by the loop's own approx_kl, which is half of its square. The mean
    of rho - 1 - log rho rounds by 1e-7."""
    square = 2 * e.whole_update.metrics["approx_kl"]
    return math.sqrt(0.0 if square < 0 else square), 1e-3 if e.exact else NATS_16


def gradient_is_plain(e: Evidence) -> Found:
    """What the loop accumulates, beside the loss written out and transformers' backward pass."""
    return apart(e.whole_update.own, e.gradients(e.rollout.mask)), GRADIENT if e.exact else GRADIENT_16


def end_token_is_trained(e: Evidence) -> Found:
    """The gradient of an update of which the end tokens alone have one, beside the plain one."""
    rollout, eos = e.rollout, torch.tensor(e.ending.eos_ids, device=e.world.device)
    ends = torch.zeros_like(rollout.tokens, dtype=torch.bool)
    for b, n in enumerate(rollout.lengths.tolist()):
        held = torch.isin(rollout.tokens[b, :n], eos).nonzero()[:, 0].tolist()
        if held != ([n - 1] if rollout.finished[b] else []) or not (held or n == e.config.max_new_tokens):
            return math.inf, GRADIENT
        ends[b, held] = True
    if not ends.any():
        return "no response ended"
    found = e.update(trained=ends).own
    return apart(found, e.gradients(ends)), GRADIENT if e.exact else GRADIENT_16


def gradient_is_summed(e: Evidence) -> Found:
    """What the optimiser is given, beside the gathered gradients of all processes."""
    if e.world.size == 1:
        return "one process"
    update = e.whole_update
    wanted = {name: e.world.gather(g[None].double()).sum(0) for name, g in sorted(update.own.items())}
    return apart(update.applied, wanted), GRADIENT


# --- pictures


def image_tokens_are_features(e: Evidence) -> Found:
    """Of each question, beside the features that transformers makes of its pictures."""
    read = [view for question in e.questions for view in (question, question.other) if view]
    if not any(one.vision for one in read):
        return "no pictures"
    prompts = e.processor.collate(read, e.world.device)
    counts = [
        (one.ids.count(e.processor.image_token_id), e.plain.features(prompts, q))
        for q, one in enumerate(read)
    ]
    return max(abs(tokens - features) for tokens, features in counts), 0


def pictures_reach_the_reference(e: Evidence) -> Found:
    """What wiping the pictures out does to the reference, beside what it does to the base."""
    if e.reference is None:
        return "no reference at --beta 0"
    rows = [b for q, vision in enumerate(e.rollout.prompts.vision) if vision for b in e.rollout.rows([q])]
    if not rows:
        return "no pictures"
    _, ref = e.before
    _, blank = e.loop.logprobs_before(e.config, e.policy, e.reference, e.blank)
    wanted, mask, bound = (e.base.rollout - e.base.blank)[rows], e.rollout.mask[rows], 2 * nats(e)
    if (most := furthest(wanted, 0 * wanted, mask)) < 2 * bound:
        return f"pictures change the base by {most:.1e} only"
    return furthest((ref - blank)[rows], wanted, mask), bound


# --- the reference


def reference_is_base(e: Evidence) -> Found:
    """Though the policy has moved."""
    _, ref = e.before
    if ref is None:
        return "no reference at --beta 0"
    if (most := furthest(e.logprobs, e.base.rollout, e.rollout.mask)) < 2 * nats(e):
        return f"policy and base are {most:.1e} apart only"
    return furthest(ref, e.base.rollout, e.rollout.mask), nats(e)


def adapter_is_off(e: Evidence) -> Found:
    """In the reference, and on again after it."""
    if not adapters(e.policy):
        return "no adapter"
    if e.reference is None:
        return "no reference at --beta 0"
    with e.reference() as base:
        ref = model_utils.rollout_logprobs(base, e.rollout, e.config.tokens_per_forward)
    off = furthest(ref, e.base.rollout, e.rollout.mask)
    return max(off, furthest(e.score(e.rollout), e.logprobs, e.rollout.mask)), nats(e)


# --- sampling


def no_banned_token(e: Evidence) -> Found:
    """Special tokens and ids without one that may be sampled; and where everything that the policy just said
    is banned, what it says of that all the same."""
    p = e.processor
    special = {i for i, token in p.tokenizer.added_tokens_decoder.items() if token.special} | {
        p.image_token_id
    }
    special |= set(range(p.vocabulary)) - set(p.tokenizer.get_vocab().values())
    special -= set(p.eos_ids)
    banned = set(p.banned().nonzero()[:, 0].tolist())
    open_ = {i for i in special - banned if i is not None and i < p.vocabulary}
    liked = tuple(set(e.rollout.tokens[e.rollout.mask].tolist()) - set(p.eos_ids))
    again = e.sample(Sterner.than(p, liked))
    said = [i for x in (e.rollout, again) for i in x.tokens[x.mask].tolist()]
    said_again = again.tokens[again.mask].tolist()
    return len(open_) + sum(i in special for i in said) + sum(i in liked for i in said_again), 0


@torch.no_grad()
def greedy_is_generate(e: Evidence) -> Found:
    """By how much transformers' token is likelier where the two first differ: at a tie rounding decides."""
    p, worst = e.processor, 0.0
    ours = e.sample(p, temperature=0.0, top_p=1.0)
    banned = p.banned().nonzero()[:, 0].tolist()
    for b in range(0, len(ours.tokens), ours.num_samples):
        q, own = b // ours.num_samples, ours.tokens[b, : ours.lengths[b]]
        theirs = e.plain.greedy(ours.prompts, q, e.config.max_new_tokens, banned, p.eos_ids)
        n = min(len(own), len(theirs))
        differ = (own[:n] != theirs[:n]).nonzero()[:1, 0].tolist()
        if not differ and len(own) != len(theirs):
            return math.inf, nats(e)
        for at in differ:
            every = e.plain.scores(ours.prompts, q, own[: at + 1], 1.0)[at]
            worst = max(worst, float(every[theirs[at]] - every[own[at]]))
    return worst, nats(e)


# --- checkpoints


def reloaded_is_the_same(e: Evidence) -> Found:
    """A policy saved and resumed, as a run does it; by the process that writes checkpoints."""
    if not e.world.is_main:
        return "by another process"
    config = copy.copy(e.config)
    config.beta = 0.0  # the reference is not saved
    with TemporaryDirectory() as folder:
        step = Path(folder, "step-1")
        state, dtype = {"step": 1}, getattr(torch, config.save_dtype)
        model_utils.save_checkpoint(step, e.policy, e.processor, optimizer_of(e.policy), state, dtype=dtype)
        again, _ = model_utils.load_models(config, step, e.world)
        model_utils.load_checkpoint(step, again, optimizer_of(again))
    found = model_utils.rollout_logprobs(again, e.rollout, config.tokens_per_forward)
    return furthest(found, e.scored, e.rollout.mask), 1e-6


def optimizer_of(policy) -> torch.optim.AdamW:
    return torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad])


CHECKS: dict[str, Callable[[Evidence], Found]] = {
    "image tokens = image features": image_tokens_are_features,
    "cached = uncached log-probs": cached_is_uncached,
    "sampler = trainer": sampler_is_trainer,
    "shared prompt = plain": shared_prompt_is_plain,
    "padding invariance": padding_is_not_read,
    "temperature in all log-probs": temperature_is_everywhere,
    "kernel = float64": kernel_is_float64,
    "ratio 1 on the first pass": ratio_is_one,
    "gradient = plain": gradient_is_plain,
    "end token trained": end_token_is_trained,
    "gradient summed over processes": gradient_is_summed,
    "reference = base": reference_is_base,
    "adapter off in the reference": adapter_is_off,
    "pictures reach the reference": pictures_reach_the_reference,
    "no banned token sampled": no_banned_token,
    "greedy = transformers' generate": greedy_is_generate,
    "save and reload": reloaded_is_the_same,
}
