"""Questions without labels: what a model answers, and how its samples vote. Nothing here is right or wrong.

    vote(["45", "90", "45", None])  ->  ("45", 0.5)

A record is {id, answers, winner, share, responses}: `answers` holds for each response the name of its class,
as in evaluation/metrics.py; `winner` is None where classes tie (share above 0) or nothing parsed (share 0).
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from answers import Compare, answer_classes, compare, extract_answer
from common.errors import BadRow, UsageError
from common.terminal import printable
from data import Example
from data.cells import names_pictures, place_all, read_images
from data.images import BadImage
from data.prompts import listed_choices


def vote(classes: Sequence[str | None]) -> tuple[str | None, float]:
    """(the commonest class, its share of all samples), as `majority_vote` in mmupt.py; a tie has none."""
    counts = Counter(name for name in classes if name is not None)
    if not counts:
        return None, 0.0
    (first, most), *rest = counts.most_common(2)
    tie = bool(rest) and rest[0][1] == most
    return None if tie else first, most / len(classes)


def vote_record(
    example: Example, texts: Sequence[str], answer_format: str = "boxed", compare: Compare = compare
) -> dict:
    """One question's row of the JSON, from its responses alone."""
    classes = answer_classes(
        [extract_answer(text, answer_format) for text in texts], example.choices, compare
    )
    winner, share = vote(classes)
    return {
        "id": example.id,
        "answers": classes,
        "winner": winner,
        "share": share,
        "responses": list(texts),
    }


def vote_report(records: Sequence[dict]) -> dict:
    """parsed: of the responses; share: mean over questions; ties: of the questions."""
    n, answers = len(records), [name for r in records for name in r["answers"]]
    return {
        "parsed": sum(name is not None for name in answers) / len(answers),
        "share": sum(r["share"] for r in records) / n,
        "ties": sum(r["winner"] is None and r["share"] > 0 for r in records) / n,
        "questions": n,
    }


# --- One question ---------------------------------------------------------------------------------


def one_question(words: Sequence[str]) -> Example:
    """Paths of pictures, then a question -> what a row of a file with them would be."""
    *paths, question = words
    if not question.strip() or (names_pictures(question) and not re.search(r"\s", question)):
        got = f"`{printable(question)}`" if question.strip() else "an empty one"
        raise UsageError(f'--ask ends with the question (got {got}): --ask picture.png "What is x?"')
    try:
        question.encode()
        images = read_images(paths, "--ask", Path())
    except UnicodeEncodeError:
        raise UsageError("--ask: the question is no UTF-8 text") from None
    except (BadRow, BadImage) as error:
        raise UsageError(f"--ask: {error}; pictures come first, then the question in quotes") from None
    placed, _, shown = place_all(question, (), dict(enumerate(images, 1)))
    return Example("ask", shown, placed, choices=listed_choices(question))


# --- Showing --------------------------------------------------------------------------------------


def vote_table(name: str, report: dict) -> str:
    wide = max(12, len(name) + 1)
    return (
        f"{'':{wide}}{'parsed':>9}{'mean share':>12}{'ties':>9}  questions\n"
        f"{name:{wide}}{report['parsed']:>9.3f}{report['share']:>12.3f}{report['ties']:>9.3f}"
        f"{report['questions']:>11}"
    )


def vote_lines(record: dict, answer_format: str) -> str:
    """Each class with its count, share and first response, then the winner."""
    classes, n = record["answers"], len(record["answers"])
    counts = Counter(classes)
    lines = [f"{n} samples, {n - counts[None]} of them read as {answer_format}"]
    for name, count in sorted(counts.items(), key=lambda item: (item[0] is None, -item[1])):
        shown = "no answer" if name is None else f"answer {printable(name)}"
        lines += ["", f"{count} of {n}  {count / n:6.1%}  {shown}"]
        lines += [f"    {printable(line)}" for line in record["responses"][classes.index(name)].split("\n")]
    if record["winner"] is not None:
        return "\n".join([*lines, "", f"winner: {printable(record['winner'])}"])
    del counts[None]
    tied = [printable(name) for name, count in counts.items() if count == max(counts.values())]
    why = f"a tie of {', '.join(tied)}" if tied else "no response holds an answer"
    return "\n".join([*lines, "", f"no winner: {why}"])
