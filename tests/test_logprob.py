"""kernels/logprob.py: every value and gradient against float64.

Run plainly, they exercise the plain-torch path on the CPU and the Triton kernels on the GPU, where
there is one; one test then runs this file again in Triton's interpreter (a fresh process: Triton
decides at import whether to interpret).
"""

import math
import os
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import linear_logprobs, logprob, selective_log_softmax

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_triton = pytest.mark.skipif(
    logprob.logprob_triton is None, reason="needs Triton (Linux): pip install triton"
)
devices = pytest.mark.parametrize("device", ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
VOCABULARIES = [1, 17, 1000, 151936]


def make_rows(shape, vocabulary, dtype, seed=0):
    """Logits [*shape, V] and targets [*shape] whose p is, in turn, as it falls, 0.5, 0.99 and
    0.9999."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, vocabulary, generator=draw, dtype=torch.float64) * 3
    targets = torch.randint(vocabulary, shape, generator=draw)
    rows, chosen = logits.view(-1, vocabulary), targets.view(-1)
    for i, p in zip(range(len(rows)), [None, 0.5, 0.99, 0.9999] * len(rows), strict=False):
        if p is not None and vocabulary > 1:
            others = torch.cat([rows[i, : chosen[i]], rows[i, chosen[i] + 1 :]]).logsumexp(0)
            rows[i, chosen[i]] = others + math.log(p / (1 - p))
    return (logits + 5).to(dtype), targets


def reference(logits, targets, temperature=1.0):
    """float64 (log-probs, entropy), differentiable."""
    logs = (logits.double() / temperature).log_softmax(-1)
    entropy = torch.special.entr(logs.exp()).sum(-1)
    return logs.gather(-1, targets[..., None].long())[..., 0], entropy


def reference_gradient(logits, targets, grad, temperature=1.0):
    leaf = logits.detach().double().requires_grad_()
    return torch.autograd.grad(reference(leaf, targets, temperature)[0], leaf, grad.double())[0]


def assert_relative(got, want, tolerance):
    error = (got.double() - want.double()).abs() / want.double().abs().clamp_min(1e-30)
    assert error.max() <= tolerance, f"relative error {error.max():.1e}, allowed {tolerance:.0e}"


class Allocations(TorchDispatchMode):
    """Records the size of the largest tensor an operation makes; views and in-place results are not
    made."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        storages = [
            x.untyped_storage().data_ptr() for x in [*args, *(kwargs or {}).values()] if torch.is_tensor(x)
        ]
        if torch.is_tensor(result) and result.untyped_storage().data_ptr() not in storages:
            self.largest = max(self.largest, result.numel())
        return result


# ---- selective_log_softmax


@devices
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_logprobs_entropy_and_gradient_agree_with_float64(vocabulary, dtype, temperature, device):
    logits, targets = make_rows((4,), vocabulary, dtype)
    logits, targets = logits.to(device).requires_grad_(), targets.to(device)
    grad = torch.tensor([1.0, -2.0, 0.5, 3.0], device=device)

    logprobs, entropy = selective_log_softmax(logits, targets, temperature, return_entropy=True)
    (got,) = torch.autograd.grad(logprobs, logits, grad)

    want, want_entropy = reference(logits, targets, temperature)
    assert logprobs.dtype == entropy.dtype == torch.float32 and not entropy.requires_grad
    assert (logprobs - want).abs().max() <= 1e-5
    assert (entropy - want_entropy).abs().max() <= 1e-5
    assert got.dtype == dtype and got.shape == logits.shape
    # bf16: one rounding, to 8 bits. (Triton's interpreter cuts where the GPU rounds: a whole unit
    # rather than half.)
    tolerance = 1e-5 if dtype == torch.float32 else 2**-7 if INTERPRETED else 2**-8
    assert_relative(got, reference_gradient(logits, targets, grad, temperature), tolerance)


@devices
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_the_gradient_of_bf16_logits_is_float32_until_it_is_stored(vocabulary, device):
    logits, targets = (x.to(device) for x in make_rows((4,), vocabulary, torch.bfloat16))
    grad = torch.tensor([1.0, -2.0, 0.5, 3.0], device=device)
    stats = logprob.RowStats.empty(4, logits.dtype, logits.device, with_entropy=False)
    out = torch.empty(4, vocabulary, device=device)
    logprob.row_forward(logits[None], targets, 0.9, stats)
    logprob.row_backward(logits[None], targets, 0.9, stats, grad, out)
    assert_relative(out, reference_gradient(logits, targets, grad, 0.9), 1e-5)


