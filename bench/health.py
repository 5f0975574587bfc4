"""Is a collapse seen in time, and a healthy run left alone? `python -m bench.health --work runs/health`

Judges finished runs by the signals in their metrics.jsonl, with the function that a run itself uses
(common/health.py), so limits are tuned without a new run: `--limits support=.06 agreement=.1`. A run counts
as healthy where its folder's name begins with `healthy`. Their evaluations, every few steps on labelled
validation questions, are the truth that signals are held against, and reach no signal.

`--run` makes the runs first, where they are missing: healthy ones of every base, seed and rate, and ways to
collapse (COLLAPSING). Two at a time, one thread each; a run that was ended goes on.
"""

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from tqdm import tqdm

from bench.learning import python
from common import cli, health
from common.cli import flag
from data import TINY, load

FALL = 0.02  # of pass@1 below its highest: from here on a run should stop
IN_TIME = 5  # steps after that
CLOSE = 0.01  # to the best pass@1: as far as a kept checkpoint may be below it
RATES = ("5e-5", "1e-4", "2e-4")  # of healthy runs
COLLAPSING = {  # flags beside a base and a seed
    "lr1e-3": ["--lr", "1e-3"],
    "lr2e-3": ["--lr", "2e-3"],
    "lr5e-3": ["--lr", "5e-3"],
    "few": ["--lr", "5e-4", "--questions", "16", "--train_data", "FEW"],
    "beta0": ["--lr", "1e-3", "--beta", "0"],
    "published": ["--lr", "1e-3", "--vote", "published"],
}
FEW = 64  # questions, of which a quarter are sentinels


@dataclass
class Health:
    work: str = flag("runs/health", "folder of the runs")
    limits: list[str] = flag([], "other limits, NAME=VALUE; NAME= without one leaves that sign out")
    run: bool = flag(False, "make the runs that are missing")
    bases: list[str] = flag([str(TINY)], "with --run: checkpoints that runs begin from")
    seeds: int = flag(2, "with --run: training seeds of each base and setting", "at least 1")
    steps: int = flag(60, "with --run", "at least 1")
    data: str = flag("tiny", "with --run: training questions")
    hard: str = flag(
        "", "with --run: questions whose vote is mostly wrong, for runs of their own; empty: none"
    )
    eval_data: str = flag("tiny:validation", "with --run: labelled questions, every --sentinel_every steps")
    eval_questions: int = flag(256, "with --run: of these", "at least 1")
    sentinel_every: int = flag(5, "with --run", "at least 1")
    workers: int = flag(2, "with --run: runs at a time, one thread each", "at least 1")
    extra: str = flag("", "with --run: more flags for every run, in one string")
    out: str = flag("", "JSON file for the figures")


# --- Judging finished runs ------------------------------------------------------------------------


class Verdict(NamedTuple):
    name: str
    stopped: int | None  # the step; None: it ran to its end
    why: str
    fell: int | None  # the first step whose pass@1 is FALL below the highest until then
    kept: int  # the step of checkpoints/best, as it was when the run stopped
    of_kept: float  # its pass@1, at the last evaluation up to it
    best: float  # the highest pass@1 of the whole run
    cost: float  # seconds of sentinels, the base's votes too, beside all others of the steps

    @property
    def healthy(self) -> bool:
        return self.name.startswith("healthy")

    @property
    def in_time(self) -> bool:
        return self.stopped is not None and (self.fell is None or self.stopped <= self.fell + IN_TIME)

    @property
    def close(self) -> bool:
        return self.of_kept >= self.best - CLOSE


def stop_of(rows: Sequence[dict], limits: dict[str, float]) -> tuple[int, list[str]]:
    """(rows up to the one at which --stop_on_collapse ends the run, why); all rows and nothing where none."""
    for n in range(1, len(rows) + 1):
        if why := health.judge(rows[:n], limits):
            return n, why
    return len(rows), []


def fall_of(measured: dict[int, float]) -> int | None:
    """By pass@1 at steps."""
    highest = 0.0
    for step, value in sorted(measured.items()):
        highest = max(highest, value)
        if value < highest - FALL:
            return step
    return None


def verdict(name: str, rows: Sequence[dict], limits: dict[str, float]) -> Verdict:
    """Of a run's rows of metrics.jsonl."""
    watched = [row for row in rows if "health/parsed" in row]
    measured = {row["step"]: row["eval/pass@1"] for row in rows if "eval/pass@1" in row}
    n, why = stop_of(watched, limits)
    kept = health.best(watched[:n], limits)["step"]
    of_kept = measured[max(step for step in measured if step <= kept)]
    stages = [(k, v) for row in rows for k, v in row.items() if k.startswith("seconds/")]
    own = sum(v for k, v in stages if k == "seconds/sentinels")
    cost = own / max(1e-9, sum(v for _, v in stages) - own)
    stopped = watched[n - 1]["step"] if why else None
    return Verdict(
        name, stopped, "; ".join(why), fall_of(measured), kept, of_kept, max(measured.values()), cost
    )


