"""The training questions: endless, shuffled, without their answers. Unusable rows are skipped, counted and named once.

Threads read and encode the rows of the next step while the model works on this one, unless the model has every core.
"""

import os
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from tqdm import tqdm

from data import BadRow, DataError, load, order
from data.answers import option_key
from data.prompts import INSTRUCTION
from distributed import cores

THREADS = min(8, cores())
MAX_TRIES = 2_000  # rows of a source without an end that may be unusable in one step


class Questions:
    """`next(n)` gives n different encoded questions. `state()` is all that a resumed stream needs.

    `labels` fills `gold` {question id: canonical answer}, for the control `--reward gold` alone; otherwise answers are
    stripped by the reader and `gold` stays empty.
    """

    def __init__(
        self, source: str | list[str], processor, seed: int, max_prompt_tokens: int, instruction: str = INSTRUCTION,
        labels: bool = False, ahead: bool = True, rank: int = 0, ranks: int = 1, position: int = 0, bad_rows: int = 0,
        too_long: int = 0,
    ):  # fmt: skip
        sources = [source] if isinstance(source, str) else source
        self.source, self.examples = " ".join(sources), load(sources, labels=labels)
        self.processor, self.seed, self.instruction, self.labels = processor, seed, instruction, labels
        self.max_prompt_tokens = max_prompt_tokens
        self.rank, self.ranks = rank, ranks
        self.position, self.bad_rows, self.too_long = position, bad_rows, too_long
        self.most_tries = MAX_TRIES if sources == ["tiny"] else len(self.examples)
        self.size = None if sources == ["tiny"] else len(self.examples)
        self.order = order(self.examples, seed, position)
        self.threads = ThreadPoolExecutor(THREADS, "questions") if ahead else None
        if ahead:  # threads have one text at a time, and nothing to share out among threads of the tokenizer's own
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.ahead = deque()  # (position, index, future or None)
        self.gold: dict[str, str] = {}
        self.named: set[str] = set()

    def state(self) -> dict[str, int]:
        return {"position": self.position, "bad_rows": self.bad_rows, "too_long": self.too_long}

    def next(self, count: int) -> list:
        taken, tried = {}, set()
        while len(taken) < count:
            exhausted = len(tried) - len(taken) >= self.most_tries
            if exhausted or len(tried) == self.size:
                raise DataError(
                    f"--train_data {self.source}: {len(taken)} usable questions of {len(tried)}, but --questions is {count}"
                )
            self.read_ahead(count if self.threads else 1, tried)  # the threads go on with the next step's
            position, index, reading = self.ahead.popleft()
            self.position = position + 1
            if index in tried:  # the next epoch has begun: one question once a step
                continue
            tried.add(index)
            encoded, gold, problem = reading.result() if reading else self.read(index)
            if encoded is None:
                self.skip(problem)
            elif len(encoded.ids) > self.max_prompt_tokens:
                limit = f"more than --max_prompt_tokens {self.max_prompt_tokens}"
                self.skip(f"question {encoded.id}: {len(encoded.ids)} tokens, {limit}", too_long=True)
            elif encoded.id in taken:
                self.skip(f"row {index}: the id {encoded.id} is already taken")
            elif self.labels and gold is None:
                self.skip(f"question {encoded.id}: no answer, which --reward gold needs")
            else:
                mine = len(taken) % self.ranks == self.rank
                taken[encoded.id] = encoded if mine else replace(encoded, vision={})  # no pictures of others' questions
                if self.labels:
                    self.gold[encoded.id] = gold
        if self.threads:  # what was already tried in this step may be asked for in the next
            self.ahead = deque((p, i, r or self.threads.submit(self.read, i)) for p, i, r in self.ahead)
        return list(taken.values())

    def close(self) -> None:
        """Nothing more is read."""
        if self.threads:
            self.threads.shutdown(wait=False, cancel_futures=True)

    def read_ahead(self, count: int, tried: set[int]) -> None:
        """Has threads read the next `count` rows, a row once however often it comes in them, and none tried in this step."""
        reading = {index: future for _, index, future in self.ahead}
        while len(self.ahead) < count:
            position, index = next(self.order)
            if self.threads and index not in reading and index not in tried:
                reading[index] = self.threads.submit(self.read, index)
            self.ahead.append((position, index, reading.get(index)))

    def read(self, index: int) -> tuple:
        """(encoded question, its gold key, None) or, where the row can't be used, (None, None, what is wrong)."""
        try:
            example = self.examples[index]
            gold = option_key(example.answer, example.choices) if self.labels else None
            return self.processor.encode(example, self.instruction), gold, None
        except BadRow as error:
            return None, None, str(error)
        except ValueError as error:  # the processor refuses the text or an image
            return None, None, f"row {index}: {error}"

    def skip(self, problem: str, too_long: bool = False) -> None:
        self.too_long += too_long
        self.bad_rows += not too_long
        if problem not in self.named:
            self.named.add(problem)
            tqdm.write(f"skipped {problem}", file=sys.stderr)
