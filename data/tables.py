"""Rows of parquet files and of data sets of the Hugging Face hub, by index, in bounded memory.

    ParquetRows([paths])                   pyarrow; row groups are read when a row of theirs is asked for,
                                           and the latest are kept, up to KEEP_BYTES or two groups
    HubRows("owner/name:config", "train")  datasets; rows of its memory-mapped cache. Only this downloads

Pictures stay encoded here: data/images.py decodes them, with its bounds. Both packages are
optional.

Left out: streaming from the hub, other file formats on a disk. Files do not go through datasets:
it streams as fast, but first writes a converted copy of the set, with the answers and with a picture
for each row where rows share one; and a damaged row group, which here costs its rows, ends the load.
"""

import os
import re
import socket
import threading
from bisect import bisect_right
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from common.errors import BadRow, DataError, first_line

KEEP_BYTES = 2**28  # of row groups, as they stand in memory
# the hub's names for files of a split
SHARD = re.compile(r"(?P<split>.+?)-(?P<n>\d{5})-of-(?P<of>\d{5})(-[0-9a-f]+)?")
LISTS = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
BYTES = ("is_binary", "is_large_binary", "is_fixed_size_binary", "is_binary_view")
TEXTS = ("is_string", "is_large_string", "is_string_view", "is_null")
NUMBERS = ("is_integer", "is_floating", "is_decimal")


def need(package: str, source: str):
    """An optional package, or one line that says how to get it."""
    try:
        return __import__(package)
    except ImportError:
        raise DataError(f"{source} needs {package}, which is missing: pip install {package}") from None


def kind_of(kind) -> str:
    """An arrow type -> image, text, number or other."""
    from pyarrow import types

    def one_of(names: tuple[str, ...]) -> bool:
        return any(getattr(types, name)(kind) for name in names if hasattr(types, name))

    if types.is_dictionary(kind):
        kind = kind.value_type
    if one_of(LISTS):
        return kind_of(kind.value_type)
    if types.is_struct(kind):
        is_image = any((f.name, kind_of(f.type)) in (("bytes", "image"), ("path", "text")) for f in kind)
        return "image" if is_image else "other"
    kinds = {"image": BYTES, "text": TEXTS, "number": NUMBERS}
    return next((name for name, types_of_it in kinds.items() if one_of(types_of_it)), "other")


def narrow(schema) -> dict[str, type]:
    """The columns whose floats, alone or in lists, have fewer digits than Python's, and their NumPy
    types."""
    from pyarrow import types

    found = {f.name: f.type.value_type if types.is_list(f.type) else f.type for f in schema}
    few = {name: kind for name, kind in found.items() if types.is_float32(kind) or types.is_float16(kind)}
    return {name: kind.to_pandas_dtype() for name, kind in few.items()}


def as_written(row: dict, narrow: dict[str, type]) -> dict:
    """A float32 0.1 is 0.1, not 0.10000000149011612."""

    def written(cell, kind: type):
        if isinstance(cell, list):
            return [written(one, kind) for one in cell]
        return float(str(kind(cell))) if isinstance(cell, float) else cell

    row.update({name: written(row[name], kind) for name, kind in narrow.items() if name in row})
    return row


# --- Parquet files --------------------------------------------------------------------------------


