"""Every text that is put to the model, in one place."""

import re

# The paper's instruction, appended to each question.
INSTRUCTION = " Please reason step by step, and put your final answer within \\boxed{}."

IMAGE_TAG = "<image>"  # in a question: the place of a picture

# Asking for a new question about an image, without and with one that is known.
WRITE_DIRECT = "Write a new question about this image."
WRITE_IN_CONTEXT = "A question about this image: {question}\nWrite a different question about this image."

# Asking whether an answer holds.
VERIFY = "{question}\nProposed answer: {answer}\nIs this answer true for this image? Yes or No."


def content(example, instruction: str = "") -> list[dict[str, str]]:
    """What the user says, as a chat template takes it: pictures and pieces of text in their order.

    Each `<image>` in the question is the place of a picture, in order; pictures without a tag come first.
    """
    *before, last = with_choices(example.question, example.choices).split(IMAGE_TAG)
    untagged = len(example.images) - len(before)
    if untagged < 0:
        raise ValueError(f"question {example.id}: {len(before)} {IMAGE_TAG} tags but {len(example.images)} images")
    parts = [{"type": "image"}] * untagged
    for text in before:
        parts += [{"type": "text", "text": text}] * bool(text) + [{"type": "image"}]
    return [*parts, {"type": "text", "text": last + instruction}]


def with_choices(question: str, choices: tuple[str, ...]) -> str:
    """The question followed by its lettered choices, a line each, unless it lists them itself."""
    if lists_choices(question, choices):
        return question
    return question + "".join(f"\n{chr(65 + i)}. {choice}" for i, choice in enumerate(choices))


def lists_choices(question: str, choices: tuple[str, ...]) -> bool:
    """Whether the text holds every choice behind its letter: `A. 3`, `(A) 3`, `A: 3`."""
    return bool(choices) and all(
        re.search(rf"(?<!\w)\(?{chr(65 + i)}\s?[.:)]\s*{re.escape(choice.strip())}(?!\w)", question)
        for i, choice in enumerate(choices)
    )