@devices
def test_one_minus_p_keeps_its_accuracy_as_p_nears_one(device):
    gaps = torch.tensor([5.0, 10.0, 15.0, 20.0], device=device)  # p(target) up to 1 - 2e-9
    logits = torch.stack([gaps + 30, torch.full_like(gaps, 30.0)], -1).requires_grad_()
    targets = torch.zeros(4, dtype=torch.int64, device=device)
    selective_log_softmax(logits, targets).sum().backward()
    want = torch.sigmoid(-gaps.double())
    assert_relative(logits.grad, torch.stack([want, -want], -1), 1e-5)


@devices
@pytest.mark.parametrize(
    "cut",
    [
        lambda x: x[:, :-1],
        lambda x: x[:, 1:, :33],
        lambda x: x[..., :33],
        lambda x: x[1, :, :33],
        lambda x: x.transpose(0, 1),
        lambda x: x[:, :1].expand(3, 4, 40),
        lambda x: x[:, 0],
        lambda x: x[0, 0],
        lambda x: x[:0],
        lambda x: x.view(3, 5, 4, 10)[:, :-1],
        lambda x: x.transpose(1, 2),
    ],
    ids=[
        "shifted",
        "both",
        "vocabulary",
        "row",
        "swapped",
        "expanded",
        "plane",
        "vector",
        "empty",
        "four",
        "strided",
    ],
)
def test_any_strides_give_what_a_copy_gives(cut, device):
    whole, _ = make_rows((3, 5), 40, torch.float32)
    whole = whole.to(device).requires_grad_()
    logits = cut(whole)
    targets = torch.randint(logits.shape[-1], logits.shape[:-1], device=device)
    weights = torch.randn(logits.shape[:-1], device=device)
    logprobs = selective_log_softmax(logits, targets)
    assert logprobs.shape == targets.shape
    (got,) = torch.autograd.grad(logprobs, whole, weights)

    leaf = whole.detach().double().requires_grad_()
    want = reference(cut(leaf), targets)[0]
    assert torch.allclose(logprobs.double(), want, atol=1e-5, rtol=0)
    assert torch.allclose(got.double(), torch.autograd.grad(want, leaf, weights.double())[0], atol=1e-6)


@devices
@pytest.mark.parametrize("cut", [lambda x: x[:, :-1], lambda x: x[..., :90]], ids=["shifted", "vocabulary"])
def test_a_sliced_tensor_is_read_without_a_copy(cut, device, monkeypatch):
    monkeypatch.setattr(logprob, "BLOCK_BYTES", 4 * 100 * 4)  # plain torch: four rows of 100 at a time
    logits = cut(torch.randn(6, 8, 100, device=device))
    targets = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=device)
    with Allocations() as made:
        selective_log_softmax(logits, targets, return_entropy=True)
    assert made.largest <= 4 * 100


@devices
def test_forbidden_tokens_get_no_probability_and_no_gradient(device):
    for vocabulary in (17, 20000):  # the second has whole blocks of -inf
        logits, targets = make_rows((3,), vocabulary, torch.float32)
        logits[:, 5:] = -math.inf
        logits[1, :] = -math.inf
        targets = torch.tensor([2, vocabulary - 1, 0])
        logits[1, targets[1]] = 4.0  # a row whose only allowed token is the target
        logits, targets = logits.to(device).requires_grad_(), targets.to(device)
        logprobs, entropy = selective_log_softmax(logits, targets, 0.8, return_entropy=True)
        logprobs.sum().backward()
        want, want_entropy = reference(logits, targets, 0.8)
        assert (logprobs - want).abs().max() <= 1e-5 and (entropy - want_entropy).abs().max() <= 1e-5
        assert logprobs[1] == 0 and entropy[1] == 0 and (logits.grad[1] == 0).all()
        assert (logits.grad[:, 5:] == 0).all()
        wanted = reference_gradient(logits, targets, torch.ones(3, device=device), 0.8)
        assert_relative(logits.grad[:, :5], wanted[:, :5], 1e-5)


