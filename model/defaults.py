"""Defaults that fit: what flags that nobody gave are for another model than the built-in one, and for data of
one's own.

The dataclasses hold the built-in run's, which serve models of less than TINY_SIZE parameters. Of larger ones
the rates are those that published recipes agree on, which docs/models.md names. A flag that is given, a
preset's value and what a resumed run had stay as they are.
"""

import math
import os
from pathlib import Path
from typing import Any

from data import TINY
from model.shape import read_shape

TINY_SIZE = 50e6
# models of less than so many parameters: --lr of all weights, of adapters
RATES = ((1e9, 5e-6, 5e-5), (math.inf, 1e-6, 1e-5))
LENGTHS = {"max_new_tokens": 1024, "max_prompt_tokens": 2048}


def fitting(settings, unset: set[str]) -> dict[str, Any]:
    """Settings of a run or an evaluation, the names of those that nobody gave -> other values of such, which
    are printed."""
    said: list[tuple[dict[str, Any], str]] = []
    found: dict[str, Any] = {}
    if unset & {"lr", *LENGTHS} and Path(settings.model) != TINY:
        adapters = getattr(settings, "lora_rank", 0) > 0
        size = read_shape(settings.model, weights=not getattr(settings, "plan", False)).parameters
        of_model = changed(settings, of_size(size, adapters), unset)
        what = f"a model of {in_words(size)} parameters" + (" with LoRA" if adapters else "")
        said.append((of_model, what))
    sources = getattr(settings, "train_data", ["tiny"])
    if not all(source.partition(":")[0] == "tiny" for source in sources):
        said.append((changed(settings, {"eval_data": ""}, unset), "data of your own"))
    for values, _ in said:
        found |= values
    if found and os.environ.get("RANK", "0") == "0":
        print("not given, so set: " + "; ".join(f"{in_flags(v)} for {what}" for v, what in said if v))
    return found


def of_size(parameters: float, adapters: bool) -> dict[str, Any]:
    """Nothing for one as small as the built-in."""
    if parameters < TINY_SIZE:
        return {}
    rates = next(rates for below, *rates in RATES if parameters < below)
    return {"lr": rates[adapters], **LENGTHS}


def changed(settings, values: dict[str, Any], unset: set[str]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k in unset and getattr(settings, k) != v}


def in_flags(values: dict[str, Any]) -> str:
    return " ".join(f"--{name} {value!r}" for name, value in values.items())


def in_words(parameters: float) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"
