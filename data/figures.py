"""Drawn questions: five families of small pictures with a question, a gold answer and its working.

    bars      two bars on a grid           "What do the two bars add up to?"        an integer
    area      a rectangle of squares       "What is the area of the rectangle?"     an integer
    fraction  a disc cut into sectors      "What fraction of the disc is shaded?"   a fraction
    ruler     a segment over a ruler       "How long is the segment?"               a decimal
    lines     two lines                    "Which line is longer?  A. .. C. .."     a letter

A question is drawn from its parameters alone, and a question's split is decided by a hash of all
its parameters: an (image, question) pair of one split can't occur in another. `python -m data tiny
--sheet FILE.png` draws a contact sheet.

Left out: anti-aliasing, fonts, clutter. The pictures are 56 x 56 so that a model of a million
parameters reads them.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from PIL import Image, ImageDraw

SIZE = 56
COLOURS = {"red": (214, 48, 49), "green": (39, 174, 96), "blue": (41, 98, 214), "orange": (243, 156, 18)}
PAPER, GRID, INK = (255, 255, 255), (222, 222, 222), (45, 45, 45)
# parameter-hash buckets of eight
SPLITS = {"test": (0,), "validation": (1,), "train": (2, 3, 4, 5, 6, 7)}


@dataclass(frozen=True)
class Figure:
    """One drawn question. `readings`: the numbers a person reads off the picture to answer it."""

    family: str
    params: tuple  # everything the picture and the question are made from
    question: str
    choices: tuple[str, ...]
    readings: tuple
    answer: str

    def image(self) -> Image.Image:
        canvas = Image.new("RGB", (SIZE, SIZE), PAPER)
        FAMILIES[self.family].draw(ImageDraw.Draw(canvas), *self.params)
        return canvas

    def work(self, readings: tuple) -> tuple[str, str]:
        """(the written steps, the answer) of somebody who read these numbers off the picture."""
        return FAMILIES[self.family].work(readings, *self.params)

    def bucket(self) -> int:
        """0..7, from all parameters: the split this question belongs to."""
        return hashlib.sha256(repr((self.family, self.params)).encode()).digest()[0] % 8


@dataclass(frozen=True)
class Family:
    pick: Callable  # rng -> params
    draw: Callable  # (canvas, *params) -> None
    ask: Callable  # params -> (question, choices, readings)
    work: Callable  # (readings, *params) -> (steps, answer)
    step: float  # a misreading is off by this much
    low: float  # readings stay within low..high
    high: float


def number(x) -> str:
    """2.5 -> '2.5', 3.0 -> '3'."""
    return f"{x:g}"


# --- bars: params = left height, right height, colour, kind ---------------------------------------


def pick_bars(rng):
    kind = rng.choice(("sum", "difference"))
    left, right = rng.randint(1, 9), rng.randint(1, 9)
    if kind == "difference" and left < right:
        left, right = right, left
    return left, right, *rng.sample(list(COLOURS), 2), kind


def draw_bars(canvas, left, right, colour, other, kind):
    for unit in range(10):
        canvas.line((2, 51 - 5 * unit, 53, 51 - 5 * unit), fill=GRID)
    canvas.rectangle((9, 51 - 5 * left, 22, 51), fill=COLOURS[colour])
    canvas.rectangle((33, 51 - 5 * right, 46, 51), fill=COLOURS[other])
    canvas.line((2, 51, 53, 51), fill=INK)


def ask_bars(left, right, colour, other, kind):
    text = "What do the two bars add up to?" if kind == "sum" else "How much taller is the left bar?"
    return text, (), (left, right)


def work_bars(readings, left, right, colour, other, kind):
    x, y = readings
    sign, result = ("+", x + y) if kind == "sum" else ("-", x - y)
    return f"left {x}, right {y}, {x} {sign} {y} = {result}.", str(result)


# --- area: params = width, height, colour, left, top, kind ----------------------------------------


def pick_area(rng):
    width, height = rng.randint(2, 8), rng.randint(2, 8)
    left, top = rng.randint(0, 8 - width), rng.randint(0, 8 - height)
    return width, height, rng.choice(sorted(COLOURS)), left, top, rng.choice(("area", "border"))


def draw_area(canvas, width, height, colour, left, top, kind):
    for i in range(8):
        canvas.line((7 * i, 0, 7 * i, 56), fill=GRID)
        canvas.line((0, 7 * i, 56, 7 * i), fill=GRID)
    for i in range(width):
        for j in range(height):
            x, y = 7 * (left + i), 7 * (top + j)
            canvas.rectangle((x, y, x + 7, y + 7), fill=COLOURS[colour], outline=INK)


def ask_area(width, height, colour, left, top, kind):
    text = (
        "What is the area of the rectangle?" if kind == "area" else "How long is the border of the rectangle?"
    )
    return text, (), (width, height)


def work_area(readings, width, height, colour, left, top, kind):
    w, h = readings
    if kind == "area":
        return f"{w} wide, {h} high, {w} * {h} = {w * h}.", str(w * h)
    return f"{w} wide, {h} high, {w} + {h} = {w + h}, 2 * {w + h} = {2 * (w + h)}.", str(2 * (w + h))


# --- fraction: params = parts, shaded, colour, turn, kind -----------------------------------------


def pick_fraction(rng):
    parts = rng.choice((2, 3, 4, 5, 6, 8))
    return (
        parts,
        rng.randint(1, parts - 1),
        rng.choice(sorted(COLOURS)),
        rng.randrange(24),
        rng.choice(("shaded", "white")),
    )


def draw_fraction(canvas, parts, shaded, colour, turn, kind):
    box = (3, 3, 52, 52)
    for i in range(parts):
        a, b = (15 * turn + 360 * i / parts), (15 * turn + 360 * (i + 1) / parts)
        canvas.pieslice(box, a, b, fill=COLOURS[colour] if i < shaded else PAPER, outline=INK)
    canvas.ellipse(box, outline=INK)


def ask_fraction(parts, shaded, colour, turn, kind):
    text = (
        "What fraction of the disc is shaded?" if kind == "shaded" else "What fraction of the disc is white?"
    )
    return text, (), (shaded if kind == "shaded" else parts - shaded, parts)


def work_fraction(readings, parts, shaded, colour, turn, kind):
    part, whole = readings
    return f"{part} of {whole} parts.", f"{part}/{whole}"


# --- ruler: params = start, end (in halves), colour, height, kind ---------------------------------


def pick_ruler(rng):
    start, end = sorted(rng.sample(range(13), 2))
    return start, end, rng.choice(sorted(COLOURS)), rng.randrange(10), rng.choice(("length", "end"))


def draw_ruler(canvas, start, end, colour, height, kind):
    canvas.rectangle((1, 40, 54, 54), fill=(250, 240, 205), outline=INK)
    for half in range(13):
        x = 4 + 4 * half
        canvas.line((x, 40, x, 50 if half % 2 == 0 else 45), fill=INK)
    y = 8 + 3 * height
    canvas.rectangle((4 + 4 * start, y - 2, 4 + 4 * end, y + 2), fill=COLOURS[colour])
    for half in (start, end):
        canvas.line((4 + 4 * half, y + 3, 4 + 4 * half, 39), fill=GRID)


def ask_ruler(start, end, colour, height, kind):
    text = "How long is the segment?" if kind == "length" else "Where does the segment end?"
    return text, (), (start / 2, end / 2)


def work_ruler(readings, start, end, colour, height, kind):
    a, b = readings
    if kind == "length":
        return f"from {number(a)} to {number(b)}, {number(b)} - {number(a)} = {number(b - a)}.", number(b - a)
    return f"from {number(a)} to {number(b)}.", number(b)


# --- lines: params = upper length, lower length, colours, kind ------------------------------------


def pick_lines(rng):
    upper, lower = rng.randint(1, 9), rng.randint(1, 9)
    if rng.random() < 0.25:
        lower = upper
    return upper, lower, *rng.sample(list(COLOURS), 2), rng.choice(("longer", "shorter"))


def draw_lines(canvas, upper, lower, colour, other, kind):
    for unit in range(10):
        canvas.line((5 + 5 * unit, 4, 5 + 5 * unit, 51), fill=GRID)
    canvas.rectangle((5, 10, 5 + 5 * upper, 21), fill=COLOURS[colour])
    canvas.rectangle((5, 34, 5 + 5 * lower, 45), fill=COLOURS[other])
    canvas.line((5, 4, 5, 51), fill=INK)


def ask_lines(upper, lower, colour, other, kind):
    return f"Which line is {kind}?", ("upper", "lower", "the same"), (upper, lower)


def work_lines(readings, upper, lower, colour, other, kind):
    x, y = readings
    best = 2 if x == y else int((x < y) == (kind == "longer"))
    return f"upper {x}, lower {y}, so {('upper', 'lower', 'the same')[best]}.", "ABC"[best]


FAMILIES = {
    "bars": Family(pick_bars, draw_bars, ask_bars, work_bars, 1, 1, 9),
    "area": Family(pick_area, draw_area, ask_area, work_area, 1, 1, 9),
    "fraction": Family(pick_fraction, draw_fraction, ask_fraction, work_fraction, 1, 1, 8),
    "ruler": Family(pick_ruler, draw_ruler, ask_ruler, work_ruler, 0.5, 0, 6),
    "lines": Family(pick_lines, draw_lines, ask_lines, work_lines, 1, 1, 9),
}


def make_figure(family: str, params: tuple) -> Figure:
    question, choices, readings = FAMILIES[family].ask(*params)
    _, answer = FAMILIES[family].work(readings, *params)
    return Figure(family, params, question, choices, readings, answer)


def figure(split: str, index: int) -> Figure:
    """Question `index` of a split, the same on every machine. Families take turns."""
    family = list(FAMILIES)[index % len(FAMILIES)]
    rng = random.Random(f"{split} {index}")
    while True:
        drawn = make_figure(family, FAMILIES[family].pick(rng))
        if drawn.bucket() in SPLITS[split]:
            return drawn


def held_out(split: str, count: int) -> list[Figure]:
    """The first `count` distinct questions of a held-out split."""
    seen: dict[tuple, Figure] = {}
    index = 0
    while len(seen) < count:
        drawn = figure(split, index)
        seen.setdefault((drawn.family, drawn.params), drawn)
        index += 1
    return list(seen.values())


def misread(drawn: Figure, rng: random.Random, rate: float) -> tuple:
    """The readings of a careless reader: each is one step off with probability `rate`."""
    family = FAMILIES[drawn.family]
    readings = list(drawn.readings)
    for i, x in enumerate(readings):
        if rng.random() < rate:
            wrong = x + rng.choice((-family.step, family.step))
            if family.low <= wrong <= family.high:
                readings[i] = wrong
    if drawn.family == "ruler" and readings[0] >= readings[1]:
        return drawn.readings
    return tuple(readings)


QUESTIONS = {  # what can be asked of a family's pictures
    "bars": ["What do the two bars add up to?", "How much taller is the left bar?"],
    "area": ["What is the area of the rectangle?", "How long is the border of the rectangle?"],
    "fraction": ["What fraction of the disc is shaded?", "What fraction of the disc is white?"],
    "ruler": ["How long is the segment?", "Where does the segment end?"],
    "lines": ["Which line is longer?", "Which line is shorter?"],
}


def other_questions(drawn: Figure) -> list[str]:
    """Every other question that the same picture answers."""
    difference_is_negative = drawn.family == "bars" and drawn.params[0] < drawn.params[1]
    if difference_is_negative:
        return ["Which bar is taller?"]  # "how much taller" would have no answer
    return [text for text in QUESTIONS[drawn.family] if text != drawn.question]


def notation(answer: str, rng: random.Random) -> str:
    """An answer as different writers put it: 3/8 is also \frac{3}{8}, and 1/2 is also 0.5."""
    if "/" not in answer:
        return answer
    top, bottom = answer.split("/")
    style = rng.random()
    if style < 0.3:
        return f"\\frac{{{top}}}{{{bottom}}}"
    value = Fraction(int(top), int(bottom))
    if style < 0.45 and 1000 % value.denominator == 0:
        return number(float(value))
    return answer
