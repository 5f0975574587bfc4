"""Runs mmupt again and again and kills it: `python tests/killer.py SEED KILLS OUT FLAGS...`

Each run is a fork of a process that has only imported, so that a kill costs a second and not the
import of torch. A run is killed by SIGKILL at a random moment, mostly within a step or while a
checkpoint is being written; the last one ends.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

import mmupt


def steps_done(out: Path) -> int:
    log = out / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def start(argv: list[str]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            status = mmupt.main(argv)
        finally:
            os._exit(status)
    return pid


def main() -> int:
    seed, kills, out, *flags = sys.argv[1:]
    rng, out = random.Random(int(seed)), Path(out)
    argv = ["--out", str(out), "--resume", "auto", *flags]
    killed = 0
    while killed < int(kills):
        before, more = steps_done(out), rng.choice((0, 1, 1, 2))
        pid, began = start(argv), time.monotonic()
        while steps_done(out) < before + more and time.monotonic() - began < 20:
            if os.waitpid(pid, os.WNOHANG) != (0, 0):
                print(f"the run ended after {killed} kills")
                return 1
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.4))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            print(f"the run ended after {killed} kills")
            return 1
        killed += 1
        print(f"killed at step {steps_done(out)}", flush=True)
    _, status = os.waitpid(start(argv), 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
