"""kernels/decode_pointwise.py against float64.

As in test_decode_attention.py: plain torch on the CPU, the kernels on a GPU where there is one; one
test runs this file again in Triton's interpreter. Memory that a kernel has to write holds NaN.
"""

import math
import os
import subprocess
import sys

import pytest
import torch

from kernels import decode_pointwise as pointwise
from kernels.decode_pointwise import add_norm, rotate_and_store, silu_product

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_triton = pytest.mark.skipif(pointwise.triton is None, reason="needs Triton (Linux): pip install triton")
devices = pytest.mark.parametrize("device", ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
F32, B16, F16 = torch.float32, torch.bfloat16, torch.float16
# of a result near 1; the interpreter cuts where a GPU rounds
TOLERANCE = {torch.float64: 1e-13, F32: 2e-6, B16: 2**-7, F16: 2**-10}


@pytest.fixture(autouse=True)
def unwritten_memory_holds_nan(monkeypatch):
    empty = torch.empty

    def unwritten(*args, **kwargs):
        x = empty(*args, **kwargs)
        return x.fill_(math.nan) if x.is_floating_point() else x

    monkeypatch.setattr(torch, "empty", unwritten)


def drawn(*shape, dtype=F32, device="cpu", seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw).to(dtype).to(device)


def assert_close(got, want, dtype):
    assert got.dtype == dtype and got.shape == want.shape
    error = (got.double() - want).abs() / want.abs().clamp(min=1)
    assert error.max() <= TOLERANCE[dtype], f"error {error.max():.1e}"


# ---- residual and norm


@devices
@pytest.mark.parametrize(
    "kinds", [(F32, B16, F32, B16), (B16, B16, B16, B16), (F32, F32, F32, F32), (F16, F16, F32, F16)], ids=str
)
@pytest.mark.parametrize("shape", [(1, 64), (5, 33), (3, 2051)], ids=str)
def test_add_norm_is_the_sum_and_its_rms_norm(shape, kinds, device):
    of_x, of_y, of_weight, dtype = kinds
    x, y = (drawn(*shape, dtype=kind, device=device, seed=i) for i, kind in enumerate((of_x, of_y)))
    weight = drawn(shape[1], dtype=of_weight, device=device, seed=2)
    total = x.double() + y.double()
    norm = add_norm(x, y, weight, 0.5, dtype)
    assert_close(x, total, of_x)  # in place
    expected = x.double() / (x.double().square().mean(-1, keepdim=True) + 0.5).sqrt() * weight.double()
    assert_close(norm, expected, dtype)
    assert torch.equal(y, drawn(*shape, dtype=of_y, device=device, seed=1))


@devices
def test_add_norm_with_nothing_to_add_leaves_x(device):
    x, weight = drawn(4, 40, device=device), drawn(40, device=device, seed=1)
    before = x.clone()
    norm = add_norm(x, None, weight, 1e-6, B16)
    assert torch.equal(x, before)
    assert_close(norm, torch.nn.functional.rms_norm(x.double(), (40,), weight.double(), 1e-6), B16)


@devices
def test_add_norm_reads_rows_apart_and_leaves_what_lies_between(device):
    wide = torch.full((4, 50), math.nan, device=device)
    wide[:, :40] = drawn(4, 40, device=device)
    x, y = wide[:, :40], drawn(4, 40, device=device, seed=1)
    total = x.double() + y.double()
    add_norm(x, y, torch.ones(40, device=device), 1e-6, F32)
    assert_close(x, total, F32)
    assert wide[:, 40:].isnan().all()


@devices
def test_norms_of_large_rows_do_not_overflow_and_of_zeros_are_zero(device):
    x = torch.full((2, 64), 60_000.0, dtype=F16, device=device)
    x[1] = 0
    norm = add_norm(x, None, torch.ones(64, device=device), 1e-6, F32)
    assert (norm[0] - 1).abs().max() <= 1e-5 and not norm[1].any()


# ---- rotation and cache


def make_heads(N, H, R, d, T, dtype=F32, device="cpu", tables=F32):
    qkv = drawn(N, (H * R + 2 * H) * d, dtype=dtype, device=device)
    angle = drawn(N, d, device=device, seed=1)
    cos, sin = torch.cat([angle.cos(), angle.sin()], 1).to(tables).chunk(2, -1)  # rows lie apart
    own = [torch.full((N, H, T, d), math.nan, dtype=dtype, device=device) for _ in range(2)]
    return qkv, cos, sin, *own, torch.tensor([T - 2], device=device)


def expected_heads(qkv, cos, sin, H, d, norms=None):
    """float64: query, key, value, each [N, heads, d]."""
    query, key, value = qkv.double().unflatten(1, (-1, d)).tensor_split((-2 * H, -H), 1)
    found = []
    for x, i in ((query, 0), (key, 1)):
        if norms is not None:
            x = x / (x.square().mean(-1, keepdim=True) + norms[2 + i]).sqrt() * norms[i].double()
        first, second = x.chunk(2, -1)
        found.append(x * cos[:, None].double() + torch.cat([second, first], -1) * sin[:, None].double())
    return *found, value


@devices
@pytest.mark.parametrize("dtype, tables", [(F32, F32), (B16, F32), (B16, B16), (F16, F32)], ids=str)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("shape", [(3, 2, 7, 16, 5), (2, 1, 1, 6, 3), (4, 3, 2, 80, 4)], ids=str)
def test_heads_are_rotated_and_stored(shape, normed, dtype, tables, device):
    N, H, R, d, T = shape
    qkv, cos, sin, own_key, own_value, slot = args = make_heads(*shape, dtype, device, tables)
    norms = (drawn(d, device=device, seed=2), drawn(d, device=device, seed=3), 0.5, 0.1) if normed else None
    query, key, value = expected_heads(qkv, cos, sin, H, d, norms)
    assert_close(rotate_and_store(*args, norms), query, dtype)
    assert_close(own_key[:, :, T - 2], key, dtype)
    assert torch.equal(own_value[:, :, T - 2].double(), value)
    for cache in (own_key, own_value):
        cache[:, :, T - 2] = math.nan
        assert cache.isnan().all()  # nothing else was written


@devices
def test_the_slot_is_read_on_the_device_and_the_cache_may_lie_anyhow(device):
    N, H, R, d, T = 3, 2, 2, 16, 4
    qkv, cos, sin, own_key, own_value, slot = make_heads(N, H, R, d, T, device=device)
    own_key = own_key.permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3)  # [T, H, N, d] in memory
    _, key, value = expected_heads(qkv, cos, sin, H, d)
    for t in range(T):
        slot.fill_(t)
        rotate_and_store(qkv, cos, sin, own_key, own_value, slot)
        assert (own_key[:, :, t].double() - key).abs().max() < 2e-6
        assert torch.equal(own_value[:, :, t].double(), value)


