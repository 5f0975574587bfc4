"""Rows of parquet files and of data sets of the Hugging Face hub, by index, in bounded memory.

    ParquetRows([paths])                         pyarrow; row groups are read when a row of theirs is asked for, and the
                                                 latest are kept, up to KEEP_BYTES or one group
    HubRows("owner/name:config", "train")        datasets; rows of its memory-mapped cache. Only this downloads anything

Pictures stay encoded here: data/images.py decodes them, with its bounds. Both packages are optional.

Left out: streaming from the hub, other file formats on a disk.
"""

import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from data.rows import BadRow, DataError

KEEP_BYTES = 2**28  # of row groups, as they stand in memory
SHARD = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?")  # how the hub names the files of a split


def need(package: str, source: str):
    """An optional package, or one line that says how to get it."""
    try:
        return __import__(package)
    except ImportError:
        raise DataError(f"{source} needs {package}, which is missing: pip install {package}") from None


def kind_of(kind) -> str:
    """An arrow type -> image, text, number or other."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_list(kind) or types.is_large_list(kind):
        inner = kind_of(kind.value_type)
        return inner if inner in ("image", "text") else "other"
    if types.is_struct(kind):
        is_image = any(f.name == "bytes" and kind_of(f.type) == "image" for f in kind)
        return "image" if is_image else "other"
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "image"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind):
        return "text"
    return "number" if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) else "other"


# --- Parquet files -----------------------------------------------------------------------------------------------


def parquet_files(folder: Path, split: str | None) -> tuple[str, list[Path]]:
    """The split's name and its files: `train-00000-of-00002.parquet` is of train, `testmini.parquet` of testmini."""
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise DataError(f"{folder}: no .parquet file in this folder")
    if len(places := sorted({str(f.parent) for f in files})) > 1:
        raise DataError(f"{folder}: parquet files in several folders; name one of {', '.join(places)}")
    splits: dict[str, list[Path]] = {}
    for file in files:
        shard = SHARD.fullmatch(file.stem)
        splits.setdefault(shard["split"] if shard else file.stem, []).append(file)
    split = choose_split(str(folder), list(splits), split)
    return split, splits[split]


def choose_split(source: str, there_are: list[str], wanted: str | None) -> str:
    """The split asked for; where none is, the only one or `train`."""
    if wanted is None and (len(there_are) == 1 or "train" in there_are):
        return there_are[0] if len(there_are) == 1 else "train"
    if wanted not in there_are:
        lacks = "there is no split `train`" if wanted is None else f"there is no split {wanted!r}"
        raise DataError(f"{source}: {lacks}, but {', '.join(there_are)}")
    return wanted


