r"""Answers of several parts that keep their places: times, ratios, tuples, vectors, matrices, figures.

- A ratio is reduced and may stand for its quotient: 4:6, 2:3 and 2/3.
- A vector is a tuple, a row or a column: (1, 2), ⟨1, 2⟩ and a matrix with one row or one column. Of two
  matrices the shape counts too, but not the brackets; a determinant is none.
- Angle ABC is angle CBA; AB ∥ CD is DC ∥ AB; two similar triangles may both be read from another vertex.
"""

import re
from itertools import combinations

from answers.calculator import same_number
from answers.same import Compare, Same
from answers.solutions import cut

MAX_CELLS = 144
MAX_PARTS = 6  # of a ratio

_TIME = re.compile(r"0?([0-9]{1,2}:[0-5][0-9])(?: ?([ap])\.?m\.?)?", re.IGNORECASE)
_OF_A_TIME = re.compile(r"0[0-9]|.*[ap]\.?m\.?", re.IGNORECASE)  # 3:05 pm
_ANGLE = re.compile(r"∠ ?([A-Z])([A-Z])([A-Z])")
_PLACED = re.compile(r"([^∥⊥∼≅]+)([∥⊥∼≅])([^∥⊥∼≅]+)")
_PLACED_COMMAND = re.compile(r"\\(parallel|perp|sim|cong)(?![A-Za-z])")
_PLACED_SIGNS = {"parallel": "∥", "perp": "⊥", "sim": "∼", "cong": "≅"}
_MATRIX = re.compile(
    r"([^&()\[\]|]*?)[(\[]? ?\\begin ?\{(?:[pb]?|small)(?:matrix|array)\} ?(?:\{[clr| ]*\})?(.*)"
    r"\\end ?\{[a-z]+\} ?[)\]]?( ?\^ ?\{? ?(?:T|\\top|\\intercal) ?\}?)?"
)
_TRANSPOSED = re.compile(r" ?\^ ?\{? ?(?:T|\\top|\\intercal) ?\}?\Z")
_ROW_END = re.compile(r"\\\\ ?(?:\[[0-9a-z. ]*\])?")


_SHAPED = re.compile(r"^[(\[]|⟨|[∠△⌒→∥∦⊥∼≅]|\\(?:begin|parallel|perp|sim|cong)")


def same_shape(a: str, b: str, same: Compare) -> Same:
    """How far two texts agree, where `same` says it of two of their parts."""
    if ":" in a or ":" in b:
        return Same.YES if _same_ratio(a, b) else _same_time(a, b)
    if not (_SHAPED.search(a) and _SHAPED.search(b)):
        return Same.NO
    if (ours := _ANGLE.fullmatch(a)) and (theirs := _ANGLE.fullmatch(b)):
        return Same.YES if ours.groups() == theirs.groups()[::-1] else Same.NO
    if (placed := _placed(a)) and (other := _placed(b)):
        return _same_placed(placed, other, same)
    if a[0] in "([" and a[0] == b[0] and a[-1] == b[-1] and a[-1] in ")]":
        return _same_rows([cut(a[1:-1])], [cut(b[1:-1])], same)
    rows, others = _rows(a), _rows(b)
    if rows and others:
        return _same_rows(rows, others, same)
    vector, other_vector = _vector(a, rows), _vector(b, others)
    return _same_rows([vector], [other_vector], same) if vector and other_vector else Same.NO


# --- ratios and times -----------------------------------------------------------------------------


def _same_ratio(a: str, b: str) -> bool:
    p, q = _ratio(a), _ratio(b)
    if not (p and q) or max(len(p), len(q)) > MAX_PARTS:
        return False
    if len(p) != len(q):  # 4:3 and 4/3
        whole, quotient = (p, q) if len(q) == 1 else (q, p)
        return len(whole) == 2 and len(quotient) == 1 and same_number(_quotient(whole), quotient[0])
    if all(same_number(part, "0") for part in p) or all(same_number(part, "0") for part in q):
        return False
    pairs = combinations(zip(p, q, strict=True), 2)
    return all(same_number(f"({x})*({w})", f"({z})*({y})") for (x, y), (z, w) in pairs)


