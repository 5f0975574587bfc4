"""Runs that are asked to stop while they sample."""

import os
import signal

import mmupt


def asked_in_rollout(number: int):
    """`mmupt.generate`, which sends this process a SIGTERM at the beginning of its nth rollout."""
    calls, real = [], mmupt.generate

    def generate(*given, **named):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*given, **named)

    return generate


def stopped(argv: list[str], number: int) -> int:
    """A run in which the second process alone is asked to, in its nth rollout."""
    if os.environ["RANK"] == "1":
        mmupt.generate = asked_in_rollout(number)
    return mmupt.main(argv)