@devices
@pytest.mark.skipif(INTERPRETED, reason="asked outside: importing transformers takes long")
def test_it_rotates_as_transformers_does(device):
    from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

    from model.layers import rope_tables

    N, H, R, d, T = 3, 2, 3, 16, 4
    qkv, *_, own_key, own_value, slot = make_heads(N, H, R, d, T, device=device)
    angle = drawn(N, d // 2, device=device, seed=4).repeat(1, 2)
    cos, sin = rope_tables(angle.cos(), angle.sin()).chunk(2, -1)
    query = rotate_and_store(qkv, cos, sin, own_key, own_value, slot)
    heads = qkv.view(N, -1, d)[:, None].transpose(1, 2)  # [N, heads, 1, d]
    rotated, _ = apply_rotary_pos_emb(heads, heads, angle.cos()[:, None], angle.sin()[:, None])
    assert torch.allclose(query, rotated[:, : H * R, 0], atol=1e-6)
    assert torch.allclose(own_key[:, :, T - 2], rotated[:, H * R : -H, 0], atol=1e-6)


# ---- silu and product


@devices
@pytest.mark.parametrize("dtype", [F32, B16, F16], ids=str)
@pytest.mark.parametrize("shape", [(1, 2), (3, 2 * 1000), (2, 2 * 2500)], ids=str)
def test_silu_product_is_silu_of_the_first_half_times_the_second(shape, dtype, device):
    x = 3 * drawn(*shape, dtype=dtype, device=device)
    gate, up = x.double().chunk(2, -1)
    assert_close(silu_product(x), gate * gate.sigmoid() * up, dtype)


@devices
def test_silu_of_far_values_is_finite(device):
    x = torch.tensor([[-1e4, -100.0, 0.0, 100.0, 1e4, 1.0, 1.0, 1.0, 1.0, 1.0]], device=device)
    assert silu_product(x).tolist() == [[0.0, 0.0, 0.0, 100.0, 1e4]]


# ---- which way


def test_plain_torch_is_exact_in_float64():
    x = drawn(3, 40, dtype=torch.float64)
    norm = add_norm(x, None, torch.ones(40), 0.5, torch.float64)
    assert_close(norm, x / (x.square().mean(-1, keepdim=True) + 0.5).sqrt(), torch.float64)
    assert_close(silu_product(x), x[:, :20] * x[:, :20].sigmoid() * x[:, 20:], torch.float64)


@pytest.mark.slow
@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="this is the run inside")
def test_the_kernels_pass_these_tests_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    # overflow and NaN on purpose: numpy warns of them
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning"]
    command = [sys.executable, "-m", "pytest", *options, __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]


@pytest.mark.skipif(not INTERPRETED, reason="asked in the interpreter's run")
def test_the_interpreter_run_takes_the_kernels(monkeypatch):
    for name in ("add_norm_torch", "rotate_and_store_torch", "silu_product_torch"):
        monkeypatch.setattr(pointwise, name, None)
    for dtype in pointwise.DTYPES:
        add_norm(drawn(2, 8, dtype=dtype), None, torch.ones(8), 1e-6, dtype)
        rotate_and_store(*make_heads(2, 1, 1, 16, 3, dtype))
        silu_product(drawn(2, 8, dtype=dtype))


# ---- on a GPU only


@needs_cuda
def test_a_captured_graph_writes_to_the_slot_of_the_moment(monkeypatch):
    monkeypatch.undo()
    N, H, R, d, T = 8, 2, 7, 128, 16
    qkv, cos, sin, own_key, own_value, slot = args = make_heads(N, H, R, d, T, B16, "cuda")
    side = torch.cuda.Stream()  # compiles before the capture
    with torch.cuda.stream(side):
        rotate_and_store(*args)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        query = rotate_and_store(*args)
    expected, key, value = expected_heads(qkv, cos, sin, H, d)
    for t in (0, 5, T - 1):
        slot.fill_(t)
        graph.replay()
        assert_close(query, expected, B16)
        assert_close(own_key[:, :, t], key, B16)
        assert torch.equal(own_value[:, :, t].double(), value)