def verdicts(work: Path, limits: dict[str, float]) -> list[Verdict]:
    found = []
    for path in sorted(work.glob("*/metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if any("health/parsed" in row for row in rows) and any("eval/pass@1" in row for row in rows):
            found.append(verdict(path.parent.name, rows, limits))
        else:
            print(f"{path.parent}: left out, it holds no sentinels or no evaluation", file=sys.stderr)
    return found


def summary(found: Sequence[Verdict]) -> dict[str, float]:
    """Counts, of collapsing runs of those whose pass@1 fell at all: the others gave nothing to see."""
    healthy = [v for v in found if v.healthy]
    fallen = [v for v in found if not v.healthy and v.fell is not None]
    return {
        "healthy": len(healthy),
        "false stops": sum(v.stopped is not None for v in healthy),
        "healthy, kept close to the best": sum(v.close for v in healthy),
        "collapsing": sum(not v.healthy for v in found),
        "fallen": len(fallen),
        "stopped in time": sum(v.in_time for v in fallen),
        "kept close to the best": sum(v.close for v in fallen),
        "cost": fmean(v.cost for v in found),
    }


def table(found: Sequence[Verdict]) -> str:
    wide = max(len(v.name) for v in found) + 2
    head = f"{'':{wide}}{'stopped':>8}{'fell':>6}{'kept':>6}{'pass@1':>8}{'best':>7}{'cost':>7}  why"
    lines = [head]
    for v in found:
        stopped, fell = ("-" if x is None else x for x in (v.stopped, v.fell))
        lines.append(
            f"{v.name:{wide}}{stopped:>8}{fell:>6}{v.kept:>6}{v.of_kept:>8.3f}{v.best:>7.3f}{v.cost:>7.1%}"
            f"  {v.why}"
        )
    figures = [f"{k} {v:.1%}" if k == "cost" else f"{k} {v}" for k, v in summary(found).items()]
    return "\n".join([*lines, "", ", ".join(figures)])


def limits_of(words: Sequence[str]) -> dict[str, float]:
    """health.LIMITS with those of --limits."""
    limits = dict(health.LIMITS)
    for word in words:
        name, equals, value = word.partition("=")
        try:
            limits[name], _ = float(value or 0), health.SIGNS[name]
        except (KeyError, ValueError):
            raise cli.UsageError(
                f"--limits {word}: NAME=VALUE of {', '.join(health.SIGNS)} is wanted"
            ) from None
        if not equals or not value:
            del limits[name]
    return limits


# --- Making them ----------------------------------------------------------------------------------


def plan(s: Health) -> dict[str, list[str]]:
    """Run folder -> its flags."""
    settings = {f"healthy-lr{rate}": ["--lr", rate] for rate in RATES}
    settings |= {f"collapse-{name}": flags for name, flags in COLLAPSING.items()}
    settings |= {"collapse-hard": ["--lr", "1e-3", "--train_data", s.hard]} if s.hard else {}
    few = str(Path(s.work) / "few.jsonl")
    found = {}
    for name, flags in settings.items():
        flags = [few if word == "FEW" else word for word in flags]
        data = [] if "--train_data" in flags else ["--train_data", s.data]
        for base in s.bases:
            for seed in range(s.seeds):
                own = ["--model", base, "--seed", str(seed)]
                found[f"{name}-{Path(base).name}-{seed}"] = [*own, *data, *flags]
    return found


def write_few(s: Health) -> None:
    """FEW questions of --data with their pictures, without answers."""
    folder, examples = Path(s.work), load(s.data)
    (folder / "few").mkdir(parents=True, exist_ok=True)
    rows = []
    for n in range(FEW):
        example, names = examples[n], []
        for i, image in enumerate(example.images):
            names.append(f"few/{n}-{i}.png")
            image.save(folder / names[-1])
        row = {"id": str(n), "question": example.question, "images": names, "choices": list(example.choices)}
        rows.append({k: v for k, v in row.items() if v})
    (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def train(s: Health, name: str, flags: Sequence[str]) -> None:
    out = Path(s.work) / name
    if not (out / "checkpoints" / f"step-{s.steps}").exists():
        every = ["--sentinel_every", s.sentinel_every, "--eval_every", s.sentinel_every]
        python(
            "mmupt.py", "--out", out.resolve(), "--resume", "auto", "--steps", s.steps, "--keep", 1, *every,
            "--eval_data", s.eval_data, "--eval_questions", s.eval_questions, *flags, *s.extra.split(),
            log=Path(s.work) / f"{name}.log",
        )  # fmt: skip


def make(s: Health) -> None:
    write_few(s)
    runs = plan(s)
    with ThreadPoolExecutor(s.workers) as pool:
        jobs = [pool.submit(train, s, name, flags) for name, flags in runs.items()]
        for job in tqdm(jobs, desc="runs", unit="run", disable=None):
            job.result()


def main(argv: list[str]) -> int:
    s = cli.parse(Health, argv)
    cli.check(s)
    s.work = str(Path(s.work).resolve())
    limits = limits_of(s.limits)
    if s.run:
        make(s)
    found = verdicts(Path(s.work), limits)
    if not found:
        raise cli.UsageError(f"--work {s.work} holds no run with sentinels and evaluations: --run makes them")
    print(table(found))
    if s.out:
        figures = {"limits": limits, "summary": summary(found), "runs": [v._asdict() for v in found]}
        Path(s.out).write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    cli.run(main)
