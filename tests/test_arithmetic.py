"""Questions with a right answer, and files that share no fact."""

import json
from collections import Counter
from itertools import combinations

from data import load
from programs import arithmetic


def test_no_fact_and_no_question_is_in_two_files(tmp_path):
    assert arithmetic.main(["--out", str(tmp_path)]) == 0
    facts, texts = {}, {}
    for split in arithmetic.SIZES:
        rows = [json.loads(line) for line in (tmp_path / f"{split}.jsonl").read_text().splitlines()]
        texts[split] = {row["question"] for row in rows}
        assert len(texts[split]) == len(rows)
        facts[split] = {(k, *sorted((x, y))) for k, x, y, _ in (row["id"].split("-") for row in rows)}
    assert {split: len(found) for split, found in facts.items()} == arithmetic.SIZES
    for a, b in combinations(facts, 2):
        assert not facts[a] & facts[b] and not texts[a] & texts[b]
    assert sum(arithmetic.SIZES.values()) == 12 * 13 // 2 + 11 * 12 // 2  # every fact is in one


def test_answers_are_right_and_stay_with_their_reader(tmp_path):
    arithmetic.write(tmp_path)
    source, blind = (load(str(tmp_path / "train.jsonl"), labels=labels) for labels in (True, False))
    signs = {"+": int.__add__, "plus": int.__add__, "x": int.__mul__, "*": int.__mul__}
    for i in range(len(source)):
        _, _, x, sign, y = source[i].question.rstrip("?").split()
        assert int(source[i].answer) == signs[sign](int(x), int(y))
        assert blind[i].answer is None and blind[i].images == ()
    assert set(Counter(source[i].meta["category"] for i in range(len(source)))) == {"sum", "product"}


def test_the_files_are_the_same_each_time_and_a_folder_that_cannot_be_is_said(tmp_path, program):
    for name in "ab":
        arithmetic.write(tmp_path / name)
    for split in arithmetic.SIZES:
        assert (tmp_path / "a" / f"{split}.jsonl").read_bytes() == (
            tmp_path / "b" / f"{split}.jsonl"
        ).read_bytes()
    assert arithmetic.splits()["test"][0] == ("product", 7, 8)
    done = program(arithmetic.main, "--out", tmp_path / "a" / "test.jsonl")
    assert done.returncode == 2 and "is a file" in done.stderr
