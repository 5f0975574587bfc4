"""The model writes new questions about its own images; training then needs no others.

    python -m data.synthesize --model M --data photos.jsonl --mode direct --out new.jsonl
    python -m data.synthesize --mode in-context --limit 2000 --out new.jsonl    the built-in base and images
    torchrun mmupt.py --train_data new.jsonl

In mode "direct" the model sees an image alone, in mode "in-context" also the question that came
with it (arXiv 2505.22453). The answer to that question is shown only with --show_answer, which
reads the labels of the source: what is then trained on is no longer free of them. The prompts stand
in data/prompts.py; what is made of the model's text, and which questions are dropped, in
programs/filters.py. Rows written:

    {"id", "question", "images", "choices"?}      as any .jsonl source; never an answer
    {"mode", "source", "source_id", "seed"}       where it came from; the reader ignores these

Beside new.jsonl stand new.images/ (every image once, as PNG, named by a hash of its pixels),
new.log.jsonl (all that the model wrote, dropped questions included) and new.report.json (counts).

It can be killed at any moment and started again with the same flags: the log grows by one line per
batch of source rows, a torn last line is cut off and that batch done again, and new.jsonl is made
from the whole log at the end, in one piece. What is sampled is keyed by (seed, mode, source id,
number): batches of another size give other questions only where rounding decides.

Left out: several processes, judging whether a question fits its image.
"""

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import ClassVar

import torch
from tqdm import tqdm

from common import cli, files
from common.cli import flag
from common.errors import UsageError
from common.terminal import printable
from data import TINY, BadRow, Example, load, order
from data.prompts import IMAGE_TAG, with_choices, write_question
from model_utils import compute_dtype, generate, load_model, load_processor
from programs.build_tiny import VOCABULARY
from programs.filters import FILTERS, Filter, Written, parse_question

MODES = ("in-context", "direct")
STEP = -2  # of the keys of randomness: training has 0 and above, evaluation -1


@dataclass
class Synthesis:
    model: str = flag(str(TINY), "checkpoint folder or hub id")
    data: str = flag("tiny", "images to write about, any source or a folder of them; answers are not read")
    split: str = flag("", "split of the source, where it has several; empty is its training split")
    images_root: str = flag("", "folder that no picture's path may leave; paths may begin there as well")
    out: str = flag("", "the .jsonl to write")
    limit: int = flag(0, "only the first so many rows of the source; 0 is all", "0 or more")
    min_pixels: int = flag(0, "smaller images are enlarged to this; 0 is the checkpoint's own", "0 or more")
    max_pixels: int = flag(0, "larger images are shrunk to this; 0 is the checkpoint's own", "0 or more")

    mode: str = flag("in-context", "direct: the image alone; in-context: its question too", choices=MODES)
    show_answer: bool = flag(False, "in-context shows the known question's answer too: this reads labels")
    prompt: str = flag(
        "auto",
        "brief: as the built-in base was taught; full: for real models; auto: by the vocabulary",
        choices=("auto", "brief", "full"),
    )
    system: str = flag("", "system message put before every prompt; empty: the template's own, if any")
    per_image: int = flag(1, "questions written per row of the source", "at least 1")

    batch: int = flag(64, "rows of the source at a time", "at least 1")
    seed: int = flag(0, "seed of the sampling; also where the endless built-in images are entered")
    temperature: float = flag(1.0, "sampling temperature; 0 is greedy", "0 or more")
    top_p: float = flag(1.0, "nucleus sampling; 1 is off", "above 0 and at most 1")
    max_new_tokens: int = flag(128, "longest text; a longer one is truncated and dropped", "at least 1")
    max_prompt_tokens: int = flag(2048, "longer prompts are skipped and counted", "at least 1")

    filters: list[str] = flag(list(FILTERS), "which questions are dropped, or none")
    near: float = flag(
        0.8,
        "similarity from which a question nearly repeats one about the same image",
        "above 0 and at most 1",
    )
    near_across: float = flag(0.0, "the same for a question about any image; 0 is off", "between 0 and 1")
    refilter: bool = flag(False, "filter what is written already anew: the flags of this group may change")

    GROUPS: ClassVar = {
        "model": "model and data", "mode": "what is asked", "batch": "sampling", "filters": "what is kept"
    }  # fmt: skip

    def __post_init__(self):
        cli.check(self)
        cli.require(self, "out", self.out.endswith(".jsonl"), "the name of a .jsonl file")
        files.check_out(Path(self.out).parent)
        ok = not (self.show_answer and self.mode == "direct")
        cli.require(self, "show_answer", ok, "left out with --mode direct")
        ok = self.per_image == 1 or self.temperature > 0
        cli.require(self, "per_image", ok, "1 at --temperature 0: all would be alike")
        self.filters = [] if self.filters == ["none"] else self.filters
        if unknown := sorted(set(self.filters) - set(FILTERS)):
            raise UsageError(f"--filters: there is {', '.join(FILTERS)}, or none (got {unknown[0]})")


