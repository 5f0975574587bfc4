"""What an answer says, and which answers are equal. Text in, text out: imports nothing of the other
folders."""

from answers.choices import option_key
from answers.extract import extract_answer
from answers.keys import canonical, compare, equivalent
from answers.opinion import second_opinion
from answers.same import Compare
from answers.vote import answer_classes

__all__ = [
    "Compare", "answer_classes", "canonical", "compare", "equivalent", "extract_answer", "option_key",
    "second_opinion",
]  # fmt: skip
