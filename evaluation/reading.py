"""What is asked and how responses are read: the flags that training and evaluation share.

`--answer_format auto` is settled once, by responses alone: a run samples the first PREVIEW questions of its
first step before anything else (the draws that the step itself will make), eval.py takes its first batch.
A format that reads hardly anything is said, with the one that reads more.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tqdm import tqdm

from answers import Compare, compare, extract_answer, second_opinion
from answers.extract import FORMATS, best_format, count_parsed
from common import pulse
from common.cli import flag
from common.distributed import World
from common.health import HARDLY
from data.prompts import INSTRUCTION
from data.stream import ALONE, Questions
from evaluation.grader import MathVerify
from model_utils import Processor, gathered, generate

AUTO, GRADERS = "auto", ("ours", "math-verify")
PREVIEW = 32  # questions, over all processes


@dataclass
class Reading:
    instruction: str = flag(INSTRUCTION, "appended to every question as it stands, so it begins with a space")
    system: str = flag("", "system message put before every question; empty: the template's own, if any")
    answer_format: str = flag(
        "boxed", "how a response holds its answer; auto: by the first responses", choices=(*FORMATS, AUTO)
    )
    min_pixels: int = flag(0, "smaller images are enlarged to this; 0 is the checkpoint's own", "0 or more")
    max_pixels: int = flag(0, "larger images are shrunk to this; 0 is the checkpoint's own", "0 or more")
    images_root: str = flag("", "folder that no picture's path may leave; paths may begin there as well")
    grader: str = flag(
        "ours", "math-verify: the judge in eval.py, a second opinion in votes", choices=GRADERS
    )
    grader_seconds: float = flag(5.0, "a comparison by math-verify that takes longer is a no", "above 0")


def look(asked: str, texts: Sequence[str], world: World = ALONE) -> tuple[str, str]:
    """(format, what is to be said of it) by the responses of all processes; collective.

    `auto` becomes the best format. A given one stays, with a warning where it reads fewer than HARDLY.
    """
    if asked != AUTO:
        read = sum(extract_answer(text, asked) is not None for text in texts)
        rows = world.gather_json([(read, len(texts))])
        own = sum(n for n, _ in rows) / max(1, sum(n for _, n in rows))
        if own >= HARDLY:
            return asked, ""
    counts = world.gather_json([[len(texts), *count_parsed(texts).values()]])
    total, *parsed = map(sum, zip(*counts, strict=True))
    shares = {name: n / max(1, total) for name, n in zip(FORMATS, parsed, strict=True)}
    best = best_format(shares)
    if asked == AUTO:
        found = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        return best, f"--answer_format auto is {best}: of {total} responses are read by {found}"
    more = f"--answer_format {best} would read {shares[best]:.1%}"
    said = f"warning: --answer_format {asked} finds an answer in {own:.1%} of the first {total} responses; "
    return asked, said + (more if shares[best] > own else "no other format reads more")


class FirstLook:
    """Of a batch's responses the format, which the first batch settles."""

    def __init__(self, asked: str, settled: bool = False):
        self.format, self.settled = asked, settled

    def __call__(self, texts: Sequence[str]) -> str:
        if not self.settled:
            self.format, said = look(self.format, texts)
            self.settled = True
            if said:
                tqdm.write(said)
        return self.format


def settle(config, saved: dict, world: World, policy, processor: Processor, stream: Questions) -> None:
    """What --answer_format auto is in a run that begins, in `config` and the one that is `saved`. The stream
    is where it was before."""
    if config.answer_format == AUTO:
        before, most = stream.state(), world.size * -(-PREVIEW // world.size)
        mine = stream.next(min(config.questions, most))
        stream.rewind(before)
        pulse.enter(0, "rollout")
        with gathered(policy):
            rollout = generate(
                policy, processor, processor.collate(mine, world.device), config.group_size,
                config.max_new_tokens, config.temperature, config.top_p, config.seed, step=0,
            )  # fmt: skip
        config.answer_format, said = look(AUTO, rollout.texts(processor), world)
        saved["answer_format"] = config.answer_format
        if world.is_main:
            tqdm.write(said)


def warn(answer_format: str, texts: Sequence[str], world: World, step: int) -> None:
    """Of a format that reads hardly anything, by the responses of a run's first step."""
    said = look(answer_format, texts, world)[1] if step == 0 else ""
    if said and world.is_main:
        tqdm.write(said, file=sys.stderr)


@contextmanager
def comparing(config) -> Iterator[Compare]:
    """How a vote compares answers: as we do, or with a second opinion, whose process ends with the block."""
    if config.grader == "ours":
        yield compare
        return
    with MathVerify(config.grader_seconds) as grader:
        grader.start()  # nobody waits for this rank yet
        yield second_opinion(grader.equal)
