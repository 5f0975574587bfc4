"""SIGINT and SIGTERM ask a run for a stop; a second one ends the process at once.

A step that has begun to score or update is finished. What a rollout or an evaluation has sampled until then
is given up at its next decoding step: `with at_ticks():` leaves out the rest of its block. Then the weights
are still those of the last finished step, of which `train` keeps a checkpoint.
"""

import os
import signal
from contextlib import contextmanager

import torch

from common import pulse
from common.distributed import World

asked = False


class Stopped(Exception):
    """A stop was asked for, and what is under way is not worth finishing."""


class StopSignal:
    def __init__(self):
        global asked
        asked = False
        self.old = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}

    def _ask(self, number, frame):
        global asked
        if asked:
            os._exit(128 + number)
        asked = True
        # print is not safe in a handler
        os.write(2, b"stopping after this step, or now where it samples (again to stop at once)\n")

    def anywhere(self, world: World) -> bool:
        """On every rank alike, whichever rank was asked."""
        return bool(world.sum(torch.tensor(int(asked), device=world.device)))

    def restore(self) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)


@contextmanager
def at_ticks():
    """A block that ends at its next tick once a stop is asked for. No collective may stand in it: the other
    ranks, which may not have been asked, would wait."""
    pulse.at_tick = _check
    try:
        yield
    except Stopped:
        pass
    finally:
        pulse.at_tick = None


def _check() -> None:
    if asked:
        raise Stopped
