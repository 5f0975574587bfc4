"""Every served family in small, of its true architecture with random weights."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer, GenerationConfig

from data import TINY
from model.families import text_model

TURNS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>user\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<start_of_image>{% else %}{{ part['text'] | trim }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
DECODER = dict(
    vocab_size=576,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=2048,
    bos_token_id=None,
)
SLIDING = dict(layer_types=["sliding_attention", "full_attention", "sliding_attention"], sliding_window=24)
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
SIGLIP = dict(
    model_type="siglip_vision_model",
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=56,
    patch_size=14,
    vision_use_head=False,
)
QWEN_SIZE = {"shortest_edge": 56 * 56, "longest_edge": 16 * 56 * 56}
ROWS = [f"<row_{i}_col_{j}>" for i in range(1, 4) for j in range(1, 4)]


@dataclass(frozen=True)
class Recipe:
    """How a small checkpoint of a family is made."""

    config: str  # of transformers
    options: dict
    image_processor: str = ""
    pictures: dict | None = None
    settings: dict | None = None  # processor_config.json
    tokens: tuple[str, ...] = ()  # special ones beside Qwen's
    named: dict | None = None  # those that the tokenizer knows by name
    image: str = ""  # what stands for an image in the features' places
    template: str = TURNS


def smol(name: str) -> Recipe:
    return Recipe(
        f"{name}Config",
        dict(
            text_config=dict(model_type="llama", **DECODER, pad_token_id=0, tie_word_embeddings=False),
            vision_config=dict(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=56,
                patch_size=14,
                model_type=f"{name.lower()}_vision",
            ),
            scale_factor=2,
        ),
        f"{name}ImageProcessorPil",
        dict(size={"longest_edge": 112}, max_image_size={"longest_edge": 56}, do_image_splitting=True),
        dict(image_seq_len=4, processor_class=f"{name}Processor"),
        ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *ROWS),
        dict(image_token="<image>"),
        "<image>",
        TURNS.replace("IMAGE", "<image>"),
    )


RECIPES = {
    "qwen2_vl": Recipe(
        "Qwen2VLConfig",
        dict(
            text_config=dict(**DECODER, rope_parameters=MROPE),
            vision_config=dict(
                depth=2, embed_dim=32, hidden_size=64, num_heads=2, mlp_ratio=2, patch_size=14
            ),
        ),
        "Qwen2VLImageProcessorPil",
        dict(size=QWEN_SIZE),
        image="<|image_pad|>",
        template=TURNS.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    ),
    "qwen3_vl": Recipe(
        "Qwen3VLConfig",
        dict(
            text_config=dict(
                **DECODER,
                head_dim=16,
                rope_parameters={**MROPE, "mrope_section": [4, 2, 2], "mrope_interleaved": True},
            ),
            vision_config=dict(
                depth=3,
                hidden_size=32,
                intermediate_size=48,
                num_heads=2,
                out_hidden_size=64,
                patch_size=16,
                num_position_embeddings=16,
                deepstack_visual_indexes=[0, 1],
            ),
        ),
        "Qwen2VLImageProcessorPil",
        dict(size=QWEN_SIZE, patch_size=16),
        image="<|image_pad|>",
        template=TURNS.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    ),
    "internvl": Recipe(
        "InternVLConfig",
        dict(
            text_config=dict(model_type="qwen2", **DECODER),
            vision_config=dict(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=[56, 56],
                patch_size=[14, 14],
                model_type="internvl_vision",
            ),
            image_seq_length=4,
        ),
        "GotOcr2ImageProcessorPil",
        dict(size={"height": 56, "width": 56}, max_patches=4),
        dict(image_seq_length=4, processor_class="InternVLProcessor"),
        ("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        dict(
            start_image_token="<img>",
            end_image_token="</img>",
            context_image_token="<IMG_CONTEXT>",
            video_token="<video>",
        ),
        "<IMG_CONTEXT>",
        TURNS.replace("IMAGE", "<IMG_CONTEXT>\n"),
    ),
    "llava_onevision": Recipe(
        "LlavaOnevisionConfig",
        dict(
            text_config=dict(model_type="qwen2", **DECODER),
            vision_config=SIGLIP,
            image_grid_pinpoints=[[56, 56], [56, 112], [112, 56], [112, 112]],
        ),
        "LlavaOnevisionImageProcessorPil",
        dict(
            size={"height": 56, "width": 56},
            image_grid_pinpoints=[[56, 56], [56, 112], [112, 56], [112, 112]],
        ),
        dict(
            num_image_tokens=16,
            vision_feature_select_strategy="full",
            processor_class="LlavaOnevisionProcessor",
        ),
        ("<image>", "<video>"),
        None,
        "<image>",
        TURNS.replace("IMAGE", "<image>\n"),
    ),
    "idefics3": smol("Idefics3"),
    "smolvlm": smol("SmolVLM"),
    "gemma3": Recipe(
        "Gemma3Config",
        dict(
            text_config=dict(
                **DECODER | dict(bos_token_id=0),
                head_dim=16,
                query_pre_attn_scalar=20,
                **SLIDING,
            ),
            vision_config=SIGLIP,
            mm_tokens_per_image=4,
        ),
        "Gemma3ImageProcessorPil",
        dict(size={"height": 56, "width": 56}),
        dict(image_seq_length=4, processor_class="Gemma3Processor"),
        (
            "<bos>",
            "<start_of_turn>",
            "<end_of_turn>",
            "<start_of_image>",
            "<end_of_image>",
            "<image_soft_token>",
        ),
        dict(
            boi_token="<start_of_image>",
            eoi_token="<end_of_image>",
            image_token="<image_soft_token>",
            bos_token="<bos>",
        ),
        "<image_soft_token>",
        GEMMA,
    ),
    "qwen2": Recipe("Qwen2Config", DECODER),
    "qwen3": Recipe("Qwen3Config", DECODER | dict(head_dim=16)),
    "llama": Recipe("LlamaConfig", DECODER | dict(tie_word_embeddings=False)),
    "gemma3_text": Recipe(
        "Gemma3TextConfig",
        DECODER | SLIDING | dict(head_dim=16),
        tokens=("<bos>", "<start_of_turn>", "<end_of_turn>"),
        named=dict(bos_token="<bos>"),
        template=GEMMA,
    ),
}
SEEING = [name for name, recipe in RECIPES.items() if recipe.image]


def make_checkpoint(folder: Path, recipe: Recipe, **saving) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_special_tokens({"additional_special_tokens": list(recipe.tokens)} if recipe.tokens else {})
    tokenizer.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, extra_special_tokens=recipe.named or {})
    tokenizer.chat_template = recipe.template
    tokenizer.save_pretrained(folder)
    eos = tokenizer.convert_tokens_to_ids(
        ["<end_of_turn>" if "turn" in recipe.template else "<|im_end|>", "<|endoftext|>"]
    )
    config = getattr(transformers, recipe.config)(**recipe.options)
    if recipe.image:
        config.image_token_id = tokenizer.convert_tokens_to_ids(recipe.image)
        try:
            getattr(transformers, recipe.image_processor)(**recipe.pictures).save_pretrained(folder)
        except ImportError:
            pytest.skip(
                f"{recipe.image_processor} wants torchvision before transformers 5.23: "
                "pip install torchvision"
            )
        if recipe.settings:
            (folder / "processor_config.json").write_text(json.dumps(recipe.settings))
    for one in (config, config.get_text_config()):
        one.eos_token_id, one.pad_token_id = eos[0], eos[1]
        one.bos_token_id = tokenizer.bos_token_id
    auto = AutoModelForImageTextToText if recipe.image else AutoModelForCausalLM
    model = auto.from_config(config)
    for name, weight in model.named_parameters():
        if weight.ndim >= 2:
            torch.nn.init.normal_(weight, std=1.2 * weight[0].numel() ** -0.5)
        elif "norm" in name:
            torch.nn.init.normal_(weight, mean=float(weight.detach().mean()), std=0.2)
        else:
            torch.nn.init.normal_(weight, std=0.1)
    model.tie_weights()
    with torch.no_grad():
        model.get_output_embeddings().weight *= 1.5
        if (
            recipe.template == GEMMA
        ):  # a tied head that scales what it reads would repeat the last token for ever
            model.get_output_embeddings().weight /= 8
            text_model(model).norm.weight += 7
    model.generation_config = GenerationConfig(
        eos_token_id=eos + list(range(200, 224)), pad_token_id=eos[1], do_sample=False
    )
    model.save_pretrained(folder, **saving)


def plain_model(name: str, folder: Path):
    auto = AutoModelForImageTextToText if name in SEEING else AutoModelForCausalLM
    return auto.from_pretrained(folder, attn_implementation="eager").eval()
