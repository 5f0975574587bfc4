"""A run's checkpoints: a Hugging Face folder, optimiser and trainer state, all or nothing."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from common.distributed import World
from common.errors import ModelError, UsageError
from common.files import by_umask, sync
from common.pulse import tick
from common.terminal import printable
from model.batch import Model
from model.damage import checksum, damage
from model.finite import nonfinite
from model.lora import is_adapted
from model.processor import Processor
from model.sharding import is_sharded, rows_to_main, share_of
from model.tensor_files import in_file_order, in_files, write_tensors, write_weights

MASTER = "master"  # of optimizer.safetensors: float32 weights that are saved in a narrower dtype


def save_checkpoint(
    folder: Path,
    model: Model,
    processor: Processor,
    optimizer,
    state: dict,
    keep: int = 0,
    main: bool = True,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes `folder` (…/step-N) whole or not at all: model, processor, optimiser and `state`.

    Everything is written beside its place, flushed to disk and renamed. Older checkpoints beyond
    `keep` (0: all stay) go only after that. Raises OSError (a full disk) with the older checkpoints
    untouched, and ModelError where what trains is not finite. All processes call it, and the `main` one
    writes: what lies in shares comes to it share by share, so that not even one whole tensor stands in
    memory.

    `dtype`: that of the weights. Where it is narrower than theirs, they are themselves saved beside the
    moments.
    """
    moments = in_file_order(moments_by_name(model, optimizer, dtype))
    if broken := nonfinite(trained_by_name(model) | moments, together=is_sharded(model)):
        raise ModelError(broken)
    # an adapter is whole on every process, and peft writes it
    weights = {} if is_adapted(model) else weights_as_stored(model)
    stand_ins = {name: torch.empty(x.shape, dtype=dtype, device="meta") for name, x in weights.items()}
    files = in_files(in_file_order(stand_ins)) if weights else []
    values = blocks_of([*(weights[name] for file in files for name in file), *moments.values()])
    try:
        if main:
            write_checkpoint(Path(folder), model, processor, files, moments, values, state, keep, dtype)
    finally:
        for _ in values:  # also where writing failed: the others send all of them
            pass


def blocks_of(tensors: list[Tensor]) -> Iterator[Tensor]:
    for x in tensors:
        if x.numel():
            yield from rows_to_main(x)
        tick()


def weights_as_stored(model: Model) -> dict[str, Tensor]:
    """The model's parameters under the names that they have in its files, each once."""
    from transformers.core_model_loading import revert_weight_conversion

    own = {name: p.detach() for name, p in model.named_parameters()}
    stand_ins = {name: torch.empty(0, device="meta") for name in own}
    name_of = {id(x): name for name, x in stand_ins.items()}
    return {stored: own[name_of[id(x)]] for stored, x in revert_weight_conversion(model, stand_ins).items()}


