"""Whether a checkpoint is what was saved: by the sizes and checksums in its trainer.json.

    damage(Path("runs/a/checkpoints/step-20"))      "" or "model.safetensors has 100 of 3245104 bytes"

CRC-32 finds every single flipped bit, at 4 GB a second.
"""

import json
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError, safe_open

from common.pulse import tick

BLOCK = 2**24
LIST = "trainer.json"


def damage(folder: Path, content: bool = True, concerns: Callable[[str], bool] = lambda name: True) -> str:
    """What is wrong with the files that the checkpoint lists, in words; without `content` their sizes and
    their tensors' places alone are looked at."""
    try:
        listed = json.loads((folder / LIST).read_text())
        sizes, sums = dict(listed["files"]), listed.get("crc32", {})  # the latter: not in older ones
    except FileNotFoundError:
        return f"no {LIST}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{LIST} can't be read"
    for name, size in sizes.items():
        file = folder / name
        if not concerns(name):
            continue
        if not file.is_file():
            return f"no {name}"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} of {size} bytes"
        if content and name in sums and checksum(file) != sums[name]:
            return f"{name} is not what was saved, by its checksum"
        if name.endswith(".safetensors"):
            try:
                with safe_open(file, "pt"):
                    pass
            except (OSError, SafetensorError) as error:
                return f"{name} can't be opened ({error})"
    return ""


def damage_of_weights(folder: Path) -> str:
    """Of the model that a run saved here; "" of any other folder."""
    kinds = ("model", "adapter_model")
    return damage(folder, concerns=lambda name: name.startswith(kinds)) if (folder / LIST).exists() else ""


def checksum(file: Path) -> int:
    """Of a file's content, read once as long as it is the same file."""
    found = file.stat()
    return crc32_of(file, found.st_size, found.st_mtime_ns)


@lru_cache
def crc32_of(file: Path, size: int, time: int) -> int:
    total = 0
    with open(file, "rb") as opened:
        while block := opened.read(BLOCK):
            total = zlib.crc32(block, total)
            tick()
    return total
