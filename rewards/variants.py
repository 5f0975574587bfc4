"""Label-free rewards, gates and weights beyond the plain majority, each one function and one flag.

Left out of RESTRAIN (arXiv 2510.02172): its penalty, an offset on all advantages of a group with little
consensus, is no function of a group's rewards, whose mean is subtracted. Of SCRL (arXiv 2603.19880): negative
labels.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.cli import flag, require
from rewards.custom import parse_reward
from rewards.group import Group, Vote
from rewards.views import CHANGES


def frequency_reward(group: Group, **_) -> list[float]:
    """r_i = the share of the group that says y_i, 0 where nothing parsed: a tie pays both sides.

    EMPO (arXiv 2504.05812): the probability of the cluster that an answer is in.
    """
    counts = Counter(group.keys)
    return [0.0 if key is None else counts[key] / len(group.keys) for key in group.keys]


def cross_reward(group: Group, **_) -> list[float]:
    """r_i = [y_i = the winner of the other half of the group], so that no answer votes for itself; where that
    half has no single winner, nobody of this one earns.

    Co-rewarding-I (arXiv 2508.00410), where the halves read different wordings; here --other_view.
    """
    winners = [vote.winner for vote in group.half_votes]
    return [
        float(key is not None and key == winners[1 - half])
        for key, half in zip(group.keys, group.half, strict=True)
    ]


VARIANTS: dict[str, Callable[..., list[float]]] = dict(frequency=frequency_reward, cross=cross_reward)


def halved(
    vote: Callable[[list], Vote], keys: Sequence[str | None], views: int = 1
) -> tuple[list[int], list[Vote]]:
    """(the half that each sample is in, the vote of each half alone). A sample is in the half of its parity;
    of two views' samples the first half saw the one, the second half the other."""
    G = len(keys)
    half = [i % 2 if views == 1 else int(2 * i >= G) for i in range(G)]
    return half, [vote([key for key, h in zip(keys, half, strict=True) if h == x]) for x in (0, 1)]


def halves_agree(group: Group) -> bool:
    """Whether both halves, voting alone, have the same single winner, which is then the group's too."""
    first, second = group.half_votes
    return first.winner is not None and first.winner == second.winner


GATES: dict[str, Callable[[Group], bool]] = {"none": lambda group: True, "halves": halves_agree}


def gated(group: Group, gate: str) -> Group:
    """The group without its pseudo-label where the gate is closed: it abstains."""
    return group if GATES[gate](group) else group._replace(vote=group.vote._replace(winner=None))


def share_weights(groups: Sequence[Group], power: float) -> Tensor:
    """[P, 1], share ** power: what each group's advantages are multiplied by; all 1 at power 0.

    Dividing by the standard deviation makes weak majorities loud, |A| = sqrt((1 - f) / f) at a share f; this
    takes that back. RESTRAIN (arXiv 2510.02172) weights questions by consensus to the same end.
    """
    return torch.tensor([[group.vote.share**power] for group in groups])


@dataclass
class Rewarding:
    """Flags that a run without them doesn't notice."""

    min_margin: float = flag(
        0.0, "abstain unless the winner leads the next by more of the group", "between 0 and 1"
    )
    gate: str = flag("none", "halves: abstain unless both half-votes have one winner", choices=GATES)
    share_power: float = flag(0.0, "advantages times the winner's share to this power; 0 is off", "0 or more")
    mask_answer: bool = flag(False, "no gradient reaches the tokens of the answer: its reasoning is trained")
    refill: int = flag(
        0, "more rollouts in a step at most, of questions for groups of equal rewards", "0 or more"
    )
    other_view: str = flag(
        "none", "half of a group sees its picture shifted by a pixel, or dimmed", choices=CHANGES
    )

    @property
    def views(self) -> int:
        """That a question is asked in, each by its part of the group."""
        return 1 if self.other_view == "none" else 2

    @property
    def per_view(self) -> int:
        """Samples of a question in each."""
        return self.group_size // self.views  # type: ignore[attr-defined]


def check_rewards(config, table: Mapping[str, Callable]) -> None:
    """What flags together make no sense. `table`: the rewards that have names."""
    parse_reward(config.reward, table)
    for name, off in (("min_share", 0), ("min_margin", 0), ("gate", "none")):
        what = f"{off} with --vote published, which never abstains"
        require(config, name, config.vote == "sound" or getattr(config, name) == off, what)
    even = config.group_size % config.views == 0
    require(config, "group_size", even, "even with --other_view, which half of a group sees")
