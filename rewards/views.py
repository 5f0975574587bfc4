"""Two views of one picture: half of a group is shown it changed by a hair.

An answer that depends on such a change is no answer of the question, so a vote across views (--reward cross,
--gate halves) knows more than one within. The change is the same for every picture and reads no label.
Co-rewarding-I (arXiv 2508.00410) has this for wordings.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from PIL import Image

from data import Example
from data.prompts import INSTRUCTION
from model.batch import Encoded


def shifted(image: Image.Image) -> Image.Image:
    """By one pixel to the right and down; first row and column stay as they are."""
    moved = image.copy()
    moved.paste(image.crop((0, 0, image.width - 1, image.height - 1)), (1, 1))
    return moved


def dimmed(image: Image.Image) -> Image.Image:
    """To .95 of its brightness."""
    return image.point([round(0.95 * value) for value in range(256)] * len(image.getbands()))


CHANGES: dict[str, Callable[[Image.Image], Image.Image] | None] = {
    "none": None, "shift": shifted, "dim": dimmed,
}  # fmt: skip


class TwoViews:
    """A processor whose questions hold, as `other`, what the second half of their group sees. Its id, which
    keys the draws, is another."""

    def __init__(self, processor, name: str, change: Callable[[Image.Image], Image.Image]):
        self.processor, self.name, self.change = processor, name, change

    def encode(self, example: Example, instruction: str = INSTRUCTION) -> Encoded:
        changed = replace(example, images=tuple(map(self.change, example.images)))
        other = replace(self.processor.encode(changed, instruction), id=f"{example.id}, {self.name}")
        return replace(self.processor.encode(example, instruction), other=other)


def reader(processor, name: str):
    """The processor, or with --other_view one that reads each question in both."""
    change = CHANGES[name]
    return TwoViews(processor, name, change) if change else processor


def in_views(questions: Sequence[Encoded]) -> list[Encoded]:
    """Each question, or each of its two views in turn: of G samples the first half sees the first."""
    return [view for question in questions for view in (question, question.other) if view]
