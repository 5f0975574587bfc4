"""What the training loop needs of a model: load it, put questions to it, sample, score, save, resume.

    processor = load_processor("data/tiny")
    model     = load_model("data/tiny")
    rollout   = generate(model, processor, examples, num_samples=8, max_new_tokens=64)
    logprobs  = score(model, rollout)                       # what the policy says of those same tokens, with gradient

The model's code is transformers'; the cache, the sampling, the scoring and the checkpoints around it are here. What
differs between model families stands in one place, the section "What a family decides".

Letters: P questions, G samples each, B = P*G responses, L prompt tokens, T response tokens, V vocabulary, D width,
H key/value heads, R query heads per key/value head.

Left out: videos, beam search, CUDA graphs, sharded weights.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import logging as transformers_logging

from data import Example
from data.prompts import INSTRUCTION, with_choices
from kernels import linear_logprobs

transformers_logging.disable_progress_bar()


class ModelError(ValueError):
    """A model folder or checkpoint that can't be used; the message names the fix."""


# --- What a family decides ---------------------------------------------------------------------------------------


def text_model(model) -> torch.nn.Module:
    """The decoder over embeddings, without vision tower and head."""
    return model.model.language_model


def embed(model, ids: Tensor, prompts: "Prompts") -> Tensor:
    """ids [N, S] -> embeddings [N, S, D], image features in place of the image tokens (row by row, in order)."""
    embeddings = model.get_input_embeddings()(ids)
    if prompts.pixel_values is None:
        return embeddings
    # .visual is called through get_image_features, which also splits and orders the features
    features = model.get_image_features(prompts.pixel_values, prompts.image_grid_thw)
    features = torch.cat(tuple(features.pooler_output)).to(embeddings.dtype)
    return embeddings.masked_scatter((ids == model.config.image_token_id)[..., None], features)


def rope_positions(model, prompts: "Prompts") -> Tensor:
    """Rotary positions of the prompt tokens, [3, P, L]: time, height and width for image tokens, all equal for text."""
    mask = torch.arange(prompts.ids.shape[1], device=prompts.ids.device) < prompts.lengths[:, None]
    if prompts.image_grid_thw is None:
        return (mask.long().cumsum(-1) - 1).clamp(min=0).expand(3, -1, -1)
    image_tokens = (prompts.ids == model.config.image_token_id).int()
    # without the token types transformers falls back to one-dimensional positions, silently
    return model.model.get_rope_index(
        prompts.ids, mm_token_type_ids=image_tokens, image_grid_thw=prompts.image_grid_thw, attention_mask=mask.int()
    )[0]


# --- Loading -----------------------------------------------------------------------------------------------------


