"""What the training loop needs of a model: load it, put questions to it, sample, score, save, resume.

    processor = load_processor("data/tiny")
    model     = load_model("data/tiny")
    rollout   = generate(model, processor, examples, num_samples=8, max_new_tokens=64)
    logprobs  = score(model, rollout)                       # what the policy says of those same tokens, with gradient

The model's code is transformers'. Loading, scoring and checkpoints are here; attention over shared prompts is in
attention.py, sampling in decoding.py, and what differs between model families in families.py.

Letters: P questions, G samples each, B = P*G responses, L prompt tokens, T response tokens, V vocabulary, D width,
H key/value heads, R query heads per key/value head.

Left out: videos, beam search, sharded weights.
"""

import copy
import ctypes
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from threading import Lock, current_thread, local, main_thread

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    ProcessorMixin,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import GENERATION_CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import get_checkpoint_shard_files

from attention import ATTENTION, Layout, Sequences, width_class
from data import Example
from data.prompts import INSTRUCTION, content
from decoding import (
    SIDE_BY_SIDE,
    Sampling,
    bias_against,
    decode,
    lay_side_by_side,
    next_position,
    read_row,
    steps_alike,
    takes_usual_steps,
    usual_layers,
)
from families import (
    VISION,
    ModelError,
    compose_processor,
    image_blocks,
    per_question,
    refusal,
    rope_positions,
    vision_parameters,
)
from kernels import linear_logprobs
from pixels import fit, fits, numbers
from vision import lean_vision

transformers_logging.disable_progress_bar()

KEEP_BYTES = 2**28  # of encoded questions that a processor keeps
TEXT_INPUTS = ("attention_mask", "token_type_ids", "mm_token_type_ids")  # of what a processor gives, not about images


# --- Loading -----------------------------------------------------------------------------------------------------


def load_model(
    path: str,
    dtype: torch.dtype = torch.float32,
    compute: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> torch.nn.Module:
    """A Hugging Face checkpoint of a family in families.py -> model in eval mode. Safetensors only, no remote code.

    `dtype` is that of the weights, `compute` that of the matrix products (the same where None). A trained policy keeps
    float32 weights: in bfloat16 an update of lr 1e-6 would round away.
    """
    config = load_config(path)
    cls = AutoModelForImageTextToText if config.model_type in VISION else AutoModelForCausalLM
    try:
        model, info = cls._model_mapping[type(config)].from_pretrained(
            None, config=config, state_dict=stored_weights(path, dtype), dtype=dtype, attn_implementation=ATTENTION,
            trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001  transformers raises many kinds for a file that is no good checkpoint
        raise ModelError(f"--model {path}: {first_line(error)}") from None
    if differing := sorted(info["mismatched_keys"]):
        name, stored, wanted = differing[0]
        raise ModelError(f"--model {path}: {name} is {list(stored)} in its file, {list(wanted)} by its config.json")
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"--model {path}: {len(missing)} weights are missing, the first: {missing[0]}")
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise ModelError(f"--model {path}: a head with a bias is not served")
    model.generation_config = generation_config(path) or model.generation_config
    model.compute_dtype = compute or dtype
    model.to(device).eval()
    lay_side_by_side(model)
    with autocast(model):
        model.usual_decoder = steps_alike(model)
    if not model.usual_decoder:
        print(
            f"--model {path}: its decoder isn't of the usual parts and samples through its own forward", file=sys.stderr
        )
    return model


@dataclass(frozen=True)
class Stored:
    """A weight on disk, read when it is asked for, as transformers does by [...]: from several threads, which would hinder
    each other."""

    file: object
    name: str
    turn: Lock
    place: Tensor | None = None  # where it shall lie

    def __getitem__(self, _) -> Tensor:
        with self.turn:
            found = self.file.get_tensor(self.name)
            return found if self.place is None else self.place.copy_(found)


def stored_weights(path: str, dtype: torch.dtype) -> dict[str, Stored]:
    """By name. Those that are multiplied together are read to where lay_side_by_side would move them, and none is a mapped
    file, transformers' way: its pages would stay in memory beside the copies."""
    find = partial(cached_file, path, _raise_exceptions_for_missing_entries=False)
    if single := find(SAFE_WEIGHTS_NAME):  # first, as transformers has it: an index beside it is of another save
        files = [single]
    elif index := find(SAFE_WEIGHTS_INDEX_NAME):
        files, _ = get_checkpoint_shard_files(path, index)
    else:
        raise ModelError(f"--model {path}: no {SAFE_WEIGHTS_NAME}, and no {SAFE_WEIGHTS_INDEX_NAME} of several files")
    opened = [safe_open(file, "pt", backend="pread") for file in files]
    turn = Lock()
    found = {name: Stored(file, name, turn) for file in opened for name in file.keys()}
    for name in list(found):
        for group in SIDE_BY_SIDE:
            names = [name.replace(f".{group[0]}.", f".{part}.") for part in group]
            if f".{group[0]}." in name and all(n in found for n in names):
                shapes = [found[n].file.get_slice(n).get_shape() for n in names]
                whole = torch.empty(sum(s[0] for s in shapes), *shapes[0][1:], dtype=dtype)
                for n, rows in zip(names, whole.split([s[0] for s in shapes]), strict=True):
                    found[n] = replace(found[n], place=rows)
    return found


def freeze_vision(model) -> None:
    """The vision tower and the projector behind it get no gradient; decoder and head are trained."""
    for p in vision_parameters(model):
        p.requires_grad_(False)


def recompute_activations(model) -> None:
    """The backward pass computes each layer again, instead of keeping what is inside it: `--gradient_checkpointing`."""
    again = lambda: (nullcontext(), lean_vision(model))  # noqa: E731  as in `embed`, where the layer was computed first
    # its name in later versions of transformers, where the older one warns
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False, "context_fn": again})
    # transformers has embeddings ask for gradients, for checkpoints of the older kind: a frozen tower would be kept whole
    model.disable_input_require_grads()


