"""What a label says: the answers in its cell, and the options that they name.

    read_answers(["5", "five"], "answer")           ["5", "five"]
    read_label(["2"], ("cat", "dog"), ...)          B, where the set's labels count options from 1

Options are named by letter or by text, several as `AC`, `A, C` or a list. A label that is the number
of an option says so only by the whole set: whether 1 is the first or the second (`counted_from`). A label
that no option can match is refused: nobody could be right.
"""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from answers import equivalent, extract_answer, option_key
from common.errors import BadRow
from data.cells import as_text, listed_texts

NUMBER = re.compile(r"(\d{1,2})(?:\.0*)?")  # integers beside a missing one may have become floats
BETWEEN = re.compile(r"\\(?:text|mathrm|textbf|mathbf)|[\s(){}\[\]$,;&.]|\b(?:and|AND)\b")


class Count(NamedTuple):
    """How the labels of a set count options: from 0, from 1, or not at all, and then why."""

    first: int | None
    why: str = "write its letter"


# --- A cell ---------------------------------------------------------------------------------------


def read_answers(value, column: str | None) -> list[str]:
    """The answers in a label, out of their <answer> tags or their box: none where it is missing, several
    where it is a list of some.

    A text is a list where it quotes what it lists, "['5', 'five']": "[1, 2]" is an answer, two numbers.
    """
    if isinstance(value, str) and re.search("['\"]", value):
        value = listed_texts(value) or value
    if value is None or is_nan(value):
        return []
    items = [item for item in value if item is not None] if isinstance(value, list) else [value]
    texts = [as_text(item) for item in items if not is_nan(item)]
    if not texts or None in texts:
        raise BadRow(f"`{column}` is a string, a number or a list of them, not {type(value).__name__}")
    return [out_of_its_tags(text) for text in texts if text is not None]


def is_nan(value) -> bool:
    return isinstance(value, float) and math.isnan(value)


def out_of_its_tags(text: str) -> str:
    if tagged := re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL | re.IGNORECASE):
        text = tagged[-1].strip()
    return extract_answer(text) or text


def all_alike(answers: list[str]) -> bool:
    return all(equivalent(answers[0], answer) for answer in answers[1:])


# --- Options --------------------------------------------------------------------------------------


def read_label(
    answers: list[str], choices: tuple[str, ...], numbers: tuple[str, ...], count: Count, column: str | None
) -> str | None:
    """One label: an answer, or of several the letters of the options that they name. `numbers` are those
    that a row gives its own options. Without options the first answer is the label."""
    if not answers or not choices:
        return answers[0] if answers else None
    named = [name_option(answer, choices, numbers, count, column) for answer in answers if answer.strip()]
    if len(named) < 2:
        return named[0] if named else None
    letters = {letter for one in named for letter in (option_key(one, choices) or "").split(", ")}
    return ", ".join(sorted(letters)) if all(len(letter) == 1 for letter in letters) else named[0]


def name_option(
    answer: str, choices: tuple[str, ...], numbers: tuple[str, ...], count: Count, column: str | None
) -> str:
    """An answer as it is where it is an option's letter or text; the letter of a number; several letters
    as `A, C`."""
    letters = letters_of(choices)
    key, number = option_key(answer, choices) or "", as_number(answer)
    if str(number) in numbers:
        return letters[numbers.index(str(number))]
    if number is not None and count.first is not None and not numbers:
        by_number = letters[number - count.first]
        if key in letters and key != by_number:
            raise BadRow(
                f"`{column}` {number} is the text of {key} and, counted from {count.first}, the number of "
                f"{by_number}: write the letter"
            )
        return by_number
    if key in letters:
        return answer
    if (several := several_letters(answer)) and set(several) <= set(letters):
        return ", ".join(several)
    if any(equivalent(answer, choice) for choice in choices):  # two options share it
        return answer
    why = count.why if number is not None else f"write a letter, A to {letters[-1]}, or the text of one"
    raise BadRow(f"`{column}` {' '.join(answer.split())[:40]} is none of the {len(choices)} choices: {why}")


def letters_of(choices: tuple[str, ...]) -> list[str]:
    return [chr(65 + i) for i in range(len(choices))]


def several_letters(answer: str) -> list[str]:
    """`AC`, `A, C`, `(A) and (C)` -> A and C; letters that stand together in their order: `CAB` is a
    word."""
    letters = BETWEEN.sub("", answer)
    together = re.search("[A-Z]{2}", answer.replace("AND", ""))
    if not re.fullmatch("[A-Z]{2,26}", letters) or len(set(letters)) < len(letters):
        return []
    in_order = sorted(letters)
    return in_order if not together or list(letters) == in_order else []


def as_number(answer: str) -> int | None:
    match = NUMBER.fullmatch(answer.strip())
    return int(match[1]) if match else None


def counted_from(labels: Iterable[tuple[list[str], tuple[str, ...], tuple[str, ...]]]) -> Count:
    """Whether the labels of a set are numbers of options, and from where they count: one rule for all
    its rows, each (answers, choices, numbers of its own).

    They are where each is one of 0 to n for its n options, and one at least is the text of none. A label
    that is n says that they count from 1, one that is 0 that they count from 0; where no label is either,
    both would do, and none is read.
    """
    zero = last = unmatched = False
    for answers, choices, numbers in labels:
        if not choices or numbers or not answers:
            continue
        number = as_number(answers[0]) if len(answers) == 1 else None
        if number is None or number > len(choices):
            other = f"the label {', '.join(answers)[:30]} of {len(choices)} choices"
            return Count(None, f"{other} is no number of one, so this is none: write its letter")
        zero, last = zero or number == 0, last or number == len(choices)
        unmatched = unmatched or (option_key(answers[0], choices) or "") not in letters_of(choices)
    if not unmatched:
        return Count(None)
    if zero and last:
        return Count(None, "labels count from 0 in one row and from 1 in another: write letters")
    if not zero and not last:
        either = "labels may count from 0 or from 1, as none is 0 and none the number of a last choice"
        return Count(None, f"{either}: write letters")
    return Count(0 if zero else 1)
