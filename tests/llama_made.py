"""A small Llama with a byte-level tokenizer, as a GGUF file says it and as transformers has it."""

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM

from programs import smollm

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def small_config(vocabulary: int = 300) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0}, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip


def metadata() -> dict:
    """What a GGUF file says of a tokenizer: special tokens, bytes and what some merges make."""
    merges = ["h e", "l l", "he ll", "hell o", "Ġ w", "1 2"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = special + sorted(ByteLevel.alphabet()) + [m.replace(" ", "") for m in merges]
    said = {
        "tokens": tokens, "merges": merges, "token_type": [3] * 3 + [1] * (len(tokens) - 3),
        "unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "padding_token_id": 2,
    }  # fmt: skip
    named = {f"tokenizer.ggml.{name}": value for name, value in said.items()}
    return named | {"tokenizer.chat_template": TEMPLATE, "llama.context_length": 128}


def random_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(small_config(len(metadata()["tokenizer.ggml.tokens"]))).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return model


def make_llama(folder) -> None:
    random_llama().save_pretrained(folder)
    smollm.tokenizer(metadata()).save_pretrained(folder)
