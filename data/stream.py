"""Training questions: endless, shuffled, without answers. Unusable rows are skipped and counted.

Threads read and encode the rows of the next step while the model works on this one, unless the
model has every core. Several processes share the reading: of the rows that a step tries each reads
every size-th, and all hear what became of it.
"""

import os
import sys
from collections import deque
from collections.abc import Container, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import zip_longest
from typing import Any, Protocol

import torch
from tqdm import tqdm

from answers import option_key
from common.distributed import World, cores
from common.errors import BadRow, DataError
from common.files import digest, files_in
from common.terminal import printable
from data import Example, load, order, with_split
from data.prompts import INSTRUCTION

THREADS = min(8, cores())
MAX_TRIES = 2_000  # rows of a source without an end that may be unusable in one step
WHOLE = 2**28  # bytes of a file of questions, above which pieces of it are compared
ALONE = World(0, 1, torch.device("cpu"))


class Encodes(Protocol):
    """What turns a question into what a model reads. Here its `id` and the number of its `ids` count."""

    def encode(self, example: Example, instruction: str = INSTRUCTION) -> Any: ...


def identity(source: str) -> list[list]:
    """[name, bytes, digest, split] of each of its files; of what isn't here its own name alone."""
    place, split = with_split(source, None)
    found = [[f.name, f.stat().st_size, digest([f], WHOLE), split or ""] for f in files_in(place)]
    return found or [[source]]


def first_change(before: list[list], now: list[list]) -> str:
    """The name of the first file that is another, wherever they lie and whatever they are called; "" of none.
    Runs of version 0.1 know names and sizes of files alone."""
    if all(len(known_by) == 2 for known_by in before):
        now = [known_by[:2] for known_by in now if len(known_by) > 1]
        content = lambda known_by: known_by  # noqa: E731
    else:
        content = lambda known_by: known_by[1:] or known_by  # noqa: E731
    for old, new in zip_longest(before, now):
        if old is None or new is None or content(old) != content(new):
            return (new or old)[0]
    return ""


