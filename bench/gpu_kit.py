"""What the stages of bench/gpu.py share: figures that outlive their process, timing, the card's rates.

Whatever only CUDA has is a small function here with a branch for a CPU, so that a rehearsal runs the
same stages through the same lines.
"""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from bench.gpu import FIGURES, write

PACKAGES = ("torch", "transformers", "triton", "numpy")


def versions() -> str:
    """Of what the figures depend on, without importing any of it."""
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


@dataclass(frozen=True)
class Bench:
    """One stage: where its figures go, on which device, and whether it is a rehearsal."""

    stage: str
    out: Path
    device: torch.device
    rehearse: bool = False

    def figure(self, name: str, value: float | str, unit: str = "", **more) -> None:
        """One figure, kept from now on. `more`: what belongs to it, a floor or a share of one."""
        line = {"stage": self.stage, "name": name, "value": value, "unit": unit, **more}
        line |= {"device": device_name(self.device), "versions": versions(), "rehearsal": self.rehearse}
        write(self.out / FIGURES, line)
        print(as_text(line), flush=True)

    def pick(self, real, rehearsed):
        """A size: that of the GPU run, or the small one of a rehearsal."""
        return rehearsed if self.rehearse else real


def as_text(line: dict) -> str:
    """A figure in words: `copy: 3011 GB/s`."""
    value = line["value"]
    value = f"{value:.4g}" if isinstance(value, float) and abs(value) < 1e4 else f"{value}"
    more = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items() if k not in FIXED]
    return f"{line['name']}: {value} {line['unit']}".rstrip() + (f"  ({', '.join(more)})" if more else "")


FIXED = ("stage", "name", "value", "unit", "device", "versions", "rehearsal")


# --- what only CUDA has ---------------------------------------------------------------------------


def on_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if on_gpu(device) else "CPU"


def wait(device: torch.device) -> None:
    if on_gpu(device):
        torch.cuda.synchronize()


def free_bytes(device: torch.device) -> int:
    """That a new process could allocate."""
    if on_gpu(device):
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def held_bytes(device: torch.device) -> int:
    """By tensors on a GPU; on a CPU by the process."""
    return torch.cuda.memory_allocated() if on_gpu(device) else _status("VmRSS")


def peak_bytes(device: torch.device, work: Callable[[], object]) -> int:
    """The most that was held while `work` ran."""
    wait(device)
    if on_gpu(device):
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    work()
    wait(device)
    return torch.cuda.max_memory_allocated() if on_gpu(device) else _status("VmHWM")


def _status(name: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


def give_back(device: torch.device) -> None:
    """What PyTorch holds without need, to the card."""
    if on_gpu(device):
        torch.cuda.empty_cache()


def captured(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """`work` as a CUDA graph: its kernels without their launches. On a CPU it is what it was."""
    if not on_gpu(device):
        return work
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()  # compiles before the capture
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = work()  # the graph's own memory stays while it does
    return lambda: (graph.replay(), kept)[0]


@contextmanager
def graph_replays() -> Iterator[list]:
    """A list that grows by one at every replay of any CUDA graph within the block."""
    replays: list[int] = []
    replay = torch.cuda.CUDAGraph.replay

    def counted(graph):
        replays.append(1)
        return replay(graph)

    torch.cuda.CUDAGraph.replay = counted
    try:
        yield replays
    finally:
        torch.cuda.CUDAGraph.replay = replay


@contextmanager
def graph_off() -> Iterator[None]:
    """Decode steps within the block are run, not captured and replayed."""
    from model.decode import DecodeStep

    call = DecodeStep.__call__

    def run_plainly(step, batches):
        step.run(batches)
        for batch in batches:
            batch.cache.steps += 1

    DecodeStep.__call__ = run_plainly
    try:
        yield
    finally:
        DecodeStep.__call__ = call


def kernels_of(work: Callable[[], object], device: torch.device) -> dict[str, tuple[int, float]]:
    """name -> (launches, microseconds), the longest first; on a CPU, operations."""
    from torch.profiler import ProfilerActivity, profile

    gpu = on_gpu(device)
    activities = [ProfilerActivity.CUDA] if gpu else [ProfilerActivity.CPU]
    wait(device)
    with profile(activities=activities) as found:
        work()
        wait(device)
    time_of = lambda e: e.self_device_time_total if gpu else e.self_cpu_time_total  # noqa: E731
    events = sorted((e for e in found.key_averages() if time_of(e) > 0), key=lambda e: -time_of(e))
    return {e.key: (e.count, time_of(e)) for e in events}


# --- timing and rates -----------------------------------------------------------------------------


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 5, warm: int = 1) -> float:
    """The median of `repeats`; the first `warm`, in which kernels are compiled, don't count."""
    for _ in range(warm):
        work()
    return median(_once(work, device) for _ in range(repeats))


def _once(work: Callable[[], object], device: torch.device) -> float:
    wait(device)
    if on_gpu(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def copy_rate(bench: Bench) -> float:
    """Bytes a second of a copy within the device's memory, read and written both counted."""
    source = torch.empty(bench.pick(2**30, 2**22), device=bench.device).normal_()  # 4 GiB of float32
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), bench.device, 10, 3)


def read_rate(bench: Bench) -> float:
    """Bytes a second of a sum, which writes nothing: the ceiling of what only reads, as decoding does."""
    source = torch.empty(bench.pick(2**30, 2**22), device=bench.device).normal_()
    return source.nbytes / seconds(lambda: source.sum(), bench.device, 10, 3)


def product_rate(bench: Bench) -> float:
    """FLOP/s of a large product in bfloat16, of random numbers: zeros would run faster."""
    n = bench.pick(8192, 256)
    a, b = (torch.randn(n, n, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / seconds(lambda: a @ b, bench.device, 10, 3)


def largest_error(found: Tensor, exact: Tensor) -> float:
    """Of any element; NaN where either holds one."""
    return float((found.detach().double() - exact.detach().double()).abs().max())


class Wrong(AssertionError):
    """A figure that is outside what it may be: the stage goes on, and fails at its end."""


def check(problems: list[str], ok: bool, what: str) -> None:
    if not ok:
        problems.append(what)
        print(f"WRONG: {what}", flush=True)


def end(problems: list[str]) -> None:
    if problems:
        raise Wrong("; ".join(problems))
