"""math-verify as a second opinion on free-form answers, in a process of its own that can be killed.

    with MathVerify(seconds=5) as grader:
        grader.equal(r"\\frac{1}{2}", "0.5")  ->  True, False, or None where it took longer

sympy can need minutes or gigabytes for a short answer, and no exception stops it. So one worker
process compares, one pair after another; one that exceeds the time is killed and another started,
and the comparison counts as timed out. Only math-verify's LaTeX grammar is used: its other reader
hands text to sympy's parser, which evaluates it as Python.

The worker is evaluation/math_verify_worker.py.
"""

import json
import selectors
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from common.errors import GraderError
from common.pulse import tick

START_SECONDS = 120  # importing sympy from a cold disk
WORKER = Path(__file__).with_name("math_verify_worker.py").resolve()


class MathVerify:
    def __init__(self, seconds: float = 5.0):
        try:
            self.name = f"math-verify {metadata.version('math-verify')}"
        except metadata.PackageNotFoundError:
            raise GraderError(
                "--grader math-verify needs a package: pip install 'math-verify[antlr4_13_2]'"
            ) from None
        self.seconds = seconds
        self.worker: Any = None  # a Popen with both pipes, while there is one
        # samples repeat each other
        self.equal = lru_cache(maxsize=65536)(self.equal)  # type: ignore[method-assign]

    def equal(self, gold: str, answer: str) -> bool | None:
        """Whether the two mean the same; None where that took too long. Unreadable is no match."""
        tick()
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
        command = [sys.executable, "-P", str(WORKER)]
        self.worker = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.lines = selectors.DefaultSelector()
        self.lines.register(self.worker.stdout, selectors.EVENT_READ)
        if not self.read(START_SECONDS):
            self.close()
            raise GraderError("--grader math-verify does not start: python -c 'import math_verify' says why")

    def read(self, seconds: float) -> bytes:
        """The worker's next line, short and never half written; nothing where none came in time."""
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
