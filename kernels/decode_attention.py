"""Attention of one decode step where G samples share a prompt: its keys are read once.

    out = softmax(scale * q [k_prompt | k_own]^T) [v_prompt | v_own]

On a GPU the keys are cut into splits, so that few questions with long contexts still fill the
device. For each split s one program keeps, per query, the largest score m_s, the sum l_s = sum_j
exp(x_j - m_s) and the vector a_s = sum_j exp(x_j - m_s) v_j. A second kernel joins them:

    out = sum_s exp(m_s - m) a_s / sum_s exp(m_s - m) l_s,   m = max_s m_s

The kernel of the splits is launched twice, and differs only in what shares keys: all G*R queries of
a question and key/value head read its prompt as one matrix, the R queries of a sample read its own
keys.

Letters: P questions, G samples, H key/value heads, R query heads for each of them, d width of a
head, L prompt slots, T own slots, S splits of prompt and own keys together.
"""

import math
import os

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # Triton ships for Linux only
    triton = None

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # of the kernels
WIDEST = 256  # heads: of wider ones no block fits a GPU's shared memory and registers
# By bytes of a number: most queries of one program, and most keys held at a time. Float32 is
# multiplied without tensor cores, whose operands stand in registers too: more would spill.
BLOCKS = {2: (128, 64), 4: (32, 16)}
# at least: each split costs a [rows, d] float32 matrix, written and read again
KEYS_PER_SPLIT = 128
MOST_SPLITS = 16
# Programs wanted on each multiprocessor. Those of own keys take few registers and little memory.
PROGRAMS_PROMPT = 2
PROGRAMS_OWN = 4


def decode_attention(query, prompt_key, prompt_value, own_key, own_value, prompt_lengths, own_length, scale):
    """Attention of each row's newest token to its question's prompt and to its own tokens.

    query           [P*G, H*R, d], row p*G + g, head h*R + r: reads key/value head h. Any strides
                    with a dense last axis, here and below.
    prompt_key,
    prompt_value    [P, H, L, d], of one dtype with query: float32, bfloat16 or float16 (float64: plain
                    torch).
    own_key,
    own_value       [P, H, G, T, d]
    prompt_lengths  [P], integer: the first prompt_lengths[p] of the L slots count.
    own_length      one integer on the device: the first own_length of the T slots count, in every
                    row. Nothing here depends on its value but what is read, so that a captured CUDA
                    graph can be replayed as it grows.

    Slots that don't count may hold anything, NaN too. Returns [P*G, H*R, d] in query's dtype,
    contiguous. Scores and sums are float32; as is usual, the weights are rounded to the dtype of
    the values before they meet. A row without any key gives NaN. Not differentiable. Errors:
    ValueError or TypeError naming the shape, stride or dtype that is wrong.
    """
    _check(query, prompt_key, prompt_value, own_key, own_value)
    by_kernel = triton is not None and query.dtype in DTYPES and query.shape[-1] <= WIDEST
    attend = launch if by_kernel and (query.is_cuda or INTERPRETED) else decode_attention_torch
    return attend(query, prompt_key, prompt_value, own_key, own_value, prompt_lengths, own_length, scale)


def launch(query, prompt_key, prompt_value, own_key, own_value, prompt_lengths, own_length, scale):
    """decode_attention by the kernels: arguments are taken to be right, and d to be WIDEST at most."""
    (P, H, _, d), G = prompt_key.shape, own_key.shape[2]
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    if out.numel() == 0:
        return out
    R = query.shape[1] // H
    block_d = max(16, triton.next_power_of_2(d))  # tl.dot takes no less than 16
    processors = _processors(query.device)
    launches, splits = [], 0
    # the G samples of a question are one group of readers; of its own keys each sample is the only reader
    prompt = prompt_key[:, :, None], prompt_value[:, :, None], prompt_lengths, prompt_lengths.stride(0)
    own = own_key, own_value, own_length, 0
    for (key, value, lengths, step), wanted in ((prompt, PROGRAMS_PROMPT), (own, PROGRAMS_OWN)):
        groups, slots = key.shape[2:4]
        samples = G // groups
        shape = block_shape(query.dtype.itemsize, samples * R, d)
        units, tiles = P * H * groups, triton.cdiv(samples * R, shape[0])
        count = split_count(slots, units * tiles, wanted * processors)
        sizes = H, groups, samples, slots, step, *query.stride()[:2], *key.stride()[:4], *value.stride()[:4]
        if count:
            launches.append(((units, count, tiles), (key, value, lengths), sizes, splits, shape))
        splits += count
    maxima, totals = torch.empty(2, *query.shape[:2], splits, device=query.device).unbind()
    sums = torch.empty(*query.shape[:2], splits, d, device=query.device)
    with torch.cuda.device_of(query):  # Triton launches on the current device, not on the tensor's
        for grid, cache, sizes, first, (rows, keys, warps) in launches:
            _split_kernel[grid](
                query, *cache, maxima, totals, sums, *sizes, splits, first, scale * math.log2(math.e),
                R=R, D=d, BLOCK_D=block_d, BLOCK_ROWS=rows, BLOCK_KEYS=keys, WIDEN=INTERPRETED,
                num_warps=warps, num_stages=2,
            )  # fmt: skip
        _join_kernel[(P * G * H * R,)](
            maxima,
            totals,
            sums,
            out,
            splits,
            D=d,
            BLOCK_D=block_d,
            BLOCK_SPLITS=triton.next_power_of_2(splits),
        )
    return out


