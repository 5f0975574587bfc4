"""Command lines from dataclasses: `--field value`, and one-line errors that name the flag.

    @dataclass
    class Settings:
        steps: int = flag(60, "rollout steps", "at least 1")
        GROUPS: ClassVar = {"steps": "how long"}        of --help, by the first flag of each
        PRESETS: ClassVar = {"quick": {"steps": 2}}     what --preset quick sets

A rule stands beside its flag and is the end of its error: `--steps must be at least 1 (got 0)`; "at least 2:
a vote needs company" says why as well.
"""

import copy
import difflib
import math
import os
import sys
from argparse import ArgumentDefaultsHelpFormatter
from collections.abc import Callable, Iterable
from dataclasses import field, fields
from types import MappingProxyType
from typing import Any, TypeVar

from transformers import HfArgumentParser

from common.errors import UsageError, UserError

RULES: dict[str, Callable[[Any], bool]] = {
    "at least 1": lambda x: x >= 1,
    "at least 2": lambda x: x >= 2,
    "0 or more": lambda x: 0 <= x < math.inf,
    "0 or more, inf included": lambda x: x >= 0,
    "above 0": lambda x: 0 < x,
    "above 0 and at most 1": lambda x: 0 < x <= 1,
    "between 0 and 1": lambda x: 0 <= x <= 1,
    "0 or above 1": lambda x: x == 0 or x > 1,
    "given": lambda x: bool(x),
}

Settings = TypeVar("Settings")


def flag(default, help: str, rule: str = "", *, choices: Iterable[str] = ()) -> Any:
    """A field of a settings class: its default, its help text, and what its value must be: by a rule, or one
    of the choices, which may be the names of a table."""
    if rule and rule.partition(":")[0] not in RULES:
        raise KeyError(f"no such rule: {rule}")
    metadata = {"help": help, "rule": rule, "choices": list(choices)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def require(settings, name: str, ok: bool, what: str) -> None:
    """`what` the flag must be; what stands behind a colon there says why, behind the value given."""
    if not ok:
        what, colon, why = what.partition(":")
        preset, value = getattr(settings, "preset", ""), getattr(settings, name)
        if getattr(settings, "PRESETS", {}).get(preset, {}).get(name) == value:
            what += f", but --preset {preset} sets it"
        got = "" if value == "" else f" (got {value})"
        raise UsageError(f"--{name} must be {what}{got}{colon}{why}")


def check(settings) -> None:
    """Every flag's rule, that every number is finite where its rule doesn't allow otherwise, and that bounds
    on pixels are the right way round."""
    for f in fields(settings):
        value, rule = getattr(settings, f.name), f.metadata.get("rule")
        if rule:
            require(settings, f.name, RULES[rule.partition(":")[0]](value), rule)
        if choices := f.metadata.get("choices"):
            require(settings, f.name, value in choices, f"one of {', '.join(choices)}")
        if isinstance(value, float):
            require(settings, f.name, math.isfinite(value) or "inf included" in (rule or ""), "finite")
    if most := getattr(settings, "max_pixels", 0):
        require(settings, "min_pixels", settings.min_pixels <= most, "at most --max_pixels")


class _Help(ArgumentDefaultsHelpFormatter):
    """A flag once, though `--a-b` is taken for `--a_b`, and without its value's name."""

    def _format_action_invocation(self, action):
        choices = f" {{{','.join(map(str, action.choices))}}}" if action.choices else ""
        return ", ".join(s for s in action.option_strings if "-" not in s.lstrip("-")) + choices


class _Parser(HfArgumentParser):
    def __init__(self, cls, **options):
        self.section, self.groups, self.sections = None, getattr(cls, "GROUPS", {}), {}
        super().__init__(cls, allow_abbrev=False, formatter_class=_Help, **options)

    def _parse_dataclass_field(self, parser, field):  # type: ignore[override]  # static there
        if not self.sections:  # in the order of GROUPS, where inherited fields may come last
            self.sections = {name: self.add_argument_group(title) for name, title in self.groups.items()}
        self.section = self.sections.get(field.name, self.section)
        # HfArgumentParser hands all metadata on to argparse, which knows the help text alone
        plain = copy.copy(field)
        known = {name: field.metadata[name] for name in ("help", "choices") if field.metadata.get(name)}
        if field.type == bool | None:  # it would want a word behind the flag
            known |= {"nargs": "?", "const": True}
        plain.metadata = MappingProxyType(known)
        HfArgumentParser._parse_dataclass_field(self.section or parser, plain)

    def error(self, message):
        raise UsageError(message)


def parse(cls: type[Settings], argv: list[str], defaults: dict | None = None) -> Settings:
    """Flags -> a `cls`. `--preset`, of cls.PRESETS, and `defaults` set other defaults; flags given win."""
    parser = _Parser(cls)
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    presets = getattr(cls, "PRESETS", {})
    if presets and (chosen := value_of(argv, "--preset")):
        if chosen not in presets:
            raise UsageError(f"--preset {chosen}: there is {', '.join(presets)}")
        parser.set_defaults(**presets[chosen])
    parser.set_defaults(**{k: v for k, v in (defaults or {}).items() if k in known})
    _, unknown = parser.parse_known_args(argv)
    if unknown:
        close = difflib.get_close_matches(unknown[0].split("=")[0].lstrip("-"), sorted(known), 1)
        hint = f"; did you mean --{close[0]}?" if close else "; --help lists the flags"
        raise UsageError(f"unknown flag {unknown[0]}{hint}")
    (values,) = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    return values


def value_of(argv: list[str], flag: str) -> str | None:
    """The word after a flag, before anything is parsed."""
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(flag + "="):
            return word.split("=", 1)[1]
    return None


def one_process(program: str) -> None:
    """Refuses torchrun: every process would do and write the same."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UsageError(f"{program} runs in one process: start it with python, not with torchrun")


def run(main: Callable[[list[str]], int]) -> None:
    """Exits with main(argv)'s status; what the user can mend: one line on stderr, status 2."""
    try:
        status = main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    sys.exit(status)
