"""Answers to questions with lettered choices: an option's letter and its value are the same answer."""

import re

from answers.keys import MAX_CHARS, canonical, compare, equivalent
from answers.spelling import plain_spelling

_LETTER_AND_TEXT = re.compile(r"\(?([A-Z])(?:(?:[.:,、)]| -) ?| )")
_LETTERS = re.compile(r"[A-Z](?:, )?(?:[A-Z](?:, )?)*")


def option_key(answer: str | None, choices: tuple[str, ...] = ()) -> str | None:
    """The canonical form of an answer to a question with lettered choices: an option's value counts
    as its letter.

    A letter of the choices is that option, even where another option's text is this letter. Several
    letters are a list, "A, C". A value that two options share keeps its own key. So a key from here is
    its own key for the same choices.
    """
    key = canonical(answer)
    if answer is None or key is None or not choices:
        return key
    letters = [chr(65 + i) for i in range(len(choices))]
    if key in letters:
        return key
    spelled = plain_spelling(answer[:MAX_CHARS])
    named = _LETTER_AND_TEXT.match(spelled)
    if named and named[1] in letters and equivalent(spelled[named.end() :], choices[ord(named[1]) - 65]):
        return named[1]  # B:45
    agree = [compare(answer, choice) for choice in choices]
    found = [i for i, same in enumerate(agree) if same and same == max(agree)]
    if len(found) > 1:
        found = [i for i in found if _name(choices[i]) == _name(answer)]  # x = 5 or y = 5
    if len(found) == 1:
        return letters[found[0]]
    if not any(agree):
        if key.upper() in letters:
            return key.upper()
        several = re.findall("[A-Z]", key) if _LETTERS.fullmatch(key) else []
        in_order = sorted(set(several))
        if several and set(several) <= set(letters) and (several == in_order or ", " in key):
            return ", ".join(in_order)
    return key if key == answer else option_key(key, choices)


def _name(text: str) -> str:
    """Of what a value is stated, which a key leaves out."""
    return plain_spelling(text[:MAX_CHARS]).rpartition("=")[0].replace(" ", "")
