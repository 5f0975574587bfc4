"""Rewards beside the majority's, gates and weights of groups, and what of a response is trained.

The majority vote and its reward are in mmupt.py, which these never import; docs/rewards.md has a table.
"""

from rewards.controls import CONTROLS
from rewards.group import Group, Vote
from rewards.variants import VARIANTS, Rewarding

__all__ = ["CONTROLS", "VARIANTS", "Group", "Rewarding", "Vote"]
