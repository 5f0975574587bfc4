"""What differs between model families, and nothing else: where the decoder sits, how images enter,
how positions are made, which prompt tokens see each other.

A family is served where its vision model is in VISION and its decoder in DECODERS; a checkpoint
without images needs the latter alone. Everything else is refused when it is loaded, see `refusal`.
"""

import inspect
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import ModelError
from model.batch import Model, Prompts
from model.pixels import with_frames
from model.vision import lean_vision

# model type -> transformers' class that puts questions into its words. SmolVLM's own wants a
# package that only its videos use; what it writes for pictures is Idefics3's
VISION = {
    "qwen2_vl": "Qwen2VLProcessor",
    "qwen2_5_vl": "Qwen2_5_VLProcessor",
    "qwen3_vl": "Qwen3VLProcessor",
    "internvl": "InternVLProcessor",
    "llava_onevision": "LlavaOnevisionProcessor",
    "gemma3": "Gemma3Processor",
    "idefics3": "Idefics3Processor",
    "smolvlm": "Idefics3Processor",
}
ROPE_IN_3D = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")  # rotary positions in time, height and width
# features of several depths of the vision tower reach the decoder's first layers
DEEP_FEATURES = ("qwen3_vl",)
BLOCKS = ("gemma3",)  # the tokens of an image see each other in both directions
TEXT_DECODERS = ("qwen2", "qwen3", "llama", "gemma3_text")  # also checkpoints of their own
DECODERS = (*TEXT_DECODERS, "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text")
# the same for every length of sequence
STATIC_ROPE = ("default", "linear", "llama3", "yarn", "mrope", "proportional")


def refusal(config) -> str | None:
    """Why a checkpoint of this configuration can't be served; None where it can."""
    text = config.get_text_config()
    if config.model_type not in VISION and (config.model_type not in DECODERS or text is not config):
        return f"{config.model_type} is not served; served are {', '.join([*VISION, *TEXT_DECODERS])}"
    if getattr(config, "quantization_config", None):
        return "quantised weights are not served"
    if text.model_type not in DECODERS:
        return f"its decoder is {text.model_type}, which is not served; served are {', '.join(DECODERS)}"
    if "sliding_attention" in (getattr(text, "layer_types", None) or ()) and text.model_type != "gemma3_text":
        return f"{text.model_type} with sliding windows is not served"
    if getattr(text, "use_bidirectional_attention", None):
        return "a decoder that reads ahead is not served"
    for name in ("final_logit_softcapping", "attn_logit_softcapping"):
        if getattr(text, name, None):
            return f"{name} is not served"
    rope = getattr(text, "rope_parameters", None) or {}
    for one in rope.values() if "rope_type" not in rope else [rope]:
        kind = one.get("rope_type", "default") if isinstance(one, dict) else "default"
        if kind not in STATIC_ROPE:
            return f"rotary embeddings of type {kind} are not served"
    return None


# --- Questions ------------------------------------------------------------------------------------


def compose_processor(model_type: str, tokenizer, image_processor, settings: dict):
    """transformers' processor of a family, without its video part: that wants torchvision.

    `settings`: what processor_config.json says; of it, what the class takes.
    """
    import transformers

    cls = getattr(transformers, VISION[model_type])
    parts = {"image_processor": image_processor, "tokenizer": tokenizer}
    known = inspect.signature(cls.__init__).parameters
    taken = known.keys() - {*parts, "video_processor"}
    own = {name: value for name, value in settings.items() if name in taken}
    if "video_processor" in known:
        own["video_processor"] = None
    reduced = type(cls.__name__, (cls,), {"get_attributes": classmethod(lambda _: list(parts))})
    return reduced(**parts, **own)


def per_question(model_type: str, vision: dict[str, Tensor]) -> dict[str, Tensor]:
    """One question's vision tensors, such that those of several join along the first axis."""
    # [images, tiles, ..]; several tiles only where there is one image
    if model_type == "llava_onevision":
        return vision | {"pixel_values": vision["pixel_values"].flatten(0, 1)}
    if model_type in ("idefics3", "smolvlm"):  # [1, tiles, ..]
        return {name: x[0] for name, x in vision.items()}
    return vision


