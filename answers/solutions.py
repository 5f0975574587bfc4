"""Solutions of a question, however they are joined: `1, 2`, `{1, 2}`, `x = 1 or x = 2`, `1 < x < 2`."""

import re

from answers.same import Compare, Same

MAX_ITEMS = 12  # of solutions whose order doesn't matter

_CUT = re.compile(r"([(\[{⦃⟨])|([)\]}⦄⟩])|[,;] ?(?:(?:and|or) )?|∪| (?:and|or) ")
_ASSIGNED = re.compile(r"([A-Za-zα-ω](?:_[A-Za-z0-9])?) ?= ?([^=<>≤≥≠]+)")
_COMPARED = re.compile(r"([^<>≤≥]+)([<>≤≥])([^<>≤≥]+)(?:([<>≤≥])([^<>≤≥]+))?")
_ONE_NAME = re.compile(r" ?[A-Za-zα-ω] ?")
_MIRROR = str.maketrans("<>≤≥", "><≥≤")


def same_solutions(a: str, b: str, same: Compare) -> Same:
    """How far all solutions agree, where `same` says it of two values."""
    ours, theirs = solutions(a), solutions(b)
    if len(ours) != len(theirs) or len(ours) > MAX_ITEMS or is_union(a, ours) != is_union(b, theirs):
        return Same.NO
    if len(ours) == 1:
        return same(ours[0][1], theirs[0][1]) if ours[0][0] == theirs[0][0] else Same.NO
    # both ways, so that it is symmetric
    return max(_each_in(ours, theirs, same), _each_in(theirs, ours, same))


def _each_in(ours: list[tuple[str, str]], theirs: list[tuple[str, str]], same: Compare) -> Same:
    """The least agreement, where each finds its own."""
    left, least = list(theirs), Same.YES
    for name, value in ours:
        found = [same(value, other) if name == its else Same.NO for its, other in left]
        best = max(found)
        if not best:
            return Same.NO
        least = min(least, best)
        del left[found.index(best)]
    return least


def solutions(text: str) -> list[tuple[str, str]]:
    """(name or "", value) of each solution, in the order they stand."""
    text = text.strip()
    if text[:1] + text[-1:] in ("⦃⦄", "{}") and len(text) > 2 and len(cut(text[1:-1])) > 1:
        text = text[1:-1]
    pieces, items = cut(text), []
    for piece in pieces:
        named = _ASSIGNED.fullmatch(piece)
        name, value = (named[1], named[2]) if named else ("", interval(piece))
        parts = [value.replace("±", "+"), value.replace("±", "-")] if value.count("±") == 1 else [value]
        items += [(name, part) for part in parts]
    names = {name[:1] for name, _ in items if name}
    if len(names) <= 1:
        items = [("", value) for _, value in items]  # x = 1 or x = 2; x_1 = 1, x_2 = 2
    return items


def cut(text: str) -> list[str]:
    pieces, start, depth = [], 0, 0
    for match in _CUT.finditer(text):
        depth += (match.lastindex == 1) - (match.lastindex == 2)
        if depth == 0 and not match.lastindex:
            pieces.append(text[start : match.start()].strip())
            start = match.end()
    return [*pieces, text[start:].strip()]


def is_union(text: str, items: list) -> bool:
    """Of intervals, which a list of points is not."""
    return "∪" in text or (len(items) > 1 and bool(set("<>≤≥") & set(text)))


def interval(text: str) -> str:
    """The interval of an inequality in one name; anything else as it is."""
    name, inside, rest = text.partition("∈")
    if inside and _ONE_NAME.fullmatch(name):
        return rest.strip()
    match = _COMPARED.fullmatch(text)
    if not match:
        return text
    left, sign, middle, second, right = match.groups()
    if second:
        if not _ONE_NAME.fullmatch(middle) or (sign in "<≤") != (second in "<≤"):
            return text
        if sign in ">≥":
            left, sign, second, right = right, second.translate(_MIRROR), sign.translate(_MIRROR), left
    elif _ONE_NAME.fullmatch(left):
        left, sign, second, right = ("-∞", "<", sign, middle) if sign in "<≤" else (middle, sign, "<", "∞")
    elif _ONE_NAME.fullmatch(middle):
        left, sign, second, right = (left, sign, "<", "∞") if sign in "<≤" else ("-∞", "<", sign, left)
    else:
        return text
    opened, closed = "[" if sign in "≤≥" else "(", "]" if second in "≤≥" else ")"
    return f"{opened}{left.strip()}, {right.strip()}{closed}"
