"""The page: runs -> HTML, with nothing outside of it. Sections in their order: how it went, curves, what the
model said, settings. What the model said is in gallery.py."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from common import say
from report.curves import chart, short
from report.gallery import held_out_gallery, training_gallery
from report.markup import Markup, el, join
from report.pictures import Album
from report.runs import Run, is_number

STYLE = Markup((Path(__file__).parent / "style.css").read_text(encoding="utf-8"))
# no script, nothing from elsewhere
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
MOST_WARNINGS = 40

TITLES = {
    "majority_share": "majority share",
    "vote_entropy": "vote entropy, nats",
    "entropy": "token entropy, nats",
    "kl": "KL to the base, nats a token",
    "response_length": "response length, tokens",
    "parsed": "parse rate",
    "zero_spread": "groups of equal rewards",
    "abstained": "groups that abstain",
    "top_answer_share": "share of the commonest pseudo-label",
    "truncated": "truncated responses",
    "peak_memory_mb": "peak memory, MB",
    "tokens_per_second": "tokens a second",
}
SOUND = {metric: sound for metric, _, sound in say.CLOSING}
VOTES = ("reward", "majority_share", "vote_entropy", "top_answer_share", "zero_spread", "abstained")
POLICY_OF = ("entropy", "kl", "grad_norm")
RESPONSES = ("response_length", "parsed", "truncated")
LABELLED = re.compile(r"eval/(pass@1|(maj|pass)@\d+)")


def page(runs: Sequence[Run]) -> str:
    names = named(runs)
    title = "mmupt: " + " and ".join(names)
    album = Album()
    sections = [
        ("how", "How it went", how_it_went(runs, names)),
        *curve_sections(runs, names),
        ("held-out", "Held-out questions, before and after", held_out_gallery(runs, names, album)),
        ("training", "Training questions", training_gallery(runs, names, album)),
        ("settings", "Settings", settings(runs, names)),
        ("environment", "Environment", environment(runs, names)),
    ]
    sections = [(key, head, body) for key, head, body in sections if body]
    nav = el("nav", *(el("a", head, href=f"#{key}") for key, head, _ in sections))
    body = join(el("section", el("h2", head), body, id=key) for key, head, body in sections)
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", title),
        el("style", STYLE),
    )
    return f"<!doctype html>\n{el('html', head, el('body', el('h1', title), nav, body), lang='en')}\n"


def named(runs: Sequence[Run]) -> list[str]:
    """Names of folders, with a number where two are alike."""
    names = [run.name for run in runs]
    return [n if names.count(n) == 1 else f"{n} ({names[: i + 1].count(n)})" for i, n in enumerate(names)]


def table(
    head: Sequence, rows: Sequence[Sequence], numbers: bool = False, marked: Sequence[bool] = ()
) -> Markup:
    """The first cell of a row is its head; `marked` rows are tinted."""
    right = "n" if numbers else None
    top = el("tr", *(el("th", cell, class_=right if i else None) for i, cell in enumerate(head)))
    lines = [
        el(
            "tr", el("th", first), *(el("td", cell, class_=right) for cell in rest),
            class_="differs" if i < len(marked) and marked[i] else None,
        )
        for i, (first, *rest) in enumerate(rows)
    ]  # fmt: skip
    return el("div", el("table", top, *lines, class_="numbers" if numbers else None), class_="wide")


# --- How it went ----------------------------------------------------------------------------------


def how_it_went(runs: Sequence[Run], names: Sequence[str]) -> Markup:
    facts = [
        ("ended", [run.ended for run in runs]),
        ("steps", [f"{run.last_step} of {run.config.get('steps', '?')}" for run in runs]),
        ("seconds a step", [seconds_a_step(run) for run in runs]),
        *((key, [shown(run.config.get(key)) for run in runs]) for key in ("model", "train_data", "reward")),
        ("not in the folder", [", ".join(run.missing) for run in runs]),
    ]
    parts: list[Markup | None] = [
        table(["", *names], [[name, *cells] for name, cells in facts if any(cells)])
    ]
    for run, name in zip(runs, names, strict=True):
        several = [el("h3", name)] if len(runs) > 1 else []
        numbers = [{k: v for k, v in row.items() if is_number(v)} for row in run.rows]
        if closing := say.closing(numbers, bool(run.config.get("beta"))):
            parts += [*several, el("pre", closing, class_="wide")]
        parts += [before_and_after(run), warnings(run)]
    return join(parts)


def seconds_a_step(run: Run) -> str:
    stages = [m for m in run.metrics() if m.startswith("seconds/")]
    total = sum(v for stage in stages for step, v in run.points(stage) if step)
    return short(total / len(run.rows)) if stages and run.rows else ""


def before_and_after(run: Run) -> Markup | None:
    """The first evaluation beside the last, where there are two, by category."""
    if len(run.evaluations) < 2:
        return None
    first, last = run.evaluations[0], run.evaluations[-1]
    measures = accuracies(run)
    before, after = (by if isinstance(by := r.get("eval/by_category"), dict) else {} for r in (first, last))
    before = {name: one for name, one in before.items() if isinstance(one, dict)}

    def cells(row: dict) -> list[str]:
        values = (row.get(f"eval/{m}", row.get(m)) for m in measures)
        return [f"{v:.3f}" if isinstance(v, (int, float)) else "-" for v in values]

    rows = [[name or "-", *cells(before[name]), *cells(after.get(name, {}))] for name in sorted(before)]
    rows.append(["all", *cells(first), *cells(last)])
    head = ["held-out", *(f"{m}, step {row['step']}" for row in (first, last) for m in measures)]
    asked = [row.get("eval/questions") for row in (first, last)]
    note = el("p", f"{shown(asked[0])} questions, then {shown(asked[1])}", class_="soft")
    return join([table(head, rows, numbers=True), note])


def warnings(run: Run) -> Markup | None:
    """Those of one kind, which is what stands before the colon, as one line."""
    found: dict[str, list[tuple[int, str]]] = {}
    said = [(row["step"], row["warning"]) for row in run.rows if row.get("warning")]
    said += [(e["step"], e.get("text", "")) for e in run.events if e.get("event") == "warning"]
    for step, text in said:
        found.setdefault(str(text).partition(":")[0], []).append((step, str(text)))
    if not found:
        return el("p", "No warning.", class_="soft") if run.rows else None
    lines = []
    for those in list(found.values())[:MOST_WARNINGS]:
        (first, _), (last, text) = those[0], those[-1]
        when = f"step {first}" if first == last else f"steps {first} to {last}, {len(those)} times, the last"
        lines.append(el("li", f"{when}: {text}"))
    return join([el("b", "Warnings"), el("ul", *lines)])


# --- Curves ---------------------------------------------------------------------------------------


def accuracies(run: Run) -> list[str]:
    """pass@1, maj@k, pass@k: not the pass@j between."""
    found = [m.removeprefix("eval/") for m in run.metrics() if LABELLED.fullmatch(m)]
    most = max((int(m.partition("@")[2]) for m in found), default=1)
    return [m for m in dict.fromkeys(("pass@1", f"maj@{most}", f"pass@{most}")) if m in found]


def curve_sections(runs: Sequence[Run], names: Sequence[str]) -> Iterator[tuple[str, str, Markup | None]]:
    metrics = list(dict.fromkeys(m for run in runs for m in run.metrics()))
    labelled = list(dict.fromkeys(f"eval/{m}" for run in runs for m in accuracies(run)))
    health = [m for m in metrics if m.startswith("health/")]
    seconds = [m for m in metrics if m.startswith("seconds/")]
    speed = [m for m in ("tokens_per_second", "peak_memory_mb") if m in metrics]
    taken = {*VOTES, *POLICY_OF, *RESPONSES, *labelled, *health, *seconds, *speed}
    rest = [m for m in metrics if m not in taken and any(v for run in runs for _, v in run.points(m))]

    def charts(chosen: Sequence[str]) -> list[Markup | None]:
        return [curve(runs, names, metric) for metric in chosen]

    def together(title: str, chosen: Sequence[str], note: str = "") -> list[Markup | None]:
        """Of one run in one chart; of several a chart each."""
        if len(runs) > 1:
            return charts(chosen)
        parts = [(m.partition("/")[2], runs[0].points(m)) for m in chosen]
        return [chart(title, parts, note)]

    def grid(parts: Sequence[Markup | None]) -> Markup | None:
        return el("div", *parts, class_="charts") if any(parts) else None

    yield "votes", "Votes and reward", grid(charts(VOTES))
    yield "policy", "Policy and responses", grid(charts((*POLICY_OF, *RESPONSES)))
    yield "health", "Health", grid(charts(health))
    note = "measured on labels, which training does not read; the first and the last on all questions"
    yield "accuracy", "Accuracy on held-out questions", grid(together("accuracy", labelled, note))
    yield "time", "Time and memory", grid([*together("seconds of a step, by stage", seconds), *charts(speed)])
    other = grid(charts(rest))
    yield (
        "other",
        "Other metrics",
        el("details", el("summary", f"{len(rest)} metrics"), other) if other else None,
    )


def curve(runs: Sequence[Run], names: Sequence[str], metric: str) -> Markup | None:
    lines = [
        (name if len(runs) > 1 else "", run.points(metric)) for run, name in zip(runs, names, strict=True)
    ]
    title = TITLES.get(metric, metric.removeprefix("health/").removeprefix("eval/").replace("_", " "))
    if metric.startswith("seconds/"):
        title = f"seconds of {metric.partition('/')[2]}"
    return chart(title, lines, SOUND.get(metric, ""))


# --- Settings -------------------------------------------------------------------------------------


def shown(value) -> str:
    if value is None or value == "":
        return "-"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def beside(runs: Sequence[Run], names: Sequence[str], values: Sequence[dict]) -> Markup | None:
    """Dicts as columns; lines that differ come first."""
    keys = list(dict.fromkeys(key for one in values for key in one))
    lines = [[key, *(shown(one.get(key)) for one in values)] for key in keys]
    lines.sort(key=lambda line: len(set(line[1:])) == 1)
    return table(["", *names], lines, marked=[len(set(line[1:])) > 1 for line in lines]) if lines else None


def settings(runs: Sequence[Run], names: Sequence[str]) -> Markup | None:
    return beside(runs, names, [run.config for run in runs])


def environment(runs: Sequence[Run], names: Sequence[str]) -> Markup | None:
    return beside(runs, names, [run.environment for run in runs])
