"""From responses to figures: records, reports over them, the difference of two reports, tables.

    pass@k = 1 - C(n-c, k) / C(n, k)       n samples, c right: unbiased (Chen et al. 2021,
             arXiv 2107.03374); pass@1 = c/n
    maj@n  = 1 if the commonest parsed answer is right; a tie for first counts the right one's share of it.
             Votes group as in training (answers/vote.py); by a benchmark's own keys where it has some.

What is right, and what else a benchmark scores, is said in evaluation/benchmarks.py.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from answers import Compare, answer_classes, extract_answer
from answers import compare as ours
from common import cli
from common.terminal import printable
from data import Example
from evaluation.benchmarks import (
    BENCHMARKS,
    PLAIN,
    Benchmark,
    Cell,
    is_right,
    mean_of,
    plain_key,
    recognise,
    share_right,
)

Measure = tuple[str, str]  # (group, name), see all_cells

# --- A question, a report -------------------------------------------------------------------------


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that k of the n samples, without replacement, hold one of the c right ones."""
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def majority_at_n(classes: Sequence[str | None], right: Sequence[bool]) -> float:
    """How right the commonest class is: 1 or 0, a mean where classes tie. None never votes.

    Answers of one name are one candidate, whatever grades: two that a grader holds equal to the label but the
    vote tells apart are two candidates, and a class whose answers it judges differently counts by the share
    that is right.
    """
    verdicts = defaultdict(list)
    for name, verdict in zip(classes, right, strict=True):
        if name is not None:
            verdicts[name].append(verdict)
    most = max(map(len, verdicts.values()), default=0)
    first = [sum(v) / len(v) for v in verdicts.values() if len(v) == most]
    return sum(first) / len(first) if first else 0.0


def record(
    example: Example,
    texts: Sequence[str],
    benchmark: Benchmark | None = None,
    grader: Callable | None = None,
    answer_format: str = "boxed",
    compare: Compare = ours,
) -> dict:
    """One question's row of the JSON. `answers` holds the names of their classes, so that those which vote
    together have one; `compare` makes the classes, `grader` judges."""
    benchmark = benchmark or recognise(example.meta)
    example = benchmark.prepare(example)
    answers = [extract_answer(text, answer_format) for text in texts]
    keys = [benchmark.key(example, answer) for answer in answers]
    classes = answer_classes(answers, example.choices, compare) if benchmark.key is plain_key else keys
    gold = benchmark.key(example, example.answer)
    verdicts = [
        is_right(benchmark, example, answer, key, gold, grader)
        for answer, key in zip(answers, keys, strict=True)
    ]
    right = [bool(v) for v in verdicts]
    by = benchmark.categories(example.meta)
    row = {
        "id": example.id,
        "asked": hashlib.sha256(json.dumps([example.question, example.choices]).encode()).hexdigest()[:16],
        "category": ", ".join(next(iter(by.values()), [])),
        "by": by,
        "gold": gold,
        "answers": classes,
        "right": right,
        "correct": sum(right),
        "parsed": sum(key is not None for key in keys),
        "majority": majority_at_n(classes, right),
    }
    if timed_out := verdicts.count(None):
        row["timed_out"] = timed_out
    if unit := benchmark.unit(example.meta):
        row["unit"], row["part"] = unit
    return row


def summary(records: Sequence[dict], k: int) -> dict:
    """Means over questions."""
    n = len(records)
    powers = sorted({2**i for i in range(k.bit_length()) if 2**i <= k} | {k})
    out = {f"pass@{j}": sum(pass_at_k(k, r["correct"], j) for r in records) / n for j in powers}
    out[f"maj@{k}"] = sum(r["majority"] for r in records) / n
    out["parsed"] = sum(r["parsed"] for r in records) / (n * k)
    out["questions"] = n
    return out


