"""kernels/decode_attention.py against float64, one row at a time.

As in test_logprob.py: run plainly, they exercise plain torch on the CPU and the kernels on the GPU,
where there is one; one test then runs this file again in Triton's interpreter. What must not count
is NaN or infinity in every test, and so is memory that nobody wrote.
"""

import math
import os
import subprocess
import sys

import pytest
import torch

from kernels import decode_attention as decode
from kernels.decode_attention import decode_attention, decode_attention_torch, split_count

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_triton = pytest.mark.skipif(decode.triton is None, reason="needs Triton (Linux): pip install triton")
devices = pytest.mark.parametrize("device", ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])

if INTERPRETED:
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patch_tensor_and_index(tensor, scope):
        """Triton 3.6 asks int() of arrays of one number for the bounds of a loop; numpy 2.4 refuses
        that."""
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_tensor_and_index


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks, splits and tiles in sizes that the interpreter can do; and memory holds NaN
    until it is written."""
    monkeypatch.setattr(decode, "BLOCKS", {2: (16, 16), 4: (16, 16)})
    monkeypatch.setattr(decode, "KEYS_PER_SPLIT", 24)
    empty = torch.empty

    def unwritten(*args, **kwargs):
        x = empty(*args, **kwargs)
        return x.fill_(math.nan) if x.is_floating_point() else x

    monkeypatch.setattr(torch, "empty", unwritten)


def make_case(P, G, H, R, L, T, d, lengths, own_length, dtype=torch.float32, device="cpu", seed=0):
    """The arguments of decode_attention; slots that don't count hold NaN and infinities."""
    draw = torch.Generator().manual_seed(seed)
    query, *cache = (
        torch.randn(*shape, generator=draw).to(dtype)
        for shape in ((P * G, H * R, d), (P, H, L, d), (P, H, L, d), (P, H, G, T, d), (P, H, G, T, d))
    )
    for x in cache[:2]:
        for p, length in enumerate(lengths):
            x[p, :, length:] = math.nan
            x[p, :, length + 1 :: 2] = math.inf
    for x in cache[2:]:
        x[..., own_length:, :] = math.nan
        x[..., own_length + 1 :: 2, :] = -math.inf
    args = query, *cache, torch.tensor(lengths), torch.tensor([own_length])
    return *(x.to(device) for x in args), 1.3 * d**-0.5


def reference(query, prompt_key, prompt_value, own_key, own_value, prompt_lengths, own_length, scale):
    """float64, sample by sample, from the keys that count and no others."""
    (P, H), G, t = prompt_key.shape[:2], own_key.shape[2], int(own_length)
    heads = query.double().view(P, G, H, -1, query.shape[-1])
    out = torch.zeros_like(heads)
    for p, n in enumerate(prompt_lengths.tolist()):
        for g in range(G):
            for h in range(H):
                k = torch.cat([prompt_key[p, h, :n], own_key[p, h, g, :t]]).double()
                v = torch.cat([prompt_value[p, h, :n], own_value[p, h, g, :t]]).double()
                out[p, g, h] = (scale * heads[p, g, h] @ k.T).softmax(-1) @ v
    return out.view(query.shape)


def assert_agrees(args, tolerance=2e-6):
    out = decode_attention(*args)
    assert out.shape == args[0].shape and out.dtype == args[0].dtype and out.is_contiguous()
    error = (out.double() - reference(*args)).abs().max()  # values are about 1
    assert error <= tolerance, f"error {error:.1e}, allowed {tolerance:.0e}"
    return out


# ---- values


@devices
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1, 5, 3, 16, [5], 2),  # less than a block of everything
        (2, 3, 2, 7, 40, 37, 24, [40, 17], 29),  # 21 queries to a prompt: two tiles
        (3, 2, 1, 1, 33, 20, 64, [1, 33, 16], 20),  # no groups; a prompt of one block and a prompt of one key
        (2, 1, 2, 3, 70, 50, 80, [30, 70], 49),  # no sharing
        (1, 5, 2, 4, 50, 90, 128, [50], 65),
        (1, 1, 1, 17, 20, 20, 7, [19], 17),  # more heads than one tile
    ],
    ids=["tiny", "ragged", "R1", "G1", "d128", "wide"],
)
def test_it_agrees_with_float64(shape, device):
    assert_agrees(make_case(*shape, device=device))


@devices
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_numbers_cost_what_rounding_them_costs(dtype, device):
    args = make_case(2, 3, 2, 7, 40, 37, 24, [40, 17], 29, dtype, device)
    # weights and result are rounded (cut, in the interpreter) to 8 or 11 bits
    assert_agrees(args, 2**-7 if dtype == torch.bfloat16 else 2**-10)


