"""Safetensors files written bit by bit: what is in them need never stand in memory as a whole."""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

# as the format calls them
DTYPES = {
    torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
# of one file of weights, above which there are several and an index: what fits most file systems
MOST_BYTES = 5 * 10**9


def in_file_order(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors' own writer has them: wider numbers first, which keeps all aligned, then by name."""
    return dict(sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))


def write_tensors(path: Path, shapes: Mapping[str, Tensor], values: Iterator[Tensor]) -> int:
    """Tensors of `shapes`' names, dtypes and shapes, in its order, taken from `values`, each in one block of
    rows or several, of any dtype -> the file's CRC-32. OSError where they find no room."""
    header: dict = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, x in shapes.items():
        start, end = end, end + x.numel() * x.dtype.itemsize
        header[name] = {"dtype": DTYPES[x.dtype], "shape": list(x.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        text = len(text).to_bytes(8, "little") + text
        file.write(text)
        total = zlib.crc32(text)
        for x in shapes.values():
            missing = x.numel()
            while missing:
                rows = next(values).detach().to(x.dtype).cpu().contiguous().flatten()
                data = rows.view(torch.uint8).numpy().data
                file.write(data)
                total = zlib.crc32(data, total)
                missing -= len(rows)
    return total


def in_files(tensors: Mapping[str, Tensor], most: int = 0) -> list[dict[str, Tensor]]:
    """Split, in order, into files of at most `most` bytes, or of one tensor."""
    files: list[dict[str, Tensor]] = [{}]
    room = most or MOST_BYTES
    for name, x in tensors.items():
        size = x.numel() * x.dtype.itemsize
        if files[-1] and size > room:
            files.append({})
            room = most or MOST_BYTES
        files[-1][name] = x
        room -= size
    return files


def write_weights(folder: Path, files: list[dict[str, Tensor]], values: Iterator[Tensor]) -> dict[str, int]:
    """As Hugging Face names them: one file, or several with an index beside them -> the CRC-32 of each."""
    if len(files) == 1:
        return {"model.safetensors": write_tensors(folder / "model.safetensors", files[0], values)}
    names = [f"model-{i + 1:05}-of-{len(files):05}.safetensors" for i in range(len(files))]
    sums = {n: write_tensors(folder / n, file, values) for n, file in zip(names, files, strict=True)}
    of_file = {weight: name for name, file in zip(names, files, strict=True) for weight in file}
    total = sum(x.numel() * x.dtype.itemsize for file in files for x in file.values())
    index = {"metadata": {"total_size": total}, "weight_map": of_file}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return sums


def flattened(files: Iterable[Mapping[str, Tensor]]) -> list[Tensor]:
    return [x for file in files for x in file.values()]
