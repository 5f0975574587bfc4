"""Every text that is put to the model, in one place."""

import re

# The paper's instruction, appended to each question.
INSTRUCTION = " Please reason step by step, and put your final answer within \\boxed{}."

IMAGE_TAG = "<image>"  # in a question: the place of a picture

# Asking for a new question about an image, without and with one that is known: what the built-in
# base was taught.
WRITE_DIRECT = "Write a new question about this image."
WRITE_IN_CONTEXT = "A question about this image: {question}\nWrite a different question about this image."

# The same for a full-size instruction model, which has to be told what makes a question usable.
WRITE_DIRECT_FULL = "Write one new question about this image.{rules}"
WRITE_IN_CONTEXT_FULL = (
    "Somebody asked this about the image:\n\n{question}\n\n"
    "Write one new question about the same image that asks for something else: not a rewording, and not "
    "the same question with other numbers.{rules}"
)
RULES = (
    " It must stand on its own, be answerable from the image and the question alone, and need a few steps "
    "of reasoning. It must have exactly one right answer, short enough to check at a glance: a number, an "
    "expression, a word, or the letter of a choice. Where you offer choices, put each on a line of its own: "
    "A. ..., B. ..., and so on. "
    "Reply with the question alone: no answer, no hint, no explanation."
)
ITS_ANSWER = "{question}\nIts answer: {answer}"

# Asking whether an answer holds.
VERIFY = "{question}\nProposed answer: {answer}\nIs this answer true for this image? Yes or No."


def content(example, instruction: str = "") -> list[dict[str, str]]:
    """What the user says, as a chat template takes it: pictures and pieces of text in their order.

    Each `<image>` in the question is the place of a picture, in order; pictures without a tag come
    first.
    """
    *before, last = with_choices(example.question, example.choices).split(IMAGE_TAG)
    untagged = len(example.images) - len(before)
    if untagged < 0:
        raise ValueError(
            f"question {example.id}: {len(before)} {IMAGE_TAG} tags but {len(example.images)} images"
        )
    parts = [{"type": "image"}] * untagged
    for text in before:
        parts += [{"type": "text", "text": text}] * bool(text) + [{"type": "image"}]
    return [*parts, {"type": "text", "text": last + instruction}]


def with_choices(question: str, choices: tuple[str, ...]) -> str:
    """The question followed by its lettered choices, a line each, unless it lists them itself."""
    if lists_choices(question, choices) or choices == listed_choices(question):
        return question
    return question + "".join(f"\n{chr(65 + i)}. {choice}" for i, choice in enumerate(choices))


def write_question(
    style: str, mode: str, question: str, choices: tuple[str, ...] = (), answer: str | None = None
) -> str:
    """Asks for a new question. Mode "direct" shows the image alone; "in-context" also a known
    question, and its answer where one is given. Style "brief" is what the built-in base was taught
    (without choices), "full" is for real models."""
    if style == "full":
        question = with_choices(question, choices)
    if answer is not None:
        question = ITS_ANSWER.format(question=question, answer=answer)
    wordings = {
        ("brief", "direct"): WRITE_DIRECT,
        ("brief", "in-context"): WRITE_IN_CONTEXT,
        ("full", "direct"): WRITE_DIRECT_FULL,
        ("full", "in-context"): WRITE_IN_CONTEXT_FULL,
    }
    return wordings[style, mode].format(question=question, rules=RULES)


def lists_choices(question: str, choices: tuple[str, ...]) -> bool:
    """Whether the text holds every choice behind its letter: `A. 3`, `(A) 3`, `A: 3`."""
    return bool(choices) and all(
        re.search(rf"(?<!\w)\(?{chr(65 + i)}\s?[.:)]\s*{re.escape(choice.strip())}(?!\w)", question)
        for i, choice in enumerate(choices)
    )


_MARKER = re.compile(  # (A), A., A) or A:, in bold of LaTeX too
    r"(?:(?<=\s)|^|(?<=[)}\]$?:。？：])|(?<=quad))(?:\\(?:text(?:bf)?|math(?:bf|rm))\{)?"
    r"(?:\(([A-Z])\)|([A-Z])([.):．：、]))\}?(?:\\[ ,;!]|~|\s)*+"
)
_ASKS, _BEGINS = re.compile(r"[?:.!？：。)）_=…}]\Z"), re.compile(r"\b(?:is|are|equals|be)\Z")
_CHOOSE = re.compile(r"\b(?:answer|choose|select|pick|letter|option|choice)", re.IGNORECASE)
_TASK = re.compile(
    r"(?:and|or|find|calculate|compute|determine|evaluate|prove|show that|draw|explain|what|how|why)\b",
    re.IGNORECASE,
)
MOST_OF_A_CHOICE = 200  # characters


def listed_choices(question: str) -> tuple[str, ...]:
    """The options that a question's own text lists, none where it is unclear: two or more in one notation,
    lettered from A without a gap, each once, behind what asks; a line each, or all at the end.

        listed_choices("How long is x?\nA. 3 cm\nB. 4 cm")         ->  ("3 cm", "4 cm")
        listed_choices("What is x? (A) 3 (B) 4 (C) 5")             ->  ("3", "4", "5")
        listed_choices("Given the sets A: {1} and B: {2}, ...")    ->  ()
    """
    markers = list(_MARKER.finditer(question))
    letters = [match[1] or match[2] for match in markers]
    first = len(letters) - 1 - letters[::-1].index("A") if "A" in letters else len(letters)
    run = markers[first:]
    notations = {match[3] for match in run}
    if len(run) < 2 or letters[first:] != [chr(65 + i) for i in range(len(run))] or len(notations) > 1:
        return ()
    starts = [match.end() for match in run]
    before, tail = question[: run[0].start()].rstrip(" \t\n$*"), question[starts[-1] :]
    lines = all(not question[: m.start()].rpartition("\n")[2].strip(" \t$*") for m in run)
    last, _, behind = tail.partition("\n")
    asks = _ASKS.search(before[-9:]) or (notations != {":"} and (lines or _BEGINS.search(before[-9:])))
    ends = not behind.strip() or ("?" not in behind and _CHOOSE.search(behind))
    texts = [question[a : m.start()] for a, m in zip(starts, run[1:], strict=False)] + [last]
    return _as_choices(texts) if asks and ends else ()


def _as_choices(texts: list[str]) -> tuple[str, ...]:
    if max(map(len, texts := [text.strip() for text in texts])) > MOST_OF_A_CHOICE:
        return ()
    texts = [re.sub(r"(?:[\s;,]|\\q?quad)+\Z", "", text) for text in texts]
    choices = tuple(text.rstrip("$ ") if text.count("$") % 2 else text for text in texts)
    fit = all(
        c and not re.search(r"[?？\n]|[.!]\s|<image|\b(?:and|or)\Z", c) and not _TASK.match(c)
        for c in choices
    )
    return choices if fit and len(set(choices)) == len(choices) else ()
