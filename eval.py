"""How often a checkpoint is right: pass@1, maj@k and pass@k on any labelled data; or what it answers.

    python eval.py --model data/tiny --data tiny --split test --out base.json
    python eval.py --model Qwen/Qwen2.5-VL-7B-Instruct --data AI4Math/MathVista::testmini --preset paper-eval
    python eval.py --compare base.json trained.json
    python eval.py --model data/tiny --ask picture.png "How many bars are taller than B?"

What a right answer is, which categories there are and what else is scored depends on the benchmark
(evaluation/benchmarks.py), which is recognised from the data's columns. answers/ grades, or
math-verify (evaluation/grader.py); the JSON says which, and a comparison wants the same. With
--out, a killed evaluation goes on where it was when the same command is given again. Where no row has a
label, and with --ask, answers and their votes are shown and nothing is graded (evaluation/votes.py).

Left out: a language model as the judge.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import ClassVar

import torch

from answers import compare as equal
from answers import second_opinion
from common import cli, files
from common.cli import flag
from common.errors import BadRow, UsageError
from common.terminal import printable
from data import TINY, Example, benchmark_of, load, with_split
from evaluation.answering import NO_ANSWER, Decoding, Question, answered, usable
from evaluation.benchmarks import BENCHMARKS, PLAIN, Benchmark, recognise, share_right
from evaluation.grader import MathVerify
from evaluation.metrics import compare, comparison_lines, record, report, score_lines, table
from evaluation.reading import FirstLook, Reading
from evaluation.votes import one_question, vote_lines, vote_record, vote_report, vote_table
from model import defaults
from model_utils import compute_dtype, load_model, load_processor


@dataclass
class EvalConfig(Reading):
    model: str = flag(str(TINY), "checkpoint folder or hub id")
    preset: str = flag("", "named settings: paper-eval is the paper's decoding")
    data: str = flag("tiny", "questions: any source of data.load; graded where rows have labels")
    split: str = flag("test", "split of the data, where it has several")
    limit: int = flag(0, "only the first so many questions; 0 is all", "0 or more")
    out: str = flag("", "JSON file to write; FILE.partial.jsonl grows beside it meanwhile")

    num_samples: int = flag(8, "samples per question: the k of maj@k and pass@k", "at least 1")
    temperature: float = flag(1.0, "0 is greedy", "0 or more")
    top_p: float = flag(1.0, "nucleus sampling; 1 is off", "above 0 and at most 1")
    max_new_tokens: int = flag(64, "longest response; from 50 M parameters 1024", "at least 1")
    max_prompt_tokens: int = flag(2048, "longer questions are skipped and counted", "at least 1")
    seed: int = flag(0, "seed of the sampling")

    benchmark: str = flag(
        "auto", "how answers are graded; auto: by the columns", choices=("auto", *BENCHMARKS)
    )
    compare: list[str] = flag([], "two JSON files: the paired difference B - A")
    ask: list[str] = flag([], "pictures, if any, then a question: what the model answers, and the votes")

    GROUPS: ClassVar = {
        "model": "model and data", "instruction": "asking and reading", "num_samples": "sampling",
        "benchmark": "grading",
    }  # fmt: skip
    PRESETS: ClassVar = {
        # how the paper measures (arXiv 2505.22453 and its code)
        "paper-eval": dict(
            num_samples=1,
            temperature=0.2,
            min_pixels=224 * 224,
            max_pixels=1280 * 28 * 28,
            max_new_tokens=16384,
            max_prompt_tokens=12288,  # ours: nine images of 1,280 tokens fit
        ),
    }

    def __post_init__(self):
        cli.check(self)
        if self.compare and len(self.compare) != 2:
            raise UsageError(f"--compare takes two files (got {len(self.compare)})")
        if self.out:
            files.check_out(Path(self.out).parent)
            if Path(self.out).is_dir():
                raise UsageError(f"--out {self.out} is a folder: name a file in it")


# --- Files ----------------------------------------------------------------------------------------


class Partial:
    """FILE.partial.jsonl beside --out: what is answered so far, a line a batch.

    The first line holds the settings; other settings are refused, and a torn last line is dropped.
    Without --out: nothing is read or written. It stays where an evaluation was stopped, and goes
    once its result is written.
    """

    def __init__(self, out: str, settings: dict):
        self.out, self.path = out, Path(f"{out}.partial.jsonl")
        self.records: list[dict] = []
        self.skipped: list[str] = []
        self.row, self.answer_format = 0, ""  # the latter, of those records
        if out:
            try:
                self.open(json.loads(json.dumps(settings)))
            except OSError as error:
                raise UsageError(f"--out {out}: {error.strerror}") from None

    def open(self, settings: dict) -> None:
        """Reads what is there, up to the first torn line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "ab")
        files.hold(self.path)
        whole = 0
        for line in self.path.read_bytes().split(b"\n")[:-1]:
            try:
                value = json.loads(line)
            except ValueError:
                break
            if whole:
                self.records += value["records"]
                self.skipped += value["skipped"]
                self.row, self.answer_format = value["row"], value["answer_format"]
            elif value != settings:
                names = sorted(n for n in {*value, *settings} if value.get(n) != settings.get(n))
                raise UsageError(
                    f"--out {self.out}: {self.path.name} was begun with other {', '.join(names)}; "
                    "use the same, or another --out, or delete it"
                )
            whole += len(line) + 1
        self.file.truncate(whole)
        if not whole:
            self.append(settings)

    def append(self, value: dict) -> None:
        try:
            self.file.write(json.dumps(value).encode() + b"\n")
            self.file.flush()
        except OSError as error:
            raise UsageError(
                f"{self.path}: {error.strerror}; the same command continues once there is room"
            ) from None

    def add(
        self, row: int, records: Sequence[dict], skipped: dict[int, str], answer_format: str = ""
    ) -> None:
        """`row` is the next one to read; what was found about rows from there on is found again."""
        if self.out:
            before = [why for r, why in skipped.items() if self.row <= r < row]
            line = {"row": row, "records": records, "skipped": before}
            self.append(line | {"answer_format": answer_format})
        self.row = row

    def replace(self, result: dict | None) -> None:
        """The result in its place, where there is one."""
        if self.out:
            if result is not None:
                write_json(self.out, result)
            self.file.close()
            self.path.unlink()


