"""events.jsonl of a run folder: each start with its machine, each end with its reason, what went wrong.

A run that was killed has a start without an end. No training depends on these rows, so a disk that takes none
is no error.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import torch

from common import files
from common.distributed import World, cores

NAME = "events.jsonl"
PACKAGES = ("torch", "transformers", "triton", "peft")


def note(folder: Path, event: str, step: int, **what) -> None:
    """A row; `event` is start, warning, stop or end."""
    row = {"event": event, "step": step, "time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())} | what
    with suppress(OSError), open(folder / NAME, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def begin(folder: Path, done: int, world: World) -> None:
    """Of a run that has done `done` steps; a torn last row would spoil this one."""
    path = folder / NAME
    if path.exists() and not (text := path.read_text(encoding="utf-8", errors="replace")).endswith("\n"):
        files.replace_text(path, text[: text.rfind("\n") + 1])
    note(folder, "start", done, environment=environment(world))


def environment(world: World) -> dict[str, str]:
    """What ran where, for the reader of a report."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    found |= {"system": platform.platform(), "processor": f"{processor()}, {cores()} cores"}
    if world.device.type == "cuda":
        found["accelerator"] = torch.cuda.get_device_name(world.device)
    found |= {"processes": str(world.size), "threads": str(torch.get_num_threads())}
    return found | {"commit": commit()}


def processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """Of this checkout; "-dirty" where tracked files differ from it; empty without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    here = Path(__file__).parent
    env = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, timeout=5)
        return done.stdout.strip()
    return ""
