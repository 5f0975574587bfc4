"""Questions: one reader per source, all giving `Example`.

    load("tiny", "train")        the built-in drawn questions (data/figures.py): endless train, held-out validation and test
    load("questions.jsonl")      rows {"id", "question", "images": [path relative to the file], "answer"?, "choices"?}

A reader strips answers unless it is asked for them (`labels=True`), so a label can't reach training by accident.
Left out: parquet files and hub ids.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from data import figures
from data.images import BadImage, open_image

HELD_OUT = {"test": 1024, "validation": 512}


class DataError(ValueError):
    """A source that can't be used at all; the message names the fix."""


class BadRow(ValueError):
    """One row that can't be used: it is skipped, counted and named."""


@dataclass(frozen=True)
class Example:
    id: str
    images: tuple[Image.Image, ...]
    question: str
    answer: str | None = None  # None where unlabelled
    choices: tuple[str, ...] = ()
    meta: dict = field(default_factory=dict)  # `category` is used for tables


class Tiny:
    """The built-in questions. The training split has no end: its length is None."""

    def __init__(self, split: str, labels: bool):
        if split not in figures.SPLITS:
            raise DataError(f"tiny has the splits {', '.join(sorted(figures.SPLITS))}, not {split!r}")
        self.split, self.labels = split, labels
        self.drawn = None if split == "train" else figures.held_out(split, HELD_OUT[split])

    def __len__(self):
        if self.drawn is None:
            raise TypeError("the built-in training questions have no end")
        return len(self.drawn)

    def __getitem__(self, index: int) -> Example:
        drawn = figures.figure(self.split, index) if self.drawn is None else self.drawn[index]
        return Example(
            id=f"tiny-{self.split}-{index}",
            images=(drawn.image(),),
            question=drawn.question,
            answer=drawn.answer if self.labels else None,
            choices=drawn.choices,
            meta={"category": drawn.family},
        )


class Jsonl:
    """Rows of a .jsonl file. Rows are checked when they are used, so that one bad row costs one row."""

    def __init__(self, path: Path, labels: bool):
        self.path, self.labels = path, labels
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise DataError(f"{path}: no such file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not a readable UTF-8 file ({error})") from None
        # split on newlines only: str.splitlines would also break on characters that JSON allows inside strings
        self.lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        if not self.lines:
            raise DataError(f"{path}: no rows")

    def __len__(self):
        return len(self.lines)

    def __getitem__(self, index: int) -> Example:
        line_number, line = self.lines[index]
        where = f"{self.path.name}:{line_number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadRow(f"{where}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise BadRow(f"{where}: a row is a JSON object, not {type(row).__name__}")
        question = row.get("question")
        if not isinstance(question, str) or not question.strip():
            raise BadRow(f"{where}: no question")
        if any("\ud800" <= c <= "\udfff" for c in f"{question}{row.get('id')}{row.get('choices')}"):
            raise BadRow(f"{where}: half a surrogate pair, which is no text")
        paths, choices, answer = row.get("images") or [], row.get("choices") or [], row.get("answer")
        if not isinstance(paths, list) or not all(isinstance(p, str) for p in paths):
            raise BadRow(f"{where}: `images` is a list of paths")
        if not isinstance(choices, list) or not all(isinstance(c, str) for c in choices):
            raise BadRow(f"{where}: `choices` is a list of strings")
        if self.labels and answer is not None and not isinstance(answer, (str, int, float)):
            raise BadRow(f"{where}: `answer` is a string or a number")
        try:
            images = tuple(open_image(self.path.parent / p) for p in paths)
        except BadImage as error:
            raise BadRow(f"{where}: {error}") from None
        return Example(
            id=f"{self.path.stem}-{line_number}" if row.get("id") is None else str(row["id"]),
            images=images,
            question=question,
            answer=str(answer) if self.labels and answer is not None else None,
            choices=tuple(choices),
            meta={"category": str(row.get("category", ""))},
        )


def load(source: str, split: str | None = None, labels: bool = False) -> Tiny | Jsonl:
    """A source by name -> its examples by index. Raises DataError where there is nothing to read.

    Answers are None in every example unless `labels` is set.
    """
    if source == "tiny":
        return Tiny(split or "train", labels)
    if source.endswith(".jsonl"):
        return Jsonl(Path(source), labels)
    raise DataError(f"{source}: a source is `tiny` or a .jsonl file")


def order(examples: Tiny | Jsonl, seed: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """Endless (position, index) pairs: shuffled by seed, anew each epoch; `start` continues where a run stopped.

    The endless built-in split is not shuffled but entered at a place that the seed chooses.
    """
    try:
        size = len(examples)
    except TypeError:
        first = random.Random(f"order {seed}").randrange(2**40)
        while True:
            yield start, first + start
            start += 1
    while True:
        epoch, offset = divmod(start, size)
        indices = list(range(size))
        random.Random(f"order {seed} {epoch}").shuffle(indices)
        for index in indices[offset:]:
            yield start, index
            start += 1