@devices
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_masked_with_the_lowest_number_count_for_nothing(dtype, device):
    logits, targets = make_rows((4,), 20000, dtype)
    targets = targets % 3 + 19990
    logits[:, :19990] = torch.finfo(dtype).min  # the first blocks hold nothing else
    logits, targets = logits.to(device).requires_grad_(), targets.to(device)
    logprobs, entropy = selective_log_softmax(logits, targets, 0.5, return_entropy=True)
    logprobs.sum().backward()
    want, want_entropy = reference(logits, targets, 0.5)
    assert (logprobs - want).abs().max() <= 1e-5 and (entropy - want_entropy).abs().max() <= 1e-5
    assert (logits.grad[:, :19990] == 0).all() and logits.grad.isfinite().all()

    masked_target = torch.full_like(targets, 7)
    logprobs, entropy = selective_log_softmax(logits, masked_target, 0.5, return_entropy=True)
    assert (logprobs < -1e38).all() and (entropy - want_entropy).abs().max() <= 1e-5


@devices
def test_a_forbidden_target_has_logprob_minus_infinity(device):
    logits = torch.tensor([[1.0, -math.inf, 2.0]], device=device, requires_grad=True)
    logprobs, entropy = selective_log_softmax(logits, torch.tensor([1], device=device), return_entropy=True)
    logprobs.sum().backward()
    assert logprobs.item() == -math.inf
    assert (entropy - reference(logits, torch.tensor([0], device=device))[1]).abs().max() <= 1e-6
    assert_relative(logits.grad, torch.tensor([[-0.26894142, 1.0, -0.73105858]], device=device), 1e-5)

    logits = torch.full((1, 20000), -math.inf, device=device)  # blocks of -inf before the first allowed token
    logits[0, -2:] = torch.tensor([1.0, 2.0])
    logits.requires_grad_()
    logprobs, entropy = selective_log_softmax(logits, torch.tensor([7], device=device), return_entropy=True)
    logprobs.sum().backward()
    assert logprobs.item() == -math.inf and abs(entropy.item() - 0.5822031) <= 1e-6
    assert logits.grad[0, 7] == 1 and logits.grad[0, -1].item() == pytest.approx(-0.73105858)
    assert logits.grad.count_nonzero() == 3


@devices
def test_a_masked_row_gets_no_gradient_even_from_junk(device):
    logits, targets = make_rows((5,), 17, torch.float32)
    logits[1], logits[2], logits[3, 4] = math.nan, -math.inf, math.inf
    logits, targets = logits.to(device).requires_grad_(), targets.to(device)
    mask = torch.tensor([True, False, False, False, True], device=device)
    logprobs = selective_log_softmax(logits, targets)
    assert logprobs[1:4].isnan().all()  # as torch's own log_softmax says
    (logprobs.masked_fill(~mask, 0.0)).sum().backward()
    assert (logits.grad[~mask] == 0).all()
    want = reference_gradient(logits[mask], targets[mask], torch.ones(2, device=device))
    assert_relative(logits.grad[mask], want, 1e-5)


@devices
def test_all_rows_masked_gives_an_exactly_zero_gradient(device):
    logits, targets = make_rows((2, 3), 1000, torch.bfloat16)
    logits, targets = logits.to(device).requires_grad_(), targets.to(device)
    (selective_log_softmax(logits, targets) * 0).sum().backward()
    assert (logits.grad == 0).all()


@devices
def test_every_row_is_reached_when_rows_outnumber_a_block(device, monkeypatch):
    monkeypatch.setattr(logprob, "BLOCK_BYTES", 4 * 17 * 5)  # plain torch: five rows at a time
    logits, targets = make_rows((3, 7), 17, torch.float32)
    logits, targets = logits.to(device), targets.to(device)
    for part, chosen in [
        (logits, targets),
        (logits[:, :-1], targets[:, :-1]),
        (logits[:, :2], targets[:, :2]),
    ]:
        part = part.detach().requires_grad_()
        logprobs = selective_log_softmax(part, chosen)
        assert (logprobs - reference(part, chosen)[0]).abs().max() <= 1e-5
        ones = torch.ones_like(logprobs)
        assert_relative(
            torch.autograd.grad(logprobs, part, ones)[0], reference_gradient(part, chosen, ones), 1e-5
        )


@devices
def test_rows_lie_further_apart_than_32_bits_reach(device):
    stride, vocabulary = 2**30, 40  # the third row starts at element 2**31, though row and stride fit 32 bits
    try:
        storage = torch.empty(
            2 * stride + vocabulary, dtype=torch.bfloat16, device=device
        )  # only touched pages cost
    except RuntimeError:
        pytest.skip("needs 4.3 GB of address space")
    logits = storage.as_strided((3, vocabulary), (stride, 1))
    values, targets = (x.to(device) for x in make_rows((3,), vocabulary, torch.bfloat16))
    logits.copy_(values)
    assert (selective_log_softmax(logits, targets) - reference(values, targets)[0]).abs().max() <= 1e-5

    stats = logprob.RowStats.empty(3, logits.dtype, logits.device, with_entropy=False)
    grad = torch.ones(3, device=device)
    logprob.row_forward(logits[None], targets, 1.0, stats)
    logprob.row_backward(
        logits[None], targets, 1.0, stats, grad, out=logits
    )  # in place, as linear_logprobs does
    assert_relative(logits, reference_gradient(values, targets, grad), 2**-7)


