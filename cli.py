"""Command lines from dataclasses: `--field value`, one-line errors that name the flag, exit status 2 for a user's mistake."""

import difflib
import fcntl
import os
import sys
from collections.abc import Callable
from dataclasses import field, fields
from pathlib import Path

from transformers import HfArgumentParser


class UsageError(ValueError):
    """A user's mistake; the message names the flag and the fix."""


def flag(default, help: str):
    """A field of a settings class, with its help text."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


class _Parser(HfArgumentParser):
    def error(self, message):
        raise UsageError(message)


def parse(cls, argv: list[str], presets: dict[str, dict] | None = None, defaults: dict | None = None):
    """Flags -> an instance of the dataclass `cls`. `--preset` and `defaults` set other defaults; flags given win."""
    parser = _Parser(cls, allow_abbrev=False)
    known = {f.name for f in fields(cls)}
    if presets:
        chosen = value_of(argv, "--preset")
        if chosen:
            if chosen not in presets:
                raise UsageError(f"--preset {chosen}: there is {', '.join(presets)}")
            parser.set_defaults(**presets[chosen])
    parser.set_defaults(**{k: v for k, v in (defaults or {}).items() if k in known})
    (values, unknown) = parser.parse_args_into_dataclasses(
        argv, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        close = difflib.get_close_matches(unknown[0].split("=")[0].lstrip("-"), [f.name for f in fields(cls)], 1)
        hint = f"; did you mean --{close[0]}?" if close else "; --help lists the flags"
        raise UsageError(f"unknown flag {unknown[0]}{hint}")
    return values


def value_of(argv: list[str], flag: str) -> str | None:
    """The word after a flag, before anything is parsed."""
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(flag + "="):
            return word.split("=", 1)[1]
    return None


def check_out(path: str | Path) -> None:
    """Says at the start, rather than when all is done, that nothing can be written there."""
    path = Path(path)
    try:
        there = next(p for p in (path, *path.parents) if p.exists())
    except OSError as error:  # a name that is too long
        raise UsageError(f"--out {path}: {error.strerror}") from None
    if not there.is_dir():
        raise UsageError(f"--out {path}: {there} is a file, so no folder can be there")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"--out {path}: nothing may be written to {there}")


_held: dict[Path, int] = {}  # open files, by their path


def hold(path: str | Path) -> None:
    """Keeps other processes from writing to the same file or folder, until `release` or this one's end."""
    path = Path(path).resolve()
    if path in _held:
        return
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise UsageError(f"--out: another process is writing {path}; wait for its end, or name another") from None
    except OSError:  # a file system without locks
        pass
    _held[path] = file


def release() -> None:
    """Lets go of all that is held."""
    while _held:
        os.close(_held.popitem()[1])


def one_process(program: str) -> None:
    """Refuses torchrun: every process would do and write the same."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UsageError(f"{program} runs in one process: start it with python, not with torchrun")


def run(main: Callable[[list[str]], int]) -> None:
    """Calls main(argv) and exits with its status; a ValueError of ours becomes one line on stderr and status 2."""
    from data import DataError
    from model_utils import ModelError

    try:
        status = main(sys.argv[1:])
    except (UsageError, DataError, ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    sys.exit(status)