def image_inputs(model: Model, prompts: Prompts, lean: bool = True) -> dict[str, Tensor] | None:
    """What get_image_features takes, for the images of all prompts in order; None where there are
    none. `lean`: under lean_vision, else from transformers' own forward."""
    vision = [v for v in prompts.vision if v]
    if not vision:
        return None
    joined = {name: torch.cat([v[name] for v in vision]) for name in vision[0]}
    if not lean and model.config.model_type in ROPE_IN_3D:
        tower = model.config.vision_config
        # one frame of each patch: see model/pixels.py
        if joined["pixel_values"].shape[1] == 3 * tower.patch_size**2:
            joined["pixel_values"] = with_frames(joined["pixel_values"], tower.temporal_patch_size)
    joined = {name: x.to(model.dtype) if x.is_floating_point() else x for name, x in joined.items()}
    if model.config.model_type in ("idefics3", "smolvlm"):
        joined = {name: x[None] for name, x in joined.items()}
    return joined


def blank_image(model: Model) -> dict[str, Tensor]:
    """The smallest picture that the family's vision tower takes, as `image_inputs` gives it."""
    kind, vision = model.config.model_type, model.config.vision_config
    like = dict(dtype=model.dtype, device=model.device)
    if kind in ROPE_IN_3D:
        m = vision.spatial_merge_size
        patches = torch.ones(
            m * m, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2, **like
        )
        return {"pixel_values": patches, "image_grid_thw": torch.tensor([[1, m, m]], device=model.device)}
    size = vision.image_size
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    picture = torch.ones(1, 3, height, width, **like)
    if kind in ("idefics3", "smolvlm"):
        return {"pixel_values": picture[None]}
    if kind == "llava_onevision":  # one of two pictures in a question is not cut into tiles
        sizes = torch.tensor([[height, width]] * 2, device=model.device)
        pictures = picture.expand(2, -1, -1, -1)
        return {"pixel_values": pictures, "image_sizes": sizes, "batch_num_images": sizes.new_tensor([2])}
    return {"pixel_values": picture}


# --- The model ------------------------------------------------------------------------------------


def product_dtype(model: Model) -> torch.dtype:
    """Of matrix products, which may be narrower than that of the weights."""
    return getattr(model, "compute_dtype", model.dtype)


def window_of(model: Model) -> int | None:
    """Tokens that a layer with a sliding window reads; None where no layer has one."""
    text = model.config.get_text_config()
    return text.sliding_window if "sliding_attention" in (getattr(text, "layer_types", None) or ()) else None


def text_model(model: Model) -> Model:
    """The decoder over embeddings, without vision tower and head."""
    return next(
        (getattr(model.model, n) for n in ("language_model", "text_model") if hasattr(model.model, n)),
        model.model,
    )


def vision_parameters(model: Model) -> list[torch.nn.Parameter]:
    """Of the vision tower and the projector: all that is neither decoder nor head."""
    others = {id(p) for part in (text_model(model), model.get_output_embeddings()) for p in part.parameters()}
    return [p for p in model.parameters() if id(p) not in others]


def embed(model: Model, ids: Tensor, prompts: Prompts) -> dict:
    """ids [N, S] -> what the decoder reads: embeddings [N, S, D] with image features in place of
    the image tokens (row by row, in order), and what the family gives its layers besides."""
    embeddings = model.get_input_embeddings()(ids)
    inputs = image_inputs(model, prompts)
    # a sharded vision tower is gathered by all processes together: one without pictures reads a blank one
    idle = inputs is None and getattr(model, "in_step", False) and model.config.model_type in VISION
    if idle:
        inputs = blank_image(model)
    if inputs is None:
        return {"inputs_embeds": embeddings}
    with lean_vision(model):
        found = model.model.get_image_features(**inputs)
    deep = [flat(x) for x in getattr(found, "deepstack_features", None) or ()]
    features = flat(found.pooler_output)
    if idle:
        nothing = torch.stack([x.float().sum() for x in (features, *deep)]).sum() * 0
        return {"inputs_embeds": embeddings + nothing.to(embeddings.dtype)}
    here = ids == model.config.image_token_id
    # masked_scatter would pass over features too many
    if (tokens := int(here.sum())) != len(features):
        raise ModelError(
            f"--model: its processor writes {tokens} image tokens where the model has {len(features)} image "
            "features: processor_config.json or image_token_id in config.json is of another model"
        )
    embeddings = embeddings.masked_scatter(here[..., None], features.to(embeddings.dtype))
    if not deep:
        return {"inputs_embeds": embeddings}
    # features of earlier vision layers, added to what the first decoder layers give
    return {"inputs_embeds": embeddings, "visual_pos_masks": here, "deepstack_visual_embeds": deep}


