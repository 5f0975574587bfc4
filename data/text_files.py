"""Rows of files of text, and of a folder of pictures, by index.

    TextRows("q.jsonl")       a JSON object a line
    TextRows("q.json")        an array of them, or lines
    TextRows("q.csv")         a line of names, then rows; a cell in quotes may hold line breaks
    PictureRows("photos")     pictures without questions

A row that can't be read costs itself, and is known by its line. Left out: streaming, a file is held as
text; separators other than commas.
"""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from common.errors import BadRow, DataError
from common.terminal import printable
from data.cells import PICTURE_FILES, listed_texts
from data.columns import CHATS, is_picture_column

MADE_HERE = ".images"  # how a folder ends that data.synthesize writes beside its questions


class Line(NamedTuple):
    number: int
    text: str  # a JSON object, if all is well
    problem: str = ""


class TextRows:
    """The rows of a .jsonl, .json or .csv file, kept as text."""

    def __init__(self, path: Path):
        self.source, self.path = str(path), path
        is_table = path.suffix.lower() == ".csv"
        try:  # a mark of the byte order may stand first; line breaks within cells stay as they are
            with open(path, encoding="utf-8-sig", newline="" if is_table else None) as file:
                text = file.read()
        except FileNotFoundError:
            raise DataError(f"{path}: no such file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not a readable UTF-8 file ({error})") from None
        self.is_array = path.suffix.lower() == ".json" and text.lstrip().startswith("[")
        if is_table:
            lines = csv_lines(path, text)
        else:  # on newlines only: str.splitlines also breaks on characters that JSON allows in strings
            rows = self.array(text) if self.is_array else text.split("\n")
            lines = [Line(n, row) for n, row in enumerate(rows, 1)]
        self.lines = [line for line in lines if line.problem or line.text.strip()]
        self.kept: set[str] | None = None
        self.kinds = self.find_kinds()

    def array(self, text: str) -> list[str]:
        """The rows of an array, as lines."""
        try:
            return list(map(json.dumps, json.loads(text)))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.path}: not JSON ({error})") from None

    def find_kinds(self) -> dict[str, str | None]:
        """Every name that a row has. A chat that is text in all of them has no turns."""
        names: dict[str, None] = {}
        texts: set[str] = set()
        others: set[str] = set()
        problem = None
        for index in range(len(self.lines)):
            try:
                row = self[index]
            except BadRow as error:
                problem = problem or error
                continue
            names |= dict.fromkeys(row)
            texts |= {name for name, cell in row.items() if isinstance(cell, str)}
            others |= {name for name, cell in row.items() if not isinstance(cell, str | None)}
        if problem and not names:
            raise DataError(f"{problem}; and no other row is better")
        return {n: "text" if n.lower() in CHATS and n in texts - others else None for n in names}

    def keep(self, columns: list[str]) -> None:
        self.kept = set(columns)

    def cells(self, names: tuple[str, ...]) -> Iterable[dict]:
        """Of each row the cells of these columns; none of a row that can't be read."""
        for index in range(len(self)):
            try:
                row = self[index]
            except BadRow:
                row = {}
            yield {name: row[name] for name in names if name in row}

    def where(self, index: int) -> str:
        number = self.lines[index].number
        return f"{self.path.name} row {number}" if self.is_array else f"{self.path.name}:{number}"

    def default_id(self, index: int) -> str:
        return f"{self.path.stem}-{self.lines[index].number}"

    def folder(self, index: int) -> Path:
        return self.path.parent

    def __len__(self):
        return len(self.lines)

    def __getitem__(self, index: int) -> dict:
        line = self.lines[index]
        if line.problem:
            raise BadRow(f"{self.where(index)}: {line.problem}")
        try:
            row = json.loads(line.text)
        except (ValueError, RecursionError) as error:
            raise BadRow(f"{self.where(index)}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise BadRow(f"{self.where(index)}: a row is a JSON object, not {type(row).__name__}")
        if self.kept is None:
            return row
        row = {k: v for k, v in row.items() if k in self.kept}
        if "\\ud" in line.text.lower():
            try:
                json.dumps(row, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                raise BadRow(f"{self.where(index)}: half a surrogate pair, which is no text") from None
        return row


# --- CSV ------------------------------------------------------------------------------------------


def csv_lines(path: Path, text: str) -> list[Line]:
    """Each row below the names as a JSON object, at the line where it begins."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))  # a file is in memory already
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] = []
    lines: list[Line] = []
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return lines
        except csv.Error as error:
            upto = f", up to line {reader.line_num}" if reader.line_num > number else ""
            lines.append(Line(number, "", f"not CSV ({error}{upto}): a quote within quotes is doubled"))
            continue
        if not names and lines:
            raise DataError(f"{path}:{lines[0].number}: {lines[0].problem}, so no column has a name")
        if not any(cells):
            continue
        if not names:
            names = [cell.strip() for cell in cells]
            if twice := [name for name in names if name and names.count(name) > 1]:
                raise DataError(f"{path}: two columns are named {twice[0]}: rename one")
        elif len(cells) != len(names):
            found = f"{len(cells)} cells, but the first line names {len(names)} columns"
            lines.append(Line(number, "", f"{found}: a cell with a comma stands in quotes"))
        else:
            row = {n: csv_cell(n, cell) for n, cell in zip(names, cells, strict=True) if n}
            lines.append(Line(number, json.dumps(row)))


def csv_cell(name: str, cell: str):
    """A text; None where it is empty. Of pictures a list of paths, of a chat its turns, written as JSON."""
    if not cell:
        return None
    if is_picture_column(name):
        return listed_texts(cell) or [cell]
    if name.lower() in CHATS:
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


# --- A folder of pictures -------------------------------------------------------------------------


def pictures_in(folder: Path) -> list[Path]:
    """In it and in folders below, but for hidden ones and those that data.synthesize wrote."""

    def counts(path: Path) -> bool:
        parts = path.relative_to(folder).parts
        ours = any(part.endswith(MADE_HERE) for part in parts[:-1])
        return not ours and not any(part.startswith(".") for part in parts) and path.is_file()

    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_FILES and counts(p))


class PictureRows:
    """A row each, known by its path below the folder."""

    def __init__(self, folder: Path, pictures: list[Path]):
        self.source, self.place, self.pictures = str(folder), folder, pictures
        self.kinds: dict[str, str | None] = {"image": "image"}

    def keep(self, columns: list[str]) -> None:
        pass

    def cells(self, names: tuple[str, ...]) -> Iterable[dict]:
        return ({} for _ in self.pictures)

    def where(self, index: int) -> str:
        return self.pictures[index].relative_to(self.place).as_posix()

    def default_id(self, index: int) -> str:
        return printable(self.where(index))  # a name may be no text

    def folder(self, index: int) -> Path:
        return self.place

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict:
        return {"image": str(self.pictures[index].absolute())}
