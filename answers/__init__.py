"""What an answer says, and which answers are equal. Text in, text out: imports nothing of the other
folders."""

from answers.choices import option_key
from answers.extract import extract_answer
from answers.keys import canonical, equivalent
from answers.vote import answer_classes

__all__ = ["answer_classes", "canonical", "equivalent", "extract_answer", "option_key"]
