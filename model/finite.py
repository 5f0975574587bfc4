"""NaN and inf among weights and moments, found by name: such are neither loaded nor saved."""

from collections.abc import Mapping
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor

from common.pulse import waiting


def nonfinite(tensors: Mapping[str, Tensor], together: bool = False) -> str:
    """Which tensor holds NaN or inf, in words; "" where none does. With `together`, where they lie in shares,
    of all processes': all call it with the same names and are told the same.

    A tensor is finite where its least and its greatest number are, which NaN spreads to: one pass, no copy,
    and one wait for the device at the end.
    """
    if not tensors:
        return ""
    bounds = [bound for x in tensors.values() for bound in least_and_greatest(x.detach())]
    bad = (~torch.stack(bounds).isfinite()).view(-1, 2).any(1).int()
    with waiting() if together else nullcontext():
        if together:
            dist.all_reduce(bad)
        names = [name for name, found in zip(tensors, bad.tolist(), strict=True) if found]
    many = f", the first of {len(names)} such" if names[1:] else ""
    return f"{names[0]} holds NaN or inf{many}" if names else ""


def least_and_greatest(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of this process's share, which may be empty."""
    from torch.distributed.tensor import DTensor

    own = x.to_local() if isinstance(x, DTensor) else x
    return own.aminmax() if own.numel() else (own.new_zeros(()), own.new_zeros(()))
