"""One row of any source -> `Example`: which column is what, by its name.

A source is a `Source` over a store of rows: JsonlRows below, ParquetRows and HubRows in
data/tables.py. A store says which columns there are and gives one row as a dict. Columns are found
by name, in any case:

    images      images, decoded_image, image, image_path      encoded pictures, or paths beside the file
    question    problem, question, query, query_cot, query_wo      a blank one gives way to the next
    answer      answer, solution, ground_truth, label      text, number or a list of one; <answer>...</answer> and
                \\boxed{} are unwrapped
    choices     choices, options, option      a list of texts, or one text "A. 3; B. 4"
    id          id, pid, sample_index, question_id, idx; id and key together where both are there

Of several with one meaning a row's first is taken, so rows of a .jsonl file may differ in their
names; encoded pictures go before paths. Without labels only these columns and `category` are read,
and never an answer. With labels every other column of plain values stands verbatim in `meta`.

`<image>` in a question stands where a picture belongs, one per picture in order; pictures without a
tag come first.

Left out: one column per picture (image_1, image_2, ...), pictures inside choices, base64 text,
URLs.
"""

import io
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from itertools import islice
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

from PIL import Image

from answers import extract_answer, option_key
from common.errors import BadRow, DataError
from data.images import BadImage, open_image

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


@dataclass(frozen=True)
class Example:
    id: str
    images: tuple[Image.Image, ...]
    question: str  # `<image>` where a picture belongs, one per picture in order; untagged pictures come first
    answer: str | None = None  # None where unlabelled
    choices: tuple[str, ...] = ()
    meta: dict = field(default_factory=dict)  # `category` is used for tables; other columns of labelled rows


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
    """Column names with their kinds ("image", "text", "number", "other"; None: any) -> which is
    what."""
    names = {name.lower(): name for name in reversed(kinds)}

    def called(wanted: Iterable[str], *allowed: str | None) -> tuple[str, ...]:
        found = (names[w] for w in wanted if w in names)
        return tuple(name for name in found if not allowed or kinds[name] in allowed)

    answers, ids = called(ANSWERS), called(IDS)[:1]
    if answers and {"id", "key"} <= names.keys():  # where nothing else is the answer, `key` may be
        ids = (names["id"], names["key"])
    return Columns(
        images=called(IMAGES, "image")
        or called(IMAGES, "text", None),  # a picture before the path of a picture
        questions=called(QUESTIONS, "text", None),
        answers=answers,
        choices=called(CHOICES),
        ids=ids,
        category=names.get(CATEGORY),
    )


def first_of(names: tuple[str, ...], row: dict) -> str | None:
    """The first of these columns that holds something."""
    return next((name for name in names if row.get(name) is not None), None)


# --- Cells ----------------------------------------------------------------------------------------


def read_images(value, column: str, folder: Path) -> tuple[Image.Image, ...]:
    """A cell -> decoded pictures. A picture is {bytes, path}, bytes, a Pillow image or a path
    beside the file."""
    if value is None:
        return ()
    if isinstance(value, str) and column == "images":
        raise BadRow("`images` is a list of paths")
    return tuple(
        open_image(image_file(item, column, folder))
        for item in (value if isinstance(value, list) else [value])
    )


