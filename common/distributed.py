"""One process or several: rank, device, and the three collectives the loop needs.

Every rank has its share of each step's questions, and holds the whole model or its share of that
(model/sharding.py). Gradients of whole models are summed by hand after the backward pass, since each
rank's loss already carries the divisor of the whole batch: no module is wrapped, so no forward can
bypass a wrapper and lose its gradient averaging.
"""

import json
import os
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from common import pulse
from common.errors import UsageError


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class World:
    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def my_part(self, items: Sequence) -> Sequence:
        """This rank's part of a list that every rank holds."""
        return items[self.rank :: self.size]

    @contextmanager
    def waiting(self):
        """Around collectives: the others see that this rank waits for them."""
        with pulse.waiting():
            yield
            if self.device.type == "cuda":  # where a collective returns before it is done
                torch.cuda.current_stream().synchronize()

    def sum(self, tensor: Tensor) -> Tensor:
        """In place; the sum over ranks."""
        if self.size > 1:
            with self.waiting():
                dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, model) -> None:
        """A parameter that no question here reached counts as zero: all ranks call alike."""
        from torch.distributed.tensor import DTensor

        parameters = [p for p in model.parameters() if p.requires_grad]
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        replicated = [p for p in parameters if not isinstance(p, DTensor)]  # shares: the backward pass did it
        if self.size > 1 and replicated:
            with self.waiting():
                for p in replicated:  # one by one: a flat copy of all would cost the model's memory again
                    dist.all_reduce(p.grad)
                    pulse.tick()

    def gather(self, tensor: Tensor) -> Tensor:
        """Tensors of one shape, concatenated along the first axis in order of rank."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with self.waiting():
            dist.all_gather(parts, tensor)
        return torch.cat(parts)

    def all_rows(self, x: Tensor, each: int) -> Tensor:
        """x [B], `each` rows for every question of this rank -> those of all ranks in the order of their
        questions, which are dealt to ranks in turn."""
        return self.gather(x).view(self.size, -1, each).transpose(0, 1).flatten()

    def my_rows(self, x: Tensor, each: int) -> Tensor:
        """The inverse: this rank's rows of all."""
        return x.view(-1, self.size, each)[:, self.rank].flatten()

    def gather_json(self, items: list) -> list:
        """Lists of JSON values of all ranks as one list, in order of rank."""
        if self.size == 1:
            return items
        data = torch.frombuffer(bytearray(json.dumps(items).encode()), dtype=torch.uint8).to(self.device)
        sizes = self.gather(torch.tensor([len(data)], device=self.device)).tolist()
        padded = torch.zeros(max(sizes), dtype=torch.uint8, device=self.device)
        padded[: len(data)] = data
        parts = self.gather(padded).cpu().split(max(sizes))
        return [x for part, n in zip(parts, sizes, strict=True) for x in json.loads(bytes(part[:n].tolist()))]

    def wait(self) -> None:
        if self.size > 1:
            with self.waiting():
                dist.barrier()


def start(timeout: float = 60.0) -> World:
    """The process group that torchrun asks for: NCCL where there are GPUs, gloo elsewhere. `timeout`: seconds
    after which a lost or stuck rank ends the run."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if torch.cuda.is_available():
        place, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if place >= gpus:
            raise UsageError(f"--nproc_per_node must be at most {gpus}, the GPUs that can be seen here")
        device = torch.device("cuda", place)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if size > 1:
        store, names = join(rank, size, pulse.PATIENT * timeout)
        pulse.start(rank, size, timeout, names)
        try:
            # ranks wait for each other through the longest rollout, not for the default ten minutes; a run
            # whose ranks wait in vain is ended by the pulse
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=dist.PrefixStore(names, store), rank=rank, world_size=size, timeout=timedelta(hours=24),
            )  # fmt: skip
        except RuntimeError as error:
            pulse.stop(error)
            raise
    return World(rank, size, device)


def join(rank: int, size: int, seconds: float) -> tuple[dist.TCPStore, str]:
    """The run's store, and a prefix for the keys of those ranks that start now.

    torchrun keeps its store when it starts ranks again, which each machine counts for itself, and what they
    wrote before they were killed is still there. So each rank brings a new name, and the prefix is all names.
    """
    store, own, until = pulse.connect(rank, seconds), uuid.uuid4().hex, time.monotonic() + seconds
    arrived, seen = ([f"{what}/{r}" for r in range(size)] for what in ("arrived", "seen"))
    read = lambda keys: [one.decode() for one in store.multi_get(keys)] if store.check(keys) else []  # noqa: E731
    store.set(arrived[rank], own)
    while True:
        if rank == 0 and (names := "".join(read(arrived))):
            store.set("names", names)
            if set(read(seen)) == {names}:  # nobody but those who run now has seen these
                store.set("agreed", names)
        names = "".join(read(["names"]))
        if own in names:
            store.set(seen[rank], names)
            if read(["agreed"]) == [names]:
                return store, names
        if time.monotonic() > until:
            missing = [r for r in range(size) if not store.check([arrived[r]])]
            raise UsageError(
                f"after {seconds:.0f} s of {size} processes {missing or 'some'} have not started"
            )
        time.sleep(0.02)


def stop() -> None:
    pulse.stop(sys.exception())
    if dist.is_initialized():
        dist.destroy_process_group()
