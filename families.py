"""What differs between model families, and nothing else: where the decoder sits, how images enter, how positions are made."""

import torch
from torch import Tensor

from vision import lean_vision

SERVED = ("qwen2_5_vl",)  # model types that the tests show to be served


def text_model(model) -> torch.nn.Module:
    """The decoder over embeddings, without vision tower and head."""
    return model.model.language_model


def embed(model, ids: Tensor, prompts) -> Tensor:
    """ids [N, S] -> embeddings [N, S, D], image features in place of the image tokens (row by row, in order)."""
    embeddings = model.get_input_embeddings()(ids)
    if prompts.pixel_values is None:
        return embeddings
    # .visual is called through get_image_features, which also splits and orders the features
    with lean_vision(model):
        features = model.get_image_features(prompts.pixel_values, prompts.image_grid_thw)
    features = torch.cat(tuple(features.pooler_output)).to(embeddings.dtype)
    return embeddings.masked_scatter((ids == model.config.image_token_id)[..., None], features)


def rope_positions(model, prompts) -> Tensor:
    """Rotary positions of the prompt tokens, [3, P, L]: time, height and width for image tokens, all equal for text."""
    mask = torch.arange(prompts.ids.shape[1], device=prompts.ids.device) < prompts.lengths[:, None]
    if prompts.image_grid_thw is None:
        return (mask.long().cumsum(-1) - 1).clamp(min=0).expand(3, -1, -1)
    image_tokens = (prompts.ids == model.config.image_token_id).int()
    # without the token types transformers falls back to one-dimensional positions, silently
    return model.model.get_rope_index(
        prompts.ids, mm_token_type_ids=image_tokens, image_grid_thw=prompts.image_grid_thw, attention_mask=mask.int()
    )[0]


def rope_table(model, positions: Tensor) -> tuple[Tensor, Tensor]:
    """positions [A, S] of text tokens -> (cos, sin), [A, S, d] each."""
    like = model.get_input_embeddings().weight.new_empty(0)
    cos, sin = text_model(model).rotary_emb(like, positions.expand(3, -1, -1))
    # for text the positions in time, height and width are one and the same
    return (cos[0], sin[0]) if cos.ndim == 4 else (cos, sin)
