"""One row of any source -> `Example`.

A source is a `Source` over a store of rows: TextRows and PictureRows in data/text_files.py, ParquetRows
and HubRows in data/tables.py. A store says which columns there are and gives one row as a dict;
data/columns.py finds out which is what. Without labels only the columns of a question and `category` are
read, and never an answer. With labels every other column of plain values stands verbatim in `meta`.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from common.errors import BadRow, DataError
from common.terminal import printable
from data.cells import (
    Chat,
    as_picture,
    image_file,
    is_plain,
    names_pictures,
    own_numbers,
    place_all,
    read_chat,
    read_choices,
    read_images,
)
from data.columns import (
    CATEGORY,
    CHATS,
    IMAGES,
    QUESTIONS,
    find_columns,
    first_of,
    is_picture_column,
    join_id,
)
from data.images import PATH, BadImage
from data.labels import Count, all_alike, counted_from, read_answers, read_label
from data.prompts import IMAGE_TAG, listed_choices

NO_CHAT = Chat("", [], None)


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
    # where each picture is: its path, or the row that holds it
    pictures: tuple[str, ...] = field(default=(), compare=False)
    system: str = ""  # of a chat: its message before the question, for models that take one


# --- Sources --------------------------------------------------------------------------------------


class Source:
    """The examples of a store of rows, by index. Checked when used: a bad row costs one row.

    Two rows of one id: the first is kept.
    """

    def __init__(self, store, labels: bool, need_question: bool = True, root: Path | None = None):
        """`root`: the folder that no path of a picture may leave; None: any file is opened."""
        self.store, self.labels, self.need_question, self.root = store, labels, need_question, root
        if not len(store):
            raise DataError(f"{store.source}: no rows")
        self.columns = columns = find_columns(store.kinds)
        if need_question and not (columns.questions or columns.chats):
            if wrong := [name for name in store.kinds if name.lower() in (*QUESTIONS, *CHATS)]:
                kind = "not text" if wrong[0].lower() in QUESTIONS else "no list of turns {role, content}"
                raise DataError(f"{store.source}: `{wrong[0]}` is {kind}, so there is no question")
            raise DataError(
                f"{store.source}: no question among the columns {', '.join(store.kinds) or '(none)'}; "
                f"one must be named {', '.join(QUESTIONS)} or {CHATS[0]}"
            )
        unread = [n for n in store.kinds if is_picture_column(n) and store.kinds[n] in ("other", "number")]
        if unread and not (columns.images or columns.numbered):
            raise DataError(
                f"{store.source}: `{unread[0]}` holds no pictures that can be read: {{bytes, path}}, bytes, "
                "or paths beside the file"
            )
        if not (columns.images or columns.numbered) and (missed := self.unnamed_pictures()):
            raise DataError(
                f"{store.source}: `{missed}` holds pictures; they are read from columns named "
                f"{', '.join(IMAGES)} or image_1, image_2, ...: rename it"
            )
        answer = (*columns.answers, None)[0]
        if labels and answer and store.kinds[answer] not in ("text", "number", None):
            raise DataError(f"{store.source}: the labels in `{answer}` are neither text nor numbers")
        store.keep(list(store.kinds) if labels else columns.unlabelled())
        self.refuse_urls()
        self.repeats = self.repeated_ids()
        self.said: set[str] = set()
        self.count = self.counted() if labels else Count(None)

    def unnamed_pictures(self) -> str | None:
        """A column of pictures, or of paths of pictures, that no name says is one."""
        kinds, known = self.store.kinds, {*self.columns.unlabelled(), *self.columns.answers}
        found = [name for name in kinds if kinds[name] == "image"]
        texts = tuple(name for name in kinds if kinds[name] in ("text", None) and name not in known)
        if not found and texts:
            first = list(islice(self.store.cells(texts), 8))
            found = [name for name in texts if any(names_pictures(row.get(name)) for row in first)]
        return found[0] if found else None

    def refuse_urls(self) -> None:
        """Says at once what would otherwise be said of every row."""
        for column in (*self.columns.images, *self.columns.numbered.values())[:1]:
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
        for index, row in enumerate(self.store.cells(self.columns.ids)):
            key = join_id([row.get(name) for name in self.columns.ids]) or self.store.default_id(index)
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

        Answers are left out of the count, read or not: they decide nothing, not even an order. Of a
        chat the whole counts.
        """
        if hasattr(self.store, "blocks"):
            return self.store.blocks(self.columns.unlabelled())
        return one_by_one(len(self))

    def __getitem__(self, index: int) -> Example:
        where = self.store.where(index)
        row = self.store[index]
        key = join_id([row.get(name) for name in self.columns.ids]) or self.store.default_id(index)
        if index in self.repeats:
            raise BadRow(f"{where}: the id {key} is already taken by {self.store.where(self.repeats[index])}")
        try:
            example = self.example(key, row, self.store.folder(index))
        except (BadRow, BadImage) as error:
            raise BadRow(f"{where}: {error}") from None
        return replace(example, pictures=tuple(image.info.get(PATH, where) for image in example.images))

    def example(self, key: str, row: dict, folder: Path) -> Example:
        columns = self.columns
        asked, chat = self.asked(row)
        options = first_of(columns.choices, row)
        own = read_choices(row.get(options), options)
        choices = own or listed_choices(chat.question)
        told, answer = None, None
        if self.labels:
            told, answers = self.told(row, asked, chat)
            answer = read_label(answers, choices, own_numbers(row.get(options)), self.count, told)
            if not choices and not all_alike(answers):
                self.say(f"where `{told}` lists several answers, the first is the label")
        shown, pictures = self.pictures(row, asked, chat, folder)
        question, own, images = place_all(chat.question, own, pictures)
        meta = {}
        if self.labels:
            used = {asked, told, options, *shown, *columns.numbered.values()}
            meta = {name: value for name, value in row.items() if name not in used and is_plain(value)}
        category = row.get(columns.category) if columns.category else None
        meta[CATEGORY] = "" if category is None else str(category)
        return Example(key, images, question, answer, own or choices, meta, system=chat.system)

    def asked(self, row: dict) -> tuple[str | None, Chat]:
        """The column of the question, and it; a plain one is a chat without pictures and reply."""
        for name in self.columns.questions:
            if isinstance(row.get(name), str) and row[name].strip():
                return name, NO_CHAT._replace(question=row[name])
        if (column := first_of(self.columns.chats, row)) is not None:
            chat = read_chat(row[column], column, self.labels)
            if chat.question.strip() or not self.need_question:
                return column, chat
        if self.need_question:
            wrong = [name for name in self.columns.questions if row.get(name) is not None]
            wrong = [name for name in wrong if not isinstance(row[name], str)]
            raise BadRow(f"`{wrong[0]}` is not text" if wrong else "no question")
        return None, NO_CHAT

    def pictures(self, row: dict, asked: str | None, chat: Chat, folder: Path) -> tuple[list, dict]:
        """The columns that bring pictures, and the pictures by number: of one column, of a column each,
        or of a chat's parts."""
        shown = first_of(self.columns.images, row)
        one_each = {n: name for n, name in self.columns.numbered.items() if row.get(name) is not None}
        found = [shown] * (shown is not None and row[shown] != []) + list(one_each.values())[:1]
        found += [asked] * bool(chat.pictures)
        if len(found) > 1:
            raise BadRow(f"`{found[0]}` and `{found[1]}` both hold pictures: keep them in one")
        if one_each:
            each = {n: as_picture(row[c], c, folder, self.root) for n, c in one_each.items()}
            return list(one_each.values()), each
        column, cell = (asked, chat.pictures) if chat.pictures else (shown, row.get(shown))
        if chat.later and isinstance(cell, list) and chat.question.count(IMAGE_TAG) + chat.later <= len(cell):
            cell = cell[: -chat.later]
        return [shown], dict(enumerate(read_images(cell, column, folder, self.root), 1))

    def told(self, row: dict, asked: str | None, chat: Chat) -> tuple[str | None, list[str]]:
        """The column of the label, and the answers in it; of a chat its reply."""
        # no solution where the answer is blank
        name = next((name for name in self.columns.answers if name in row), asked)
        return name, read_answers(chat.reply if name == asked else row[name], name)

    def has_labels(self) -> bool:
        """Whether any row has one, if only one that can't be read. No picture is opened."""
        columns = self.columns
        names = (*columns.answers, *columns.chats, *(columns.questions if columns.chats else ()))
        for row in self.store.cells(names) if names else ():
            try:
                asked, chat = self.asked(row) if columns.chats else (None, NO_CHAT)
            except BadRow:
                continue
            try:
                if any(answer.strip() for answer in self.told(row, asked, chat)[1]):
                    return True
            except BadRow:
                return True
        return False

    def counted(self) -> Count:
        """How the labels count choices, by all rows."""
        columns = self.columns
        names = (
            *columns.choices,
            *columns.answers,
            *columns.chats,
            *(columns.questions if columns.chats else ()),
        )
        if not (columns.choices and (columns.answers or columns.chats)):
            return Count(None)

        def labels() -> Iterator[tuple]:
            for row in self.store.cells(names):
                with suppress(BadRow):
                    asked, chat = self.asked(row) if columns.chats else (None, NO_CHAT)
                    options = first_of(columns.choices, row)
                    cell = row.get(options)
                    yield self.told(row, asked, chat)[1], read_choices(cell, options), own_numbers(cell)

        count = counted_from(labels())
        if count.first is not None:
            self.say(f"labels are numbers of choices, from {count.first}: read as letters")
        return count

    def say(self, notice: str) -> None:
        """Once, and by one process of several."""
        if notice not in self.said and os.environ.get("RANK", "0") == "0":
            self.said.add(notice)
            tqdm.write(printable(f"{self.store.source}: {notice}"), file=sys.stderr)


def one_by_one(count: int) -> list[tuple[range, int]]:
    """The blocks of rows that come alone."""
    return [(range(i, i + 1), 0) for i in range(count)]
