"""What a run writes: config.json, metrics.jsonl, rollouts.jsonl, evaluations.jsonl. They survive kill -9.
(history.jsonl is written in common/resume.py.)

A log row is written in one call; a torn last row is cut off when the run is resumed, and so are the
rows of steps that the resumed run does again. Everything here is label-free but the rows of
evaluations, which `evaluation` is handed.
"""

import errno
import hashlib
import json
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from math import log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from common import events, files, health, log_to, pulse, resume, say
from common.distributed import World
from common.errors import ModelError
from common.terminal import printable

MAX_NONFINITE = 5  # updates in a row that may be skipped for a gradient that is not finite
LOGGED_QUESTIONS = 2  # of each step, whose responses go to rollouts.jsonl
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


class RunLog:
    """The run folder, the progress bar and the meters of the step under way."""

    def __init__(self, config: dict, world: World, resumed: Path | None = None):
        """Writes nothing yet. `resumed`: the checkpoint that the run continues from."""
        self.path, self.world, self.config, self.resume = Path(config["out"]), world, config, config["resume"]
        self.checkpoints = self.path / "checkpoints"
        self.resumed = self.saved = resumed  # the last checkpoint
        self.saved_last = True  # and whether none has failed since
        pulse.here.saved = str(resumed or "")
        self.rows: list[dict] = []  # of steps
        self.watched: list[dict] = []  # those with signals of the sentinels, the base's first
        self.collapse: list[str] = []  # what says, at the last of them, that the run collapses
        self.improved = False  # whether it is the best so far, and to be kept
        self.reports: dict[int, dict] = {}
        self.sinks = log_to.Sinks()
        self.seconds: defaultdict[str, float] = defaultdict(float)  # of the step's stages
        if not self.resume and world.is_main:  # by now another rank may have made the folder
            resume.check_new(self.path)

    def open(self, done: int, nonfinite_updates: int = 0) -> None:
        """Makes the folder; of an earlier run's logs the first `done` steps stay."""
        self.nonfinite_updates, self.nonfinite_in_a_row = nonfinite_updates, 0
        if self.world.is_main:
            # first: a login that fails leaves a folder that no run has begun in
            self.sinks = log_to.opened(self.config.get("log_to", ""), self.path, self.config, done)
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            files.hold(self.checkpoints)
            resume.note_start(self.config, done)
            files.replace_text(self.path / "config.json", json.dumps(self.config, indent=1) + "\n")
            for name in ("metrics.jsonl", "rollouts.jsonl", "evaluations.jsonl"):
                cut_log(self.path / name, done)
            events.begin(self.path, done, self.world)
            print(" ".join(f"{k}={v!r}" for k, v in self.config.items()), flush=True)
            if self.resume:
                found = f"resumed from {self.resumed}" if self.resumed else "nothing to resume: starting anew"
                print(printable(found), flush=True)
        self.world.wait()
        log = self.path / "metrics.jsonl"
        rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        for row in rows:
            if "eval/pass@1" in row:
                self.reports[row["step"]] = {
                    k.removeprefix("eval/"): v for k, v in row.items() if k.startswith("eval/")
                }
            if "health/parsed" in row:
                self.watched.append(row)
            if "reward" in row:
                self.rows.append(row)
        self.best = saved_support(self.checkpoints / "best", self.watched)
        self.learned = any("grad_norm" in row for row in rows)  # by any update, of the resumed run too
        self.world.wait()

    def save(self, step: int, due: bool, state: dict, write: Callable, *what) -> None:
        """Checkpoints of this step: best, where the sentinels have seen none better, and step-N where it is
        `due`. write(folder, *what, state), in which rank 0 writes. A full disk is said, and the run goes on
        with the last good one kept; weights that are not finite end it."""
        if not (due or self.improved):
            return
        state |= {"step": step, "nonfinite_updates": self.nonfinite_updates}
        pulse.enter(step, "save")
        if self.improved and self.written(self.checkpoints / "best", 0, state, write, what):
            self.best = self.watched[-1]["health/support"]
            self.improved = False
        folder = self.checkpoints / f"step-{step}"
        if due and folder != self.saved:
            self.saved_last = self.written(folder, self.config["keep"], state, write, what)
            self.saved = folder if self.saved_last else self.saved
            pulse.here.saved = str(self.saved or "")
        self.world.wait()

    def written(self, folder: Path, keep: int, state: dict, write: Callable, what: Sequence) -> bool:
        """Whether every rank could write."""
        failed, step = 0, state["step"]
        try:
            dtype = getattr(torch, self.config["save_dtype"])
            write(folder, *what, state, keep, main=self.world.is_main, dtype=dtype)
            if folder.name != "best":
                pulse.here.saved = str(folder)  # rank 0's is what is told
        except OSError as error:
            message = f"warning: step {step} was not saved ({error}); the last checkpoint is {self.saved}"
            tqdm.write(printable(message), file=sys.stderr)
            events.note(self.path, "warning", step, text=message.removeprefix("warning: "))
            failed = 1
        except ModelError as error:
            raise Diverged(f"step {step} was not saved: {error}") from None
        return not self.world.sum(torch.tensor(failed, device=self.world.device))

    def has_report(self, step: int) -> bool:
        return step in self.reports

    def steps(self, done: int, total: int):
        """The step numbers still to do, with a progress bar on a terminal; elsewhere there are lines."""
        self.bar = tqdm(
            range(done, total), desc="training", unit="step", disable=None if self.world.is_main else True
        )
        self.lines = say.Lines(done, total)
        for step in self.bar:
            self.meter, self.seconds, self.began = Meter(), defaultdict(float), time.perf_counter()
            self.under_way = step + 1
            yield step

    @contextmanager
    def stage(self, name: str):
        pulse.enter(self.under_way, name)
        started = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started

    def count_update(self, step: int, finite: bool) -> None:
        """Updates whose gradient was not finite were skipped; too many in a row end the run."""
        self.learned |= finite
        self.nonfinite_updates += not finite
        self.nonfinite_in_a_row = 0 if finite else self.nonfinite_in_a_row + 1
        if self.nonfinite_in_a_row == MAX_NONFINITE:
            raise Diverged(f"{MAX_NONFINITE} updates in a row had no finite gradient, up to step {step}")

    def step(
        self, step: int, texts: list[str], groups: Sequence, rewards: Tensor, rollout, stream: dict,
        lr: float, signals: dict | None = None,
    ) -> None:  # fmt: skip
        """Writes the rows of a finished step, with the signals of the sentinels where they were asked.
        Collective: every rank calls it."""
        pulse.enter(step, "log")
        for group, earned in zip(groups, rewards, strict=True):
            keys, vote = group.keys, group.vote
            self.meter.add(
                reward=earned.mean(),
                majority_share=vote.share,
                vote_entropy=entropy_of(vote.counts),
                parsed=sum(k is not None for k in keys) / len(keys),
                zero_spread=float((earned == earned[0]).all()),
                abstained=float(vote.winner is None),
            )
        responses = len(rollout.lengths)
        self.meter.add(responses, response_length=rollout.lengths.float().mean())
        self.meter.add(responses, truncated=(~rollout.finished).float().mean())
        self.meter.add(responses, nonfinite_responses=rollout.nonfinite.float().mean())
        row: dict[str, Any] = {**self.meter.means(self.world)}
        if not self.config["beta"]:
            row.pop("kl", None)  # there is no reference to be far from
        row["top_answer_share"] = top_answer_share([group.vote for group in groups], self.world)
        tokens = int(self.world.sum(rollout.lengths.sum().clone()))
        seconds = time.perf_counter() - self.began
        row["tokens_per_second"] = tokens / seconds
        row |= {f"seconds/{name}": value for name, value in self.seconds.items()}
        row |= {"peak_memory_mb": peak_memory_mb(self.world.device), "lr": lr}
        row |= {name: stream[name] for name in ("bad_rows", "too_long")}
        row["nonfinite_updates"] = self.nonfinite_updates
        row |= self.watch(step, signals or {})
        self.warn(step, row)
        self.rows.append(row)
        if not self.world.is_main:
            return
        self.append("metrics.jsonl", {"step": step, **row})
        self.bar.set_postfix({k: f"{row[k]:.3f}" for k in ("reward", "majority_share")})
        line = self.lines.of_step(step, row, seconds) if self.bar.disable else None
        for said in filter(None, (line, say.first_look(row) if step == 1 else None)):
            tqdm.write(said, file=sys.stderr)
        G = self.config["group_size"]
        for p, group in enumerate(groups[:LOGGED_QUESTIONS]):
            logged = {"step": step, "id": group.question.id, "question": group.question.question}
            logged |= {"images": list(group.question.pictures), "responses": texts[p * G : (p + 1) * G]}
            logged |= {"answers": group.keys, "winner": group.vote.winner, "share": group.vote.share}
            self.append("rollouts.jsonl", logged | {"rewards": rewards[p].tolist()})

    def watch(self, step: int, signals: dict) -> dict:
        """Judges the sentinels' signals after a step, the base's at step 0 -> the signals."""
        self.improved = False
        if signals:
            self.watched.append({"step": step, **signals})
            self.collapse = health.judge(self.watched)
            keeps = self.config["stop_on_collapse"]  # a whole checkpoint, which is much to write for nothing
            self.improved = keeps and health.is_better(self.watched, self.best)
        return signals

    def base(self, signals: dict) -> None:
        """Writes the row of the base's own signals, which a run that was killed early has already."""
        known = bool(self.watched)
        self.watched.clear()
        if self.watch(0, signals) and self.world.is_main and not known:
            self.append("metrics.jsonl", self.watched[0])

    @property
    def stops(self) -> bool:
        """On every rank alike."""
        return bool(self.collapse) and self.config["stop_on_collapse"]

    def warn(self, step: int, row: dict) -> None:
        """Says what is amiss at this step, of what lasts only that it begins; all of it goes to the row."""
        lasting = health.advice(row)
        found = [*(self.collapse if "health/parsed" in row else []), *lasting]
        if share := row["nonfinite_responses"]:
            found.append(f"{share:.1%} of responses were drawn from logits that are NaN or inf")
        if found:
            row["warning"] = "; ".join(found)
        before = health.advice(self.rows[-1]) if self.rows else lasting  # the first step's: say.first_look
        new = [one for one in found if one not in before]
        if new and self.world.is_main:
            tqdm.write(f"warning, step {step}: {'; '.join(new)}", file=sys.stderr)

    def evaluation(self, step: int, result: dict, k: int) -> None:
        """Writes a row of held-out figures, which had labels and reached no reward, and their `samples`.
        Without figures nothing: a stop was asked for."""
        if not result:
            return
        samples = result.pop("samples", [])
        self.reports[step] = result
        if self.world.is_main:
            keep_samples(self.path / "evaluations.jsonl", step, samples)
            self.append("metrics.jsonl", {"step": step, **{f"eval/{n}": v for n, v in result.items()}})
            names = dict.fromkeys(("pass@1", f"maj@{k}", f"pass@{k}"))
            figures = "  ".join(f"{n} {result[n]:.3f}" for n in names)
            tqdm.write(f"step {step:4}  {figures}  ({result['questions']} questions)")
            sys.stdout.flush()  # a file would show it at the end

    def close(self, table: str = "") -> None:
        """What the run did by label-free measures; where the policy is; the table of the base beside it,
        where both were measured. Diverged where there were updates and all were skipped."""
        if self.world.is_main:
            if unlabelled := say.closing(self.rows, self.config["beta"]):
                print("\ntraining, measured without labels\n" + unlabelled + "\n", flush=True)
            if self.stops:
                step, why = self.watched[-1]["step"], "; ".join(self.collapse)
                events.note(self.path, "stop", step, why=f"stopped as it collapses: {why}")
                print(
                    f"stopped at step {step}, which collapses: {why}; lower --lr or raise --beta", flush=True
                )
            if self.saved:
                print(printable(f"the last checkpoint is {self.saved}"), flush=True)
            if self.best is not None:
                best = f"the best by its sentinels, without labels: {self.checkpoints / 'best'}"
                print(printable(best), flush=True)
            if table:
                print("\nheld-out questions, base beside trained\n" + table, flush=True)
            self.sinks.close()
        if self.nonfinite_updates and not self.learned:
            raise Diverged(
                f"none of {self.nonfinite_updates} updates had a finite gradient: nothing was learned"
            )

    def append(self, name: str, row: dict) -> None:
        if name == "metrics.jsonl":
            self.sinks.log(row)
        with open(self.path / name, "a", encoding="utf-8") as file:
            # NaN is not JSON
            file.write(json.dumps({k: None if v != v else v for k, v in row.items()}) + "\n")


