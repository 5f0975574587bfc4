"""How the cells of a row are read: pictures, the question with its choices, a chat. Names of columns:
data/columns.py; labels: data/labels.py.
"""

import ast
import io
import json
import re
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import NamedTuple, TypeVar

from PIL import Image

from common.errors import BadRow
from data.images import open_image
from data.prompts import IMAGE_TAG, lists_choices

MOST_CHOICES = 26  # they are lettered
OWN_LETTER = re.compile(  # `A.D.` and `A:B` have none; `A.3` has
    r"\s*(?:\(([A-Za-z])\)\s*|([A-Za-z])(?:\)\s*|[．：、]\s*|[.:](?:\s+|(?=[\d$\\]))))(.*\S.*)", re.DOTALL
)
PICTURE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
LONGEST_PATH = 4096
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # two letters or more: `C:` is a drive
NUMBERED_TAG = re.compile(r"<image[ _]?(\d{1,3})>")
_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*)"""
LIST = re.compile(rf"\s*\[\s*(?:{_ITEM}\s*(?:,\s*{_ITEM}\s*)*(?:,\s*)?)?\]\s*", re.DOTALL)
ESCAPED = re.compile(r"""\\(?:[\\'"/]|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[ntr](?![A-Za-z])|)""")

T = TypeVar("T")


# --- Pictures -------------------------------------------------------------------------------------


def read_images(value, column: str | None, folder: Path, root: Path | None = None) -> tuple[Image.Image, ...]:
    """A cell -> decoded pictures: {bytes, path}, bytes, Pillow images or paths beside the file. With a
    `root` no path leaves it."""
    if value is None:
        return ()
    if isinstance(value, str) and column == "images":
        raise BadRow("`images` is a list of paths")
    items = value if isinstance(value, list) else [value]
    return tuple(open_image(image_file(item, column, folder, root)) for item in items)


def as_picture(value, column: str, folder: Path, root: Path | None = None) -> Image.Image:
    """The same of a column of one picture."""
    images = read_images(value, column, folder, root)
    if len(images) != 1:
        raise BadRow(f"`{column}` holds {len(images)} pictures, not one")
    return images[0]


def image_file(item, column: str | None, folder: Path, root: Path | None = None):
    """What open_image can open."""
    if isinstance(item, dict):
        item = item.get("bytes") or item.get("path") or item.get("url")
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
    return folder / item if root is None else within(root, folder, item)


def within(root: Path, folder: Path, name: str) -> Path:
    """The file that a path names beside its rows, or else from `root`. It lies below `root` either way,
    links followed."""
    inside = False
    for start in (folder, root):
        with suppress(OSError, RuntimeError, ValueError):  # links in a circle, names that are none
            place = (start / name).resolve()
            if place.is_relative_to(root.resolve()):
                inside = True
                if place.is_file():
                    return place
    why = "no such image file in" if inside else "it leaves"
    raise BadRow(f"an image is {name[:200]}: {why} --images_root {root}")


def names_pictures(value) -> bool:
    """Whether a cell is the path of a picture, or a list of some."""
    items = value if isinstance(value, list) else [value]
    return bool(items) and all(
        isinstance(i, str) and Path(i[-300:]).suffix.lower() in PICTURE_FILES for i in items
    )


def place_images(texts: list[str], pictures: dict[int, T]) -> tuple[list[str], tuple[T, ...]]:
    """Tags `<image2>`, `<image 2>` -> `<image>`, and the pictures in the tags' order, untagged ones
    first. `pictures` by number; the texts follow one another.

    A number is used once and only where there is such a picture; any other numbered tag stays as
    text: in MathVision one picture shows all that `<image1>` to `<image5>` name.
    """
    waiting, tagged = dict(pictures), []

    def tag(match):
        if (number := int(match[1])) not in waiting:
            return match[0]
        tagged.append(waiting.pop(number))
        return IMAGE_TAG

    placed = [NUMBERED_TAG.sub(tag, text) for text in texts]
    return placed, (*waiting.values(), *tagged)


def place_all(
    question: str, choices: tuple[str, ...], pictures: dict[int, T]
) -> tuple[str, tuple[str, ...], tuple[T, ...]]:
    """The same in a question and its choices, which follow it unless it lists them itself."""
    if lists_choices(question, choices):
        (question,), images = place_images([question], pictures)
        return question, tuple(place_images([c], pictures)[0][0] for c in choices), images
    (question, *listed), images = place_images([question, *choices], pictures)
    return question, tuple(listed), images


# --- Choices --------------------------------------------------------------------------------------


def read_choices(value, column: str | None) -> tuple[str, ...]:
    """A list, one text, {"A": "3", "B": "4"} or {"label": [...], "text": [...]} -> the choices' texts."""
    if value is None or value == "":
        return ()
    texts: list | None = value
    if isinstance(value, dict):
        texts = [text for _, text in named_choices(value, column)]
    elif isinstance(value, str):
        texts = listed_texts(value)
        texts = split_options(value) if texts is None else texts
    read = [as_text(text) for text in texts] if isinstance(texts, list) else [None]
    choices = unlettered([text for text in read if text is not None])
    if len(choices) < len(read):
        raise BadRow(
            f"`{column}` is a list of strings, or one string `A. this; B. that`, or a text for each letter"
        )
    if len(choices) > MOST_CHOICES:
        raise BadRow(f"`{column}` has {len(choices)} choices, more than there are letters")
    return tuple(choices)


def named_choices(value: dict, column: str | None) -> list[tuple[str, object]]:
    """(name, text) of each choice, in the order of the names: A, B, C, or numbers from 0 or 1.

    A name without a text is none: rows of a parquet file share their names.
    """
    labels, texts = value.get("label"), value.get("text")
    if isinstance(labels, list) and isinstance(texts, list) and len(labels) == len(texts):
        value = dict(zip(map(str, labels), texts, strict=True))
    found = sorted(
        ((str(name).strip(), text) for name, text in value.items() if text is not None),
        key=lambda pair: (len(pair[0]), pair[0]),
    )
    names, n = [name for name, _ in found], len(found)
    counted = [[str(i) for i in range(first, n + first)] for first in (0, 1)]
    if names not in ([*ascii_uppercase[:n]], [*ascii_lowercase[:n]], *counted):
        raise BadRow(f"`{column}` has the choices {', '.join(names)[:60] or '(none)'}: name them A, B, C")
    return found


def own_numbers(value) -> tuple[str, ...]:
    """The numbers that a cell itself gives its choices."""
    names = [name for name, _ in named_choices(value, None)] if isinstance(value, dict) else []
    return tuple(names) if names and names[0].isdigit() else ()


def listed_texts(text: str) -> list | None:
    r"""A list of texts and numbers as JSON or Python writes it, ['3', "4"], -> the list; None where it
    is none. Read by a grammar without nesting; nothing is evaluated.

    A backslash that escapes nothing, as in ['\frac12'], is itself: else `\f` would be a form feed.
    """
    if not LIST.fullmatch(text):
        return None
    known = {"\\": "\\\\", "\\/": "/"}
    text = ESCAPED.sub(lambda match: known.get(match[0], match[0]), text.strip())
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return None


def as_text(value) -> str | None:
    """A number as it is written; None for what is neither text nor number."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        return None
    return str(value)


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
    # bounded: each of many spaces would look through all behind it
    for match in re.finditer(rf"(?:^|{before})\s{{0,40}}\(?([A-Z])\s{{0,40}}[.:)．：、]\s*", text):
        # another letter is part of a choice
        (starts if match[1] == chr(65 + len(starts)) else others).append(match)
    if any(0 <= ord(match[1]) - 65 - len(starts) < 4 for match in others):  # A, B, D
        return None
    ends = [*(match.start() for match in starts[1:]), len(text)]
    parts = [text[m.end() : end].strip(" ;；,，\n") for m, end in zip(starts, ends, strict=False)]
    return parts if parts and all(parts) else None


# --- Chats ----------------------------------------------------------------------------------------


class Chat(NamedTuple):
    question: str
    pictures: list  # cells that image_file can read
    reply: str | None
    system: str = ""
    later: int = 0  # pictures that turns behind the question speak of


def read_chat(turns, column: str, labels: bool) -> Chat:
    """Turns {role, content} -> the last of a user, with the pictures of all of them; turns {from, value} ->
    the first, which no other led to. With it the system's turns before and, where labels may be seen, the
    assistant's turn behind. No other is read."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadRow(f"`{column}` is a list of turns {{role, content}}")
    roles = [str(turn.get("role") or turn.get("from")).lower() for turn in turns]
    asked = [n for n, role in enumerate(roles) if role in ("user", "human")]
    if not asked:
        raise BadRow(f"`{column}` has no turn of a user")
    last = len(asked) if turns[asked[0]].get("role") else 1
    said, place = [read_turn(turns[n], column) for n in asked[:last]], asked[last - 1]
    system = [read_turn(turns[n], column)[0] for n in range(place) if roles[n] == "system"]
    end = asked[last] if asked[last:] else len(turns)
    later = range(place + 1, end) if labels else ()
    replies = (read_turn(turns[n], column)[0] for n in later if roles[n] in ("assistant", "gpt"))
    return Chat(
        said[-1][0],
        [picture for _, pictures in said for picture in pictures],
        next(replies, None),
        "\n".join(system),
        sum(str(turns[n].get("value")).count(IMAGE_TAG) for n in asked[last:]),
    )


def read_turn(turn: dict, column: str) -> tuple[str, list]:
    """A turn's text, with `<image>` for each part that is a picture, and the pictures that its parts
    bring."""
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    parts = [{"text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise BadRow(f"`{column}` has a turn that is neither text nor a list of parts {{type, text}}")
    text, pictures = "", []
    for part in parts:
        kind = part.get("type") or ("text" if isinstance(part.get("text"), str) else "image")
        if kind == "text" and isinstance(part.get("text"), str):
            text += part["text"]
        elif kind in ("image", "image_url"):
            text += IMAGE_TAG
            brought = (part.get(name) for name in ("image", "image_url", "bytes", "path", "url"))
            pictures += [p for p in brought if p is not None][:1]
        else:
            raise BadRow(f"`{column}` has a part of type {kind}, which is not read")
    return text, pictures


# --- Other columns --------------------------------------------------------------------------------


def is_plain(value) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    return value is None or isinstance(value, (str, int, float, bool))
