"""A first look at a source: `python -m data SOURCE [--split NAME] [--sheet FILE.png]`."""

from collections import Counter
from dataclasses import dataclass, field

import cli
from data import HELD_OUT, BadRow, figures, load


@dataclass
class Look:
    source: str = field(default="tiny", metadata={"help": "tiny, or a .jsonl file"})
    split: str = field(default="test", metadata={"help": "split, where the source has several"})
    sheet: str = field(default="", metadata={"help": "PNG to draw the built-in questions on"})


def main(argv: list[str]) -> int:
    if argv and not argv[0].startswith("-"):
        argv = ["--source", *argv]
    look = cli.parse(Look, argv)
    examples = load(look.source, look.split, labels=True)
    endless = look.source == "tiny" and look.split not in HELD_OUT
    good, bad = [], []
    for i in range(100 if endless else len(examples)):
        try:
            good.append(examples[i])
        except BadRow as error:
            bad.append(str(error))
    print(f"{look.source}: {'endless, of 100: ' if endless else ''}{len(good)} questions, {len(bad)} unusable rows")
    for name, count in sorted(Counter(e.meta.get("category", "") for e in good).items()):
        print(f"  {name or '(no category)':20} {count}")
    for e in good[:3]:
        sizes = ", ".join(f"{i.width}x{i.height}" for i in e.images)
        print(f"  {e.id}: {e.question!r} {list(e.choices) or ''} [{e.answer}] images: {sizes or 'none'}")
    for problem in bad[:5]:
        print(f"  skipped {problem}")
    if look.sheet:
        if look.source != "tiny":
            raise cli.UsageError("--sheet draws the built-in questions: SOURCE must be tiny")
        figures.contact_sheet(look.split).save(look.sheet)
    return 0 if good else 1


if __name__ == "__main__":
    cli.run(main)
