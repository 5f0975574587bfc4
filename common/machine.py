"""Flags of a run that say where and how it computes: up to rounding no result depends on them."""

from dataclasses import dataclass

from common.cli import flag

DTYPES, SHARD = ("auto", "float32", "bfloat16"), ("auto", "on", "off")


@dataclass
class Machine:
    dtype: str = flag("auto", "of products, not of trained weights; auto: bfloat16 on a GPU", choices=DTYPES)
    tokens_per_forward: int = flag(16384, "tokens of one forward of an update", "at least 1")
    gradient_checkpointing: bool = flag(False, "recompute activations in the backward pass")
    shard: str = flag(
        "auto", "each process holds a share of the model; auto: where it is needed", choices=SHARD
    )
    rank_timeout: float = flag(60.0, "seconds until a lost or stuck process ends the run", "above 0")
