"""A model answers questions, graded where they have labels, for eval.py and the training loop.

    held_out, skipped = labelled(load("tiny:test", labels=True), processor, max_prompt_tokens=1024)
    records = evaluate(model, processor, held_out, Decoding(num_samples=8, max_new_tokens=48))

Draws are keyed by (seed, question, sample): no batch, no resume and no number of processes changes
an answer.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

from tqdm import tqdm

from answers import Compare, compare
from common.errors import BadRow, ModelError
from common.pulse import tick
from data import Example
from data.prompts import INSTRUCTION, with_choices
from evaluation.benchmarks import Benchmark, recognise, share_right
from evaluation.metrics import record
from model.batch import Model
from model.families import product_dtype
from model.finite import nonfinite
from model_utils import Encoded, Processor, generate

BATCH_BYTES = 2**31  # of encoded images that are answered together
STEP = -1  # of the keys of randomness: training has 0 and above
NO_ANSWER = "no answer"  # why a row without a label is skipped

Question = tuple[int, Example, Encoded]  # its row in the source


class Decoding(NamedTuple):
    """How answers are sampled."""

    num_samples: int
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


# --- Questions ------------------------------------------------------------------------------------


def usable(
    examples,
    encode: Callable[[Example], Encoded],
    max_prompt_tokens: int,
    skipped: dict[int, str],
    benchmark: Benchmark | None = None,
    start: int = 0,
    seen: Iterable[str] = (),
    labels: bool = True,
) -> Iterator[Question]:
    """The questions from row `start` on, with `labels` those that have one; `skipped` gets what was wrong
    with other rows."""
    taken = set(seen)
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
        if labels and (benchmark or recognise(example.meta)).key(example, example.answer) is None:
            skipped[row] = f"{example.id}: {NO_ANSWER}"
        elif tokens > max_prompt_tokens:
            skipped[row] = (
                f"{example.id}: {tokens} prompt tokens, more than --max_prompt_tokens {max_prompt_tokens}"
            )
        elif example.id in taken:
            skipped[row] = f"{examples.where(row)}: the id {example.id} is already taken"
        else:
            taken.add(example.id)
            yield row, example, encoded


class HeldOut(Sequence):
    """Questions that are read again when asked for, but for those the processor keeps."""

    def __init__(self, source, rows: Sequence[int], kept: dict[int, Example]):
        self.source, self.rows, self.kept = source, rows, kept

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index) -> Any:  # an Example, or some of them
        if isinstance(index, slice):
            return HeldOut(self.source, self.rows[index], self.kept)
        row = self.rows[index]
        return self.kept[row] if row in self.kept else self.source[row]


def labelled(
    examples, processor: Processor, max_prompt_tokens: int, instruction: str = INSTRUCTION, limit: int = 0
) -> tuple[HeldOut, list[str]]:
    """The usable labelled questions, and what was wrong with the others."""
    rows: list[int] = []
    kept: dict[int, Example] = {}
    skipped: dict[int, str] = {}

    def encode(example: Example) -> Encoded:
        encoded = processor.keep(example, instruction)
        if sum(3 * image.width * image.height for image in example.images) > encoded.bytes():
            processor.forget(example)  # its pictures outweigh what the bound of the kept counts
        return encoded

    for row, example, _ in islice(usable(examples, encode, max_prompt_tokens, skipped), limit or None):
        rows.append(row)
        if processor.keeps(example):
            kept[row] = example
    return HeldOut(examples, rows, kept), list(skipped.values())


# --- Answers --------------------------------------------------------------------------------------


def answered(
    model: Model,
    processor: Processor,
    questions: Iterable[Question],
    decoding: Decoding,
    total: int,
    to_record: Callable[[Example, list[str], str], dict],
    before: Sequence[dict] = (),
    batch: int = 128,
    texts: list | None = None,
    format_of: Callable[[list[str]], str] = lambda texts: "boxed",
    figure: tuple[str, Callable[[dict], float]] = ("pass@1", share_right),
) -> Iterator[tuple[int, list[dict]]]:
    """Answers, batch by batch -> (the row behind the batch, its records: of a question, its responses and
    the format that they are read in).

    `total` questions are in the progress bar, beside the mean of a `figure` of records; those of `before`
    are done. `texts`, where given, collects the responses. `format_of` a batch's responses is their format.
    """
    name, of_record = figure
    shown = list(before)
    with tqdm(total=total, initial=len(shown), desc="evaluation", unit="q", leave=False, disable=None) as bar:
        for part in batches(
            ((row, without_images(example), encoded) for row, example, encoded in questions), batch
        ):
            written = answers(model, processor, [encoded for *_, encoded in part], decoding)
            flat = [text for mine in written for text in mine]
            answer_format = format_of(flat)
            records = [
                to_record(example, mine, answer_format)
                for (_, example, _), mine in zip(part, written, strict=True)
            ]
            if texts is not None:
                texts.extend(flat)
            shown += records
            bar.update(len(records))
            bar.set_postfix({name: f"{sum(map(of_record, shown)) / len(shown):.3f}"})
            yield part[-1][0] + 1, records


def evaluate(
    model: Model,
    processor: Processor,
    examples: Sequence[Example],
    decoding: Decoding,
    instruction: str = INSTRUCTION,
    batch: int = 512,
    texts: list | None = None,
    answer_format: str = "boxed",
    compare: Compare = compare,
    keep: Container[str] = (),
) -> list[dict]:
    """One record per labelled question. `texts`, where given, collects the responses; records of the ids in
    `keep` hold their question and responses."""

    def graded(example: Example, mine: list[str], read_as: str) -> dict:
        row = record(example, mine, answer_format=read_as, compare=compare)
        if example.id in keep:
            row["question"] = with_choices(example.question, example.choices)
            row |= {"images": list(example.pictures), "responses": mine}
        return row

    questions = (
        (row, example, processor.encode(example, instruction)) for row, example in enumerate(examples)
    )
    parts = answered(
        model, processor, questions, decoding, len(examples), batch=batch, texts=texts,
        format_of=lambda _: answer_format, to_record=graded,
    )  # fmt: skip
    return [one for _, records in parts for one in records]


def answers(
    model: Model, processor: Processor, encoded: Sequence[Encoded], decoding: Decoding
) -> list[list[str]]:
    """The responses to each question; ModelError where they were drawn from logits that are not finite: no
    figure of such means anything."""
    n, most, temperature, top_p, seed = decoding
    prompts = processor.collate(encoded, next(model.parameters()).device)
    rollout = generate(model, processor, prompts, n, most, temperature, top_p, seed, step=STEP)
    if bad := rollout.nonfinite.nonzero()[:, 0].tolist():
        why = nonfinite(dict(model.named_parameters())) or f"it overflows in {product_dtype(model)}"
        raise ModelError(
            f"the model's logits are NaN or inf in {len(bad)} of {len(rollout.lengths)} responses, the first "
            f"to question {prompts.keys[bad[0] // n]}: {why}"
        )
    written = rollout.texts(processor)
    return [written[i : i + n] for i in range(0, len(written), n)]


def without_images(example: Example) -> Example:
    """Pictures of a batch of large ones would be held beside their encodings."""
    return replace(example, images=())


def batches(items: Iterable[tuple], most: int = 128) -> Iterator[list[tuple]]:
    """Lists of (..., encoding): at most `most` items, little more than BATCH_BYTES of encodings."""
    part, held = [], 0
    for item in items:
        part.append(item)
        tick()
        held += item[-1].bytes()
        if len(part) == most or held >= BATCH_BYTES:
            yield part
            part, held = [], 0
    if part:
        yield part
