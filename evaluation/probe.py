"""Labelled held-out questions that a run is measured on as it goes. They are part of no reward."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from answers import Compare, compare
from common import pulse, stop
from common.cli import flag
from common.distributed import World
from common.errors import DataError, ModelError
from common.run_log import Diverged
from common.terminal import printable
from data import load
from evaluation.answering import Decoding, evaluate, labelled
from evaluation.metrics import report, table
from model_utils import Processor, gathered

KEPT = 24  # questions whose responses are kept, for the report


@dataclass
class Probing:
    eval_data: str = flag(
        "tiny", "labelled questions to measure on, SOURCE or SOURCE:SPLIT; empty: none, as with your own data"
    )
    eval_every: int = flag(20, "steps between evaluations; 0: only the base and the end", "0 or more")
    eval_questions: int = flag(256, "questions of one; 0 is all; the base and the end use all", "0 or more")
    eval_samples: int = flag(8, "samples per question in evaluations", "at least 1")


class Probe:
    """Measures at the base, at the end, where all questions are used, and every so often between."""

    def __init__(self, config, processor: Processor, world: World, compare: Compare = compare):
        """`config`: that of a run. Of its --eval_data the split `test` is read where it names no other.
        Majorities are those of the run's votes: by its format and `compare`."""
        self.config, self.processor, self.world, self.compare = config, processor, world, compare
        self.questions: Sequence = ()
        if config.eval_data:
            source = load(config.eval_data, "test", labels=True, images_root=config.images_root)
            self.questions, skipped = labelled(
                source, processor, config.max_prompt_tokens, config.instruction
            )
            if skipped:
                first = f"skipped {len(skipped)} rows, the first: {skipped[0]}"
                print(printable(f"--eval_data {config.eval_data}: {first}"), file=sys.stderr)
            if not self.questions:
                raise DataError(f"--eval_data {config.eval_data}: no usable labelled question")
        n = min(len(self.questions), config.eval_questions or len(self.questions))  # in every evaluation
        places = range(0, n, max(1, n // KEPT))[:KEPT]
        self.kept = {self.questions[i].id for i in places}

    def is_due(self, step: int) -> bool:
        every = self.config.eval_every
        return bool(self.questions) and (self.is_whole(step) or every > 0 and step % every == 0)

    def is_whole(self, step: int) -> bool:
        return step in (0, self.config.steps)

    def measure(self, policy, step: int) -> dict:
        """pass@1, maj@k, pass@k, by category too, and `samples`, the records of some questions with their
        responses. The questions are shared out among ranks. Nothing, on all of them, where a stop was
        asked for meanwhile."""
        pulse.enter(step, "evaluation")
        c = self.config
        questions = self.questions if self.is_whole(step) else self.questions[: c.eval_questions or None]
        decoding = Decoding(c.eval_samples, c.max_new_tokens, c.temperature, c.top_p, c.seed)
        mine = self.world.my_part(questions)
        records: list = [None]
        with gathered(policy), stop.at_ticks():
            try:
                records = evaluate(
                    policy, self.processor, mine, decoding, c.instruction,
                    answer_format=c.answer_format, compare=self.compare, keep=self.kept,
                )  # fmt: skip
            except ModelError as error:
                raise Diverged(f"the evaluation of step {step}: {error}") from None
        records = self.world.gather_json(records)
        if None in records:
            return {}
        samples = [r for r in records if r["id"] in self.kept]
        return report(records, c.eval_samples) | {"samples": samples}

    def base_beside_trained(self, reports: dict[int, dict]) -> str:
        """A table, where both were measured. `reports` by step."""
        columns = {name: reports.get(step) for name, step in (("base", 0), ("trained", self.config.steps))}
        return (
            table({n: r for n, r in columns.items() if r}, self.config.eval_samples)
            if all(columns.values())
            else ""
        )
