"""What stands between the products of a decode step, each as one kernel in the place of several:

    add_norm          x + y, and the RMS norm of that
    rotate_and_store  norms of query and key heads, their rotation, and keys and values to the cache
    silu_product      silu(gate) * up

Arithmetic is float32 whatever the dtypes, and every result is rounded once. On CUDA, and in
Triton's interpreter, they run as Triton kernels; elsewhere, or where Triton is missing, as the
functions `.._torch`, which define them. Not differentiable.

Letters: N rows, D width, F width of the MLP, H key/value heads, R query heads for each of them, d
width of a head, T slots of the cache.
"""

import os

import torch
import torch.nn.functional as F

try:
    import triton
    import triton.language as tl
except ImportError:  # Triton ships for Linux only
    triton = None

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # of the kernels
BLOCK = 1024  # of gate and up, to a program
WIDEST = 16384  # rows that add_norm holds whole


def serves(x):
    """Whether the kernels take this tensor; where not, plain torch does."""
    return triton is not None and x.dtype in DTYPES and (x.is_cuda or INTERPRETED)


def add_norm(x, y, weight, eps, dtype):
    """x + y, in x's memory, and its RMS norm in `dtype`.

        x += y        norm = x / sqrt(mean_j x_j^2 + eps) * weight

    x       [N, D], dense rows.
    y       [N, D], dense, of any dtype; None: there is nothing to add, x stays as it is.
    weight  [D].
    Returns norm [N, D]. The norm is that of x as it was rounded.
    """
    if not serves(x) or x.shape[1] > WIDEST:
        return add_norm_torch(x, y, weight, eps, dtype)
    norm = torch.empty(x.shape, dtype=dtype, device=x.device)
    block = triton.next_power_of_2(x.shape[1])
    with torch.cuda.device_of(x):  # Triton launches on the current device, not on the tensor's
        _add_norm_kernel[(len(x),)](
            x, y, weight, norm, x.stride(0), eps,
            D=x.shape[1], BLOCK=block, ADD=y is not None, num_warps=8 if block > 2048 else 4,
        )  # fmt: skip
    return norm


def add_norm_torch(x, y, weight, eps, dtype):
    if y is not None:
        x.copy_(_wide(x) + _wide(y))
    return _rms_norm(_wide(x), weight, eps).to(dtype)


def rotate_and_store(qkv, cos, sin, own_key, own_value, slot, norms=None):
    """Query heads rotated; key heads rotated, and values as they are, to one slot of the cache.

        rotated_i = h_i cos_i + h_((i + d/2) mod d) sin_i        h = head, or its norm * weight

    qkv        [N, (H*R + 2 H) d], dense rows: query, key and value heads.
    cos, sin   [N, d], dense last axis; the sign of the half that is negated is in sin.
    own_key,
    own_value  [N, H, T, d], dense last axis.
    slot       [1], int64 on the device: keys and values go to [:, :, slot].
    norms      (weight of query [d], of key [d], eps of each) of RMS norms over a head; None: none.
    Returns query [N, H*R, d] in qkv's dtype.
    """
    if not serves(qkv):
        return rotate_and_store_torch(qkv, cos, sin, own_key, own_value, slot, norms)
    (N, H, _, d), heads = own_key.shape, qkv.shape[1] // own_key.shape[3]
    query = torch.empty(N, heads - 2 * H, d, dtype=qkv.dtype, device=qkv.device)
    with torch.cuda.device_of(qkv):
        _rotate_and_store_kernel[(N, heads)](
            qkv, cos, sin, query, own_key, own_value, slot, *(norms or (None, None, 0.0, 0.0)),
            qkv.stride(0), cos.stride(0), sin.stride(0), *own_key.stride()[:3], *own_value.stride()[:3],
            QUERIES=heads - 2 * H, KEYS=H, D=d, BLOCK=triton.next_power_of_2(d), NORM=norms is not None,
            num_warps=1,
        )  # fmt: skip
    return query


