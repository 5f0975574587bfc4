"""Errors that users see: each message is one line that names the flag or file and the fix. Nothing
here imports anything of ours.

A program catches `UserError` once, in common/cli.py, prints the line and exits with status 2.
"""


class UserError(ValueError):
    """Something that the user can mend."""


class UsageError(UserError):
    """A flag, or flags together, that make no sense."""


class DataError(UserError):
    """A source of questions that can't be used at all."""


class ModelError(UserError):
    """A model folder or checkpoint that can't be used."""


class GraderError(UserError):
    """No grader to be had."""


class BadRow(ValueError):
    """One row that can't be used: it is skipped, counted and named, and never ends a program."""


def first_line(error: Exception) -> str:
    """Of another library's message, which may fill a page."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