def load_config(path: str):
    """The checkpoint's configuration. Raises ModelError where there is none or its family is not served."""
    check_model_folder(path)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001  as below: of many kinds
        raise ModelError(f"--model {path}: {first_line(error)}") from None
    if why := refusal(config):
        raise ModelError(f"--model {path}: {why}")
    return config


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory for reuse. By default every large tensor that goes hands its pages back, and its
    successor has them mapped and zeroed again: a tenth of a training step on a CPU. Elsewhere than with glibc: nothing."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD, bytes: smaller blocks come from the heap
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: how much free heap may stay
        libc.mallopt(-8, 1)  # M_ARENA_MAX: one heap for all threads, since those of others give pages back
    except (OSError, AttributeError):
        pass


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
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise ModelError(f"--model {path}: a LoRA adapter; first: python -m lora --adapter {path} --out FOLDER")
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
    vision: dict[str, Tensor] = field(default_factory=dict)  # what the family's image processor makes of the images
    choices: tuple[str, ...] = ()  # the options of a lettered question, so that an option's value votes as its letter

    def bytes(self) -> int:
        return 8 * len(self.ids) + sum(x.nbytes for x in self.vision.values())


@dataclass(frozen=True)
class Prompts:
    """P questions as one right-padded batch."""

    keys: list[str]  # question ids, which key the randomness
    ids: Tensor  # [P, L]
    lengths: Tensor  # [P]
    vision: list[dict[str, Tensor]]  # of each question; empty where it has no image
    positions: Tensor | None = None  # [A, P, L] rotary positions, once the model has said them
    blocks: Tensor | None = None  # [P, L] images whose tokens see each other, likewise

    def __len__(self):
        return len(self.keys)

    def select(self, rows: Sequence[int]) -> "Prompts":
        """These questions, in this order, no wider than they need to be."""
        rows = list(rows)
        lengths = self.lengths[rows]
        width = int(lengths.max())
        return Prompts(
            [self.keys[r] for r in rows],
            self.ids[rows, :width],
            lengths,
            [self.vision[r] for r in rows],
            None if self.positions is None else self.positions[:, rows, :width],
            None if self.blocks is None else self.blocks[rows, :width],
        )


