"""One staged run on a GPU: correctness first, then speed and memory, each stage in a process of its own.

    make gpu                                          figures in runs/gpu/gpu.jsonl
    python -m bench.gpu --out DIR --stages rows,head
    python -m bench.gpu --out DIR --rehearse          the same stages at small sizes, on a CPU too

Every figure is a line of DIR/gpu.jsonl, on the disk as soon as it is made: {stage, name, value, unit,
device, versions, ..}. A stage that fails, hangs or dies loses none of its earlier figures; its last
lines are printed, its fate is a line too, and the next stage starts. All that the stages say is in
DIR/gpu.log; tests leave JUnit files. Exit status 0: every stage ran, and found what it should.

Models have a true Qwen2.5-VL configuration and random weights, made on the device; tokenizer and
image processor are the built-in base's. Nothing is downloaded. The stages are in bench/gpu_stages.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common import cli
from common.cli import flag

ROOT = Path(__file__).parents[1]
FIGURES, LOG = "gpu.jsonl", "gpu.log"
LAST_LINES = 25  # of a stage that failed


@dataclass(frozen=True)
class Stage:
    """A limit in seconds, the process's start included, and what the stage shows."""

    limit: float
    what: str


STAGES = {
    "rates": Stage(45, "versions, free memory; copy, read and bf16 product rates"),
    "kernels": Stage(60, "kernel tests on the GPU"),
    "tests": Stage(75, "tests/test_gpu.py: decode, score, training step, whole runs against the CPU"),
    "rows": Stage(30, "log-probs of 16,384 x 152,064 logits, in float64 for 64 of them; GB/s"),
    "head": Stage(30, "head forward and backward at two chunk sizes: ms, TFLOP/s, peak memory"),
    "attention": Stage(25, "decode attention alone: GB/s by length"),
    "rollout_3b": Stage(75, "3B: ms a step with and without graph, share of the byte floor, kernels"),
    "rollout_7b": Stage(45, "7B in bf16: the same"),
    "update_3b": Stage(60, "3B update: shared against unshared gradients, peak memory against the plan"),
    "lora_3b": Stage(40, "3B under LoRA: ms a step, update, peak memory"),
    "generate": Stage(40, "against Hugging Face generate, dynamic cache"),
    "static": Stage(120, "against its static cache, which it compiles first"),
}


@dataclass
class Settings:
    out: str = flag("runs/gpu", "folder of gpu.jsonl, gpu.log and the tests' JUnit files")
    stages: str = flag(",".join(STAGES), "comma-separated stages; they run in the order of this list")
    rehearse: bool = flag(False, "small sizes, on a CPU where there is no GPU; limits are trebled")
    seconds: float = flag(465, "for all stages together: a stage's limit is cut to what is left", "above 0")


def main(argv: list[str]) -> int:
    s = cli.parse(Settings, argv)
    cli.check(s)
    chosen = s.stages.split(",")
    if unknown := set(chosen) - set(STAGES):
        raise cli.UsageError(f"--stages {','.join(sorted(unknown))}: there is {', '.join(STAGES)}")
    out = Path(s.out)
    out.mkdir(parents=True, exist_ok=True)
    if (out / FIGURES).exists():
        raise cli.UsageError(f"--out {s.out} holds figures already: name another folder, or remove them")
    options = ["--out", str(out.resolve())] + ["--rehearse"] * s.rehearse
    command = lambda name: [sys.executable, "-m", "bench.gpu_stages", "--stage", name, *options]  # noqa: E731
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a running stage is ended too
    patience = 3 if s.rehearse else 1  # a rehearsal looks for typos, on whatever machine
    stages = {n: replace(one, limit=patience * one.limit) for n, one in STAGES.items() if n in chosen}
    fates = run_stages(stages, command, out, patience * s.seconds)
    print(summary(out))
    return 0 if all(fate == "ok" for fate in fates.values()) else 1


def run_stages(
    stages: dict[str, Stage], command: Callable[[str], Sequence[str]], out: Path, seconds: float
) -> dict[str, str]:
    """-> the fate of each: ok, failed, timed out, no time left."""
    began, fates = time.monotonic(), {}
    for name, stage in stages.items():
        left = seconds - (time.monotonic() - began)
        if left <= 1:
            fates[name], took = "no time left", 0.0
        else:
            print(f"{name}: {stage.what}", flush=True)
            fates[name], took = run_stage(command(name), min(stage.limit, left), out)
        line = {"stage": name, "name": "fate", "value": fates[name], "unit": "", "seconds": round(took, 1)}
        write(out / FIGURES, line | {"limit": stage.limit})
        print(f"{name}: {fates[name]}, {took:.1f} s\n", flush=True)
    return fates


def run_stage(command: Sequence[str], limit: float, out: Path) -> tuple[str, float]:
    """(fate, seconds). What it says goes to the log; the end of that is printed where it went wrong."""
    began = time.monotonic()
    with open(out / LOG, "ab") as log:
        log.write(f"\n=== {' '.join(command)}\n".encode())
        log.flush()
        start = log.tell()
        process = subprocess.Popen(
            [*command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,  # to end what it started along with it
            env=os.environ | {"PYTHONUNBUFFERED": "1", "STAGE_LIMIT": str(limit)},
        )
        try:
            fate = "ok" if process.wait(timeout=limit) == 0 else "failed"
        except subprocess.TimeoutExpired:
            fate = "timed out"
        finally:  # also where this program is interrupted
            kill(process)
    said = (out / LOG).read_bytes()[start:].decode(errors="replace").splitlines()
    if fate != "ok":
        print("\n".join(f"    {line[:200]}" for line in said[-LAST_LINES:]), flush=True)
    return fate, time.monotonic() - began


def kill(process: subprocess.Popen) -> None:
    """With all that it started; a process within a driver call may take a while to go."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        print(f"process {process.pid} can't be ended", flush=True)


def write(path: Path, line: dict) -> None:
    """A line of JSON, on the disk when it returns: whatever happens to this process afterwards."""
    with open(path, "ab+") as file:
        size = file.seek(0, os.SEEK_END)
        if size and os.pread(file.fileno(), 1, size - 1) != b"\n":  # of a process that died while it wrote
            file.write(b"\n")
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(out: Path) -> list[dict]:
    """All lines; one that a dying process left half-written is passed over."""
    found = []
    for line in (out / FIGURES).read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def summary(out: Path) -> str:
    """Fates, then figures but for those of single tests that passed."""
    lines, rows = [], read(out)
    machine = next((f"{r['device']}; {r['versions']}" for r in rows if "device" in r), "no figure at all")
    for row in rows:
        if row["name"] == "fate":
            lines.append(
                f"{row['stage']:<11} {row['value']:<9} {row['seconds']:>6.1f} s of {row['limit']:.0f}"
            )
    lines += ["", machine, ""]
    for row in rows:
        if row["name"] != "fate" and not row["name"].startswith("test_"):
            value = row["value"]
            value = f"{value:.4g}" if isinstance(value, float) else str(value)
            more = f"  share {row['share']:.0%}" if "share" in row else ""
            lines.append(f"{row['stage']:<11} {row['name']:<44.44} {value:>10.24} {row['unit']}{more}")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
