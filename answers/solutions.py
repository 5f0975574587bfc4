r"""Solutions of a question, however they are joined: `1, 2`, `{1, 2}`, `x = 1 or x = 2`, `x ∈ {1, 2}`.

- Their name is dropped, where they have one in common: x = 1 or x = 2. `x=5, y=3` keeps its names and is also
  (x, y) = (5, 3); the pair without names is forgiven what it leaves out. Several of them are tuples:
  x=1, y=2 or x=2, y=1. AB = 5, CD = 6 and (a) 5, (b) 6 keep theirs; x_1 = 5, x_2 = 6 are solutions of x.
- Choices and claims that are joined by `and` aren't joined by `or`.
- `±3` stands for two solutions.
- An inequality in one name is its interval, |x-1| < 2 too; two of them that are met together are what they
  have in common. What leaves out numbers is what is left out: x ≠ 4, ℝ∖{4}, (-∞, 4) ∪ (4, ∞).
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from answers.calculator import at_points, same_equation
from answers.same import Compare, Same
from answers.statements import NAME

MAX_ITEMS = 12  # of solutions whose order doesn't matter
EXCLUDED = "≠"  # the name of what an answer leaves out

Item = tuple[str, str]  # name or "", value

_NAME = r"[A-Za-zα-ω](?:_[A-Za-z0-9])?"
_REALS = r"(?:\\mathbb ?\{? ?R ?\}?|\(-∞, ?\+?∞\)|R(?![A-Za-z]))"
_JOINT = r"[,;] ?(?:(?:and|or) )?|∪| (?:and|or) | ?(?:∨|∧|\\lor|\\vee|\\land|\\wedge)(?![A-Za-z]) ?"
_EITHER = re.compile(r"∪|∨|or|vee")
_BEHIND_VALUE = re.compile(r"(?<=[\w)}]) ?±")  # 5-2 would be a range
_BOTH = re.compile(r"∧|and|wedge")
_CLAIM = re.compile(r"¬? ?[A-Za-z]|[IV]{1,3}")
_CHOICE = re.compile(r"[A-J]|[IV]{1,3}")
_UNKNOWN = "txyz"  # x_1 = 1, x_2 = 2 are solutions of x; a_1 = 1, a_2 = 2 keep their names
_CUT = re.compile(rf"([(\[{{⦃⟨])|([)\]}}⦄⟩])|(?:{_JOINT})")
_MEMBER = re.compile(rf"({_NAME}|\([^()]*\)) ?∈ ?(.+)")
_SUCH_THAT = re.compile(rf"[⦃{{] ?{_NAME} ?(?:∈ ?{_REALS} ?)?[|:] ?(.+)[⦄}}]")
_EXCEPT = re.compile(rf"{_REALS} ?(?:\\setminus|\\backslash|∖|\\|-) ?[⦃{{](.+)[⦄}}]")
_ASSIGNED = re.compile(rf"({_NAME}) ?= ?([^=<>≤≥≠]+)")
_ASSIGNED_IN_LIST = re.compile(  # AB = 5; ∠A = 30°; mean: 5; (A) 5
    r"((?:m? ?[∠△⌒] ?)?[A-Z]{1,4}|m? ?[∠△⌒] ?[0-9]|(?:the )?[a-z]{3,}(?: [a-z]+){0,3}?)"
    r"(?: ?[=:] ?| is | are )(?![A-Z]{2,4}\Z)([^=<>≤≥≠:]+(?::[^=<>≤≥≠:]+)?)"
)
_LINE = re.compile(r" ?[A-Z]{2,4} ?")
_LABELLED = re.compile(r"(?:\(([A-Ja-j]|[1-9](?=\) )|i{1,3}|i?v)\)|([A-J])[.):]) ?(\S.*)")
_TUPLE_ASSIGNED = re.compile(r"\(([^()=]+)\) ?= ?\((.+)\)")
_UNEQUAL = re.compile(rf"(?:{_NAME}) ?≠ ?([^=<>≤≥≠]+)")
_COMPARED = re.compile(r"([^<>≤≥]+)([<>≤≥])([^<>≤≥]+)(?:([<>≤≥])([^<>≤≥]+))?")
_ONE_NAME = re.compile(rf" ?({_NAME}) ?")
_SIZE = re.compile(rf" ?\| ?({_NAME})(?: ?([-+]) ?([^|]+))? ?\| ?")
_INEQUALITY = re.compile("[<>≤≥]")
_MIRROR = str.maketrans("<>≤≥", "><≥≤")


def same_solutions(a: str, b: str, same: Compare) -> Same:
    """How far all solutions agree, where `same` says it of two values."""
    if _INEQUALITY.search(a) and _INEQUALITY.search(b) and same_equation(a, b):
        return Same.YES
    ours, theirs = solutions(a), solutions(b)
    if len(ours) != len(theirs):
        return _same_tuple(ours, theirs, same)
    if len(ours) > MAX_ITEMS or is_union(a, ours) != is_union(b, theirs):
        return Same.NO
    if len(ours) > 1 and {_joint(a, ours), _joint(b, theirs)} == {"and", "or"}:
        return Same.NO
    named, bare = (ours, theirs) if all(name for name, _ in ours) else (theirs, ours)
    if len(ours) == 1:
        return same(ours[0][1], theirs[0][1]) if ours[0][0] == theirs[0][0] else Same.NO
    if len({name for name, _ in named}) == len(named) and not any(name for name, _ in bare):
        found = [same(x, y) for (_, x), (_, y) in zip(ours, theirs, strict=True)]
        return min(Same.FORGIVEN, *found)  # AB = 5, CD = 6 and 5, 6
    # both ways, so that it is symmetric
    return max(_each_in(ours, theirs, same), _each_in(theirs, ours, same))


def _joint(text: str, items: Sequence[Item]) -> str:
    """How names are joined, which makes a difference of choices and claims: A and C, p or q."""
    if "=" in text or not all(_CLAIM.fullmatch(value) for _, value in items):
        return ""
    joints = " ".join(_pieces(text)[1])
    choices = all(_CHOICE.fullmatch(value) for _, value in items)
    return "or" if _EITHER.search(joints) else "and" if _BOTH.search(joints) or choices else ""


def _same_tuple(ours: tuple[Item, ...], theirs: tuple[Item, ...], same: Compare) -> Same:
    """x=5, y=3 and (5, 3)."""
    named, alone = (ours, theirs) if len(theirs) == 1 else (theirs, ours)
    names = [name for name, _ in named]
    if len(alone) != 1 or alone[0][1][:1] != "(" or not 1 < len(names) == len(set(names)) or "" in names:
        return Same.NO
    return min(
        Same.FORGIVEN, same("({})".format(", ".join(value for _, value in sorted(named))), alone[0][1])
    )


def _each_in(ours: tuple[Item, ...], theirs: tuple[Item, ...], same: Compare) -> Same:
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


# --- what stands in an answer -----------------------------------------------------------------------


@lru_cache(maxsize=8192)  # each answer is compared with all the others
def solutions(text: str) -> tuple[Item, ...]:
    """The solutions in the order they stand."""
    text = text.strip()
    if match := _SUCH_THAT.fullmatch(text):
        text = match[1].strip()
    pieces, joints = _pieces(text)
    items: list[Item] = []
    for piece in pieces:
        if len(pieces) > 1 and (named := _named(piece)):
            items.append(named)
            continue
        items += _items(piece, len(pieces) == 1 or "∪" in joints, bool(items) and items[-1][0] == EXCLUDED)
    if len(items) == 2 == len(pieces) and not _EITHER.search(joints[0]):
        items = _in_common(*items) or items
    items = _tuples(items)
    names = {name for name, _ in items if name and name != EXCLUDED}
    bases, ends = ({name.partition("_")[i] for name in names} for i in (0, 2))
    if len(names) <= 1 or (len(bases) == 1 and bases < set(_UNKNOWN) and not any(map(str.isalpha, ends))):
        items = [(name if name == EXCLUDED else "", value) for name, value in items]  # x_1 = 1, x_2 = 2
    return tuple([(EXCLUDED, value) for value in _gaps(items)] or items)


def _named(piece: str) -> Item | None:
    """What a list says of a figure, of a word or of a part of the question."""
    if match := _ASSIGNED_IN_LIST.fullmatch(piece):
        return match[1].removeprefix("the ").replace(" ", ""), match[2].strip()
    left, sign, right = piece.partition("=")
    if (
        sign
        and NAME.fullmatch(left.strip())
        and not _ASSIGNED.fullmatch(piece)
        and not _LINE.fullmatch(right)
    ):
        return left.replace(" ", ""), right.strip()  # P(A) = 1/2
    if match := _LABELLED.fullmatch(piece):
        return match[1] or match[2], match[3]
    return None


def _tuples(items: list[Item]) -> list[Item]:
    """x=1, y=2 or x=2, y=1 as (1, 2), (2, 1)."""
    groups: list[dict[str, str]] = [{}]
    for name, value in items:
        if name in groups[-1]:
            groups.append({})
        groups[-1][name] = value
    names = sorted(groups[0])
    if len(groups) == 1 or len(names) == 1 or "" in names or any(sorted(group) != names for group in groups):
        return items
    return [("", "({})".format(", ".join(group[name] for name in names))) for group in groups]


def is_union(text: str, items: Sequence[Item]) -> bool:
    """Of intervals, which a list of points is not."""
    relations = "∪" in text or bool(_INEQUALITY.search(text))
    return relations and len(items) > 1 and any(value[:1] in ("(", "[") for _, value in items)


def cut(text: str) -> list[str]:
    return _pieces(text)[0]


def _pieces(text: str) -> tuple[list[str], list[str]]:
    """What is joined, and by what, outside all brackets."""
    pieces, joints, start, depth = [], [], 0, 0
    for match in _CUT.finditer(text):
        depth += (match.lastindex == 1) - (match.lastindex == 2)
        if depth == 0 and not match.lastindex:
            pieces.append(text[start : match.start()].strip())
            joints.append(match[0])
            start = match.end()
    return [*pieces, text[start:].strip()], joints


def _items(piece: str, open_set: bool, excludes: bool) -> list[Item]:
    """Of one piece, `open_set` where a set stands for its elements, `excludes` after x ≠ 1."""
    name = ""
    if match := _MEMBER.fullmatch(piece):
        name, piece = match[1], match[2].strip()
        if not open_set and re.fullmatch(_REALS, piece):
            return []  # x ∈ ℝ, x ≠ 4
    if match := _EXCEPT.fullmatch(piece):
        return [(EXCLUDED, value) for value in cut(match[1])]
    if (match := _UNEQUAL.fullmatch(piece)) or (excludes and not re.search("[=<>≤≥∈]", piece)):
        return [(EXCLUDED, match[1] if match else piece)]
    if match := _TUPLE_ASSIGNED.fullmatch(piece):
        names, values = cut(match[1]), cut(match[2])
        if "±" in piece:
            return [("", sign) for sign in _both_signs(f"({match[2]})")]
        if len(names) == len(values) and all(map(_ONE_NAME.fullmatch, names)):
            return list(zip(names, values, strict=True))
    if match := _ASSIGNED.fullmatch(piece):
        name, values = match[1], [match[2]]
    elif open_set and len(piece) > 2 and piece[0] + piece[-1] in ("⦃⦄", "{}") and _is_closed(piece):
        values = list(dict.fromkeys(cut(piece[1:-1])))
    else:
        of, values = _intervals(piece)
        name = of or name
    return [(name, sign) for value in values for sign in _both_signs(value)]


def _both_signs(value: str) -> list[str]:
    if value.count("±") != 1:
        return [value]
    return [value.replace("±", "+"), _BEHIND_VALUE.sub("+-", value, count=1).replace("±", "-")]


def _is_closed(text: str) -> bool:
    """Whether its first bracket is closed by its last one: not {1}+{2}."""
    depth = 0
    for match in _CUT.finditer(text):
        depth += (match.lastindex == 1) - (match.lastindex == 2)
        if depth == 0:
            return match.end() == len(text)
    return False


# --- intervals ----------------------------------------------------------------------------------------


def _intervals(text: str) -> tuple[str, list[str]]:
    """The name in an inequality and its intervals; anything else as it is, with `<` for `>`."""
    match = _COMPARED.fullmatch(text)
    if not match:
        return "", [text]
    left, sign, middle, second, right = match.groups()
    if second:
        if not (name := _ONE_NAME.fullmatch(middle)) or (sign in "<≤") != (second in "<≤"):
            return "", [text]
        if sign in ">≥":
            left, sign, second, right = right, second.translate(_MIRROR), sign.translate(_MIRROR), left
        return name[1], [_interval(left, sign, second, right)]
    if sign in ">≥":
        left, sign, middle = middle, sign.translate(_MIRROR), left
    below, above = _ONE_NAME.fullmatch(left), _ONE_NAME.fullmatch(middle)
    if below and not above:
        return below[1], [_interval("-∞", "<", sign, middle)]
    if above and not below:
        return above[1], [_interval(left, sign, "<", "∞")]
    if (size := _SIZE.fullmatch(left)) and _is_less("0", middle):
        return size[1], [_interval(_beside(size, "-", middle), sign, sign, _beside(size, "+", middle))]
    if (size := _SIZE.fullmatch(middle)) and _is_less("0", left):
        lower, upper = _beside(size, "-", left), _beside(size, "+", left)
        return size[1], [_interval("-∞", "<", sign, lower), _interval(upper, sign, "<", "∞")]
    return "", [f"{left.strip()}{sign}{middle.strip()}"]


def _interval(left: str, sign: str, second: str, right: str) -> str:
    opened, closed = "[" if sign in "≤≥" else "(", "]" if second in "≤≥" else ")"
    return f"{opened}{left.strip()}, {right.strip()}{closed}"


def _beside(size: re.Match, sign: str, radius: str) -> str:
    """The ends of |x - c| < r: c - r and c + r."""
    _, shift, centre = size.groups("")
    return f"{'-' if shift == '+' else ''}({centre}){sign}({radius})" if centre else f"{sign}({radius})"


def _is_less(a: str, b: str) -> bool:
    """Of two real numbers; not of formulas with names, nor of what can't be computed."""
    values = [set(at_points(text) or ()) for text in (a, b)]
    x, y = (complex(*found) if len(found) == 1 else 1j for found in values)
    return x.imag == y.imag == 0 and x.real < y.real


