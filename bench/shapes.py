"""Model folders to measure: the built-in base, or a Qwen2.5-VL shape with random weights."""

import json
import shutil
from pathlib import Path

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from common import cli
from model.layers import colocate_qkv_gate_up
from model.loading import autocast, fused_matches_reference
from model.packed_attention import ATTENTION, register_attention

TINY = Path(__file__).parents[1] / "data" / "tiny"

# hidden, layers, heads, key/value heads, MLP, vocabulary, tied head; vision: hidden, layers, heads,
# MLP (3b and 7b: config.json of Qwen/Qwen2.5-VL-3B-Instruct and -7B-Instruct)
SHAPES = {
    "toy": (256, 4, 4, 2, 768, 2048, True, 128, 2, 4, 256),
    "speck": (64, 2, 4, 2, 128, 1024, True, 32, 2, 2, 64),
    "speck-untied": (64, 2, 4, 2, 128, 1024, False, 32, 2, 2, 64),
    "3b": (2048, 36, 16, 2, 11008, 151936, True, 1280, 32, 16, 3420),
    "7b": (3584, 28, 28, 4, 18944, 152064, False, 1280, 32, 16, 3420),
}


def shape_config(shape: str) -> Qwen2_5_VLConfig:
    """The built-in base's configuration in another size."""
    if shape not in SHAPES:
        raise cli.UsageError(f"--shape {shape}: there is tiny, {', '.join(SHAPES)}")
    hidden, layers, heads, kv_heads, mlp, vocabulary, tied, v_hidden, v_layers, v_heads, v_mlp = SHAPES[shape]
    settings = json.loads((TINY / "config.json").read_text())
    d = hidden // heads
    section = d * 3 // 16
    sections = [d // 2 - 2 * section, section, section]  # 16, 24, 24 of Qwen2.5-VL's 64
    settings["tie_word_embeddings"] = tied
    settings["text_config"] |= dict(
        hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=layers, vocab_size=vocabulary,
        num_attention_heads=heads, num_key_value_heads=kv_heads, tie_word_embeddings=tied,
        layer_types=["full_attention"] * layers, max_position_embeddings=32768,
        rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=sections),
    )  # fmt: skip
    whole_picture = [n for n in (7, 15, 23, 31) if n < v_layers]  # layers without windows
    settings["vision_config"] |= dict(
        hidden_size=v_hidden, intermediate_size=v_mlp, depth=v_layers, num_heads=v_heads,
        out_hidden_size=hidden, fullatt_block_indexes=whole_picture or [v_layers - 1],
    )  # fmt: skip
    return Qwen2_5_VLConfig(**settings)


def make_model(
    shape: str,
    dtype: torch.dtype,
    compute: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    attention: str = ATTENTION,
):
    """Random weights made on the device, nothing written or read -> (model as load_model gives it,
    whether it would have taken the decoder's fused step).

    The fused step is what is to be measured, so the model takes it either way. With another
    `attention` than ours it is transformers' model, as a peer wants it.
    """
    torch.manual_seed(0)
    register_attention()
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(
            shape_config(shape), dtype=dtype, attn_implementation=attention
        )
    model.eval()
    if attention != ATTENTION:
        return model, False
    model.compute_dtype = compute or dtype
    colocate_qkv_gate_up(model)
    with autocast(model):
        accepted = fused_matches_reference(model)
    model.standard_decoder = True
    return model, accepted


def build_shape(shape: str, folder: Path) -> Path:
    """Writes a checkpoint folder with the tokenizer and image processor of the built-in base."""
    shutil.copytree(TINY, folder)
    if shape == "tiny":
        return folder
    config = shape_config(shape)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
        model = Qwen2_5_VLForConditionalGeneration(config)
        torch.set_default_dtype(torch.float32)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return folder
