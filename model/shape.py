"""How large a model is, from config.json alone: it is built without memory for its weights.

    read_shape("Qwen/Qwen2.5-VL-7B-Instruct").parameters      8292166656

Left out: vision towers that aren't a stack of alike blocks, which are counted by their largest stack.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.errors import ModelError, first_line
from model.families import VISION, refusal, text_model, vision_parameters
from model.loading import load_config
from model.lora import TARGETS


@dataclass(frozen=True)
class Blocks:
    """The alike layers of a decoder, or blocks of a vision tower."""

    count: int
    parameters: int  # of one
    linears: int  # weights of its linear maps
    D: int
    F: int
    q: int
    k: int
    adapted: int  # inputs + outputs of the linear maps that an adapter is put on
    outputs: int  # of all its linear maps


@dataclass(frozen=True)
class Shape:
    """What config.json says of a model's size."""

    name: str
    parameters: int
    decoder: Blocks
    vision: Blocks | None
    of_vision: int  # parameters of tower and projector
    E: int  # V * D, once
    V: int
    tied: bool
    head: int  # width of an attention head
    patches: float  # of an image token
    numbers: int  # of a patch, one frame

    @property
    def root(self) -> int:
        """Parameters outside all layers and blocks: embedding, head, norms, projector."""
        return self.parameters - sum(b.count * b.parameters for b in (self.decoder, self.vision) if b)


def read_shape(path: str, weights: bool = True) -> Shape:
    """Of a checkpoint folder or hub id; without `weights` config.json alone need be there."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    config = load_config(path) if weights or not (Path(path) / "config.json").exists() else read_config(path)
    auto: Any = AutoModelForImageTextToText if config.model_type in VISION else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto._model_mapping[type(config)](config)
    text, decoder = config.get_text_config(), text_model(model)
    tower, seen = getattr(config, "vision_config", None), vision_parameters(model)
    D, layers = text.hidden_size, blocks_of(decoder.layers)
    head = getattr(text, "head_dim", None) or D // text.num_attention_heads
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and m is not decoder.layers]
    lists = [m for m in lists if len(m) and not any(m is x for x in decoder.modules())]
    return Shape(
        Path(path).name, sum(p.numel() for p in model.parameters()), layers,
        blocks_of(max(lists, key=lambda m: sum(p.numel() for p in m.parameters()))) if tower else None,
        sum(p.numel() for p in seen), text.vocab_size * D, text.vocab_size,
        model.get_output_embeddings().weight is model.get_input_embeddings().weight, head,
        patches_of_token(config) if tower else 0,
        3 * patch_of(tower) ** 2 if tower else 0,
    )  # fmt: skip


def read_config(path: str):
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001  as in load_config: of many kinds
        raise ModelError(f"--model {path}: {first_line(error)}") from None
    if why := refusal(config):
        raise ModelError(f"--model {path}: {why}")
    return config


def blocks_of(blocks) -> Blocks:
    linears = {n.rpartition(".")[2]: m for n, m in blocks[0].named_modules() if isinstance(m, nn.Linear)}
    down = max(linears.values(), key=lambda m: (m.in_features, -m.out_features))  # back from the MLP
    D, F = down.out_features, down.in_features
    adapted = sum(m.in_features + m.out_features for n, m in linears.items() if n in TARGETS)
    q, k = (linears[n].out_features if n in linears else D for n in ("q_proj", "k_proj"))
    return Blocks(
        len(blocks), sum(p.numel() for p in blocks[0].parameters()),
        sum(m.weight.numel() for m in linears.values()), D, F, q, k, adapted,
        sum(m.out_features for m in linears.values()),
    )  # fmt: skip


def patches_of_token(config) -> float:
    """Patches that a vision tower reads for each token that the decoder reads."""
    tower = config.vision_config
    if side := getattr(tower, "spatial_merge_size", 0) or getattr(config, "scale_factor", 0):
        return side**2
    if tokens := getattr(config, "mm_tokens_per_image", 0):
        return (tower.image_size // patch_of(tower)) ** 2 / tokens
    return 1 / getattr(config, "downsample_ratio", 1) ** 2


def patch_of(tower) -> int:
    return tower.patch_size if isinstance(tower.patch_size, int) else tower.patch_size[0]
