"""Does it learn without labels? Bases and seeds against controls: `python -m bench.learning`

Every run has the defaults of mmupt.py, which were chosen on the validation split. The figures come
from the test split, which chose nothing; the curves are of the validation split. Beside the
label-free runs: `--reward gold` (what labels would give from the same budget), `--reward random`
(what training alone gives), and a learning rate that collapses.

Bases are warm starts of their own (`python -m programs.build_tiny --seed N`), built where they are
missing. Finished runs are kept in runs/learning and not run again. Two runs at a time, one thread
each. Writes bench/results/learning.{json,md,png}.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bench.machine import describe_machine
from common import cli
from common.cli import flag

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
COLLAPSE_LR = 2e-3


@dataclass
class Learning:
    bases: int = flag(3, "warm-start seeds")
    seeds: int = flag(3, "training seeds per base")
    work: str = flag(str(ROOT / "runs" / "learning"), "folder of the runs")
    workers: int = flag(2, "runs at a time, one thread each")
    extra: str = flag("", "more flags for every run, in one string")


@dataclass(frozen=True)
class Run:
    base: int
    reward: str
    seed: int
    lr: float | None = None

    @property
    def name(self) -> str:
        return f"base{self.base}-{self.reward}-{self.seed}" + (f"-lr{self.lr:g}" if self.lr else "")


def plan(settings: Learning) -> list[Run]:
    runs = [Run(b, "majority", s) for b in range(settings.bases) for s in range(settings.seeds)]
    runs += [Run(b, reward, 0) for b in range(settings.bases) for reward in ("gold", "random")]
    return [*runs, Run(0, "majority", 0, COLLAPSE_LR)]


def python(*argv, log: Path) -> None:
    """One thread each: two OpenMP programs with two threads would slow each other on two cores."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as out:
        done = subprocess.run(
            [sys.executable, *map(str, argv)],
            cwd=ROOT,
            stdout=out,
            stderr=out,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, argv))} failed, see {log}")


def base_folder(settings: Learning, base: int) -> Path:
    return ROOT / "data" / "tiny" if base == 0 else Path(settings.work) / f"base{base}"


def build_base(settings: Learning, base: int) -> None:
    folder, work = base_folder(settings, base), Path(settings.work)
    if not (folder / "tokenizer.json").exists():
        python("-m", "programs.build_tiny", "--seed", base, "--out", folder, log=work / f"base{base}.log")
    measure(folder, work / f"base{base}.json", work / f"base{base}.log")


def train(settings: Learning, run: Run) -> None:
    work = Path(settings.work)
    out = work / run.name
    last = out / "checkpoints"
    if not (work / f"{run.name}.json").exists():
        flags = [
            "--reward",
            run.reward,
            "--seed",
            run.seed,
            *(["--lr", run.lr] if run.lr else []),
            *settings.extra.split(),
        ]
        python(
            "mmupt.py", "--model", base_folder(settings, run.base), "--out", out,
            "--resume", "auto", "--eval_data", "tiny:validation", "--eval_every", 10, "--keep", 1, *flags,
            log=work / f"{run.name}.log",
        )  # fmt: skip
        (checkpoint,) = last.glob("step-*")
        measure(checkpoint, work / f"{run.name}.json", work / f"{run.name}.log")


def measure(model: Path, out: Path, log: Path) -> None:
    if not out.exists():
        python("-m", "bench.measure_chains", "--model", model, "--out", out, log=log)


# --- figures


def read(settings: Learning, name: str) -> dict:
    return json.loads((Path(settings.work) / f"{name}.json").read_text())


def metrics(settings: Learning, name: str) -> list[dict]:
    return [
        json.loads(line) for line in (Path(settings.work) / name / "metrics.jsonl").read_text().splitlines()
    ]


def per_question(result: dict) -> np.ndarray:
    return np.array([r["correct"] / len(r["answers"]) for r in result["records"]])


