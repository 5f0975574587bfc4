"""Log-probs of chosen tokens and their gradient, without a float32 copy of the logits.

With l the logits of a row [V], t its target and T the temperature:

    log p_t = l_t / T - log sum_j exp(l_j / T)          d log p_t / d l_j = (1[j = t] - p_j) / T

Arithmetic and results are float32 whatever the dtype of the logits (float64 for float64 logits, so
that gradients can be checked). The forward keeps three numbers per row: the maximum m, others =
sum_{j != t} exp((l_j - m) / T), and total = others + exp((l_t - m) / T). The backward needs no
more, and others / total gives 1 - p_t at full relative accuracy where p_t is close to 1 and the
plain difference would have cancelled.

Two paths compute the same: the Triton kernels of `logprob_triton.py` (on CUDA, and in Triton's
interpreter), and plain torch in blocks of rows (elsewhere, or where Triton is missing). Left out:
bias, label smoothing, double backward, vocabulary sharded over devices.
"""

import math
from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable

try:
    from . import logprob_triton
except ImportError:  # Triton ships for Linux only
    logprob_triton = None  # type: ignore[assignment]

BLOCK_BYTES = 16 << 20  # plain torch: float32 logits held at a time, about a cache's worth
CHUNK_BYTES_CPU = 16 << 20  # linear_logprobs: the logits buffer
# every chunk reads and writes the gradient of the whole weight in float32
CHUNK_BYTES_GPU = 1 << 30
ROWS_OF_A_TILE = 128  # matrix products on a GPU take so many rows at a time; a part of a tile costs one
CHUNK_ROWS_MIN = 64  # every chunk reads the whole weight: fewer rows would spend their time on that


def selective_log_softmax(logits, targets, temperature=1.0, return_entropy=False):
    """log softmax(logits / temperature) at the targets, in nats.

    logits   [..., V], floating. Any strides with a dense last axis are read in place (`logits[:, :-1]`,
             `logits[..., :V_real]`); other layouts, and slices of more than three axes that don't
             merge, are copied. -inf forbids a token: its p and its gradient are 0. A row of nothing
             but -inf gives NaN.
    targets  [...], integer, 0 <= target < V. Out of range: an error on a CPU, a NaN log-prob on a
             GPU, where looking would stall. Give positions that don't count any valid id.
    Returns log-probs [...] float32, differentiable in logits, whose gradient is computed in float32
    and rounded once to their dtype. A row whose incoming gradient is 0 gets gradient 0, even where
    its logits are NaN. With return_entropy: (log-probs, entropy); the entropy, -sum_j p_j log p_j,
    [...] float32, is a diagnostic without gradient. Errors: ValueError or TypeError naming the
    shape, dtype, device or value that is wrong.
    """
    _check_floating("logits", logits)
    if logits.dim() == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must be [..., V] with V at least 1 (got {list(logits.shape)})")
    _check_targets(targets, list(logits.shape[:-1]), logits.shape[-1], logits.device)
    _check_temperature(temperature)
    logprobs, entropy = _SelectiveLogSoftmax.apply(logits, targets, float(temperature), return_entropy)
    return (logprobs, entropy) if return_entropy else logprobs


def linear_logprobs(hidden, weight, targets, temperature=1.0, chunk=None, return_entropy=False):
    """selective_log_softmax(hidden @ weight.T, targets, temperature), `chunk` rows at a time.

    hidden   [N, D] and
    weight   [V, D], as in nn.Linear without bias, both of one floating dtype. Under autocast they
             may differ, and the product runs in autocast's dtype.
    targets  [N], as in `selective_log_softmax`.
    chunk    rows at a time; None fits the buffer into about 1 GB on a GPU, in rows a multiple of 128,
             16 MB on a CPU; at least 64.
    Returns log-probs [N] float32 in nats, differentiable in hidden and weight; with return_entropy,
    (log-probs, entropy). The logits are rounded to the dtype of the product, as the model's own
    head would round them; everything after them is float32. The backward makes each chunk of logits
    again and turns it into its gradient in place. The gradient of a bf16 weight is summed over the
    chunks in float32. Errors: ValueError or TypeError naming the shape, dtype, device or value that
    is wrong.
    """
    _check_floating("hidden", hidden)
    _check_floating("weight", weight)
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1] or weight.shape[0] == 0:
        got = f"{list(hidden.shape)} and {list(weight.shape)}"
        raise ValueError(f"hidden must be [N, D] and weight [V, D] with V at least 1 (got {got})")
    if hidden.device != weight.device:
        raise ValueError(f"hidden is on {hidden.device} but weight on {weight.device}")
    _check_targets(targets, [hidden.shape[0]], weight.shape[0], hidden.device)
    _check_temperature(temperature)
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    elif hidden.dtype == weight.dtype:
        dtype = hidden.dtype
    else:
        raise TypeError(
            f"hidden is {hidden.dtype} but weight {weight.dtype}: cast one, or use torch.autocast"
        )
    if chunk is None:
        chunk = _automatic_chunk(weight.shape[0], dtype, hidden.device)
    elif chunk < 1:
        raise ValueError(f"chunk must be at least 1 row (got {chunk}); None chooses by memory")
    logprobs, entropy = _LinearLogprobs.apply(
        hidden, weight, targets, float(temperature), chunk, return_entropy, dtype
    )
    return (logprobs, entropy) if return_entropy else logprobs