def image_file(item, column: str, folder: Path):
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
            f"`{column}` holds {len(item):,} characters, which is no path; a picture as base64 text is not read"
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
    """Numbered tags `<image2>` -> `<image>`, and the pictures in the order of their tags, untagged
    ones first.

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


def read_choices(value, column: str) -> tuple[str, ...]:
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
    own = [OWN_LETTER.fullmatch(choice) for choice in choices]
    letters = "".join((m[1] or m[2]) if m else " " for m in own)
    if letters in (ascii_uppercase[: len(own)], ascii_lowercase[: len(own)]):
        return [m[3].strip() for m in own]
    return choices


def split_options(text: str) -> list[str] | None:
    """`A. 3; B. 4; C. No correct answer` -> its choices; None where it isn't a list lettered from A
    on without a gap.

    Choices stand behind semicolons or line breaks; where there are none, also behind commas and
    spaces.
    """
    apart = lettered_parts(text, r"[;；\n]")
    return (lettered_parts(text, r"[\s,，]") or apart) if apart and len(apart) == 1 else apart


def lettered_parts(text: str, before: str) -> list[str] | None:
    starts, others = [], []
    for match in re.finditer(rf"(?:^|{before})\s*\(?([A-Z])\s*[.:)．：、]\s*", text):
        (starts if match[1] == chr(65 + len(starts)) else others).append(
            match
        )  # another letter is part of a choice
    if any(0 <= ord(match[1]) - 65 - len(starts) < 4 for match in others):  # A, B, D
        return None
    ends = [*(match.start() for match in starts[1:]), len(text)]
    parts = [text[m.end() : end].strip(" ;；,，\n") for m, end in zip(starts, ends, strict=False)]
    return parts if parts and all(parts) else None


def read_answer(value, column: str) -> str | None:
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


def check_choice(answer: str, choices: tuple[str, ...], column: str) -> None:
    """Refuses the number of a choice, which would be taken for a value: nobody could be right."""
    number = re.fullmatch(
        r"(\d{1,2})(?:\.0*)?", answer
    )  # integers beside a missing one may have become floats
    if (
        number
        and int(number[1]) < len(choices)
        and option_key(answer, choices) == number[1].lstrip("0").zfill(1)
    ):
        raise BadRow(
            f"`{column}` {answer} is none of the choices; the number of a choice is not read: write its letter"
        )


def is_plain(value) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    return value is None or isinstance(value, (str, int, float, bool))


# --- Sources --------------------------------------------------------------------------------------


class Source:
    """The examples of a store of rows, by index. Rows are checked when they are used: a bad row
    costs one row.

    Two rows of one id: the first is kept.
    """

    def __init__(self, store, labels: bool, need_question: bool = True):
        self.store, self.labels, self.need_question = store, labels, need_question
        if not len(store):
            raise DataError(f"{store.source}: no rows")
        self.columns = find_columns(store.kinds)
        if need_question and not self.columns.questions:
            if wrong := [name for name in store.kinds if name.lower() in QUESTIONS]:
                raise DataError(f"{store.source}: `{wrong[0]}` is not text, so there is no question")
            raise DataError(
                f"{store.source}: no question among the columns {', '.join(store.kinds) or '(none)'}; "
                f"one must be named {', '.join(QUESTIONS[:-1])} or {QUESTIONS[-1]}"
            )
        unread = [n for n in store.kinds if n.lower() in IMAGES and store.kinds[n] in ("other", "number")]
        if unread and not self.columns.images:
            raise DataError(
                f"{store.source}: `{unread[0]}` holds no pictures that can be read: {{bytes, path}}, bytes, or paths beside "
                "the file"
            )
        if not self.columns.images and (missed := self.unnamed_pictures()):
            raise DataError(
                f"{store.source}: `{missed}` holds pictures; they are read from columns named {', '.join(IMAGES[:-1])} or "
                f"{IMAGES[-1]}: rename it"
            )
        answer = (*self.columns.answers, None)[0]
        if labels and answer and store.kinds[answer] not in ("text", "number", None):
            raise DataError(f"{store.source}: the labels in `{answer}` are neither text nor numbers")
        store.keep(list(store.kinds) if labels else self.columns.unlabelled())
        self.refuse_urls()
        self.repeats = self.repeated_ids()

    def unnamed_pictures(self) -> str | None:
        """A column of pictures, or of paths of pictures, that no name says is one."""
        kinds, known = self.store.kinds, {*self.columns.unlabelled(), *self.columns.answers}
        found = [name for name in kinds if kinds[name] == "image"]
        texts = tuple(name for name in kinds if kinds[name] in ("text", None) and name not in known)
        if not found and texts:
            first = list(islice(self.store.cells(texts), 8))
            found = [
                name for name, *cells in zip(texts, *first, strict=True) if any(map(names_pictures, cells))
            ]
        return found[0] if found else None

    def refuse_urls(self) -> None:
        """Says at once what would otherwise be said of every row."""
        for column in self.columns.images[:1]:
            if self.store.kinds[column] == "image":
                return
            try:
                first = self.store[0][column]
                for item in first if isinstance(first, list) else [first]:
                    image_file(item, column, Path())
            except (BadRow, KeyError) as error:
                if "URL" in str(error):
                    raise DataError(f"{self.store.source}: {error}") from None

    def repeated_ids(self) -> dict[int, int]:
        """Row -> the earlier row that has its id."""
        first, repeats = {}, {}
        if not self.columns.ids:
            return repeats
        for index, parts in enumerate(self.store.cells(self.columns.ids)):
            key = join_id(parts) or self.store.default_id(index)
            if first.setdefault(key, index) != index:
                repeats[index] = first[key]
        return repeats

    def __len__(self):
        return len(self.store)

    def where(self, index: int) -> str:
        """How its owner finds a row."""
        return self.store.where(index)

    @cached_property
    def blocks(self) -> list[tuple[range, int]]:
        """(rows that are read together, bytes in memory); elsewhere than in parquet files a row
        comes alone. Answers are left out of the count, read or not: they decide nothing, not even
        an order."""
        if hasattr(self.store, "blocks"):
            return self.store.blocks(self.columns.unlabelled())
        return one_by_one(len(self))

    def __getitem__(self, index: int) -> Example:
        where = self.store.where(index)
        row, columns = self.store[index], self.columns
        key = join_id([row.get(name) for name in columns.ids]) or self.store.default_id(index)
        if index in self.repeats:
            raise BadRow(f"{where}: the id {key} is already taken by {self.store.where(self.repeats[index])}")
        texts = ((name, row.get(name)) for name in columns.questions)
        asked, question = next(((n, t) for n, t in texts if isinstance(t, str) and t.strip()), (None, ""))
        if asked is None and self.need_question:
            wrong = [n for n in columns.questions if row.get(n) is not None and not isinstance(row[n], str)]
            raise BadRow(f"{where}: `{wrong[0]}` is not text" if wrong else f"{where}: no question")
        shown, options = first_of(columns.images, row), first_of(columns.choices, row)
        told = next(
            (name for name in columns.answers if name in row), None
        )  # no solution where the answer is blank
        try:
            choices = read_choices(row.get(options), options)
            answer = read_answer(row.get(told), told) if self.labels else None
            if answer:
                check_choice(answer, choices, told)
            images = read_images(row.get(shown), shown, self.store.folder(index))
        except (BadRow, BadImage) as error:
            raise BadRow(f"{where}: {error}") from None
        question, images = place_images(question, images)
        meta = {}
        if self.labels:
            used = (asked, shown, told, options)
            meta = {name: value for name, value in row.items() if name not in used and is_plain(value)}
        category = row.get(columns.category)
        meta[CATEGORY] = "" if category is None else str(category)
        return Example(key, images, question, answer, choices, meta)


def one_by_one(count: int) -> list[tuple[range, int]]:
    """The blocks of rows that come alone."""
    return [(range(i, i + 1), 0) for i in range(count)]


def join_id(parts) -> str | None:
    """The cells of the id columns -> one id; None where one is missing."""
    return "-".join(map(str, parts)) if parts and None not in parts else None


class JsonlRows:
    """The rows of a .jsonl file, kept as text."""

    def __init__(self, path: Path):
        self.source, self.path = str(path), path
        try:
            text = path.read_text(encoding="utf-8-sig")  # a mark of the byte order may stand first
        except FileNotFoundError:
            raise DataError(f"{path}: no such file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not a readable UTF-8 file ({error})") from None
        # split on newlines only: str.splitlines would also break on characters that JSON allows
        # inside strings
        self.lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        self.kept: set[str] | None = None
        self.kinds: dict[str, str | None] = {}
        problem = None
        for index in range(len(self.lines)):
            try:
                self.kinds |= dict.fromkeys(self[index])
            except BadRow as error:
                problem = problem or error
        if problem and not self.kinds:
            raise DataError(f"{problem}; and no other row is better")

    def keep(self, columns: list[str]) -> None:
        self.kept = set(columns)

    def cells(self, names: tuple[str, ...]) -> Iterable[list]:
        for index in range(len(self)):
            try:
                row = self[index]
            except BadRow:
                row = {}
            yield [row.get(name) for name in names]

    def where(self, index: int) -> str:
        return f"{self.path.name}:{self.lines[index][0]}"

    def default_id(self, index: int) -> str:
        return f"{self.path.stem}-{self.lines[index][0]}"

    def folder(self, index: int) -> Path:
        return self.path.parent

    def __len__(self):
        return len(self.lines)

    def __getitem__(self, index: int) -> dict:
        try:
            row = json.loads(self.lines[index][1])
        except (ValueError, RecursionError) as error:
            raise BadRow(f"{self.where(index)}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise BadRow(f"{self.where(index)}: a row is a JSON object, not {type(row).__name__}")
        if self.kept is None:
            return row
        row = {k: v for k, v in row.items() if k in self.kept}
        if "\\ud" in self.lines[index][1].lower():
            try:
                json.dumps(row, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                raise BadRow(f"{self.where(index)}: half a surrogate pair, which is no text") from None
        return row
