"""--reward as it is written: a name, FILE.py:FUNCTION, or several with their weights.

    majority        frequency:1,format:0.1        majority:1,mine.py:short:0.2

A file is the user's own program, run as such. A function is called as `f(group, **context)` and gives a
number for each response; `group` is a Group (rewards/group.py), the context vote, seed, step, answer_format,
and more one day. Labels reach `gold` alone, by its name.
"""

import importlib.util
import math
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.errors import UsageError, first_line
from rewards.group import Group

Reward = Callable[..., list[float]]


class Part(NamedTuple):
    name: str  # as written, without its weight
    function: Reward
    weight: float


_PART = re.compile(r"(?:(?P<file>[^:]+\.py):(?P<function>\w+)|(?P<name>\w+))(?::(?P<weight>[^:]*))?")


def parse_reward(written: str, table: Mapping[str, Reward]) -> list[Part]:
    """Raises UsageError. `table`: the rewards that have names."""
    parts = []
    for word in (word.strip() for word in written.split(",")):
        found = _PART.fullmatch(word)
        if not found or (found["name"] and found["name"] not in table):
            known = f"{', '.join(table)} or FILE.py:FUNCTION, alone or as a:1,b:0.2"
            raise UsageError(f"--reward must be one of {known} (got {word or 'nothing'})")
        name = found["name"] or f"{found['file']}:{found['function']}"
        function = table[name] if found["name"] else load(found["file"], found["function"])
        parts.append(Part(name, function, weight_of(name, found["weight"])))
    return parts


def weight_of(name: str, written: str | None) -> float:
    try:
        weight = 1.0 if written is None else float(written)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise UsageError(f"--reward {name}: its weight must be a finite number (got {written or 'nothing'})")
    return weight


def load(file: str, function: str) -> Reward:
    """A function of the user's file."""
    if not Path(file).is_file():
        raise UsageError(f"--reward {file}:{function}: no such file {file}")
    try:
        module = module_of(str(Path(file).resolve()))
    except BaseException as error:  # noqa: BLE001  the file is a program, and may even exit
        if isinstance(error, KeyboardInterrupt):
            raise
        raise UsageError(f"--reward {file}:{function}: {file} doesn't load: {said(error, file)}") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise UsageError(f"--reward {file}:{function}: {file} has no function {function}")
    return found


@cache
def module_of(path: str) -> ModuleType:
    """Run once a process, however many functions of it are used."""
    spec: Any = importlib.util.spec_from_file_location(f"reward {path}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def said(error: BaseException, file: str) -> str:
    """An error in one line, with the last line of the file that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"line {f.lineno}: " for f in frames if Path(f.filename).name == Path(file).name]
    return f"{(lines or [''])[-1]}{type(error).__name__}: {first_line(error)}"  # type: ignore[arg-type]


def reads_labels(written: str) -> bool:
    return any(word.strip().partition(":")[0] == "gold" for word in written.split(","))


def total_rewards(
    groups: Sequence[Group], config, table: Mapping[str, Reward], gold: dict[str, str], step: int
) -> Tensor:
    """sum_k weight_k r_k, [P, G]; with a gate nobody earns in a group that abstains, whatever the reward."""
    parts = parse_reward(config.reward, table)
    known = dict(vote=config.vote, seed=config.seed, step=step, answer_format=config.answer_format)
    rewards = []
    for group in groups:
        total = [0.0] * len(group.keys)
        if config.gate == "none" or group.vote.winner is not None:
            for part in parts:
                own = numbers(part, group, known | ({"gold": gold} if part.name == "gold" else {}))
                total = [t + part.weight * r for t, r in zip(total, own, strict=True)]
        rewards.append(total)
    return torch.tensor(rewards)


def numbers(part: Part, group: Group, context: dict[str, Any]) -> list[float]:
    """What a reward gives, checked: a finite number for each response."""
    where = f"--reward {part.name}, question {group.question.id}"
    try:
        given = list(part.function(group, **context))
    except Exception as error:
        raise UsageError(f"{where}: {said(error, part.name.partition(':')[0])}") from error
    if len(given) != len(group.keys):
        raise UsageError(f"{where}: it gave {len(given)} numbers for {len(group.keys)} responses")
    for i, value in enumerate(given):
        try:
            given[i] = float(value)
        except (TypeError, ValueError):
            given[i] = math.nan
        if not math.isfinite(given[i]):
            raise UsageError(f"{where}: it gave {value!r} for response {i}, which is no finite number")
    return given
