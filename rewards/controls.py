"""Rewards that a result is held against. `gold` alone is handed labels; `random`, `format` and `steps` read
no answer's meaning, so what they gain is no sign of a label-free method."""

import random
import re
from collections.abc import Callable

from answers import equivalent, option_key
from answers.span import answer_spans
from rewards.group import Group


def gold_reward(group: Group, gold: dict[str, str], **_) -> list[float]:
    """Agreeing with the label."""
    label, choices = gold[group.question.id], group.question.choices
    return [float(option_key(a, choices) == label or equivalent(a, label)) for a in group.raw]


def format_reward(group: Group, **_) -> list[float]:
    """Any answer that parses."""
    return [float(key is not None) for key in group.keys]


def random_reward(group: Group, seed: int, step: int, **_) -> list[float]:
    """Coins that depend on (seed, step, question) alone."""
    rng = random.Random(f"reward {seed} {step} {group.question.id}")
    return [float(rng.random() < 0.5) for _ in group.keys]


_OPENS = re.compile(r"(?:\\(?:boxed|fbox)\s*\{?\s*|<answer>\s*)+\Z", re.IGNORECASE)  # an answer


def steps_reward(group: Group, answer_format: str, **_) -> list[float]:
    """Showing work: a word or number before the answer, whatever either says."""
    first = [(answer_spans(text, answer_format) or [(0, 0)])[0][0] for text in group.texts]
    before = [_OPENS.sub("", text[:start]) for text, start in zip(group.texts, first, strict=True)]
    return [float(re.search(r"\w", text) is not None) for text in before]


CONTROLS: dict[str, Callable[..., list[float]]]
CONTROLS = dict(gold=gold_reward, random=random_reward, format=format_reward, steps=steps_reward)
