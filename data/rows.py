"""One row of any source -> `Example`.

A source is a `Source` over a store of rows: JsonlRows below, ParquetRows and HubRows in
data/tables.py. A store says which columns there are and gives one row as a dict; data/columns.py
finds out which is what. Without labels only the columns of a question and `category` are read, and
never an answer. With labels every other column of plain values stands verbatim in `meta`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

from PIL import Image

from common.errors import BadRow, DataError
from data.columns import (
    CATEGORY,
    IMAGES,
    QUESTIONS,
    check_choice,
    find_columns,
    first_of,
    image_file,
    is_plain,
    join_id,
    names_pictures,
    place_images,
    read_answer,
    read_choices,
    read_images,
    split_options,
)
from data.images import BadImage
from data.prompts import listed_choices

__all__ = [
    "Example", "JsonlRows", "Source", "find_columns", "one_by_one", "place_images", "read_answer",
    "read_choices", "split_options",
]  # fmt: skip


@dataclass(frozen=True)
class Example:
    id: str
    images: tuple[Image.Image, ...]
    # `<image>` where a picture belongs, one per picture in order; untagged pictures come first
    question: str
    answer: str | None = None  # None where unlabelled
    choices: tuple[str, ...] = ()
    # `category` is used for tables; other columns of labelled rows
    meta: dict = field(default_factory=dict)


# --- Sources --------------------------------------------------------------------------------------


class Source:
    """The examples of a store of rows, by index. Checked when used: a bad row costs one row.

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
                f"{store.source}: `{unread[0]}` holds no pictures that can be read: {{bytes, path}}, bytes, "
                "or paths beside the file"
            )
        if not self.columns.images and (missed := self.unnamed_pictures()):
            raise DataError(
                f"{store.source}: `{missed}` holds pictures; they are read from columns named "
                f"{', '.join(IMAGES[:-1])} or {IMAGES[-1]}: rename it"
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
        first: dict[str, int] = {}
        repeats: dict[int, int] = {}
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
        """(rows read together, bytes in memory); elsewhere than in parquet files, a row alone.

        Answers are left out of the count, read or not: they decide nothing, not even an order.
        """
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
        # no solution where the answer is blank
        told = next((name for name in columns.answers if name in row), None)
        try:
            choices = read_choices(row.get(options), options) or listed_choices(question)
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
        category = row.get(columns.category) if columns.category else None
        meta[CATEGORY] = "" if category is None else str(category)
        return Example(key, images, question, answer, choices, meta)


def one_by_one(count: int) -> list[tuple[range, int]]:
    """The blocks of rows that come alone."""
    return [(range(i, i + 1), 0) for i in range(count)]


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
        # on newlines only: str.splitlines also breaks on characters that JSON allows in strings
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
