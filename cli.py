"""Command lines from dataclasses: `--field value`, one-line errors that name the flag, exit status 2 for a user's mistake."""

import difflib
import sys
from collections.abc import Callable
from dataclasses import field, fields

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
        chosen = _first(argv, "--preset")
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


def _first(argv: list[str], flag: str) -> str | None:
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(flag + "="):
            return word.split("=", 1)[1]
    return None


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