def keep_samples(path: Path, step: int, samples: Sequence[dict]) -> None:
    """Those of the first evaluation and of the latest one: before and after."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    rows = [json.loads(line) for line in text.splitlines()]
    first = min((row["step"] for row in rows), default=step)
    rows = [row for row in rows if row["step"] == first != step] + [{"step": step, **s} for s in samples]
    files.replace_text(path, "".join(json.dumps(row) + "\n" for row in rows))


class Diverged(RuntimeError):
    """No finite gradient, in too many updates in a row or in all; or weights or logits not finite."""


def say_why(error: Exception, out: str) -> int:
    """Why a run ended early, in one line -> exit status 1. Errors that aren't of run or disk are raised."""
    if isinstance(error, OSError) and error.errno not in DISK_ERRORS:
        raise error
    pulse.here.ended = str(error)
    then = "continue with --resume once that is mended"
    if isinstance(error, Diverged):
        saved = pulse.here.saved
        then = f"the last checkpoint is {saved}" if saved else "there is no checkpoint yet"
    print(printable(f"error: --out {out}: {error}; {then}"), file=sys.stderr)
    return 1


def saved_support(folder: Path, rows: Sequence[dict]) -> float | None:
    """Of the step that checkpoints/best was saved at; None where none was, or these rows don't reach it."""
    try:
        step = json.loads((folder / "trainer.json").read_text())["step"]
    except (OSError, ValueError, KeyError):
        return None
    return next((row.get("health/support") for row in rows if row["step"] == step), None)


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
    files.replace_text(path, "".join(kept))


