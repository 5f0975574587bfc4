"""Does the vote still teach where every answer is written differently?

    mkdir /tmp/before && git archive COMMIT answers | tar -x -C /tmp/before
    python -m bench.respelled --old_keys /tmp/before

The built-in run, but before it is read, the answer in each sampled response is written anew: an equal
answer in random spelling (bench/spellings.py): fractions, decimals, units and their conversions, chains,
boxes, words. Draws are keyed by (seed, step, question, sample). The tokens that are trained on stay the
model's own, and evaluations read what the model wrote. Who votes:

    new        answers of one class (answers/vote.py)
    old        answers with one key, by the answers/ of an earlier checkout
    published  identical strings, as in the paper's code
    gold       nobody: the label is compared
    plain      as new, with nothing respelled

An area has the unit cm^2, a length cm: in three answers of four, and in the label. Beside the gain in
test pass@1: how often a rewarded answer is right, and a right one rewarded. Finished runs are kept in
runs/respelled and not run again. Writes bench/results/respelled.{json,md}.
"""

import importlib
import json
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from tqdm import tqdm

import mmupt
from answers import extract_answer
from bench.learning import RESULTS, ROOT, interval, measure, per_question, python
from bench.machine import describe_machine
from bench.spellings import meaning, read, respell
from common import cli
from common.cli import flag
from data import TINY, figures

ARMS = {
    "new": ("classes of equal answers", []),
    "old": ("keys of the checkout before", []),
    "published": ("identical strings", ["--vote", "published"]),
    "gold": ("gold labels", ["--reward", "gold"]),
    "plain": ("classes of equal answers, nothing respelled", []),
}
UNITS = {
    "What is the area of the rectangle?": "cm^2",
    "How long is the border of the rectangle?": "cm",
    "How long is the segment?": "cm",
}


@dataclass
class Respelled:
    seeds: int = flag(3, "training seeds", "at least 1")
    old_keys: str = flag("", "checkout of the commit before, for the arm old; empty: without this arm")
    work: str = flag(str(ROOT / "runs" / "respelled"), "folder of the runs")
    out: str = flag(str(RESULTS / "respelled"), "result files, without their ending")
    workers: int = flag(2, "runs at a time, one thread each", "at least 1")
    extra: str = flag("", "more flags for every run, in one string")
    arm: str = flag("", "trains one arm in this process, as the bench does", choices=("", *ARMS))
    seed: int = flag(0, "seed of --arm")


# --- one run --------------------------------------------------------------------------------------


def drawn(question_id: str) -> figures.Figure:
    return figures.figure("train", int(question_id.rsplit("-", 1)[1]))


def rewritten(text: str, question: figures.Figure, rng: Random) -> str:
    """The response with another spelling in its last box."""
    answer = extract_answer(text)
    if answer is None:
        return text
    spelled = respell(answer, rng, UNITS.get(question.question, ""), question.choices)
    return text[: text.rindex("\\boxed")] + rf"\boxed{{{spelled}}}"


def is_right(text: str, question: figures.Figure) -> bool:
    """By the generator's own reader, so that no vote is its own judge."""
    value, gold = read(extract_answer(text) or ""), read(question.answer)
    return value is not None and gold is not None and meaning(value) == meaning(gold)


