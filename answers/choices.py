"""Answers to questions with lettered choices: an option's letter and its value are the same answer."""

import re

from answers.keys import MAX_CHARS, NAMED, WITH_UNIT, canonical, equivalent
from answers.spelling import plain_spelling

_LETTER_AND_TEXT = re.compile(r"\(?([A-Z])(?:(?:[.:,、)]| -) ?| )")


def option_key(answer: str | None, choices: tuple[str, ...] = ()) -> str | None:
    """The canonical form of an answer to a question with lettered choices: an option's value counts
    as its letter.

    A letter of the choices is that option, even where another option's text is this letter. A value
    that two options share keeps its own key. So a key from here is its own key for the same
    choices.
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
    found = [i for i, choice in enumerate(choices) if canonical(choice) == key]
    if len(found) > 1:
        found = [i for i in found if _dropped(choices[i]) == _dropped(answer)]  # 5 cm or 5 m
    elif not found:
        found = [i for i, choice in enumerate(choices) if equivalent(answer, choice)]
        if not found and key.upper() in letters:
            return key.upper()
    if len(found) == 1:
        return letters[found[0]]
    return key if key == answer else option_key(key, choices)


def _dropped(text: str) -> str:
    """The name and the unit, which a key leaves out."""
    text = plain_spelling(text[:MAX_CHARS])
    named = NAMED.fullmatch(text)
    value = named[1] if named else text
    with_unit = WITH_UNIT.fullmatch(value)
    left = text[: len(text) - len(value)] + (value[with_unit.end(1) :] if with_unit else "")
    return re.sub("[ {}]", "", left)