def decode_attention_torch(
    query, prompt_key, prompt_value, own_key, own_value, prompt_lengths, own_length, scale
):
    """The same in plain torch on any device, each sample with a copy of its prompt, also in float64."""
    (P, H, L, d), (G, T) = prompt_key.shape, own_key.shape[2:4]
    wide = torch.promote_types(query.dtype, torch.float32)
    in_prompt = torch.arange(L, device=query.device) < prompt_lengths[:, None]  # [P, L]
    in_own = torch.arange(T, device=query.device) < own_length  # [T]
    # [P, 1, 1, L+T, 1]
    live = torch.cat([in_prompt, in_own.expand(P, T)], 1)[:, None, None, :, None]
    key, value = (
        # filled, for what doesn't count may be NaN, and 0 * NaN is
        torch.cat([x[:, :, None].expand(-1, -1, G, -1, -1), own], 3).to(wide).masked_fill(~live, 0.0)
        for x, own in ((prompt_key, own_key), (prompt_value, own_value))
    )  # [P, H, G, L+T, d]
    q = query.to(wide).reshape(P, G, H, query.shape[1] // H, d).transpose(1, 2)  # [P, H, G, R, d]
    scores = (q @ key.mT * scale).masked_fill(~live.mT, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2).reshape(query.shape).to(query.dtype)


def block_shape(size, queries, d):
    """(queries, keys, warps) of one program, for numbers of `size` bytes, so many queries to the
    same keys, and heads of width d: what neither spills nor needs more than 99 KB of shared memory,
    which is all that GPUs of compute capability 8.6 and 8.9 have (tests/test_kernels_compiled.py)."""
    most, keys = BLOCKS[size]
    wide = d > 128
    rows = max(16, min(most // 2 if wide else most, triton.next_power_of_2(queries)))
    if wide or rows > 16:
        keys = min(keys, 32)
    return rows, keys, 8 if wide or rows > 64 or size == 4 else 4


def split_count(slots, programs, wanted):
    """Into how many splits to cut `slots` keys, so that `programs` become `wanted`; 0: no slot.

    Sizes alone decide, never lengths: the count is the grid's. Each program then shares the keys
    that are there evenly among the splits, so that a short response in a long cache is split no
    less than a full one.
    """
    return min(-(-wanted // programs), -(-slots // KEYS_PER_SPLIT), MOST_SPLITS)


def _processors(device):
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8


def _check(query, prompt_key, prompt_value, own_key, own_value):
    if (query.dim(), prompt_key.dim(), own_key.dim()) != (3, 4, 5):
        got = ", ".join(str(list(x.shape)) for x in (query, prompt_key, own_key))
        raise ValueError(
            f"query, prompt_key, own_key must be [P*G, Hq, d], [P, H, L, d], [P, H, G, T, d] (got {got})"
        )
    (P, H, L, d), (G, T), Hq = prompt_key.shape, own_key.shape[2:4], query.shape[1]
    for name, x, shape in (
        ("query", query, (P * G, Hq, d)),
        ("prompt_key", prompt_key, (P, H, L, d)),
        ("prompt_value", prompt_value, (P, H, L, d)),
        ("own_key", own_key, (P, H, G, T, d)),
        ("own_value", own_value, (P, H, G, T, d)),
    ):
        if x.shape != shape:
            raise ValueError(f"{name} must be {list(shape)} (got {list(x.shape)})")
        if x.dtype != query.dtype:
            raise TypeError(f"{name} is {x.dtype} but query {query.dtype}")
        if x.stride(-1) != 1 and d > 1:
            raise ValueError(f"the last axis of {name} must be dense (got stride {x.stride(-1)})")
    if Hq % H:
        raise ValueError(f"query has {Hq} heads, which is no multiple of the {H} key/value heads")


if triton is not None:
    # Specialised on these, the kernel would be compiled again whenever rows leave.
    @triton.jit(
        do_not_specialize=["H", "groups", "samples", "slots", "length_stride", "splits", "first_split"]
    )
    def _split_kernel(
        query, key, value, lengths, maxima, totals, sums,
        H, groups, samples, slots, length_stride, query_row, query_head,
        key_question, key_head, key_group, key_slot, value_question, value_head, value_group, value_slot,
        splits, first_split, scale_log2,
        R: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_ROWS: tl.constexpr,
        BLOCK_KEYS: tl.constexpr, WIDEN: tl.constexpr,
    ):  # fmt: skip
        """One split of the keys that a group of samples shares: the prompt's (one group of G) or a
        sample's own (G groups of one). Grid: (P * H * groups, splits of these keys, tiles of the
        samples * R queries)."""
        unit = tl.program_id(0).to(tl.int64)  # int32 would overflow in a cache of 2**31 numbers
        question, h, group = unit // groups // H, unit // groups % H, unit % groups
        m = tl.program_id(2) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        real = m < samples * R
        row = (question * groups + group) * samples + m // R
        head = h * R + m % R
        # in maxima, totals and sums
        at = (row * (H * R) + head) * splits + first_split + tl.program_id(1)

        length = tl.minimum(tl.load(lengths + question * length_stride).to(tl.int32), slots)
        share = tl.cdiv(tl.cdiv(length, BLOCK_KEYS), tl.num_programs(1)) * BLOCK_KEYS
        first = tl.program_id(1) * share
        last = tl.minimum(first + share, length)
        if first >= last:
            # all that the join looks at
            tl.store(totals + at, tl.zeros([BLOCK_ROWS], tl.float32), mask=real)
            return

        dims = tl.arange(0, BLOCK_D)
        in_head = (dims < D)[None, :]
        places = query + row[:, None] * query_row + head[:, None] * query_head + dims[None, :]
        q = tl.load(places, mask=real[:, None] & in_head, other=0.0)
        if WIDEN:  # Triton's interpreter multiplies the bits of bf16 as if they were integers
            q = q.to(tl.float32)
        key += question * key_question + h * key_head + group * key_group
        value += question * value_question + h * value_head + group * value_group

        maximum = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)  # in units of log 2, for exp2
        total = tl.zeros([BLOCK_ROWS], tl.float32)
        summed = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
        for start in range(first, last, BLOCK_KEYS):
            slot = start + tl.arange(0, BLOCK_KEYS)
            # at least one is, so the maximum is a number from the first block on
            live = slot < last
            slot = slot.to(tl.int64)[:, None]
            mask = live[:, None] & in_head
            k = tl.load(key + slot * key_slot + dims[None, :], mask=mask, other=0.0)
            v = tl.load(value + slot * value_slot + dims[None, :], mask=mask, other=0.0)
            if WIDEN:
                k, v = k.to(tl.float32), v.to(tl.float32)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
            scores = tl.where(live[None, :], scores, float("-inf"))
            new_maximum = tl.maximum(maximum, tl.max(scores, axis=1))
            shrink = tl.exp2(maximum - new_maximum)
            weights = tl.exp2(scores - new_maximum[:, None])
            total = total * shrink + tl.sum(weights, axis=1)
            summed = tl.dot(weights.to(v.dtype), v, summed * shrink[:, None], input_precision="ieee")
            maximum = new_maximum

        tl.store(maxima + at, maximum, mask=real)
        tl.store(totals + at, total, mask=real)
        tl.store(sums + at[:, None] * D + dims[None, :], summed, mask=real[:, None] & in_head)

    @triton.jit(do_not_specialize=["splits"])
    def _join_kernel(
        maxima, totals, sums, out, splits, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_SPLITS: tl.constexpr
    ):
        """One row and head from its splits. Grid: (P * G * H * R,)."""
        row = tl.program_id(0).to(tl.int64)
        s = tl.arange(0, BLOCK_SPLITS)
        dims = tl.arange(0, BLOCK_D)
        at = row * splits + s
        total = tl.load(totals + at, mask=s < splits, other=0.0)
        # a split with keys has a total of at least 1, or NaN; one without has written nothing else
        live = total != 0
        maximum = tl.load(maxima + at, mask=live, other=float("-inf"))
        places = sums + at[:, None] * D + dims[None, :]
        summed = tl.load(places, mask=live[:, None] & (dims < D)[None, :], other=0.0)
        weight = tl.exp2(maximum - tl.max(maximum, axis=0))
        joined = tl.sum(summed * weight[:, None], axis=0) / tl.sum(total * weight, axis=0)
        tl.store(out + row * D + dims, joined.to(out.dtype.element_ty), mask=dims < D)