def _in_common(a: Item, b: Item) -> list[Item]:
    """x > 1 and x < 3 is (1, 3); nothing where they have nothing in common: x < 1, x > 3 are a union."""
    if a[0] != b[0] or not a[0]:
        return []
    lower, upper = (a[1], b[1]) if a[1].startswith("(-∞,") else (b[1], a[1])
    if not lower.startswith("(-∞,") or not upper.endswith(" ∞)"):
        return []
    left, right = _ends(upper)[0], _ends(lower)[1]
    return [(a[0], f"{upper[0]}{left}, {right}{lower[-1]}")] if _is_less(left, right) else []


def _ends(interval: str) -> list[str]:
    return cut(interval[1:-1])


def _gaps(items: list[Item]) -> list[str]:
    """The numbers between open intervals that cover all the others: 4 of (-∞, 4) ∪ (4, ∞)."""
    spans = [_ends(value) for name, value in items if not name and value[:1] + value[-1:] == "()"]
    if not 1 < len(spans) == len(items) or any(len(ends) != 2 for ends in spans):
        return []
    after = {left: right for left, right in spans}
    gaps, at = [], after.pop("-∞", "")
    while at in after:
        gaps.append(at)
        at = after.pop(at)
    return gaps if at in ("∞", "+∞") and len(gaps) == len(items) - 1 else []