class Meter:
    """Weighted means of named numbers over a step and all ranks. A metric needs only a name."""

    def __init__(self):
        self.sums: dict[str, list[float]] = {}

    def add(self, weight: float = 1.0, **values: float | torch.Tensor) -> None:
        for name, value in values.items():
            total = self.sums.setdefault(name, [0.0, 0.0])
            total[0] += float(value) * weight
            total[1] += weight

    def means(self, world: World) -> dict[str, float]:
        """Collective. A rank may have added to none of them: it had nothing to compute."""
        totals: dict[str, list[float]] = {}
        for sums in world.gather_json([self.sums]):
            for name, (s, w) in sums.items():
                before = totals.setdefault(name, [0.0, 0.0])
                before[0] += s
                before[1] += w
        return {name: s / w for name, (s, w) in totals.items() if w}


def peak_memory_mb(device: torch.device) -> float:
    """Most memory held so far: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


# --- Label-free measures


def entropy_of(counts: Counter) -> float:
    """Of a group's parsed answers, in nats; 0 where all agree or none parsed."""
    total = sum(counts.values())
    return -sum(n / total * log(n / total) for n in counts.values())


def top_answer_share(votes: Sequence, world: World) -> float:
    """Share of the commonest pseudo-label: a collapsed policy answers different questions alike."""
    hashes = [hash_of(v.winner) if v.winner is not None else -1 for v in votes]
    everywhere = world.gather(torch.tensor(hashes, device=world.device)).tolist()
    counts = Counter(h for h in everywhere if h >= 0)
    return max(counts.values()) / len(everywhere) if counts else 0.0


def hash_of(text: str) -> int:
    """The same on every process, unlike hash(); never negative."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
