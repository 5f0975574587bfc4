"""The check at loading: the fused layers pass for every family at any depth and scale of weights, and fail
for whatever else differs from the decoder's own."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
import transformers
from families_made import RECIPES, SEEING
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from model import fused_check, kv_cache, layers
from model.families import text_model
from model.fused_check import fused_matches_reference
from model.loading import autocast
from model.packed_attention import register_attention

VISION = dict(depth=2, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=64, patch_size=14)
CONFIGS = {name: (recipe.config, recipe.options) for name, recipe in RECIPES.items()}
CONFIGS["qwen2_5_vl"] = "Qwen2_5_VLConfig", CONFIGS["qwen2_vl"][1] | dict(vision_config=VISION)
OWN_FORWARD = ("gemma3", "gemma3_text")
FUSED = [name for name in CONFIGS if name not in OWN_FORWARD]
BF16, F32 = torch.bfloat16, torch.float32


@cache
def made(name: str, depth: int = 4, std: float = 0.02, weights=BF16, compute=BF16):
    """A model of random weights, without a tokenizer."""
    cls, options = CONFIGS[name]
    options = copy.deepcopy(options)
    text = options.get("text_config", options)
    text |= dict(num_hidden_layers=depth, eos_token_id=0, pad_token_id=0)
    if "layer_types" in text:
        text["layer_types"] = text["layer_types"][:1] * depth
    auto = AutoModelForImageTextToText if name in (*SEEING, "qwen2_5_vl") else AutoModelForCausalLM
    torch.manual_seed(0)
    model = auto.from_config(getattr(transformers, cls)(**options), attn_implementation=register_attention())
    for part, p in model.named_parameters():
        at = float(p.detach().mean()) if "norm" in part else 0.0
        torch.nn.init.normal_(p, at, std if p.ndim > 1 else 0.2)
    model.tie_weights()
    model.compute_dtype = compute
    layers.colocate_qkv_gate_up(model.to(weights).eval())
    return model


def passes(model) -> bool:
    with autocast(model):
        return fused_matches_reference(model)


# --- True where only rounding differs


@pytest.mark.slow
@pytest.mark.parametrize("name", FUSED)
def test_rounding_alone_fails_no_family_at_any_depth_and_scale(name):
    for depth in (28, 36):
        for std in (0.02, 0.04, 0.5):
            assert passes(made.__wrapped__(name, depth, std)), (depth, std)
        assert passes(made.__wrapped__(name, depth, 0.1, F32)), depth


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize(("weights", "compute"), [(BF16, BF16), (F32, BF16), (F32, F32)])
def test_a_decoder_of_the_standard_make_passes(name, weights, compute):
    assert passes(made(name, 2, 0.04, weights, compute))


def test_by_the_kernels_cache_too(monkeypatch):
    monkeypatch.setattr(kv_cache, "BY_KERNEL", True)
    assert passes(made("qwen3")) and passes(made("qwen2", 4, 0.04, F32, F32))
    assert passes(made("qwen3", 4, 0.5, F32, F32))  # norms of heads, seen in the step


@pytest.mark.parametrize("name", OWN_FORWARD)
def test_a_decoder_of_another_make_does_not(name):
    assert not passes(made(name))


def test_it_leaves_the_model_as_it_was(monkeypatch):
    model = made("qwen3")
    before = {name: p.clone() for name, p in model.named_parameters()}
    assert passes(model)
    assert all(torch.equal(p, before[name]) and not p.is_inference() for name, p in model.named_parameters())
    assert not any(m._forward_hooks for m in model.modules())


# --- False where anything else does


def columns(linear, H, d, *parts):
    """The joined weight of query, key and value with these parts of it, in this order."""
    split = dict(zip("qkv", linear.weight.split([len(linear.weight) - 2 * H * d, H * d, H * d]), strict=True))
    return linear._replace(weight=torch.cat([split[part] for part in parts]))


def without_bias(layer, part):
    n, width = len(layer.qkv.bias), layer.key_heads * layer.head
    here = {"q": slice(n - 2 * width), "k": slice(n - 2 * width, n - width), "v": slice(n - width, n)}[part]
    bias = layer.qkv.bias.clone()
    bias[here] = 0
    return replace(layer, qkv=layer.qkv._replace(bias=bias))


def norm_of(layer, eps=1e-6, plus=0.0):
    def norm(x):
        wide = x.float()
        wide = wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
        return (wide * (norm.weight.float() + plus)).to(x.dtype)

    return norm


def other_norm(layer, own, **how):
    norm = norm_of(layer, **how)
    norm.weight = own.weight
    return replace(layer, norm_in=norm)


def coarse(linear):
    """Its weight in 5 bits of mantissa, as a careless cast would have it: only rounding, and too much."""
    mantissa, exponent = torch.frexp(linear.weight.float())
    return linear._replace(weight=torch.ldexp((mantissa * 32).round() / 32, exponent).to(linear.weight.dtype))


# what is made of a layer's weights; of the last layer alone
WEIGHTS = {
    "scale a tenth too large": ("llama", lambda of, own: replace(of, scale=1.1 * of.scale)),
    "no bias": ("qwen2", lambda of, own: replace(of, qkv=of.qkv._replace(bias=None))),
    "no bias of queries": ("qwen2", lambda of, own: without_bias(of, "q")),
    "no bias of keys": ("qwen2_vl", lambda of, own: without_bias(of, "k")),
    "no bias of values": ("qwen2_5_vl", lambda of, own: without_bias(of, "v")),
    "gate and up swapped": (
        "qwen2",
        lambda of, own: replace(
            of, gate_up=of.gate_up._replace(weight=of.gate_up.weight.roll(len(of.gate_up.weight) // 2, 0))
        ),
    ),
    "key and value swapped": (
        "llama",
        lambda of, own: replace(of, qkv=columns(of.qkv, of.key_heads, of.head, *"qvk")),
    ),
    "no norm of queries": ("qwen3", lambda of, own: replace(of, norm_query=lambda x: x)),
    "no norm of keys": ("qwen3_vl", lambda of, own: replace(of, norm_key=lambda x: x)),
    "neither": ("qwen3", lambda of, own: replace(of, norm_query=None, norm_key=None)),
    "another epsilon": ("qwen2", lambda of, own: other_norm(of, own.input_layernorm, eps=1e-5)),
    "a norm of 1 + w": ("llama", lambda of, own: other_norm(of, own.input_layernorm, plus=1.0)),
    "the norms swapped": ("qwen2", lambda of, own: replace(of, norm_in=of.norm_mlp, norm_mlp=of.norm_in)),
    "gelu": ("qwen3", lambda of, own: replace(of, act=F.gelu)),
    "output scaled": (
        "llama",
        lambda of, own: replace(of, down=of.down._replace(weight=of.down.weight * 1.02)),
    ),
}
SETTINGS = [(0.02, BF16, BF16), (0.15, F32, BF16), (0.04, F32, F32)]


@pytest.mark.parametrize("setting", SETTINGS, ids=["bf16", "bf16 of float32", "float32"])
@pytest.mark.parametrize("fault", WEIGHTS)
def test_one_layer_of_other_weights_fails(fault, setting, monkeypatch):
    name, change = WEIGHTS[fault]
    plain, last = fused_check.layer_of, 3

    def layer_of(own, dtype):
        layer = plain(own, dtype)
        return change(layer, own) if own.self_attn.layer_idx == last else layer

    model = made(name, 4, *setting)
    monkeypatch.setattr(fused_check, "layer_of", layer_of)
    assert not passes(model)


@pytest.mark.parametrize("weights", [BF16, F32])
def test_more_rounding_than_the_decoders_own_fails(weights, monkeypatch):
    """Right in float32, and of 5 bits where products are narrower."""
    plain = fused_check.layer_of

    def layer_of(own, dtype):
        of = plain(own, dtype)
        names = ("qkv", "out", "gate_up", "down") if dtype == BF16 else ()
        return replace(of, **{name: coarse(getattr(of, name)) for name in names})

    model = made("qwen2", 4, 0.15, weights)
    assert passes(model)
    monkeypatch.setattr(fused_check, "layer_of", layer_of)
    assert not passes(model)


def turned(cos, sin):
    return {
        "no rotation": (torch.ones_like(cos), torch.zeros_like(sin)),
        "halves swapped": (cos, -sin),
        "sine for cosine": (sin, cos),
        "a place late": (cos.roll(1, 0), sin.roll(1, 0)),
    }


@pytest.mark.parametrize("fault", turned(torch.zeros(1), torch.zeros(1)))
def test_another_rotation_fails(fault, monkeypatch):
    plain = fused_check.rotation_of
    monkeypatch.setattr(fused_check, "rotation_of", lambda *args: turned(*plain(*args))[fault])
    assert not passes(made("qwen2_vl"))


def test_axes_of_positions_that_change_places_fail(monkeypatch):
    plain = fused_check.rotation_of
    monkeypatch.setattr(fused_check, "rotation_of", lambda model, positions: plain(model, positions.flip(0)))
    assert not passes(made("qwen2_5_vl")) and not passes(made("qwen3_vl"))
    assert passes(made("llama"))


def test_a_decode_step_that_forgets_its_newest_key_fails(monkeypatch):
    monkeypatch.setattr(kv_cache.KVCache, "append", lambda self, layer, key, value: None)
    for setting in SETTINGS:
        assert not passes(made("qwen3", 4, *setting))


def changed(model, module, wrap):
    """A copy of the model whose `module` (a function of the decoder) is of a class with another
    forward."""
    model = copy.deepcopy(model)
    part = module(text_model(model))
    plain = type(part)

    def forward(self, *args, **kwargs):
        return wrap(self, lambda *a, **k: plain.forward(self, *a, **k))(*args, **kwargs)

    part.__class__ = type(plain.__name__, (plain,), {"forward": forward})
    return model


def residual_dropped(layer, forward):
    return lambda x, *args, **kwargs: fused_check.first(forward(x, *args, **kwargs)) - x


def attention_scaled(attention, forward):
    def scaled(*args, **kwargs):
        out, weights = forward(*args, **kwargs)
        return 1.02 * out, weights

    return scaled


def scaled_in_front(decoder, forward):
    return lambda **kwargs: forward(**kwargs | {"inputs_embeds": 1.1 * kwargs["inputs_embeds"]})


def scaled_behind(decoder, forward):
    def scaled(**kwargs):
        out = forward(**kwargs)
        out.last_hidden_state = 1.1 * out.last_hidden_state
        return out

    return scaled


OWN = {
    "residual dropped": (lambda decoder: decoder.layers[2], residual_dropped),
    "attention scaled": (lambda decoder: decoder.layers[1].self_attn, attention_scaled),
    "embeddings scaled": (lambda decoder: decoder, scaled_in_front),
    "something after the last norm": (lambda decoder: decoder, scaled_behind),
    "another last norm": (lambda decoder: decoder.norm, lambda m, f: lambda x: f(x) + m.weight * x),
}


@pytest.mark.parametrize("fault", OWN)
def test_a_decoder_that_does_something_else_fails(fault):
    assert not passes(changed(made("qwen3"), *OWN[fault]))


@pytest.mark.parametrize("where", ["input", "order", "window", "head"])
def test_a_frame_of_another_make_fails(where):
    model = copy.deepcopy(made("llama"))
    decoder = text_model(model)
    if where == "input":
        decoder.layers[1].register_forward_pre_hook(lambda m, args: (args[0] * 1.01, *args[1:]))
    elif where == "order":
        decoder.register_forward_pre_hook(lambda m, args: setattr(m, "layers", m.layers[:3]))
    elif where == "window":
        decoder.layers[3].self_attn.sliding_window = 4
    else:
        model.lm_head = torch.nn.Sequential(model.lm_head)
    assert not passes(model)