def _ratio(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(":")]
    return [] if len(parts) > 1 and any(map(_OF_A_TIME.fullmatch, parts)) else parts


def _quotient(ratio: list[str]) -> str:
    return "({})/({})".format(*ratio)


def _same_time(a: str, b: str) -> Same:
    ours, theirs = _TIME.fullmatch(a), _TIME.fullmatch(b)
    if not ours or not theirs:
        return Same.NO
    (time, half), (other, other_half) = ours.groups(""), theirs.groups("")
    if time != other or (half.lower() != other_half.lower() and half and other_half):
        return Same.NO
    return Same.YES if half.lower() == other_half.lower() else Same.FORGIVEN


# --- figures --------------------------------------------------------------------------------------


def _placed(text: str) -> list[str]:
    """The sides of a relation and its sign."""
    match = _PLACED.fullmatch(_PLACED_COMMAND.sub(lambda command: _PLACED_SIGNS[command[1]], text))
    return [part.strip() for part in match.groups()] if match else []


def _same_placed(a: list[str], b: list[str], same: Compare) -> Same:
    """Relations that have no order: AB ∥ CD, △ABC ∼ △DEF."""
    (left, sign, right), (other_left, other_sign, other_right) = a, b
    if sign != other_sign or not (left and right and other_left and other_right):
        return Same.NO
    sides, others = _vertices(left, right), _vertices(other_left, other_right)
    if sides and others:
        return Same.YES if sides in (others, {pair[::-1] for pair in others}) else Same.NO

    def side(x: str, y: str) -> Same:
        is_segment = len(x) == 2 and x.isalpha() and x.isupper()
        return Same.YES if x == y or (is_segment and x == y[::-1]) else same(x, y)

    straight = min(side(left, other_left), side(right, other_right))
    return straight or min(side(left, other_right), side(right, other_left))


def _vertices(left: str, right: str) -> set[tuple[str, str]]:
    """Which vertex of one triangle is which of the other's."""
    ours, theirs = left.removeprefix("△").strip(), right.removeprefix("△").strip()
    are_names = len(ours) == len(theirs) > 2 and (ours + theirs).isalpha() and (ours + theirs).isupper()
    return set(zip(ours, theirs, strict=True)) if are_names else set()


# --- tuples, vectors, matrices --------------------------------------------------------------------


def _rows(text: str) -> list[list[str]]:
    """Of a matrix, with the factor before it; none where the text is no matrix."""
    match = _MATRIX.fullmatch(text) if "\\begin" in text else None
    if not match:
        return []
    factor = match[1].strip().removesuffix("*").strip()
    factor = "-1" if factor == "-" else factor
    rows = [row for row in _ROW_END.split(match[2]) if row.strip()]
    cells = [[f"({factor})*({cell})" if factor else cell.strip() for cell in row.split("&")] for row in rows]
    if match[3] and len(set(map(len, cells))) == 1:
        return [list(column) for column in zip(*cells, strict=True)]
    return cells


def _vector(text: str, rows: list[list[str]]) -> list[str]:
    """The entries of (1, 2), ⟨1, 2⟩, a row or a column."""
    if rows:
        return [row[0] for row in rows] if max(map(len, rows)) == 1 else rows[0] if len(rows) == 1 else []
    text = _TRANSPOSED.sub("", text)
    return cut(text[1:-1]) if text[:1] + text[-1:] in ("()", "⟨⟩") else []


def _same_rows(a: list[list[str]], b: list[list[str]], same: Compare) -> Same:
    cells = sum(map(len, a))
    if [*map(len, a)] != [*map(len, b)] or not 1 < cells <= MAX_CELLS:
        return Same.NO
    least = Same.YES
    for row, other in zip(a, b, strict=True):
        for x, y in zip(row, other, strict=True):
            least = min(least, same(x, y)) if least else least
    return least
