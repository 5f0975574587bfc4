"""The training questions: endless, shuffled, without their answers. Unusable rows are skipped, counted and named once."""

import sys

from tqdm import tqdm

from data import BadRow, DataError, load, order
from data.answers import option_key
from data.prompts import INSTRUCTION

MAX_TRIES = 2_000  # rows of a source without an end that may be unusable in one step


class Questions:
    """`next(n)` gives n different encoded questions. `state()` is all that a resumed stream needs.

    `labels` fills `gold` {question id: canonical answer}, for the control `--reward gold` alone; otherwise answers are
    stripped by the reader and `gold` stays empty.
    """

    def __init__(
        self, source: str, processor, seed: int, max_prompt_tokens: int, instruction: str = INSTRUCTION,
        labels: bool = False, position: int = 0, bad_rows: int = 0, too_long: int = 0,
    ):  # fmt: skip
        self.source, self.examples = source, load(source, labels=labels)
        self.processor, self.seed, self.instruction, self.labels = processor, seed, instruction, labels
        self.max_prompt_tokens = max_prompt_tokens
        self.position, self.bad_rows, self.too_long = position, bad_rows, too_long
        self.most_tries = MAX_TRIES if source == "tiny" else len(self.examples)
        self.gold: dict[str, str] = {}
        self.named: set[str] = set()

    def state(self) -> dict[str, int]:
        return {"position": self.position, "bad_rows": self.bad_rows, "too_long": self.too_long}

    def next(self, count: int) -> list:
        taken, tried = {}, set()
        for position, index in order(self.examples, self.seed, self.position):
            self.position = position + 1
            exhausted = len(tried) - len(taken) >= self.most_tries
            if index in tried or exhausted:  # the next epoch has begun: one question once a step
                if exhausted or len(tried) == len(self.examples):
                    raise DataError(
                        f"--train_data {self.source}: {len(taken)} usable questions of {len(tried)}, "
                        f"but --questions is {count}"
                    )
                continue
            tried.add(index)
            if (encoded := self.read(index)) is not None:
                if encoded.id in taken:
                    self.skip(f"row {index}: the id {encoded.id} is already taken")
                else:
                    taken[encoded.id] = encoded
            if len(taken) == count:
                return list(taken.values())

    def read(self, index: int):
        """One encoded question, or None where the row can't be used."""
        try:
            example = self.examples[index]
            encoded = self.processor.encode(example, self.instruction)
        except BadRow as error:
            return self.skip(str(error))
        except ValueError as error:  # the processor refuses the text or an image
            return self.skip(f"row {index}: {error}")
        if len(encoded.ids) > self.max_prompt_tokens:
            return self.skip(
                f"question {encoded.id}: {len(encoded.ids)} tokens, more than --max_prompt_tokens {self.max_prompt_tokens}",
                too_long=True,
            )
        if self.labels:
            key = option_key(example.answer, example.choices)
            if key is None:
                return self.skip(f"question {encoded.id}: no answer, which --reward gold needs")
            self.gold[encoded.id] = key
        return encoded

    def skip(self, problem: str, too_long: bool = False) -> None:
        self.too_long += too_long
        self.bad_rows += not too_long
        if problem not in self.named:
            self.named.add(problem)
            tqdm.write(f"skipped {problem}", file=sys.stderr)