def flat(features) -> Tensor:
    """Image features as one [tokens, D], also of a list of those or of [tiles, tokens, D]."""
    if isinstance(features, Tensor):
        return features.flatten(0, -2)
    return torch.cat([x.flatten(0, -2) for x in features])


def rope_positions(model: Model, prompts: Prompts) -> Tensor:
    """Rotary positions of the prompt tokens, [A, P, L]. A is 1, or 3: time, height, width."""
    mask = torch.arange(prompts.ids.shape[1], device=prompts.ids.device) < prompts.lengths[:, None]
    in_order = (mask.long().cumsum(-1) - 1).clamp(min=0)[None]
    if model.config.model_type not in ROPE_IN_3D:
        return in_order
    grids = [v["image_grid_thw"] for v in prompts.vision if v]
    if not grids:
        return in_order.expand(3, -1, -1)
    # without the token types transformers falls back to one-dimensional positions, silently
    kinds, grid = (prompts.ids == model.config.image_token_id).int(), torch.cat(grids)
    return model.model.get_rope_index(
        prompts.ids, mm_token_type_ids=kinds, image_grid_thw=grid, attention_mask=mask.int()
    )[0]


def with_positions(model: Model, prompts: Prompts) -> Prompts:
    """With what the model says of them: rotary positions, and which image tokens see each other."""
    if prompts.positions is not None:
        return prompts
    return replace(prompts, positions=rope_positions(model, prompts), blocks=image_blocks(model, prompts))


def position_ids(model: Model, positions: Tensor) -> Tensor:
    """positions [A, N, S] as the family's decoder takes them."""
    return positions.expand(3, -1, -1) if model.config.model_type in ROPE_IN_3D else positions[0]


def image_blocks(model: Model, prompts: Prompts) -> Tensor | None:
    """[P, L]: for each prompt token the number of its image, -1 for text, where the tokens of an
    image see each other in both directions; None elsewhere."""
    if model.config.model_type not in BLOCKS:
        return None
    here = prompts.ids == model.config.image_token_id
    # two images never touch: tokens of their own stand around each
    first = here & ~F.pad(here, (1, 0))[:, :-1]
    return (first.long().cumsum(-1) - 1).masked_fill(~here, -1) if bool(here.any()) else None


def no_mask(model: Model) -> Tensor:
    """An attention mask that says nothing, since packed_attention.py knows what reads what. A mask
    of four axes is passed on as it is; without any, transformers would look for sequences in the
    positions and build one."""
    return torch.empty(1, 1, 1, 0, device=model.device)


def rope_table(model: Model, positions: Tensor) -> tuple[Tensor, Tensor]:
    """positions [A, N, S] -> (cos, sin), [N, S, d] each."""
    like = model.get_input_embeddings().weight.new_empty(0)
    found = text_model(model).rotary_emb(like, position_ids(model, positions))
    if found[0].ndim == 3:
        return found
    # earlier versions of transformers leave the axes (time, height, width) to be put together by
    # sections of d
    sections = model.config.get_text_config().rope_parameters["mrope_section"] * 2
    cos, sin = (torch.cat([m[i % 3] for i, m in enumerate(x.split(sections, -1))], -1) for x in found)
    return cos, sin
