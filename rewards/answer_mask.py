"""OM-GRPO (arXiv 2608.03119): the vote pays, but the loss of a token that holds a character of the answer has
no gradient, neither of the policy's term nor of the KL's. What divides the loss stays what it was."""

from torch import Tensor

from model.answer_tokens import answer_tokens
from model_utils import Processor, Rollout


def outside(rollout: Rollout, processor: Processor, config) -> Tensor | None:
    """[B, T] bool, False at the tokens of an answer; None, for all of them, without --mask_answer."""
    return ~answer_tokens(rollout, processor, config.answer_format) if config.mask_answer else None
