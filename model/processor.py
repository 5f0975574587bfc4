"""Questions to tensors, tokens to text: tokenizer, chat template and image processor.

Left out: videos; image processors that need torchvision.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from threading import current_thread, local, main_thread
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken
from torch import Tensor

from common.errors import ModelError, UsageError, first_line
from data import Example
from data.prompts import INSTRUCTION, content, with_choices
from model.batch import Encoded, Prompts
from model.families import VISION, compose_processor, per_question
from model.loading import generation_config, load_config
from model.pixels import resize, supports, to_patches

KEEP_BYTES = 2**28  # of encoded questions that a processor keeps
# put into a control token of a row's own text, which is then none; a noncharacter: no text has it
BREAK = "\ufdd0"
# of what a processor gives, not about images
TEXT_INPUTS = ("attention_mask", "token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True)
class Processor:
    """What turns questions into tensors and tokens into text: transformers' own processor of the
    family, without its video part, or a tokenizer alone where the model reads no images."""

    tokenizer: Any  # transformers', as the next
    whole: Any  # of tokenizer and image processor, or None
    model_type: str
    image_token_id: int | None
    eos_ids: tuple[int, ...]
    vocabulary: int  # width of the head; an id without a token is padding
    # of the checkpoint, to be saved again as they are
    files: dict[str, str] = field(default_factory=dict)
    system: str = ""  # a message before every question's; empty: none
    # of each thread: a tokenizer serves one at a time
    copies: object = field(default_factory=local)
    # by the example's identity: (example, instruction, Encoded)
    kept: dict = field(default_factory=dict)
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

    def keeps(self, example: Example) -> bool:
        return self.kept.get(id(example), (None,))[0] is example

    def forget(self, example: Example) -> None:
        if id(example) in self.kept:
            self.kept_bytes[0] -= self.kept.pop(id(example))[2].bytes()

    def encode(self, example: Example, instruction: str = INSTRUCTION) -> Encoded:
        """The chat template's text, each image's placeholder once for each of its features."""
        known = self.kept.get(id(example))
        if known and known[0] is example and known[1] == instruction:
            return known[2]
        asked = [
            part | {"text": self.harmless(part["text"])} if "text" in part else part
            for part in content(example, instruction)
        ]
        said = example.choices, with_choices(example.question, example.choices), example.pictures
        if self.whole is None:
            if example.images:
                raise ValueError(f"question {example.id}: it has images, and {self.model_type} reads none")
            text = self.chat("".join(part["text"] for part in asked), example.system)
            return Encoded(example.id, self.ids_of(text, special=False), {}, *said)
        text = self.chat(asked, example.system)
        # the question's own text can't hold image tokens: only those that the template placed
        placeholder = self.whole.image_token
        image_token = self.tokenizer.convert_ids_to_tokens(self.image_token_id)
        for token, wanted in {image_token: 0, placeholder: len(example.images)}.items():
            if text.count(token) != wanted:
                raise ValueError(f"question {example.id}: its text holds the image token {token}")
        bos = self.tokenizer.bos_token
        special = bos is None or not text.startswith(bos)
        if supports(self.image_processor):
            vision = resize(self.image_processor, example.images) if example.images else {}
            return Encoded(example.id, self.with_places(text, vision, special), vision, *said)
        made = self.own("whole", BREAK in text)(
            text=[text],
            images=[list(example.images)] if example.images else None,
            return_tensors="pt",
            add_special_tokens=special,
            return_mm_token_type_ids=False,
        )
        ids = self.joined(made.pop("input_ids")[0].tolist(), text)
        vision = {name: x for name, x in made.items() if name not in TEXT_INPUTS}
        vision = per_question(self.model_type, vision) if example.images else {}
        return Encoded(example.id, ids, vision, *said)

    def with_places(self, text: str, vision: dict[str, Tensor], special: bool) -> list[int]:
        """The ids of a text, the image token once for each feature of the picture."""
        ids = self.ids_of(text, special)
        if not vision:
            return ids
        counts = iter((vision["image_grid_thw"].prod(-1) // self.image_processor.merge_size**2).tolist())
        return [i for one in ids for i in ([one] * next(counts) if one == self.image_token_id else [one])]

    def ids_of(self, text: str, special: bool) -> list[int]:
        tokenizer = self.own("tokenizer", BREAK in text)
        return self.joined(tokenizer(text, add_special_tokens=special)["input_ids"], text)

    def joined(self, ids: list[int], text: str) -> list[int]:
        """The ids of a text without those of its breaks."""
        if BREAK not in text:
            return ids
        mark = self.own("tokenizer", True).convert_tokens_to_ids(BREAK)
        return [i for i in ids if i != mark]

    def chat(self, content, system: str = "") -> str:
        """`system`: a row's own message, for a template that takes one; --system takes its place."""
        messages = [{"role": "user", "content": content}]
        if system := self.system or (system if system and self.takes_system else ""):
            # in the form of the user's: a template may know one alone
            said = self.harmless(system) if isinstance(content, str) else in_parts(self.harmless(system))
            messages.insert(0, {"role": "system", "content": said})
        return self.filled(messages)

    def filled(self, messages: list[dict]) -> str:
        return self.own("tokenizer").apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def simple(self, *roles: str) -> list[dict]:
        """A conversation in which each says its role."""
        return [{"role": r, "content": r if self.whole is None else in_parts(r)} for r in roles]

    @cached_property
    def takes_system(self) -> bool:
        """Templates may refuse the role, or leave it out in silence."""
        try:
            alone, both = self.filled(self.simple("user")), self.filled(self.simple("system", "user"))
        except Exception:  # noqa: BLE001  templates raise many kinds
            return False
        return both.count("system") > alone.count("system")

    @cached_property
    def control(self) -> list[str]:
        """The tokens that no text of a row may become: special ones, and those that the template writes
        around a question. Those of images are refused (`encode`)."""
        frame, images = self.filled(self.simple("user")), set()
        if self.whole is not None:
            images = {self.whole.image_token, self.tokenizer.convert_ids_to_tokens(self.image_token_id)}
        added = self.tokenizer.added_tokens_decoder.values()
        found = (token.content for token in added if token.special or token.content in frame)
        return [token for token in found if len(token.strip()) > 1 and token not in images]

    def harmless(self, text: str) -> str:
        """A text whose control tokens are broken, so that they are read as what they are made of; any other
        as it is."""
        for token in self.control:
            while token in text:
                text = text.replace(token, token[0] + BREAK + token[1:])
        return text

    def own(self, name: str, breaks: bool = False):
        """The tokenizer or the whole processor, a copy in any thread but the main one. With `breaks` a copy
        that knows BREAK for a token, so that nothing joins what stands before and behind it."""
        if current_thread() is main_thread() and not breaks:
            return getattr(self, name)
        kept = f"{name} of breaks" if breaks else name
        if not hasattr(self.copies, kept):
            mine = copy.deepcopy(getattr(self, name))
            if breaks:
                tokenizer = mine if name == "tokenizer" else mine.tokenizer
                tokenizer.add_tokens([AddedToken(BREAK, normalized=False)], special_tokens=True)
            setattr(self.copies, kept, mine)
        return getattr(self.copies, kept)

    def collate(self, encoded: Sequence[Encoded], device: str | torch.device = "cpu") -> Prompts:
        lengths = torch.tensor([len(e.ids) for e in encoded])
        ids = torch.full((len(encoded), int(lengths.max())), self.pad)
        for row, e in zip(ids, encoded, strict=True):
            row[: len(e.ids)] = torch.tensor(e.ids)
        vision = [{name: x.to(device) for name, x in e.vision.items()} for e in encoded]
        if supports(self.image_processor):
            vision = [to_patches(self.image_processor, v) if v else v for v in vision]
        return Prompts([e.id for e in encoded], ids.to(device), lengths.to(device), vision)

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    @cached_property
    def known(self) -> Tensor:
        """The ids that have a token: there may be gaps between them."""
        return torch.tensor([i for i in self.tokenizer.get_vocab().values() if i < self.vocabulary])

    def banned(self) -> Tensor:
        """[V] bool, never sampled: special tokens but eos, and the padding of the vocabulary."""
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


