"""What loading a checkpoint of real size costs, in memory and time: `python -m bench.loading`

Writes a random checkpoint of the shape of Qwen2.5-VL-3B (bfloat16, in shards) shard by shard into a
temporary folder, loads it by load_model in a process of its own, and deletes it. Memory is the peak
of that process's resident set above what it was after the imports, pages of mapped files included.
Left out: GPUs, and a disk that has to be read (what was just written is partly in the page cache).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

from bench.machine import describe_machine
from common import cli
from common.cli import flag

SHARD = 2**30  # bytes
ALLOWED = 1.15  # of the checkpoint's size


@dataclass
class Loading:
    layers: int = flag(36, "of the decoder; fewer is a smaller checkpoint")
    folder: str = flag("", "where the checkpoint is made for a while; empty: a temporary folder")
    probe: str = flag("", "load this checkpoint here and print what it cost")


def shape(layers: int) -> Qwen2_5_VLConfig:
    return Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=151936, hidden_size=2048, intermediate_size=11008, num_hidden_layers=layers,
            num_attention_heads=16, num_key_value_heads=2, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        ),
        vision_config=dict(
            depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=2048
        ),
        tie_word_embeddings=True, dtype="bfloat16",
    )  # fmt: skip


def write_checkpoint(folder: Path, layers: int) -> int:
    """-> bytes of its weights. Never holds more than a shard."""
    config = shape(layers)
    config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    shards, shard, size, places = 0, {}, 0, {}
    parameters = list(model.named_parameters())
    for i, (name, p) in enumerate(parameters):
        shard[name] = torch.empty(p.shape, dtype=torch.bfloat16).normal_(std=0.02)
        places[name] = f"model-{shards:05}.safetensors"
        size += shard[name].nbytes
        if sum(x.nbytes for x in shard.values()) >= SHARD or i + 1 == len(parameters):
            save_file(shard, folder / places[name], {"format": "pt"})
            shards, shard = shards + 1, {}
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return size


def resident(name: str) -> int:
    """Bytes, from Linux: VmRSS is now, VmHWM the peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def probe(folder: str) -> dict:
    from model.finite import nonfinite
    from model_utils import keep_freed_memory, load_model

    keep_freed_memory()  # as training does
    before, started = resident("VmRSS"), time.monotonic()
    model = load_model(folder, dtype=torch.bfloat16)
    seconds = time.monotonic() - started
    # whatever was only promised is in memory now
    sum(float(p.detach().sum()) for p in model.parameters())
    started = time.monotonic()
    assert not nonfinite(dict(model.named_parameters()))  # which loading has asked too
    cost = {"seconds": seconds, "finite": time.monotonic() - started}
    return cost | {"peak": resident("VmHWM") - before, "after": resident("VmRSS") - before}


def main(argv: list[str]) -> int:
    settings = cli.parse(Loading, argv)
    if settings.probe:
        print(json.dumps(probe(settings.probe)))
        return 0
    folder = Path(settings.folder or tempfile.mkdtemp())
    try:
        size = write_checkpoint(folder, settings.layers)
        os.sync()  # else the disk is busy writing while the probe reads
        run = [sys.executable, "-m", "bench.loading", "--probe", str(folder)]
        cost = json.loads(
            subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        )
    finally:
        shutil.rmtree(folder)
    ratio = cost["peak"] / size
    print(
        f"{size / 1e9:.2f} GB loaded in {cost['seconds']:.1f} s ({size / 1e9 / cost['seconds']:.2f} GB/s), "
        f"of which {cost['finite']:.2f} s looked for NaN and inf; "
        f"peak {cost['peak'] / 1e9:.2f} GB, {ratio:.3f} of its size (allowed {ALLOWED}); "
        f"after it {cost['after'] / size:.3f}"
    )
    print(describe_machine())
    return 0 if ratio <= ALLOWED else 1


if __name__ == "__main__":
    cli.run(main)