# these decide what is made of the log, the others what is written to it
AFTERWARDS = ("filters", "near", "near_across")


# --- The log: what the model wrote ----------------------------------------------------------------


class Log:
    """A header with the flags, then a line per batch: {"rows": [...], "skipped": [...]}."""

    def __init__(self, config: Synthesis):
        out = Path(config.out)
        self.path, self.images = out.with_suffix(".log.jsonl"), out.with_suffix(".images")
        self.batches: list[dict] = []
        self.images.mkdir(parents=True, exist_ok=True)
        files.hold(self.images)
        flags = {k: v for k, v in asdict(config).items() if k not in ("out", "refilter")}
        whole = self.read() if self.path.exists() else []
        if whole:
            self.check(config, flags, json.loads(whole[0]))
            self.batches = [json.loads(line) for line in whole[1:]]
        elif out.exists():
            raise UsageError(
                f"--out {out} is there already, without the log of an earlier start: name another file"
            )
        # what stands after the last whole line was torn by a kill or a full disk
        text = "".join(line + "\n" for line in whole) or json.dumps({"flags": flags}) + "\n"
        if not self.path.exists() or self.path.stat().st_size != len(text.encode()):
            files.replace_text(self.path, text)

    def read(self) -> list[str]:
        """The lines up to the first that is torn or whose images are gone."""
        whole = []
        for line in self.path.read_bytes().split(b"\n"):
            try:
                content = json.loads(line)
                names = {name for row in content.get("rows", ()) for name in row["images"]}
            except (ValueError, KeyError, TypeError, AttributeError):
                break
            if not all((self.images / name).exists() for name in names):
                break
            whole.append(line.decode())
        return whole

    def check(self, config: Synthesis, flags: dict, header: dict) -> None:
        before = {"system": "", "images_root": ""} | header.get("flags", {})
        for name, value in flags.items():
            if before.get(name) != value and not (config.refilter and name in AFTERWARDS):
                hint = ", or add --refilter" if name in AFTERWARDS else ""
                raise UsageError(
                    f"--{name} was {before.get(name)!r} when {config.out} was begun (now {value!r}): "
                    f"keep it{hint}, name another --out, or delete {self.path} to begin anew"
                )

    def append(self, batch: dict) -> None:
        self.batches.append(batch)
        with open(self.path, "ab", buffering=0) as file:
            line = (json.dumps(batch, ensure_ascii=False) + "\n").encode()
            while line:  # a write to a nearly full disk may take a part
                line = line[file.write(line) :]

    def save_image(self, image) -> str:
        """Writes it once, whole or not at all -> its name: a hash of its pixels."""
        size = f"{image.width}x{image.height} ".encode()
        name = hashlib.blake2b(size + image.tobytes(), digest_size=12).hexdigest() + ".png"
        if not (self.images / name).exists():
            png = BytesIO()
            image.save(png, "PNG")
            partial = self.images / f"{name}.partial"
            partial.write_bytes(png.getvalue())
            os.replace(partial, self.images / name)
        return name


# --- Writing --------------------------------------------------------------------------------------


def rows_to_read(config: Synthesis, source) -> Sequence[int]:
    """Rows of the source, in its order; an endless one is entered where the seed says."""
    try:
        size = len(source)
    except TypeError:
        if not config.limit:
            raise UsageError(f"--limit must be above 0: --data {config.data} has no end here") from None
        return [index for _, index in islice(order(source, config.seed), config.limit)]
    return range(min(size, config.limit) if config.limit else size)


class Writer:
    """The model and how it is asked."""

    def __init__(self, config: Synthesis):
        self.config, self.device = config, torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.processor = load_processor(config.model, config.min_pixels, config.max_pixels, config.system)
        dtype = compute_dtype("auto", self.device)
        self.model = load_model(config.model, dtype, dtype, self.device)
        brief = (
            config.prompt == "brief" or config.prompt == "auto" and self.processor.vocabulary == VOCABULARY
        )
        self.style = "brief" if brief else "full"

    def encode(self, example: Example):
        """The prompt about one source row. Raises BadRow where there is nothing to ask about."""
        if not example.images:
            raise BadRow(f"{example.id}: no image")
        config = self.config
        asked = write_question(self.style, config.mode, example.question, example.choices, example.answer)
        try:
            encoded = self.processor.encode(Example(f"{config.mode} {example.id}", example.images, asked), "")
        except ValueError as error:  # the processor refuses the text or an image
            raise BadRow(f"{example.id}: {error}") from None
        if len(encoded.ids) > config.max_prompt_tokens:
            raise BadRow(
                f"{example.id}: {len(encoded.ids)} tokens, "
                f"more than --max_prompt_tokens {config.max_prompt_tokens}"
            )
        return encoded

    def write(self, encoded: list) -> tuple[list[list[str]], list[list[bool]]]:
        """Texts and whether each came to its end, per_image of them for each prompt."""
        config, n = self.config, self.config.per_image
        prompts = self.processor.collate(encoded, self.device)
        draw = (config.temperature, config.top_p, config.seed, STEP)
        rollout = generate(self.model, self.processor, prompts, n, config.max_new_tokens, *draw)
        texts, finished = rollout.texts(self.processor), rollout.finished.tolist()
        places = range(0, len(texts), n)
        return [texts[i : i + n] for i in places], [finished[i : i + n] for i in places]


