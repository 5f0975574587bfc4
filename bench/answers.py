"""Answers against the graders of the field: python -m bench.answers

Every grader judges the pairs of tests/golden/answer_pairs.jsonl, whose verdicts are a careful
teacher's, and every way of calling it that its documentation offers is tried: the best one counts.
Then canonical forms per second: each distinct answer of the table with nothing remembered, and a
stream as a vote sees it, G samples of each question. Left out: the extraction of answers from whole
responses. Writes bench/results/answers.md.
"""

import importlib.metadata
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import answers
import answers.keys
from bench.machine import describe_machine
from common import cli
from common.cli import flag

TABLE = Path(__file__).parent.parent / "tests" / "golden" / "answer_pairs.jsonl"
RESULTS = Path(__file__).parent / "results" / "answers.md"
BAR = 50_000  # canonical forms per second
WRAPPINGS = {
    "as they are": lambda text: text,
    "in $...$": lambda text: text if "$" in text else f"${text}$",
    r"in \boxed{}": lambda text: rf"\boxed{{{text}}}",
    r"in $\boxed{}$": lambda text: rf"$\boxed{{{text}}}$",
}

Grader = Callable[[str, str], bool]  # (gold, answer)


@dataclass
class Settings:
    out: str = flag(str(RESULTS), "Markdown file to write")
    repeats: int = flag(15, "timings of which the best counts, as others use the machine")
    group_size: int = flag(8, "samples of a question in the stream of votes")


def main(argv: list[str]) -> int:
    settings = cli.parse(Settings, argv)
    rows = [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]
    report = f"# Answers\n\n{verdicts(rows)}\n{speed(rows, settings)}\n{describe_machine()}"
    report += (
        "".join(f", {name} {importlib.metadata.version(name)}" for name in ("math-verify", "mathruler"))
        + ".\n"
    )
    Path(settings.out).write_text(report, encoding="utf-8")
    print(report)
    return 0


# --- verdicts -------------------------------------------------------------------------------------


def verdicts(rows: list[dict]) -> str:
    kinds = Counter(row["kind"] for row in rows)
    same = sum(row["same"] for row in rows)
    lines = [
        f"### {len(rows)} pairs of {len(kinds)} kinds: {same} mean the same, {len(rows) - same} don't",
        "",
    ]
    lines += [
        "| grader | right | share | same, called different | different, called same |",
        "|---|---|---|---|---|",
    ]
    ours = grade(answers.equivalent, rows)
    best = {"ours": ours}
    lines.append(describe("**ours**, `equivalent`", ours, rows))
    keys = grade(lambda a, b: answers.canonical(a) == answers.canonical(b), rows)
    lines.append(describe("ours, keys alone (what a vote sees)", keys, rows))
    for peer, graders in (("math-verify", math_verify_graders()), ("mathruler", mathruler_graders())):
        for how, grader in graders:
            result = grade(grader, rows)
            lines.append(describe(f"{peer}, {how}", result, rows))
            best[peer] = max(
                best.get(peer, []), result, key=lambda judged: count_right(judged, rows) if judged else -1
            )
    lines += ["", "Right by kind, each peer in its best use:", "", f"| kind | pairs | {' | '.join(best)} |"]
    lines.append("|---|---|" + "---|" * len(best))
    for kind, n in kinds.items():
        counts = [
            sum(j == r["same"] for j, r in zip(b, rows, strict=True) if r["kind"] == kind)
            for b in best.values()
        ]
        lines.append(f"| {kind} | {n} | {' | '.join(map(str, counts))} |")
    lines += ["", "Pairs on which ours is wrong:", ""]
    for judged, row in zip(ours, rows, strict=True):
        if judged != row["same"]:
            lines.append(
                f"- `{row['a']}` and `{row['b']}` ({row['kind']}): {'the same' if judged else 'not the same'}"
            )
    return "\n".join(lines) + "\n"


def grade(grader: Grader, rows: list[dict]) -> list[bool]:
    return [grader(row["a"], row["b"]) for row in rows]


def count_right(judged: list[bool], rows: list[dict]) -> int:
    return sum(said == row["same"] for said, row in zip(judged, rows, strict=True))