def test_wrong_arguments_are_named():
    logits, targets = torch.randn(2, 3, 7), torch.zeros(2, 3, dtype=torch.int64)
    for temperature in (0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature must be positive"):
            selective_log_softmax(logits, targets, temperature)
    with pytest.raises(ValueError, match=r"targets must be \[2, 3\]"):
        selective_log_softmax(logits, targets[:, :-1])
    with pytest.raises(TypeError, match="int64 or int32"):
        selective_log_softmax(logits, targets.float())
    with pytest.raises(TypeError, match="logits must be floating"):
        selective_log_softmax(targets, targets[:, 0])
    with pytest.raises(ValueError, match="V at least 1"):
        selective_log_softmax(logits[..., :0], targets)
    for bad in (7, -100):
        with pytest.raises(ValueError, match=r"0 \.\. 6"):
            selective_log_softmax(logits, torch.full((2, 3), bad))
    assert torch.equal(selective_log_softmax(logits, targets.int()), selective_log_softmax(logits, targets))


# ---- linear_logprobs


def make_linear(count, width, vocabulary, dtype, device, seed=0):
    """hidden, weight, targets. Quarters, so that every order of summing them gives the same logits,
    rounded or not."""
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, width, generator=draw).mul(4).round().div(4).to(device, dtype)
    weight = torch.randn(vocabulary, width, generator=draw).mul(4).round().div(4).to(device, dtype)
    return hidden, weight, torch.randint(vocabulary, (count,), generator=draw).to(device)


@devices
@pytest.mark.parametrize("chunk", [1, 3, 8, 11, 100, None])
def test_the_linear_head_agrees_with_float64_for_any_chunk(chunk, device):
    hidden, weight, targets = make_linear(11, 6, 50, torch.float32, device)
    hidden.requires_grad_(), weight.requires_grad_()
    grad = torch.randn(11, device=device)
    logprobs, entropy = linear_logprobs(hidden, weight, targets, 0.8, chunk=chunk, return_entropy=True)
    got = torch.autograd.grad(logprobs, (hidden, weight), grad)

    leaves = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    want, want_entropy = reference(leaves[0] @ leaves[1].T, targets, 0.8)
    assert logprobs.dtype == torch.float32 and not entropy.requires_grad
    assert (logprobs - want).abs().max() <= 1e-5 and (entropy - want_entropy).abs().max() <= 1e-5
    for mine, true in zip(got, torch.autograd.grad(want, leaves, grad.double()), strict=True):
        assert (mine - true).norm() <= 1e-5 * true.norm()


@devices
@pytest.mark.parametrize("chunk", [2, None])
def test_a_bf16_head_is_float32_but_for_its_logits(chunk, device):
    hidden, weight, targets = make_linear(32, 16, 300, torch.bfloat16, device)
    hidden.requires_grad_(), weight.requires_grad_()
    logprobs = linear_logprobs(hidden, weight, targets, chunk=chunk)
    assert logprobs.dtype == torch.float32
    rounded = hidden.detach() @ weight.detach().T  # the logits a bf16 head gives
    assert (logprobs - reference(rounded, targets)[0]).abs().max() <= 1e-5

    grad = torch.linspace(-1, 1, 32, device=device)
    got = torch.autograd.grad(logprobs, (hidden, weight), grad)
    d = reference_gradient(rounded, targets, grad)
    for mine, want in zip(got, (d @ weight.detach().double(), d.T @ hidden.detach().double()), strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine - want).norm() <= (8e-3 if INTERPRETED else 4e-3) * want.norm()


@pytest.mark.skipif(INTERPRETED, reason="asks nothing of the kernels, and is slow in the interpreter")
@devices
def test_a_bf16_weight_gradient_is_summed_over_chunks_in_float32(device):
    count = 2000  # the same row again and again: a bf16 sum would stop growing at 256 times one addend
    hidden, weight, targets = make_linear(1, 4, 8, torch.bfloat16, device)
    weight.requires_grad_()
    logprobs = linear_logprobs(hidden.expand(count, 4), weight, targets.expand(count), chunk=1)
    (got,) = torch.autograd.grad(logprobs.sum(), weight)
    (one,) = torch.autograd.grad(linear_logprobs(hidden, weight, targets).sum(), weight)
    assert (got - count * one.float()).norm() <= 1e-2 * (count * one).norm()


