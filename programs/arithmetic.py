"""Sums and products of small numbers as questions in words: `python -m programs.arithmetic --out runs/real`

A fact is an operation and two numbers in either order. Facts are dealt out once, 72 to train.jsonl, 24 to
validation.jsonl and 48 to test.jsonl; each is asked in both orders and two wordings. So no fact, and no
question, is in two of the files.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from common import cli, files
from common.cli import flag
from common.errors import UsageError

WORDINGS = {
    "sum": ("What is {} + {}?", "What is {} plus {}?"),
    "product": ("What is {} x {}?", "What is {} * {}?"),
}
NUMBERS = {"sum": range(1, 13), "product": range(2, 13)}
SIZES = {"train": 72, "validation": 24, "test": 48}  # facts

Fact = tuple[str, int, int]  # operation and two numbers, the smaller one first


@dataclass
class Arithmetic:
    out: str = flag("runs/real", "folder that gets the three files")

    def __post_init__(self):
        files.check_out(self.out)


def splits() -> dict[str, list[Fact]]:
    """All facts, each in one split."""
    facts = [(kind, a, b) for kind, numbers in NUMBERS.items() for a in numbers for b in numbers if a <= b]
    random.Random("facts").shuffle(facts)
    out, taken = {}, 0
    for split, size in SIZES.items():
        out[split] = facts[taken : taken + size]
        taken += size
    return out


def rows(facts: list[Fact]) -> list[dict]:
    """A fact's questions stand together."""
    out = []
    for kind, *pair in facts:
        a, b = pair
        answer = a + b if kind == "sum" else a * b
        for n, wording in enumerate(WORDINGS[kind]):
            for x, y in sorted({(a, b), (b, a)}):
                question = wording.format(x, y)
                out.append(
                    dict(id=f"{kind}-{x}-{y}-{n}", question=question, answer=str(answer), category=kind)
                )
    return out


def write(out: str | Path) -> None:
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
        for split, facts in splits().items():
            lines = [json.dumps(row) + "\n" for row in rows(facts)]
            files.replace_text(Path(out) / f"{split}.jsonl", "".join(lines))
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}") from None


def main(argv: list[str]) -> int:
    config = cli.parse(Arithmetic, argv)
    write(config.out)
    print(f"{', '.join(f'{split}.jsonl' for split in SIZES)}: {config.out}")
    return 0


if __name__ == "__main__":
    cli.run(main)
