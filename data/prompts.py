"""Every text that is put to the model, in one place."""

# The paper's instruction, appended to each question.
INSTRUCTION = " Please reason step by step, and put your final answer within \\boxed{}."

# Asking for a new question about an image, without and with one that is known.
WRITE_DIRECT = "Write a new question about this image."
WRITE_IN_CONTEXT = "A question about this image: {question}\nWrite a different question about this image."

# Asking whether an answer holds.
VERIFY = "{question}\nProposed answer: {answer}\nIs this answer true for this image? Yes or No."


def with_choices(question: str, choices: tuple[str, ...]) -> str:
    """The question followed by its lettered choices, a line each."""
    return question + "".join(f"\n{chr(65 + i)}. {choice}" for i, choice in enumerate(choices))