def parquet_files(folder: Path, split: str | None) -> tuple[str, list[Path]]:
    """The split's name and its files: `train-00000-of-00002.parquet` is of train,
    `testmini.parquet` of testmini."""
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise DataError(f"{folder}: no .parquet file in this folder, and no picture")
    if len(places := sorted({str(f.parent) for f in files})) > 1:
        raise DataError(f"{folder}: parquet files in several folders; name one of {', '.join(places)}")
    splits: dict[str, list[Path]] = {}
    for file in files:
        shard = SHARD.fullmatch(file.stem)
        splits.setdefault(shard["split"] if shard else file.stem, []).append(file)
    split = choose_split(str(folder), list(splits), split)
    shards = [SHARD.fullmatch(file.stem) for file in splits[split]]
    for whole in {shard["of"] for shard in shards if shard}:
        there = {int(shard["n"]) for shard in shards if shard and shard["of"] == whole}
        if missing := sorted(set(range(int(whole))) - there):
            first = f"{split}-{missing[0]:05}-of-{whole}"
            raise DataError(
                f"{folder}: {len(missing)} of {int(whole)} files of {split} are missing, the first: {first}"
            )
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
        self.narrow, self.columns = narrow(schema), list(self.kinds)
        self.groups = [(f, g) for f, file in enumerate(self.files) for g in range(file.num_row_groups)]
        counts = (self.files[f].metadata.row_group(g).num_rows for f, g in self.groups)
        self.starts = [0, *accumulate(counts)]  # the first row of each group, and the end of the last
        self.kept: dict[int, Any] = {}  # tables, latest last
        self.lock = threading.Lock()  # a file has one reader at a time

    @staticmethod
    def open(path: Path):
        import pyarrow
        import pyarrow.parquet

        try:  # not mapped: a file cut meanwhile is an error, not a crash
            return pyarrow.parquet.ParquetFile(path)
        except FileNotFoundError:
            raise DataError(f"{path}: no such file") from None
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path}: not a whole parquet file ({first_line(error)})") from None

    def keep(self, columns: list[str]) -> None:
        self.columns = columns

    def cells(self, names: tuple[str, ...]) -> Iterable[dict]:
        for g, (start, end) in enumerate(pairwise(self.starts)):
            try:
                rows = self.read(g, list(names)).to_pylist()
            except (BadRow, UnicodeDecodeError):
                rows = [{}] * (end - start)
            yield from (as_written(row, self.narrow) for row in rows)

    def where(self, index: int) -> str:
        return f"{self.name} row {index + 1}"

    def default_id(self, index: int) -> str:
        return f"{self.name}-{index + 1}"

    def folder(self, index: int) -> Path:
        file, _ = self.groups[bisect_right(self.starts, index) - 1]
        return self.paths[file].parent

    def __len__(self):
        return self.starts[-1]

    def blocks(self, columns: list[str]) -> list[tuple[range, int]]:
        """The rows of each group and, about, its bytes in memory, of these columns: what it has in
        the file, where a picture that is repeated may stand once, or its rows at the largest size
        that the first, middle or last group has.
        """
        rows = [range(start, end) for start, end in pairwise(self.starts)]
        some = [g for g, its in enumerate(rows) if its]
        each = max(self.row_bytes(g, columns) for g in {some[0], some[len(some) // 2], some[-1]})
        return [(rows[g], max(self.stored_bytes(g, columns), int(len(rows[g]) * each))) for g in some]

    def stored_bytes(self, group: int, columns: list[str]) -> int:
        file, g = self.groups[group]
        found = self.files[file].metadata.row_group(g)
        parts = map(found.column, range(found.num_columns))
        prefixes = tuple(f"{name}." for name in columns)  # `images.list.element.bytes` is of `images`
        return sum(p.total_uncompressed_size for p in parts if f"{p.path_in_schema}.".startswith(prefixes))

    def row_bytes(self, group: int, columns: list[str]) -> float:
        try:
            table = self.group(group).select(columns)
        except BadRow:
            return 0.0
        return table.nbytes / table.num_rows

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        group = bisect_right(self.starts, index) - 1
        try:
            row = self.group(group).slice(index - self.starts[group], 1).to_pylist()[0]
            return as_written(row, self.narrow)
        except UnicodeDecodeError as error:
            raise BadRow(f"{self.where(index)}: not UTF-8 ({error})") from None

    def group(self, group: int):
        """A row group, from the latest ones or from its file."""
        with self.lock:
            table = self.kept.pop(group, None)
            if table is None:
                table = self.read(group, self.columns)
            self.kept[group] = table
            while len(self.kept) > 2 and sum(t.nbytes for t in self.kept.values()) > KEEP_BYTES:
                del self.kept[next(iter(self.kept))]
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


# --- The hub --------------------------------------------------------------------------------------


def in_cache(name: str) -> bool:
    """Whether datasets may have it from before, if only another of its owner's."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(home) / "datasets").expanduser()
    return any(cache.glob(f"{name.split('/')[0]}___*"))


def has_network(seconds: float = 5.0) -> bool:
    """Whether the hub can be asked, by one try. A proxy, which asks for us, is trusted."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    if getproxies():
        return True
    found = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    port = found.port or (80 if found.scheme == "http" else 443)
    reached = threading.Event()

    def ask() -> None:
        try:
            socket.create_connection((found.hostname or "", port), seconds).close()
            reached.set()
        except OSError:
            pass

    asks = threading.Thread(target=ask, daemon=True)  # looking a name up has no bound of its own
    asks.start()
    asks.join(seconds)
    return reached.is_set()


class HubRows:
    """A split of a data set of the hub, or of one already in its cache: datasets downloads it
    once."""

    def __init__(self, source: str, split: str | None):
        self.source = source
        path, _, config = source.partition(":")
        # before the import, which takes a while
        if find_spec("datasets") and not in_cache(path) and not has_network():
            raise DataError(f"{source}: no such folder here, and no network to ask the hub for it")
        datasets = need("datasets", source)
        try:
            splits = datasets.get_dataset_split_names(path, config or None)
        except Exception:  # noqa: BLE001  without a network: a split of the cache can be had, but only by name
            splits = [split or "train"]
        split = choose_split(source, splits, split)
        try:
            self.data = datasets.load_dataset(path, config or None, split=split)
        except Exception as error:  # noqa: BLE001  datasets and the hub raise many kinds
            raise DataError(
                f"{source}: not a data set that can be loaded from the hub ({first_line(error)})"
            ) from None
        self.name = f"{path.split('/')[-1]}-{split}"
        # arrow rows hold pictures as they were stored: nothing is decoded here
        self.data = self.data.with_format("arrow")
        schema = self.data.features.arrow_schema
        self.kinds: dict[str, str | None] = {f.name: kind_of(f.type) for f in schema}
        self.narrow = narrow(schema)

    def keep(self, columns: list[str]) -> None:
        self.data = self.data.select_columns(columns)

    def cells(self, names: tuple[str, ...]) -> Iterable[dict]:
        rows = self.data.select_columns(list(names))
        return (
            as_written(row, self.narrow)
            for start in range(0, len(self), 1000)
            for row in rows[start : start + 1000].to_pylist()
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
        return as_written(self.data[index].to_pylist()[0], self.narrow)
