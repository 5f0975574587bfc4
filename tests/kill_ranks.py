"""Kills ranks of one run again and again: `python tests/kill_ranks.py OUT [OPTIONS] -- FLAGS...`

torchrun starts the run with --resume auto and as many restarts as there will be kills. A rank drawn by lot is
killed by SIGKILL within a step or while a checkpoint is written, at least a step after the last restart. For
each a line: seconds until all survivors were gone, what they said, whether every checkpoint is whole. At the
end the run is compared with one that nobody killed. What a rank was doing it has noted in a file of its own,
which shares nothing with what the survivors know.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

NOTE = 64  # bytes: pid, step, stage


def worker(out: Path, argv: list[str]) -> int:
    """One rank of the run."""
    import mmupt
    from common import pulse

    note = os.open(out / f"where.{os.environ['RANK']}", os.O_WRONLY | os.O_CREAT)

    def enter(step, stage, then=pulse.enter):
        os.pwrite(note, f"{os.getpid()} {step} {stage}".encode().ljust(NOTE), 0)
        then(step, stage)

    pulse.enter = enter
    sys.argv = ["mmupt.py", *argv]
    mmupt.cli.run(mmupt.main)
    return 0


def launch(out: Path, name: str, ranks: int, restarts: int, flags: list[str]) -> subprocess.Popen:
    """torchrun, with what all ranks say in OUT/NAME.err."""
    run = f"-m torch.distributed.run --standalone --nproc_per_node {ranks} --max-restarts {restarts}".split()
    own = ["--out", str(out / name), "--resume", "auto"]
    argv = [sys.executable, *run, __file__, str(out), "--", *own, *flags]
    with open(out / f"{name}.err", "wb") as err, open(out / f"{name}.out", "wb") as said:
        return subprocess.Popen(argv, stdout=said, stderr=err)


def where(out: Path, rank: int) -> tuple[int, int, str] | None:
    """(pid, step, stage) of a living rank."""
    try:
        pid, step, stage = (out / f"where.{rank}").read_text().split()
    except (OSError, ValueError):
        return None
    return (int(pid), int(step), stage) if lives(int(pid)) else None


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def rows_in(run: Path) -> int:
    log = run / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def wait_for(torchrun: subprocess.Popen, condition, seconds: float = 120) -> None:
    began = time.monotonic()
    while not condition():
        if torchrun.poll() is not None or time.monotonic() - began > seconds:
            sys.exit(
                f"torchrun's status is {torchrun.poll()} after {time.monotonic() - began:.0f} s of waiting"
            )
        time.sleep(0.001)


def seconds_of_a_step(run: Path) -> float:
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return sum(value for name, value in last.items() if name.startswith("seconds/"))


def freeze(
    out: Path, run: Path, rank: int, in_save: bool, rng, torchrun: subprocess.Popen
) -> tuple[int, int, str]:
    """Stops the rank in a step, or in a save that rank 0 is writing; what it was doing."""
    while True:
        if in_save:
            wait_for(torchrun, lambda: any((run / "checkpoints").glob("*.partial")))
            time.sleep(rng.uniform(0, 0.03))
        found = where(out, rank)
        if found:
            os.kill(found[0], signal.SIGSTOP)
            found = where(out, rank) or found
            writing = any((run / "checkpoints").glob("*.partial"))
            if (found[2] == "save") == in_save and (writing or not in_save):
                return found
            os.kill(found[0], signal.SIGCONT)
        time.sleep(0.01)


def kill(out: Path, run: Path, ranks: int, in_save: bool, rng, torchrun: subprocess.Popen) -> bool:
    """Kills one rank and looks at what follows; whether all was well."""
    from model.checkpoint import checkpoints, is_whole

    before = rows_in(run)
    wait_for(torchrun, lambda: all(where(out, r) for r in range(ranks)) and rows_in(run) > before)
    time.sleep(rng.uniform(0, 1) * seconds_of_a_step(run))
    pids = [found[0] for r in range(ranks) if (found := where(out, r))]
    err, rank = out / f"{run.name}.err", rng.randrange(ranks)
    pid, step, stage = freeze(out, run, rank, in_save, rng, torchrun)
    said = err.stat().st_size
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    wait_for(torchrun, lambda: not any(map(lives, pids)))
    seconds = time.monotonic() - began
    text = err.read_bytes()[said:].decode(errors="replace")
    named = re.findall(r"^error: (rank \d+) was lost in stage (\w+) of step (\d+)", text, re.MULTILINE)
    right = {(f"rank {rank}", stage, str(step))} == set(named) and len(named) == ranks - 1
    broken = [path.name for path in checkpoints(run / "checkpoints") if not is_whole(path)]
    told = "; ".join(sorted({f"{who}, {at} of {n}" for who, at, n in named})) or "nothing"
    print(
        f"rank {rank}, {stage} of step {step}: gone in {seconds:.1f} s, {len(named)} said {told}"
        f" ({'right' if right else 'NOT RIGHT'}), {'all checkpoints whole' if not broken else broken}",
        flush=True,
    )
    return right and not broken and seconds < 60 and "Traceback" not in text


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--in_steps", type=int, default=10)
    parser.add_argument("--in_saves", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--whole", type=Path, help="the run that nobody killed, where there is one already")
    cut = sys.argv.index("--")
    args, flags = parser.parse_args(sys.argv[1:cut]), sys.argv[cut + 1 :]
    if "RANK" in os.environ:
        return worker(args.out, flags)

    from running import fingerprint, rows, without_times

    args.out.mkdir(parents=True)
    whole = args.whole or args.out / "whole"
    if not args.whole:
        assert launch(args.out, whole.name, args.ranks, 0, flags).wait() == 0
    rng, run, good = random.Random(args.seed), args.out / "killed", 0
    kills = [False] * args.in_steps + [True] * args.in_saves
    torchrun = launch(args.out, run.name, args.ranks, len(kills), flags)
    try:
        for in_save in rng.sample(kills, len(kills)):
            good += kill(args.out, run, args.ranks, in_save, rng, torchrun)
        status = torchrun.wait(300)
    finally:
        torchrun.terminate()
    last = rows(run)[-1]["step"]
    alike = [without_times(r) for r in rows(run)] == [without_times(r) for r in rows(whole)]
    same = fingerprint(run, last) == fingerprint(whole, last)
    print(f"{good} of {len(kills)} kills as they should be; torchrun ended with {status}")
    print(f"step {last}: metrics equal: {alike}, weights and moments equal: {same}")
    return 0 if good == len(kills) and status == 0 and alike and same else 1


if __name__ == "__main__":
    sys.exit(main())
