"""A run folder -> `Run`. Files may be missing, rows torn, fields absent or of another kind: what can be read
is shown, the rest left out."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from common import events
from common.errors import UsageError

SHOWN = 24  # training questions of a report

Point = tuple[float, float]  # (step, value)


@dataclass
class Run:
    name: str
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict] = field(default_factory=list)  # of metrics.jsonl: training steps
    base: list[dict] = field(default_factory=list)  # what the sentinels said before the first
    evaluations: list[dict] = field(default_factory=list)  # and evaluations
    rollouts: list[dict] = field(default_factory=list)  # some, spread over the run
    samples: dict[int, list[dict]] = field(default_factory=dict)  # of evaluations, by step
    events: list[dict] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # files

    @property
    def last_step(self) -> int:
        return max((row["step"] for row in (*self.rows, *self.evaluations)), default=0)

    @property
    def ended(self) -> str:
        """Why, as far as the folder says."""
        last: dict = next((e for e in reversed(self.events) if e.get("event") in ("start", "end")), {})
        if last.get("event") == "end":
            return str(last.get("why", ""))
        return "no end is noted: it was killed, or still ran" if last else "not noted"

    @property
    def stopped(self) -> str:
        """Why the run itself ended before its last step, if it did since its last start."""
        last: dict = next((e for e in reversed(self.events) if e.get("event") in ("start", "stop")), {})
        return str(last.get("why", ""))

    @property
    def environment(self) -> dict[str, str]:
        """Of its last start."""
        start: dict = next((e for e in reversed(self.events) if e.get("event") == "start"), {})
        found = start.get("environment")
        return {"started": start.get("time", ""), **found} if isinstance(found, dict) else {}

    def metrics(self) -> list[str]:
        """Names of those that are numbers, in the order in which they came."""
        names = {k: None for row in (*self.rows, *self.evaluations) for k, v in row.items() if is_number(v)}
        return [name for name in names if name != "step"]

    def points(self, metric: str) -> list[Point]:
        rows = self.evaluations if metric.startswith("eval/") else (*self.base, *self.rows)
        return [(row["step"], float(row[metric])) for row in rows if is_number(row.get(metric))]


def is_number(value) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**53
    return isinstance(value, float) and isfinite(value)


def read(folder: Path) -> Run:
    if not ((folder / "config.json").is_file() or (folder / "metrics.jsonl").is_file()):
        raise UsageError(f"{folder}: no run folder, it holds neither config.json nor metrics.jsonl")
    run = Run(folder.resolve().name)
    wanted = ("config.json", "metrics.jsonl", "rollouts.jsonl", events.NAME)
    run.missing = [name for name in wanted if not (folder / name).is_file()]
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        run.config = config if isinstance(config, dict) else {}
    except (OSError, ValueError):
        pass
    for row in rows(folder / "metrics.jsonl"):
        is_evaluation = any(name.startswith("eval/") for name in row)
        (run.evaluations if is_evaluation else run.rows if row["step"] else run.base).append(row)
    for kept in (run.rows, run.evaluations):
        kept.sort(key=lambda row: row["step"])
    run.rollouts = list(rows(folder / "rollouts.jsonl", SHOWN))
    for row in rows(folder / "evaluations.jsonl"):
        run.samples.setdefault(row["step"], []).append(row)
    run.events = list(rows(folder / events.NAME))
    return run


def rows(path: Path, most: int = 0) -> Iterator[dict]:
    """The whole rows with a step; of more than `most` that many, spread evenly with the first and the last.
    Others aren't even parsed: rows of rollouts are long."""
    if not path.is_file():
        return
    taken = None
    if most:
        with open(path, "rb") as file:
            taken = set(spread(sum(line.endswith(b"\n") for line in file), most))
    with open(path, "rb") as file:
        for number, line in enumerate(file):
            if taken is not None and number not in taken:
                continue
            try:
                row = json.loads(line.decode("utf-8", "replace"))
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int) and is_number(row["step"]):
                yield row


def spread(n: int, most: int) -> Sequence[int]:
    """Up to `most` of range(n), evenly, the first and the last among them."""
    if n <= most:
        return range(n)
    return [round(i * (n - 1) / (most - 1)) for i in range(most)]