def report(records: Sequence[dict], k: int, benchmark: Benchmark = PLAIN) -> dict:
    """Means over all questions and by category, and the benchmark's own scores."""
    by_category: defaultdict[str, list[dict]] = defaultdict(list)
    by: defaultdict[str, defaultdict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for r in records:
        by_category[r["category"]].append(r)
        for name, values in r.get("by", {}).items():
            for value in values:
                by[name][value].append(r)
    out = summary(records, k) | {"by_category": summaries(by_category, k)}
    if by.keys() - {"category"}:
        out["by"] = {name: summaries(groups, k) for name, groups in by.items()}
    scores = {name: mean_of(cells) for name, cells in benchmark.measures(records).items()}
    return out | ({"scores": scores} if scores else {}) | benchmark.details(records)


def summaries(groups: dict[str, list], k: int) -> dict:
    return {name: summary(records, k) for name, records in sorted(groups.items())}


# --- Comparing ------------------------------------------------------------------------------------


def compare(a: dict, b: dict, resamples: int = 10_000) -> dict:
    """Paired differences b - a with bootstrap 95 % intervals. Raises UsageError where the two
    measured different things.

    Drawn anew are units, whose questions hang together: the composites of We-Math, the problems of
    MathVerse, else questions. One draw serves every measure.
    """
    for what in ("benchmark", "grader"):
        of_a, of_b = (x.get(what, {"benchmark": "plain", "grader": "ours"}[what]) for x in (a, b))
        if of_a != of_b:
            raise cli.UsageError(
                f"--compare: A has {what} {of_a}, B {of_b}; measure both with the same --{what}"
            )
    left, right = ({r["id"]: r for r in x["records"]} for x in (a, b))
    ids = sorted(left.keys() & right.keys())
    if not ids:
        raise cli.UsageError("--compare: the two files share no question")
    if alone := len(left) + len(right) - 2 * len(ids):
        raise cli.UsageError(
            f"--compare: {alone} questions are in one file only; measure both with the same --data, "
            "--split and --limit"
        )
    for i in ids:
        if ("asked" in left[i]) != ("asked" in right[i]):
            raise cli.UsageError(
                "--compare: the files were written by different versions of eval.py; measure both anew"
            )
        if any(left[i].get(name) != right[i].get(name) for name in ("gold", "asked", "by", "unit", "part")):
            raise cli.UsageError(
                f"--compare: question {i} is not the same in both files; measure both on the same --data"
            )
    samples = {len(r["answers"]) for x in (left, right) for r in x.values()}
    if len(samples) > 1:
        raise cli.UsageError(
            f"--compare: {sorted(samples)} samples a question; measure both with the same --num_samples"
        )
    benchmark = BENCHMARKS.get(a.get("benchmark", ""), PLAIN)
    before, after = (all_cells([x[i] for i in ids], benchmark) for x in (left, right))
    differences = {
        name: [
            (unit, stratum, v - u)
            for (unit, stratum, u), (_, _, v) in zip(before[name], after[name], strict=True)
        ]
        for name in before
    }
    found: dict[str, Any] = {"questions": len(ids), "settings": differing(a, b)}
    found |= {"scores": {}, "by": defaultdict(dict)}
    for (group, name), interval in intervals(differences, resamples).items():
        place = {"": found, "scores": found["scores"]}.get(group)
        (found["by"][group] if place is None else place)[name] = interval
    return found


def differing(a: dict, b: dict) -> dict[str, list]:
    """Settings in which two results differ, which may be meant: {name: [A's, B's]}."""
    left, right = (x.get("config", {}) for x in (a, b))
    names = sorted((left.keys() & right.keys()) - {"out", "preset", "model", "data", "benchmark", "compare"})
    return {name: [left[name], right[name]] for name in names if left[name] != right[name]}


def all_cells(records: Sequence[dict], benchmark: Benchmark) -> dict[Measure, list[Cell]]:
    """{(group, name): cells} of every measure: group "" for pass@1 and maj, "scores", or a
    categorisation (its pass@1)."""
    cells = defaultdict(list)
    for r in records:
        unit = r.get("unit", r["id"])
        cells["", "pass@1"].append((unit, "", share_right(r)))
        cells["", "maj"].append((unit, "", r["majority"]))
        for name, values in r.get("by", {}).items():
            for value in filter(None, values):
                cells[name, value].append((unit, "", share_right(r)))
    return dict(cells) | {("scores", name): c for name, c in benchmark.measures(records).items() if c}


def intervals(measures: dict[Measure, list[Cell]], resamples: int) -> dict[Measure, dict]:
    """{measure: mean with 95 % interval over draws of units}, all measures on the same draws."""
    units = {
        unit: i
        for i, unit in enumerate(sorted({unit for cells in measures.values() for unit, _, _ in cells}))
    }
    columns: dict[tuple[Measure, str], int] = {}
    for name, cells in measures.items():
        for _, stratum, _ in cells:
            columns.setdefault((name, stratum), len(columns))
    totals, counts = np.zeros((2, len(units), len(columns)))
    for name, cells in measures.items():
        for unit, stratum, value in cells:
            totals[units[unit], columns[name, stratum]] += value
            counts[units[unit], columns[name, stratum]] += 1
    rng, U = np.random.default_rng(0), len(units)
    draws = []  # means of each column, a draw a row
    for start in range(0, resamples, 256):
        rows = min(256, resamples - start)
        picks = rng.integers(0, U, (rows, U)) + U * np.arange(rows)[:, None]
        times = np.bincount(picks.ravel(), minlength=rows * U).reshape(rows, U).astype(float)
        with np.errstate(invalid="ignore"):  # a small category may be in no unit of a draw
            draws.append((times @ totals) / (times @ counts))
    drawn = np.concatenate(draws)
    out = {}
    for name, cells in measures.items():
        mine = [column for (measure, _), column in columns.items() if measure == name]
        low, high = np.nanquantile(drawn[:, mine].mean(1), (0.025, 0.975))
        out[name] = {
            "difference": mean_of(cells),
            "low": float(low),
            "high": float(high),
            "questions": len(cells),
        }
    return out


# --- Tables ---------------------------------------------------------------------------------------


def table(columns: dict[str, dict], k: int, by: str = "") -> str:
    """Reports side by side, by category or another categorisation: pass@1, maj@k, pass@k."""
    measures = list(dict.fromkeys(("pass@1", f"maj@{k}", f"pass@{k}")))
    groups = [c["by"].get(by, {}) if by else c["by_category"] for c in columns.values()]
    wide = max(12, *(len(printable(name)) + 1 for name in (by, *groups[0])))
    head = f"{'':{wide}}" + "".join(f"{name:>{9 * len(measures)}}" for name in columns)
    lines = [
        head,
        f"{by or 'category':{wide}}" + "".join(f"{m:>9}" for _ in columns for m in measures) + "  questions",
    ]
    for category in [*groups[0], None]:
        parts = list(columns.values()) if category is None else [g.get(category, {}) for g in groups]
        cells = "".join(f"{p.get(m, math.nan):>9.3f}" for p in parts for m in measures)
        shown = "all" if category is None else printable(category) or "-"
        lines.append(f"{shown:{wide}}{cells}{parts[0].get('questions', 0):>11}")
    return "\n".join(lines)


def score_lines(result: dict) -> str:
    """The benchmark's own scores, and who graded."""
    lines = [f"{name:20}{value:.4f}" for name, value in result.get("scores", {}).items() if value is not None]
    lines += [f"{name:20}{result[name]}" for name in ("composites", "incomplete") if name in result]
    late = f", {result['timed_out']} comparisons timed out and count as wrong" if result["timed_out"] else ""
    return "\n".join([*lines, f"benchmark {result['benchmark']}, graded by {result['grader']}{late}"])


def comparison_lines(result: dict) -> str:
    rows = [("", name, result[name]) for name in ("pass@1", "maj")]
    rows += [("", name, d) for name, d in result["scores"].items()]
    rows += [
        (f"{name} ", value, d) for name, groups in result["by"].items() for value, d in sorted(groups.items())
    ]
    wide = max(len(group + name) for group, name, _ in rows)
    lines = [
        f"{group + name:{wide}} {d['difference']:+.4f}  [{d['low']:+.4f}, {d['high']:+.4f}]"
        f"  over {d['questions']}"
        + ("" if group else " questions" if name in ("pass@1", "maj") else " values")
        for group, name, d in rows
    ]
    return "\n".join(
        lines + [f"note: --{name} was {a} in A and {b} in B" for name, (a, b) in result["settings"].items()]
    )
