"""Where a picture is -> the picture as a data URI, small.

/data/q1.png        a file
tiny-train-17       a built-in question, drawn again
train row 17        a row of a run's parquet file or hub data set, read again
"""

import base64
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from data import load
from data.images import open_image

SIDE = 256  # pixels
PLAIN_BYTES = 60_000  # a larger PNG gets a palette
ALL_BYTES = 8_000_000  # of a report's pictures
BUILT_IN = re.compile(r"tiny-(\w+)-(\d{1,15})")
A_ROW = re.compile(r".* row (\d{1,15})", re.DOTALL)


class Picture(NamedTuple):
    uri: str
    width: int
    height: int


def small(image: Image.Image) -> Picture:
    """At most SIDE wide and high, as PNG."""
    image = image.convert("RGB")
    image.thumbnail((SIDE, SIDE))
    data = png(image)
    if len(data) > PLAIN_BYTES:
        data = png(image.quantize(128))
    return Picture("data:image/png;base64," + base64.b64encode(data).decode(), *image.size)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def leaves(source) -> Iterator:
    for one in getattr(source, "sources", [source]):
        yield from leaves(one) if one is not source else [one]


class Album:
    """The pictures of one report."""

    def __init__(self) -> None:
        self.room = ALL_BYTES
        self.found: dict[tuple, Picture | None] = {}
        self.opened: dict[tuple, list] = {}

    def pictures(self, places: Sequence[str], source: str | list[str], split: str) -> list[Picture | None]:
        """Of a question: None where one can't be had, or there is no more room."""
        keys = [(place, places[:n].count(place), str(source)) for n, place in enumerate(places)]
        for key in keys:
            if key not in self.found:
                picture = None
                with suppress(Exception):  # data that is gone or has changed is no reason to have no report
                    picture = small(self.image(key[0], key[1], source, split)) if self.room > 0 else None
                self.found[key] = picture
                self.room -= len(picture.uri) if picture else 0
        return [self.found[key] for key in keys]

    def image(self, place: str, number: int, source: str | list[str], split: str) -> Image.Image:
        """`number`: of the pictures of one place."""
        if drawn := BUILT_IN.fullmatch(place):
            return self.sources("tiny", drawn[1])[0][int(drawn[2])].images[number]
        if Path(place).is_file():
            return open_image(place)
        if not (row := A_ROW.fullmatch(place)):
            raise FileNotFoundError(place)
        index = int(row[1]) - 1
        whole = next(s for s in self.sources(source, split) if index < len(s) and s.where(index) == place)
        return whole[index].images[number]

    def sources(self, source: str | list[str], split: str) -> list:
        """What `source` is made of; opened once, and none where that failed."""
        key = str(source), split
        if key not in self.opened:
            self.opened[key] = []
            self.opened[key] = list(leaves(load(source, split)))
        return self.opened[key]