def respelling(compute_rewards: Callable, respelled: bool, log: Path) -> Callable:
    """compute_rewards of mmupt.py over rewritten responses; appends to `log` what became of them."""

    def wrapped(texts, questions, config, gold, step, compare):
        G, asked = config.group_size, [drawn(question.id) for question in questions]
        gold = {key: f"{label} {UNITS.get(drawn(key).question, '')}".strip() for key, label in gold.items()}
        seen = list(texts)
        if respelled:
            seen = [
                rewritten(text, asked[i // G], Random(f"{config.seed} {step} {questions[i // G].id} {i % G}"))
                for i, text in enumerate(texts)
            ]
        groups, rewards = compute_rewards(seen, questions, config, gold, step, compare)
        counts: Counter = Counter(groups=len(groups), undecided=sum(g.vote.winner is None for g in groups))
        for i, reward in enumerate(rewards.flatten().tolist()):
            right = is_right(texts[i], asked[i // G])
            counts += Counter(right=right, rewarded=reward > 0, both=right and reward > 0)
        with open(log, "a") as out:
            out.write(json.dumps({"step": step} | counts) + "\n")
        return groups, rewards

    return wrapped


def keys_of(checkout: str) -> Callable:
    """option_key of another checkout's answers/, which stands beside this one's."""
    if not (Path(checkout) / "answers" / "__init__.py").exists():
        raise cli.UsageError(
            f"--old_keys {checkout}: no answers/ there: git archive COMMIT answers | tar -x -C {checkout}"
        )
    ours = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "answers"}
    sys.path.insert(0, str(checkout))
    try:
        return importlib.import_module("answers").option_key
    finally:
        sys.path.remove(str(checkout))
        for name in [name for name in sys.modules if name.split(".")[0] == "answers"]:
            del sys.modules[name]
        sys.modules.update(ours)


def train_one(settings: Respelled) -> int:
    out = Path(settings.work) / f"{settings.arm}-{settings.seed}"
    out.mkdir(parents=True, exist_ok=True)
    log = out / "rewards.jsonl"
    log.unlink(missing_ok=True)
    if settings.arm == "old":
        key = keys_of(settings.old_keys)
        mmupt.answer_classes = lambda raw, choices, compare: [key(answer, choices) for answer in raw]
    mmupt.compute_rewards = respelling(mmupt.compute_rewards, settings.arm != "plain", log)
    _, flags = ARMS[settings.arm]
    return mmupt.main(
        ["--seed", str(settings.seed), "--out", str(out), "--keep", "1", "--eval_data", "", *flags]
        + settings.extra.split()
    )


# --- all of them ----------------------------------------------------------------------------------


def train(settings: Respelled, arm: str, seed: int) -> None:
    work = Path(settings.work)
    result, log = work / f"{arm}-{seed}.json", work / f"{arm}-{seed}.log"
    if result.exists():
        return
    out = work / f"{arm}-{seed}"
    if out.exists():  # of a run that was cut off
        out.rename(work / f"{out.name}-cut-off-{sum(1 for _ in work.glob(f'{out.name}-cut-off-*'))}")
    python(
        "-m", "bench.respelled", "--arm", arm, "--seed", seed, "--work", work.resolve(),
        *(["--old_keys", Path(settings.old_keys).resolve()] if settings.old_keys else []),
        *([f"--extra={settings.extra}"] if settings.extra else []),
        log=log,
    )  # fmt: skip
    (checkpoint,) = (out / "checkpoints").glob("step-*")
    measure(checkpoint, result, log)


def read_run(settings: Respelled, name: str) -> dict:
    return json.loads((Path(settings.work) / f"{name}.json").read_text())


def rewards(settings: Respelled, arm: str) -> Counter:
    """Counts of all seeds and steps."""
    total: Counter = Counter()
    for seed in range(settings.seeds):
        log = Path(settings.work) / f"{arm}-{seed}" / "rewards.jsonl"
        for line in log.read_text().splitlines():
            total += Counter({name: n for name, n in json.loads(line).items() if name != "step"})
    return total


def summarise(settings: Respelled, arms: list[str]) -> dict:
    base, keys = read_run(settings, "base"), ("pass@1", "maj@8", "pass@8")
    out: dict = {"machine": describe_machine(), "seeds": settings.seeds, "questions": base["questions"]}
    out |= {"extra": settings.extra, "base": {k: base[k] for k in keys}, "arms": {}}
    for arm in arms:
        runs = [read_run(settings, f"{arm}-{seed}") for seed in range(settings.seeds)]
        gains = np.stack([per_question(run) - per_question(base) for run in runs])
        low, high = interval(gains)
        told = rewards(settings, arm)
        out["arms"][arm] = {k: float(np.mean([run[k] for run in runs])) for k in keys} | {
            "gain": float(gains.mean()),
            "low": float(low),
            "high": float(high),
            "gain_by_seed": gains.mean(1).tolist(),
            "rewarded_is_right": told["both"] / max(told["rewarded"], 1),
            "right_is_rewarded": told["both"] / max(told["right"], 1),
            "undecided": told["undecided"] / told["groups"],
        }
    return out


def table(result: dict) -> str:
    names = (
        "who votes", "pass@1", "maj@8", "pass@8", "gain in pass@1 (95 % interval)", "by seed",
        "of gold's gain", "a rewarded answer is right", "a right answer is rewarded",
        "groups without a winner",
    )  # fmt: skip
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    base, gold = result["base"], result["arms"]["gold"]["gain"]
    lines.append(
        f"| the base | {base['pass@1']:.3f} | {base['maj@8']:.3f} | {base['pass@8']:.3f} |" + " |" * 6
    )
    for arm, r in result["arms"].items():
        lines.append(
            f"| {ARMS[arm][0]} | {r['pass@1']:.3f} | {r['maj@8']:.3f} | {r['pass@8']:.3f} "
            f"| **{r['gain']:+.3f}** ({r['low']:+.3f} to {r['high']:+.3f}) "
            f"| {', '.join(f'{g:+.3f}' for g in r['gain_by_seed'])} | {r['gain'] / gold:.2f} "
            f"| {r['rewarded_is_right']:.3f} | {r['right_is_rewarded']:.3f} "
            f"| {'' if arm == 'gold' else format(r['undecided'], '.3f')} |"
        )
    extra = f", {result['extra']}" if result["extra"] else ""
    lines += [
        "",
        f"`python -m bench.respelled`: {result['seeds']} seeds, {result['questions']} test questions x 8 "
        f"samples{extra}, on {result['machine']}. The interval is a bootstrap over seeds and questions; the "
        "last three columns are of all samples of all steps.",
    ]
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    settings = cli.parse(Respelled, argv)
    if settings.arm:
        return train_one(settings)
    if settings.old_keys:
        keys_of(settings.old_keys)  # now rather than in an hour
    arms, work = [arm for arm in ARMS if arm != "old" or settings.old_keys], Path(settings.work)
    measure(TINY, work / "base.json", work / "base.log")
    jobs = [(arm, seed) for seed in range(settings.seeds) for arm in arms]
    with ThreadPoolExecutor(settings.workers) as pool:
        runs = [pool.submit(train, settings, *job) for job in jobs]
        for run in tqdm(runs, desc="respelled", unit="run", disable=None):
            run.result()
    result = summarise(settings, arms)
    Path(f"{settings.out}.json").write_text(json.dumps(result, indent=1) + "\n")
    Path(f"{settings.out}.md").write_text(table(result))
    print(table(result))
    return 0


if __name__ == "__main__":
    cli.run(main)
