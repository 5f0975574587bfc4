"""Drawn questions: five families of small pictures, each with a question, a gold answer and a way to work it out.

    bars      four bars on a grid         "What is the red bar plus the blue bar?"      an integer
    area      a rectangle of squares      "What is the area of the rectangle?"          an integer
    fraction  a disc cut into sectors     "What fraction of the disc is shaded?"        a fraction
    ruler     a segment over a ruler      "How long is the segment?"                    a decimal
    lines     four lines                  "Which line is the longest? A. .. D. .."      a letter

A question is drawn from its parameters alone, and a question's split is decided by a hash of all its parameters: an
(image, question) pair of one split can't occur in another. `python -m data tiny --sheet FILE.png` draws a contact sheet.

Left out: anti-aliasing, fonts, clutter. The pictures are 56 x 56 so that a model of a million parameters reads them.
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
SPLITS = {"test": (0,), "validation": (1,), "train": (2, 3, 4, 5, 6, 7)}  # parameter-hash buckets of eight


@dataclass(frozen=True)
class Figure:
    """One drawn question. `readings` are the numbers a person reads off the picture to answer it."""

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


# --- bars: params = heights in order of COLOURS, kind, first colour, second colour --------------------------------------------------------


def pick_bars(rng):
    heights = tuple(rng.randint(1, 9) for _ in COLOURS)
    first, second = rng.sample(range(4), 2)
    kind = rng.choice(("plus", "taller"))
    if kind == "taller" and heights[first] < heights[second]:
        first, second = second, first
    return heights, kind, list(COLOURS)[first], list(COLOURS)[second]


def draw_bars(canvas, heights, kind, first, second):
    for unit in range(10):
        canvas.line((0, 51 - 5 * unit, 55, 51 - 5 * unit), fill=GRID)
    for i, (colour, height) in enumerate(zip(COLOURS.values(), heights, strict=True)):
        canvas.rectangle((2 + 14 * i, 51 - 5 * height, 11 + 14 * i, 51), fill=colour)
    canvas.line((0, 51, 55, 51), fill=INK)


def ask_bars(heights, kind, first, second):
    by_colour = dict(zip(COLOURS, heights, strict=True))
    if kind == "plus":
        text = f"What is the {first} bar plus the {second} bar?"
    else:
        text = f"How much taller is {first} than {second}?"
    return text, (), (by_colour[first], by_colour[second])


def work_bars(readings, heights, kind, first, second):
    x, y = readings
    sign, result = ("+", x + y) if kind == "plus" else ("-", x - y)
    return f"{first} {x}, {second} {y}, {x} {sign} {y} = {result}.", str(result)


# --- area: params = width, height, colour, left, top, kind ---------------------------------------------------------


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
    text = "What is the area of the rectangle?" if kind == "area" else "How long is the border of the rectangle?"
    return text, (), (width, height)


def work_area(readings, width, height, colour, left, top, kind):
    w, h = readings
    if kind == "area":
        return f"{w} wide, {h} high, {w} * {h} = {w * h}.", str(w * h)
    return f"{w} wide, {h} high, {w} + {h} = {w + h}, 2 * {w + h} = {2 * (w + h)}.", str(2 * (w + h))


# --- fraction: params = parts, shaded, colour, turn, kind ----------------------------------------------------------


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
    text = "What fraction of the disc is shaded?" if kind == "shaded" else "What fraction of the disc is white?"
    return text, (), (shaded if kind == "shaded" else parts - shaded, parts)


def work_fraction(readings, parts, shaded, colour, turn, kind):
    part, whole = readings
    return f"{part} of {whole} parts.", f"{part}/{whole}"


# --- ruler: params = start, end (in halves), colour, height, kind --------------------------------------------------


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


# --- lines: params = lengths in order of COLOURS, choices, kind ------------------------------------------------------


def pick_lines(rng):
    return tuple(rng.sample(range(1, 10), 4)), tuple(rng.sample(list(COLOURS), 4)), rng.choice(("long", "short"))


def draw_lines(canvas, lengths, choices, kind):
    for unit in range(10):
        canvas.line((5 + 5 * unit, 0, 5 + 5 * unit, 55), fill=GRID)
    for i, (colour, length) in enumerate(zip(COLOURS.values(), lengths, strict=True)):
        canvas.rectangle((5, 3 + 14 * i, 5 + 5 * length, 10 + 14 * i), fill=colour)
    canvas.line((5, 0, 5, 55), fill=INK)


def ask_lines(lengths, choices, kind):
    by_colour = dict(zip(COLOURS, lengths, strict=True))
    return f"Which line is the {kind}est?", choices, tuple(by_colour[c] for c in choices)


def work_lines(readings, lengths, choices, kind):
    best = (max if kind == "long" else min)(range(4), key=lambda i: readings[i])
    steps = ", ".join(f"{c} {x}" for c, x in zip(choices, readings, strict=True))
    return f"{steps}, so {choices[best]}.", "ABCD"[best]


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
    seen, index = {}, 0
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


def other_questions(drawn: Figure) -> list[str]:
    """Every other question of this family that the same picture answers."""
    if drawn.family == "bars":
        bars = list(zip(COLOURS, drawn.params[0], strict=True))
        pairs = [(a, b) for a in bars for b in bars if a is not b]
        texts = [f"What is the {a} bar plus the {b} bar?" for (a, _), (b, _) in pairs]
        texts += [f"How much taller is {a} than {b}?" for (a, x), (b, y) in pairs if x >= y]
    else:
        texts = {
            "area": ["What is the area of the rectangle?", "How long is the border of the rectangle?"],
            "fraction": ["What fraction of the disc is shaded?", "What fraction of the disc is white?"],
            "ruler": ["How long is the segment?", "Where does the segment end?"],
            "lines": ["Which line is the longest?", "Which line is the shortest?"],
        }[drawn.family]
    return [text for text in texts if text != drawn.question]


def notation(answer: str, rng: random.Random) -> str:
    """An answer as different writers would put it: 3/8 is also \\frac{3}{8}, and 1/2 is also 0.5."""
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


def contact_sheet(split: str, rows: int = 6, scale: int = 3) -> Image.Image:
    """`rows` questions of every family, enlarged, with question and answer under each picture."""
    cell, text, wide = SIZE * scale, 34, SIZE * scale + 90
    sheet = Image.new("RGB", (wide * len(FAMILIES), (cell + text) * rows), (238, 238, 238))
    canvas = ImageDraw.Draw(sheet)
    for i in range(rows * len(FAMILIES)):
        drawn = figure(split, i)
        x, y = wide * (i % len(FAMILIES)), (cell + text) * (i // len(FAMILIES))
        sheet.paste(drawn.image().resize((cell, cell), Image.Resampling.NEAREST), (x + 8, y + 4))
        canvas.text((x + 8, y + cell + 6), drawn.question, fill=INK)
        letters = "  ".join(f"{a}. {c}" for a, c in zip("ABCD", drawn.choices, strict=False))
        canvas.text((x + 8, y + cell + 18), f"{letters}  [{drawn.answer}]".strip(), fill=INK)
    return sheet
