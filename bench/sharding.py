"""What each process holds of a model in shares: `torchrun --nproc_per_node 2 -m bench.sharding`

Loads policy and reference of a Qwen2.5-VL of random weights, updates it once and saves it; counts the bytes
of what is held, of the most that was alive while loading and, beyond what was before, while saving, and of
what was read from the files. With one process the same of the whole model. Tensors are counted: resident
memory hides what the allocator keeps.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from bench.plan import SIZES, LiveBytes, write_model
from common import cli, distributed
from common.cli import flag
from common.distributed import World
from model import loading
from model_utils import load_model, load_processor, save_checkpoint


@dataclass
class Sharding:
    size: str = flag("110M", f"of the model: {', '.join(SIZES)}")


def own(x: torch.Tensor) -> int:
    """Bytes that this process holds of it."""
    x = x.to_local() if isinstance(x, DTensor) else x
    return x.numel() * x.element_size()


def holdings(folder: str, out: str, world: World) -> dict[str, int]:
    """By kind, bytes of this process."""
    shard, read = world.size > 1, [0]
    plain = loading.Stored.__getitem__

    def counted(stored, part):
        x = plain(stored, part)
        read[0] += x.numel() * x.element_size()
        return x

    with LiveBytes() as alive:
        loading.Stored.__getitem__ = counted  # type: ignore[method-assign]
        try:
            policy = load_model(folder, shard=shard)
        finally:
            loading.Stored.__getitem__ = plain  # type: ignore[method-assign]
        parameters = list(policy.parameters())
        found = {"parameters": sum(map(own, parameters)), "read": read[0], "loading": alive.peak}
        reference = load_model(folder, shard=shard)
        found["reference"] = sum(map(own, reference.parameters()))
        optimizer = torch.optim.AdamW(parameters, fused=True)
        world.sum_gradients(policy)
        found["gradients"] = sum(own(p.grad) for p in parameters if p.grad is not None)
        optimizer.step()
        policy.zero_grad()
        found["moments"] = sum(own(x) for s in optimizer.state.values() for x in s.values())
        alive.recount()
        before = alive.peak = alive.live
        save_checkpoint(Path(out), policy, load_processor(folder), optimizer, {}, main=world.is_main)
        found["saving"] = alive.peak - before
    found["largest tensor"] = max(4 * p.numel() for p in parameters)
    return found


def main(argv: list[str]) -> int:
    settings = cli.parse(Sharding, argv)
    torch.set_num_threads(1)
    world = distributed.start()
    with tempfile.TemporaryDirectory() as mine:
        folder = Path(world.gather_json([mine])[0])
        if world.is_main:
            write_model(settings.size, folder / "model")
        world.wait()
        every = world.gather_json([holdings(str(folder / "model"), str(folder / "step-1"), world)])
        if world.is_main:
            for rank, found in enumerate(every):
                print(f"{rank} of {world.size}", json.dumps({k: round(x / 1e6, 1) for k, x in found.items()}))
        world.wait()
    distributed.stop()
    return 0


if __name__ == "__main__":
    cli.run(main)
