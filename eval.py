"""How often a checkpoint is right: pass@1, maj@k and pass@k on any labelled data.

    python eval.py --model data/tiny --data tiny --split test --out base.json
    python eval.py --model Qwen/Qwen2.5-VL-7B-Instruct --data AI4Math/MathVista --split testmini --preset paper-eval
    python eval.py --compare base.json trained.json

What a right answer is, which categories there are and what else is scored depends on the benchmark (data/benchmarks.py),
which is recognised from the data's columns. data/answers.py grades, or math-verify (data/grader.py); the JSON says which,
and a comparison wants the same. With --out, a killed evaluation goes on where it was when the same command is given again.

Left out: a language model as the judge.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm

import cli
from data import BadRow, Example, files_of, load
from data.benchmarks import BENCHMARKS, PLAIN, Benchmark, recognise, share_right
from data.grader import GraderError, MathVerify
from data.prompts import INSTRUCTION
from model_utils import Encoded, Processor, compute_dtype, generate, load_model, load_processor
from scores import compare, comparison_lines, record, report, score_lines, table

BATCH_BYTES = 2**31  # of encoded images that are answered together
GRADERS = ("ours", "math-verify")

PRESETS = {
    # how the paper measures (arXiv 2505.22453 and its code); the length of prompts is ours: nine images of 1,280 tokens fit
    "paper-eval": dict(
        temperature=0.2, num_samples=1, min_pixels=224 * 224, max_pixels=1280 * 28 * 28, max_new_tokens=16384,
        max_prompt_tokens=12288,
    ),
}  # fmt: skip


@dataclass
class EvalConfig:
    model: str = field(
        default=str(Path(__file__).parent / "data" / "tiny"), metadata={"help": "checkpoint folder or hub id"}
    )
    preset: str = field(default="", metadata={"help": "named settings: paper-eval is the paper's decoding"})
    data: str = field(default="tiny", metadata={"help": "labelled questions: any source of data.load"})
    split: str = field(default="test", metadata={"help": "split of the data, where it has several"})
    num_samples: int = field(default=8, metadata={"help": "samples per question: the k of maj@k and pass@k"})
    temperature: float = field(default=1.0, metadata={"help": "0 is greedy"})
    top_p: float = field(default=1.0, metadata={"help": "nucleus sampling; 1 is off"})
    max_new_tokens: int = field(default=64, metadata={"help": "longest response"})
    max_prompt_tokens: int = field(default=2048, metadata={"help": "longer questions are skipped and counted"})
    min_pixels: int = field(
        default=0, metadata={"help": "smaller images are enlarged to this; 0 is the checkpoint's own"}
    )
    max_pixels: int = field(default=0, metadata={"help": "larger images are shrunk to this; 0 is the checkpoint's own"})
    benchmark: str = field(
        default="auto", metadata={"help": f"how answers are graded: auto (by the columns), {', '.join(BENCHMARKS)}"}
    )
    grader: str = field(default="ours", metadata={"help": f"who judges free-form answers: {', '.join(GRADERS)}"})
    grader_seconds: float = field(
        default=5.0, metadata={"help": "a comparison by math-verify that takes longer is wrong"}
    )
    seed: int = field(default=0, metadata={"help": "seed of the sampling"})
    limit: int = field(default=0, metadata={"help": "only the first so many questions; 0 is all"})
    out: str = field(default="", metadata={"help": "JSON file to write; FILE.partial.jsonl grows beside it meanwhile"})
    compare: list[str] = field(default_factory=list, metadata={"help": "two JSON files: the paired difference B - A"})

    def __post_init__(self):
        lows = dict(num_samples=1, max_new_tokens=1, max_prompt_tokens=1, limit=0, min_pixels=0, max_pixels=0)
        for name, low in lows.items():
            if getattr(self, name) < low:
                raise cli.UsageError(f"--{name} must be at least {low} (got {getattr(self, name)})")
        if not 0 <= self.temperature < float("inf"):
            raise cli.UsageError(f"--temperature must be 0 or more, and finite (got {self.temperature})")
        if not 0 < self.top_p <= 1:
            raise cli.UsageError(f"--top_p must be above 0 and at most 1 (got {self.top_p})")
        if self.max_pixels and self.min_pixels > self.max_pixels:
            raise cli.UsageError(f"--min_pixels must be at most --max_pixels (got {self.min_pixels})")
        if self.grader_seconds <= 0:
            raise cli.UsageError(f"--grader_seconds must be above 0 (got {self.grader_seconds})")
        for name, known in (("benchmark", ("auto", *BENCHMARKS)), ("grader", GRADERS)):
            if getattr(self, name) not in known:
                raise cli.UsageError(f"--{name} {getattr(self, name)}: there is {', '.join(known)}")
        if self.compare and len(self.compare) != 2:
            raise cli.UsageError(f"--compare takes two files (got {len(self.compare)})")
        if self.out:
            cli.check_out(Path(self.out).parent)
            if Path(self.out).is_dir():
                raise cli.UsageError(f"--out {self.out} is a folder: name a file in it")


# --- Running -----------------------------------------------------------------------------------------------------


class Held(Sequence):
    """Questions that are read again when asked for, but for those whose encodings the processor keeps."""

    def __init__(self, source, rows: Sequence[int], kept: dict[int, Example]):
        self.source, self.rows, self.kept = source, rows, kept

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Held(self.source, self.rows[index], self.kept)
        row = self.rows[index]
        return self.kept[row] if row in self.kept else self.source[row]


def usable(
    examples, encode: Callable[[Example], Encoded], max_prompt_tokens: int, skipped: dict[int, str],
    benchmark: Benchmark | None = None, start: int = 0, seen: Iterable[str] = (),
) -> Iterator[tuple[int, Example, Encoded]]:  # fmt: skip
    """(row, question, encoding) of the labelled questions from row `start` on; `skipped` gets what was wrong with other
    rows."""
    seen = set(seen)
    for row in range(start, len(examples)):
        try:
            example = examples[row]
            encoded = encode(example)
        except BadRow as error:
            skipped[row] = str(error)
            continue
        except ValueError as error:  # the processor refuses the text or an image
            skipped[row] = f"{examples.where(row)}: {error}"
            continue
        tokens = len(encoded.ids)
        if (benchmark or recognise(example.meta)).key(example, example.answer) is None:
            skipped[row] = f"{example.id}: no answer"
        elif tokens > max_prompt_tokens:
            skipped[row] = f"{example.id}: {tokens} prompt tokens, more than --max_prompt_tokens {max_prompt_tokens}"
        elif example.id in seen:
            skipped[row] = f"{examples.where(row)}: the id {example.id} is already taken"
        else:
            seen.add(example.id)
            yield row, example, encoded


def labelled(
    examples, processor: Processor, max_prompt_tokens: int, instruction: str = INSTRUCTION, limit: int = 0
) -> tuple[Held, list[str]]:
    """The usable labelled questions and what was wrong with the others. Holds what is small, for repeated evaluations."""
    rows, kept, skipped = [], {}, {}

    def encode(example: Example) -> Encoded:
        encoded = processor.keep(example, instruction)
        if sum(3 * image.width * image.height for image in example.images) > encoded.bytes():
            processor.forget(example)  # its pictures outweigh what the bound of the kept counts
        return encoded

    for row, example, _ in islice(usable(examples, encode, max_prompt_tokens, skipped), limit or None):
        rows.append(row)
        if processor.kept.get(id(example), (None,))[0] is example:
            kept[row] = example
    return Held(examples, rows, kept), list(skipped.values())


def evaluate(
    model,
    processor: Processor,
    examples: Sequence[Example],
    num_samples: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    instruction: str = INSTRUCTION,
    batch: int = 512,
    texts: list | None = None,
) -> list[dict]:
    """Samples answers to labelled questions and grades them: one record per question.

    `texts`, where given, collects the responses, num_samples per question.
    """
    records, settings = [], (num_samples, max_new_tokens, temperature, top_p, seed)
    with progress(len(examples)) as bar:
        for part in batches(((blind(e), processor.encode(e, instruction)) for e in examples), batch):
            written = answers(model, processor, [encoded for _, encoded in part], *settings)
            records += [record(example, mine) for (example, _), mine in zip(part, written, strict=True)]
            if texts is not None:
                texts.extend(text for mine in written for text in mine)
            show(bar, records)
    return records


def answers(
    model, processor: Processor, encoded: Sequence[Encoded], num_samples: int, max_new_tokens: int, temperature: float,
    top_p: float, seed: int,
) -> list[list[str]]:  # fmt: skip
    """The responses to each question. Draws are keyed by (seed, question, sample): no batch or resume changes them."""
    prompts = processor.collate(encoded, next(model.parameters()).device)
    rollout = generate(model, processor, prompts, num_samples, max_new_tokens, temperature, top_p, seed, step=-1)
    written = rollout.texts(processor)
    return [written[i : i + num_samples] for i in range(0, len(written), num_samples)]


def blind(example: Example) -> Example:
    """Without its pictures, which a batch of large ones would hold beside their encodings."""
    return replace(example, images=())


def batches(items: Iterable[tuple], most: int = 128) -> Iterator[list[tuple]]:
    """Lists of (..., encoding) of at most `most` items and little more than BATCH_BYTES of encodings."""
    part, held = [], 0
    for item in items:
        part.append(item)
        held += item[-1].bytes()
        if len(part) == most or held >= BATCH_BYTES:
            yield part
            part, held = [], 0
    if part:
        yield part


def progress(total: int, done: int = 0) -> tqdm:
    return tqdm(total=total, initial=done, desc="evaluation", unit="q", leave=False, disable=None)


def show(bar: tqdm, records: Sequence[dict]) -> None:
    bar.update(len(records) - bar.n)
    bar.set_postfix({"pass@1": f"{sum(map(share_right, records)) / len(records):.3f}"})


class Partial:
    """FILE.partial.jsonl beside --out: what is answered so far, a line a batch, so that a killed evaluation goes on.

    The first line holds the settings; other settings are refused, and a torn last line is dropped.
    """

    def __init__(self, out: str, settings: dict):
        self.path = Path(f"{out}.partial.jsonl")
        self.records, self.skipped, self.row, whole = [], [], 0, 0
        settings = json.loads(json.dumps(settings))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.path, "ab")
            cli.hold(self.path)
            lines = self.path.read_bytes().split(b"\n")[:-1]
            for line in lines:
                try:
                    value = json.loads(line)
                except ValueError:
                    break
                if not whole and value != settings:
                    names = sorted(n for n in {*value, *settings} if value.get(n) != settings.get(n))
                    raise cli.UsageError(
                        f"--out {out}: {self.path.name} was begun with other {', '.join(names)}; "
                        "use the same, or another --out, or delete it"
                    )
                if whole:
                    self.records += value["records"]
                    self.skipped += value["skipped"]
                    self.row = value["row"]
                whole += len(line) + 1
            self.file.truncate(whole)
            if not whole:
                self.append(settings)
        except OSError as error:
            raise cli.UsageError(f"--out {out}: {error.strerror}") from None

    def append(self, value: dict) -> None:
        try:
            self.file.write(json.dumps(value).encode() + b"\n")
            self.file.flush()
        except OSError as error:
            raise cli.UsageError(
                f"{self.path}: {error.strerror}; the same command continues once there is room"
            ) from None

    def add(self, row: int, records: Sequence[dict], skipped: dict[int, str]) -> None:
        """`row` is the next one to read: what was found about rows from there on will be found again."""
        before = [why for r, why in skipped.items() if self.row <= r < row]
        self.append({"row": row, "records": records, "skipped": before})
        self.row = row

    def remove(self) -> None:
        self.file.close()
        self.path.unlink()


def write_json(path: str, value: dict) -> None:
    """Whole or not at all."""
    partial = f"{path}.partial"
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(partial).write_text(json.dumps(value, indent=1))
        os.replace(partial, path)
    except OSError as error:
        raise cli.UsageError(f"--out {path}: {error.strerror}") from None


def read_json(path: str) -> dict:
    try:
        value = json.loads(Path(path).read_text())
        return value | {"records": value["records"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise cli.UsageError(f"--compare {path}: not a result of eval.py --out") from None


def find_benchmark(name: str, source) -> Benchmark:
    """By name, or by the columns of the first row that can be read."""
    if name != "auto":
        return BENCHMARKS[name]
    for row in range(len(source)):
        try:
            return recognise(source[row].meta)
        except BadRow:
            continue
    return PLAIN


def measure(config: EvalConfig, grader: MathVerify | None) -> dict:
    """The whole JSON: --model's answers to --data, graded. Continues from --out's partial file, where there is one."""
    source = load(config.data, config.split, labels=True)
    try:
        total = min(len(source), config.limit or len(source))
    except TypeError:
        raise cli.UsageError(f"--data {config.data} --split {config.split} has no end; another split has") from None
    benchmark = find_benchmark(config.benchmark, source)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    processor = load_processor(config.model, config.min_pixels, config.max_pixels)
    dtype = compute_dtype("auto", device)
    model = load_model(config.model, dtype, dtype, device)
    graded_by = {"benchmark": benchmark.name, "grader": grader.name if grader else "ours"}
    settings = {k: v for k, v in vars(config).items() if k not in ("out", "preset", "compare")} | graded_by
    settings |= {"model files": files_of(config.model), "data files": files_of(config.data)}
    partial = Partial(config.out, settings) if config.out else None
    records, skipped = list(partial.records) if partial else [], {}
    if records:
        print(f"continuing {partial.path} after {len(records)} questions", file=sys.stderr)
    questions = usable(
        source, processor.encode, config.max_prompt_tokens, skipped, benchmark, partial.row if partial else 0,
        [r["id"] for r in records],
    )  # fmt: skip
    questions = islice(questions, config.limit - len(records) if config.limit else None)
    questions = ((row, blind(example), encoded) for row, example, encoded in questions)
    with progress(total, len(records)) as bar:
        for part in batches(questions):
            written = answers(
                model, processor, [encoded for *_, encoded in part], config.num_samples, config.max_new_tokens,
                config.temperature, config.top_p, config.seed,
            )  # fmt: skip
            new = [
                record(example, mine, benchmark, grader and grader.equal)
                for (_, example, _), mine in zip(part, written, strict=True)
            ]
            records += new
            if partial:
                partial.add(part[-1][0] + 1, new, skipped)
            show(bar, records)
    skipped = [*(partial.skipped if partial else ()), *skipped.values()]
    if skipped:
        print(f"skipped {len(skipped)} rows, the first: {skipped[0]}", file=sys.stderr)
    if not records:
        if partial:
            partial.remove()
        raise cli.UsageError(f"--data {config.data}: no usable labelled question")
    result = report(records, config.num_samples, benchmark) | graded_by
    result |= {"timed_out": sum(r.get("timed_out", 0) for r in records)}
    result |= {"skipped": skipped, "config": vars(config), "records": records}
    if partial:
        write_json(config.out, result)
        partial.remove()
    return result


def main(argv: list[str]) -> int:
    config = cli.parse(EvalConfig, argv, PRESETS)
    cli.one_process("eval.py")
    if config.compare:
        result = compare(*(read_json(path) for path in config.compare))
        print(comparison_lines(result))
        if config.out:
            write_json(config.out, result)
        return 0
    try:
        with MathVerify(config.grader_seconds) if config.grader == "math-verify" else nullcontext() as grader:
            result = measure(config, grader)
    except GraderError as error:
        raise cli.UsageError(str(error)) from None
    except KeyboardInterrupt:
        print("stopped" + "; the same command continues" * bool(config.out), file=sys.stderr)
        return 130
    finally:
        cli.release()
    name = Path(config.model).name
    for by in result.get("by", {"": None}):
        print(table({name: result}, config.num_samples, by) + "\n")
    print(score_lines(result))
    return 0


if __name__ == "__main__":
    cli.run(main)
