"""Whether the fused layers (layers.py) compute what a decoder's own do: asked once, at loading.

    fused_matches_reference(model)           of a whole model
    layer_matches(call, rotation, dtype)     of one layer, whose weights alone must be at hand

Each layer is asked on its own, of a made-up input: what 28 layers make of bfloat16's rounding is
more than a real difference in one of them may be. Two rules, where f is the fused layer, g the
decoder's own, g32 the same in float32, x the input, and |.| the norm of one token:

    in float32      |f - g| <= 1e-3 |g - x| + 1e-6 |g|, for every token
    in bfloat16     |f - g32| / |g32 - x|, root mean square over tokens, is at most 4 times that of g

So rounding is measured by what it does to the decoder's own layer, and whatever else differs shows
in float32, however small the weights. What stands around the layers is asked once: the first must
be given the embeddings, each later one what the one before it gave, the last norm what the last
layer gave, and nothing may come after.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from model.batch import Model, Prompts
from model.families import product_dtype, text_model, with_positions
from model.kv_cache import KVCache
from model.layers import (
    CachedRows,
    Layer,
    PackedRow,
    forward_packed,
    is_standard_layer,
    layer_of,
    rms_norm,
    rotation_of,
    run_layers,
)
from model.packed_attention import Layout, Sequences

TOKENS = 7  # the last of them as a decode step
SHARE, ROUNDING = 1e-3, 1e-6  # of what a layer adds, of what it gives
# than the rounding of the decoder's own layer: between 0.95 and 1.1, where softmax is sharp 0.5 to 1.8
WORSE = 4.0


@torch.inference_mode()  # in which autocast keeps no copies of weights
def fused_matches_reference(model: Model) -> bool:
    """Whether `fused_layers` step as the decoder's own forward does."""
    decoder, head, device = text_model(model), model.get_output_embeddings(), model.device
    if not all(map(is_standard_layer, decoder.layers)) or type(head) is not torch.nn.Linear:
        return False
    ids = torch.arange(1, TOKENS + 1, device=device)[None]
    prompts = with_positions(model, Prompts(["tried"], ids, torch.tensor([TOKENS], device=device), [{}]))
    axes = torch.arange(1, len(prompts.rope) + 1, device=device)[:, None, None]
    positions = prompts.rope * axes  # [A, 1, N]: axes that change places would show
    layout = Layout(Sequences(prompts.lengths))
    with Calls([*decoder.layers, decoder.norm]) as calls:
        hidden = forward_packed(model, None, ids, prompts, positions, layout)
    if [call.module for call in calls.made] != calls.modules:
        return False
    given = [*(call.x for call in calls.made), hidden]
    before = [model.get_input_embeddings()(ids), *(call.out for call in calls.made)]
    if not all(torch.equal(x.flatten(), y.flatten()) for x, y in zip(given, before, strict=True)):
        return False
    rotation, dtype = rotation_of(model, positions), product_dtype(model)
    *layers, _ = calls.made
    return norm_matches(decoder.norm) and all(layer_matches(call, rotation, dtype) for call in layers)


@dataclass(frozen=True)
class Call:
    """What a module was given, x [1, N, D] before all else, and what it gave."""

    module: Any
    x: Tensor
    args: tuple
    kwargs: dict
    out: Tensor

    def again(self, module, x: Tensor) -> Tensor:
        """The same call of such a module, for another x [N, D] -> [N, D]"""
        args, kwargs = tree_map(
            lambda a: a.to(x.dtype) if torch.is_tensor(a) and a.is_floating_point() else a,
            (self.args, self.kwargs),
        )
        return first(module.forward(x[None], *args, **kwargs))[0]


class Calls:
    """The calls of some modules within a block, in order."""

    def __init__(self, modules: list):
        self.modules, self.made = modules, list[Call]()

    def __enter__(self) -> "Calls":
        self.hooks = [m.register_forward_hook(self.record, with_kwargs=True) for m in self.modules]
        return self

    def record(self, module, args, kwargs, out) -> None:
        x, *others = args or (kwargs["hidden_states"],)
        kwargs = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        self.made.append(Call(module, x, tuple(others), kwargs, first(out)))

    def __exit__(self, *_) -> None:
        for hook in self.hooks:
            hook.remove()


def first(out) -> Tensor:
    """The hidden states: earlier versions of transformers give a tuple."""
    return out[0] if isinstance(out, tuple) else out


def made_up(like: Tensor) -> Tensor:
    """[TOKENS, D] float32, such that `like`'s dtype holds it: every second token so small that an
    epsilon shows."""
    x = torch.randn(TOKENS, len(like), generator=torch.Generator().manual_seed(0))
    x[1::2] *= 2**-10
    return x.to(like).float()


def exact_copy(module):
    """The module in float32: itself where it is."""
    return module if next(module.parameters()).dtype == torch.float32 else deepcopy(module).float()


def is_close(found: Tensor, wanted: Tensor, x: Tensor | None = None) -> bool:
    """The rule of float32, [N, D] each. `x`: the input, where it is part of what is given."""
    added = wanted if x is None else wanted - x
    allowed = SHARE * added.norm(dim=1) + ROUNDING * wanted.norm(dim=1)
    return bool(((found - wanted).norm(dim=1) <= allowed).all())


def norm_matches(norm) -> bool:
    x, exact = made_up(norm.weight), exact_copy(norm)
    with torch.autocast(x.device.type, enabled=False):
        return is_close(rms_norm(exact)(x), exact(x))


def layer_matches(call: Call, rotation, dtype: torch.dtype) -> bool:
    """The call's layer against the fused one of its weights. rotation [N, 1, d] twice, of the call's
    tokens; `dtype` of products."""
    layer, weight = call.module, call.module.input_layernorm.weight
    x, exact, narrow = made_up(weight), exact_copy(layer), dtype != torch.float32
    with torch.autocast(x.device.type, enabled=False):
        wanted = call.again(exact, x)
        found = (packed if narrow else stepped)(layer_of(exact, torch.float32), x, rotation)
    if not narrow or not is_close(found, wanted, x):
        return is_close(found, wanted, x)
    # each way's error, over what the layer adds
    own = x.to(weight.dtype)
    fused, theirs = (
        ((y.float() - wanted).norm(dim=1) / (wanted - x).norm(dim=1)).square().mean()
        for y in (stepped(layer_of(layer, dtype), own, rotation), call.again(layer, own))
    )
    return bool(fused.sqrt() <= WORSE * theirs.sqrt())


def packed(layer: Layer, x: Tensor, rotation, cache: KVCache | None = None) -> Tensor:
    """x [N, D] -> [N, D], the tokens of one sequence, all at once."""
    layout = Layout(Sequences(torch.tensor([len(x)], device=x.device)))
    return run_layers([layer], x.clone(), [PackedRow(rotation, layout, cache)])


def stepped(layer: Layer, x: Tensor, rotation) -> Tensor:
    """The same, the last token as a decode step after the others."""
    layout = Layout(Sequences(torch.tensor([len(x) - 1], device=x.device)))
    cache = KVCache(layout, num_samples=1, capacity=1)
    prompt, newest = ([part[rows] for part in rotation] for rows in (slice(-1), slice(-1, None)))
    before = packed(layer, x[:-1], prompt, cache)
    return torch.cat([before, run_layers([layer], x[-1:].clone(), [CachedRows(cache, newest)])])