def trained_by_name(model: Model) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def moments_by_name(model: Model, optimizer, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """With MASTER the weights that `dtype`, of the checkpoint's, would round: frozen ones too, but under an
    adapter, where they are not saved."""
    names = {p: n for n, p in model.named_parameters()}
    moments = {
        f"{names[p]}|{key}": value for p, values in optimizer.state.items() for key, value in values.items()
    }
    saved = trained_by_name(model) if is_adapted(model) else dict(model.named_parameters())
    return moments | {f"{n}|{MASTER}": p for n, p in saved.items() if p.dtype.itemsize > dtype.itemsize}


def write_checkpoint(
    folder: Path,
    model: Model,
    processor: Processor,
    files: list[dict[str, Tensor]],
    moments: dict[str, Tensor],
    values: Iterator[Tensor],
    state: dict,
    keep: int,
    dtype: torch.dtype,
) -> None:
    """`values`: of `files` and `moments` in order, in blocks of rows."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        if files:
            model.save_pretrained(partial, state_dict={})  # its configuration
            say_dtype(partial / "config.json", dtype)
            sums = write_weights(partial, files, values)
        else:
            model.save_pretrained(partial, dtype=dtype)
            sums = {}
        processor.save(partial)
        sums["optimizer.safetensors"] = write_tensors(partial / "optimizer.safetensors", moments, values)
        written = {str(f.relative_to(partial)): f for f in sorted(partial.rglob("*")) if f.is_file()}
        listed = {
            "files": {name: f.stat().st_size for name, f in written.items()},
            "crc32": {name: sums[name] if name in sums else checksum(f) for name, f in written.items()},
        }
        (partial / "trainer.json").write_text(json.dumps({**state, **listed}, indent=1))
        by_umask(partial)
        for entry in [*partial.rglob("*"), partial]:
            sync(entry)
        old = folder.with_name(folder.name + ".old")
        if folder.exists():  # a leftover that latest_checkpoint found broken, or checkpoints/best
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        partial.rename(folder)
        sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except SafetensorError as error:  # how safetensors reports a full disk
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(str(error)) from None
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if keep:  # broken ones are not counted: they may be newer by number than every good one
        good = [p for p in checkpoints(folder.parent) if p != folder and is_whole(p)]
        kept = {folder, *good[len(good) - (keep - 1) :]}
        for old in checkpoints(folder.parent):
            if old not in kept:
                shutil.rmtree(old, ignore_errors=True)


def say_dtype(config: Path, dtype: torch.dtype) -> None:
    """Of the weights beside it, for the model and for its parts."""
    name = str(dtype).removeprefix("torch.")
    config.write_text(re.sub(r'("(?:torch_)?dtype": )"\w+"', rf'\1"{name}"', config.read_text()))


def checkpoints(parent: Path) -> list[Path]:
    """step-N folders, oldest first, whole or not."""
    found = [p for p in Path(parent).glob("step-*") if p.name[5:].isdigit()]
    return sorted(found, key=lambda p: int(p.name[5:]))


def is_whole(folder: Path) -> bool:
    """Every listed file is there at its full size, and its tensors can be opened."""
    return not damage(folder, content=False)


def latest_checkpoint(parent: Path) -> Path | None:
    """The newest whole checkpoint under `parent`."""
    return next((p for p in reversed(checkpoints(parent)) if is_whole(p)), None)


def checkpoint_to_resume(config, world: World) -> Path | None:
    """The newest checkpoint of a run that goes on whose files are what was saved, the same on every process;
    those passed over are said. None where none was saved yet; UsageError where none is whole."""
    if not config.resume:
        return None
    found, broken = "", []
    for folder in reversed(checkpoints(Path(config.out, "checkpoints"))) if world.is_main else ():
        if not (why := damage(folder)):
            found = str(folder)
            break
        broken.append(f"{folder.name}: {why}")
    found, broken = world.gather_json([(found, broken)])[0]
    if broken and not found:
        more = f"; and {len(broken) - 5} more" if broken[5:] else ""
        raise UsageError(
            f"--resume: no checkpoint in {config.out}/checkpoints is whole ({'; '.join(broken[:5])}{more}); "
            "put one back, or begin another --out"
        )
    if broken and world.is_main:
        print(printable(f"warning: passed over on --resume: {'; '.join(broken)}"), file=sys.stderr)
    return Path(found) if found else None


def load_checkpoint(folder: Path, model: Model, optimizer) -> dict:
    """The optimiser's moments into `optimizer` -> the saved `state`. load_model has the weights, but for what
    their dtype in the files rounded. All processes call it; ModelError where something is not finite."""
    parameters = dict(model.named_parameters())
    with safe_open(folder / "optimizer.safetensors", "pt") as file:
        for entry in file.keys():
            name, key = entry.rsplit("|", 1)
            p = parameters[name]
            if key == MASTER:
                p.data.copy_(share_of(p, file, entry))
            else:
                optimizer.state[p][key] = share_of(p, file, entry)
    resumed = trained_by_name(model) | moments_by_name(model, optimizer)
    if broken := nonfinite(resumed, together=is_sharded(model)):
        raise ModelError(f"{folder}: {broken}; without this folder --resume takes the one before")
    state = json.loads((Path(folder) / "trainer.json").read_text())
    return {name: x for name, x in state.items() if name not in ("files", "crc32")}
