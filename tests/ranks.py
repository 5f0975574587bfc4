"""Two processes with something planted in one of them: `python tests/ranks.py OUT PLANT... -- FLAGS...`

A PLANT is one of PLANTS and @ the rank that has it. Ranks are forks of a process that has only imported, and
find one another by plain env://, so that rank 0 holds the store. All plants run at once, each in OUT/PLANT;
what rank r says goes to OUT/PLANT.r, first the time of the fault. Prints JSON: by plant, by rank, the exit
status (null: it had to be killed) and the time of the end. Times are time.monotonic().
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

import mmupt
from common import pulse

RANKS = 2


def at_step(step: int, stage: str, fault) -> None:
    """Here `fault()` happens as that stage begins."""

    def enter(*place, then=pulse.enter):
        then(*place)
        if place == (step, stage):
            time.sleep(1.2 * pulse.BEAT)  # so that the others have read that it is here
            print(time.monotonic(), file=sys.stderr, flush=True)
            fault()

    pulse.enter = enter


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def freeze() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def spin() -> None:
    while True:
        pass


def dawdle() -> None:
    """Slow, but it gets on."""
    for _ in range(20):
        time.sleep(0.5)
        pulse.tick()


def fail() -> None:
    raise ZeroDivisionError("planted")


def die_while_writing() -> None:
    def write_tensors(*_, **__):
        die()

    import model.checkpoint

    model.checkpoint.write_tensors = write_tensors  # of the moments; the model is written


PLANTS = {
    "none": lambda: None,
    "killed": lambda: at_step(2, "reward", die),
    "killed-in-save": lambda: at_step(2, "save", die),
    "killed-while-writing": lambda: at_step(2, "save", die_while_writing),
    "stopped": lambda: at_step(2, "rollout", freeze),
    "stuck": lambda: at_step(2, "reward", spin),
    "slow": lambda: at_step(2, "reward", dawdle),
    "failed": lambda: at_step(2, "score", fail),
}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def start(rank: int, port: int, plant: str, err: Path, argv: list[str]) -> int:
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        torch.set_num_threads(1)
        PLANTS[plant]()
        status = mmupt.main(argv)
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(status)


def main() -> None:
    where = sys.argv.index("--")
    out, plants, flags = Path(sys.argv[1]), sys.argv[2:where], sys.argv[where + 1 :]
    running: dict[int, tuple[str, int]] = {}
    for name in plants:
        plant, rank = name.split("@")
        port, argv = free_port(), ["--out", str(out / name), *flags]
        for r in range(RANKS):
            own = plant if r == int(rank) else "none"
            running[start(r, port, own, out / f"{name}.{r}", argv)] = name, r
    ends: dict = {name: {"status": [None] * RANKS, "end": [None] * RANKS} for name in plants}
    until = time.monotonic() + 80
    frozen = {pid for pid, (name, r) in running.items() if name == f"stopped@{r}"}
    while running.keys() - frozen and time.monotonic() < until:
        for pid in list(running):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                name, r = running.pop(pid)
                ends[name]["status"][r] = os.waitstatus_to_exitcode(status)
                ends[name]["end"][r] = time.monotonic()
        time.sleep(0.01)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
