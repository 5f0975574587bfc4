"""Questions: one reader per source, all giving `Example`.

    load("tiny", "train")               the built-in drawn questions (data/figures.py); train has no end
    load("questions.jsonl")             rows {"id", "question", "images", "answer"?, "choices"?}; images are
                                        paths relative to the file. Or a .json file with an array of them,
                                        or a .csv file whose first line names the columns
    load("train.parquet")               columns by name (data/columns.py); pictures as the hub stores them
    load("folder", "train")             a folder of parquet files, as the hub lays them out
    load("photos", need_question=False)     a folder of pictures, to write questions about
    load("owner/name", "train")         a data set of the hub, or "owner/name:config"
    load("mathvista")                   a benchmark: a folder or file of that name here, else the hub's
    load("tiny:validation")             a split by name; also folder:SPLIT, owner/name:config:SPLIT and
                                        owner/name::SPLIT
    load(["one.jsonl", "two.parquet"])  one after the other; each id is preceded by its source's name

A reader strips answers unless it is asked for them (`labels=True`), so a label can't reach training
by accident. `python -m data SOURCE` gives a first look at a source. Parquet needs pyarrow, the hub
datasets; neither is needed for the rest.
"""

import os
import random
import re
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from common.errors import BadRow, DataError
from data import figures, tables
from data.rows import Example, Source, one_by_one
from data.tables import HubRows, ParquetRows, parquet_files
from data.text_files import PictureRows, TextRows, pictures_in

__all__ = ["BadRow", "DataError", "Example", "Several", "Source", "Tiny", "load", "order"]

TINY = Path(__file__).parent / "tiny"  # the built-in base, see programs/build_tiny.py
HELD_OUT = {"test": 1024, "validation": 512}
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(:[\w. -]+)?")
FILES = (".jsonl", ".json", ".csv", ".parquet")
BENCHMARKS = {  # bare name -> (on the hub, the split that is meant)
    "mathvista": ("AI4Math/MathVista", "testmini"),
    "mathverse": ("AI4Math/MathVerse:testmini", "testmini"),
    "mathvision": ("MathLLMs/MathVision", "test"),
    "wemath": ("We-Math/We-Math", "testmini"),
    "chartqa": ("HuggingFaceM4/ChartQA", "test"),
}


class Tiny:
    """The built-in questions. The training split has no end: its length is None."""

    def __init__(self, split: str, labels: bool):
        if split not in figures.SPLITS:
            raise DataError(f"tiny has the splits {', '.join(sorted(figures.SPLITS))}, not {split!r}")
        self.split, self.labels = split, labels
        self.drawn = None if split == "train" else figures.held_out(split, HELD_OUT[split])

    def __len__(self):
        if self.drawn is None:
            raise TypeError("the built-in training questions have no end")
        return len(self.drawn)

    def where(self, index: int) -> str:
        return f"tiny-{self.split}-{index}"

    def has_labels(self) -> bool:
        return True

    @property
    def blocks(self) -> list[tuple[range, int]]:
        return one_by_one(len(self))

    def __getitem__(self, index: int) -> Example:
        drawn = figures.figure(self.split, index) if self.drawn is None else self.drawn[index]
        return Example(
            id=f"tiny-{self.split}-{index}",
            images=(drawn.image(),),
            question=drawn.question,
            answer=drawn.answer if self.labels else None,
            choices=drawn.choices,
            meta={"category": drawn.family},
            pictures=(f"tiny-{self.split}-{index}",),
        )


class Several:
    """Sources one after the other. An id is preceded by its source's name, so that ids of two
    sources differ."""

    def __init__(self, names: Sequence[str], sources: Sequence["Tiny | Source | Several"]):
        stems = [Path(name.replace(":", "-")).stem for name in names]
        self.names = [s if stems.count(s) == 1 else f"{s}.{n}" for n, s in enumerate(stems, 1)]
        self.sources = sources
        try:
            lengths = [len(source) for source in sources]
        except TypeError:
            raise DataError("tiny has no end, so nothing can stand beside it") from None
        self.starts = [sum(lengths[:i]) for i in range(len(lengths))]
        self.length = sum(lengths)

    def __len__(self):
        return self.length

    def part(self, index: int) -> tuple[int, int]:
        """(which source, the row in it)"""
        n = bisect_right(self.starts, index) - 1
        return n, index - self.starts[n]

    def where(self, index: int) -> str:
        n, row = self.part(index)
        return self.sources[n].where(row)

    def has_labels(self) -> bool:
        return any(source.has_labels() for source in self.sources)

    @property
    def blocks(self) -> list[tuple[range, int]]:
        whole = zip(self.starts, self.sources, strict=True)
        return [(range(s + r.start, s + r.stop), size) for s, source in whole for r, size in source.blocks]

    def __getitem__(self, index: int) -> Example:
        n, row = self.part(index)
        example = self.sources[n][row]
        return replace(example, id=f"{self.names[n]}/{example.id}")


