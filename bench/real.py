"""Real weights, trained without labels: `make real`

SmolLM2-135M-Instruct (programs/smollm.py) answers sums and products of small numbers
(programs/arithmetic.py) in words; the last number is read. It is trained on one part of the facts and
measured on another. Instruction, temperature, length and rate were chosen on the validation file, which
no figure here is of.

Beside label-free training, from the same budget: gold labels, a reward that is a coin (what training
alone gives) and one for any number at all (what the form gives). And what no training is needed for:
the base decoded greedily, at T = 0.3, and its votes over 8 samples.

Adapters are trained (LoRA), so that two runs fit beside one another. Two programs at a time, one thread
each; what is finished is kept in runs/real and not done again. Writes bench/results/real.{json,md}.
"""

import json
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bench.learning import RESULTS, ROOT, interval, python
from bench.machine import describe_machine
from common import cli
from common.cli import flag
from mmupt import REWARDS
from programs import arithmetic

SAMPLED, TEMPERATURE = "T .5", 0.5  # of training, and of the votes
ASKED = ["--instruction", " Answer with a number only.", "--answer_format", "last_number"]
LENGTH = 16  # tokens; a response of the base has 12
DECODINGS = {"greedy": (0, 1), "T .3": (0.3, 8), SAMPLED: (TEMPERATURE, 8)}  # (temperature, samples)


@dataclass
class Real:
    steps: int = flag(24, "training steps of 12 questions x 8 samples", "at least 1")
    rewards: list[str] = flag(["majority", "gold", "random", "format"], "what is trained with; a run each")
    seeds: int = flag(1, "training seeds of each", "at least 1")
    limit: int = flag(0, "questions of a measurement; 0 is all; else a trial, in another --work", "0 or more")
    work: str = flag(str(ROOT / "runs" / "real"), "folder of checkpoint, questions and runs")
    workers: int = flag(2, "programs at a time, one thread each", "at least 1")
    extra: str = flag("", "more flags for every training, in one string")

    def __post_init__(self):
        cli.check(self)
        for name in self.rewards:
            cli.require(self, "rewards", name in REWARDS, f"some of {', '.join(REWARDS)}")


def timed(settings: Real, name: str, done: Path, *argv) -> None:
    """A program that leaves `done`, unless it has; its seconds stand in NAME.seconds."""
    if not done.exists():
        start = time.monotonic()
        python(*argv, log=Path(settings.work) / f"{name}.log")
        (Path(settings.work) / f"{name}.seconds").write_text(f"{time.monotonic() - start:.1f}")


def measure(settings: Real, name: str, model: Path, decoding: str) -> None:
    temperature, samples = DECODINGS[decoding]
    work, stem = Path(settings.work), f"{name}-{decoding.replace(' .', '')}"
    timed(
        settings, stem, work / f"{stem}.json",
        "eval.py", "--model", model, "--data", work / "test.jsonl", "--temperature", temperature,
        "--num_samples", samples, "--limit", settings.limit, "--out", work / f"{stem}.json",
        "--max_new_tokens", LENGTH, *ASKED,
    )  # fmt: skip


def train(settings: Real, reward: str, seed: int) -> None:
    """Trains an adapter and merges it."""
    work, name = Path(settings.work), f"{reward}-{seed}"
    adapter = work / name / "checkpoints" / f"step-{settings.steps}"
    timed(
        settings, name, adapter,
        "mmupt.py", "--model", work / "base", "--train_data", work / "train.jsonl", "--eval_data", "",
        "--out", work / name, "--resume", "auto", "--reward", reward, "--seed", seed,
        "--steps", settings.steps, "--questions", 12, "--group_size", 8, "--temperature", TEMPERATURE,
        "--lora_rank", 16, "--lr", 1e-4, "--warmup_steps", 4, "--sentinels", 0, "--tokens_per_forward", 2048,
        "--save_every", 4, "--keep", 1, "--max_new_tokens", LENGTH, *ASKED, *settings.extra.split(),
    )  # fmt: skip
    merged = work / f"{name}-merged"
    timed(
        settings, f"{name}-merged", merged,
        "-m", "programs.merge_adapter", "--adapter", adapter, "--out", merged,
    )  # fmt: skip


def names(settings: Real) -> list[str]:
    return ["base", *(f"{reward}-{seed}" for reward in settings.rewards for seed in range(settings.seeds))]


def work_through(settings: Real) -> None:
    """Everything in an order in which two programs can stand beside each other."""
    work = Path(settings.work)
    arithmetic.write(work)
    timed(settings, "convert", work / "base" / "config.json", "-m", "programs.smollm", "--out", work / "base")
    runs = [(reward, seed) for reward in settings.rewards for seed in range(settings.seeds)]
    total = len(runs) + len(DECODINGS) * (1 + len(runs))
    with (
        ThreadPoolExecutor(settings.workers) as pool,
        tqdm(total=total, desc="real", unit="run", disable=None) as bar,
    ):
        jobs = [pool.submit(measure, settings, "base", work / "base", d) for d in DECODINGS]
        jobs += [pool.submit(train, settings, reward, seed) for reward, seed in runs]
        for job in jobs:
            job.result()
            bar.update()
        jobs = [
            pool.submit(measure, settings, name, work / f"{name}-merged", d)
            for name in names(settings)[1:]
            for d in DECODINGS
        ]
        for job in jobs:
            job.result()
            bar.update()


