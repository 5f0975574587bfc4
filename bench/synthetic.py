"""Does it learn from questions that the base wrote itself? `python -m bench.synthetic`

The built-in base writes questions about built-in training images (programs/synthesize.py), in-context
and directly, and is then trained on one kind alone, label-free, with the defaults of mmupt.py: no
original question is among them. Beside it: the same training on original questions, and with gold
labels. Several seeds, each with images, questions and training of its own. The figures are of the
test split, which chose nothing.

An (image, question) pair that is also in the test or validation split is left out of what is
trained on: a written question may turn a training image into one. The share of valid questions says
how many of those trained on may be asked of their picture; invalid ones are trained on all the
same.

Finished runs are kept in runs/synthetic and not run again. One run at a time. Writes
bench/results/synthetic.{json,md}.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bench.learning import RESULTS, ROOT, interval, measure, per_question, python
from bench.machine import describe_machine
from common import cli
from common.cli import flag
from data import HELD_OUT, figures

BASE = ROOT / "data" / "tiny"
# source rows: direct writes the original question half of the time
KINDS = {"in-context": 2700, "direct": 4900}
TRAINED = ("original", *KINDS, "gold")
MEASURES = ("pass@1", "maj@8", "pass@8", "chain_share", "chain_accuracy", "bare_accuracy")


@dataclass
class Synthetic:
    seeds: int = flag(3, "seeds of images, questions and training")
    work: str = flag(str(ROOT / "runs" / "synthetic"), "folder of the runs")
    scale: float = flag(1.0, "share of the questions that are written; less is for a trial")
    extra: str = flag("", "more flags for every run, in one string")


# --- the questions


def picture(row: dict) -> figures.Figure:
    """The built-in figure that a written question is about."""
    return figures.figure("train", int(row["source_id"].rsplit("-", 1)[1]))


def fits(row: dict) -> bool:
    """Whether the writers of the warm start ask this question of such a picture."""
    drawn = picture(row)
    extra = ["Which bar is taller?"] if drawn.family == "bars" else []
    return row["question"] in [drawn.question, *figures.other_questions(drawn), *extra]


def held_out_pairs() -> set[tuple[bytes, str]]:
    drawn = [figure for split, count in HELD_OUT.items() for figure in figures.held_out(split, count)]
    return {(figure.image().tobytes(), figure.question) for figure in drawn}


def write_questions(settings: Synthetic, kind: str, seed: int, held_out: set) -> Path:
    """Writes them, leaves out what is held out -> the .jsonl to train on; beside it the counts."""
    work = Path(settings.work)
    written, clean = work / f"{kind}-{seed}.jsonl", work / f"{kind}-{seed}-clean.jsonl"
    if not clean.exists():
        python(
            "-m", "data.synthesize", "--model", BASE, "--mode", kind, "--seed", seed, "--out", written,
            "--limit", int(settings.scale * KINDS[kind]), "--max_new_tokens", 32, "--batch", 128,
            log=work / f"{kind}-{seed}.log",
        )  # fmt: skip
        rows = [json.loads(line) for line in written.read_text().splitlines()]
        kept = [row for row in rows if (picture(row).image().tobytes(), row["question"]) not in held_out]
        counts = json.loads(written.with_suffix(".report.json").read_text())["counts"]
        counts |= {"held out": len(rows) - len(kept), "trained on": len(kept)}
        counts |= {"valid": sum(map(fits, kept)) / len(kept), "texts": len({row["question"] for row in kept})}
        (work / f"{kind}-{seed}-counts.json").write_text(json.dumps(counts))
        clean.write_text("".join(json.dumps(row) + "\n" for row in kept))
    return clean


# --- the runs


def train(settings: Synthetic, name: str, seed: int, held_out: set) -> None:
    work = Path(settings.work)
    run, result = work / f"{name}-{seed}", work / f"{name}-{seed}.json"
    if result.exists():
        return
    data = write_questions(settings, name, seed, held_out) if name in KINDS else "tiny"
    python(
        "mmupt.py", "--model", BASE, "--train_data", data, "--seed", seed, "--out", run,
        "--reward", "gold" if name == "gold" else "majority", "--eval_data", "", "--keep", 1,
        "--resume", "auto",
        *settings.extra.split(),
        log=work / f"{name}-{seed}.log",
    )  # fmt: skip
    (checkpoint,) = (run / "checkpoints").glob("step-*")
    measure(checkpoint, result, work / f"{name}-{seed}.log")


def read(settings: Synthetic, name: str) -> dict:
    return json.loads((Path(settings.work) / f"{name}.json").read_text())


def summarise(settings: Synthetic) -> dict:
    base = read(settings, "base")
    out = {"machine": describe_machine(), "seeds": settings.seeds, "questions": base["questions"]}
    out["base"] = {k: base[k] for k in MEASURES}
    for name in TRAINED:
        runs = [read(settings, f"{name}-{s}") for s in range(settings.seeds)]
        gains = np.stack([per_question(r) - per_question(base) for r in runs])
        low, high = interval(gains)
        out[name] = {k: float(np.mean([r[k] for r in runs])) for k in MEASURES}
        out[name] |= {"gain": float(gains.mean()), "low": float(low), "high": float(high)}
        out[name]["gain_by_seed"] = gains.mean(1).tolist()
        if name in KINDS:
            out[name]["written"] = [read(settings, f"{name}-{s}-counts") for s in range(settings.seeds)]
    return out


def table(result: dict) -> str:
    columns = ("base", *TRAINED)
    titles = {"base": "base", "original": "original questions", "gold": "original questions, gold labels"}
    titles |= {kind: f"{kind} synthetic alone" for kind in KINDS}
    lines = ["| | " + " | ".join(titles[c] for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for key in MEASURES:
        lines.append(
            f"| {key.replace('_', ' ')} | " + " | ".join(f"{result[c][key]:.3f}" for c in columns) + " |"
        )
    gains = [
        f"**{r['gain']:+.3f}** ({r['low']:+.3f} to {r['high']:+.3f})" for r in (result[c] for c in TRAINED)
    ]
    lines.append("| gain in pass@1 (95 % interval) | | " + " | ".join(gains) + " |")
    by_seed = [", ".join(f"{g:+.3f}" for g in result[c]["gain_by_seed"]) for c in TRAINED]
    lines += ["| by seed | | " + " | ".join(by_seed) + " |", ""]
    names = (
        "written",
        "dropped: copy",
        "dropped: duplicate",
        "dropped: near",
        "held out",
        "trained on",
        "texts",
    )
    lines += [
        "| questions, mean over seeds | " + " | ".join(names) + " | valid |",
        "|---" * (len(names) + 2) + "|",
    ]
    for kind in KINDS:
        counts = result[kind]["written"]
        cells = [f"{np.mean([c[n] for c in counts]):.0f}" for n in names]
        lines.append(f"| {kind} | " + " | ".join(cells) + f" | {np.mean([c['valid'] for c in counts]):.3f} |")
    lines += [
        "",
        f"`python -m bench.synthetic`: {result['seeds']} seeds, {result['questions']} test questions x "
        f"8 samples, on {result['machine']}. The interval is a bootstrap over seeds and questions.",
    ]
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    settings = cli.parse(Synthetic, argv)
    work, held_out = Path(settings.work), held_out_pairs()
    work.mkdir(parents=True, exist_ok=True)
    measure(BASE, work / "base.json", work / "base.log")
    jobs = [(name, seed) for seed in range(settings.seeds) for name in (*KINDS, "original", "gold")]
    for name, seed in tqdm(jobs, desc="synthetic", unit="run", disable=None):
        train(settings, name, seed, held_out)
    result = summarise(settings)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "synthetic.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "synthetic.md").write_text(table(result))
    print(table(result))
    return 0


if __name__ == "__main__":
    cli.run(main)
