"""Pairs that graders in use get wrong, by kind, each with siblings of which some differ: graded and voted."""

import json
from pathlib import Path

import pytest

from answers import answer_classes, equivalent

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parent / "golden/answer_reports.jsonl").read_text("utf-8").splitlines()
]
KINDS = list(dict.fromkeys(row["kind"] for row in ROWS))
UNREAD = {("a*b*c", "abc")}  # a word may be the product of its letters, or a word


def test_every_kind_has_pairs_of_both_verdicts():
    assert len(ROWS) > 600 and len(KINDS) == 19
    assert all({row["same"] for row in ROWS if row["kind"] == kind} == {True, False} for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_reported_pairs_are_graded_and_voted_right(kind):
    for row in ROWS:
        a, b = row["a"], row["b"]
        if row["kind"] == kind and (a, b) not in UNREAD:
            ours, theirs = answer_classes([a, b])
            assert (equivalent(a, b), equivalent(b, a), ours == theirs) == (row["same"],) * 3, (a, b)
