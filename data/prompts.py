"""Every text that is put to the model, in one place."""

# The paper's instruction, appended to each question.
INSTRUCTION = " Please reason step by step, and put your final answer within \\boxed{}."

# Asking for a new question about an image, without and with one that is known: what the built-in base was taught.
WRITE_DIRECT = "Write a new question about this image."
WRITE_IN_CONTEXT = "A question about this image: {question}\nWrite a different question about this image."

# The same for a full-size instruction model, which has to be told what makes a question usable.
WRITE_DIRECT_FULL = "Write one new question about this image.{rules}"
WRITE_IN_CONTEXT_FULL = (
    "Somebody asked this about the image:\n\n{question}\n\n"
    "Write one new question about the same image that asks for something else: not a rewording, and not the same "
    "question with other numbers.{rules}"
)
RULES = (
    " It must stand on its own, be answerable from the image and the question alone, and need a few steps of reasoning. "
    "It must have exactly one right answer, short enough to check at a glance: a number, an expression, a word, or the "
    "letter of a choice. Where you offer choices, put each on a line of its own: A. ..., B. ..., and so on. "
    "Reply with the question alone: no answer, no hint, no explanation."
)
ITS_ANSWER = "{question}\nIts answer: {answer}"

# Asking whether an answer holds.
VERIFY = "{question}\nProposed answer: {answer}\nIs this answer true for this image? Yes or No."


def with_choices(question: str, choices: tuple[str, ...]) -> str:
    """The question followed by its lettered choices, a line each."""
    return question + "".join(f"\n{chr(65 + i)}. {choice}" for i, choice in enumerate(choices))


def write_question(
    style: str, mode: str, question: str, choices: tuple[str, ...] = (), answer: str | None = None
) -> str:
    """Asks for a new question. Mode "direct" shows the image alone; "in-context" also a known question, and its answer
    where one is given. Style "brief" is what the built-in base was taught (without choices), "full" is for real models."""
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
