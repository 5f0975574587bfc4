"""Which column of a source is what, by its name, and how its cells are read.

Names count in any case:

    images      images, decoded_image, image, image_path      encoded pictures, or paths beside the file
    question    problem, question, query, query_cot, query_wo      a blank one gives way to the next
    answer      answer, solution, ground_truth, label      text, number or a list of one; out of its
                <answer>...</answer> or \\boxed{}
    choices     choices, options, option      a list of texts, or one text "A. 3; B. 4"
    id          id, pid, sample_index, question_id, idx; id and key together where both are there

Of several with one meaning a row's first is taken, so rows of a .jsonl file may differ in their
names; encoded pictures go before paths. `<image>` in a question stands where a picture belongs, one
per picture in order; pictures without a tag come first.

Left out: one column per picture (image_1, image_2, ...), pictures inside choices, base64 text,
URLs.
"""

import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

from PIL import Image

from answers import extract_answer, option_key
from common.errors import BadRow
from data.images import open_image

IMAGES = ("images", "decoded_image", "image", "image_path")
QUESTIONS = ("problem", "question", "query", "query_cot", "query_wo")
ANSWERS = ("answer", "solution", "ground_truth", "label")
CHOICES = ("choices", "options", "option")
IDS = ("id", "pid", "sample_index", "question_id", "idx")
CATEGORY = "category"
MOST_CHOICES = 26  # they are lettered
OWN_LETTER = re.compile(  # `A.D.` and `A:B` have none; `A.3` has
    r"\s*(?:\(([A-Za-z])\)\s*|([A-Za-z])(?:\)\s*|[．：、]\s*|[.:](?:\s+|(?=[\d$\\]))))(.*\S.*)", re.DOTALL
)
PICTURE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
LONGEST_PATH = 4096
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # two letters or more: `C:` is a drive


# --- Columns --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """The columns that make an example."""

    images: tuple[str, ...]  # in order of preference, as the next three
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    choices: tuple[str, ...]
    ids: tuple[str, ...]  # joined by "-"
    category: str | None

    def unlabelled(self) -> list[str]:
        """All that may be read where no label may be seen."""
        found = (*self.images, *self.questions, *self.choices, *self.ids, self.category)
        return list(dict.fromkeys(name for name in found if name))

    def role(self, name: str, kind: str | None = None) -> str:
        """What a column has become, in words."""
        if name in self.questions:
            before = self.questions[: self.questions.index(name)]
            return f"question, where {' and '.join(before)} is blank" if before else "question"
        if name in self.ids:
            return "id"
        told = "answer; not read without labels"
        roles = {
            "images": self.images,
            "choices": self.choices,
            told: self.answers,
            "category": (self.category,),
        }
        for role, names in roles.items():
            if name in names:
                return role if name == names[0] else f"{role}, where {names[0]} is missing"
        return "not read" if kind in ("image", "binary") else "meta; not read without labels"


def find_columns(kinds: dict[str, str | None]) -> Columns:
    """Column names with their kinds (image, text, number, other; None: any) -> which is what."""
    names = {name.lower(): name for name in reversed(kinds)}

    def called(wanted: Iterable[str], *allowed: str | None) -> tuple[str, ...]:
        found = (names[w] for w in wanted if w in names)
        return tuple(name for name in found if not allowed or kinds[name] in allowed)

    answers, ids = called(ANSWERS), called(IDS)[:1]
    if answers and {"id", "key"} <= names.keys():  # where nothing else is the answer, `key` may be
        ids = (names["id"], names["key"])
    return Columns(
        # a picture before the path of a picture
        images=called(IMAGES, "image") or called(IMAGES, "text", None),
        questions=called(QUESTIONS, "text", None),
        answers=answers,
        choices=called(CHOICES),
        ids=ids,
        category=names.get(CATEGORY),
    )


def first_of(names: tuple[str, ...], row: dict) -> str | None:
    """The first of these columns that holds something."""
    return next((name for name in names if row.get(name) is not None), None)


def join_id(parts) -> str | None:
    """The cells of the id columns -> one id; None where one is missing."""
    return "-".join(map(str, parts)) if parts and None not in parts else None


# --- Cells ----------------------------------------------------------------------------------------


def read_images(value, column: str | None, folder: Path) -> tuple[Image.Image, ...]:
    """A cell -> decoded pictures: {bytes, path}, bytes, Pillow images or paths beside the file."""
    if value is None:
        return ()
    if isinstance(value, str) and column == "images":
        raise BadRow("`images` is a list of paths")
    items = value if isinstance(value, list) else [value]
    return tuple(open_image(image_file(item, column, folder)) for item in items)