def in_parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def load_processor(
    path: str, min_pixels: int | None = None, max_pixels: int | None = None, system: str = ""
) -> Processor:
    """A checkpoint's tokenizer and image processor. Raises ModelError, naming what is missing. `system`: what
    its chat template puts before every question; UsageError where it doesn't."""
    from transformers import AutoTokenizer, ProcessorMixin

    config = load_config(path)
    sees, vocabulary = config.model_type in VISION, config.get_text_config().vocab_size
    if Path(path).is_dir() and not any(
        f.name.startswith(("tokenizer", "vocab")) for f in Path(path).iterdir()
    ):
        raise ModelError(f"--model {path}: no tokenizer.json, so no tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        settings = ProcessorMixin.get_processor_dict(path)[0] if sees else {}
        # what the processor says comes first: a decoder's own tokenizer may bring a template that
        # knows no images
        tokenizer.chat_template = chat_template(settings) or tokenizer.chat_template
        image_processor: Any = load_image_processor(path) if sees else None
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
    own = {
        name: value for name, value in settings.items() if name not in ("image_processor", "chat_template")
    }
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
    return with_system(path, processor, system) if system else processor


def with_system(path: str, processor: Processor, system: str) -> Processor:
    """The same that says `system` first: templates may refuse the role, or leave it out in silence."""
    processor, asked = replace(processor, system=system), Example("", (), "?")
    refused = f"--system: the chat template of --model {path} takes no system message"
    try:
        text = processor.chat(content(asked) if processor.whole else "?")
        processor.encode(asked)
    except Exception as error:  # noqa: BLE001  templates raise many kinds
        raise UsageError(f"{refused} or not this one ({first_line(error)}); leave the flag out") from None
    if system.strip() not in text.replace(BREAK, ""):
        raise UsageError(f"{refused}: it leaves it out; put it in --instruction, or leave the flag out")
    return processor


def try_out(path: str, processor: Processor) -> None:
    """Encodes a question, so that what a checkpoint's processor lacks is said when it is loaded."""
    image, token = processor.image_token_id, None
    if image is not None:
        token = processor.tokenizer.convert_ids_to_tokens(image)
        if token is None:
            raise ModelError(
                f"--model {path}: its tokenizer has no token {image}, its config.json's image_token_id"
            )
    try:
        ids = processor.encode(Example("", () if image is None else (Image.new("RGB", (64, 64)),), "?")).ids
    except Exception as error:  # noqa: BLE001  templates, transformers and missing packages raise many kinds
        raise ModelError(f"--model {path}: its processor reads no question ({first_line(error)})") from None
    if image is not None and image not in ids:
        raise ModelError(
            f"--model {path}: its processor writes no {token}, its config.json's image_token_id {image}"
        )


def chat_template(settings: dict) -> str | None:
    """That of a processor, which may have several by name."""
    found = settings.get("chat_template")
    return found.get("default") if isinstance(found, dict) else found


def load_image_processor(path: str):
    """A checkpoint's Pillow image processor, without torchvision (Qwen's: model/pixels.py)."""
    import transformers
    from transformers.image_processing_utils import BaseImageProcessor

    settings, _ = BaseImageProcessor.get_image_processor_dict(path)
    name = str(settings.get("image_processor_type", "")).removesuffix("Fast")
    pillow = getattr(transformers, f"{name}Pil", None)
    if pillow is None:
        raise ImportError(f"no Pillow image processor for {name or 'this checkpoint'} in transformers")
    reading: Any = type(pillow.__name__, (LookupNormalise, pillow), {})
    return reading.from_pretrained(path)


class LookupNormalise:
    """A byte has 256 values, so what an image processor's rescaling and normalising make of them is
    looked up: the same numbers, in a fraction of the time."""

    do_rescale: bool  # of the image processor that this is mixed into, as the next
    do_normalize: bool
    rescale_factor: float

    @property
    def arithmetic(self) -> Any:
        """The image processor's own rescaling and normalising."""
        return super()

    def rescale(self, image, scale, **kwargs):
        later = image.dtype == np.uint8 and self.do_rescale and self.do_normalize
        return image if later else self.arithmetic.rescale(image, scale, **kwargs)

    def normalize(self, image, mean, std, **kwargs):  # [C, H, W]
        if image.dtype != np.uint8 or not self.do_rescale:
            return self.arithmetic.normalize(image, mean, std, **kwargs)
        every = np.broadcast_to(np.arange(256, dtype=np.uint8), (len(image), 1, 256))
        rescaled = self.arithmetic.rescale(every, self.rescale_factor)
        table = self.arithmetic.normalize(rescaled, mean, std)  # [C, 1, 256]
        out = np.empty(image.shape, table.dtype)
        for channel, values, place in zip(image, table, out, strict=True):
            np.take(values[0], channel, out=place, mode="clip")
        return out


def eos_ids(path: str, tokenizer) -> tuple[int, ...]:
    """The ids that end a response: generation_config's, else the config's, else the tokenizer's."""
    from transformers import GenerationConfig, PreTrainedConfig

    found = None
    stated, _ = PreTrainedConfig.get_config_dict(path)  # config itself may have dropped some of it
    for generation in (generation_config(path), GenerationConfig.from_model_config(stated)):
        found = found if found is not None or generation is None else generation.eos_token_id
    found = found if found is not None else tokenizer.eos_token_id
    if found is None:
        return ()
    return tuple(found) if isinstance(found, (list, tuple)) else (found,)