# --- figures


def read(settings: Real, name: str, decoding: str) -> dict:
    return json.loads((Path(settings.work) / f"{name}-{decoding.replace(' .', '')}.json").read_text())


def by_fact(records: list[dict]) -> np.ndarray:
    """pass@1 of each fact: its questions, in two orders and wordings, stand and fall together."""
    found = defaultdict(list)
    for record in records:
        kind, x, y, _ = record["id"].split("-")
        found[kind, *sorted((int(x), int(y)))].append(record["correct"] / len(record["answers"]))
    return np.array([np.mean(found[fact]) for fact in sorted(found)])


def gain(settings: Real, name: str, decoding: str, of_base: str) -> dict:
    """pass@1 of a trained model less that of the base, with a bootstrap 95 % interval over facts."""
    before, after = (
        by_fact(read(settings, *which)["records"]) for which in (("base", of_base), (name, decoding))
    )
    low, high = interval((after - before)[None])
    return {"mean": float((after - before).mean()), "low": float(low), "high": float(high)}


def figures(settings: Real, name: str) -> dict:
    out = {}
    for decoding, (_, samples) in DECODINGS.items():
        found = read(settings, name, decoding)
        out[decoding] = found["pass@1"]
        if samples > 1:
            out[f"maj@8, {decoding}"] = found["maj@8"]
    return out | {k: found[k] for k in ("pass@8", "parsed")}  # of the training's temperature


def training(settings: Real, name: str) -> dict:
    log = (Path(settings.work) / name / "metrics.jsonl").read_text().splitlines()
    steps = [row for row in map(json.loads, log) if "reward" in row]
    seconds = sum(v for row in steps for k, v in row.items() if k.startswith("seconds/"))
    return {
        "minutes": seconds / 60,
        "peak_memory_mb": max(row["peak_memory_mb"] for row in steps),
        "share": [
            float(np.mean([row["majority_share"] for row in part])) for part in (steps[:4], steps[-4:])
        ],
        "kl": steps[-1].get("kl", 0.0),
    }


def summarise(settings: Real) -> dict:
    rows = {name: figures(settings, name) for name in names(settings)}
    best = max(DECODINGS, key=lambda decoding: rows["base"][decoding])
    for name in names(settings)[1:]:
        rows[name] |= training(settings, name)
        rows[name]["gain"] = gain(settings, name, SAMPLED, SAMPLED)
        rows[name]["greedy gain"] = gain(settings, name, "greedy", best)
    seconds = [float(p.read_text()) for p in Path(settings.work).glob("*.seconds")]
    return {
        "machine": describe_machine(),
        "questions": read(settings, "base", "greedy")["questions"],
        "steps": settings.steps,
        "best": best,
        "minutes": sum(seconds) / settings.workers / 60,
        "rows": rows,
    }


def table(result: dict) -> str:
    """The base's best decoding is the best on these same questions, so nothing is gained by the choice."""
    shown = list(result["rows"]["base"])
    gains = {"gain": f"gain at {SAMPLED} (95 %)", "greedy gain": f"greedy less base {result['best']} (95 %)"}
    columns = ["", *shown, *gains.values(), "minutes", "peak MB"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for name, row in result["rows"].items():
        values = [f"{row[k]:.3f}" for k in shown]
        if name == "base":
            values += [""] * 4
        else:
            values += ["{mean:+.3f} ({low:+.3f} to {high:+.3f})".format(**row[k]) for k in gains]
            values += [f"{row['minutes']:.1f}", f"{row['peak_memory_mb']:.0f}"]
        lines.append("| " + " | ".join([name, *values]) + " |")
    said = (
        f"`make real`: {result['steps']} steps of 12 questions x 8 samples at {SAMPLED}, LoRA of rank 16; "
        f"{result['questions']} test questions; pass@8 and parsed at {SAMPLED}. Intervals are a bootstrap "
        f"over facts. {result['minutes']:.0f} minutes in all on {result['machine']}."
    )
    return "\n".join([*lines, "", said, ""])


def main(argv: list[str]) -> int:
    settings = cli.parse(Real, argv)
    work_through(settings)
    result = summarise(settings)
    if not settings.limit:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "real.json").write_text(json.dumps(result, indent=1) + "\n")
        (RESULTS / "real.md").write_text(table(result))
    print(table(result))
    return 0


if __name__ == "__main__":
    cli.run(main)
