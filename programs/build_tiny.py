"""The built-in base: a Qwen2.5-VL of 0.8 million parameters that half knows the drawn questions.

Architecture, special tokens, chat template and file layout are Qwen2.5-VL's own; only the sizes are
small. The weights come from a warm start on demonstrations, first by a careful writer and then by
careless ones:

    careful       reads every number right and shows the steps. This part teaches the model to see.
    careless      half of the writers show their steps, half write the bare box. A writer misreads
                  each number of the picture, one step off, with probability CARELESS when showing
                  steps and HASTY when not. Whatever was misread is then worked out correctly.
                  Beside answering they do two more things: write a new question about the picture,
                  from the picture alone or beside an example question, and say Yes or No to "is
                  this answer true for this image?", where wrong proposals come from misreadings.

A model that imitates careless writers is calibrated like them: its samples scatter around the right
answer, its majority is better than its average, and its steps are better than its guesses. That is
the state label-free post-training needs. Answers of the training split only are used here, and
nowhere else.

    python -m programs.build_tiny                      rebuild data/tiny (about ten minutes on one core)
    python -m programs.build_tiny --seed 1 --out DIR   another base, as bench/learning.py does
"""

import json
import math
import random
import time
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from tokenizers import Regex as TokenizerRegex
from tqdm import tqdm
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from common import cli
from common.cli import flag
from data import TINY, figures, prompts

VOCABULARY = 512
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
# Renders what Qwen2.5-VL's template does, for string content and lists of images and texts.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STEPS_SHARE, CARELESS, HASTY = 0.5, 0.08, 0.20


@dataclass
class WarmStart:
    out: str = flag(str(TINY), "folder to write the checkpoint to")
    seed: int = flag(0, "weights, demonstrations and their order")
    steps: int = flag(2400, "optimiser steps; the first 7/12 are careful")
    batch: int = flag(32, "demonstrations per step")
    lr: float = flag(3e-3, "peak learning rate; cosine decay to a tenth")


def demonstration(index: int, careful: bool = False) -> tuple[figures.Figure, str, str]:
    """(picture, what is asked, what the writer writes)."""
    rng = random.Random(f"demonstration {index}")
    drawn = figures.figure("train", index)
    question = prompts.with_choices(drawn.question, drawn.choices)
    if careful:
        steps, answer = drawn.work(drawn.readings)
        return drawn, question + prompts.INSTRUCTION, f"{steps} \\boxed{{{figures.notation(answer, rng)}}}"
    kind = rng.random()
    if kind < 0.8:
        show = rng.random() < STEPS_SHARE
        steps, answer = drawn.work(figures.misread(drawn, rng, CARELESS if show else HASTY))
        box = f"\\boxed{{{figures.notation(answer, rng)}}}"
        return drawn, question + prompts.INSTRUCTION, f"{steps} {box}" if show else box
    if kind < 0.9:
        others = figures.other_questions(drawn)
        if rng.random() < 0.5:
            return drawn, prompts.WRITE_DIRECT, rng.choice([drawn.question, *others])
        return drawn, prompts.WRITE_IN_CONTEXT.format(question=drawn.question), rng.choice(others)
    proposal = drawn.answer if rng.random() < 0.5 else drawn.work(figures.misread(drawn, rng, 0.7))[1]
    verdict = "Yes" if proposal == drawn.answer else "No"
    return drawn, prompts.VERIFY.format(question=question, answer=proposal), verdict


def build_tokenizer() -> Qwen2Tokenizer:
    """Byte-level BPE as Qwen's, trained on demonstrations; special tokens come last."""
    texts = [text for i in range(4000) for text in demonstration(i)[1:]] + [
        "You are a helpful assistant.",
        "\n",
    ] * 100
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(TokenizerRegex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=alphabet,
        show_progress=False,
        max_token_length=16,
    )
    trained.train_from_iterator(texts, trainer)
    vocab = trained.get_vocab()
    merges: Any = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    vocab |= {token: len(vocab) + i for i, token in enumerate(SPECIAL)}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer.add_tokens([AddedToken(token, special=True) for token in SPECIAL], special_tokens=True)
    tokenizer.model_max_length = 2048
    return tokenizer