def load_model(
    path: str,
    dtype: torch.dtype = torch.float32,
    compute: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> torch.nn.Module:
    """A Hugging Face image-text-to-text checkpoint -> model in eval mode. Safetensors only, no remote code.

    `dtype` is that of the weights, `compute` that of the matrix products (the same where None). A trained policy keeps
    float32 weights: in bfloat16 an update of lr 1e-6 would round away.
    """
    check_model_folder(path)
    try:
        model, info = AutoModelForImageTextToText.from_pretrained(
            path, dtype=dtype, attn_implementation=ATTENTION, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001  transformers raises many kinds for a file that is no good checkpoint
        raise ModelError(f"--model {path}: {first_line(error)}") from None
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"--model {path}: {len(missing)} weights are missing, the first: {missing[0]}")
    if not hasattr(model, "get_image_features") or not hasattr(model.model, "get_rope_index"):
        raise ModelError(f"--model {path}: {type(model).__name__} is not served; Qwen2.5-VL checkpoints are")
    model.compute_dtype = compute or dtype
    return model.to(device).eval()


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """`--dtype`: auto is bfloat16 on a GPU and float32 elsewhere."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, name)


def autocast(model):
    """Matrix products in the model's compute dtype, where that is not the dtype of its weights."""
    wanted = getattr(model, "compute_dtype", model.dtype)
    return torch.autocast(model.device.type, wanted, enabled=wanted != model.dtype)


def check_model_folder(path: str) -> None:
    """Says in one line what a folder lacks, where transformers would print a page."""
    folder = Path(path)
    if not folder.exists():
        if path.count("/") <= 1 and not path.startswith((".", "/")):
            return  # a hub id
        raise ModelError(f"--model {path}: no such folder")
    if not (folder / "config.json").exists():
        raise ModelError(f"--model {path}: no config.json, so not a checkpoint folder")
    if not any(folder.glob("*.safetensors")):
        pickled = " (pickled .bin weights are never loaded: convert them)" if any(folder.glob("*.bin")) else ""
        raise ModelError(f"--model {path}: no *.safetensors, so no weights{pickled}")


def first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@dataclass(frozen=True)
class Encoded:
    """One question as the model reads it."""

    id: str
    ids: list[int]  # image tokens already expanded
    pixel_values: Tensor | None  # [patches, patch values]
    image_grid_thw: Tensor | None  # [images, 3]
    choices: tuple[str, ...] = ()  # the options of a lettered question, so that an option's value votes as its letter


@dataclass(frozen=True)
class Prompts:
    """P questions as one right-padded batch."""

    keys: list[str]  # question ids, which key the randomness
    ids: Tensor  # [P, L]
    lengths: Tensor  # [P]
    pixel_values: Tensor | None  # the patches of all images, in order
    image_grid_thw: Tensor | None  # [images, 3]
    images: list[int]  # images per question

    def __len__(self):
        return len(self.keys)

    def select(self, rows: Sequence[int]) -> "Prompts":
        """These questions, in this order, no wider than they need to be."""
        rows = list(rows)
        lengths = self.lengths[rows]
        pixels = grids = None
        if self.pixel_values is not None:
            first = np.concatenate([[0], np.cumsum(self.images)])
            wanted = [i for row in rows for i in range(first[row], first[row + 1])]
            patches = self.image_grid_thw.prod(-1).tolist()
            pieces = self.pixel_values.split(patches)
            if wanted:
                pixels = torch.cat([pieces[i] for i in wanted])
                grids = self.image_grid_thw[wanted]
        keys, images = [self.keys[r] for r in rows], [self.images[r] for r in rows]
        return Prompts(keys, self.ids[rows, : int(lengths.max())], lengths, pixels, grids, images)


@dataclass(frozen=True)
class Processor:
    """Tokenizer and image processor of a checkpoint. transformers' own processor for Qwen wants torchvision."""

    tokenizer: object
    image_processor: object
    image_token: str
    eos_ids: tuple[int, ...]
    vocabulary: int  # width of the head; ids from len(tokenizer) on are padding

    def encode(self, example: Example, instruction: str = INSTRUCTION) -> Encoded:
        """Chat template, image tokens expanded to one per merged patch."""
        content = [{"type": "image"} for _ in example.images]
        content.append({"type": "text", "text": with_choices(example.question, example.choices) + instruction})
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        pixels = grids = None
        if example.images:
            pictures = self.image_processor(list(example.images), return_tensors="pt")
            pixels, grids = pictures["pixel_values"], pictures["image_grid_thw"]
            # the question's own text can't hold image tokens: split only at those that the template placed
            counts = (grids.prod(-1) // self.image_processor.merge_size**2).tolist()
            pieces = text.split(self.image_token)
            if len(pieces) != len(counts) + 1:
                raise ValueError(f"question {example.id}: its text holds the image token {self.image_token}")
            text = pieces[0] + "".join(
                self.image_token * n + piece for n, piece in zip(counts, pieces[1:], strict=True)
            )
        elif self.image_token in text:
            raise ValueError(f"question {example.id}: its text holds the image token {self.image_token}")
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return Encoded(example.id, ids, pixels, grids, example.choices)

    def collate(self, encoded: Sequence[Encoded], device: str | torch.device = "cpu") -> Prompts:
        lengths = torch.tensor([len(e.ids) for e in encoded])
        ids = torch.full((len(encoded), int(lengths.max())), self.tokenizer.pad_token_id)
        for row, e in zip(ids, encoded, strict=True):
            row[: len(e.ids)] = torch.tensor(e.ids)
        pixels = [e.pixel_values for e in encoded if e.pixel_values is not None]
        grids = [e.image_grid_thw for e in encoded if e.image_grid_thw is not None]
        return Prompts(
            keys=[e.id for e in encoded],
            ids=ids.to(device),
            lengths=lengths.to(device),
            pixel_values=torch.cat(pixels).to(device) if pixels else None,
            image_grid_thw=torch.cat(grids).to(device) if grids else None,
            images=[0 if e.image_grid_thw is None else len(e.image_grid_thw) for e in encoded],
        )

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def banned(self) -> Tensor:
        """[V] bool: special tokens other than the eos tokens, and the padding of the vocabulary. Never sampled."""
        banned = torch.zeros(self.vocabulary, dtype=torch.bool)
        banned[len(self.tokenizer) :] = True
        special = [i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special]
        banned[[i for i in special if i < self.vocabulary]] = True
        banned[self.tokenizer.convert_tokens_to_ids(self.image_token)] = True
        banned[list(self.eos_ids)] = False
        return banned

    def save(self, folder: str | Path) -> None:
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)


def load_processor(path: str, min_pixels: int | None = None, max_pixels: int | None = None) -> Processor:
    """The tokenizer and image processor of a checkpoint. Raises ModelError, naming what is missing."""
    check_model_folder(path)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        image_processor = load_image_processor(path)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"--model {path}: {first_line(error)}") from None
    if tokenizer.chat_template is None:
        raise ModelError(f"--model {path}: its tokenizer has no chat template")
    if not hasattr(image_processor, "merge_size") or getattr(config, "image_token_id", None) is None:
        raise ModelError(f"--model {path}: {config.model_type} is not served; Qwen2.5-VL checkpoints are")
    size = dict(image_processor.size)
    size = {
        "shortest_edge": min_pixels or size["shortest_edge"],
        "longest_edge": max_pixels or size["longest_edge"],
    }
    image_processor.size = type(image_processor.size)(**size)
    return Processor(
        tokenizer=tokenizer,
        image_processor=image_processor,
        image_token=tokenizer.convert_ids_to_tokens(config.image_token_id),
        eos_ids=eos_ids(path, config, tokenizer),
        vocabulary=config.get_text_config().vocab_size,
    )


