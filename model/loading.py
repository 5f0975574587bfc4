"""Loading a Hugging Face checkpoint: safetensors only, no remote code, every weight read once and
to where it will stay."""

import ctypes
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor

from common.errors import ModelError, first_line
from model import sharding
from model.batch import Model
from model.damage import damage_of_weights
from model.families import VISION, product_dtype, refusal, vision_parameters
from model.finite import nonfinite
from model.fused_check import fused_matches_reference
from model.layers import COLOCATED, colocate_qkv_gate_up
from model.packed_attention import register_attention
from model.vision import lean_vision

if TYPE_CHECKING:
    from transformers import GenerationConfig


def load_model(
    path: str,
    dtype: torch.dtype = torch.float32,
    compute: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    shard: bool = False,
) -> Model:
    """A Hugging Face checkpoint of a served family -> model in eval mode. No remote code.

    `dtype` is that of the weights, `compute` that of the matrix products (the same where None). A
    trained policy keeps float32 weights: in bfloat16 an update of lr 1e-6 would round away. With
    `shard` each process reads and holds its share (model/sharding.py); all call together.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.distributed import DistributedConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = load_config(path)
    check_sums(path)
    auto = AutoModelForImageTextToText if config.model_type in VISION else AutoModelForCausalLM
    classes: Any = auto._model_mapping
    cls, how = classes[type(config)], {}
    if shard:
        cls = sharding.sharded_class(cls, compute or dtype)
        how["distributed_config"] = DistributedConfig(fsdp_size=dist.get_world_size())
    try:
        model, info = cls.from_pretrained(
            None,
            config=config,
            state_dict=stored_weights(path, dtype, shard),
            dtype=dtype,
            attn_implementation=register_attention(),
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **how,
        )
    except Exception as error:  # noqa: BLE001  transformers raises many kinds for a bad file
        raise ModelError(f"--model {path}: {first_line(error)}") from None
    check_loaded(path, model, info)
    model.generation_config = generation_config(path) or model.generation_config
    model.compute_dtype = compute or dtype
    model.eval()
    if shard:
        sharding.prepare(model)
    else:
        model.to(device)
        colocate_qkv_gate_up(model)
    if broken := nonfinite(dict(model.named_parameters()), together=shard):
        raise ModelError(f"--model {path}: {broken}; take a whole copy, or a checkpoint before it diverged")
    # in inference mode autocast keeps no copies of weights; what FSDP gathers in it could not be trained with
    with torch.no_grad() if shard else torch.inference_mode(), autocast(model):
        model.standard_decoder = sharding.through(model, fused_matches_reference)
    if not model.standard_decoder:
        print(
            f"--model {path}: its decoder isn't of the standard make and samples through its own forward",
            file=sys.stderr,
        )
    return model


def check_sums(path: str) -> None:
    """Of a checkpoint that a run saved, on one process."""
    first = not dist.is_initialized() or dist.get_rank() == 0
    if why := damage_of_weights(Path(path)) if first else "":
        raise ModelError(
            f"--model {path}: {why}; take a whole copy (if you changed it, without trainer.json)"
        )


def check_loaded(path: str, model: Model, info: dict) -> None:
    """`info`: transformers' own, of what it found."""
    if differing := sorted(info["mismatched_keys"]):
        name, stored, wanted = differing[0]
        raise ModelError(
            f"--model {path}: {name} is {list(stored)} in its file, {list(wanted)} by its config.json"
        )
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"--model {path}: {len(missing)} weights are missing, the first: {missing[0]}")
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise ModelError(f"--model {path}: a head with a bias is not served")


@dataclass(frozen=True)
class Stored:
    """A weight on disk, read when it is asked for, as transformers does by [...]: from several
    threads, which would hinder each other."""

    file: Any  # of safetensors, opened
    name: str
    turn: Lock
    place: Tensor | None = None  # where it shall lie

    def get_shape(self) -> list[int]:
        return self.file.get_slice(self.name).get_shape()

    def __getitem__(self, part) -> Tensor:
        """[...] is all of it; a process that holds a share asks for its slices."""
        with self.turn:
            if part is not ...:
                return self.file.get_slice(self.name)[part]
            found = self.file.get_tensor(self.name)
            return found if self.place is None else self.place.copy_(found)


