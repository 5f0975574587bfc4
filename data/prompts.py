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
    if lists_choices(question, choices):
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
