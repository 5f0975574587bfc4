"""One model over several processes: each holds a share of every weight, its gradient and its moments.

    policy = load_model(path, shard=True)               each process reads its own slices of the files
    with gathered(policy): rollout = generate(..)       whole weights, in the dtype of products
    logprobs = token_logprobs(policy, rollout)          layer by layer, all processes in step

PyTorch's FSDP2. Every layer of decoder and vision tower is a group, gathered when it is read and let go
after; the root's group (embeddings, projector, norms, head) stays gathered from forward to backward.
Gradients are summed in float32. A gather takes all processes, so all make equally many forwards
(`in_step`), and each goes through the vision tower (`families.embed`); decoding, where processes go
their own ways, works on a whole copy in which nothing is gathered.

Left out: tensor parallelism; offloading to the host.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from common.pulse import tick, waiting
from model.batch import Model
from model.families import DEEP_FEATURES, product_dtype, text_model
from model.layers import Layer, Linear, layer_of, rms_norm, uses_fused_layers

# --- Making a sharded model -----------------------------------------------------------------------


def sharded_class(cls, compute: torch.dtype):
    """The model class; transformers lets it shard its empty instance, and fills the shares from the files.

    Of transformers' own plans not all name modules that exist, nor any of the vision towers.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    def distribute(_, model, config, mesh):
        mesh = mesh.get_mesh("fsdp") if hasattr(mesh, "get_mesh") else mesh  # itself, before 5.23
        # inputs stay as they are: rotary tables in bfloat16 would turn by wrong angles
        precision = MixedPrecisionPolicy(compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
        model.tie_weights()  # before: FSDP shall see one weight in two places, and not two
        for block in chain.from_iterable(chains_of(model)):
            fully_shard(block, mesh=mesh, mp_policy=precision)
        return fully_shard(model, mesh=mesh, mp_policy=precision, reshard_after_forward=False)

    # of the same module: by it transformers finds how names in the files differ
    own = {"maybe_distribute_model": classmethod(distribute), "__module__": cls.__module__}
    return type(cls.__name__, (cls,), own)


def chains_of(model: Model) -> list[list[torch.nn.Module]]:
    """Modules that are gathered one by one: the decoder's layers, and the blocks of the vision tower, which
    are its longest list. A shorter one stays with the root: where features of several depths reach the
    decoder, its turn in the backward pass depends on whether there was a picture."""
    decoder = text_model(model)
    inside = set(decoder.modules())
    lists = [list(m) for m in model.modules() if isinstance(m, torch.nn.ModuleList) and m not in inside]
    return [list(decoder.layers), *([max(lists, key=len)] if lists else [])]


def prepare(model: Model) -> None:
    """Once loaded: how gradients are reduced, and which module is the root."""
    from torch.distributed.fsdp import register_fsdp_forward_method

    del model.config.distributed_config  # what is saved shall not say that it was sharded
    if model.device.type == "cuda":
        torch.cuda.empty_cache()  # transformers makes room for more than a share, to load into
    model.in_step, model.whole_layers = True, []
    model.through = lambda f, *args, **kwargs: f(model, *args, **kwargs)
    register_fsdp_forward_method(model, "through")
    for group in groups(model):
        # the loss carries the divisor of the whole batch
        group.set_gradient_divide_factor(1.0)
        group.set_force_sum_reduction_for_comms(True)  # gloo has nothing else
    # What is gathered ahead in the backward pass. By itself FSDP goes by the forwards that there were, also
    # those of decoding, in which processes may differ: they would gather different things
    for blocks in chains_of(model):
        chained: list[Any] = [model, *blocks]
        for before, block in pairwise(chained):
            block.register_forward_pre_hook(lambda *_: tick())
            block.set_modules_to_backward_prefetch([before])
    model.set_modules_to_backward_prefetch([text_model(model).layers[-1]])
    with torch.no_grad():
        model.through(lambda _: None)  # FSDP takes the first module that runs for the root
    model.reshard()


def is_sharded(module: Model) -> bool:
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def groups(model: Model) -> list[Any]:
    return [m for m in model.modules() if is_sharded(m)]


# --- Reading it -----------------------------------------------------------------------------------


def through(model: Model, f: Callable, *args, **kwargs):
    """f(model, ..), with weights gathered as they are read where they lie in shares."""
    if not is_sharded(model) or not model.in_step:
        return f(model, *args, **kwargs)
    out = model.through(f, *args, **kwargs)
    if not torch.is_grad_enabled():
        model.reshard()  # no backward pass will, and after an update what was gathered is of yesterday
    return out


@contextmanager
def gathered(model: Model) -> Iterator[Model]:
    """All weights whole on every process, in the dtype of products, within this block: no process waits for
    another in it. A model that isn't sharded is as it is."""
    if not is_sharded(model):
        yield model
        return
    # a prompt whose pictures reach several layers is read by the decoder's own forward
    own = not uses_fused_layers(model) or model.config.model_type in DEEP_FEATURES
    copied = [] if own else list(text_model(model).layers)
    model.whole_layers = [whole_layer(layer, product_dtype(model)) for layer in copied]
    others = [group for group in groups(model) if group not in copied]
    for group in others:
        group.unshard()
        group.set_reshard_after_forward(False, recurse=False)
    model.in_step = False
    try:
        yield model
    finally:
        model.in_step, model.whole_layers = True, []
        for group in others:
            group.reshard()
            group.set_reshard_after_forward(group is not model, recurse=False)


@torch.no_grad()
def whole_layer(layer, dtype: torch.dtype) -> Layer:
    """Copies of a standard decoder layer's weights, which are gathered for as long as that takes."""
    with unsharded(layer):
        own = layer_of(layer, dtype)
        norms: dict[str, Any] = {
            "norm_in": rms_norm(NormCopy(layer.input_layernorm)),
            "norm_mlp": rms_norm(NormCopy(layer.post_attention_layernorm)),
        }
        for name in ("norm_query", "norm_key"):
            if (module := getattr(own, name)) is not None:
                norms[name] = NormCopy(module)
        maps: dict[str, Any] = {n: copied(getattr(own, n)) for n in ("qkv", "out", "gate_up", "down")}
        return replace(own, **maps, **norms)


@contextmanager
def unsharded(group) -> Iterator[None]:
    """One group's weights whole, within this block; of a module that isn't sharded they are anyhow."""
    sharded = is_sharded(group)
    if sharded:
        group.unshard()
    try:
        yield
    finally:
        if sharded:
            group.reshard()


def copied(linear: Linear) -> Linear:
    return Linear(*(None if x is None else x.detach().clone() for x in linear))  # type: ignore[arg-type]


class NormCopy:
    """An RMS norm with a copy of the weight."""

    def __init__(self, norm):
        self.kind, self.variance_epsilon = type(norm), norm.variance_epsilon
        self.weight = norm.weight.detach().clone()

    def __call__(self, x: Tensor) -> Tensor:
        return self.kind.forward(self, x)


def plain_copy(layer) -> torch.nn.Module:
    """A sharded decoder layer, gathered, as a module of its own in float32."""
    kind = type(layer).__mro__[2]  # FSDP's two classes stand before it
    copy = kind(layer.self_attn.config, layer.self_attn.layer_idx)
    copy.load_state_dict(dict(layer.named_parameters()))
    return copy.to(next(layer.parameters()).device).float().eval()


def in_step(model: Model, parts: list, idle) -> list[tuple]:
    """(part, whether it counts): a sharded model is read by all processes together, so those with fewer
    parts read `idle` in the place of what they lack, for nothing."""
    if not is_sharded(model) or not model.in_step:
        return [(part, True) for part in parts]
    most = torch.tensor(len(parts), device=model.device)
    with waiting():
        dist.all_reduce(most, dist.ReduceOp.MAX)
        missing = int(most) - len(parts)
    return [(part, True) for part in parts] + [(idle, False)] * missing


# --- Shares and wholes ----------------------------------------------------------------------------


def whole(x: Tensor) -> Tensor:
    """The whole of a tensor in shares, on every process. Collective."""
    from torch.distributed.tensor import DTensor

    return x.full_tensor() if isinstance(x, DTensor) else x


def rows_to_main(x: Tensor) -> Iterator[Tensor]:
    """On the first process the whole of x, a block of rows after the other: of a tensor in shares one share
    at a time. On the others nothing, for theirs are sent. All take what this gives, to its end."""
    from torch.distributed.tensor import DTensor

    if not isinstance(x, DTensor):
        yield x
        return
    own, rank, size = x.to_local().contiguous(), dist.get_rank(), dist.get_world_size()
    each = -(-len(x) // size)  # rows of a share; the last ones may have fewer, or none
    for r in range(-(-len(x) // each)):
        if r == rank == 0:
            yield own
        elif rank == 0:
            share = own.new_empty(min(each, len(x) - r * each), *x.shape[1:])
            dist.recv(share, r)
            yield share
        elif r == rank:
            dist.send(own, 0)


def share_of(p: Tensor, file, name: str) -> Tensor:
    """A moment of `p` in an opened safetensors file, as p lies: where that is in shares only this
    process's is read. A number is whole everywhere."""
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    stored = file.get_slice(name)
    if not isinstance(p, DTensor) or not stored.get_shape():
        return file.get_tensor(name).to(p.device)
    size, start = compute_local_shape_and_global_offset(p.shape, p.device_mesh, p.placements)
    own = stored[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))].to(p.device)
    return DTensor.from_local(
        own, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
    )
