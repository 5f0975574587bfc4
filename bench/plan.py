"""What `--plan` says beside what a run held: `python -m bench.plan`

Trains a Qwen2.5-VL of random weights for two steps, in full and by adapters, in float32 and with products in
bfloat16, and counts the bytes of all tensors alive, at every operation: most during a rollout and during an
update. Resident memory would hide them behind what the allocator keeps. Under torchrun each process counts
its own. Left out: a GPU, where torch.cuda.max_memory_allocated says the same.
"""

import json
import os
import shutil
import tempfile
import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import mmupt
from bench.machine import describe_machine
from common import cli
from common.cli import flag
from common.run_log import RunLog
from data import TINY
from model import plan
from model.shape import read_shape

SIDE = 112  # of a picture: 16 tokens
PROMPT = 75  # tokens of a question
ALLOWED = 0.1  # between plan and measurement
# hidden, layers, heads, key/value heads, MLP, vocabulary; vision: hidden, layers, heads, MLP
SIZES = {
    "tiny": (128, 4, 4, 2, 384, 512, 64, 2, 2, 192),
    "5M": (256, 5, 4, 2, 768, 2048, 128, 4, 4, 256),
    "30M": (512, 8, 8, 2, 1536, 8192, 256, 6, 4, 512),
    "110M": (768, 12, 12, 2, 2304, 16384, 384, 8, 6, 1024),
}


# so many tokens that a CPU gets through them; either all in one forward of an update, or each question in its
# own: between these the plan reckons with the worst mixture of prompts and responses, which no run need meet
LOADS: dict[str, dict] = {
    "tiny": dict(questions=4, group_size=4, max_new_tokens=16, tokens_per_forward=PROMPT),
    "5M": dict(questions=8, group_size=4, max_new_tokens=24),
    "30M": dict(questions=4, group_size=4, max_new_tokens=24, tokens_per_forward=PROMPT),
    "110M": dict(questions=2, group_size=4, max_new_tokens=12, tokens_per_forward=PROMPT),
}
WAYS: dict[str, dict] = {
    "full": dict(beta=0.01),
    "lora": dict(lora_rank=16),
    "frozen": dict(freeze_vision=True, beta=0.0),
    "recomputed": dict(gradient_checkpointing=True),
}


@dataclass
class Planned:
    sizes: str = flag("5M,30M,110M", f"of models: {', '.join(SIZES)}")
    ways: str = flag("full,lora", f"of training: {', '.join(WAYS)}")
    dtypes: str = flag("float32,bfloat16", "of products")
    shard: str = flag("auto", "as mmupt.py has it, under torchrun")


class LiveBytes(TorchDispatchMode):
    """Bytes of all storages that some tensor still holds, at every operation: `live`, and `peak` since the
    last `rest`."""

    def __init__(self):
        super().__init__()
        self.sizes: dict[int, tuple] = {}  # by identity: a weak reference, bytes
        self.live = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        from torch.distributed.tensor import DTensor

        if any(issubclass(t, DTensor) for t in types):
            return NotImplemented  # its local tensors come by
        out = func(*args, **(kwargs or {}))
        for x in tree_iter((args, kwargs, out)):
            if isinstance(x, torch.Tensor) and x.device.type != "meta":
                self.see(x)
        if self.live > self.peak:
            self.recount()  # a storage may have been emptied behind our back
            self.peak = max(self.peak, self.live)
        return out

    def see(self, x: torch.Tensor) -> None:
        storage = x.untyped_storage()
        if storage.device.type == "meta":  # a stand-in, by which sharded tensors reckon shapes
            return
        key, size = storage._cdata, storage.nbytes()
        known = self.sizes.get(key)
        if known is None or known[0]() is not storage:
            self.forget(key)
            self.sizes[key] = (weakref.ref(storage, lambda _: self.forget(key)), size)
            self.live += size
        elif known[1] != size:
            self.sizes[key] = (known[0], size)
            self.live += size - known[1]

    def forget(self, key: int) -> None:
        if known := self.sizes.pop(key, None):
            self.live -= known[1]

    def recount(self) -> None:
        for key, (reference, size) in list(self.sizes.items()):
            storage = reference()
            now = 0 if storage is None else storage.nbytes()
            if now != size:
                self.sizes[key] = (reference, now)
                self.live += now - size


