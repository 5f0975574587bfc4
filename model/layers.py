"""The decoder's layers in few calls: query, key and value from one product, gate and up from one.

    fused_layers(model)          the weights of a decoder of the standard make, None of another
    forward_packed(model, ..)    a flat row of sequences through them, or through the decoder's forward

Letters: N tokens, D width, H key/value heads, R query heads for each of them, d width of a head, A
axes of positions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.decode_pointwise import add_norm, rotate_and_store, silu_product
from model.batch import Model, Prompts
from model.families import embed, no_mask, position_ids, product_dtype, rope_table, text_model
from model.kv_cache import KVCache, by_kernel
from model.packed_attention import Layout, packed_attention


class Linear(NamedTuple):
    """x W^T + b, and where an adapter stands beside W, + (x low^T) high."""

    weight: Tensor  # [out, in]
    bias: Tensor | None = None
    low: Tensor | None = None  # [r, in]
    high: Tensor | None = None  # [r, out]


@dataclass(frozen=True)
class Layer:
    """The weights of one decoder layer; those that read the same input stand in one matrix."""

    norm_in: Callable
    qkv: Linear  # [(H*R + 2 H) d, D] and bias
    norm_query: Any  # module or None
    norm_key: Any
    out: Linear
    norm_mlp: Callable
    gate_up: Linear
    down: Linear
    act: Callable
    scale: float
    head: int  # d
    key_heads: int  # H


def is_standard_layer(layer) -> bool:
    """Whether a decoder layer is the standard one: x + attention(norm(x)), then x +
    down(act(gate(norm(x))) * up(norm(x)))."""
    children = {name: {n for n, _ in part.named_children()} for name, part in layer.named_children()}
    attention, mlp = children.get("self_attn", set()), children.get("mlp", set())
    return (
        children.keys() == {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
        and {"q_proj", "k_proj", "v_proj", "o_proj"} <= attention
        and attention <= {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm", "rotary_emb"}
        and mlp == {"gate_proj", "up_proj", "down_proj", "act_fn"}
        and getattr(layer.self_attn, "sliding_window", None) is None
        and all(hasattr(m, "variance_epsilon") for n, m in layer.named_modules() if n.endswith("norm"))
        and all(type(m) is torch.nn.Linear for n, m in layer.named_modules() if n.endswith("_proj"))
    )


COLOCATED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # linear maps of one input


def together(layer) -> list[list[torch.nn.Linear]]:
    parts = layer.self_attn, layer.mlp
    return [[getattr(part, name) for name in names] for part, names in zip(parts, COLOCATED, strict=True)]


@torch.no_grad()
def colocate_qkv_gate_up(model: Model) -> None:
    """Puts the weights that are multiplied together next to each other in memory, where they are
    not, so that one matrix can be a view of them. They stay separate parameters to everything else,
    and training them in place trains the view."""
    for layer in filter(is_standard_layer, text_model(model).layers):
        for linears in together(layer):
            for name in ("weight", "bias"):
                parts = [getattr(linear, name) for linear in linears]
                if all(p is not None for p in parts) and view_of(parts) is None:
                    whole = torch.cat(parts)
                    for p, rows in zip(parts, whole.split([len(p) for p in parts]), strict=True):
                        p.data = rows


def joined(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """The parts as one tensor of `dtype`: a view where they lie side by side, a copy elsewhere."""
    if parts[0].dtype == dtype and (view := view_of(parts)) is not None:
        return view
    return torch.cat([p.detach().to(dtype) for p in parts])


def view_of(parts: Sequence[Tensor]) -> Tensor | None:
    """The parts as one tensor, where they lie side by side in memory."""
    first, end = parts[0].detach(), parts[0].data_ptr()
    for p in parts:
        one_block = p.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if p.dtype != first.dtype or p.data_ptr() != end or not (one_block and p.is_contiguous()):
            return None
        end += p.numel() * p.element_size()
    return first.as_strided((sum(len(p) for p in parts), *first.shape[1:]), first.stride())


def linear_of(linears: Sequence[torch.nn.Linear], dtype: torch.dtype) -> Linear:
    """Several that read one input as one, with what peft put on them (model/lora.py): merged in
    float32; beside W in a narrower dtype, where W + BA would mostly round to W."""
    biases = [m.bias for m in linears if m.bias is not None]
    bias = joined(biases, dtype) if len(biases) == len(linears) else None
    adapted = any(map(is_adapted, linears))
    if adapted and dtype.itemsize < 4:
        return Linear(joined([m.weight for m in linears], dtype), bias, *adapter_of(linears, dtype))
    return Linear(joined([weight_of(m) for m in linears], dtype), bias)


def is_adapted(linear) -> bool:
    return type(linear) is not torch.nn.Linear and not linear.disable_adapters


def weight_of(linear) -> Tensor:
    """Its weight; with the adapter's part where there is one and it is on."""
    if not is_adapted(linear):
        return linear.weight
    return linear.weight.float() + sum(linear.get_delta_weight(name) for name in linear.active_adapters)


