"""HTML and SVG from nested calls. A child or attribute that is not markup already is escaped."""

import html
import unicodedata
from collections.abc import Iterable

VOID = {"meta", "img", "br", "hr", "link"}


class Markup(str):
    """What may stand in a page as it is."""


def visible(text: str) -> str:
    """Control characters, and those that turn the direction of text, as their escapes; line ends stay."""
    if text.isprintable():
        return text
    return "".join(
        c
        if c.isprintable() or c in "\n\t" or unicodedata.category(c) == "Zs"
        else c.encode("unicode_escape").decode()
        for c in text
    )


def escaped(value) -> Markup:
    return value if isinstance(value, Markup) else Markup(html.escape(visible(str(value))))


def join(parts: Iterable) -> Markup:
    return Markup("".join(escaped(part) for part in parts if part is not None))


def el(name: str, /, *children, **attributes) -> Markup:
    """el("a", "text", href="#x", class_="y"); None is no child and no attribute."""
    named = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{named}>")
    return Markup(f"<{name}{named}>{join(children)}</{name}>")