def write_json(path: str, value: dict) -> None:
    """Whole or not at all."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        files.replace_text(path, json.dumps(value, indent=1))
    except OSError as error:
        raise UsageError(f"--out {path}: {error.strerror}") from None


def check_result(config: EvalConfig) -> None:
    """--out may hold this evaluation's result, which is written anew, and no other's."""
    if not config.out or not Path(config.out).exists():
        return
    then = "name another file, or delete it"
    try:
        before = json.loads(Path(config.out).read_text())
        is_comparison = "records" not in before
        other: dict = {} if is_comparison else dict(before["config"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"--out {config.out} holds what eval.py has not written: {then}") from None
    now = json.loads(json.dumps(vars(config)))
    if config.answer_format == "auto":
        other.pop("answer_format", None), now.pop("answer_format")
    differing = sorted(n for n in (other.keys() & now.keys()) - {"out"} if other[n] != now[n])
    differing += [what for what, x in content_of(config).items() if before.get("of", {}).get(what, x) != x]
    if is_comparison != bool(config.compare) or (differing and not is_comparison):
        more = "" if is_comparison or config.compare else f", with other {', '.join(differing)}"
        raise UsageError(f"--out {config.out} holds another evaluation's result{more}: {then}")


def content_of(config: EvalConfig) -> dict[str, str]:
    """What the names of model and data stand for: digests of pieces of their files, "" where not here."""
    places = {"weights": config.model, "rows": with_split(config.data, None)[0]}
    return {what: files.digest(files.files_in(place), 2**24) for what, place in places.items()}


def read_json(path: str) -> dict:
    try:
        value = json.loads(Path(path).read_text())
        value |= {"records": value["records"]}
        graded = all("correct" in r for r in value["records"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"--compare {path}: not a result of eval.py --out") from None
    if not graded:
        raise UsageError(f"--compare {path}: its questions have no labels, so nothing in it is graded")
    return value


# --- Measuring ------------------------------------------------------------------------------------


def find_benchmark(name: str, source, data: str = "") -> Benchmark:
    """By name, by that of the data, or by the columns of the first row that can be read."""
    if named := benchmark_of(data) if name == "auto" else name:
        return BENCHMARKS[named]
    for row in range(len(source)):
        try:
            return recognise(source[row].meta)
        except BadRow:
            continue
    return PLAIN


def opened(config: EvalConfig):
    """(--data, how many rows of it count, its benchmark). Where no row has a label the benchmark is None, and
    what is returned was read without labels."""
    source = load(config.data, config.split, labels=True, images_root=config.images_root)
    try:
        total = min(len(source), config.limit or len(source))
    except TypeError:
        raise UsageError(
            f"--data {config.data} --split {config.split} has no end; another split has"
        ) from None
    if source.has_labels():
        return source, total, find_benchmark(config.benchmark, source, config.data)
    if config.benchmark != "auto":
        raise UsageError(
            f"--benchmark {config.benchmark} grades, but no row of --data {config.data} has a label: "
            "leave it out for answers and vote shares"
        )
    said = f"--data {config.data}: no row has a label, so answers are counted, not graded"
    print(printable(said), file=sys.stderr)
    return load(config.data, config.split, images_root=config.images_root), total, None


def loaded(config: EvalConfig):
    """(model, processor)"""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    processor = load_processor(config.model, config.min_pixels, config.max_pixels, config.system)
    dtype = compute_dtype("auto", device)
    return load_model(config.model, dtype, dtype, device), processor


def sampled(
    config: EvalConfig,
    model,
    processor,
    questions: Iterable[Question],
    total: int,
    benchmark: Benchmark | None,
    grader: MathVerify | None,
    format_of: FirstLook,
    before: Sequence[dict] = (),
) -> Iterator[tuple[int, list[dict]]]:
    """`answered` as the flags say: graded by a benchmark, without one votes alone."""
    compare = second_opinion(grader.equal) if grader else equal
    judge = grader.equal if grader else None

    def to_record(example: Example, texts: list[str], answer_format: str) -> dict:
        if benchmark is None:
            return vote_record(example, texts, answer_format, compare)
        return record(example, texts, benchmark, judge, answer_format, compare) | {"responses": texts}

    names = ("num_samples", "max_new_tokens", "temperature", "top_p", "seed")
    decoding = Decoding(*(getattr(config, name) for name in names))
    figure = ("pass@1", share_right) if benchmark else ("share", itemgetter("share"))
    return answered(
        model, processor, questions, decoding, total, to_record,
        before=before, format_of=format_of, figure=figure,
    )  # fmt: skip


def measure(config: EvalConfig, grader: MathVerify | None) -> dict:
    """The whole JSON: --model's answers to --data, graded where there are labels. Goes on from a partial
    file."""
    source, total, benchmark = opened(config)
    model, processor = loaded(config)
    graded_by = {"benchmark": benchmark.name} if benchmark else {}
    graded_by |= {"grader": grader.name if grader else "ours"}
    settings = {k: v for k, v in vars(config).items() if k not in ("out", "preset", "compare", "ask")}
    settings |= graded_by | {
        "form of records": "with responses",
        "model files": files.files_of(config.model),
        "data files": files.files_of(with_split(config.data, None)[0]),
    }
    partial = Partial(config.out, settings)
    records = list(partial.records)
    problems: dict[int, str] = {}
    if records:
        print(printable(f"continuing {partial.path} after {len(records)} questions"), file=sys.stderr)
    questions = usable(
        source,
        lambda example: processor.encode(example, config.instruction),
        config.max_prompt_tokens,
        problems,
        benchmark,
        partial.row,
        [r["id"] for r in records],
        labels=benchmark is not None,
    )
    questions = islice(questions, config.limit - len(records) if config.limit else None)
    format_of = FirstLook(partial.answer_format or config.answer_format, settled=bool(records))
    for row, new in sampled(
        config, model, processor, questions, total, benchmark, grader, format_of, list(records)
    ):
        partial.add(row, new, problems, format_of.format)
        records += new
    if skipped := [*partial.skipped, *problems.values()]:
        print(printable(skipped_line(skipped)), file=sys.stderr)
    if not records:
        partial.replace(None)
        raise UsageError(f"--data {config.data}: no usable {'labelled ' * bool(benchmark)}question")
    if benchmark:
        result = report(records, config.num_samples, benchmark) | graded_by
        result |= {"timed_out": sum(r.get("timed_out", 0) for r in records)}
    else:
        result = vote_report(records) | graded_by
    result |= {"skipped": skipped, "config": vars(config) | {"answer_format": format_of.format}}
    result |= {"of": content_of(config), "records": records}
    partial.replace(result)
    return result


def skipped_line(skipped: Sequence[str]) -> str:
    bare = sum(why.endswith(f": {NO_ANSWER}") for why in skipped)
    which = f" ({bare} without a label)" if bare else ""
    return f"skipped {len(skipped)} rows{which}, the first: {skipped[0]}"


def ask(config: EvalConfig, grader: MathVerify | None) -> dict:
    """The JSON of one question, that of --ask."""
    example = one_question(config.ask)
    model, processor = loaded(config)
    try:
        encoded = processor.encode(example, config.instruction)
    except ValueError as error:
        raise UsageError(f"--ask: {error}") from None
    if (tokens := len(encoded.ids)) > config.max_prompt_tokens:
        raise UsageError(f"--ask: {tokens} prompt tokens, more than --max_prompt_tokens allows")
    format_of = FirstLook(config.answer_format)
    asked = [(0, example, encoded)]
    ((_, records),) = sampled(config, model, processor, asked, 1, None, grader, format_of)
    result = vote_report(records) | {"grader": grader.name if grader else "ours"}
    result |= {"config": vars(config) | {"answer_format": format_of.format}, "records": records}
    if config.out:
        write_json(config.out, result)
    return result


def shown(config: EvalConfig, result: dict) -> str:
    """What is printed of a result."""
    if config.ask:
        return vote_lines(result["records"][0], result["config"]["answer_format"])
    name = printable(Path(config.model).name)
    if "benchmark" not in result:
        return vote_table(name, result)
    tables = [table({name: result}, config.num_samples, by) for by in result.get("by", {"": None})]
    return "\n\n".join([*tables, score_lines(result)])


def main(argv: list[str]) -> int:
    config = cli.parse(EvalConfig, argv, fit=defaults.fitting)
    cli.one_process("eval.py")
    check_result(config)
    for name in ("data", "split", "limit", "benchmark", "compare") if config.ask else ():
        if cli.value_of(argv, f"--{name}") is not None:
            raise UsageError(f"--ask is one question without a label: leave --{name} out, or --ask")
    if config.compare:
        before, after = map(read_json, config.compare)
        result = compare(before, after)
        print(comparison_lines(result))
        if config.out:
            write_json(config.out, result)
        return 0
    try:
        with MathVerify(config.grader_seconds) if config.grader == "math-verify" else nullcontext() as grader:
            result = (ask if config.ask else measure)(config, grader)
    except KeyboardInterrupt:
        goes_on = config.out and not config.ask
        print("stopped" + "; the same command continues" * bool(goes_on), file=sys.stderr)
        return 130
    finally:
        files.release()
    print(shown(config, result))
    return 0


if __name__ == "__main__":
    cli.run(main)