@contextmanager
def peaks_of_stages(found: dict[str, int]):
    """Within it, `found` has the most bytes that were alive in each stage of a training step."""
    with LiveBytes() as bytes_:
        plain, save = RunLog.stage, RunLog.save

        @contextmanager
        def stage(log, name):
            bytes_.peak = bytes_.live
            with plain(log, name):
                yield
            found[name] = max(found.get(name, 0), bytes_.peak)

        RunLog.stage, RunLog.save = stage, lambda *_: None  # nothing here wants the checkpoint
        try:
            yield
        finally:
            RunLog.stage, RunLog.save = plain, save


def write_model(size: str, folder: Path) -> Path:
    """A checkpoint of random weights with the built-in base's tokenizer; its samples seldom end."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    hidden, layers, heads, kv, mlp, V, v_hidden, v_layers, v_heads, v_mlp = SIZES[size]
    settings = json.loads((TINY / "config.json").read_text())
    half = hidden // heads // 2
    settings["text_config"] |= dict(
        hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=layers, vocab_size=V,
        num_attention_heads=heads, num_key_value_heads=kv, layer_types=["full_attention"] * layers,
        rope_parameters=dict(
            rope_type="default", rope_theta=1e4, mrope_section=[half - 2 * (half // 3), half // 3, half // 3]
        ),
    )  # fmt: skip
    settings["vision_config"] |= dict(
        hidden_size=v_hidden, intermediate_size=v_mlp, depth=v_layers, num_heads=v_heads,
        out_hidden_size=hidden, fullatt_block_indexes=[v_layers - 1],
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**settings))
    shutil.copytree(TINY, folder)
    model.save_pretrained(folder)
    return folder


def write_questions(folder: Path, count: int) -> Path:
    """All of PROMPT tokens, with a picture of SIDE."""
    # a white one is all zeros to the tower, whose norms then blow up what little gradient there is
    Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB").save(folder / "picture.png")
    row = {"question": "What is it that is drawn here?", "images": ["picture.png"]}
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps({"id": f"q{i}", **row}) + "\n" for i in range(count)))
    return path


def measure(model: Path, out: Path, **options) -> tuple[plan.Plan, dict[str, int]]:
    """Two steps of training -> the plan of them, and the most bytes alive in each stage, of this process."""
    settings: dict = dict(
        model=model, train_data=write_questions(model, 64), eval_data="", steps=2, save_every=0, out=out,
        min_pixels=SIDE**2, max_pixels=SIDE**2, max_prompt_tokens=PROMPT, reward="random", lr=0.0,
    )  # fmt: skip
    argv = [word for k, v in (settings | options).items() for word in (f"--{k}", str(v))]
    found: dict[str, int] = {}
    with peaks_of_stages(found):
        assert mmupt.main(argv) == 0
    steps = map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if out.exists() else ()
    assert not any(row.get("nonfinite_updates") for row in steps)  # a skipped one would make no moments
    config, processes = cli.parse(mmupt.Config, argv), int(os.environ.get("WORLD_SIZE", 1))
    room = plan.memory(torch.device("cpu"))
    return plan.best(read_shape(str(model)), config, processes, gpu=False, room=room), found


def planned(one: plan.Plan) -> dict[str, float]:
    """Bytes of the two moments, with as many questions at a time as there are."""
    return {"rollout": one.stays + sum(one.rollout(one.at_once).values()), "update": one.peaks["update"]}


def main(argv: list[str]) -> int:
    settings = cli.parse(Planned, argv)
    torch.set_num_threads(1)
    rank, worst = int(os.environ.get("RANK", 0)), 0.0
    for size in settings.sizes.split(","):
        for dtype in settings.dtypes.split(","):
            for way in settings.ways.split(","):
                with tempfile.TemporaryDirectory() as folder:
                    model = write_model(size, Path(folder) / "model")
                    one, found = measure(
                        model,
                        Path(folder) / "run",
                        dtype=dtype,
                        shard=settings.shard,
                        **LOADS[size],
                        **WAYS[way],
                    )
                for moment, expected in planned(one).items():
                    ratio = expected / found[moment]
                    worst = max(worst, abs(ratio - 1))
                    what = f"{one.shape.parameters / 1e6:.1f} M | {way} | {dtype} | {rank} of {one.processes}"
                    figures = f"{found[moment] / 1e6:.1f} | {expected / 1e6:.1f} | {ratio:.3f}"
                    print(f"| {what} | {moment} | {figures} |", flush=True)
    print(f"at most {worst:.1%} off; {describe_machine()}")
    return 0 if worst <= ALLOWED else 1


if __name__ == "__main__":
    cli.run(main)