def rotate_and_store_torch(qkv, cos, sin, own_key, own_value, slot, norms=None):
    H, d = own_key.shape[1], own_key.shape[3]
    heads = _wide(qkv).unflatten(1, (-1, d))
    query, key, value = heads[:, : -2 * H], heads[:, -2 * H : -H], heads[:, -H:]
    if norms is not None:
        query, key = (
            _rms_norm(x, w, eps) for x, w, eps in zip((query, key), norms[:2], norms[2:], strict=True)
        )
    cos, sin = cos[:, None], sin[:, None]
    query, key = (x * cos + x.roll(d // 2, -1) * sin for x in (query, key))
    own_key.index_copy_(2, slot, key.to(own_key.dtype)[:, :, None])
    own_value.index_copy_(2, slot, value.to(own_value.dtype)[:, :, None])
    return query.to(qkv.dtype)


def silu_product(gate_up):
    """gate_up [N, 2 F], dense -> silu(gate) * up [N, F], silu(g) = g / (1 + exp(-g))."""
    if not serves(gate_up):
        return silu_product_torch(gate_up)
    N, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(N, width, dtype=gate_up.dtype, device=gate_up.device)
    with torch.cuda.device_of(gate_up):
        # one axis: the others stop at 65,535 programs
        _silu_product_kernel[(N * triton.cdiv(width, BLOCK),)](
            gate_up, out, WIDTH=width, BLOCK=BLOCK, num_warps=4
        )
    return out


def silu_product_torch(gate_up):
    gate, up = _wide(gate_up).chunk(2, -1)
    return (F.silu(gate) * up).to(gate_up.dtype)


def _wide(x):
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _rms_norm(x, weight, eps):
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


if triton is not None:

    @triton.jit
    def _add_norm_kernel(
        x, y, weight, norm, x_row, eps, D: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr
    ):
        """Grid: (N,)"""
        row = tl.program_id(0).to(tl.int64)  # int32 would overflow where rows x width passes 2**31
        columns = tl.arange(0, BLOCK)
        real = columns < D
        x += row * x_row
        wide = tl.load(x + columns, mask=real, other=0.0).to(tl.float32)
        if ADD:
            wide += tl.load(y + row * D + columns, mask=real, other=0.0).to(tl.float32)
            rounded = wide.to(x.dtype.element_ty)
            tl.store(x + columns, rounded, mask=real)
            wide = rounded.to(tl.float32)
        scale = tl.rsqrt(tl.sum(wide * wide, axis=0) / D + eps)
        w = tl.load(weight + columns, mask=real, other=0.0).to(tl.float32)
        tl.store(norm + row * D + columns, (wide * scale * w).to(norm.dtype.element_ty), mask=real)

    @triton.jit
    def _rotate_and_store_kernel(
        qkv, cos, sin, query, own_key, own_value, slot, query_norm, key_norm, query_eps, key_eps,
        qkv_row, cos_row, sin_row, key_row, key_head, key_slot, value_row, value_head, value_slot,
        QUERIES: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr,
    ):  # fmt: skip
        """Grid: (N, heads of qkv)"""
        row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
        i = tl.arange(0, BLOCK)
        real = i < D
        qkv += row * qkv_row + head * D
        x = tl.load(qkv + i, mask=real, other=0.0).to(tl.float32)
        place = tl.load(slot).to(tl.int64)
        if head >= QUERIES + KEYS:
            own_value += row * value_row + (head - QUERIES - KEYS) * value_head + place * value_slot
            tl.store(own_value + i, x.to(own_value.dtype.element_ty), mask=real)
            return
        other = (i + D // 2) % D  # half a head away
        x_other = tl.load(qkv + other, mask=real, other=0.0).to(tl.float32)
        is_query = head < QUERIES
        if NORM:
            if is_query:
                w = tl.load(query_norm + i, mask=real, other=0.0).to(tl.float32)
                w_other = tl.load(query_norm + other, mask=real, other=0.0).to(tl.float32)
                eps = query_eps
            else:
                w = tl.load(key_norm + i, mask=real, other=0.0).to(tl.float32)
                w_other = tl.load(key_norm + other, mask=real, other=0.0).to(tl.float32)
                eps = key_eps
            scale = tl.rsqrt(tl.sum(x * x, axis=0) / D + eps)
            x, x_other = x * scale * w, x_other * scale * w_other
        c = tl.load(cos + row * cos_row + i, mask=real, other=0.0).to(tl.float32)
        s = tl.load(sin + row * sin_row + i, mask=real, other=0.0).to(tl.float32)
        rotated = x * c + x_other * s
        if is_query:
            query += (row * QUERIES + head) * D
            tl.store(query + i, rotated.to(query.dtype.element_ty), mask=real)
        else:
            own_key += row * key_row + (head - QUERIES) * key_head + place * key_slot
            tl.store(own_key + i, rotated.to(own_key.dtype.element_ty), mask=real)

    @triton.jit
    def _silu_product_kernel(gate_up, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
        """Grid: (N * blocks of a row,)"""
        blocks = tl.cdiv(WIDTH, BLOCK)
        row = (tl.program_id(0) // blocks).to(tl.int64)
        columns = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
        real = columns < WIDTH
        gate_up += row * 2 * WIDTH
        gate = tl.load(gate_up + columns, mask=real, other=0.0).to(tl.float32)
        up = tl.load(gate_up + WIDTH + columns, mask=real, other=0.0).to(tl.float32)
        product = gate / (1.0 + tl.exp(-gate)) * up
        tl.store(out + row * WIDTH + columns, product.to(out.dtype.element_ty), mask=real)
