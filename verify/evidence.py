"""What the checks look at: a few of the run's own questions, put through the loop's own functions.

The policy is first moved off the base, by a fiftieth of each weight, so that policy and reference can be
told apart, and an adapter from no adapter. Some tokens that it samples become end tokens as well, so that
responses end at different times and rows leave the batch. All else is as the run's settings say.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

import model_utils
from common.distributed import World
from common.run_log import Meter
from data.stream import Questions
from model.batch import Model
from model.families import product_dtype
from model_utils import Processor, Rollout
from rewards import views
from verify.plain import Plain, divisors, slopes

QUESTIONS, SAMPLES, TOKENS = 4, 3, 16  # of a process, of a question, of a response
MOVED = 0.02
COLDER = 0.7  # the second temperature, times the run's


class Loop(NamedTuple):
    """The loop's functions, as it calls them."""

    inputs: Callable  # LossInputs
    sample: Callable
    group_advantages: Callable
    logprobs_before: Callable
    accumulate_gradients: Callable
    apply_gradients: Callable


class Base(NamedTuple):
    """Log-probs [B, T] by the base in transformers."""

    rollout: Tensor
    blank: Tensor  # of the same responses, pictures wiped out
    colder: Tensor


class Update(NamedTuple):
    metrics: dict[str, float]
    own: dict[str, Tensor]  # gradients of this process's questions
    applied: dict[str, Tensor]  # those that the optimiser is given


def small(config, size: int):
    """The run's settings for a step of a few short responses. Clipping is as usual: with a bound of 0
    rounding would clip."""
    few, several = copy.copy(config), 0 < config.minibatch_questions < config.questions
    few.questions = QUESTIONS * size
    few.minibatch_questions = few.questions // 2 if several else 0
    few.group_size = 2 * config.views if config.views > 1 else min(config.group_size, SAMPLES)
    few.max_new_tokens = min(config.max_new_tokens, TOKENS)
    few.clip_low, few.clip_high, few.max_grad_norm = 0.2, 0.2, math.inf
    return few


@torch.no_grad()
def move(policy: Model) -> None:
    """Adds noise to what is trained: a fiftieth of its size, or of 1 where all of it is 0."""
    for n, p in enumerate(p for p in policy.parameters() if p.requires_grad):
        noise = torch.randn(p.shape, generator=torch.Generator(p.device).manual_seed(n), device=p.device)
        size = float(p.float().square().mean().sqrt())
        p.data.add_(noise.to(p.dtype), alpha=MOVED * (size or 1.0))


@dataclass(frozen=True)
class Sterner(Processor):
    """A processor that bans more."""

    more: tuple[int, ...] = ()

    def banned(self) -> Tensor:
        return super().banned().index_fill(0, torch.tensor(self.more, dtype=torch.long), True)

    @classmethod
    def than(cls, processor: Processor, more: tuple[int, ...]) -> "Sterner":
        return cls(**{f.name: getattr(processor, f.name) for f in fields(Processor)}, more=more)


class Recorder:
    """In the optimiser's place: keeps the gradients that it is given."""

    def __init__(self, policy: Model):
        self.policy = policy
        self.seen: dict[str, Tensor] = {}

    def step(self) -> None:
        self.seen = gradients_of(self.policy)


def gradients_of(policy: Model) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


