"""--log_to: each row of metrics.jsonl to TensorBoard, Weights & Biases or both, which are optional packages.

    tensorboard    RUN/tensorboard, to look at with `tensorboard --logdir RUN`
    wandb          project "mmupt"; without a network by WANDB_MODE=offline, which leaves RUN/wandb

A resumed run goes on where it was. One of them that fails is warned of and left; the run goes on.
"""

import sys
import uuid
from collections.abc import Callable
from importlib.util import find_spec
from numbers import Real
from pathlib import Path

from tqdm import tqdm

from common.errors import UsageError, first_line

SINKS = ("tensorboard", "wandb")


def names(asked: str) -> list[str]:
    return [name.strip() for name in asked.split(",") if name.strip()]


def check(asked: str) -> None:
    """Says at the start what is unknown or not installed."""
    for name in names(asked):
        if name not in SINKS:
            raise UsageError(f"--log_to must be of {', '.join(SINKS)}, with a comma between (got {asked})")
        found = find_spec(name)
        if found is None or found.origin is None:  # the latter: a folder of that name, as wandb leaves
            raise UsageError(f"--log_to {name} needs {name}, which is missing: pip install {name}")


def scalars(row: dict) -> dict[str, float]:
    """The numbers of a row but for its step."""
    return {
        name: float(value)
        for name, value in row.items()
        if name != "step" and isinstance(value, Real) and value == value
    }


class TensorBoard:
    def __init__(self, folder: Path, config: dict, done: int):
        from torch.utils.tensorboard import SummaryWriter

        # what a killed run wrote of steps that are done again is hidden
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1 if done else None)

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Wandb:
    def __init__(self, folder: Path, config: dict, done: int):
        import wandb

        kept = folder / "wandb_id"  # the same run there, when it is resumed
        run_id = kept.read_text().strip() if done and kept.exists() else uuid.uuid4().hex[:8]
        name = folder.resolve().name
        self.run = wandb.init(
            project="mmupt", name=name, id=run_id, resume="allow", dir=str(folder), config=config
        )
        kept.write_text(run_id + "\n")
        self.run.define_metric("*", step_metric="step")  # a resumed run does some steps again

    def log(self, step: int, values: dict[str, float]) -> None:
        self.run.log({"step": step} | values)

    def close(self) -> None:
        self.run.finish()


KINDS: dict[str, Callable] = {"tensorboard": TensorBoard, "wandb": Wandb}


class Sinks:
    """Those that are in use, by name."""

    def __init__(self) -> None:
        self.open: dict[str, TensorBoard | Wandb] = {}

    def each(self, what: Callable) -> None:
        """Whatever their packages raise is no reason to lose a run."""
        for name, sink in list(self.open.items()):
            try:
                what(sink)
            except Exception as error:  # noqa: BLE001
                del self.open[name]
                say = f"warning: nothing more goes to --log_to {name} ({first_line(error)})"
                tqdm.write(say, file=sys.stderr)

    def log(self, row: dict) -> None:
        self.each(lambda sink: sink.log(row["step"], scalars(row)))

    def close(self) -> None:
        self.each(lambda sink: sink.close())
        self.open.clear()


def opened(asked: str, folder: Path, config: dict, done: int) -> Sinks:
    """`done`: steps of a resumed run."""
    sinks = Sinks()
    if names(asked):
        folder.mkdir(parents=True, exist_ok=True)
    for name in names(asked):
        try:
            sinks.open[name] = KINDS[name](folder, config, done)
        except Exception as error:  # noqa: BLE001  of the package, its login, its network
            raise UsageError(f"--log_to {name}: {first_line(error)}") from None
    return sinks
