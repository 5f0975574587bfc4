"""Every Triton kernel compiled for GPUs that are not here, as its launcher launches it.

The launchers run on CPU tensors of the models' shapes. What Triton would launch for them it compiles
instead, for the GPU it is told to be on: so the constants, the warps and the hints (which pointers
and strides are multiples of 16) are those of a real launch, and none is written down here twice.
Then: next to no spilled registers, no more shared memory than the GPU has, registers few enough for
the programs wanted on a multiprocessor at a time, and loads of 16 bytes.

    pytest tests/test_kernels_compiled.py -s      prints the table
"""

import importlib
import os
import re
import subprocess
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from kernels import decode_attention, decode_pointwise, logprob

triton = pytest.importorskip("triton", reason="needs Triton (Linux): pip install triton")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"),
]

ARCHS = (80, 86, 90)
SHARED = {80: 166_912, 86: 101_376, 90: 232_448}  # bytes of shared memory that one program may have
REGISTERS = 65_536  # of a multiprocessor
# bytes of spilled registers: so few ptxas gives up by choice, where one program more then fits; which
# kernels it does so for differs from version to version
SPILLED = 32
PROCESSORS = {80: 108, 86: 84, 90: 132}
F32, B16, F16 = torch.float32, torch.bfloat16, torch.float16


class PretendDriver:
    """What Triton asks of a GPU's driver before it launches; the device's number is the GPU's architecture,
    so that Triton keeps the kernels of each apart."""

    def __init__(self, arch: int):
        self.arch = arch

    def get_current_device(self) -> int:
        return self.arch

    def get_current_stream(self, device) -> int:
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.arch, 32)


@dataclass(frozen=True)
class Compiled:
    kernel: str
    arch: int
    registers: int
    stack: int  # bytes, where spilled registers go
    shared: int
    warps: int
    wide: int  # loads of 16 bytes in the code, to registers or shared memory
    narrow: int  # loads of less than 4 bytes


