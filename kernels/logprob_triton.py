"""The row kernels in Triton: a program and one pass per row of logits, float32 arithmetic.

`row_forward` and `row_backward` have the contract of their namesakes in `logprob.py`, which calls
these on CUDA. With TRITON_INTERPRET=1 in the environment before the first import they run on a CPU
in Triton's interpreter, slowly: that is for tests. No autotuning (the interpreter has none): BLOCK
and the warp counts below are fixed.
"""

import os

import torch
import triton
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BLOCK = 8192  # logits of one row held at a time; a power of two
LOWEST = tl.constexpr(torch.finfo(torch.float32).min)


def row_forward(logits, targets, temperature, stats):
    rows, vocabulary = targets.numel(), logits.shape[2]
    block, warps = _launch_shape(vocabulary)
    with torch.cuda.device_of(logits):  # Triton launches on the current device, not on the tensor's
        _forward_kernel[(rows,)](  # one axis: the others stop at 65,535 programs
            logits, targets, stats.logprobs, stats.maxima, stats.others, stats.totals, stats.entropies,
            logits.shape[1], logits.stride(0), logits.stride(1), 1.0 / temperature,
            VOCABULARY=vocabulary, ENTROPY=stats.entropies is not None, BLOCK=block, num_warps=warps,
        )  # fmt: skip


def row_backward(logits, targets, temperature, stats, grad, out):
    rows, vocabulary = targets.numel(), logits.shape[2]
    block, warps = _launch_shape(vocabulary)
    with torch.cuda.device_of(logits):
        _backward_kernel[(rows,)](
            logits, targets, stats.maxima, stats.others, stats.totals, grad, out,
            logits.shape[1], logits.stride(0), logits.stride(1), out.stride(0), 1.0 / temperature,
            VOCABULARY=vocabulary, BLOCK=block, num_warps=warps,
        )  # fmt: skip


def _launch_shape(vocabulary):
    block = min(BLOCK, max(16, triton.next_power_of_2(vocabulary)))
    return block, 8 if block >= 2048 else 4


@triton.jit
def _forward_kernel(
    logits, targets, logprobs, maxima, others_out, totals, entropies,
    inner, outer_stride, inner_stride, inverse_temperature,
    VOCABULARY: tl.constexpr, ENTROPY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)  # int32 would overflow where rows x vocabulary passes 2**31
    logits += row // inner * outer_stride + row % inner * inner_stride
    target = tl.load(targets + row)
    in_range = (target >= 0) & (target < VOCABULARY)
    target_logit = tl.load(logits + target, mask=in_range, other=float("nan")).to(tl.float32)

    # The running maximum is never -inf, so a block of nothing but -inf subtracts none from another.
    maximum = tl.maximum(target_logit, LOWEST)
    others = 0.0  # sum of exp over all tokens but the target
    weighted = 0.0  # sum of z * exp(z) over them, for the entropy
    for first in range(0, VOCABULARY, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        x = tl.load(logits + columns, mask=columns < VOCABULARY, other=float("-inf")).to(tl.float32)
        new_maximum = tl.maximum(maximum, tl.max(x, axis=0))
        shift = (maximum - new_maximum) * inverse_temperature
        shrink = tl.exp(shift)
        z = (x - new_maximum) * inverse_temperature
        e = tl.where(columns == target, 0.0, tl.exp(z))
        if ENTROPY:  # the guards keep 0 * -inf out
            weighted = tl.where(shrink > 0, (weighted + others * shift) * shrink, 0.0)
            weighted += tl.sum(tl.where(e > 0, z * e, 0.0), axis=0)
        others = others * shrink + tl.sum(e, axis=0)
        maximum = new_maximum

    z = (target_logit - maximum) * inverse_temperature
    e = tl.exp(z)
    total = others + e
    tl.store(logprobs + row, z - tl.log(total))
    tl.store(maxima + row, maximum)
    tl.store(others_out + row, others)
    tl.store(totals + row, total)
    if ENTROPY:
        weighted += tl.where(e > 0, z * e, 0.0)
        tl.store(entropies + row, tl.log(total) - weighted / total)


@triton.jit
def _backward_kernel(
    logits, targets, maxima, others, totals, grad, out,
    inner, outer_stride, inner_stride, out_stride, inverse_temperature,
    VOCABULARY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits += row // inner * outer_stride + row % inner * inner_stride
    out += row * out_stride
    target = tl.load(targets + row)
    maximum = tl.load(maxima + row)
    total = tl.load(totals + row)
    others_share = tl.load(others + row) / total  # 1 - p(target), without its cancellation
    scale = tl.load(grad + row) * inverse_temperature
    # a row without gradient is not read, and gets none whatever it holds
    length = tl.where(scale != 0, VOCABULARY, 0)
    for first in range(0, VOCABULARY, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        # Each element is read before it is written, by the same program: `out` may be `logits`
        # itself.
        x = tl.load(logits + columns, mask=columns < length, other=float("-inf")).to(tl.float32)
        p = tl.exp((x - maximum) * inverse_temperature) / total
        d = tl.where(columns == target, others_share, -p) * scale
        d = tl.where(columns < length, d, 0.0)
        tl.store(out + columns, d.to(out.dtype.element_ty), mask=columns < VOCABULARY)
