"""A LoRA adapter and its base as one plain checkpoint, added in float32.

    python -m programs.merge_adapter --adapter RUN/checkpoints/step-60 --out FOLDER

Left out: other kinds of adapters than LoRA, and those whose training began by changing the base.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from common import cli, files
from common.cli import flag
from common.errors import ModelError, UsageError, first_line
from common.machine import SAVED
from model.checkpoint import say_dtype
from model.lora import SETTINGS, fill_adapter, need_peft
from model_utils import load_model, load_processor

# of an adapter's settings, those that say what its weights mean; peft imports modules and reads
# files by some others
READ = ("r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora")
# of the ways that peft starts an adapter, those that leave the base as it is; others (pissa, olora,
# ...) change it
STARTS = (True, False, "gaussian", "eva")


@dataclass
class MergeConfig:
    adapter: str = flag("", "adapter folder: RUN/checkpoints/step-N, or any that peft wrote", "given")
    base: str = flag("", "the base checkpoint; empty is the one that the adapter names")
    out: str = flag("", "folder to write", "given")
    save_dtype: str = flag("float32", "of the weights that are written", choices=SAVED)

    def __post_init__(self):
        cli.check(self)
        files.check_out(Path(self.out).parent)
        if Path(self.out).exists():
            raise UsageError(f"--out {self.out} exists already: name another folder")


def merge(adapter: str, base: str = ""):
    """-> (base model in float32 with the adapter's part added, the base's processor, its name)"""
    peft, folder = need_peft("--adapter"), Path(adapter)
    try:
        said = json.loads((folder / SETTINGS).read_text())
        base = base or said["base_model_name_or_path"]
        settings = peft.LoraConfig(**{name: said[name] for name in READ if name in said})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"--adapter {adapter}: no adapter folder ({SETTINGS}: {first_line(error)})"
        ) from None
    if said.get("peft_type") != "LORA":
        raise ModelError(
            f"--adapter {adapter}: an adapter of type {said.get('peft_type')}; only LoRA is merged"
        )
    if (start := said.get("init_lora_weights", True)) not in STARTS:
        raise ModelError(
            f"--adapter {adapter}: its training began by changing the base ({start}); "
            "have peft convert it to plain LoRA"
        )
    if not base:
        raise ModelError(f"--base must be given: {folder / SETTINGS} names none")
    try:
        model, processor = load_model(base), load_processor(base)
    except ModelError as error:
        raise ModelError(str(error).replace("--model", "--base", 1)) from None
    try:
        model = peft.get_peft_model(model, settings)
    except ValueError as error:  # no such linears
        raise ModelError(f"--adapter {adapter}: {first_line(error)}") from None
    fill_adapter(model, folder)
    return model.merge_and_unload(), processor, base


def main(argv: list[str]) -> int:
    config = cli.parse(MergeConfig, argv)
    model, processor, base = merge(config.adapter, config.base)
    out, unfinished = Path(config.out), Path(config.out + ".partial")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        processor.save(unfinished)
        # the run's own, where it saved them: it may have set other sizes of images
        for file in unfinished.iterdir():
            if (own := Path(config.adapter) / file.name).is_file():
                shutil.copy(own, file)
        dtype = getattr(torch, config.save_dtype)
        model.to(dtype).save_pretrained(unfinished)
        say_dtype(unfinished / "config.json", dtype)
        files.by_umask(unfinished)
        unfinished.rename(out)
    except (OSError, SafetensorError) as error:  # the latter: a full disk, as safetensors says it
        raise UsageError(f"--out {out}: {first_line(error)}") from None
    print(f"{config.adapter} merged into {base}: {out}")
    return 0


if __name__ == "__main__":
    cli.run(main)
