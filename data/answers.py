"""`from data.answers import canonical`: the names of answers/, for readers of data."""

from answers import canonical, equivalent, extract_answer, option_key

__all__ = ["canonical", "equivalent", "extract_answer", "option_key"]