def adapter_of(linears, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Their A below one another, [r, in], r being the sum of ranks, and their scaled B^T, [r, out],
    each in its own rows and columns and zero elsewhere."""
    lows, highs = [], []
    for m in linears:
        names = m.active_adapters if is_adapted(m) else ()
        lows += [m.lora_A[name].weight.detach() for name in names]
        high = [m.scaling[name] * m.lora_B[name].weight.detach().t() for name in names]
        highs.append(torch.cat(high) if high else m.weight.new_empty(0, m.out_features))
    return torch.cat(lows).to(dtype), torch.block_diag(*highs).to(dtype)


def uses_fused_layers(model: Model) -> bool:
    """Whether `fused_layers` serve: see model/fused_check.py."""
    return getattr(model, "standard_decoder", False)


def fused_layers(model: Model) -> list[Layer] | None:
    """The decoder's layers in the compute dtype, or None where it is of another make."""
    if not uses_fused_layers(model):
        return None
    if getattr(model, "whole_layers", None):  # gathered from all processes: see model/sharding.py
        return model.whole_layers
    return [layer_of(layer, product_dtype(model)) for layer in text_model(model).layers]


def layer_of(layer, dtype: torch.dtype) -> Layer:
    """The weights of a standard layer; views of them where they lie and are as they shall be."""
    attention, mlp = layer.self_attn, layer.mlp
    qkv, gate_up = (linear_of(linears, dtype) for linears in together(layer))
    return Layer(
        norm_in=rms_norm(layer.input_layernorm),
        qkv=qkv,
        norm_query=getattr(attention, "q_norm", None),
        norm_key=getattr(attention, "k_norm", None),
        out=linear_of([attention.o_proj], dtype),
        norm_mlp=rms_norm(layer.post_attention_layernorm),
        gate_up=gate_up,
        down=linear_of([mlp.down_proj], dtype),
        act=F.silu if type(mlp.act_fn).__name__ in ("SiLU", "SiLUActivation") else mlp.act_fn.forward,
        scale=attention.scaling,
        head=attention.head_dim,
        key_heads=attention.k_proj.out_features // attention.head_dim,
    )


def rms_norm(module) -> Callable:
    """An RMS norm in few calls; one of another kind would fail the check at loading."""
    weight, share = module.weight, 1 / module.weight.numel()
    if by_kernel(weight.device):
        return KernelNorm(weight, module.variance_epsilon)
    # PyTorch's own is a dozen operations on a CPU
    eps = torch.full((1,), module.variance_epsilon, device=weight.device)

    def norm(x: Tensor) -> Tensor:  # x / sqrt(mean(x^2) + eps) * weight
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scaled = x * torch.addcmul(eps, length, length, value=share).rsqrt_()
        return (scaled if scaled.dtype == x.dtype else scaled.to(x.dtype)) * weight

    return norm


@dataclass(frozen=True)
class KernelNorm:
    """An RMS norm that a kernel can take together with the addition before it."""

    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def gated(act: Callable, gate_up: Tensor) -> Tensor:
    """gate and up in one, [N, 2 F] -> act(gate) * up"""
    if act is F.silu and by_kernel(gate_up.device):
        return silu_product(gate_up)
    gate, up = gate_up.chunk(2, -1)
    return act(gate).mul_(up)


class Rows(Protocol):
    """Rows of tokens that know their keys: a packed row of whole sequences, or the newest tokens."""

    def __len__(self) -> int: ...

    def attend(self, i: int, layer: Layer, qkv: Tensor) -> Tensor: ...


def run_layers(layers: list[Layer], x: Tensor, batches: Sequence["Rows"]) -> Tensor:
    """x [N, D], embedded newest tokens -> [N, D] before the last norm. Takes x's memory.

    Where products run in a narrower dtype than the weights', autocast is on around this: x stays in
    the wider one.
    """
    rows = [len(batch) for batch in batches]
    normed = layers[0].norm_in(x)
    for i, (layer, following) in enumerate(zip(layers, [*layers[1:], None], strict=True)):
        qkv = linear(normed, layer.qkv)
        pieces = qkv.split(rows) if len(batches) > 1 else [qkv]
        read = [batch.attend(i, layer, piece) for batch, piece in zip(batches, pieces, strict=True)]
        y = read[0] if len(read) == 1 else torch.cat(read)
        x, normed = plus_linear(x, y, layer.out, layer.norm_mlp)
        y = gated(layer.act, linear(normed, layer.gate_up))
        x, normed = plus_linear(x, y, layer.down, following.norm_in if following else None)
    return x


def rotated_heads(layer: Layer, qkv: Tensor, rotation: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """qkv [N, (H*R + 2 H) d], rotation [N, 1, d] twice -> q [N, H*R, d], k and v [N, H, d]"""
    d, H, (cos, sin) = layer.head, layer.key_heads, rotation
    heads = qkv.view(qkv.shape[0], -1, d)  # [N, H*R + 2 H, d]
    rotated, value = heads[:, :-H], heads[:, -H:]
    if layer.norm_query is not None and layer.norm_key is not None:
        rotated = torch.cat([layer.norm_query(rotated[:, :-H]), layer.norm_key(rotated[:, -H:])], 1)
    # rolled by half a head, its halves change places
    rotated = torch.addcmul(rotated * cos, rotated.roll(d // 2, -1), sin)
    rotated = rotated if rotated.dtype == value.dtype else rotated.to(value.dtype)
    return rotated[:, :-H], rotated[:, -H:], value


def rope_tables(cos: Tensor, sin: Tensor) -> Tensor:
    """[.., d] each -> [.., 2 d], for x cos + rotate_half(x) sin: the sign of the half that is
    negated is moved into sin."""
    half = sin.shape[-1] // 2
    return torch.cat([cos, -sin[..., :half], sin[..., half:]], -1)


class PackedRow:
    """A flat row of whole sequences, all tokens at once, in the place of a batch."""

    def __init__(self, rotation: Sequence[Tensor], layout: Layout, cache: KVCache | None):
        """rotation [N, 1, d] twice"""
        self.rotation, self.layout, self.cache = rotation, layout, cache

    def __len__(self) -> int:
        return len(self.rotation[0])

    def attend(self, i: int, layer: Layer, qkv: Tensor) -> Tensor:
        """qkv [N, (H*R + 2 H) d] -> [N, H*R*d]"""
        query, key, value = rotated_heads(layer, qkv, self.rotation)
        if self.cache is not None:
            self.cache.store_prompt(key, value)
        return packed_attention(query, key, value, self.layout, layer.scale).flatten(1)


def rotation_of(model: Model, positions: Tensor) -> Sequence[Tensor]:
    """positions [A, 1, N] -> [N, 1, d] twice"""
    return rope_tables(*rope_table(model, positions))[0][:, None].chunk(2, -1)


class CachedRows:
    """The newest token of every row of a cache, in the place of a batch."""

    def __init__(self, cache: KVCache, rotation: Sequence[Tensor]):
        """rotation [N, 1, d] twice"""
        self.cache, self.rotation = cache, rotation

    def __len__(self) -> int:
        return len(self.cache)

    def attend(self, i: int, layer: Layer, qkv: Tensor) -> Tensor:
        """qkv [N, (H*R + 2 H) d] -> [N, H*R*d]"""
        if not self.cache.by_kernel:
            return self.cache.attend(i, *rotated_heads(layer, qkv, self.rotation), layer.scale)
        cos, sin = (x[:, 0] for x in self.rotation)
        own_key, own_value = self.cache.own[i]
        query = rotate_and_store(qkv, cos, sin, own_key, own_value, self.cache.slot, head_norms(layer))
        return self.cache.read(i, query, layer.scale)


def head_norms(layer: Layer) -> tuple[Tensor, Tensor, float, float] | None:
    """As rotate_and_store takes them."""
    query, key = layer.norm_query, layer.norm_key
    if query is None or key is None:
        return None
    return query.weight, key.weight, query.variance_epsilon, key.variance_epsilon


def forward_packed(
    model: Model,
    layers: list[Layer] | None,
    ids: Tensor,
    prompts: Prompts,
    positions: Tensor,
    layout: Layout,
    cache: KVCache | None = None,
) -> Tensor:
    """A flat row of whole sequences, ids [1, N] and positions [A, 1, N] -> [N, D] after the last
    norm; the keys of prompts go to `cache`. Through `layers` without gradient, where they are
    given; else through the decoder's own forward."""
    inputs = embed(model, ids, prompts)
    # nothing but embeddings: no features for later layers
    if layers is not None and len(inputs) == 1:
        row = PackedRow(rotation_of(model, positions), layout, cache)
        return rms_norm(text_model(model).norm)(run_layers(layers, inputs["inputs_embeds"][0], [row]))
    return text_model(model)(
        **inputs,
        position_ids=position_ids(model, positions),
        attention_mask=no_mask(model),
        use_cache=False,
        layout=layout,
        caches=None if cache is None else [cache],
    ).last_hidden_state[0]


def linear(x: Tensor, of: Linear) -> Tensor:
    """x [N, in] -> [N, out]"""
    y = F.linear(x, of.weight, of.bias)
    if of.low is None or of.high is None:
        return y
    return y.addmm_(F.linear(x, of.low), of.high)


def plus_linear(x: Tensor, y: Tensor, of: Linear, norm: Callable | None) -> tuple[Tensor, Tensor]:
    """x + linear(y), in place where it can be, and its norm where there is one; x's dtype may be wider
    than the product's."""
    if isinstance(norm, KernelNorm):
        product = linear(y, of)
        return x, add_norm(x, product, norm.weight, norm.eps, product.dtype)
    if of.bias is None and of.low is None and x.dtype == y.dtype == of.weight.dtype:
        x = x.addmm_(y, of.weight.t())
    else:
        x = x + linear(y, of)
    return x, x if norm is None else norm(x)
