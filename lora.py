"""LoRA: low-rank adapters on the decoder's projections, through peft, in the place of training all weights.

    torchrun mmupt.py --lora_rank 16                                          trains the adapter alone
    python -m lora --adapter RUN/checkpoints/step-60 --out FOLDER             base and adapter as one plain checkpoint

An adapted linear gives W x + (alpha / rank) B A x with W frozen (arXiv 2106.09685, section 4.1). B starts at zero, so the
policy starts as the base, and with the adapter off it is the base: that is the reference, and no second copy is loaded.
The adapter is float32; W is kept in the dtype of matrix products. Sampling reads W + (alpha / rank) B A, merged once per
rollout (`weight_of` in decoding.py). A checkpoint of such a run is an adapter folder as peft writes it, plus tokenizer,
image processor and trainer state.

Left out: adapters on the vision tower, the embeddings or the head; dropout; quantised bases; other kinds of adapters.
"""

import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import cli
from families import text_model
from model_utils import ModelError, first_line, load_model, load_processor

PREFIX = "base_model.model."  # of every name in an adapter file, as peft writes it
WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
# of an adapter's settings, those that say what its weights mean; peft imports modules and reads files by some others
READ = ("r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora")
# of the ways that peft starts an adapter, those that leave the base as it is; others (pissa, olora, ...) change it
STARTS = (True, False, "gaussian", "eva")


def need_peft(flag: str):
    try:
        import peft
    except ImportError:
        raise ModelError(f"{flag} needs peft: pip install peft") from None
    return peft


def add_adapter(model, base: str, rank: int, alpha: int, targets: str, seed: int, resumed: Path | None = None) -> None:
    """Puts an adapter on the decoder, in place, and has it alone be trained: a fresh one, or that saved in `resumed`.

    `base`: the checkpoint's name, for whoever loads the adapter. `targets`: last names of the linears, comma-separated.
    """
    peft = need_peft("--lora_rank")
    settings = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets_pattern(model, targets))
    with torch.random.fork_rng(devices=[]):  # A is drawn on the CPU, alike on every rank
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, model)  # which freezes all else
    settings.base_model_name_or_path = base
    model.save_pretrained = partial(save_adapter, model, settings)
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data.float()  # in bfloat16 an update of lr 1e-6 would round away
    if resumed:
        fill_adapter(model, resumed)


def targets_pattern(model, targets: str) -> str:
    """The decoder's linears of these last names, as the regular expression that peft matches against whole names."""
    decoder = text_model(model)
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    known = {n.rsplit(".", 1)[-1] for n, m in decoder.named_modules() if type(m) is torch.nn.Linear}
    wanted = [name.strip() for name in targets.split(",")]
    if missing := [name for name in wanted if name not in known]:
        raise ModelError(
            f"--lora_targets {targets}: the decoder has no linear named {missing[0]!r}; it has {', '.join(sorted(known))}"
        )
    return rf"{re.escape(prefix)}\..+\.({'|'.join(map(re.escape, wanted))})"


def save_adapter(model, settings, folder: Path) -> None:
    """As peft writes it, which left to itself would ask the hub about the base's vocabulary at every save."""
    own = need_peft("--lora_rank").get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file({PREFIX + name: x.contiguous() for name, x in own.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    settings.save_pretrained(folder)


def fill_adapter(model, folder: Path) -> None:
    """Reads the adapter's weights from a folder: every one of them, and nothing else. Safetensors only."""
    peft = need_peft("--lora_rank")
    own = {
        name.removeprefix(PREFIX): name for name in peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    }
    try:
        saved = {name.removeprefix(PREFIX): x for name, x in load_file(Path(folder) / WEIGHTS).items()}
        if differing := sorted(saved.keys() ^ own.keys()):
            raise ValueError(f"not of this model and its targets: {differing[0]}")
        peft.set_peft_model_state_dict(model, {own[name]: x for name, x in saved.items()})
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:  # the last: tensors of other shapes
        raise ModelError(f"{folder}: its adapter can't be used ({first_line(error)})") from None


@contextmanager
def adapter_off(model):
    """The model as the base that it was, within this block."""
    layers = [m for m in model.modules() if hasattr(m, "enable_adapters") and hasattr(m, "lora_A")]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield model
    finally:
        for layer in layers:
            layer.enable_adapters(True)


# --- Base and adapter as one checkpoint --------------------------------------------------------------------------


@dataclass
class MergeConfig:
    adapter: str = field(
        default="", metadata={"help": "adapter folder: RUN/checkpoints/step-N, or any that peft wrote"}
    )
    base: str = field(default="", metadata={"help": "the base checkpoint; empty is the one that the adapter names"})
    out: str = field(default="", metadata={"help": "folder to write, in float32"})

    def __post_init__(self):
        for name in ("adapter", "out"):
            if not getattr(self, name):
                raise cli.UsageError(f"--{name} must be given")
        cli.check_out(Path(self.out).parent)
        if Path(self.out).exists():
            raise cli.UsageError(f"--out {self.out} exists already: name another folder")


def merge(adapter: str, base: str = ""):
    """-> (the base model in float32 with the adapter's part added to its weights, the base's processor, its name)"""
    peft, folder = need_peft("--adapter"), Path(adapter)
    try:
        said = json.loads((folder / SETTINGS).read_text())
        base = base or said["base_model_name_or_path"]
        settings = peft.LoraConfig(**{name: said[name] for name in READ if name in said})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"--adapter {adapter}: no adapter folder ({SETTINGS}: {first_line(error)})") from None
    if said.get("peft_type") != "LORA":
        raise ModelError(f"--adapter {adapter}: an adapter of type {said.get('peft_type')}; only LoRA is merged")
    if (start := said.get("init_lora_weights", True)) not in STARTS:
        raise ModelError(
            f"--adapter {adapter}: its training began by changing the base ({start}); have peft convert it to plain LoRA"
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
        model.save_pretrained(unfinished)
        unfinished.rename(out)
    except (OSError, SafetensorError) as error:  # the latter: a full disk, as safetensors says it
        raise cli.UsageError(f"--out {out}: {first_line(error)}") from None
    print(f"{config.adapter} merged into {base}: {out}")
    return 0


if __name__ == "__main__":
    cli.run(main)