def image_file(item, column: str | None, folder: Path):
    """What open_image can open."""
    if isinstance(item, dict):
        item = item.get("bytes") or item.get("path")
    if isinstance(item, bytes):
        return io.BytesIO(item)
    if isinstance(item, Image.Image):
        return item
    if not isinstance(item, str):
        kind = "null" if item is None else type(item).__name__
        raise BadRow(f"`{column}` is a list of paths or pictures, not of {kind}")
    if len(item) > LONGEST_PATH:
        raise BadRow(
            f"`{column}` holds {len(item):,} characters, which is no path; "
            "a picture as base64 text is not read"
        )
    if URL.match(item):
        raise BadRow(
            f"an image is the URL {item[:60]}: nothing is fetched while training; download it, give its path"
        )
    return folder / item


def names_pictures(value) -> bool:
    """Whether a cell is the path of a picture, or a list of some."""
    items = value if isinstance(value, list) else [value]
    return bool(items) and all(
        isinstance(i, str) and Path(i[-300:]).suffix.lower() in PICTURE_FILES for i in items
    )


def place_images(question: str, images: tuple) -> tuple[str, tuple]:
    """Tags `<image2>` -> `<image>`, and the pictures in the tags' order, untagged ones first.

    A number is used once and only where there is such a picture; any other numbered tag stays as
    text: in MathVision one picture shows all that `<image1>` to `<image5>` name.
    """
    numbered = [n for n in map(int, re.findall(r"<image(\d{1,3})>", question)) if 1 <= n <= len(images)]
    if not numbered:
        return question, images
    waiting = set(numbered)

    def tag(match):
        if int(match[1]) not in waiting:
            return match[0]
        waiting.remove(int(match[1]))
        return "<image>"

    tagged = list(dict.fromkeys(numbered))
    rest = [n for n in range(1, len(images) + 1) if n not in tagged]
    return re.sub(r"<image(\d{1,3})>", tag, question), tuple(images[n - 1] for n in rest + tagged)


def read_choices(value, column: str | None) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    choices = split_options(value) if isinstance(value, str) else value
    if not isinstance(choices, list) or not all(isinstance(c, str) for c in choices):
        raise BadRow(f"`{column}` is a list of strings, or one string `A. this; B. that`")
    choices = unlettered(choices)
    if len(choices) > MOST_CHOICES:
        raise BadRow(f"`{column}` has {len(choices)} choices, more than there are letters")
    return tuple(choices)


def unlettered(choices: list[str]) -> list[str]:
    """Choices that bring their own letters, ["A. 3", "B. 4"], without them; others as they are."""
    own = [m for m in map(OWN_LETTER.fullmatch, choices) if m]
    letters = "".join(m[1] or m[2] for m in own)
    if len(own) == len(choices) and letters in (ascii_uppercase[: len(own)], ascii_lowercase[: len(own)]):
        return [m[3].strip() for m in own]
    return choices


def split_options(text: str) -> list[str] | None:
    """`A. 3; B. 4; C. None` -> its choices; None where it isn't lettered from A without a gap.

    Choices stand behind semicolons or line breaks; where there are none, also behind commas and
    spaces.
    """
    apart = lettered_parts(text, r"[;；\n]")
    return (lettered_parts(text, r"[\s,，]") or apart) if apart and len(apart) == 1 else apart


def lettered_parts(text: str, before: str) -> list[str] | None:
    starts: list[re.Match[str]] = []
    others: list[re.Match[str]] = []
    for match in re.finditer(rf"(?:^|{before})\s*\(?([A-Z])\s*[.:)．：、]\s*", text):
        # another letter is part of a choice
        (starts if match[1] == chr(65 + len(starts)) else others).append(match)
    if any(0 <= ord(match[1]) - 65 - len(starts) < 4 for match in others):  # A, B, D
        return None
    ends = [*(match.start() for match in starts[1:]), len(text)]
    parts = [text[m.end() : end].strip(" ;；,，\n") for m, end in zip(starts, ends, strict=False)]
    return parts if parts and all(parts) else None


def read_answer(value, column: str | None) -> str | None:
    """The label as text, out of its list of one, its <answer> tags or its box."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, Decimal):
        value = str(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadRow(f"`{column}` is a string, a number or a list of one, not {type(value).__name__}")
    text = str(value)
    if tagged := re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL | re.IGNORECASE):
        text = tagged[-1].strip()
    return extract_answer(text) or text


def check_choice(answer: str, choices: tuple[str, ...], column: str | None) -> None:
    """Refuses the number of a choice, which would be taken for a value: nobody could be right."""
    # integers beside a missing one may have become floats
    number = re.fullmatch(r"(\d{1,2})(?:\.0*)?", answer)
    if number and int(number[1]) < len(choices) and option_key(answer, choices) == str(int(number[1])):
        raise BadRow(
            f"`{column}` {answer} is none of the choices; "
            "the number of a choice is not read: write its letter"
        )


def is_plain(value) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    return value is None or isinstance(value, (str, int, float, bool))