@devices
def test_an_empty_batch_has_empty_logprobs_and_zero_gradients(device):
    hidden, weight, targets = make_linear(0, 6, 50, torch.float32, device)
    hidden.requires_grad_(), weight.requires_grad_()
    logprobs, entropy = linear_logprobs(hidden, weight, targets, return_entropy=True)
    assert logprobs.shape == entropy.shape == (0,)
    logprobs.sum().backward()
    assert hidden.grad.shape == (0, 6) and (weight.grad == 0).all()
    assert linear_logprobs(hidden.detach(), weight.detach(), targets).shape == (0,)


@devices
def test_masked_rows_add_nothing_to_either_gradient(device):
    hidden, weight, targets = make_linear(6, 4, 20, torch.float32, device)
    hidden[2] = 1e30  # float32 logits of padding may be anything
    weight.requires_grad_()
    mask = torch.tensor([1, 1, 0, 1, 0, 1], device=device).bool()
    (got,) = torch.autograd.grad(linear_logprobs(hidden, weight, targets, chunk=4)[mask].sum(), weight)
    (want,) = torch.autograd.grad(linear_logprobs(hidden[mask], weight, targets[mask]).sum(), weight)
    assert torch.allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("wanted", [0, 1])
def test_only_the_wanted_gradient_is_computed(wanted):
    tensors = list(make_linear(9, 6, 50, torch.float32, "cpu"))
    tensors[wanted].requires_grad_()
    logprobs = linear_logprobs(*tensors, chunk=4)
    products = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "mm" in func.__name__:
                products.append(func.__name__)
            return func(*args, **(kwargs or {}))

    with Products():
        logprobs.sum().backward()
    assert len(products) == 6  # three chunks: the logits again, and one gradient
    assert tensors[wanted].grad is not None and tensors[1 - wanted].grad is None


@devices
def test_the_logits_never_stand_whole(device):
    count, width, vocabulary, chunk = 200, 4, 50, 10
    hidden, weight, targets = make_linear(count, width, vocabulary, torch.float32, device)
    hidden.requires_grad_(), weight.requires_grad_()
    with Allocations() as made:
        linear_logprobs(hidden, weight, targets, chunk=chunk).sum().backward()
    assert made.largest <= max(chunk * vocabulary, count * width)
    chunks = [logits for _, _, logits in logprob._logits_in_chunks(hidden.detach(), weight.detach(), chunk)]
    assert len(chunks) == 20 and len({x.data_ptr() for x in chunks}) == 1  # one buffer


@devices
def test_autocast_runs_the_head_in_its_dtype_and_keeps_the_float32_gradient(device):
    hidden, weight, targets = make_linear(12, 8, 40, torch.float32, device)
    hidden.requires_grad_(), weight.requires_grad_()
    with torch.autocast(device, dtype=torch.bfloat16):
        logprobs = linear_logprobs(hidden, weight, targets, chunk=5)
    want = linear_logprobs(hidden.bfloat16(), weight.bfloat16(), targets, chunk=5)
    assert torch.equal(logprobs, want) and logprobs.dtype == torch.float32
    logprobs.sum().backward()
    assert weight.grad.dtype == hidden.grad.dtype == torch.float32
    assert (weight.grad != weight.grad.bfloat16().float()).any()  # not rounded to bf16 on the way
    rounded = (hidden.bfloat16() @ weight.bfloat16().T).detach()
    d = reference_gradient(rounded, targets, torch.ones(12, device=device)).bfloat16().double()
    want = d.T @ hidden.bfloat16().double()
    assert (weight.grad - want).norm() <= (1e-2 if INTERPRETED else 5e-4) * want.norm()


@devices
def test_a_strided_hidden_and_weight_are_taken_as_they_are(device):
    wide, tall, targets = make_linear(9, 12, 30, torch.float32, device)
    hidden, weight = wide[:, ::2], tall[:, :6].T.contiguous().T
    got = [x.detach().requires_grad_() for x in (hidden, weight)]
    want = [x.detach().contiguous().requires_grad_() for x in (hidden, weight)]
    linear_logprobs(*got, targets, chunk=4).sum().backward()
    linear_logprobs(*want, targets, chunk=4).sum().backward()
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-5)