@devices
def test_every_own_length_is_right_without_the_host_knowing_it(device):
    *args, own_length, scale = make_case(1, 2, 1, 2, 20, 35, 16, [13], 35, device=device)
    for length in (0, 1, 15, 16, 17, 24, 32, 33, 34, 35):
        own_length.fill_(length)
        assert_agrees((*args, own_length, scale))


@devices
def test_every_prompt_length_is_right(device):
    lengths = [0, 1, 15, 16, 17, 31, 32, 33, 47, 48]
    assert_agrees(make_case(10, 1, 1, 2, 48, 5, 16, lengths, 3, device=device))


@devices
def test_either_half_alone_is_enough(device):
    assert_agrees(make_case(2, 2, 1, 2, 40, 20, 16, [40, 9], 0, device=device))
    assert_agrees(make_case(2, 2, 1, 2, 40, 0, 16, [40, 9], 0, device=device))  # no slot at all
    assert_agrees(make_case(2, 2, 1, 2, 40, 20, 16, [0, 0], 18, device=device))
    assert_agrees(make_case(2, 2, 1, 2, 0, 20, 16, [0, 0], 18, device=device))


@devices
@pytest.mark.parametrize("whole", ["prompt", "own"])
def test_scores_far_apart_neither_overflow_nor_vanish(whole, device):
    """Scores rise to 10000 or fall from it: exp of any of them would be infinite, of most
    differences 0."""
    args = make_case(
        1, 2, 1, 2, 70, 70, 16, [70 if whole == "prompt" else 3], 70 if whole == "own" else 3, device=device
    )
    for sign in (1, -1):
        for key in (args[1], args[3]):
            key[..., 0] = sign * torch.linspace(1, 100, key.shape[-2], device=device)
        args[0][..., 0] = 100 / args[-1]
        out = assert_agrees(args, 2e-3)  # the scores themselves are good to 1e-3
        assert out.isfinite().all()


@devices
def test_few_keys_outweigh_many_elsewhere(device):
    """One own key against a long prompt whose scores are lower by log of its length: half the
    weight each."""
    n = 64
    query = torch.ones(1, 1, 16, device=device)
    prompt = torch.zeros(1, 1, n, 16, device=device), torch.zeros(1, 1, n, 16, device=device)
    own = (
        torch.full((1, 1, 1, 40, 16), math.log(n) / 16, device=device),
        torch.ones(1, 1, 1, 40, 16, device=device),
    )
    out = decode_attention(
        query, *prompt, *own, torch.tensor([n], device=device), torch.tensor([1], device=device), 1.0
    )
    assert (out - 0.5).abs().max() <= 1e-6


@devices
def test_any_strides_give_what_a_copy_gives(device):
    P, G, H, R, L, T, d = 2, 2, 2, 3, 20, 18, 24
    query, *cache, lengths, own_length, scale = make_case(P, G, H, R, L, T, d, [20, 7], 11, device=device)
    wide = torch.full((P * G, H * R + 5, d + 3), math.nan, device=device)
    wide[:, 2:-3, 1:-2] = query
    prompt = [
        x.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3) for x in cache[:2]
    ]  # [L, P, H, d] in memory
    prompt[1] = torch.cat([prompt[1], prompt[1]], -1)[..., :d]  # value's strides are not key's
    own = [x.permute(3, 2, 1, 0, 4).contiguous().permute(3, 2, 1, 0, 4) for x in cache[2:]]  # [T, G, H, P, d]
    own[0] = own[0].contiguous()
    mixed = torch.stack([lengths, lengths + 100], 1).int()[:, 0]
    args = wide[:, 2:-3, 1:-2], *prompt, *own, mixed, own_length[0].int(), scale
    assert not any(x.is_contiguous() for x in (args[0], *prompt, own[1], mixed))
    assert_agrees(args)
    assert torch.equal(decode_attention(*args), decode_attention(query, *cache, lengths, own_length, scale))


@devices
def test_the_number_of_splits_changes_nothing_but_rounding(device, monkeypatch):
    args = make_case(1, 2, 1, 2, 100, 100, 16, [90], 75, device=device)
    for most in (1, 2, 3, 16):  # 5 blocks of own keys: shares of 5, 3, 2, 1; then splits without any
        monkeypatch.setattr(decode, "MOST_SPLITS", most)
        assert_agrees(args)


@devices
def test_a_length_beyond_the_slots_reads_no_further(device):
    *args, lengths, own_length, scale = make_case(1, 2, 1, 2, 20, 18, 16, [20], 18, device=device)
    assert torch.equal(
        decode_attention(*args, lengths + 13, own_length + 40, scale),
        decode_attention(*args, lengths, own_length, scale),
    )