class Questions:
    """`next(n)`: this process's part of n encoded questions. `state()`: all that a resume needs.

    `labels` fills `gold` {question id: canonical answer}, for the control `--reward gold` alone;
    otherwise answers are stripped by the reader and `gold` stays empty.
    """

    def __init__(
        self,
        source: str | list[str],
        processor: Encodes,
        seed: int,
        max_prompt_tokens: int,
        instruction: str = INSTRUCTION,
        labels: bool = False,
        ahead: bool | None = None,
        images_root: str = "",
        world: World = ALONE,
        state: dict | None = None,
    ):
        """`ahead`: whether threads read the next step's questions; None: where the model leaves
        them a core. `state`: of the stream to be continued."""
        sources = [source] if isinstance(source, str) else source
        self.source, self.examples = " ".join(sources), load(sources, labels=labels, images_root=images_root)
        self.files = [known_by for one in sources for known_by in identity(one)]
        position, files = (state or {}).get("position", 0), (state or {}).get("files", self.files)
        if changed := first_change(files, self.files):
            raise DataError(
                f"--train_data {self.source}: {changed} is not what it was when this run began, so that its "
                "order is lost; put it back, or begin another --out"
            )
        self.processor, self.seed, self.instruction, self.labels = processor, seed, instruction, labels
        self.max_prompt_tokens = max_prompt_tokens
        self.world, self.first = world, position  # of the rows of this step
        self.position = position
        self.bad_rows, self.too_long = ((state or {}).get(name, 0) for name in ("bad_rows", "too_long"))
        try:
            self.size: int | None = len(self.examples)
        except TypeError:  # the built-in questions have no end
            self.size = None
        self.most_tries = MAX_TRIES if self.size is None else self.size
        self.order = order(self.examples, seed, position)
        if ahead is None:
            ahead = world.device.type != "cpu" or torch.get_num_threads() < cores()
        self.threads = ThreadPoolExecutor(THREADS, "questions") if ahead else None
        # threads have one text at a time, and nothing to share out among threads of the tokenizer's own
        if ahead:
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.ahead: deque[tuple[int, int, Future | None]] = deque()  # (position, index, reading)
        self.gold: dict[str, str] = {}
        self.held: list[int] = (state or {}).get("held", [])  # rows that are given to nobody
        self.named: set[str] = set()
        self.taken: list[str] = []  # by the last `next`, as ids and as rows
        self.rows: list[int] = []

    def state(self) -> dict:
        return {
            "position": self.position,
            "bad_rows": self.bad_rows,
            "too_long": self.too_long,
            "files": self.files,
            "held": self.held,
        }

    def rewind(self, state: dict) -> None:
        """To where `state` was taken, for rows that were only looked at."""
        self.position, self.bad_rows, self.too_long = (
            state[name] for name in ("position", "bad_rows", "too_long")
        )
        self.order = order(self.examples, self.seed, self.position)
        self.ahead.clear()

    def hold(self, count: int) -> None:
        """Takes the next `count` questions out for good; a stream that goes on has its own out already."""
        if count and not self.held:
            self.next(count)
            self.held = self.rows

    def read_held(self, place: int) -> Any:
        """One of them."""
        question, _, problem = self.read(self.held[place])
        if problem:
            raise DataError(f"--train_data {self.source}: {problem}, though it could be read before")
        return question

    def next(self, count: int, mine: Sequence[int] | None = None, known: Container[str] = ()) -> list:
        """`mine`: which of them are this process's; None: they are dealt. With `known`, ids that none of them
        has, there may be fewer. `taken` then holds the ids of all."""
        taken: dict[str, int] = {}  # rows, by their ids
        tried = set(self.held)
        encoded: dict[int, Any] = {}  # what was read here, by its row
        self.first = self.position
        while len(taken) < count:
            if len(tried) - len(taken) >= self.most_tries or len(tried) == self.size:
                if known:
                    break
                n = len(tried) - len(self.held)
                raise DataError(
                    f"--train_data {self.source}: {len(taken)} usable questions of {n}, "
                    f"but --questions is {count}"
                )
            rows = self.untried(count - len(taken), count, tried)
            for (index, _), (_, key, tokens, gold, problem) in zip(
                rows, self.read_together(rows, encoded), strict=True
            ):
                if problem:
                    self.skip(problem)
                elif key in known:
                    continue
                elif tokens > self.max_prompt_tokens:
                    limit = f"more than --max_prompt_tokens {self.max_prompt_tokens}"
                    self.skip(f"question {key}: {tokens} tokens, {limit}", too_long=True)
                elif key in taken:
                    self.skip(f"{self.examples.where(index)}: the id {key} is already taken")
                elif self.labels and gold is None:
                    self.skip(f"question {key}: no answer, which --reward gold needs")
                else:
                    taken[key] = index
                    if self.labels:
                        self.gold[key] = gold
        self.taken, self.rows = list(taken), list(taken.values())
        all_ = self.rows
        own = self.world.my_part(all_) if mine is None else [all_[j] for j in mine if j < len(all_)]
        # by a bad row before them
        moved = {index: self.start(index) for index in own if index not in encoded}
        for index, reading in moved.items():
            encoded[index], _, problem = self.result(index, reading)
            if problem:
                raise DataError(
                    f"--train_data {self.source}: {problem}, though another process could read it"
                )
        if self.threads:  # what was already tried in this step may be asked for in the next
            self.ahead = deque(
                (p, i, r or (self.start(i) if self.is_mine(n) else None))
                for n, (p, i, r) in enumerate(self.ahead)
            )
        return [encoded[index] for index in own]

    def untried(self, most: int, count: int, tried: set[int]) -> list[tuple]:
        """The next (row, future or None) not tried in this step, up to `most` or all left."""
        rows: list[tuple] = []
        while len(rows) < most and len(tried) != self.size:
            # the threads go on with the next step's
            self.read_ahead(count if self.threads else 1, tried)
            position, index, reading = self.ahead.popleft()
            self.position = position + 1
            if index not in tried:  # else the next epoch has begun: one question once a step
                tried.add(index)
                rows.append((index, reading))
        return rows

    def read_together(self, rows: list[tuple], encoded: dict) -> list[list]:
        """[place, id, tokens, gold, what is wrong] of each row; questions go to `encoded`."""
        here = [
            (n, index, reading or self.start(index))
            for n, (index, reading) in enumerate(rows)
            if self.is_mine(n)
        ]
        told = []
        for n, index, reading in here:
            found, gold, problem = self.result(index, reading)
            told.append([n, *((found.id, len(found.ids)) if found else (None, None)), gold, problem])
            if found:
                encoded[index] = found
        return sorted(self.world.gather_json(told))

    def is_mine(self, place: int) -> bool:
        return place % self.world.size == self.world.rank

    def start(self, index: int):
        return self.threads.submit(self.read, index) if self.threads else None

    def result(self, index: int, reading) -> tuple:
        return reading.result() if reading else self.read(index)

    def close(self) -> None:
        """Nothing more is read."""
        if self.threads:
            self.threads.shutdown(wait=False, cancel_futures=True)

    def read_ahead(self, count: int, tried: set[int]) -> None:
        """Has threads read the next `count` rows, a row once however often it comes in them, and
        none tried in this step. Where several processes share the reading, they guess that no bad
        row will move those of the next step."""
        reading = {index: future for _, index, future in self.ahead}
        while len(self.ahead) < count:
            position, index = next(self.order)
            wanted = index not in reading and index not in tried and self.is_mine(position - self.first)
            if self.threads and wanted:
                reading[index] = self.threads.submit(self.read, index)
            self.ahead.append((position, index, reading.get(index)))

    def read(self, index: int) -> tuple:
        """(question, its gold key, None); of an unusable row (None, None, what is wrong)."""
        try:
            example = self.examples[index]
            gold = option_key(example.answer, example.choices) if self.labels else None
            return self.processor.encode(example, self.instruction), gold, None
        except BadRow as error:
            return None, None, str(error)
        except ValueError as error:  # the processor refuses the text or an image
            return None, None, f"{self.examples.where(index)}: {error}"

    def skip(self, problem: str, too_long: bool = False) -> None:
        self.too_long += too_long
        self.bad_rows += not too_long
        if problem not in self.named and self.world.is_main:
            self.named.add(problem)
            tqdm.write(f"skipped {printable(problem)}", file=sys.stderr)
