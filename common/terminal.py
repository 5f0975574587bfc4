"""What comes from files, as a terminal may show it."""


def printable(text: str) -> str:
    """What a terminal would act on, as its escape: rows, names of files and a model may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
