"""Functions in several processes each, as torchrun would start them, for one import of torch.

`python tests/forks.py < CALLS`, a JSON list of {"processes": N, "call": "module:function", "given": {..}}
-> on stderr a line a call, `statuses` and those by rank.
"""

import importlib
import json
import os
import socket
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed.fsdp  # this and the next three before there are forks, each of which would import it
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil  # noqa: F401

import mmupt  # noqa: F401
from common.errors import UserError


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(rank: int, processes: int, port: int, call: str, given: dict) -> int:
    """Forks a process that calls the function as rank `rank` -> its number."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        torch.set_num_threads(1)
        if processes > 1:
            names = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=processes, MASTER_PORT=port)
            os.environ |= {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"}
        module, name = call.split(":")
        status = getattr(importlib.import_module(module), name)(**given) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(processes: int, call: str, given: dict) -> list[int]:
    """Exit statuses by rank."""
    port = free_port()
    pids = [start(rank, processes, port, call, given) for rank in range(processes)]
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


if __name__ == "__main__":
    for one in json.load(sys.stdin):
        print("statuses", json.dumps(run(**one)), file=sys.stderr, flush=True)
