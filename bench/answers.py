"""Answers against the graders of the field: python -m bench.answers [--pairs FILE]

Every grader judges the pairs of tests/golden/answer_pairs.jsonl, whose verdicts are a careful
teacher's, and every way of calling it that its documentation offers is tried: the best one counts.
Ours is judged twice: as a grader and as a vote of the two. `--pairs` names a second table, in rows of
the same form.

Then time. Keys per second: each distinct answer of the table with nothing remembered, and a stream as
a vote sees it, G samples of each question. A group of 8 distinct answers, nothing remembered: of the
table, and of the generator's spellings (bench/spellings.py). Hostile texts: the slowest one. Left out:
the extraction of answers from whole responses. Writes bench/results/answers.md.
"""

import importlib.metadata
import importlib.util
import json
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import answers
import answers.keys
from bench.machine import describe_machine
from bench.spellings import draw, spell
from common import cli
from common.cli import flag

TESTS = Path(__file__).parent.parent / "tests"
TABLE = TESTS / "golden" / "answer_pairs.jsonl"
RESULTS = Path(__file__).parent / "results" / "answers.md"
BAR = 50_000  # canonical forms per second
WRAPPINGS = {
    "as they are": lambda text: text,
    "in $...$": lambda text: text if "$" in text else f"${text}$",
    r"in \boxed{}": lambda text: rf"\boxed{{{text}}}",
    r"in $\boxed{}$": lambda text: rf"$\boxed{{{text}}}$",
}

VOCABULARY = ("read_unit", "_named", "_tail", "_unit")  # caches of unit names stay, all others are emptied
CACHES = [
    member
    for name, module in list(sys.modules.items())
    if name.partition(".")[0] == "answers"
    for called, member in vars(module).items()
    if hasattr(member, "cache_clear") and called not in VOCABULARY
]

Grader = Callable[[str, str], bool]  # (gold, answer)


@dataclass
class Settings:
    out: str = flag(str(RESULTS), "Markdown file to write")
    pairs: str = flag("", "another table of pairs, .jsonl with a, b, same and kind")
    repeats: int = flag(15, "timings of which the best counts, as others use the machine", "at least 1")
    group_size: int = flag(8, "samples of a question", "at least 2: a vote needs company")
    groups: int = flag(3000, "groups that are timed, of each kind", "at least 1")
    hostile: int = flag(10_000, "random texts that are timed", "at least 1")
    peers: bool = flag(True, "also the other graders")


def main(argv: list[str]) -> int:
    settings = cli.parse(Settings, argv)
    rows = read_pairs(str(TABLE))
    parts = ["# Answers", verdicts(rows, settings.peers)]
    if settings.pairs:
        parts.append(
            verdicts(read_pairs(settings.pairs), settings.peers, f" of `{Path(settings.pairs).name}`")
        )
    parts += [speed(rows, settings), group_cost(rows, settings), hostile_cost(settings)]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("math-verify", "mathruler")]
    parts.append(", ".join([describe_machine(), *(versions if settings.peers else [])]) + ".\n")
    report = "\n\n".join(parts)
    Path(settings.out).write_text(report, encoding="utf-8")
    print(report)
    return 0


def read_pairs(path: str) -> list[dict]:
    try:
        rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise cli.UsageError(f"--pairs {path}: {error}") from error
    if not rows or not all(
        isinstance(row, dict) and {"a", "b", "same", "kind"} <= row.keys() for row in rows
    ):
        raise cli.UsageError(f"--pairs {path}: every row must have a, b, same and kind")
    return rows


# --- verdicts -------------------------------------------------------------------------------------


def verdicts(rows: list[dict], peers: bool, of: str = "") -> str:
    kinds = Counter(row["kind"] for row in rows)
    same = sum(row["same"] for row in rows)
    lines = [
        f"### {len(rows)} pairs{of}, {len(kinds)} kinds: {same} mean the same, {len(rows) - same} don't",
        "",
        "| grader | right | share | same, called different | different, called same |",
        "|---|---|---|---|---|",
    ]
    ours, votes = grade(answers.equivalent, rows), grade(vote_together, rows)
    keys = grade(lambda a, b: answers.canonical(a) == answers.canonical(b), rows)
    best = {"ours, grading": ours, "ours, vote": votes}
    lines.append(describe("**ours, grading**: `equivalent`", ours, rows))
    lines.append(describe("**ours, vote**: `answer_classes` of the two", votes, rows))
    lines.append(describe("ours, keys alone", keys, rows))
    graders = {"math-verify": math_verify_graders, "mathruler": mathruler_graders} if peers else {}
    for peer, ways in graders.items():
        for how, grader in ways():
            result = grade(grader, rows)
            lines.append(describe(f"{peer}, {how}", result, rows))
            best[peer] = max(best.get(peer, result), result, key=lambda judged: count_right(judged, rows))
    lines += ["", f"Right by kind{', each peer in its best use' * peers}:", ""]
    lines += [f"| kind | pairs | {' | '.join(best)} |", "|---|---|" + "---|" * len(best)]
    for kind, n in kinds.items():
        counts = [
            sum(j == r["same"] for j, r in zip(b, rows, strict=True) if r["kind"] == kind)
            for b in best.values()
        ]
        lines.append(f"| {kind} | {n} | {' | '.join(map(str, counts))} |")
    lines += ["", "Pairs on which ours is wrong:", ""]
    for graded, voted, row in zip(ours, votes, rows, strict=True):
        wrong = [name for name, said in (("grading", graded), ("vote", voted)) if said != row["same"]]
        if wrong:
            truth = "the same" if row["same"] else "not the same"
            lines.append(
                f"- {code(row['a'])} and {code(row['b'])} ({row['kind']}) are {truth}: {', '.join(wrong)}"
            )
    return "\n".join(lines)


