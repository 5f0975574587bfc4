"""A CUDA graph acted out on a CPU, in the place of model/graphs.py's.

Capture records every operation and undoes what it did to memory, for on a GPU it does nothing; whatever would
wait for the device, or bring numbers from the host, raises. Replay runs the recorded operations on the
recorded tensors, and what they give goes to the memory that it went to then. So a number that the host had at
the capture stays what it was, and a tensor put in the place of another is never seen.

What it can't see: kernels launched outside of PyTorch, other streams, pools of memory.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

WAITS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
HOST = {
    "tolist", "numpy", "cpu", "item", "__array__", "__bool__", "__int__", "__float__", "__index__", "nonzero",
    "argwhere", "equal", "allclose", "is_nonzero", "tensor", "from_numpy", "as_tensor",
}  # fmt: skip


class Refused(RuntimeError):
    """Not permitted while capturing."""


class FromHost(TorchFunctionMode):
    """Refuses what reads a tensor on the host or makes one of the host's numbers."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in HOST:
            raise Refused(f"{func.__name__} waits for the device, or copies from the host")
        return func(*args, **kwargs or {})


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls, self.made, self.before = [], set(), {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name, given = func._schema.name.removeprefix("aten::"), tree_flatten((args, kwargs))[0]
        masked = any(torch.is_tensor(x) and x.dtype == torch.bool for x in given[1:])
        waits = any(tag in func.tags for tag in WAITS) if name != "index" else masked
        waits |= name.startswith("index_put") and masked or name in ("lift_fresh", "is_nonzero")
        if waits or name == "repeat_interleave" and kwargs.get("output_size") is None:
            raise Refused(f"{name} waits for the device, or copies from the host")
        for argument, x in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.keep(x)
        out = func(*args, **kwargs)
        inputs = {x.untyped_storage().data_ptr() for x in given if torch.is_tensor(x)}
        places = {x.untyped_storage().data_ptr() for x in tree_flatten(out)[0] if torch.is_tensor(x)}
        self.made |= places - inputs
        self.calls.append((func, args, kwargs, out))
        return out

    def keep(self, x: torch.Tensor) -> None:
        """What stood in memory that was there before the capture."""
        storage = x.untyped_storage()
        if storage.data_ptr() not in self.made | self.before.keys():
            self.before[storage.data_ptr()] = storage, storage.clone()

    def undo(self) -> None:
        for storage, before in self.before.values():
            storage.copy_(before)


class RecordedGraph:
    """`made`: all of them, of one rollout after the other; `refused`: what their captures did wrong."""

    made: list["RecordedGraph"] = []
    refused: list[Refused] = []

    def __init__(self):
        self.calls, self.replays = [], 0
        self.made.append(self)

    def capture(self, run) -> None:
        recorder = Recorder()
        try:
            with FromHost(), recorder:
                run()
        except Refused as error:
            self.refused.append(error)
            raise
        finally:
            recorder.undo()
        self.calls = recorder.calls

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, out in self.calls:
            for old, new in zip(tree_flatten(out)[0], tree_flatten(func(*args, **kwargs))[0], strict=True):
                if torch.is_tensor(old) and old.numel() and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
