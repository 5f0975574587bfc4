"""LoRA: low-rank adapters on the decoder's projections, through peft, instead of all weights.

    torchrun mmupt.py --lora_rank 16                                          trains the adapter alone
    python -m programs.merge_adapter --adapter RUN/checkpoints/step-60 --out FOLDER    base and adapter as one

An adapted linear gives W x + (alpha / rank) B A x with W frozen (arXiv 2106.09685, section 4.1),
alpha being 2 rank. B starts at zero, so the policy starts as the base, and with the adapter off it
is the base: that is the reference, and no second copy is loaded. The adapter is float32; W is kept
in the dtype of matrix products. Sampling reads W + (alpha / rank) B A, merged once per rollout in
float32, and beside W in bfloat16 (`linear_of` in model/layers.py). A checkpoint of such a run is an
adapter folder as peft writes it, plus tokenizer, image processor and trainer state.

Left out: adapters on the vision tower, the embeddings or the head; dropout; quantised bases; other
kinds of adapters.
"""

import json
import re
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from common.errors import ModelError, first_line
from model.batch import Model
from model.damage import damage_of_weights
from model.families import text_model
from model.finite import nonfinite

PREFIX = "base_model.model."  # of every name in an adapter file, as peft writes it
WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SCALE = 2  # alpha / rank


def need_peft(flag: str):
    try:
        import peft
    except ImportError:
        raise ModelError(f"{flag} needs peft: pip install peft") from None
    return peft


def add_adapter(model: Model, base: str, rank: int, seed: int, resumed: Path | None = None) -> None:
    """Puts an adapter on the decoder, in place, and trains it alone: a fresh one, or `resumed`'s.

    `base`: the checkpoint's name, for whoever loads the adapter.
    """
    peft = need_peft("--lora_rank")
    settings = peft.LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules=targets_pattern(model))
    with torch.random.fork_rng(devices=[]):  # A is drawn on the CPU, alike on every rank
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, model)  # which freezes all else
    settings.base_model_name_or_path = base
    model.save_pretrained = partial(save_adapter, model, settings)
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data.float()  # in bfloat16 an update of lr 1e-6 would round away
    if resumed:
        fill_adapter(model, resumed)
        if (alpha := json.loads((resumed / SETTINGS).read_text()).get("lora_alpha")) != SCALE * rank:
            raise ModelError(
                f"{resumed}: its lora_alpha is {alpha}, and only {SCALE} x --lora_rank {rank} can be resumed"
            )


def is_adapted(model: Model) -> bool:
    return any(hasattr(m, "lora_A") for m in text_model(model).layers[0].modules())


def targets_pattern(model: Model) -> str:
    """The decoder's linears of TARGETS, as the pattern that peft matches against whole names."""
    decoder = text_model(model)
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    return rf"{re.escape(prefix)}\..+\.({'|'.join(TARGETS)})"


def save_adapter(model: Model, settings, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """As peft writes it, which by itself would ask the hub about the base's vocabulary."""
    own = need_peft("--lora_rank").get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file(
        {PREFIX + name: x.to(dtype).contiguous() for name, x in own.items()},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )
    settings.save_pretrained(folder)


def fill_adapter(model: Model, folder: Path) -> None:
    """Reads a folder's adapter: each weight of this one, and nothing else. Safetensors only."""
    peft = need_peft("--lora_rank")
    own = {
        name.removeprefix(PREFIX): name
        for name in peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    }
    try:
        if why := damage_of_weights(Path(folder)):
            raise ValueError(why)
        saved = {name.removeprefix(PREFIX): x for name, x in load_file(Path(folder) / WEIGHTS).items()}
        if differing := sorted(saved.keys() ^ own.keys()):
            raise ValueError(f"not of this model and its targets: {differing[0]}")
        if broken := nonfinite(saved):
            raise ValueError(broken)
        peft.set_peft_model_state_dict(model, {own[name]: x for name, x in saved.items()})
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:  # the last: tensors of other shapes
        raise ModelError(f"{folder}: its adapter can't be used ({first_line(error)})") from None


@contextmanager
def adapter_off(model: Model):
    """The model as the base that it was, within this block."""
    layers = [m for m in model.modules() if hasattr(m, "enable_adapters") and hasattr(m, "lora_A")]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield model
    finally:
        for layer in layers:
            layer.enable_adapters(True)