def measure(kernel, arch: int, folder: Path) -> Compiled:
    path = folder / "kernel.cubin"
    path.write_bytes(kernel.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    said = subprocess.run(
        [tool, "--dump-resource-usage", path], capture_output=True, text=True, check=True
    ).stdout
    registers, stack, local = (int(re.search(rf"\b{n}:(\d+)", said)[1]) for n in ("REG", "STACK", "LOCAL"))
    ptx = kernel.asm["ptx"]
    wide = re.findall(r"ld\.global\S*\.(?:v4\.b32|v2\.b64)|cp\.async\.cg.*, 0x10", ptx)
    narrow = re.findall(r"ld\.global\S*\.[bu](?:8|16)\b", ptx)
    meta = kernel.metadata
    return Compiled(
        meta.name, arch, registers, stack + local, meta.shared, meta.num_warps, len(wide), len(narrow)
    )


@contextmanager
def compiling_for(arch: int, monkeypatch, found: list):
    """Launches inside compile for `arch`; the kernels are put into `found`."""
    run = triton.runtime.jit.JITFunction.run

    def compiled(self, *args, grid, warmup, **kwargs):
        found.append(run(self, *args, grid=grid, warmup=True, **kwargs))

    with monkeypatch.context() as patch:
        patch.setattr(triton.runtime.jit.JITFunction, "run", compiled)
        patch.setattr(triton.runtime.driver, "_active", PretendDriver(arch))
        patch.setattr(decode_attention, "_processors", lambda device: PROCESSORS[arch])
        patch.setattr(decode_pointwise, "serves", lambda x: True)
        yield


# ---- launches of the models' shapes


def empty(*shape, dtype=F32):
    return torch.empty(*shape, dtype=dtype)  # nothing is read: memory that nobody touches costs nothing


def launch_rows(V: int, dtype, entropy: bool):
    """Log-probs of rows of logits, and their gradient in place as the head takes it."""
    logits, targets = empty(1, 256, V, dtype=dtype), torch.zeros(256, dtype=torch.long)
    stats = logprob.RowStats.empty(256, dtype, logits.device, entropy)
    logprob.logprob_triton.row_forward(logits, targets, 1.0, stats)
    logprob.logprob_triton.row_backward(logits, targets, 1.0, stats, empty(256), logits[0])


def launch_attention(H: int, R: int, d: int, G: int, dtype, P: int = 10, L: int = 317, T: int = 512):
    """As KVCache.attend calls it."""
    own = [empty(P * G, H, T, d, dtype=dtype).unflatten(0, (P, G)).transpose(1, 2) for _ in range(2)]
    prompt = [empty(P, H, L, d, dtype=dtype) for _ in range(2)]
    lengths, slot = torch.zeros(P, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    decode_attention.launch(empty(P * G, H * R, d, dtype=dtype), *prompt, *own, lengths, slot + 1, d**-0.5)


def launch_pointwise(D: int, width: int, H: int, R: int, d: int, residual, dtype, normed: bool, N: int = 80):
    """As a layer calls them."""
    add_norm, x = decode_pointwise.add_norm, empty(N, D, dtype=residual)
    add_norm(x, empty(N, D, dtype=dtype), empty(D, dtype=residual), 1e-6, dtype)
    add_norm(x, None, empty(D, dtype=residual), 1e-6, dtype)
    cos, sin = empty(N, 1, 2 * d, dtype=residual)[:, 0].chunk(2, -1)
    own = [empty(N, H, 512, d, dtype=dtype) for _ in range(2)]
    norms = (empty(d, dtype=residual), empty(d, dtype=residual), 1e-6, 1e-6) if normed else None
    qkv, slot = empty(N, (H * R + 2 * H) * d, dtype=dtype), torch.zeros(1, dtype=torch.long)
    decode_pointwise.rotate_and_store(qkv, cos, sin, *own, slot, norms)
    decode_pointwise.silu_product(empty(N, 2 * width, dtype=dtype))


@dataclass(frozen=True)
class Case:
    name: str
    launch: Callable
    args: tuple
    archs: tuple[int, ...] = ARCHS


# all that differs in the code on sm_90; elsewhere what bfloat16 takes, and what is near a limit
CASES = [
    Case("7B, bf16", launch_rows, (152_064, B16, False), (90,)),
    Case("3B, bf16, entropy", launch_rows, (151_936, B16, True)),
    Case("3B, fp16, entropy", launch_rows, (151_936, F16, True), (90,)),
    Case("7B, fp32, entropy", launch_rows, (152_064, F32, True), (90,)),
    Case("7B, bf16, G 8", launch_attention, (4, 7, 128, 8, B16)),
    Case("7B, bf16, G 16", launch_attention, (4, 7, 128, 16, B16), (80, 90)),
    Case("3B, bf16, G 8", launch_attention, (2, 8, 128, 8, B16), (90,)),
    Case("7B, fp16, G 8", launch_attention, (4, 7, 128, 8, F16), (90,)),
    Case("7B, fp32, G 8", launch_attention, (4, 7, 128, 8, F32), (90,)),
    Case("Gemma, bf16, G 32", launch_attention, (4, 2, 256, 32, B16)),
    Case("Gemma, fp32, G 16", launch_attention, (4, 2, 256, 16, F32)),
    Case("7B, bf16, residual fp32", launch_pointwise, (3584, 18_944, 4, 7, 128, F32, B16, False)),
    Case("3B, bf16", launch_pointwise, (2048, 11_008, 2, 8, 128, B16, B16, False), (90,)),
    Case("Qwen3 8B, bf16, head norms", launch_pointwise, (4096, 12_288, 8, 4, 128, B16, B16, True)),
    Case("7B, fp16", launch_pointwise, (3584, 18_944, 4, 7, 128, F16, F16, False), (90,)),
    Case("7B, fp32, head norms", launch_pointwise, (3584, 18_944, 4, 7, 128, F32, F32, True), (90,)),
]


def compile_case(case: Case, arch: int, folder: Path, monkeypatch) -> list[Compiled]:
    found: list = []
    with compiling_for(arch, monkeypatch, found):
        case.launch(*case.args)
    return [measure(kernel, arch, folder) for kernel in found]


def faults(c: Compiled) -> list[str]:
    """What is wrong with a compiled kernel."""
    programs = REGISTERS // (-(-c.registers // 8) * 8 * 32 * c.warps)
    return [
        fault
        for wrong, fault in (
            (c.stack > SPILLED, f"{c.stack} bytes of registers are spilled"),
            (c.shared > SHARED[c.arch], f"{c.shared} bytes of shared memory do not fit"),
            (programs < WANTED[c.kernel], f"registers leave room for {programs} programs"),
            (not c.wide and c.kernel not in SHORT, "no load of 16 bytes"),
            (c.narrow > NARROW.get(c.kernel, 0), f"{c.narrow} loads of single numbers"),
        )
        if wrong
    ]


# programs that a multiprocessor must have registers for, at a time
WANTED = {
    "_forward_kernel": 2,
    "_backward_kernel": 2,
    "_split_kernel": 1,
    "_join_kernel": 8,
    "_add_norm_kernel": 4,
    "_rotate_and_store_kernel": 32,
    "_silu_product_kernel": 8,
}
SHORT = {"_rotate_and_store_kernel"}  # a thread has 8 bytes of a head
NARROW = {"_forward_kernel": 1}  # the target's logit


def kernels_of_the_project() -> set[str]:
    modules = [importlib.import_module(f"kernels.{p.stem}") for p in ROOT.glob("kernels/[!_]*.py")]
    kinds = triton.runtime.jit.JITFunction
    return {x.__name__ for module in modules for x in vars(module).values() if isinstance(x, kinds)}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_every_kernel_fits_the_gpu(arch, tmp_path, monkeypatch):
    compiled, wrong = {}, []
    for case in CASES:
        if arch in case.archs:
            compiled[case.name] = compile_case(case, arch, tmp_path, monkeypatch)
            for c in compiled[case.name]:
                line = f"{c.kernel} | {case.name} | {c.warps} | {c.registers} | {c.stack} | {c.shared}"
                print(f"| sm_{arch} | {line} | {c.wide} | {c.narrow} |")
                wrong += [f"{line}: {fault}" for fault in faults(c)]
    assert not wrong, "\n".join(wrong)
    covered = {c.kernel for found in compiled.values() for c in found}
    assert covered == kernels_of_the_project(), "a kernel without a case: give it one in CASES"


# ---- what the limits see


def test_every_kernel_has_a_limit():
    assert WANTED.keys() == kernels_of_the_project()


def said_of(launch, args, arch, tmp_path, monkeypatch) -> str:
    compiled = compile_case(Case("", launch, args), arch, tmp_path, monkeypatch)
    return "; ".join(fault for c in compiled for fault in faults(c))


@pytest.mark.slow
def test_blocks_too_large_are_seen(tmp_path, monkeypatch):
    """The blocks that once stood here: with heads of 256, more than an sm_86 has."""
    monkeypatch.setattr(decode_attention, "block_shape", lambda *_: (64, 64, 4))
    said = said_of(launch_attention, (4, 2, 256, 32, B16, 10, 317, 0), 86, tmp_path, monkeypatch)
    assert "106496 bytes of shared memory do not fit" in said


@pytest.mark.slow
def test_too_few_warps_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_attention, "block_shape", lambda *_: (64, 32, 4))
    said = said_of(launch_attention, (4, 2, 256, 32, B16, 10, 317, 0), 90, tmp_path, monkeypatch)
    assert "bytes of registers are spilled" in said


@pytest.mark.slow
def test_memory_that_is_not_aligned_is_seen(tmp_path, monkeypatch):
    def launch_one_off():
        x = empty(256 * 151_936 + 1, dtype=B16)[1:].view(1, 256, -1)
        stats = logprob.RowStats.empty(256, B16, x.device, False)
        logprob.logprob_triton.row_forward(x, torch.zeros(256, dtype=torch.long), 1.0, stats)

    assert "no load of 16 bytes; 33 loads of single" in said_of(launch_one_off, (), 90, tmp_path, monkeypatch)


@pytest.mark.slow
def test_a_stride_that_is_not_aligned_is_seen(tmp_path, monkeypatch):
    launch = decode_attention.launch

    def launch_odd(query, prompt_key, *rest):
        d = query.shape[-1]
        launch(query, empty(*prompt_key.shape[:-1], d + 1, dtype=query.dtype)[..., :d], *rest)

    monkeypatch.setattr(decode_attention, "launch", launch_odd)
    said = said_of(launch_attention, (4, 7, 128, 8, B16, 10, 317, 0), 80, tmp_path, monkeypatch)
    assert "loads of single numbers" in said