def test_chunks_fill_their_budget_in_whole_tiles_on_a_gpu():
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert logprob._automatic_chunk(152_064, torch.bfloat16, gpu) == 27 * 128  # of 1 GB
    assert logprob._automatic_chunk(152_064, torch.float32, gpu) == 13 * 128
    assert logprob._automatic_chunk(2**25, torch.float32, gpu) == logprob.CHUNK_ROWS_MIN
    assert logprob._automatic_chunk(2**12, torch.float32, cpu) == 2**10  # of 16 MB


def test_gradcheck_passes_in_float64():
    hidden, weight, targets = make_linear(5, 3, 7, torch.float64, "cpu")
    hidden.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda h, w: linear_logprobs(h, w, targets, 0.7, chunk=2), (hidden, weight)
    )
    logits = torch.randn(2, 4, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: selective_log_softmax(x[:, :-1], torch.ones(2, 3).long(), 1.3), logits
    )


def test_wrong_arguments_of_the_linear_head_are_named():
    hidden, weight, targets = make_linear(4, 3, 7, torch.float32, "cpu")
    with pytest.raises(ValueError, match=r"hidden must be \[N, D\] and weight \[V, D\]"):
        linear_logprobs(hidden, weight.T, targets)
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        linear_logprobs(hidden, weight, targets, chunk=0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        linear_logprobs(hidden, weight, targets, 0.0)
    with pytest.raises(ValueError, match=r"targets must be \[4\]"):
        linear_logprobs(hidden, weight, targets[:3])
    with pytest.raises(ValueError, match=r"0 \.\. 6"):
        linear_logprobs(hidden, weight, targets + 7)
    with pytest.raises(TypeError, match=r"hidden is .*float32 but weight .*bfloat16"):
        linear_logprobs(hidden, weight.bfloat16(), targets)


# ---- the two ways to Triton


@pytest.mark.slow
@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="this is the run inside")
def test_the_triton_kernels_pass_these_tests_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning"]
    command = [sys.executable, "-m", "pytest", *options, __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]


@pytest.mark.skipif(not INTERPRETED, reason="asked in the interpreter's run")
def test_the_interpreter_run_takes_the_triton_path():
    assert logprob._use_triton(torch.zeros(1)) and logprob._use_triton(torch.zeros(1, dtype=torch.bfloat16))


@needs_cuda
def test_cuda_takes_the_triton_path():
    assert logprob._use_triton(torch.zeros(1, device="cuda"))


# ---- on a GPU only


@needs_cuda
def test_an_out_of_range_target_on_a_gpu_is_nan():
    logits = torch.randn(3, 17, device="cuda")
    logprobs = selective_log_softmax(logits, torch.tensor([-100, 17, 3], device="cuda"))
    assert logprobs.isnan().tolist() == [True, True, False]


@needs_cuda
def test_more_rows_than_a_grid_axis_holds():
    logits, targets = torch.randn(70_000, 9, device="cuda"), torch.randint(9, (70_000,), device="cuda")
    assert (selective_log_softmax(logits, targets) - reference(logits, targets)[0]).abs().max() <= 1e-5


@needs_cuda
def test_more_logits_than_32_bits_count():
    vocabulary = 151936
    logits = torch.randn(
        2**31 // vocabulary + 2, vocabulary, device="cuda", dtype=torch.bfloat16
    ).requires_grad_()
    targets = torch.randint(vocabulary, logits.shape[:1], device="cuda")
    logprobs = selective_log_softmax(logits, targets)
    logprobs.sum().backward()
    last, chosen = logits[-1:].detach(), targets[-1:]
    assert (logprobs[-1:] - reference(last, chosen)[0]).abs().max() <= 1e-5
    assert_relative(logits.grad[-1:], reference_gradient(last, chosen, torch.ones(1, device="cuda")), 2**-8)


@needs_cuda
def test_the_linear_head_of_a_large_vocabulary_stays_within_its_budget():
    hidden, weight, targets = make_linear(4096, 512, 151936, torch.bfloat16, "cuda")
    hidden.requires_grad_(), weight.requires_grad_()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    linear_logprobs(hidden, weight, targets).sum().backward()
    held = (
        weight.numel() * (4 + 2) + 2 * hidden.numel() * 2
    )  # the weight's gradient in float32 and bf16, hidden's
    assert torch.cuda.max_memory_allocated() - before <= held + logprob.CHUNK_BYTES_GPU + (128 << 20)
