"""A run that begins, or goes on: which settings it has, what --resume refuses, what changed since.

history.jsonl in the run folder holds a row for every start: the step, the time, the settings that differ
from the start before, and, where a run begins, a digest of its base's weights: what was moved is known again
by its content, and another one in its place is refused.

Left out: bases and questions of the hub, which are known by their names.
"""

import json
import time
from pathlib import Path

from common import cli, files
from common.errors import UsageError

HISTORY = "history.jsonl"
BY_CONTENT = ("model", "train_data")  # of the settings that can't change; the stream looks at the latter
OF_START = ("out", "resume")  # which are no settings of the training
BASE_BYTES = 2**24  # of each file of weights that are looked at
# beside these a run may begin: what a scheduler or a login writes first, or a kill before config.json leaves
MAY_BE_THERE = ("*.log", "*.out", "*.err", ".*", "wandb", "tensorboard", HISTORY, "*.partial")
FILES = (".jsonl", ".json", ".csv", ".parquet")


def parse_run(cls, argv: list[str], fit: cli.Fit | None = None):
    """Flags over a preset's values over defaults, which `fit` makes those of this model and data; with
    --resume, over the run's own saved values, of which cls.FIXED can't change and cls.SETTLED are what an
    `auto` had become."""
    out = cli.value_of(argv, "--out") or ""
    argv, resume = resumes(argv, out)
    saved = saved_config(out) if resume and out else {}  # a flag may only be right beside the run's own
    config = cli.parse(cls, argv, defaults=saved | {"resume": False}, fit=fit)
    if not config.resume:
        config.out = config.out or time.strftime("runs/%Y%m%d-%H%M%S")
        return config
    for name in cls.SETTLED:  # the same command again
        if getattr(config, name) == "auto":
            setattr(config, name, saved.get(name, "auto"))
    for name in cls.FIXED:
        if name not in BY_CONTENT and getattr(config, name) != saved.get(name, getattr(config, name)):
            raise UsageError(f"--{name} was {saved[name]!r} in {config.out} and can't change on --resume")
    check_moved(config)
    check_base(config, saved)
    return config


def resumes(argv: list[str], out: str) -> tuple[list[str], bool]:
    """The flags, with --resume auto as what it means here, and whether there is a run to go on."""
    places = [i for i, word in enumerate(argv) if word.partition("=")[0] == "--resume"]
    if not places:
        return argv, False
    i, after = places[-1], argv[places[-1] + 1 :]
    value, apart = argv[i].partition("=")[2], 0
    if "=" not in argv[i] and after and not after[0].startswith("--"):
        value, apart = after[0], 1
    if value == "auto":
        if not out:
            raise UsageError("--resume must be given together with --out")
        value = str(Path(out, "config.json").exists())
    value = value or "true"
    return [*argv[:i], f"--resume={value}", *after[apart:]], cli.YES_OR_NO.get(value.lower(), False)


def saved_config(out: str) -> dict:
    """config.json of an earlier run, without which nothing goes on: its defaults would be others."""
    path = Path(out, "config.json")
    try:
        saved = json.loads(path.read_text())
    except FileNotFoundError:
        raise UsageError(
            f"--resume: {path} is missing, so there is no run to go on; leave --resume out, or take "
            "--resume auto, which begins where there is nothing"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"--resume: {path} can't be read ({error}); put a whole one back") from None
    if not is_of_run(saved):
        raise UsageError(f"--resume: {path} is not of a run; --out names a run folder")
    return saved


def is_of_run(saved) -> bool:
    """A model's folder has a config.json, too."""
    return isinstance(saved, dict) and {"steps", "train_data"} <= saved.keys()


def check_moved(config) -> None:
    """Files by their names; what the hub has is looked for later."""
    for name in BY_CONTENT:
        given = getattr(config, name)
        for place in [given] if isinstance(given, str) else given:
            local = place.startswith(("/", ".")) or place.count("/") > 1 or Path(place).suffix in FILES
            if local and ":" not in place and not Path(place).exists():
                raise UsageError(
                    f"--{name} {place}: the run of {config.out} began with it, and it isn't there any more; "
                    f"--{name} may name the place where it is now"
                )


def check_base(config, saved: dict) -> None:
    """The reference is the base that the run began from, wherever that lies now."""
    before = next((row["base"] for row in history(Path(config.out)) if row.get("base")), "")
    if before and digest_of_base(config.model) != before:
        raise UsageError(
            f"--model {config.model}: its weights are not those from which the run of {config.out} "
            "began; give the place where those are, or begin another --out"
        )
    if not before and config.model != saved["model"]:
        raise UsageError(f"--model was {saved['model']!r} in {config.out} and can't change on --resume")


def digest_of_base(model: str) -> str:
    """Of a folder's weights; "" for an id of the hub."""
    return files.digest(files.files_in(model), BASE_BYTES) if model else ""


def history(out: Path) -> list[dict]:
    """Its whole rows."""
    found = []
    for line in (out / HISTORY).read_text().splitlines() if (out / HISTORY).exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:  # torn by a kill
            continue
    return found


def check_new(out: Path) -> None:
    """The folder of a run that begins holds nothing of anyone's."""
    try:
        saved = json.loads((out / "config.json").read_text())
    except (OSError, ValueError):
        saved = None
    if is_of_run(saved):
        raise UsageError(f"--out {out} holds a run already: add --resume, or name another folder")
    there = sorted(out.iterdir()) if out.is_dir() else []
    foreign = [p.name for p in there if not any(p.match(pattern) for pattern in MAY_BE_THERE)]
    foreign = [name for name in foreign if name != "checkpoints" or any((out / name).iterdir())]
    if foreign:
        more = f" and {len(foreign) - 3} more" if foreign[3:] else ""
        raise UsageError(
            f"--out {out} holds what is no run's ({', '.join(foreign[:3])}{more}): name another folder"
        )


def note_start(config: dict, step: int) -> None:
    """A row of history.jsonl, before config.json is written anew. What changed is printed."""
    out, now = Path(config["out"]), {k: v for k, v in config.items() if k not in OF_START}
    row = {"step": step, "time": time.strftime("%Y-%m-%d %H:%M:%S"), "version": cli.version()}
    if not (out / "config.json").exists():
        row |= {"base": digest_of_base(config.get("model", ""))}
        files.replace_text(out / HISTORY, json.dumps(row) + "\n")
        return
    before = saved_config(str(out))
    changed = {name: [before.get(name), x] for name, x in now.items() if before.get(name) != x}
    with open(out / HISTORY, "a", encoding="utf-8") as file:
        file.write(json.dumps(row | {"changed": changed}) + "\n")
    if changed:
        said = ", ".join(f"--{name} {old!r} -> {new!r}" for name, (old, new) in changed.items())
        print(f"changed at step {step}: {said}", flush=True)
