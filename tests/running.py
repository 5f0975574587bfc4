"""Whole runs for the tests, small enough for a CPU, and what they leave behind."""

import hashlib
import json
from pathlib import Path

import mmupt

SMALL = {
    "steps": 3,
    "questions": 4,
    "group_size": 4,
    "max_new_tokens": 32,
    "eval_data": "",
    "save_every": 1,
    "keep": 0,
    "lr": 1e-4,
    "warmup_steps": 0,
    "sentinels": 0,
}


def flags(**options) -> list[str]:
    words = [
        str(x) for name, value in (SMALL | options).items() if value is not True for x in (f"--{name}", value)
    ]
    return words + [f"--{name}" for name, value in options.items() if value is True]


def run(out, **options) -> int:
    return mmupt.main(flags(out=out, **options))


def rows(out, name="metrics.jsonl") -> list[dict]:
    return [json.loads(line) for line in (Path(out) / name).read_text().splitlines()]


def fingerprint(out, step) -> dict[str, str]:
    folder = Path(out) / "checkpoints" / f"step-{step}"
    return {
        n: hashlib.sha256((folder / f"{n}.safetensors").read_bytes()).hexdigest()
        for n in ("model", "optimizer")
    }


def without_times(row: dict) -> dict:
    return {k: v for k, v in row.items() if "second" not in k and k != "peak_memory_mb"}
