"""Sentinels: unlabelled questions kept out of training, which the policy answers every few steps.

The first usable questions of the stream, which from then on gives them to nobody. The base answers them
before the first update, and those answers are part of every checkpoint's state. The draws are always those of
step 0, so that what differs from the base's answers differs by training alone. What the answers say:
common/health.py.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from answers import Compare, answer_classes, compare, extract_answer
from common import health, pulse
from common.cli import flag, require
from common.distributed import World
from data.stream import Questions
from model.answer_tokens import answer_tokens
from model_utils import Processor, Rollout, gathered, generate, rollout_logprobs

SAMPLES = 8  # of each sentinel
VOTERS = 24  # of the base, behind those: were they the same, its vote would look better kept than it is
OF_ALL = 4  # at most a quarter of a source with an end


@dataclass
class Watching:
    sentinels: int = flag(
        24, "unlabelled questions kept out of training, to see a collapse; 0: none", "0 or more"
    )
    sentinel_every: int = flag(5, "steps between their answers", "at least 1")
    stop_on_collapse: bool = flag(
        False, "end the run where they say that it collapses; checkpoints/best stays"
    )

    def __post_init__(self):
        super().__post_init__()  # type: ignore[misc]  # of the settings that this is mixed into
        watched = self.sentinels > 0 or not self.stop_on_collapse
        require(self, "stop_on_collapse", watched, "given with --sentinels: nothing else sees one")


class Sentinels:
    def __init__(
        self, config, processor: Processor, world: World, stream: Questions, state: dict,
        compare: Compare = compare,
    ):  # fmt: skip
        """`config`: that of a run. `state`: of the run, which goes on where it is past step 0."""
        self.config, self.processor, self.world, self.compare = config, processor, world, compare
        saved = state.get("sentinels", {})
        self.base: list[list[str | None]] = saved.get("base", [])  # what the base answered, of all sentinels
        most = config.sentinels
        if stream.size is not None:  # what is left must do for a step
            most = min(most, stream.size // OF_ALL, max(0, stream.size - config.questions))
        count = len(self.base) if state["step"] else most
        stream.hold(count)
        # a process without one of its own answers another's
        self.mine = list(range(world.rank, count, world.size)) or [world.rank % count] if count else []
        self.questions = [stream.read_held(place) for place in self.mine]

    def state(self) -> dict:
        return {"base": self.base}

    def is_due(self, step: int) -> bool:
        return bool(self.mine) and (step % self.config.sentinel_every == 0 or step == self.config.steps)

    def look(self, policy, reference: Callable | None, step: int) -> dict[str, float]:
        """The signals of the policy after this step; none where no look is due. Collective."""
        if not self.is_due(step):
            return {}
        pulse.enter(step, "sentinels")
        began = time.perf_counter()
        rollout = self.ask(policy)
        raw = [extract_answer(text, self.config.answer_format) for text in rollout.texts(self.processor)]
        drift = self.drift(reference, rollout) if reference and step else [[]] * len(self.mine)
        base, now, length, *sums = self.together(rollout, raw, drift)
        found = health.signals(base, now) | {"length": health.mean(length)} | health.per_token(*sums)
        took = {"seconds/sentinels": time.perf_counter() - began}
        return {f"health/{name}": value for name, value in found.items()} | took

    def ask(self, policy) -> Rollout:
        """SAMPLES answers to each, by the same draws at every step; of the base's VOTERS more."""
        c, samples = self.config, SAMPLES if self.base else SAMPLES + VOTERS
        prompts = self.processor.collate(self.questions, self.world.device)
        with gathered(policy):
            return generate(
                policy, self.processor, prompts, samples, c.max_new_tokens, c.temperature, c.top_p, c.seed, 0
            )

    def together(self, rollout: Rollout, raw: list[str | None], drift: list[list[float]]) -> list[tuple]:
        """Of all processes' sentinels: classes of the base's answers and of these, mean lengths, `drift`."""
        G = rollout.num_samples
        answers = [raw[i : i + G] for i in range(0, len(raw), G)]
        if not self.base:
            voted = [[place, a[SAMPLES:]] for place, a in zip(self.mine, answers, strict=True)]
            self.base = [votes for _, votes in self.gather(voted)]
        lengths = rollout.lengths.view(-1, G)[:, :SAMPLES].float().mean(1).tolist()
        rows = []
        for n, (place, question) in enumerate(zip(self.mine, self.questions, strict=True)):
            classes = answer_classes(self.base[place] + answers[n][:SAMPLES], question.choices, self.compare)
            rows.append([place, classes[:-SAMPLES], classes[-SAMPLES:], lengths[n], *drift[n]])
        return list(zip(*self.gather(rows), strict=True))[1:]

    def gather(self, rows: list) -> list:
        """[place, ..] of all processes, a place once, in order."""
        return [row for _, row in sorted({row[0]: row for row in self.world.gather_json(rows)}.items())]

    def drift(self, reference: Callable, rollout: Rollout) -> list[list[float]]:
        """Of each question [KL in the answer, its tokens, KL of the rest, its tokens], summed over samples.

        KL(policy || base) of a token is estimated by logp - ref (Schulman 2020, k1).
        """
        with reference() as base:
            ref = rollout_logprobs(base, rollout, self.config.tokens_per_forward)
        inside = answer_tokens(rollout, self.processor, self.config.answer_format)
        d, sums = (rollout.logprobs - ref).double(), []
        for mask in (inside, rollout.mask & ~inside):
            sums += [d.where(mask, 0.0), mask.double()]
        return torch.stack([x.view(len(self.mine), -1).sum(1) for x in sums], 1).tolist()
