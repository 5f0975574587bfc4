"""The machine a figure was measured on, in words."""

import os
import platform
from pathlib import Path

import torch
import transformers


def describe_machine() -> str:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        cpu = names[0] if names else cpu
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{os.cpu_count()} x {cpu}{gpu}; {versions}, Python {platform.python_version()}"
