"""What a run says of itself, by measures that need no labels: a line a step, its first step, its end.

Where no terminal shows the progress bar, steps are lines on stderr, beside the warnings; what was asked and
what came out (settings, evaluations, closing tables) is on stdout. docs/log.md reads both.
Left out: what is amiss as a run goes on (health.py).
"""

import time
from collections.abc import Callable, Sequence
from statistics import fmean

from tqdm import tqdm

from common.health import advice

EVERY = 1.0  # seconds from one line to the next, at least
WINDOW = 5  # steps of each column of the closing table

LINE = (  # of a step: what it is called, the metric, its format
    ("reward", "reward", ".3f"),
    ("share", "majority_share", ".3f"),
    ("parsed", "parsed", ".3f"),
    ("kl", "kl", ".4f"),
    ("length", "response_length", ".1f"),
)
CLOSING = (  # of the closing table: the metric, its format, what it does in a sound run
    ("reward", ".3f", "up: more responses earn"),
    ("majority_share", ".3f", "up: answers agree more"),
    ("parsed", ".3f", "near 1"),
    ("entropy", ".3f", "falls, slowly; near 0 nothing new is tried"),
    ("kl", ".4f", "grows from 0; above 0.25 the base is left behind"),
    ("response_length", ".1f", "stable, or longer by more reasoning"),
    ("truncated", ".3f", "near 0"),
    ("zero_spread", ".3f", "up as answers agree; at 1 no group teaches"),
)
CAVEAT = "a collapse agrees as well: none of this says that answers are right, labels (--eval_data) do"


def shown(value: float | None, form: str) -> str:
    """A dash for what wasn't measured or is NaN."""
    return "-" if value is None or value != value else format(value, form)


def step_line(step: int, of: int, row: dict, seconds: float, left: float) -> str:
    """A finished step, by the row of metrics.jsonl; `seconds` it took and that are left."""
    figures = "  ".join(f"{name} {shown(row.get(metric), form)}" for name, metric, form in LINE)
    eta = tqdm.format_interval(round(left))
    return f"step {step:{len(str(of))}}/{of}  {figures}  {seconds:.1f} s  ETA {eta}"


class Lines:
    """Which steps have a line, and what time is left: by the mean of this process's steps, with all that
    stands between them."""

    def __init__(self, done: int, of: int, clock: Callable[[], float] = time.perf_counter):
        self.done, self.of, self.clock = done, of, clock
        self.began, self.last = clock(), float("-inf")

    def of_step(self, step: int, row: dict, seconds: float) -> str | None:
        """The first and the last step have one; another, where the last line is EVERY seconds old."""
        now = self.clock()
        if step < self.of and now - self.last < EVERY:
            return None
        self.last = now
        left = (now - self.began) / (step - self.done) * (self.of - step)
        return step_line(step, self.of, row, seconds, left)


def first_look(row: dict) -> str:
    """Whether a run's first step can teach, and if not, which flag to change."""
    found = f"{row['parsed']:.1%} of responses parsed, {row['truncated']:.1%} truncated"
    found += f", {1 - row['zero_spread']:.1%} of groups with spread (those teach)"
    return f"first step: {found}; " + ("; ".join(advice(row)) or "nothing to change")


def closing(rows: Sequence[dict], beta: float) -> str:
    """The means of the first WINDOW steps beside the last, fewer where these would meet; rows of
    metrics.jsonl, of the resumed run too. Nothing of a single step. Without `beta` no KL is measured."""
    n = min(WINDOW, len(rows) // 2)
    if not n:
        return ""
    lines = [f"{'mean of ' + str(n) + ' steps':16} {'first':>8} {'last':>8}  in a sound run"]
    for metric, form, sound in CLOSING:
        if metric != "kl" or beta:
            means = (shown(mean_of(metric, part), form) for part in (rows[:n], rows[-n:]))
            lines.append(f"{metric:16} " + " ".join(f"{mean:>8}" for mean in means) + f"  {sound}")
    return "\n".join([*lines, CAVEAT])


def mean_of(metric: str, rows: Sequence[dict]) -> float | None:
    """Over the rows that hold it."""
    values = [v for row in rows if (v := row.get(metric)) is not None and v == v]
    return fmean(values) if values else None