def describe(name: str, judged: list[bool], rows: list[dict]) -> str:
    right = count_right(judged, rows)
    missed = sum(row["same"] and not said for said, row in zip(judged, rows, strict=True))
    return f"| {name} | {right} | {right / len(rows):.1%} | {missed} | {len(rows) - right - missed} |"


def math_verify_graders() -> Iterator[tuple[str, Grader]]:
    try:
        from math_verify import (
            ExprExtractionConfig,
            LatexExtractionConfig,
            StringExtractionConfig,
            parse,
            verify,
        )
    except ImportError as error:
        raise cli.UsageError("this needs math-verify: pip install math-verify") from error
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    strings = [
        LatexExtractionConfig(),
        ExprExtractionConfig(),
        StringExtractionConfig(strings=tuple("ABCDE")),
    ]
    for wrapping, wrap in WRAPPINGS.items():
        for configuration in ((), (strings,)):

            def grader(gold: str, answer: str, wrap=wrap, extra=configuration) -> bool:
                return bool(verify(parse(wrap(gold), *extra), parse(wrap(answer), *extra)))

            yield wrapping + (", and letters as strings" if configuration else ""), grader
    yield (
        "in $...$, either way round",
        lambda a, b: any(
            verify(parse(WRAPPINGS["in $...$"](x)), parse(WRAPPINGS["in $...$"](y)))
            for x, y in ((a, b), (b, a))
        ),
    )


def mathruler_graders() -> Iterator[tuple[str, Grader]]:
    try:
        from mathruler.grader import grade_answer
    except ImportError as error:
        raise cli.UsageError("this needs mathruler: pip install mathruler pylatexenc") from error
    for wrapping, wrap in WRAPPINGS.items():
        yield wrapping, lambda gold, answer, wrap=wrap: grade_answer(wrap(answer), wrap(gold))
    yield "either way round", lambda a, b: grade_answer(a, b) or grade_answer(b, a)


# --- speed ----------------------------------------------------------------------------------------


def speed(rows: list[dict], settings: Settings) -> str:
    distinct = list(dict.fromkeys(text for row in rows for text in (row["a"], row["b"])))
    rng, G = random.Random(0), settings.group_size
    # a question's samples: a majority for one writing, the rest spread over what models also write
    stream = [
        a if rng.random() < 0.6 else rng.choice(distinct)
        for a in rng.choices(distinct, k=4000)
        for _ in range(G)
    ]
    each = {text: per_second([text], settings.repeats, 20) for text in distinct}
    latex = [text for text in distinct if "\\" in text]
    long_way = [text for text in distinct if not answers.keys._shortcut(text)]
    below = [text for text in distinct if each[text] < BAR]
    rate = lambda texts: f"{per_second(texts, settings.repeats):,.0f}"  # noqa: E731
    lines = [
        "### Canonical forms",
        "",
        "| answers | number | a second |",
        "|---|---|---|",
        f"| distinct, nothing remembered | {len(distinct)} | **{rate(distinct)}** |",
        f"| of them those in LaTeX | {len(latex)} | {rate(latex)} |",
        f"| of them those that take the long way | {len(long_way)} | {rate(long_way)} |",
        f"| a stream of votes, {G} samples a question, cache cold at its start | {len(stream)} "
        f"| **{rate(stream)}** |",
        "",
        f"Alone and with nothing remembered, {len(below)} of the {len(distinct)} distinct answers "
        f"({len(below) / len(distinct):.0%}) run below {BAR:,} a second; the slowest five:",
        "",
    ]
    for text in sorted(below, key=each.get)[:5]:
        lines.append(f"- `{text}`: {each[text]:,.0f}")
    return "\n".join(lines) + "\n"


def per_second(texts: list[str], repeats: int, rounds: int = 1) -> float:
    """Of the best of `repeats`; the cache is emptied before every pass."""
    best = float("inf")
    for _ in range(repeats):
        spent = 0.0
        for _ in range(rounds):
            answers.keys._settle.cache_clear()
            start = time.perf_counter()
            for text in texts:
                answers.canonical(text)
            spent += time.perf_counter() - start
        best = min(best, spent)
    return len(texts) * rounds / best


if __name__ == "__main__":
    cli.run(main)
