"""Command lines from dataclasses: `--field value`, and one-line errors that name the flag.

    @dataclass
    class Settings:
        steps: int = flag(60, "rollout steps", "at least 1")
        GROUPS: ClassVar = {"steps": "how long"}        of --help, by the first flag of each
        PRESETS: ClassVar = {"quick": {"steps": 2}}     what --preset quick sets

A rule stands beside its flag and is the end of its error: `--steps must be at least 1 (got 0)`; "at least 2:
a vote needs company" says why as well.
"""

import difflib
import math
import os
import re
import sys
from argparse import (
    SUPPRESS,
    Action,
    ArgumentDefaultsHelpFormatter,
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
)
from collections.abc import Callable, Iterable
from dataclasses import MISSING, field, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from common.errors import UsageError, UserError
from common.terminal import printable

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

YES_OR_NO = {word: True for word in ("yes", "true", "t", "y", "1")} | {
    word: False for word in ("no", "false", "f", "n", "0")
}
# names that other trainers have for it -> ours, of which a program may have some
ELSEWHERE = {
    "learning_rate": "lr", "grad_clip": "max_grad_norm", "warmup_ratio": "warmup_steps",
    "batch_size": "questions minibatch_questions", "train_batch_size": "questions minibatch_questions",
    "per_device_train_batch_size": "questions minibatch_questions", "mini_batch_size": "minibatch_questions",
    "ppo_mini_batch_size": "minibatch_questions", "micro_batch_size": "tokens_per_forward",
    "ppo_micro_batch_size_per_gpu": "tokens_per_forward", "gradient_accumulation_steps": "tokens_per_forward",
    "num_generations": "group_size num_samples", "n": "group_size num_samples", "k": "group_size num_samples",
    "max_completion_length": "max_new_tokens", "max_response_length": "max_new_tokens",
    "max_tokens": "max_new_tokens", "max_prompt_length": "max_prompt_tokens",
    "epsilon": "clip_low clip_high", "cliprange": "clip_low clip_high", "clip_ratio": "clip_low clip_high",
    "epsilon_high": "clip_high", "clip_ratio_high": "clip_high", "clip_ratio_low": "clip_low",
    "clip_ratio_c": "dual_clip", "delta": "dual_clip", "kl_coef": "beta", "kl_loss_coef": "beta",
    "kl_loss_type": "kl", "loss_type": "aggregate", "loss_agg_mode": "aggregate", "scale_rewards": "scale",
    "importance_sampling_level": "ratio", "reward_funcs": "reward",
    "max_steps": "steps", "epochs": "steps", "num_train_epochs": "steps", "total_epochs": "steps",
    "output_dir": "out", "default_local_dir": "out", "output": "out", "resume_from_checkpoint": "resume",
    "resume_mode": "resume", "save_steps": "save_every", "save_freq": "save_every",
    "save_total_limit": "keep", "eval_steps": "eval_every", "test_freq": "eval_every",
    "model_name": "model", "model_name_or_path": "model", "path": "model", "dataset": "train_data data",
    "dataset_name": "train_data data", "train_files": "train_data", "val_files": "eval_data",
    "eval_dataset": "eval_data", "lora_r": "lora_rank", "bf16": "dtype", "torch_dtype": "dtype",
}  # fmt: skip

Settings = TypeVar("Settings")
Fit = Callable[[Any, set[str]], dict[str, Any]]


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


class _Version(Action):
    def __call__(self, parser, *_):
        print(version())
        parser.exit()


class _Parser(ArgumentParser):
    def error(self, message):
        raise UsageError(message)


def parser_of(cls) -> ArgumentParser:
    """A flag for each field, in the sections of cls.GROUPS and their order: inherited fields come first."""
    parser = _Parser(allow_abbrev=False, formatter_class=_Help)
    parser.add_argument("--version", action=_Version, nargs=0, dest=SUPPRESS, help="say it and end")
    titles = getattr(cls, "GROUPS", {})
    sections: dict[str, Any] = {name: parser.add_argument_group(title) for name, title in titles.items()}
    section: Any = parser
    for f in fields(cls):
        section = sections.get(f.name, section)
        of_list = get_origin(f.type) is list
        options: dict[str, Any] = {"type": get_args(f.type)[0], "nargs": "+"} if of_list else {"type": f.type}
        if f.type in (bool, bool | None):  # may be given bare
            options = {"type": yes_or_no, "nargs": "?", "const": True}
        names = dict.fromkeys((f"--{f.name}", f"--{f.name.replace('_', '-')}"))
        default = f.default if f.default_factory is MISSING else f.default_factory()
        known = {name: f.metadata.get(name) or None for name in ("help", "choices")}
        section.add_argument(*names, default=default, **known, **options)
    return parser


def yes_or_no(word: str) -> bool:
    if word.lower() not in YES_OR_NO:
        raise ArgumentTypeError(f"it is on or off: true or false (got {word})")
    return YES_OR_NO[word.lower()]


def parse(
    cls: type[Settings], argv: list[str], defaults: dict | None = None, fit: Fit | None = None
) -> Settings:
    """Flags -> a `cls`. `--preset`, of cls.PRESETS, and `defaults` set other defaults; flags given win.
    `fit`: of these settings and the names of those that none of the three has set, other values of such."""
    parser = parser_of(cls)
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    presets, other = getattr(cls, "PRESETS", {}), defaults or {}
    if presets and (chosen := value_of(argv, "--preset")):
        if chosen not in presets:
            raise UsageError(f"--preset {chosen}: there is {', '.join(presets)}")
        other = presets[chosen] | other
    parser.set_defaults(**{k: v for k, v in other.items() if k in known})
    found, unknown = parser.parse_known_args(argv)
    if unknown:
        raise UsageError(f"unknown flag {unknown[0]}{hint(unknown[0], known)}")
    settings = cls(**vars(found))
    if fit:
        given = vars(parser.parse_args(argv, Namespace(**dict.fromkeys(known))))  # the others stay None
        fitted = fit(settings, {name for name in known - other.keys() if given[name] is None})
        settings = replace(settings, **fitted) if fitted else settings  # type: ignore[type-var]
    return settings


def hint(word: str, known: set[str]) -> str:
    """What an unknown flag may have meant: by another trainer's name, `a.b.c=1` included, or by spelling."""
    name = word.split("=")[0].lstrip("-").rpartition(".")[2].replace("-", "_")
    meant = [flag for flag in ELSEWHERE.get(name, "").split() if flag in known]
    if meant := meant or difflib.get_close_matches(name, sorted(known), 1):
        return f"; did you mean {' or '.join(f'--{flag}' for flag in meant)}?"
    return "; --help lists the flags"


def version() -> str:
    """The newest release that CHANGELOG.md tells of, with a + where changes came after it."""
    named = re.findall(r"^## (\S+)", (Path(__file__).parents[1] / "CHANGELOG.md").read_text("utf-8"), re.M)
    after = "+" if named[0] == "Unreleased" else ""
    below = " ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers"))
    return f"mmupt {named[bool(after)]}{after} ({below})"


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
        print(f"error: {printable(str(error))}", file=sys.stderr)
        status = 2
    sys.exit(status)
