"""A run's files: config.json, metrics.jsonl, rollouts.jsonl, checkpoints/. They survive kill -9 at any moment.

A log row is written in one call and flushed; a torn last row is cut off when the run is resumed, and so are the rows of
steps that the resumed run will do again.
"""

import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from distributed import World


class RunFolder:
    def __init__(self, path: str):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"

    def create(self, config: dict, resume_step: int | None) -> None:
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        (self.path / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        for name in ("metrics.jsonl", "rollouts.jsonl"):
            cut_log(self.path / name, resume_step or 0)

    def append(self, name: str, row: dict) -> None:
        with open(self.path / name, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def cut_log(path: Path, steps: int) -> None:
    """Keeps the whole rows of steps up to `steps`."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            if json.loads(line)["step"] <= steps:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)


class Meter:
    """Weighted means of named numbers over a step and over all ranks."""

    def __init__(self, names: Sequence[str]):
        self.sums = {name: [0.0, 0.0] for name in names}  # fixed names: every rank reduces the same tensor

    def add(self, weight: float = 1.0, **values: float) -> None:
        for name, value in values.items():
            self.sums[name][0] += float(value) * weight
            self.sums[name][1] += weight

    def means(self, world: World) -> dict[str, float]:
        """Names that nobody added to are left out."""
        flat = torch.tensor(list(self.sums.values()), dtype=torch.float64, device=world.device)
        total = world.sum(flat).tolist()
        return {name: s / w for name, (s, w) in zip(self.sums, total, strict=True) if w}


class Stages:
    """Wall-clock seconds by stage."""

    def __init__(self):
        self.seconds: Counter = Counter()

    @contextmanager
    def __call__(self, name: str):
        started = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started


class StopSignal:
    """SIGINT and SIGTERM ask for a stop at the end of the step; a second one ends the process at once."""

    def __init__(self):
        self.asked = False
        self.old = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}

    def _ask(self, number, frame):
        if self.asked:
            os._exit(128 + number)
        self.asked = True
        print("stopping after this step (again to stop at once)", file=sys.stderr)

    def anywhere(self, world: World) -> bool:
        """On every rank alike, whichever rank was asked."""
        return bool(world.sum(torch.tensor(int(self.asked), device=world.device)))

    def restore(self) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)


def peak_memory_mb(device: torch.device) -> float:
    """Most memory held so far: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