class Evidence:
    """Of the run's settings. Each part is made once, when a check first asks for it."""

    policy: Model

    def __init__(self, config, world: World, loop: Loop):
        self.world, self.loop, self.config = world, loop, small(config, world.size)
        self.processor = model_utils.load_processor(
            config.model, config.min_pixels, config.max_pixels, config.system
        )
        stream = Questions(
            config.train_data, views.reader(self.processor, config.other_view), config.seed,
            config.max_prompt_tokens, config.instruction, world=world,
        )  # fmt: skip
        self.questions = stream.next(self.config.questions)
        stream.close()
        self.policy, self.reference = model_utils.load_models(config, None, world)
        move(self.policy)
        self.exact = product_dtype(self.policy) == torch.float32

    # --- what the loop does

    def sample(self, processor: Processor | None = None, questions: int = QUESTIONS, **changes) -> Rollout:
        config = copy.copy(self.config)
        for name, value in changes.items():
            setattr(config, name, value)
        asked = self.questions[:questions]
        return self.loop.sample(config, self.world, self.policy, processor or self.ending, 0, asked)[0]

    @cached_property
    def ending(self) -> Processor:
        """A processor with more end tokens: what stands in the middle of every other response."""
        first = self.sample(self.processor)
        half = (first.lengths // 2)[:, None]
        more = first.tokens.gather(1, half.clamp(max=first.tokens.shape[1] - 1))[::2, 0].tolist()
        return replace(self.processor, eos_ids=tuple(dict.fromkeys([*self.processor.eos_ids, *more])))

    @cached_property
    def rollout(self) -> Rollout:
        return self.sample()

    @cached_property
    def colder(self) -> Rollout:
        """Of one question at another temperature."""
        return self.sample(questions=1, temperature=COLDER * self.config.temperature)

    @cached_property
    def blank(self) -> Rollout:
        """The same responses to questions whose pictures are one even colour; zeros may be padding."""
        wiped = [
            {name: x.where(x == 0, 0.5) if x.is_floating_point() else x for name, x in vision.items()}
            for vision in self.rollout.prompts.vision
        ]
        return replace(self.rollout, prompts=replace(self.rollout.prompts, vision=wiped))

    @cached_property
    def before(self) -> tuple[Tensor, Tensor | None]:
        """The log-probs that the loop calls old and reference."""
        return self.loop.logprobs_before(self.config, self.policy, self.reference, self.rollout)

    @cached_property
    def scored(self) -> Tensor:
        return self.score(self.rollout)

    def score(self, rollout: Rollout) -> Tensor:
        return model_utils.rollout_logprobs(self.policy, rollout, self.config.tokens_per_forward)

    @cached_property
    def advantages(self) -> Tensor:
        """[B], of every other response right."""
        G = self.config.group_size
        rewards = (torch.arange(QUESTIONS * G) % G % 2).view(-1, G)
        return self.loop.group_advantages(rewards, self.config.scale).flatten().to(self.world.device)

    def update(self, trained: Tensor | None = None) -> Update:
        """One update by the loop, of the weights of nothing. `trained`: LossInputs'."""
        batch, meter, recorder = (
            self.loop.inputs(self.rollout, *self.before, self.advantages, trained),
            Meter(), Recorder(self.policy),
        )  # fmt: skip
        self.loop.accumulate_gradients(self.config, self.world, self.policy, batch, meter)
        own = gradients_of(self.policy)
        self.loop.apply_gradients(self.config, self.world, self.policy, recorder, meter)
        return Update(meter.means(self.world), own, recorder.seen)

    @cached_property
    def whole_update(self) -> Update:
        return self.update()

    # --- what transformers makes of it

    @cached_property
    def base(self) -> Base:
        plain, T = Plain(self.config.model, self.world.device), self.config.temperature
        pictures = any(self.rollout.prompts.vision)
        exact = plain.logprobs(self.rollout, T)
        blank = plain.logprobs(self.blank, T) if pictures else exact
        return Base(exact, blank, plain.logprobs(self.colder, COLDER * T))

    @cached_property
    def plain(self) -> Plain:
        """The policy in transformers."""
        return Plain(self.config.model, self.world.device).take(self.policy)

    @cached_property
    def logprobs(self) -> Tensor:
        return self.plain.logprobs(self.rollout, self.config.temperature)

    def gradients(self, trained: Tensor) -> dict[str, Tensor]:
        """Of the loss of the tokens `trained` [B, T]."""
        G, ref = self.config.group_size, self.base.rollout if self.reference else None
        own = self.rollout.lengths.view(-1, G).tolist()
        ranks = self.world.gather_json([own])  # questions are dealt to ranks in turn
        found = divisors(
            self.config, [n for dealt in zip(*ranks, strict=True) for group in dealt for n in group]
        )
        mine = torch.tensor(found, device=self.world.device).view(-1, self.world.size, G)[:, self.world.rank]
        per_token = slopes(self.config, self.logprobs, ref, self.advantages, mine.flatten())
        return self.plain.gradients(self.rollout, self.config.temperature, per_token * trained, self.policy)