class RowStats(NamedTuple):
    """What the forward finds of each row; every field [N], see the top of this file."""

    logprobs: torch.Tensor | None
    maxima: torch.Tensor
    others: torch.Tensor
    totals: torch.Tensor
    entropies: torch.Tensor | None

    @classmethod
    def empty(cls, count, logits_dtype, device, with_entropy):
        dtype = torch.float64 if logits_dtype == torch.float64 else torch.float32
        logprobs, maxima, others, totals = (torch.empty(count, dtype=dtype, device=device) for _ in range(4))
        return cls(logprobs, maxima, others, totals, torch.empty_like(totals) if with_entropy else None)

    def part(self, rows):
        logprobs, entropies = (None if x is None else x[rows] for x in (self.logprobs, self.entropies))
        return RowStats(logprobs, self.maxima[rows], self.others[rows], self.totals[rows], entropies)


class _SelectiveLogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, targets, temperature, return_entropy):
        stats = RowStats.empty(targets.numel(), logits.dtype, logits.device, return_entropy)
        flat_targets = _flat(targets, torch.int64)
        row_forward(_as_rows(logits), flat_targets, temperature, stats)
        ctx.save_for_backward(logits, flat_targets, stats.maxima, stats.others, stats.totals)
        ctx.temperature = temperature
        return _shaped_outputs(ctx, stats, targets.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_logprobs, _):
        logits, targets, maxima, others, totals = ctx.saved_tensors
        stats = RowStats(None, maxima, others, totals, None)
        grad_logits = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        out = grad_logits.view(targets.numel(), logits.shape[-1])
        row_backward(
            _as_rows(logits), targets, ctx.temperature, stats, _flat(grad_logprobs, stats.totals.dtype), out
        )
        return grad_logits, None, None, None


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature, chunk, return_entropy, dtype):
        flat_targets = _flat(targets, torch.int64)
        stats = RowStats.empty(targets.numel(), dtype, hidden.device, return_entropy)
        for rows, _, logits in _logits_in_chunks(hidden, weight.to(dtype), chunk):
            row_forward(logits[None], flat_targets[rows], temperature, stats.part(rows))
        ctx.save_for_backward(hidden, weight, flat_targets, stats.maxima, stats.others, stats.totals)
        ctx.temperature, ctx.chunk, ctx.dtype = temperature, chunk, dtype
        return _shaped_outputs(ctx, stats, targets.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_logprobs, *_):
        hidden, weight, targets, maxima, others, totals = ctx.saved_tensors
        stats = RowStats(None, maxima, others, totals, None)
        grad = _flat(grad_logprobs, stats.totals.dtype)
        weight_cast = weight.to(ctx.dtype)
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden, dtype=ctx.dtype) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=stats.totals.dtype) if wants_weight else None
        for rows, hidden_rows, logits in _logits_in_chunks(hidden, weight_cast, ctx.chunk):
            row_backward(
                logits[None], targets[rows], ctx.temperature, stats.part(rows), grad[rows], out=logits
            )
            grad_logits = logits  # turned into it in place
            if grad_hidden is not None:
                torch.mm(grad_logits, weight_cast, out=grad_hidden[rows])
            if grad_weight is not None:
                _add_product(grad_weight, grad_logits.t(), hidden_rows)
        grad_hidden = None if grad_hidden is None else grad_hidden.to(hidden.dtype)
        grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, None, None, None, None, None


def row_forward(logits, targets, temperature, stats):
    """Fills `stats` [N] from logits [A, B, V] (dense last axis, A * B = N) and targets [N] int64."""
    if targets.numel() == 0:
        return
    rows_of = logprob_triton.row_forward if _use_triton(logits) else _row_forward_torch
    rows_of(logits, targets, temperature, stats)


def row_backward(logits, targets, temperature, stats, grad, out):
    """out [N, V] = grad [N] * (1[j = t] - p) / temperature, rounded once; out may be the logits."""
    if targets.numel() == 0:
        return
    rows_of = logprob_triton.row_backward if _use_triton(logits) else _row_backward_torch
    rows_of(logits, targets, temperature, stats, grad, out)