@devices
def test_a_key_of_nan_spoils_the_rows_that_read_it_and_no_others(device):
    args = make_case(2, 2, 1, 2, 40, 40, 16, [40, 40], 40, device=device)
    clean = decode_attention(*args)
    args[3][0, 0, 1, 16:32] = math.nan  # a whole block of one sample
    spoiled = decode_attention(*args)
    assert spoiled[1].isnan().all() and torch.equal(spoiled[[0, 2, 3]], clean[[0, 2, 3]])
    args[1][1, 0, 3] = math.nan
    assert decode_attention(*args)[1:].isnan().all()


def test_plain_torch_is_exact_in_float64():
    args = make_case(2, 3, 2, 7, 40, 37, 24, [40, 17], 29, torch.float64)
    for function in (decode_attention_torch, decode_attention):
        out = function(*args)
        assert out.dtype == torch.float64 and (out - reference(*args)).abs().max() <= 1e-13


def test_no_rows_are_no_trouble():
    args = make_case(0, 2, 1, 2, 20, 18, 16, [], 3)
    assert decode_attention(*args).shape == (0, 2, 16)


def test_splits_fill_the_device_and_stay_bounded(monkeypatch):
    monkeypatch.setattr(decode, "KEYS_PER_SPLIT", 128)
    assert split_count(2048, programs=32, wanted=264) == 9  # enough programs, and no more
    assert split_count(2048, programs=512, wanted=264) == 1
    assert split_count(200, programs=1, wanted=264) == 2  # no split of few keys
    assert split_count(1 << 20, programs=1, wanted=264) == decode.MOST_SPLITS
    assert split_count(1, programs=1, wanted=1) == 1 and split_count(0, programs=1, wanted=1) == 0


def test_wrong_arguments_are_named():
    query, key, value, *own, lengths, own_length, scale = make_case(2, 2, 2, 3, 5, 4, 16, [5, 2], 3)
    rest = *own, lengths, own_length, scale
    with pytest.raises(ValueError, match=r"query must be \[4, 6, 16\]"):
        decode_attention(query[:3], key, value, *rest)
    with pytest.raises(ValueError, match=r"prompt_value must be \[2, 2, 5, 16\]"):
        decode_attention(query, key, value[:, :, 1:], *rest)
    with pytest.raises(ValueError, match=r"own_key must be \[2, 2, 2, 4, 16\]"):
        decode_attention(query, key, value, own[0][:1], own[1], lengths, own_length, scale)
    with pytest.raises(ValueError, match=r"must be \[P\*G, Hq, d\]"):
        decode_attention(query[None], key, value, *rest)
    with pytest.raises(ValueError, match="5 heads"):
        decode_attention(query[:, :5], key, value, *rest)
    with pytest.raises(TypeError, match=r"prompt_key is .*bfloat16 but query .*float32"):
        decode_attention(query, key.bfloat16(), value, *rest)
    with pytest.raises(ValueError, match="last axis of prompt_key must be dense"):
        decode_attention(query, key.transpose(2, 3).contiguous().transpose(2, 3), value, *rest)


# ---- the two ways to Triton


@pytest.mark.slow
@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="this is the run inside")
def test_the_kernels_pass_these_tests_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    # NaN on purpose: numpy warns of it
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning"]
    command = [sys.executable, "-m", "pytest", *options, __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]


@pytest.mark.skipif(not INTERPRETED, reason="asked in the interpreter's run")
def test_the_interpreter_run_takes_the_kernels(monkeypatch):
    monkeypatch.setattr(decode, "decode_attention_torch", None)
    for dtype in decode.DTYPES:
        assert decode_attention(*make_case(1, 1, 1, 1, 5, 3, 16, [5], 2, dtype)).isfinite().all()


# ---- on a GPU only


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("samples", [1, 8, 16, 40])
def test_the_real_blocks_agree_with_plain_torch(samples, dtype, monkeypatch):
    monkeypatch.undo()
    args = make_case(3, samples, 4, 7, 700, 300, 128, [700, 1, 513], 217, dtype, "cuda")
    wide = (x.float() if torch.is_tensor(x) and x.is_floating_point() else x for x in args)
    error = (decode_attention(*args).float() - decode_attention_torch(*wide)).abs().max()
    assert error <= (1e-5 if dtype == torch.float32 else 1e-2)


@needs_cuda
@pytest.mark.parametrize("function", [decode_attention, decode_attention_torch])
def test_a_captured_graph_follows_the_growing_length(function, monkeypatch):
    monkeypatch.undo()
    *args, own_length, scale = make_case(2, 8, 2, 7, 300, 400, 128, [300, 77], 400, torch.bfloat16, "cuda")
    side = torch.cuda.Stream()  # compiles before the capture
    with torch.cuda.stream(side):
        function(*args, own_length, scale)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = function(*args, own_length, scale)
    for length in (1, 63, 64, 65, 250, 400):
        own_length.fill_(length)
        graph.replay()
        assert (out.double() - reference(*args, own_length, scale)).abs().max() <= 1e-2
