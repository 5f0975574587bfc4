"""easy-VQA (MIT) as questions that `data.load` reads: pictures of one shape, drawn by others.

    pip install easy-vqa==1.0
    python -m programs.easy_vqa --out runs/easy-vqa
    python eval.py --data runs/easy-vqa/test.jsonl

38,575 questions on 4,000 pictures become train.jsonl, 9,673 on 1,000 others test.jsonl; the answers are a
colour, a shape, yes or no. The package is found, not run.
"""

import importlib.util
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from common import cli, files
from common.cli import flag
from common.errors import UsageError

INSTALL = "pip install easy-vqa==1.0"
KINDS = {"yes": "yes or no", "no": "yes or no", "circle": "shape", "rectangle": "shape", "triangle": "shape"}


@dataclass
class EasyVqa:
    out: str = flag("runs/easy-vqa", "folder that gets questions and pictures")

    def __post_init__(self):
        files.check_out(self.out)


def find_data() -> Path:
    spec = importlib.util.find_spec("easy_vqa")
    if spec is None or spec.origin is None:
        raise UsageError(f"the questions are in the package easy-vqa: {INSTALL}")
    return Path(spec.origin).with_name("data")


def rows(split: str, asked: list) -> list[dict]:
    """`asked`: (question, answer, picture) each, as the package has them."""
    return [
        {
            "id": f"{split}-{n}",
            "question": question[:1].upper() + question[1:],
            "images": [f"{split}/{picture}.png"],
            "answer": answer,
            "category": KINDS.get(answer, "colour"),
        }
        for n, (question, answer, picture) in enumerate(asked)
    ]


def main(argv: list[str]) -> int:
    config = cli.parse(EasyVqa, argv)
    data, out = find_data(), Path(config.out)
    try:
        for split in ("train", "test"):
            found = rows(split, json.loads((data / split / "questions.json").read_text()))
            (out / split).mkdir(parents=True, exist_ok=True)
            for name in tqdm(sorted({row["images"][0] for row in found}), desc=split, disable=None):
                shutil.copyfile(data / split / "images" / Path(name).name, out / name)
            files.replace_text(out / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in found))
            print(f"{out / split}.jsonl: {len(found)} questions")
    except (OSError, ValueError) as error:
        raise UsageError(f"--out {out}: {error}; or the package is not whole: {INSTALL}") from None
    return 0


if __name__ == "__main__":
    cli.run(main)
