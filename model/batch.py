"""Questions as tensors: one as the model reads it, and several as one right-padded batch.

Letters: P questions, L prompt tokens, A axes of rotary positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Model = Any  # a PreTrainedModel; its parts differ from family to family, so no type names them


@dataclass(frozen=True)
class Encoded:
    """One question as the model reads it."""

    id: str
    ids: list[int]  # image tokens already expanded
    # what the family's image processor makes of the images
    vision: dict[str, Tensor] = field(default_factory=dict)
    # the options of a lettered question, so that an option's value votes as its letter
    choices: tuple[str, ...] = ()
    # for the log: what was asked, without the instruction, and where its pictures are
    question: str = ""
    pictures: tuple[str, ...] = ()
    # the same question with its picture changed, where half of a group is to see that
    other: "Encoded | None" = None

    def bytes(self) -> int:
        return 8 * len(self.ids) + sum(x.nbytes for x in self.vision.values())


@dataclass(frozen=True)
class Prompts:
    """P questions as one right-padded batch."""

    keys: list[str]  # question ids, which key the randomness
    ids: Tensor  # [P, L]
    lengths: Tensor  # [P]
    vision: list[dict[str, Tensor]]  # of each question; empty where it has no image
    positions: Tensor | None = None  # [A, P, L] rotary positions, once the model has said them
    blocks: Tensor | None = None  # [P, L] images whose tokens see each other, likewise

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def rope(self) -> Tensor:
        """[A, P, L], the rotary positions."""
        if self.positions is None:
            raise ValueError("the model has not said the positions yet: see with_positions")
        return self.positions

    def select(self, rows: Sequence[int]) -> "Prompts":
        """These questions, in this order, no wider than they need to be."""
        rows = list(rows)
        lengths = self.lengths[rows]
        width = int(lengths.max())
        return Prompts(
            [self.keys[r] for r in rows],
            self.ids[rows, :width],
            lengths,
            [self.vision[r] for r in rows],
            None if self.positions is None else self.positions[:, rows, :width],
            None if self.blocks is None else self.blocks[rows, :width],
        )

    def joined(self, other: "Prompts") -> "Prompts":
        """These questions, then those."""
        blocks = [
            torch.full(x.ids.shape, -1, device=x.ids.device) if x.blocks is None else x.blocks
            for x in (self, other)
        ]
        return Prompts(
            self.keys + other.keys,
            side_by_side([self.ids, other.ids]),
            torch.cat([self.lengths, other.lengths]),
            self.vision + other.vision,
            side_by_side([self.rope, other.rope]),
            None if self.blocks is None and other.blocks is None else side_by_side(blocks),
        )


def side_by_side(tensors: Sequence[Tensor]) -> Tensor:
    """[.., P, L] of several L as one, padded with 0, which nobody reads."""
    width = max(x.shape[-1] for x in tensors)
    return torch.cat([F.pad(x, (0, width - x.shape[-1])) for x in tensors], -2)


def next_position(prompts: Prompts) -> Tensor:
    """[P], the rotary position of the first response token."""
    real = torch.arange(prompts.ids.shape[1], device=prompts.ids.device) < prompts.lengths[:, None]
    return prompts.rope.amax(0).masked_fill(~real, -1).amax(-1) + 1
