"""Curves as SVG: a chart of one metric, a line for each run or for each part.

A line of more than MOST points shows the mean of each bucket of steps, over a band from its least to its
largest value. Colours are classes of the page's style sheet, so that they follow light and dark.
"""

from collections.abc import Sequence
from math import ceil, floor, log10
from statistics import fmean
from typing import NamedTuple

from report.markup import Markup, el
from report.runs import Point

MOST = 200  # points of a line
MOST_TITLES = 100  # points of a line that say their value under the pointer
WIDTH, HEIGHT = 340, 150
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 20


class Bucket(NamedTuple):
    step: float
    mean: float
    least: float
    largest: float


def buckets(points: Sequence[Point], most: int = MOST) -> list[Bucket]:
    """Runs of neighbours of equal size, up to one."""
    size = ceil(len(points) / most) or 1
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        Bucket(fmean(s for s, _ in p), fmean(v for _, v in p), min(v for _, v in p), max(v for _, v in p))
        for p in parts
    ]


def ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) from at most `low` to at least `high`.

    ticks(0.13, 0.88) -> [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if high <= low:
        low, high = (low - abs(low) / 10, low + abs(low) / 10) if low else (0.0, 1.0)
    raw = (high - low) / most
    power = 10.0 ** floor(log10(raw))
    gap = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = floor(low / gap + 1e-9), ceil(high / gap - 1e-9)
    return [float(f"{i * gap:.12g}") for i in range(first, last + 1)]  # a KL of 1e-15 is one, too


def short(value: float) -> str:
    """0.653, 12.4, 1,027, 12.4k, 3.1e+06"""
    if abs(value) >= 10_000:
        return f"{value / 1000:.3g}k" if abs(value) < 999_500 else f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


class Axes(NamedTuple):
    """From data to the places of the drawing."""

    steps: tuple[float, float]
    values: tuple[float, float]

    def x(self, step: float) -> float:
        low, high = self.steps
        share = (step - low) / (high - low) if high > low else 0.5
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self.values
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)


def path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in places)


def line(points: Sequence[Point], axes: Axes, colour: str) -> list[Markup]:
    kept = buckets(points)
    places = [(axes.x(b.step), axes.y(b.mean)) for b in kept]
    drawn = []
    if len(kept) < len(points):
        above = [(axes.x(b.step), axes.y(b.largest)) for b in kept]
        below = [(axes.x(b.step), axes.y(b.least)) for b in reversed(kept)]
        drawn.append(el("path", d=path([*above, *below]) + "Z", class_=f"band {colour}"))
    if len(kept) > 1:
        drawn.append(el("path", d=path(places), class_=f"line {colour}"))
    if len(kept) <= MOST_TITLES:
        size = 2.5 if len(kept) < 13 else 1.2
        for (x, y), b in zip(places, kept, strict=True):
            says = el("title", f"step {b.step:g}: {short(b.mean)}")
            drawn.append(el("circle", says, cx=f"{x:g}", cy=f"{y:g}", r=size, class_=f"dot {colour}"))
    return drawn


def chart(title: str, lines: Sequence[tuple[str, Sequence[Point]]], note: str = "") -> Markup | None:
    """A figure with its first and last values; nothing where no line has a point."""
    coloured = [(name, points, f"c{i % 8}") for i, (name, points) in enumerate(lines) if points]
    everything = [point for _, points, _ in coloured for point in points]
    if not everything:
        return None
    steps, values = [s for s, _ in everything], [v for _, v in everything]
    marks = ticks(min(values), max(values))
    axes = Axes((min(steps), max(steps)), (marks[0], marks[-1]))
    drawn = []
    for mark in marks:
        y = axes.y(mark)
        drawn.append(el("path", d=f"M{LEFT} {y:g}H{WIDTH - RIGHT}", class_="grid"))
        drawn.append(el("text", short(mark), x=LEFT - 5, y=f"{y + 3:g}", text_anchor="end"))
    for step, anchor in dict(zip(axes.steps, ("start", "end"), strict=True)).items():
        text = f"step {step:g}" if anchor == "end" else f"{step:g}"
        drawn.append(el("text", text, x=f"{axes.x(step):g}", y=HEIGHT - 5, text_anchor=anchor))
    for _, points, colour in coloured:
        drawn += line(points, axes, colour)
    keys = [
        el(
            "li",
            el("i", class_=colour),
            f"{name}{' ' * bool(name)}{short(points[0][1])} → {short(points[-1][1])}",
        )
        for name, points, colour in coloured
    ]
    said = [el("b", title), el("span", note) if note else None, el("ul", *keys)]
    picture = el("svg", *drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)
    return el("figure", el("figcaption", *said), picture)