@dataclass(frozen=True)
class Processor:
    """What turns questions into tensors and tokens into text: transformers' own processor of the family, without its
    video part, or a tokenizer alone where the model reads no images."""

    tokenizer: object
    whole: object | None  # of tokenizer and image processor
    model_type: str
    image_token_id: int | None
    eos_ids: tuple[int, ...]
    vocabulary: int  # width of the head; an id without a token is padding
    files: dict[str, str] = field(default_factory=dict)  # of the checkpoint, to be saved again as they are
    copies: object = field(default_factory=local)  # of each thread: a tokenizer serves one at a time
    kept: dict = field(default_factory=dict)  # by the example's identity: (example, instruction, Encoded)
    kept_bytes: list = field(default_factory=lambda: [0])

    @property
    def image_processor(self):
        return None if self.whole is None else self.whole.image_processor

    @property
    def pad(self) -> int:
        """Fills what nobody reads."""
        return 0 if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id

    def keep(self, example: Example, instruction: str = INSTRUCTION) -> Encoded:
        """Encodes what will be asked for again, and keeps the result while little is kept."""
        encoded = self.encode(example, instruction)
        if self.kept_bytes[0] + encoded.bytes() <= KEEP_BYTES:
            self.kept_bytes[0] += encoded.bytes()
            self.kept[id(example)] = example, instruction, encoded
        return encoded

    def forget(self, example: Example) -> None:
        if id(example) in self.kept:
            self.kept_bytes[0] -= self.kept.pop(id(example))[2].bytes()

    def encode(self, example: Example, instruction: str = INSTRUCTION) -> Encoded:
        """Chat template; each image's placeholder replaced by the tokens that its features will stand for."""
        known = self.kept.get(id(example))
        if known and known[0] is example and known[1] == instruction:
            return known[2]
        asked = content(example, instruction)
        if self.whole is None:
            if example.images:
                raise ValueError(f"question {example.id}: it has images, and {self.model_type} reads none")
            text = self.chat("".join(part["text"] for part in asked))
            ids = self.own("tokenizer")(text, add_special_tokens=False)["input_ids"]
            return Encoded(example.id, ids, {}, example.choices)
        text = self.chat(asked)
        # the question's own text can't hold image tokens: only those that the template placed
        placeholder, image_token = self.whole.image_token, self.tokenizer.convert_ids_to_tokens(self.image_token_id)
        for token, wanted in {image_token: 0, placeholder: len(example.images)}.items():
            if text.count(token) != wanted:
                raise ValueError(f"question {example.id}: its text holds the image token {token}")
        bos = self.tokenizer.bos_token
        special = bos is None or not text.startswith(bos)
        if fits(self.image_processor):
            vision = fit(self.image_processor, example.images) if example.images else {}
            return Encoded(example.id, self.with_places(text, vision, special), vision, example.choices)
        made = self.own("whole")(
            text=[text], images=[list(example.images)] if example.images else None, return_tensors="pt",
            add_special_tokens=special, return_mm_token_type_ids=False,
        )  # fmt: skip
        ids = made.pop("input_ids")[0].tolist()
        vision = {name: x for name, x in made.items() if name not in TEXT_INPUTS}
        vision = per_question(self.model_type, vision) if example.images else {}
        return Encoded(example.id, ids, vision, example.choices)

    def with_places(self, text: str, vision: dict[str, Tensor], special: bool) -> list[int]:
        """The ids of a text, the image token of each picture repeated once for every feature of the picture."""
        ids = self.own("tokenizer")(text, add_special_tokens=special)["input_ids"]
        if not vision:
            return ids
        counts = iter((vision["image_grid_thw"].prod(-1) // self.image_processor.merge_size**2).tolist())
        return [i for one in ids for i in ([one] * next(counts) if one == self.image_token_id else [one])]

    def chat(self, content) -> str:
        return self.own("tokenizer").apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )

    def own(self, name: str):
        """The tokenizer or the whole processor, a copy in any thread but the main one."""
        if current_thread() is main_thread():
            return getattr(self, name)
        if not hasattr(self.copies, name):
            setattr(self.copies, name, copy.deepcopy(getattr(self, name)))
        return getattr(self.copies, name)

    def collate(self, encoded: Sequence[Encoded], device: str | torch.device = "cpu") -> Prompts:
        lengths = torch.tensor([len(e.ids) for e in encoded])
        ids = torch.full((len(encoded), int(lengths.max())), self.pad)
        for row, e in zip(ids, encoded, strict=True):
            row[: len(e.ids)] = torch.tensor(e.ids)
        vision = [{name: x.to(device) for name, x in e.vision.items()} for e in encoded]
        if fits(self.image_processor):
            vision = [numbers(self.image_processor, v) if v else v for v in vision]
        return Prompts([e.id for e in encoded], ids.to(device), lengths.to(device), vision)

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    @cached_property
    def known(self) -> Tensor:
        """The ids that have a token: there may be gaps between them."""
        return torch.tensor([i for i in self.tokenizer.get_vocab().values() if i < self.vocabulary])

    def banned(self) -> Tensor:
        """[V] bool: special tokens other than the eos tokens, and the padding of the vocabulary. Never sampled."""
        banned = torch.ones(self.vocabulary, dtype=torch.bool)
        banned[self.known] = False
        special = [i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special]
        special += [] if self.image_token_id is None else [self.image_token_id]
        banned[[i for i in special if i < self.vocabulary]] = True
        banned[list(self.eos_ids)] = False
        return banned

    def save(self, folder: str | Path) -> None:
        self.tokenizer.save_pretrained(folder)
        if self.whole is not None:
            self.image_processor.save_pretrained(folder)
        for name, text in self.files.items():
            (Path(folder) / name).write_text(text)


def load_processor(path: str, min_pixels: int | None = None, max_pixels: int | None = None) -> Processor:
    """The tokenizer and image processor of a checkpoint. Raises ModelError, naming what is missing."""
    config = load_config(path)
    sees, vocabulary = config.model_type in VISION, config.get_text_config().vocab_size
    if Path(path).is_dir() and not any(f.name.startswith(("tokenizer", "vocab")) for f in Path(path).iterdir()):
        raise ModelError(f"--model {path}: no tokenizer.json, so no tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        settings = ProcessorMixin.get_processor_dict(path)[0] if sees else {}
        # what the processor says comes first: a decoder's own tokenizer may bring a template that knows no images
        tokenizer.chat_template = chat_template(settings) or tokenizer.chat_template
        image_processor = load_image_processor(path) if sees else None
        whole = compose_processor(config.model_type, tokenizer, image_processor, settings) if sees else None
    except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
        raise ModelError(f"--model {path}: {first_line(error)}") from None
    if tokenizer.chat_template is None:
        raise ModelError(f"--model {path}: its tokenizer has no chat template")
    if min_pixels or max_pixels:
        size = dict(image_processor.size) if sees else {}
        if not {"shortest_edge", "longest_edge"} <= {k for k, v in size.items() if v}:
            raise ModelError(
                f"--model {path}: {config.model_type} takes no --min_pixels and --max_pixels; set both to 0"
            )
        image_processor.size = type(image_processor.size)(
            shortest_edge=min_pixels or size["shortest_edge"], longest_edge=max_pixels or size["longest_edge"]
        )
    own = {name: value for name, value in settings.items() if name not in ("image_processor", "chat_template")}
    processor = Processor(
        tokenizer=tokenizer,
        whole=whole,
        model_type=config.model_type,
        image_token_id=config.image_token_id if sees else None,
        eos_ids=tuple(i for i in eos_ids(path, tokenizer) if 0 <= i < vocabulary),
        vocabulary=vocabulary,
        files={"processor_config.json": json.dumps(own, indent=2)} if own else {},
    )
    try_out(path, processor)
    return processor


def try_out(path: str, processor: Processor) -> None:
    """Encodes a question, so that what a checkpoint's processor lacks is said when it is loaded."""
    image, token = processor.image_token_id, None
    if image is not None:
        token = processor.tokenizer.convert_ids_to_tokens(image)
        if token is None:
            raise ModelError(f"--model {path}: its tokenizer has no token {image}, its config.json's image_token_id")
    try:
        ids = processor.encode(Example("", () if image is None else (Image.new("RGB", (64, 64)),), "?")).ids
    except Exception as error:  # noqa: BLE001  templates, transformers and missing packages raise many kinds
        raise ModelError(f"--model {path}: its processor reads no question ({first_line(error)})") from None
    if image is not None and image not in ids:
        raise ModelError(f"--model {path}: its processor writes no {token}, its config.json's image_token_id {image}")


def chat_template(settings: dict) -> str | None:
    """That of a processor, which may have several by name."""
    found = settings.get("chat_template")
    return found.get("default") if isinstance(found, dict) else found


def load_image_processor(path: str):
    """The Pillow image processor of a checkpoint, which needs no torchvision; Qwen's resizes by pixels.py."""
    settings, _ = BaseImageProcessor.get_image_processor_dict(path)
    name = str(settings.get("image_processor_type", "")).removesuffix("Fast")
    pillow = getattr(transformers, f"{name}Pil", None)
    if pillow is None:
        raise ImportError(f"no Pillow image processor for {name or 'this checkpoint'} in transformers")
    return type(pillow.__name__, (ByTable, pillow), {}).from_pretrained(path)


class ByTable:
    """A byte has 256 values, so what an image processor's rescaling and normalising make of them is looked up: the same
    numbers, in a fraction of the time."""

    def rescale(self, image, scale, **kwargs):
        later = image.dtype == np.uint8 and self.do_rescale and self.do_normalize
        return image if later else super().rescale(image, scale, **kwargs)

    def normalize(self, image, mean, std, **kwargs):  # [C, H, W]
        if image.dtype != np.uint8 or not self.do_rescale:
            return super().normalize(image, mean, std, **kwargs)
        every = np.broadcast_to(np.arange(256, dtype=np.uint8), (len(image), 1, 256))
        table = super().normalize(super().rescale(every, self.rescale_factor), mean, std)  # [C, 1, 256]
        out = np.empty(image.shape, table.dtype)
        for channel, values, place in zip(image, table, out, strict=True):
            np.take(values[0], channel, out=place, mode="clip")
        return out


def generation_config(path: str) -> GenerationConfig | None:
    """Raises ModelError for one that can't be read: it says which ids end a response."""
    if cached_file(path, GENERATION_CONFIG_NAME, _raise_exceptions_for_missing_entries=False) is None:
        return None
    try:
        return GenerationConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"--model {path}: {GENERATION_CONFIG_NAME}: {first_line(error)}") from None


def eos_ids(path: str, tokenizer) -> tuple[int, ...]:
    """Every id that ends a response: generation_config's, else the config's, else the tokenizer's."""
    found = None
    stated, _ = PreTrainedConfig.get_config_dict(path)  # config itself may have dropped some of it
    for generation in (generation_config(path), GenerationConfig.from_model_config(stated)):
        found = found if found is not None or generation is None else generation.eos_token_id
    found = found if found is not None else tokenizer.eos_token_id
    if found is None:
        return ()
    return tuple(found) if isinstance(found, (list, tuple)) else (found,)


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
    memory: int = 0,
    progress: str | None = None,
) -> Rollout:
    """G responses to each question. Greedy at temperature 0. `memory`: bytes that cache and logits may
    take; 0 chooses."""
    device = next(model.parameters()).device
    prompts = examples
    if not isinstance(prompts, Prompts):
        prompts = processor.collate([processor.encode(e) for e in examples], device)
    if prompts.positions is None:
        prompts = replace(prompts, positions=rope_positions(model, prompts), blocks=image_blocks(model, prompts))
    sampling = Sampling(
        temperature,
        top_p,
        bias_against(processor.banned().to(device)),
        torch.tensor(processor.eos_ids, dtype=torch.long, device=device),
    )

    def draws(questions: list[int]) -> Tensor:
        rows = [
            [uniforms(seed, step, prompts.keys[q], g, max_new_tokens) for g in range(num_samples)] for q in questions
        ]
        return torch.from_numpy(np.array(rows))

    bar = tqdm(
        total=len(prompts) * num_samples, desc=progress, unit="resp", leave=False, disable=progress is None or None
    )
    was_training = model.training
    model.eval()
    # inference mode spares every operation some bookkeeping, but autocast caches nothing in it: a decoder's own forward
    # would cast all weights at every step. What leaves it below is an ordinary tensor again
    with torch.inference_mode() if takes_usual_steps(model) else torch.no_grad(), autocast(model), bar:
        out = decode(model, prompts, num_samples, max_new_tokens, sampling, draws, memory, bar)
    model.train(was_training)
    T, lengths = int(out.lengths.max()), out.lengths.clone()
    after = torch.arange(T, device=device) >= lengths[:, None]
    tokens = out.tokens[:, :T].masked_fill(after, processor.pad)
    logprobs = out.logprobs[:, :T].masked_fill(after, 0.0)
    return Rollout(prompts, num_samples, tokens, lengths, logprobs, out.finished.clone(), temperature)


