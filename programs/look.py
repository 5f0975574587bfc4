"""A first look at a source, answers too: `python -m data SOURCE [--split NAME] [--sheet FILE.png]`.

Prints how many questions there are, which column became what, how long the prompts are, three
examples and the unusable rows. --sheet draws the first pictures with their questions and answers.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from common import cli
from common.cli import flag
from common.terminal import printable
from data import TINY, BadRow, Example, load
from data.prompts import with_choices
from data.rows import Source
from model_utils import load_processor

SHOWN = 12  # questions on a contact sheet
MOST_PROBLEMS = 20  # named
MOST_LINES = 8  # of text under a picture


@dataclass
class Look:
    source: str = flag("tiny", "tiny, a .jsonl, .json, .csv or .parquet file, a folder, or a hub id")
    split: str = flag("", "split, where the source has several; tiny's default is test")
    model: str = flag(str(TINY), "checkpoint whose tokenizer measures the prompts")
    min_pixels: int = flag(0, "as in training; 0 is the checkpoint's own", "0 or more")
    max_pixels: int = flag(0, "as in training; 0 is the checkpoint's own", "0 or more")
    limit: int = flag(1000, "only the first so many rows; 0 is all", "0 or more")
    images_root: str = flag("", "folder that no picture's path may leave; paths may begin there as well")
    sheet: str = flag("", "PNG to draw the first questions on")

    def __post_init__(self):
        cli.check(self)
        if self.sheet and Path(self.sheet).suffix.lower() not in Image.registered_extensions():
            raise cli.UsageError(f"--sheet {self.sheet}: name it .png")


def main(argv: list[str]) -> int:
    if argv and not argv[0].startswith("-"):
        argv = ["--source", *argv]
    look = cli.parse(Look, argv)
    split = look.split or ("test" if look.source == "tiny" else None)
    examples = load(look.source, split, labels=True, images_root=look.images_root)
    try:
        rows = len(examples)
    except TypeError:
        rows = None
    limit = min(x for x in (rows, look.limit or (rows or 100)) if x is not None)
    processor = load_processor(look.model, look.min_pixels, look.max_pixels)
    first: list[Example] = []
    bad: list[str] = []
    lengths: list[int] = []
    categories: Counter[str] = Counter()
    unlabelled = 0
    for i in tqdm(range(limit), desc=printable(look.source), unit="row", leave=False, disable=None):
        try:
            example = examples[i]
            lengths.append(len(processor.encode(example).ids))
        except BadRow as error:
            bad.append(str(error))
        except ValueError as error:  # the processor refuses the text or an image
            bad.append(f"{examples.where(i)}: {error}")
        else:
            categories[example.meta["category"]] += 1
            unlabelled += not (example.answer or "").strip()
            first += [example] * (len(first) < SHOWN)

    of = "" if limit == rows else f", of the first {limit} rows of {'endless' if rows is None else rows}"
    print(printable(f"{look.source}: {len(lengths)} questions, {len(bad)} unusable rows{of}"))
    if isinstance(examples, Source):
        print("columns")
        for name, kind in examples.store.kinds.items():
            print(printable(f"  {name:28} {examples.columns.role(name, kind)}"))
    if lengths:
        least, most = min(lengths), max(lengths)
        print(f"prompt tokens: min {least}, median {median(lengths):g}, max {most} ({look.model})")
        print(f"without an answer: {unlabelled}")
    for name, count in sorted(categories.items()) if len(categories) > 1 or "" not in categories else ():
        print(printable(f"  {name or '(no category)':28} {count}"))
    for e in first[:3]:
        sizes = ", ".join(f"{i.width}x{i.height}" for i in e.images)
        shown = f"{e.question!r} {list(e.choices) or ''} [{e.answer}] images: {sizes or 'none'}"
        print(printable(f"  {e.id}: {shown}"))
    problems = Counter(bad)
    for problem, count in problems.most_common(MOST_PROBLEMS):
        print(printable(f"  skipped {problem}{f', {count} times' if count > 1 else ''}"))
    if len(problems) > MOST_PROBLEMS:
        print(f"  and {len(problems) - MOST_PROBLEMS} more")
    if look.sheet and first:
        try:
            Path(look.sheet).parent.mkdir(parents=True, exist_ok=True)
            contact_sheet(first).save(look.sheet)
        except OSError as error:
            raise cli.UsageError(f"--sheet {look.sheet}: {error.strerror or error}") from None
    return 0 if lengths else 1


# --- The contact sheet ----------------------------------------------------------------------------


def contact_sheet(examples: list[Example], columns: int = 4, cell: int = 300, line: int = 16) -> Image.Image:
    """Each question's pictures side by side, its text and choices under them, and its answer."""
    font, measure = ImageFont.load_default(13), ImageDraw.Draw(Image.new("RGB", (1, 1)))
    texts = []
    for e in examples:
        lines = wrapped(with_choices(e.question, e.choices), measure, font, cell - 16)
        lines = lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 1], "..."]
        texts.append([*lines, f"answer: {e.answer}"])
    rows = [range(i, min(i + columns, len(examples))) for i in range(0, len(examples), columns)]
    heights = [cell + 8 + line * max(len(texts[i]) for i in row) for row in rows]
    sheet = Image.new("RGB", (columns * cell, sum(heights)), "white")
    canvas = ImageDraw.Draw(sheet)
    for r, row in enumerate(rows):
        for c, i in enumerate(row):
            x, y = c * cell, sum(heights[:r])
            canvas.rectangle((x, y, x + cell - 1, y + heights[r] - 1), outline=(200, 200, 200))
            share = (cell - 16) // max(len(examples[i].images), 1)
            for n, image in enumerate(examples[i].images):
                sheet.paste(fitted(image, share, cell - 16), (x + 8 + n * share, y + 8))
            for n, words in enumerate(texts[i]):
                canvas.text((x + 8, y + cell + n * line), words, fill="black", font=font)
    return sheet


def fitted(image: Image.Image, width: int, height: int) -> Image.Image:
    """As large as fits: small pictures by a whole factor, so that their pixels stay visible."""
    scale = min(width / image.width, height / image.height)
    scale, how = (int(scale), Image.Resampling.NEAREST) if scale >= 1 else (scale, Image.Resampling.LANCZOS)
    return image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))), how)


def wrapped(text: str, canvas: ImageDraw.ImageDraw, font, width: int) -> list[str]:
    """Lines no wider than `width`; a word that is wider stands alone."""
    lines = []
    for paragraph in text.strip().split("\n"):
        lines.append("")
        for word in paragraph.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and canvas.textlength(longer, font) > width:
                lines.append(word)
            else:
                lines[-1] = longer
    return lines


if __name__ == "__main__":
    cli.run(main)