def stored_weights(path: str, dtype: torch.dtype, shard: bool = False) -> dict[str, Stored]:
    """By name. What is multiplied together is read to where colocate_qkv_gate_up would move it; not so
    where processes read shares of it.

    No weight is a mapped file, transformers' way: its pages would stay in memory beside the copies.
    """
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
    from transformers.utils.hub import get_checkpoint_shard_files

    find = partial(cached_file, path, _raise_exceptions_for_missing_entries=False)
    # first, as transformers has it: an index beside it is of another save
    if single := find(SAFE_WEIGHTS_NAME):
        files = [single]
    elif index := find(SAFE_WEIGHTS_INDEX_NAME):
        files, _ = get_checkpoint_shard_files(path, index)
    else:
        raise ModelError(
            f"--model {path}: no {SAFE_WEIGHTS_NAME}, and no {SAFE_WEIGHTS_INDEX_NAME} of several files"
        )
    opened = [safe_open(file, "pt", backend="pread") for file in files]
    turn = Lock()
    found = {name: Stored(file, name, turn) for file in opened for name in file.keys()}
    for name in [] if shard else list(found):
        for group in COLOCATED:
            names = [name.replace(f".{group[0]}.", f".{part}.") for part in group]
            if f".{group[0]}." in name and all(n in found for n in names):
                shapes = [found[n].get_shape() for n in names]
                whole = torch.empty(sum(s[0] for s in shapes), *shapes[0][1:], dtype=dtype)
                for n, rows in zip(names, whole.split([s[0] for s in shapes]), strict=True):
                    found[n] = replace(found[n], place=rows)
    return found


def load_config(path: str):
    """The checkpoint's configuration; ModelError where it is missing or not served."""
    from transformers import AutoConfig

    check_model_folder(path)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001  as below: of many kinds
        raise ModelError(f"--model {path}: {first_line(error)}") from None
    if why := refusal(config):
        raise ModelError(f"--model {path}: {why}")
    return config


def check_model_folder(path: str) -> None:
    """Says in one line what a folder lacks, where transformers would print a page."""
    folder = Path(path)
    if not folder.exists():
        if path.count("/") <= 1 and not path.startswith((".", "/")):
            return  # a hub id
        raise ModelError(f"--model {path}: no such folder")
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise ModelError(
            f"--model {path}: a LoRA adapter; first: "
            f"python -m programs.merge_adapter --adapter {path} --out FOLDER"
        )
    if not (folder / "config.json").exists():
        raise ModelError(f"--model {path}: no config.json, so not a checkpoint folder")
    if not any(folder.glob("*.safetensors")):
        pickled = (
            " (pickled .bin weights are never loaded: convert them)" if any(folder.glob("*.bin")) else ""
        )
        raise ModelError(f"--model {path}: no *.safetensors, so no weights{pickled}")


def generation_config(path: str) -> "GenerationConfig | None":
    """Raises ModelError for one that can't be read: it says which ids end a response."""
    from transformers import GenerationConfig
    from transformers.utils import GENERATION_CONFIG_NAME, cached_file

    if cached_file(path, GENERATION_CONFIG_NAME, _raise_exceptions_for_missing_entries=False) is None:
        return None
    try:
        return GenerationConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"--model {path}: {GENERATION_CONFIG_NAME}: {first_line(error)}") from None


def freeze_vision(model: Model) -> None:
    """The vision tower and its projector get no gradient; decoder and head are trained."""
    for p in vision_parameters(model):
        p.requires_grad_(False)


def recompute_activations(model: Model) -> None:
    """`--gradient_checkpointing`: the backward pass computes layers again."""
    again = lambda: (nullcontext(), lean_vision(model))  # noqa: E731  as where `embed` ran it first
    # its name in later versions of transformers, where the older one warns
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False, "context_fn": again})
    # transformers has embeddings ask for gradients, for checkpoints of the older kind: a frozen
    # tower would be kept whole
    model.disable_input_require_grads()


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """`--dtype`: auto is bfloat16 on a GPU and float32 elsewhere."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, name)


def autocast(model: Model):
    """Matrix products in the model's compute dtype, where that is not the dtype of its weights."""
    wanted = product_dtype(model)
    return torch.autocast(model.device.type, wanted, enabled=wanted != model.dtype)


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory for reuse. By default every large tensor that goes hands its
    pages back, and its successor has them mapped and zeroed again: a tenth of a training step on a
    CPU. Elsewhere than with glibc: nothing."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD, bytes: smaller blocks come from the heap
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: how much free heap may stay
        # M_ARENA_MAX: one heap for all threads, since those of others give pages back
        libc.mallopt(-8, 1)
    except (OSError, AttributeError):
        pass