# --- Scoring -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """A rollout as one flat row: the tokens of all prompts, then of all responses (see attention.py).

    The last token of a response is predicted but never read, so it has no place in the row.
    """

    ids: Tensor  # [1, N]
    positions: Tensor  # [A, 1, N]
    layout: Layout
    predictor: Tensor  # index into N of what predicts each response token, in the order of rollout.mask


def pack(rollout: Rollout) -> Packed:
    prompts, G = rollout.prompts, rollout.num_samples
    own = rollout.lengths - 1
    order = torch.argsort(width_class(own), stable=True)  # of the responses in the row
    layout = Layout(Sequences(prompts.lengths), blocks=prompts.blocks)
    if bool(own.any()):
        layout = replace(layout, responses=Sequences(own[order]), question=order // G)
    steps = torch.arange(rollout.tokens.shape[1], device=own.device)
    read = steps < own[order, None]  # [B, T]
    after = next_position(prompts)[order // G]  # [B]
    ids = torch.cat([prompts.ids[layout.prompts.real], rollout.tokens[order][read]])
    own_positions = (after[:, None] + steps)[read]
    positions = torch.cat(
        [prompts.positions[:, layout.prompts.real], own_positions.expand(len(prompts.positions), -1)], 1
    )
    # the first token of a response is predicted by its prompt's last, every later one by the token before it
    prompt_end = prompts.lengths.cumsum(0).repeat_interleave(G) - 1
    start = torch.empty_like(own)
    start[order] = layout.prompts.total + own[order].cumsum(0) - own[order]
    predictor = torch.cat([prompt_end[:, None], start[:, None] + steps[:-1]], 1)
    return Packed(ids[None], positions[:, None], layout, predictor[rollout.mask])


def score(model, rollout: Rollout, with_entropy: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """Log-probs [B, T] float32 of the rollout's tokens under `model`, at the rollout's temperature; 0 after the end.

    Equal in value and gradient to a forward of each [prompt | response] on its own. With gradient where the caller has
    it enabled. `with_entropy` also gives the entropy [B, T] of each token's distribution, without gradient.
    """
    packed = pack(rollout)
    mask = rollout.mask
    with autocast(model):
        # in bfloat16 two ways of one forward differ by enough to show as KL between equal models
        lean = not torch.is_grad_enabled() and getattr(model, "compute_dtype", model.dtype) == torch.float32
        layers = usual_layers(model) if lean else None
        hidden = read_row(model, layers, packed.ids, rollout.prompts, packed.positions, packed.layout)
        out = linear_logprobs(
            hidden[packed.predictor],  # only what predicts a response token reaches the head
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
    """Splits questions so that each part reads at most `tokens` tokens (or is one question), like lengths together."""
    read = (rollout.lengths - 1).view(len(rollout.prompts), -1).sum(1) + rollout.prompts.lengths
    read = read.tolist()
    parts: list[list[int]] = []
    room = 0
    for q in sorted(questions, key=lambda q: (read[q], q)):
        if read[q] > room:
            parts.append([])
            room = tokens
        parts[-1].append(q)
        room -= read[q]
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
            optimizer.state[p][key] = value.to(p.device)
    state = json.loads((Path(folder) / "trainer.json").read_text())
    del state["files"]
    return state