def load_image_processor(path: str):
    """The Pillow image processor of a checkpoint: the same pixels on every machine, and no torchvision."""
    settings, _ = BaseImageProcessor.get_image_processor_dict(path)
    name = str(settings.get("image_processor_type", "")).removesuffix("Fast")
    pillow = getattr(transformers, f"{name}Pil", None)
    if pillow is None:
        raise ImportError(f"no Pillow image processor for {name or 'this checkpoint'} in transformers")
    return pillow.from_pretrained(path)


def eos_ids(path: str, config, tokenizer) -> tuple[int, ...]:
    """Every id that ends a response: generation_config's, else the config's, else the tokenizer's."""
    try:
        found = GenerationConfig.from_pretrained(path).eos_token_id
    except (OSError, ValueError):
        found = None
    found = found if found is not None else getattr(config.get_text_config(), "eos_token_id", None)
    found = found if found is not None else tokenizer.eos_token_id
    return tuple(found) if isinstance(found, (list, tuple)) else (found,)


# --- Attention and its cache -------------------------------------------------------------------------------------

ATTENTION = "mmupt"


class KVCache:
    """Keys and values of a rollout in two parts, so that the G samples of a question share its prompt.

    Per layer: the prompt's, [P, H, L, d], kept once per question and read by all of its samples together; and each
    sample's own, [P, H, G, capacity, d], allocated once and written in place. All rows of a batch decode in step, so
    the own part is `used` tokens long in every row; the prompt part is as long as each question's own prompt.
    """

    def __init__(self, lengths: Tensor, num_samples: int, capacity: int):
        self.prompt: dict[int, tuple[Tensor, Tensor]] = {}
        self.own: dict[int, list[Tensor]] = {}
        self.samples, self.capacity = num_samples, capacity
        self.used = -1  # -1: the prompt is being read
        width = int(lengths.max())
        beyond = torch.arange(width, device=lengths.device) >= lengths[:, None]
        # added to the scores: -inf on the padding of shorter prompts
        self.padding = torch.zeros(beyond.shape, device=lengths.device).masked_fill_(beyond, -torch.inf)[:, None, None]
        self.padded = bool(beyond.any())

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        if self.used < 0:
            self.prompt[layer] = (key, value)
            groups = query.shape[1] // key.shape[1]
            key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
            # right padding lies after every real token, so plain causal attention is right for all of those
            return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale).transpose(1, 2)
        return self.decode(layer, query, key, value, scale)

    def decode(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query [P*G, H*R, 1, d], key and value [P*G, H, 1, d] of the newest token -> [P*G, 1, H*R, d]."""
        prompt_key, prompt_value = self.prompt[layer]
        P, H, L, d = prompt_key.shape
        G = self.samples
        R = query.shape[1] // H
        if layer not in self.own:
            self.own[layer] = [x.new_empty(P, H, G, self.capacity, d) for x in (key, value)]
        own_key, own_value = self.own[layer]
        n = self.used + 1
        own_key[:, :, :, self.used] = key.view(P, G, H, d).transpose(1, 2)
        own_value[:, :, :, self.used] = value.view(P, G, H, d).transpose(1, 2)
        # the samples and the query heads of a group are folded into one matrix: the prompt's keys are read once
        q = query.view(P, G, H, R, d).transpose(1, 2) * scale  # [P, H, G, R, d]
        to_prompt = q.reshape(P, H, G * R, d) @ prompt_key.transpose(2, 3)  # [P, H, G*R, L]
        if self.padded:
            to_prompt = to_prompt + self.padding.to(to_prompt.dtype)
        to_own = q @ own_key[:, :, :, :n].transpose(3, 4)  # [P, H, G, R, n]
        weights = torch.cat([to_prompt.view(P, H, G, R, L), to_own], -1)
        weights = weights.softmax(-1, dtype=torch.float32).to(value.dtype)
        out = (weights[..., :L].reshape(P, H, G * R, L) @ prompt_value).view(P, H, G, R, d)
        out = out + weights[..., L:] @ own_value[:, :, :, :n]
        return out.transpose(1, 2).reshape(P * G, 1, H * R, d)

    def keep(self, questions: Tensor, samples: Tensor) -> None:
        """Drops rows: questions [P'] stay, and of each of them the samples [P', G']."""
        n = self.used + 1
        self.padding = self.padding[questions]
        for layer, pair in self.prompt.items():
            self.prompt[layer] = tuple(x[questions] for x in pair)
            kept = []
            for x in self.own[layer]:
                new = x.new_empty(len(questions), x.shape[1], samples.shape[1], self.capacity, x.shape[-1])
                new[:, :, :, :n] = x[questions[:, None], :, samples, :n].transpose(1, 2)
                kept.append(new)
            self.own[layer] = kept
        self.samples = samples.shape[1]


def attention(module, query, key, value, attention_mask, scaling=None, kv_cache: KVCache | None = None, **kwargs):
    """transformers' attention interface: sdpa, or the cache's own attention where a rollout passes its cache along."""
    if kv_cache is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    return kv_cache.attend(module.layer_idx, query, key, value, scaling), None


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


# --- Sampling ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rollout:
    """G responses to each of P questions; row p*G + g is sample g of question p."""

    prompts: Prompts
    num_samples: int
    tokens: Tensor  # [B, T], padded after each response's end
    lengths: Tensor  # [B], the first eos counted
    logprobs: Tensor  # [B, T] float32, of logits / temperature over the whole vocabulary; 0 after the end
    finished: Tensor  # [B] bool: ended by an eos, not by max_new_tokens
    temperature: float

    @property
    def mask(self) -> Tensor:
        """[B, T] bool. From lengths, never from token values: pad may equal eos."""
        return torch.arange(self.tokens.shape[1], device=self.lengths.device) < self.lengths[:, None]

    def select(self, questions: Sequence[int]) -> "Rollout":
        """These questions with all their samples."""
        rows = [q * self.num_samples + g for q in questions for g in range(self.num_samples)]
        parts = {name: getattr(self, name)[rows] for name in ("tokens", "lengths", "logprobs", "finished")}
        return replace(self, prompts=self.prompts.select(questions), **parts)

    def texts(self, processor: Processor) -> list[str]:
        return [processor.decode(row[:n]) for row, n in zip(self.tokens.tolist(), self.lengths.tolist(), strict=True)]


def uniforms(seed: int, step: int, key: str, sample: int, count: int) -> np.ndarray:
    """`count` numbers in [0, 1) that depend on (seed, step, question, sample) and on nothing else."""
    digest = hashlib.blake2b(f"{seed} {step} {sample} {key}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).random(count)


def sample_tokens(logits: Tensor, u: Tensor, temperature: float, top_p: float, banned: Tensor) -> tuple[Tensor, Tensor]:
    """One token per row by inverse CDF: the first token whose cumulative probability exceeds u.

    logits [N, V], u [N] in [0, 1), banned [V] bool -> tokens [N], logprobs [N] float32.
    Drawn from softmax(logits / temperature) without the banned tokens and, where top_p < 1, cut to the smallest set of
    likeliest tokens that holds top_p of the mass. The log-prob is of logits / temperature over the whole vocabulary,
    as the trainer scores it. Temperature 0 takes the likeliest token, and its log-prob at temperature 1.
    """
    scaled = logits.float() / (temperature or 1.0)
    logprobs = scaled.log_softmax(-1)
    if temperature == 0:
        tokens = logprobs.masked_fill(banned, -torch.inf).argmax(-1)
    else:
        probs = logprobs.exp().masked_fill_(banned, 0.0)
        if top_p < 1:
            probs = nucleus(probs, top_p)
        cdf = probs.cumsum(-1, dtype=torch.float64)
        total = cdf[:, -1:]
        tokens = torch.searchsorted(cdf, u[:, None].to(cdf.dtype) * total, right=True)[:, 0]
        # rounding may push u * total up to the total: stay on the last token that has any mass
        tokens = torch.minimum(tokens, (cdf < total).sum(-1))
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def nucleus(probs: Tensor, top_p: float) -> Tensor:
    """[N, V] unnormalised -> the same with 0 outside the smallest set of likeliest tokens of mass >= top_p."""
    ordered, index = probs.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    outside = before >= top_p * ordered.sum(-1, keepdim=True)
    outside[:, 0] = False
    return probs.masked_fill(torch.zeros_like(outside).scatter_(-1, index, outside), 0.0)


@torch.no_grad()
def generate(
    model,
    processor: Processor,
    examples: Sequence[Example] | Prompts,
    num_samples: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    step: int = 0,
    memory: int = 2**31,
    progress: str | None = None,
) -> Rollout:
    """G responses to each question. Greedy at temperature 0. `memory`: bytes that cache and logits may take."""
    device = next(model.parameters()).device
    prompts = examples
    if not isinstance(prompts, Prompts):
        prompts = processor.collate([processor.encode(e) for e in examples], device)
    B = len(prompts) * num_samples
    tokens = torch.full((B, max_new_tokens), processor.tokenizer.pad_token_id, device=device)
    logprobs = torch.zeros(B, max_new_tokens, device=device)
    lengths = torch.zeros(B, dtype=torch.long, device=device)
    finished = torch.zeros(B, dtype=torch.bool, device=device)
    width = questions_per_batch(model, prompts, num_samples, max_new_tokens, memory)
    by_length = torch.argsort(prompts.lengths, stable=True).tolist()  # less padding
    bar = tqdm(total=B, desc=progress, unit="resp", leave=False, disable=True if progress is None else None)
    was_training = model.training
    model.eval()
    for start in range(0, len(by_length), width):
        chosen = by_length[start : start + width]
        draws = np.stack(
            [[uniforms(seed, step, prompts.keys[q], g, max_new_tokens) for g in range(num_samples)] for q in chosen]
        )
        rows = torch.tensor(chosen, device=device)[:, None] * num_samples + torch.arange(num_samples, device=device)
        with autocast(model):
            u = torch.from_numpy(draws).to(device)
            out = decode_batch(model, processor, prompts.select(chosen), u, temperature, top_p, bar)
        for target, value in zip((tokens, logprobs, lengths, finished), out, strict=True):
            target[rows.flatten()] = value.flatten(0, 1)
    bar.close()
    model.train(was_training)
    T = int(lengths.max())
    return Rollout(prompts, num_samples, tokens[:, :T], lengths, logprobs[:, :T], finished, temperature)


def questions_per_batch(model, prompts: Prompts, num_samples: int, max_new_tokens: int, memory: int) -> int:
    """How many questions decode together: cache, and a float32 and a float64 row of logits per sample."""
    text = model.config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    per_token = 2 * text.num_hidden_layers * text.num_key_value_heads * head * model.dtype.itemsize
    per_question = per_token * (prompts.ids.shape[1] + num_samples * max_new_tokens)
    per_question += num_samples * text.vocab_size * 20
    return max(1, memory // per_question)


def decode_batch(model, processor, prompts: Prompts, u: Tensor, temperature: float, top_p: float, bar):
    """u [P, G, T] -> tokens [P, G, T], logprobs [P, G, T], lengths [P, G], finished [P, G]."""
    P, G, T = u.shape
    device = u.device
    decoder, head = text_model(model), model.get_output_embeddings()
    banned = processor.banned().to(device)
    eos = torch.tensor(processor.eos_ids, device=device)
    tokens = torch.full((P, G, T), processor.tokenizer.pad_token_id, device=device)
    logprobs = torch.zeros(P, G, T, device=device)
    lengths = torch.full((P, G), T, device=device)
    finished = torch.zeros(P, G, dtype=torch.bool, device=device)

    # prefill: every question once, its images once
    positions = rope_positions(model, prompts)  # [3, P, L]
    cache = KVCache(prompts.lengths, G, T)
    hidden = decoder(
        inputs_embeds=embed(model, prompts.ids, prompts), position_ids=positions, use_cache=False, kv_cache=cache
    ).last_hidden_state  # [P, L, D]
    last = prompts.lengths - 1
    logits = head(hidden[torch.arange(P, device=device), last]).repeat_interleave(G, 0)  # [P*G, V]
    position = next_position(positions, prompts.lengths).repeat_interleave(G)  # [P*G]

    # decode: `questions` and `samples` say which of the P x G rows are still in the batch
    questions, samples = torch.arange(P, device=device), torch.arange(G, device=device).expand(P, G)
    for t in range(T):
        here = (questions[:, None], samples)
        new, new_logprobs = sample_tokens(logits, u[..., t][here].flatten(), temperature, top_p, banned)
        live = ~finished[here]
        new, new_logprobs = new.view(live.shape), new_logprobs.view(live.shape)
        tokens[(*here, t)] = torch.where(live, new, tokens[(*here, t)])
        logprobs[(*here, t)] = torch.where(live, new_logprobs, logprobs[(*here, t)])
        ended = live & torch.isin(new, eos)
        lengths[here] = torch.where(ended, t + 1, lengths[here])
        finished[here] |= ended
        live = live & ~ended
        alive = live.sum(1)  # [P']
        bar.update(int(ended.sum()))
        if t + 1 == T or not bool(live.any()):
            break
        kept, widest = int((alive > 0).sum()), int(alive.max())
        if t > 0 and kept * widest <= 0.8 * live.numel():  # finished rows leave once it is worth the copy
            stay = alive.nonzero()[:, 0]
            order = torch.argsort(~live[stay], dim=1, stable=True)[:, :widest]
            cache.keep(stay, order)
            new = new[stay[:, None], order]
            position = position.view(live.shape)[stay[:, None], order].flatten()
            questions, samples = questions[stay], samples[stay[:, None], order]
        cache.used = t
        hidden = decoder(
            inputs_embeds=model.get_input_embeddings()(new.reshape(-1, 1)),
            position_ids=(position + t).expand(3, -1)[..., None],
            use_cache=False,
            kv_cache=cache,
        ).last_hidden_state
        logits = head(hidden[:, -1])
    bar.update(int((~finished).sum()))
    return tokens, logprobs, lengths, finished


def next_position(positions: Tensor, lengths: Tensor) -> Tensor:
    """positions [3, P, L], lengths [P] -> [P], the rotary position of the first response token."""
    real = torch.arange(positions.shape[-1], device=positions.device) < lengths[:, None]
    return positions.amax(0).masked_fill(~real, -1).amax(-1) + 1


# --- Scoring -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """Questions as rows [prompt | r1 | r2 | .. | rG]: each response sees the prompt and itself, the prompt is read once.

    The last token of a response is predicted but never read, so it has no place in the row.
    """

    ids: Tensor  # [P, S]
    positions: Tensor  # [3, P, S]
    segment: Tensor  # [P, S]: 0 prompt, g response g, -1 padding
    predictor: Tensor  # [N] index into P*S of the position that predicts each response token, row by row


def pack(rollout: Rollout, prompt_positions: Tensor) -> Packed:
    P, G = len(rollout.prompts), rollout.num_samples
    device = rollout.tokens.device
    prompt_lengths, lengths = rollout.prompts.lengths.tolist(), rollout.lengths.view(P, G).tolist()
    width = max(n + sum(r) - G for n, r in zip(prompt_lengths, lengths, strict=True))
    ids = torch.full((P, width), int(rollout.prompts.ids[0, 0]), device=device)
    positions = torch.zeros(3, P, width, dtype=torch.long, device=device)
    segment = torch.full((P, width), -1, device=device)
    after = next_position(prompt_positions, rollout.prompts.lengths)
    predictor = []
    steps = torch.arange(max(map(max, lengths)), device=device)
    for p in range(P):
        end = prompt_lengths[p]
        ids[p, :end] = rollout.prompts.ids[p, :end]
        positions[:, p, :end] = prompt_positions[:, p, :end]
        segment[p, :end] = 0
        last = p * width + end - 1
        for g in range(G):
            n = lengths[p][g] - 1
            ids[p, end : end + n] = rollout.tokens[p * G + g, :n]
            positions[:, p, end : end + n] = after[p] + steps[:n]
            segment[p, end : end + n] = g + 1
            predictor += [steps.new_tensor([last]), steps[:n] + (p * width + end)]
            end += n
    return Packed(ids, positions, segment, torch.cat(predictor))


def packed_mask(segment: Tensor) -> Tensor:
    """[P, S] -> [P, 1, S, S] bool: token i reads token j where j is not later and is of the prompt or its own response."""
    S = segment.shape[1]
    causal = torch.ones(S, S, dtype=torch.bool, device=segment.device).tril()
    return (causal & ((segment == 0)[:, None] | (segment[:, :, None] == segment[:, None])))[:, None]


def score(model, rollout: Rollout, with_entropy: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """Log-probs [B, T] float32 of the rollout's tokens under `model`, at the rollout's temperature; 0 after the end.

    Equal in value and gradient to a forward of each [prompt | response] on its own. With gradient where the caller has
    it enabled. `with_entropy` also gives the entropy [B, T] of each token's distribution, without gradient.
    """
    packed = pack(rollout, rope_positions(model, rollout.prompts))
    mask = rollout.mask
    with autocast(model):
        hidden = text_model(model)(
            inputs_embeds=embed(model, packed.ids, rollout.prompts),
            position_ids=packed.positions,
            attention_mask=packed_mask(packed.segment),
            use_cache=False,
        ).last_hidden_state
        out = linear_logprobs(
            hidden.flatten(0, 1)[packed.predictor],  # only what predicts a response token reaches the head
            model.get_output_embeddings().weight,
            rollout.tokens[mask],
            temperature=rollout.temperature or 1.0,
            return_entropy=with_entropy,
        )
    blank = torch.zeros(mask.shape, device=mask.device)
    if with_entropy:
        return blank.masked_scatter(mask, out[0]), blank.masked_scatter(mask, out[1])
    return blank.masked_scatter(mask, out)


def micro_batches(rollout: Rollout, questions: Sequence[int], tokens: int) -> list[list[int]]:
    """Splits questions so that each part, padded to its longest packed row, holds at most `tokens` tokens (or one row)."""
    totals = rollout.lengths.view(len(rollout.prompts), -1).sum(1).tolist()
    length = {q: int(rollout.prompts.lengths[q]) + totals[q] for q in questions}
    parts: list[list[int]] = []
    for q in sorted(questions, key=lambda q: (length[q], q)):  # like lengths together; the newest is the longest
        if parts and (len(parts[-1]) + 1) * length[q] <= tokens:
            parts[-1].append(q)
        else:
            parts.append([q])
    return parts


@torch.no_grad()
def score_all(model, rollout: Rollout, tokens: int) -> Tensor:
    """Log-probs [B, T] of a whole rollout, without gradient, in micro-batches."""
    out = torch.zeros(rollout.logprobs.shape, device=rollout.logprobs.device)
    G = rollout.num_samples
    for part in micro_batches(rollout, range(len(rollout.prompts)), tokens):
        rows = [q * G + g for q in part for g in range(G)]
        out[rows] = score(model, rollout.select(part))
    return out


# --- Checkpoints -------------------------------------------------------------------------------------------------


def save_checkpoint(folder: Path, model, processor: Processor, optimizer, state: dict, keep: int = 0) -> None:
    """Writes `folder` (…/step-N) whole or not at all: a Hugging Face checkpoint plus the optimiser and `state`.

    Everything is written beside its place, flushed to disk and renamed. Older checkpoints beyond `keep` (0: all stay)
    go only after that. Raises OSError (a full disk) with the older checkpoints untouched.
    """
    folder = Path(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        model.save_pretrained(partial)
        processor.save(partial)
        names = {p: n for n, p in model.named_parameters()}
        moments = {
            f"{names[p]}|{key}": value.contiguous()
            for p, values in optimizer.state.items()
            for key, value in values.items()
        }
        save_file(moments, partial / "optimizer.safetensors")
        sizes = {str(f.relative_to(partial)): f.stat().st_size for f in sorted(partial.rglob("*")) if f.is_file()}
        (partial / "trainer.json").write_text(json.dumps({**state, "files": sizes}, indent=1))
        for entry in [*partial.rglob("*"), partial]:
            sync(entry)
        if folder.exists():  # a leftover that latest_checkpoint found broken
            shutil.rmtree(folder)
        partial.rename(folder)
        sync(folder.parent)
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


def sync(path: Path) -> None:
    """To the disk itself; a folder too, for its list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checkpoints(parent: Path) -> list[Path]:
    """step-N folders, oldest first, whole or not."""
    found = [p for p in Path(parent).glob("step-*") if p.name[5:].isdigit()]
    return sorted(found, key=lambda p: int(p.name[5:]))


def is_whole(folder: Path) -> bool:
    """Every file that the checkpoint lists is there at its full size, and its tensors can be opened."""
    try:
        for name, size in json.loads((folder / "trainer.json").read_text())["files"].items():
            if (folder / name).stat().st_size != size:
                return False
            if name.endswith(".safetensors"):
                with safe_open(folder / name, "pt"):
                    pass
        return True
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return False


def latest_checkpoint(parent: Path) -> Path | None:
    """The newest whole checkpoint under `parent`."""
    return next((p for p in reversed(checkpoints(parent)) if is_whole(p)), None)


def load_checkpoint(folder: Path, model, optimizer) -> dict:
    """The optimiser's moments into `optimizer` -> the saved `state`. The weights are load_model's to load."""
    parameters = dict(model.named_parameters())
    with safe_open(folder / "optimizer.safetensors", "pt") as file:
        for entry in file.keys():
            name, key = entry.rsplit("|", 1)
            value = file.get_tensor(entry)
            p = parameters[name]
            optimizer.state[p][key] = value if key == "step" else value.to(p.device)
    state = json.loads((Path(folder) / "trainer.json").read_text())
    del state["files"]
    return state