def code(text: str) -> str:
    """In code style, whatever backticks it holds."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}" if fence == "`" else f"{fence} {text} {fence}"


def vote_together(a: str, b: str) -> bool:
    one, other = answers.answer_classes([a, b])
    return one is not None and one == other


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
    long_way = [text for text in distinct if not answers.keys.shortcut(text)]
    below = [text for text in distinct if each[text] < BAR]
    rate = lambda texts: f"{per_second(texts, settings.repeats):,.0f}"  # noqa: E731
    lines = [
        "### Canonical forms",
        "",
        "| answers | number | a second |",
        "|---|---|---|",
        f"| distinct, nothing remembered but units | {len(distinct)} | **{rate(distinct)}** |",
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
    return "\n".join(lines)


def per_second(texts: list[str], repeats: int, rounds: int = 1) -> float:
    """Of the best of `repeats`; the cache is emptied before every pass."""
    best = float("inf")
    for _ in range(repeats):
        spent = 0.0
        for _ in range(rounds):
            forget()
            start = time.perf_counter()
            for text in texts:
                answers.canonical(text)
            spent += time.perf_counter() - start
        best = min(best, spent)
    return len(texts) * rounds / best


def forget() -> None:
    """Empties every cache of answers/."""
    for cache in CACHES:
        cache.cache_clear()


def took(function: Callable, *arguments) -> float:
    """CPU seconds, nothing remembered; of what looks slow the best of three, as others use the machine."""
    best = float("inf")
    for _ in range(3):
        forget()
        start = time.process_time()
        function(*arguments)
        best = min(best, time.process_time() - start)
        if best < 0.002:
            break
    return best


def group_cost(rows: list[dict], settings: Settings) -> str:
    rng, G = random.Random(1), settings.group_size
    written = list(dict.fromkeys(text for row in rows for text in (row["a"], row["b"])))
    kinds = {
        "of the table": lambda: rng.sample(written, G),
        "of the generator, different values": lambda: distinct(lambda: spell(draw(rng), rng), G),
        "of the generator, one value": lambda: spellings_of_one(rng, G),
    }
    lines = [
        f"### The vote of a group of {G} distinct answers, nothing remembered",
        "",
        "| answers | groups | median CPU ms | 99 % | worst | the worst |",
        "|---|---|---|---|---|---|",
    ]
    for kind, make in kinds.items():
        groups = [make() for _ in range(settings.groups)]
        times = [took(answers.answer_classes, group) * 1e3 for group in groups]
        ranked = sorted(times)
        worst = groups[times.index(ranked[-1])]
        lines.append(
            f"| {kind} | {len(groups)} | **{median(times):.2f}** | {ranked[int(0.99 * len(ranked))]:.1f} "
            f"| **{ranked[-1]:.1f}** | {', '.join(code(text.replace('|', '¦')) for text in worst)} |"
        )
    return "\n".join(lines)


def distinct(make: Callable[[], str], count: int) -> list[str]:
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[make()] = None
    return list(texts)


def spellings_of_one(rng: random.Random, count: int) -> list[str]:
    """Ways to write one value that has enough of them."""
    while True:
        value = draw(rng)
        texts = list(dict.fromkeys(spell(value, rng) for _ in range(8 * count)))
        if len(texts) >= count:
            return texts[:count]


def hostile_cost(settings: Settings) -> str:
    spec = importlib.util.spec_from_file_location("answers_made", TESTS / "answers_made.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    rng, G = random.Random(2), settings.group_size
    soup = [made.soup(rng) for _ in range(settings.hostile)]
    hard = list(made.HARD_ANSWERS.values())

    def variants(text: str) -> list[str]:
        return [text, text + "1", "1" + text, "x=" + text[::-1], text * 2, "sin 2", "5 cm", "1/2"]

    kinds = {
        "`canonical`": [(answers.canonical, text) for text in soup + hard],
        "`equivalent`": [(answers.equivalent, *rng.sample(soup, 2)) for _ in soup]
        + [(answers.equivalent, text, other) for text in hard for other in variants(text)[1:]],
        "`answer_classes`": [(answers.answer_classes, rng.sample(soup, G)) for _ in soup[::G]]
        + [(answers.answer_classes, variants(text)) for text in hard]
        + [
            (answers.answer_classes, rng.sample([text for text in hard if len(text) < 1000], G)) for _ in hard
        ],
    }
    lines = [
        f"### Hostile texts: {len(soup):,} random ones and {len(hard)} hard ones",
        "",
        "| | calls | worst CPU ms | the worst |",
        "|---|---|---|---|",
    ]
    for name, calls in kinds.items():
        times = [took(*call) * 1e3 for call in calls]
        worst = calls[times.index(max(times))][1:]
        shown = code(ascii(worst)[:80].replace("|", "¦"))
        lines.append(f"| {name} | {len(calls):,} | **{max(times):.1f}** | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