def build_config(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    vocabulary = tokenizer.get_vocab()
    ids = {token: vocabulary[token] for token in SPECIAL}
    return Qwen2_5_VLConfig(  # type: ignore[call-arg]  # the last three are of the class above it
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 96,
            "intermediate_size": 288,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 4, 4]},
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_heads": 4,
            "out_hidden_size": 96,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
        dtype="float32",
    )


def build_image_processor() -> Qwen2VLImageProcessorPil:
    # white paper becomes 0, so that what is drawn on it is the signal
    return Qwen2VLImageProcessorPil(
        size={"shortest_edge": 56 * 56, "longest_edge": 16 * 56 * 56},
        image_mean=[1.0] * 3,
        image_std=[0.5] * 3,
    )


def collate(demonstrations, tokenizer, image_processor) -> dict:
    """Right-padded input_ids, labels on the response tokens alone, and the pictures."""
    image_token = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    pictures = image_processor([drawn.image() for drawn, _, _ in demonstrations], return_tensors="pt")
    rows, labels = [], []
    for (_, asked, written), grid in zip(demonstrations, pictures["image_grid_thw"], strict=True):
        message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": asked}]}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        text = text.replace("<|image_pad|>", "<|image_pad|>" * (int(grid.prod()) // 4))
        prompt = tokenizer(text)["input_ids"]
        response = tokenizer(written + "<|im_end|>")["input_ids"]
        rows.append(prompt + response)
        labels.append([-100] * len(prompt) + response)
    width = max(map(len, rows))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": torch.tensor([row + [-100] * (width - len(row)) for row in labels]),
        "mm_token_type_ids": (ids == image_token).int(),
        "pixel_values": pictures["pixel_values"],
        "image_grid_thw": pictures["image_grid_thw"],
    }


def warm_start(settings: WarmStart) -> None:
    torch.manual_seed(settings.seed)
    tokenizer, image_processor = build_tokenizer(), build_image_processor()
    config = build_config(tokenizer)
    model = Qwen2_5_VLForConditionalGeneration(config)
    # fan-in scaling: transformers' 0.02 is made for widths of thousands
    for name, weight in model.named_parameters():
        if weight.ndim >= 2:
            std = 0.5 if "embed_tokens" in name else weight[0].numel() ** -0.5
            residual = name.endswith(("o_proj.weight", "down_proj.weight", "attn.proj.weight"))
            torch.nn.init.normal_(weight, std=0.4 * std if residual else std)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {len(tokenizer)}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    started, total = time.monotonic(), 0.0
    bar = tqdm(range(settings.steps), desc="warm start", unit="step", disable=None)
    for step in bar:
        warm, done = min(1, (step + 1) / 50), step / settings.steps
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * warm * (0.55 + 0.45 * math.cos(math.pi * done))
        first = (settings.seed * settings.steps + step) * settings.batch
        careful = step < settings.steps * 7 // 12
        shown = [demonstration(first + i, careful) for i in range(settings.batch)]
        batch = collate(shown, tokenizer, image_processor)
        labels = batch.pop("labels")[:, 1:]
        hidden = model.model(**batch, use_cache=False).last_hidden_state[:, :-1]
        written = labels != -100  # the head sees the response positions only
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[written]), labels[written])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total = loss.item() if step == 0 else 0.98 * total + 0.02 * loss.item()
        bar.set_postfix(loss=f"{total:.3f}")
        if step % 100 == 99 and bar.disable:
            print(f"step {step + 1}  loss {total:.4f}  {time.monotonic() - started:.0f} s", flush=True)

    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model.save_pretrained(settings.out)
    tokenizer.save_pretrained(settings.out)
    image_processor.save_pretrained(settings.out)


def main(argv: list[str]) -> int:
    torch.set_num_threads(1)  # the same bits on any machine of a kind, and about as fast as two
    warm_start(cli.parse(WarmStart, argv))
    return 0


if __name__ == "__main__":
    cli.run(main)