def write_batch(writer: Writer, log: Log, source, indices: Sequence[int], taken: set[str]) -> dict:
    """One line of the log. `taken` holds the ids met so far: an id names one row."""
    examples, encoded, skipped = [], [], []
    for index in indices:
        try:
            example = source[index]
            if example.id in taken:
                raise BadRow(f"{source.where(index)}: the id {example.id} is already taken")
            encoded.append(writer.encode(example))
        except BadRow as error:
            skipped.append(str(error))
            tqdm.write(f"skipped {printable(str(error))}", file=sys.stderr)
        else:
            taken.add(example.id)
            examples.append(example)
    rows = []
    if examples:
        for example, texts, finished in zip(examples, *writer.write(encoded), strict=True):
            row = {"id": example.id, "images": [log.save_image(image) for image in example.images]}
            row |= {"question": example.question, "choices": list(example.choices)}
            rows.append(row | {"texts": texts, "finished": finished})
    return {"rows": rows, "skipped": skipped}


# --- From the log to the questions ----------------------------------------------------------------


def questions_of(config: Synthesis, batches: list[dict]) -> tuple[list[dict], dict]:
    """(rows to train on, counts). A function of the log and the filter flags alone."""
    source_rows = [row for batch in batches for row in batch["rows"]]
    written = [
        (row, i, parse_question(text), finished)
        for row in source_rows
        for i, (text, finished) in enumerate(zip(row["texts"], row["finished"], strict=True))
    ]
    chosen = Filter(
        config.filters,
        config.near,
        config.near_across,
        (with_choices(w.question, w.choices) for _, _, w, _ in written),
    )
    kept, cut = [], 0
    dropped: Counter[str] = Counter()
    for row, i, w, finished in written:
        cut += w.answered
        seed = Written(row["question"].replace(IMAGE_TAG, " "), tuple(row["choices"]))
        if reason := chosen.reason(w, finished, tuple(row["images"]), seed):
            dropped[reason] += 1
            continue
        folder = Path(config.out).with_suffix(".images").name
        images = [f"{folder}/{name}" for name in row["images"]]
        out = {"id": f"{row['id']}/{config.mode}/{config.seed}/{i}", "question": w.question, "images": images}
        out |= {"choices": list(w.choices)} if w.choices else {}
        kept.append(
            out | {"mode": config.mode, "source": config.data, "source_id": row["id"], "seed": config.seed}
        )
    counts: dict[str, int | None] = {
        "source rows": len(source_rows),
        "unusable rows": sum(len(b["skipped"]) for b in batches),
    }
    counts |= {"written": len(written), "answers cut off": cut}
    counts |= {f"dropped: {name}": dropped[name] if name in config.filters else None for name in FILTERS}
    return kept, counts | {"kept": len(kept), "with choices": sum("choices" in row for row in kept)}


def synthesize(config: Synthesis) -> int:
    direct = config.mode == "direct"  # asks about the image alone
    source = load(
        config.data, config.split or None, config.show_answer, not direct, images_root=config.images_root
    )
    rows = rows_to_read(config, source)
    log = Log(config)
    parts = [rows[i : i + config.batch] for i in range(0, len(rows), config.batch)]
    todo = parts[len(log.batches) :]
    if log.batches:
        print(f"{len(log.batches)} of {len(parts)} batches were written before", flush=True)
    taken = {row["id"] for batch in log.batches for row in batch["rows"]}
    if todo:
        writer = Writer(config)
        for part in tqdm(todo, desc="writing", unit="batch", disable=None):
            log.append(write_batch(writer, log, source, part, taken))
    kept, counts = questions_of(config, log.batches)
    files.replace_text(Path(config.out), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
    report = {
        "counts": counts,
        "skipped": [s for b in log.batches for s in b["skipped"]][:100],
        "flags": asdict(config),
    }
    files.replace_text(Path(config.out).with_suffix(".report.json"), json.dumps(report, indent=1) + "\n")
    for name, count in counts.items():
        print(f"{name:22}{'off' if count is None else count:>8}")
    if not kept:
        print(
            printable(
                f"error: --out {config.out}: no question is left; {log.path} holds all that was written"
            ),
            file=sys.stderr,
        )
    return 0 if kept else 1


def main(argv: list[str]) -> int:
    config = cli.parse(Synthesis, argv)
    cli.one_process("data.synthesize")
    try:
        return synthesize(config)
    except OSError as error:
        print(
            printable(f"error: --out {config.out}: {error}; the same command continues once that is mended"),
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    finally:
        files.release()


if __name__ == "__main__":
    cli.run(main)
