"""Flags of a run that say where and how it computes: up to rounding no result depends on them."""

from dataclasses import dataclass

from common import log_to
from common.cli import check, flag, require

SAVED = ("float32", "bfloat16")
DTYPES, SHARD = ("auto", *SAVED), ("auto", "on", "off")


@dataclass
class Machine:
    dtype: str = flag("auto", "of products, not of trained weights; auto: bfloat16 on a GPU", choices=DTYPES)
    save_dtype: str = flag(
        "float32", "of the weights in a checkpoint, from which --resume is exact all the same", choices=SAVED
    )
    tokens_per_forward: int = flag(
        0, "tokens of one forward of an update; 0: up to 16384, by the plan", "0 or more"
    )
    gradient_checkpointing: bool | None = flag(
        None, "recompute activations in the backward pass; unset: where the plan needs it"
    )
    shard: str = flag(
        "auto", "processes hold shares of weights; auto: where a whole doesn't fit", choices=SHARD
    )
    rank_timeout: float = flag(60.0, "seconds until a lost or stuck process ends the run", "above 0")
    log_to: str = flag("", "tensorboard, wandb or tensorboard,wandb: where metrics go beside metrics.jsonl")
    verify: bool = flag(
        False, "check model, sampling, scoring and update on a few questions; status 1 if one fails"
    )
    plan: bool = flag(
        False, "say what this run needs, from config.json alone; exit status 2 if it doesn't fit"
    )
    plan_gpus: int = flag(0, "with --plan, for so many GPUs; 0: those of this run", "0 or more")
    plan_memory: float = flag(0.0, "with --plan, for GPUs of so many GB; 0: what is here", "0 or more")

    def __post_init__(self):
        check(self)
        log_to.check(self.log_to)
        alone = not (self.verify and getattr(self, "resume", False))
        require(self, "verify", alone, "given without --resume: a checkpoint is a --model as any other")
        for name in ("plan_gpus", "plan_memory"):
            require(self, name, self.plan or not getattr(self, name), "given together with --plan")
