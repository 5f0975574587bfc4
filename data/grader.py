"""math-verify as a second opinion on free-form answers, in a process of its own that can be killed.

    with MathVerify(seconds=5) as grader:
        grader.equal(r"\\frac{1}{2}", "0.5")  ->  True, False, or None where it took longer

sympy can need minutes or gigabytes for a short answer, and no exception stops it. So one worker process compares, one
pair after another; one that exceeds the time is killed and another started, and the comparison counts as timed out.
Only math-verify's LaTeX grammar is used: its other reader hands text to sympy's parser, which evaluates it as Python.

This file is also the worker: JSON lines [gold, answer] come in, `true` or `false` goes out. It imports nothing of ours.
"""

import json
import os
import selectors
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from importlib import metadata

START_SECONDS = 120  # importing sympy from a cold disk
MEMORY = 4 * 2**30  # bytes of address space of the worker


class GraderError(ValueError):
    """No grader to be had; the message names the fix."""


class MathVerify:
    def __init__(self, seconds: float = 5.0):
        try:
            self.name = f"math-verify {metadata.version('math-verify')}"
        except metadata.PackageNotFoundError:
            raise GraderError("--grader math-verify needs a package: pip install 'math-verify[antlr4_13_2]'") from None
        self.seconds, self.worker = seconds, None
        self.equal = lru_cache(maxsize=65536)(self.equal)  # samples repeat each other

    def equal(self, gold: str, answer: str) -> bool | None:
        """Whether the two mean the same; None where that took too long. An answer it can't read is no match."""
        if self.worker is None:
            self.start()
        try:
            self.worker.stdin.write(json.dumps([gold, answer]).encode() + b"\n")
            self.worker.stdin.flush()
            line = self.read(self.seconds)
        except BrokenPipeError:
            line = b""
        if line:
            return json.loads(line)
        self.close()  # too slow, or it died: out of memory
        return None

    def start(self) -> None:
        # -P: this file's folder has modules named as others' might be
        command = [sys.executable, "-P", os.path.abspath(__file__)]
        self.worker = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.lines = selectors.DefaultSelector()
        self.lines.register(self.worker.stdout, selectors.EVENT_READ)
        if not self.read(START_SECONDS):
            self.close()
            raise GraderError("--grader math-verify does not start: python -c 'import math_verify' says why")

    def read(self, seconds: float) -> bytes:
        """The worker's next line; nothing where none came in time. It writes one short line at a time, never half."""
        return self.worker.stdout.readline() if self.lines.select(seconds) else b""

    def close(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait()
            self.lines.close()
            with suppress(BrokenPipeError):  # of a line that a dead worker didn't take
                self.worker.stdin.close()
            self.worker.stdout.close()
            self.worker = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def work() -> None:
    import logging
    import resource

    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    config = [LatexExtractionConfig(boxed_match_priority=0)]

    def read(answer: str) -> list:
        return parse(f"\\boxed{{{answer}}}", extraction_config=config, parsing_timeout=None, raise_on_error=False)

    print("ready", flush=True)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        try:
            same = verify(read(gold), read(answer), timeout_seconds=None, raise_on_error=False)
        except (Exception, RecursionError):  # whatever it trips over, the answer isn't shown to be right
            same = False
        print(json.dumps(bool(same)), flush=True)


if __name__ == "__main__":
    work()
