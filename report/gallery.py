"""Questions with what the model said: samples coloured by the class that they vote for.

Held-out questions have a label, and the base's samples stand beside the trained model's. Training questions
have none: their majority is the pseudo-label.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from report.markup import Markup, el, join
from report.pictures import Album, Picture
from report.runs import Run

MOST_CHARACTERS = 2_000  # shown of a response
MOST_SAMPLES = 16  # shown of a question; counts are of all
OPEN = 4  # questions whose samples are unfolded
COLOURS = 7
LEGIBLE = 168  # pixels that a small picture is enlarged to, by a whole factor


class Column(NamedTuple):
    """Samples of one model to one question."""

    title: str
    step: int
    responses: list[str]
    classes: list[str | None]
    winner: str | None
    notes: list[str]  # of each sample
    right: str = ""  # how many are, where that is known


def texts(value) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def column(title: str, record: Mapping[str, Any]) -> Column:
    step, responses = record["step"], texts(record.get("responses"))
    answers = record.get("answers")
    classes = [None if a is None else str(a) for a in answers] if isinstance(answers, list) else []
    classes = (classes + [None] * len(responses))[: len(responses)]
    if isinstance(right := record.get("right"), list):
        notes = ["right" if one else "wrong" for one in right]
        true = f"{sum(map(bool, right))} of {len(right)} right"
        return Column(title, step, responses, classes, majority(classes), notes, true)
    winner = record.get("winner")
    earned = record.get("rewards")
    notes = (
        [f"reward {r:g}" for r in earned if isinstance(r, (int, float))] if isinstance(earned, list) else []
    )
    return Column(title, step, responses, classes, None if winner is None else str(winner), notes)


def majority(classes: Sequence[str | None]) -> str | None:
    """None where classes tie."""
    counts = Counter(c for c in classes if c is not None).most_common(2)
    return counts[0][0] if counts and (len(counts) == 1 or counts[0][1] > counts[1][1]) else None


def colours(columns: Sequence[Column]) -> dict[str | None, str]:
    """Of a question's classes, by their number; the rarest share one, unparsed answers have none."""
    counts = Counter(c for one in columns for c in one.classes if c is not None)
    named: dict[str | None, str] = {
        name: f"c{min(i, COLOURS)}" for i, (name, _) in enumerate(counts.most_common())
    }
    return named | {None: "none"}


def votes(one: Column, colour: Mapping[str | None, str], gold: str | None) -> Markup:
    """The counts, as a bar and in words."""
    counts = Counter(one.classes).most_common()
    bar = el("div", *(el("i", class_=colour[c], style=f"flex:{n}") for c, n in counts), class_="bar")
    chips = []
    for name, n in counts:
        marks = ["pseudo-label"] * (name is not None and name == one.winner)
        marks += ["the label"] * (name is not None and name == gold)
        said = f" ({', '.join(marks)})" if marks else ""
        chips.append(el("li", el("i", class_=colour[name]), f"{clipped(name, 80)} × {n}{said}"))
    return join([bar, el("ul", *chips, class_="chips")])


def clipped(text: str | None, most: int = MOST_CHARACTERS) -> str:
    if text is None:
        return "no answer"
    return text if len(text) <= most else f"{text[:most]} … and {len(text) - most:,} more characters"


def samples(one: Column, colour: Mapping[str | None, str]) -> Markup:
    lines = []
    for i, (text, name) in enumerate(zip(one.responses[:MOST_SAMPLES], one.classes, strict=False)):
        note = el("small", one.notes[i]) if i < len(one.notes) else None
        lines.append(el("li", note, clipped(text) or "(empty)", class_=colour[name]))
    if more := len(one.responses) - len(lines):
        lines.append(el("li", f"and {more} more samples", class_="none"))
    return el("ol", *lines)


def image(picture: Picture | None) -> Markup:
    if picture is None:
        return el("span", "(picture not at hand)", class_="soft")
    side = max(picture.width, picture.height)
    times = max(1, LEGIBLE // side)
    return el(
        "img", src=picture.uri, alt="", width=picture.width * times, height=picture.height * times,
        class_="tiny" if times > 1 else None,
    )  # fmt: skip


def card(
    head: str, record: Mapping[str, Any], columns: Sequence[Column], pictures: list, unfolded: bool
) -> Markup:
    gold = record.get("gold")
    colour = colours(columns)
    about = [el("div", head, class_="soft"), el("div", str(record.get("question", "")), class_="text")]
    about += [el("div", "label: ", el("b", str(gold)))] if gold is not None else []
    shown = [
        el("section", el("h4", one.title + (f": {one.right}" if one.right else "")), votes(one, colour, gold))
        for one in columns
    ]
    said = [el("section", el("h4", one.title), samples(one, colour)) for one in columns]
    folded = el("summary", "samples"), el("div", *said, class_="columns")
    return el(
        "article",
        el("div", *map(image, pictures), el("div", *about), class_="asked"),
        el("div", *shown, class_="columns"),
        el("details", *folded, open="" if unfolded else None),
    )


def merged(columns: Sequence[Column]) -> list[Column]:
    """Of several runs from one base the base's samples once."""
    found: list[Column] = []
    for one in columns:
        same = next((i for i, other in enumerate(found) if other[1:] == one[1:]), None)
        if same is None:
            found.append(one)
        else:
            found[same] = found[same]._replace(title=f"{found[same].title}; {one.title}")
    return found


def held_out_gallery(runs: Sequence[Run], names: Sequence[str], album: Album) -> Markup | None:
    """The first evaluation and the latest of each run, question by question."""
    columns: dict[str, list[Column]] = {}
    asked: dict[str, tuple[dict, Run]] = {}
    for run, name in zip(runs, names, strict=True):
        for step in sorted({min(run.samples), max(run.samples)}) if run.samples else ():
            title = ("base" if step == 0 else f"step {step}") + (f" of {name}" if len(runs) > 1 else "")
            for record in run.samples[step]:
                key = str(record.get("id"))
                asked.setdefault(key, (record, run))
                columns.setdefault(key, []).append(column(title, record))
    cards = []
    for n, (key, (record, run)) in enumerate(asked.items()):
        places, source = texts(record.get("images")), run.config.get("eval_data", "")
        pictures = album.pictures(places, source, "test")
        head = ", ".join(filter(None, (key, str(record.get("category", "")))))
        cards.append(card(head, record, merged(columns[key]), pictures, n < OPEN))
    return join(cards) if cards else None


def training_gallery(runs: Sequence[Run], names: Sequence[str], album: Album) -> Markup | None:
    parts = []
    for run, name in zip(runs, names, strict=True):
        if len(runs) > 1 and run.rollouts:
            parts.append(el("h3", name))
        for n, record in enumerate(run.rollouts):
            pictures = album.pictures(texts(record.get("images")), run.config.get("train_data", ""), "train")
            head = f"step {record['step']}, {record.get('id')}"
            said = {key: value for key, value in record.items() if key != "gold"}
            parts.append(card(head, said, [column("samples", record)], pictures, n < OPEN))
    return join(parts) if parts else None