def interval(gains: np.ndarray, resamples: int = 10_000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of gains [seeds, questions], over both."""
    rng = np.random.default_rng(0)
    S, Q = gains.shape
    means = [gains[rng.integers(0, S, S)][:, rng.integers(0, Q, Q)].mean() for _ in range(resamples)]
    return tuple(np.quantile(means, (0.025, 0.975)))


def summarise(settings: Learning) -> dict:
    out = {"machine": describe_machine(), "bases": [], "questions": read(settings, "base0")["questions"]}
    for b in range(settings.bases):
        base = read(settings, f"base{b}")
        before = per_question(base)
        runs = [read(settings, Run(b, "majority", s).name) for s in range(settings.seeds)]
        gains = np.stack([per_question(r) - before for r in runs])
        controls = {c: read(settings, Run(b, c, 0).name) for c in ("gold", "random")}
        low, high = interval(gains)
        keys = ("pass@1", "maj@8", "pass@8", "chain_share", "chain_accuracy", "bare_accuracy")
        out["bases"].append(
            {
                "base": {k: base[k] for k in keys},
                "trained": {k: float(np.mean([r[k] for r in runs])) for k in keys},
                "gain": float(gains.mean()),
                "low": low,
                "high": high,
                "gain_by_seed": gains.mean(1).tolist(),
                "gold_gain": controls["gold"]["pass@1"] - base["pass@1"],
                "random_gain": controls["random"]["pass@1"] - base["pass@1"],
                "gold": {k: controls["gold"][k] for k in keys},
                "random": {k: controls["random"][k] for k in keys},
                "warnings": sum(
                    "warning" in row
                    for s in range(settings.seeds)
                    for row in metrics(settings, Run(b, "majority", s).name)
                ),
            }
        )
    out["mean_gain"] = float(np.mean([b["gain"] for b in out["bases"]]))
    out["share_of_gold"] = out["mean_gain"] / float(np.mean([b["gold_gain"] for b in out["bases"]]))
    collapse = metrics(settings, Run(0, "majority", 0, COLLAPSE_LR).name)
    steps = [row for row in collapse if "reward" in row]
    measured = [row for row in collapse if "eval/pass@1" in row]
    out["collapse"] = {
        "lr": COLLAPSE_LR,
        "reward": [float(np.mean([r["reward"] for r in part])) for part in (steps[:5], steps[-5:])],
        "pass@1": [measured[0]["eval/pass@1"], measured[-1]["eval/pass@1"]],
        "warnings": [{"step": r["step"], "warning": r["warning"]} for r in steps if "warning" in r][:3],
    }
    return out


def table(result: dict) -> str:
    names = (
        "base", "pass@1", "maj@8", "pass@8", "label-free gain (95 % interval)", "by seed", "gold gain",
        "random gain", "share of chains", "right in chains", "right in bare answers",
    )  # fmt: skip
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for i, b in enumerate(result["bases"]):
        arrow = {k: f"{b['base'][k]:.3f} → {b['trained'][k]:.3f}" for k in b["base"]}
        lines.append(
            f"| {i} | {arrow['pass@1']} | {arrow['maj@8']} | {arrow['pass@8']} "
            f"| **{b['gain']:+.3f}** ({b['low']:+.3f} to {b['high']:+.3f}) "
            f"| {', '.join(f'{g:+.3f}' for g in b['gain_by_seed'])} "
            f"| {b['gold_gain']:+.3f} | {b['random_gain']:+.3f} "
            f"| {arrow['chain_share']} | {arrow['chain_accuracy']} | {arrow['bare_accuracy']} |"
        )
    c = result["collapse"]
    lines += [
        "",
        f"Mean label-free gain {result['mean_gain']:+.3f}, {result['share_of_gold']:.2f} of what gold labels "
        f"gain, over {result['questions']} test questions. At learning rate {c['lr']:g} the vote's reward "
        f"goes {c['reward'][0]:.2f} → {c['reward'][1]:.2f} while validation pass@1 goes "
        f"{c['pass@1'][0]:.2f} → {c['pass@1'][1]:.2f}; first warning: "
        + ('step {step}, "{warning}".'.format(**c["warnings"][0]) if c["warnings"] else "none.")
        + f" Healthy runs warned {sum(b['warnings'] for b in result['bases'])} times.",
        "",
        f"`make learn` on {result['machine']}.",
    ]
    return "\n".join(lines) + "\n"


def plot(settings: Learning, path: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        raise cli.UsageError("the plot needs matplotlib: pip install -r requirements-dev.txt") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), width_ratios=(3, 2))
    colours = ["tab:blue", "tab:green", "tab:purple", "tab:brown"]

    def curve(name):
        rows = [r for r in metrics(settings, name) if "eval/pass@1" in r]
        return [r["step"] for r in rows], [r["eval/pass@1"] for r in rows], rows

    for b in range(settings.bases):
        colour = colours[b % len(colours)]
        for s in range(settings.seeds):
            steps, values, rows = curve(Run(b, "majority", s).name)
            left.plot(steps, values, color=colour, lw=1.6, label=f"base {b}, label-free" if s == 0 else None)
            if s == 0:
                left.axhline(
                    rows[0]["eval/maj@8"], color=colour, lw=0.8, ls=(0, (1, 1)), label=f"base {b}: its maj@8"
                )
        steps, values, _ = curve(Run(b, "gold", 0).name)
        left.plot(steps, values, color=colour, lw=1, ls="--", label=f"base {b}, gold labels")
        steps, values, _ = curve(Run(b, "random", 0).name)
        left.plot(steps, values, color=colour, lw=0.9, ls="-.", alpha=0.7, label=f"base {b}, random reward")
    name = Run(0, "majority", 0, COLLAPSE_LR).name
    steps, values, _ = curve(name)
    left.plot(steps, values, color="tab:red", lw=1.6, label=f"base 0, lr {COLLAPSE_LR:g}: collapse")
    left.set(xlabel="step", ylabel="pass@1, validation", title="Accuracy of one sample")
    left.legend(fontsize=7, ncols=2, loc="lower left")
    rows = [r for r in metrics(settings, name) if "reward" in r]
    right.plot(
        [r["step"] for r in rows], [r["reward"] for r in rows], color="tab:orange", label="the vote's reward"
    )
    right.plot(steps, values, color="tab:red", marker="o", ms=3, label="pass@1, validation")
    warned = [r["step"] for r in rows if "warning" in r]
    if warned:
        right.axvline(warned[0], color="black", lw=0.9, ls="--", label=f"first warning, step {warned[0]}")
    right.set(xlabel="step", title=f"The collapse at lr {COLLAPSE_LR:g}", ylim=(0, 1.02))
    right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(argv: list[str]) -> int:
    settings = cli.parse(Learning, argv)
    jobs = plan(settings)
    with ThreadPoolExecutor(settings.workers) as pool:
        bar = tqdm(total=settings.bases + len(jobs), desc="learning", unit="run", disable=None)
        for step in (
            [pool.submit(build_base, settings, b) for b in range(settings.bases)],
            lambda: [pool.submit(train, settings, run) for run in jobs],
        ):
            for job in step() if callable(step) else step:
                job.result()
                bar.update()
        bar.close()
    result = summarise(settings)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "learning.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "learning.md").write_text(table(result))
    plot(settings, RESULTS / "learning.png")
    print(table(result))
    return 0


if __name__ == "__main__":
    cli.run(main)