def _row_forward_torch(logits, targets, temperature, stats):
    lowest = torch.finfo(stats.totals.dtype).min
    for rows, block in _blocks(logits):
        target = targets[rows, None]
        x = block.to(stats.totals.dtype)
        maximum = x.amax(-1, keepdim=True)
        z = (x - maximum).div_(temperature)  # [n, V]
        target_z = z.gather(-1, target)
        e = z.exp() if stats.entropies is not None else z.exp_()
        target_e = e.gather(-1, target)
        e.scatter_(-1, target, 0.0)
        others = e.sum(-1, keepdim=True)
        total = others + target_e
        found = RowStats(target_z - total.log(), maximum, others, total, None)
        if stats.entropies is not None:
            z.scatter_(-1, target, 0.0).clamp_(min=lowest).mul_(e)  # clamped: 0 * -inf would be NaN
            weighted = z.sum(-1, keepdim=True) + target_z.clamp(min=lowest) * target_e
            found = found._replace(entropies=total.log() - weighted / total)
        for name, value in zip(RowStats._fields, found, strict=True):
            if value is not None:
                getattr(stats, name)[rows] = value[:, 0]


def _row_backward_torch(logits, targets, temperature, stats, grad, out):
    for rows, block in _blocks(logits):
        total = stats.totals[rows, None]
        scale = grad[rows, None] / temperature  # [n, 1]
        # [n, V]
        d = (block.to(total.dtype) - stats.maxima[rows, None]).div_(temperature).exp_().mul_(-scale / total)
        d.scatter_(-1, targets[rows, None], scale * stats.others[rows, None] / total)
        d.masked_fill_(scale == 0, 0.0)  # a row without gradient gets none, whatever it holds
        out[rows] = d


def _blocks(logits):
    """Walks [A, B, V] in blocks of about BLOCK_BYTES as float32: (slice of the N rows, [n, V])."""
    outer, inner, vocabulary = logits.shape
    most = max(1, BLOCK_BYTES // (4 * vocabulary))
    outer_step, inner_step = max(1, most // inner), min(inner, most)
    for a in range(0, outer, outer_step):
        for b in range(0, inner, inner_step):
            block = logits[a : a + outer_step, b : b + inner_step]
            first = a * inner + b
            yield slice(first, first + block.shape[0] * block.shape[1]), block.flatten(0, 1)


def _logits_in_chunks(hidden, weight, chunk):
    """Yields (rows, hidden[rows], their logits [n, V]); each chunk overwrites the last."""
    count, dtype = hidden.shape[0], weight.dtype
    buffer = torch.empty(min(chunk, count), weight.shape[0], dtype=dtype, device=weight.device)
    for first in range(0, count, chunk):
        rows = slice(first, min(first + chunk, count))
        hidden_rows = hidden[rows].to(dtype)
        yield rows, hidden_rows, torch.mm(hidden_rows, weight.t(), out=buffer[: rows.stop - rows.start])


def _add_product(total, a, b):
    """total += a @ b, summed in total's dtype (float32 for bf16 factors)."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    elif total.is_cuda:
        # CUDA only; no [V, D] product stands beside total
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(a.to(total.dtype), b.to(total.dtype))


def _use_triton(logits):
    if logprob_triton is None or logits.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    return logits.is_cuda or logprob_triton.INTERPRETED


def _as_rows(logits):
    """[..., V] as [A, B, V] with a dense last axis; a view where two strides address the rows."""
    vocabulary = logits.shape[-1]
    if vocabulary > 1 and logits.stride(-1) != 1:
        logits = logits.contiguous()
    try:
        return logits.view(1, logits.numel() // vocabulary, vocabulary)
    except RuntimeError:  # the leading axes don't merge into one stride
        return logits.flatten(0, -3)


def _shaped_outputs(ctx, stats, shape):
    entropy = None
    if stats.entropies is not None:
        entropy = stats.entropies.view(shape)
        ctx.mark_non_differentiable(entropy)
    return stats.logprobs.view(shape), entropy


def _flat(x, dtype):
    # contiguous: the gradient of a sum arrives with stride 0
    return x.reshape(-1).to(dtype).contiguous()


def _automatic_chunk(vocabulary, dtype, device):
    row = vocabulary * dtype.itemsize
    if device.type == "cpu":
        return max(CHUNK_ROWS_MIN, CHUNK_BYTES_CPU // row)
    rows = CHUNK_BYTES_GPU // row
    return max(CHUNK_ROWS_MIN, rows - rows % ROWS_OF_A_TILE)


def _check_floating(name, x):
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point (got {x.dtype})")


def _check_temperature(temperature):
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite (got {temperature})")


def _check_targets(targets, shape, vocabulary, device):
    if targets.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"targets must be int64 or int32 token ids (got {targets.dtype})")
    if list(targets.shape) != shape:
        raise ValueError(f"targets must be {shape}, one per row (got {list(targets.shape)})")
    if targets.device != device:
        raise ValueError(f"targets are on {targets.device} but the rows on {device}")
    # on a GPU the look would wait for all work in flight
    if device.type == "cpu" and targets.numel():
        low, high = (int(x) for x in targets.aminmax())
        if low < 0 or high >= vocabulary:
            raise ValueError(
                f"targets must lie in 0 .. {vocabulary - 1} (got {low} .. {high}): "
                "give positions that don't count any valid id"
            )
