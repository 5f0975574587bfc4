"""`from data.answers import canonical`: the names of answers/ where readers of data look for them."""

from answers import canonical, equivalent, extract_answer, option_key

__all__ = ["canonical", "equivalent", "extract_answer", "option_key"]