def load(
    source: str | Sequence[str],
    split: str | None = None,
    labels: bool = False,
    need_question: bool = True,
    images_root: str = "",
) -> Tiny | Source | Several:
    """A source by name, or several -> examples by index. Raises DataError where there is nothing to
    read.

    Answers are None in every example unless `labels` is set. `split` is used where a source has
    several and names none itself; None is `train`, or the only one. Without `need_question`
    pictures may stand alone: their question is empty. `images_root`: the folder that no path in a row
    may leave, and from which it also may lead.
    """
    if isinstance(source, Path):
        source = str(source)
    if not isinstance(source, str):
        sources = [load(one, split, labels, need_question, images_root) for one in source]
        return sources[0] if len(sources) == 1 else Several(source, sources)
    if images_root and not Path(images_root).is_dir():
        raise DataError(f"--images_root {images_root}: no such folder")
    place, split = with_split(source, split)
    if place == "tiny":
        return Tiny(split or "train", labels)
    if benchmark_of(source) and os.environ.get("RANK", "0") == "0":
        tqdm.write(f"{source} is {place}" + f", split {split}" * (not Path(place).is_file()), file=sys.stderr)
    store = store_of(place, split, need_question, named=":" in source)
    return Source(store, labels, need_question, Path(images_root) if images_root else None)


def store_of(source: str, split: str | None, need_question: bool, named: bool):
    """The rows of a file, a folder or the hub. `named`: with a split or a configuration, which is no typo of
    a folder."""
    path = Path(source)
    if path.suffix.lower() == ".parquet":
        return ParquetRows([path], source, path.stem)
    if path.suffix.lower() in FILES:
        return TextRows(path)
    if path.is_dir():
        pictures = () if any(path.rglob("*.parquet")) else pictures_in(path)
        if pictures and need_question:
            raise DataError(
                f"{source}: a folder of pictures has no questions; "
                f"python -m data.synthesize --mode direct --data {source} --out new.jsonl writes some"
            )
        if pictures:
            return PictureRows(path, pictures)
        split, files = parquet_files(path, split)
        return ParquetRows(files, source, f"{path.resolve().name}-{split}")
    if HUB_ID.fullmatch(source) and not path.exists():
        owner = source.split("/")[0]
        if Path(owner).is_dir() and not named:
            raise DataError(
                f"{source}: no such folder in {owner}; the hub's data set of that name is {source}::train"
            )
        return HubRows(source, split)
    raise DataError(
        f"{source}: a source is `tiny`, a {', '.join(FILES)} file, a folder of parquet files or of pictures, "
        f"one of {', '.join(BENCHMARKS)}, or a hub id owner/name"
    )


def with_split(source: str, split: str | None) -> tuple[str, str | None]:
    """A source that names its split, SOURCE:SPLIT -> both; of a hub id the split is the second
    after a colon. A benchmark's name is the place where it is, and has a split of its own."""
    before, colon, after = source.rpartition(":")
    if name := benchmark_of(source):
        hub, own = BENCHMARKS[name]
        here = (place for place in (name, *(name + kind for kind in FILES)) if Path(place).exists())
        return next(here, hub), after if colon else own
    names_one = before == "tiny" or ":" in before or (Path(before).is_dir() and not Path(source).exists())
    if not (colon and after and names_one):
        return source, split
    return before.rstrip(":"), after


def benchmark_of(source: str) -> str | None:
    """Of a bare name, `mathvista` or `mathvista:SPLIT`."""
    name = source.partition(":")[0]
    return name if name in BENCHMARKS else None


def order(examples: Tiny | Source | Several, seed: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """Endless (position, index) pairs: shuffled by seed, anew each epoch; `start` continues where a
    run stopped.

    The endless built-in split is not shuffled but entered at a place that the seed chooses.
    """
    try:
        size = len(examples)
    except TypeError:
        first = random.Random(f"order {seed}").randrange(2**40)
        while True:
            yield start, first + start
            start += 1
    while True:
        epoch, offset = divmod(start, size)
        for index in shuffled(examples.blocks, random.Random(f"order {seed} {epoch}"))[offset:]:
            yield start, index
            start += 1


def shuffled(blocks: list[tuple[range, int]], rng: random.Random) -> list[int]:
    """Blocks (rows that are read together, bytes in memory) -> every row once, in an order that
    reads no block twice.

    Where all blocks are kept (a tenth is left for what decoding adds) any order will do. Else the
    blocks are shuffled and cut into windows of half of what is kept, so that the next one can come
    in while one is in use, and rows are shuffled within their window.
    """
    everything = sum(size for _, size in blocks)
    most = everything if everything <= 0.9 * tables.KEEP_BYTES else tables.KEEP_BYTES // 2
    if most < everything:
        rng.shuffle(blocks := list(blocks))
    windows: list[list[int]] = [[]]
    room = most
    for rows, size in blocks:
        if size > room and windows[-1]:
            windows.append([])
            room = most
        windows[-1] += rows
        room -= size
    for window in windows:
        rng.shuffle(window)
    return [row for window in windows for row in window]
