"""The Qwen-VL family's vision tower, faster: the same weights, the same numbers up to rounding.

    with lean_vision(model): features = model.get_image_features(...)

transformers calls attention once per window and rotates queries and keys in a dozen operations.
Here windows of one length are one call, the rotation is three operations, and the convolution over
patches is the matrix product that it is, of one frame where a picture would be a video of equal
ones.

Left out: towers of other families, which stay as they are.
"""

from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from model.batch import Model

# classes whose forward `attention` stands for
ATTENTIONS = ("VisionAttention", "Qwen2_5_VLVisionAttention", "Qwen3VLVisionAttention")
# `embed_patches`, likewise
PATCH_EMBEDDINGS = ("PatchEmbed", "Qwen2_5_VisionPatchEmbed", "Qwen3VLVisionPatchEmbed")


@contextmanager
def lean_vision(model: Model):
    """Replaces the forwards within this block only: outside it the model is transformers'."""
    windows = Windows()
    replaced = [
        (m, partial(attention, m, windows)) for m in model.modules() if type(m).__name__ in ATTENTIONS
    ]
    replaced += [
        (m, partial(embed_patches, m)) for m in model.modules() if type(m).__name__ in PATCH_EMBEDDINGS
    ]
    for module, forward in replaced:
        module.forward = forward
    try:
        yield
    finally:
        for module, _ in replaced:
            del module.forward


def embed_patches(module, x: Tensor) -> Tensor:
    """x [n, channels * frames * patch * patch], patches already cut, or [n, channels * patch *
    patch] where all frames are the same -> [n, D]."""
    weight, bias = module.proj.weight, module.proj.bias  # [D, channels, frames, patch, patch]
    if x.shape[1] < weight[0].numel():
        weight = weight.sum(2)
    return F.linear(x.to(weight.dtype), weight.flatten(1), bias)


class Windows:
    """Lengths of windows, read from the device once for all layers that are given the same tensor."""

    def __init__(self):
        self.read: list[tuple[Tensor, list[int]]] = []

    def lengths(self, cu_seqlens: Tensor) -> list[int]:
        for seen, lengths in self.read:
            if seen is cu_seqlens:
                return lengths
        self.read.append((cu_seqlens, cu_seqlens.diff().tolist()))
        return self.read[-1][1]


def attention(
    module,
    windows: Windows,
    x: Tensor,
    cu_seqlens: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    **kwargs,
) -> Tensor:
    """x [N, D], windows one after the other -> [N, D]. cu_seqlens [windows + 1]."""
    qkv = module.qkv(x).unflatten(1, (3, module.num_heads, -1))  # [N, 3, heads, d]
    cos, sin = (part.float()[:, None, None] for part in position_embeddings)  # [N, 1, 1, d]
    qk, v = rotate(qkv[:, :2].float(), cos, sin).to(x.dtype), qkv[:, 2]
    out = by_windows(qk[:, 0], qk[:, 1], v, windows.lengths(cu_seqlens), module.scaling)
    return module.proj(out.flatten(1))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x cos + rotate_half(x) sin; the sign of the half that is negated is moved into sin."""
    half = x.shape[-1] // 2
    sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)
    return torch.addcmul(x * cos, torch.cat([x[..., half:], x[..., :half]], -1), sin)


def by_windows(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], scale: float) -> Tensor:
    """[N, heads, d] each, windows in a row -> [N, heads, d]. One call for each length."""
    kinds = sorted(set(lengths))
    order = None
    if len(kinds) > 1:
        of_patch = torch.tensor(lengths).repeat_interleave(torch.tensor(lengths))
        order = torch.argsort(of_patch, stable=True).to(q.device)
        q, k, v = (x.index_select(0, order) for x in (q, k, v))
    counts = [length * lengths.count(length) for length in kinds]
    outs = []
    for length, *parts in zip(kinds, *(x.split(counts) for x in (q, k, v)), strict=True):
        # [windows, heads, length, d]
        query, key, value = (x.unflatten(0, (-1, length)).transpose(1, 2) for x in parts)
        out = F.scaled_dot_product_attention(query, key, value, scale=scale)
        outs.append(out.transpose(1, 2).flatten(0, 1))
    out = torch.cat(outs) if len(outs) > 1 else outs[0]
    return out if order is None else torch.empty_like(out).index_copy(0, order, out)