class ParquetRows:
    """The rows of parquet files of one schema, one after the other."""

    def __init__(self, paths: list[Path], source: str, name: str):
        need("pyarrow", source)
        self.source, self.name, self.paths = source, name, paths
        self.files = [self.open(path) for path in paths]
        schema = self.files[0].schema_arrow
        for path, file in zip(paths, self.files, strict=True):
            if file.schema_arrow.names != schema.names:
                raise DataError(f"{path}: its columns differ from those of {paths[0].name}")
        self.kinds: dict[str, str | None] = {f.name: kind_of(f.type) for f in schema}
        self.columns = list(self.kinds)
        self.groups = [(f, g) for f, file in enumerate(self.files) for g in range(file.num_row_groups)]
        self.starts, total = [], 0  # the first row of each group
        for f, g in self.groups:
            self.starts.append(total)
            total += self.files[f].metadata.row_group(g).num_rows
        self.length = total
        self.kept: OrderedDict[int, object] = OrderedDict()  # latest last
        self.lock = threading.Lock()  # a file has one reader at a time

    @staticmethod
    def open(path: Path):
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.ParquetFile(path)  # not mapped: a file cut meanwhile is an error, not a crash
        except FileNotFoundError:
            raise DataError(f"{path}: no such file") from None
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path}: not a whole parquet file ({first_line(error)})") from None

    def keep(self, columns: list[str]) -> None:
        self.columns = columns

    def cells(self, names: tuple[str, ...]) -> Iterable[list]:
        for g in range(len(self.groups)):
            try:
                rows = self.read(g, list(names)).to_pylist()
            except (BadRow, UnicodeDecodeError):
                rows = []
            count = (self.starts + [self.length])[g + 1] - self.starts[g]
            yield from ([row[n] for n in names] for row in rows or [dict.fromkeys(names)] * count)

    def where(self, index: int) -> str:
        return f"{self.name} row {index + 1}"

    def default_id(self, index: int) -> str:
        return f"{self.name}-{index + 1}"

    def folder(self, index: int) -> Path:
        return self.paths[self.groups[bisect_right(self.starts, index) - 1][0]].parent

    def __len__(self):
        return self.length

    def blocks(self) -> list[tuple[range, int]]:
        """The rows of each group and, about, its bytes in memory."""
        ends = [*self.starts[1:], self.length]
        return [
            (range(a, b), int(self.growth * self.stored(g)))
            for g, (a, b) in enumerate(zip(self.starts, ends, strict=True))
        ]

    def stored(self, group: int) -> int:
        """Bytes of a group in its file, before compression."""
        file, g = self.groups[group]
        return self.files[file].metadata.row_group(g).total_byte_size

    @cached_property
    def growth(self) -> float:
        """Bytes in memory for one in the file, where what is repeated may stand once: as the first group has it."""
        try:
            return self.group(0).nbytes / max(1, self.stored(0))
        except BadRow:
            return 1.0

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.length:
            raise IndexError(index)
        group = bisect_right(self.starts, index) - 1
        try:
            return self.group(group).slice(index - self.starts[group], 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            raise BadRow(f"{self.where(index)}: not UTF-8 ({error})") from None

    def group(self, group: int):
        """A row group, from the latest ones or from its file."""
        with self.lock:
            if group in self.kept:
                self.kept.move_to_end(group)
                return self.kept[group]
            table = self.kept[group] = self.read(group, self.columns)
            while len(self.kept) > 1 and sum(t.nbytes for t in self.kept.values()) > KEEP_BYTES:
                self.kept.popitem(last=False)
            return table

    def read(self, group: int, columns: list[str]):
        import pyarrow

        file, g = self.groups[group]
        try:
            return self.files[file].read_row_group(g, columns=columns, use_threads=False)
        except (pyarrow.ArrowException, OSError) as error:
            raise BadRow(
                f"{self.paths[file].name}: row group {g + 1} of {self.files[file].num_row_groups} "
                f"can't be read ({first_line(error)})"
            ) from None


# --- The hub -----------------------------------------------------------------------------------------------------


class HubRows:
    """A split of a data set of the hub, or of one already in its cache: datasets downloads it once."""

    def __init__(self, source: str, split: str | None):
        datasets = need("datasets", source)
        self.source = source
        path, _, config = source.partition(":")
        try:
            splits = datasets.get_dataset_split_names(path, config or None)
        except Exception:  # noqa: BLE001  without a network: a split of the cache can be had, but only by name
            splits = [split or "train"]
        split = choose_split(source, splits, split)
        try:
            self.data = datasets.load_dataset(path, config or None, split=split)
        except Exception as error:  # noqa: BLE001  datasets and the hub raise many kinds
            raise DataError(f"{source}: not a data set that can be loaded from the hub ({first_line(error)})") from None
        self.name = f"{path.split('/')[-1]}-{split}"
        # arrow rows hold pictures as they were stored: nothing is decoded here
        self.data = self.data.with_format("arrow")
        self.kinds: dict[str, str | None] = {f.name: kind_of(f.type) for f in self.data.features.arrow_schema}

    def keep(self, columns: list[str]) -> None:
        self.data = self.data.select_columns(columns)

    def cells(self, names: tuple[str, ...]) -> Iterable[list]:
        rows = self.data.select_columns(list(names))
        return (
            list(row.values()) for start in range(0, len(self), 1000) for row in rows[start : start + 1000].to_pylist()
        )

    def where(self, index: int) -> str:
        return f"{self.name} row {index + 1}"

    def default_id(self, index: int) -> str:
        return f"{self.name}-{index + 1}"

    def folder(self, index: int) -> Path:
        return Path()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index: int) -> dict:
        return self.data[index].to_pylist()[0]


def first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
