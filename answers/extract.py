r"""From a response to the answer in it: what stands in the last box.

extract_answer(r"so \boxed{\frac{1}{2}}")  ->  r"\frac{1}{2}"
"""

import re

_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\[\\{}]|(\{)|(\})")  # escaped ones in neither group


def extract_answer(text: str) -> str | None:
    r"""Content of the last complete `\boxed{...}` (innermost, if nested); None where there is none
    or it is empty."""
    end = text.rfind("}") + 1  # nothing closes behind the last brace
    at = text.rfind("\\boxed", 0, end)
    while at >= 0:
        box = _BOX.match(text, at, end)
        if box:
            close = closing_brace(text, box.end(), end)
            if close >= 0:
                return text[box.end() : close].strip() or None
            end = (
                at  # this box never closes, so none that opens before it closes behind it: time stays linear
            )
        at = text.rfind("\\boxed", 0, at)
    return None


def closing_brace(text: str, start: int, end: int) -> int:
    """Index of the brace that closes a group whose content starts at `start`; -1 if none does
    before `end`."""
    depth = 1
    for match in _BRACE.finditer(text, start, end):
        depth += (match.lastindex == 1) - (match.lastindex == 2)
        if depth == 0:
            return match.start()
    return -1
