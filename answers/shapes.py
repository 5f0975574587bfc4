"""Answers of several parts that keep their places: times, ratios, tuples, vectors, matrices."""

import re

from answers.same import Compare, Same
from answers.solutions import cut

MAX_CELLS = 144

_TIME = re.compile(r"0?([0-9]{1,2}:[0-5][0-9])(?: ?([ap])\.?m\.?)?", re.IGNORECASE)
_RATIO = re.compile(r"[0-9]+(?: ?: ?[0-9]+)+")
_MATRIX = re.compile(r"\\begin\{[pb]?matrix\}(.*)\\end\{[pb]?matrix\}")


def same_shape(a: str, b: str, same: Compare) -> Same:
    """Times, ratios, tuples and matrices, each compared in its own way."""
    if (ours := _TIME.fullmatch(a)) and (theirs := _TIME.fullmatch(b)):
        (time, half), (other, other_half) = ours.groups(""), theirs.groups("")
        if time != other or (half.lower() != other_half.lower() and half and other_half):
            return Same.NO
        return Same.YES if half.lower() == other_half.lower() else Same.FORGIVEN
    if _RATIO.fullmatch(a) and _RATIO.fullmatch(b):
        p, q = ([int(n) for n in text.split(":")] for text in (a, b))
        proportional = all(x * q[0] == y * p[0] for x, y in zip(p, q, strict=False))
        return Same.YES if len(p) == len(q) and any(p) and proportional else Same.NO
    if a[0] in "([" and a[0] == b[0] and a[-1] == b[-1] and a[-1] in ")]":
        return _same_rows([cut(a[1:-1])], [cut(b[1:-1])], same)
    matrices = _MATRIX.fullmatch(a), _MATRIX.fullmatch(b)
    rows = [[row.split("&") for row in match[1].split(r"\\")] for match in matrices if match]
    return _same_rows(rows[0], rows[1], same) if len(rows) == 2 else Same.NO


def _same_rows(a: list[list[str]], b: list[list[str]], same: Compare) -> Same:
    cells = sum(map(len, a))
    if [*map(len, a)] != [*map(len, b)] or not 1 < cells <= MAX_CELLS:
        return Same.NO
    least = Same.YES
    for row, other in zip(a, b, strict=True):
        for x, y in zip(row, other, strict=True):
            least = min(least, same(x, y)) if least else least
    return least
