"""A first look at a source."""

import pytest
from conftest import write_rows
from PIL import Image

from programs.look import main


def test_a_first_look_prints_the_source_and_draws_it(tmp_path, program):
    done = program(main, "tiny", "--split", "validation", "--sheet", tmp_path / "s.png")
    assert done.returncode == 0 and "512 questions, 0 unusable" in done.stdout and done.stderr == ""
    assert Image.open(tmp_path / "s.png").width > 1000
    for name in ("sheet", "x.nothing"):
        bad = program(main, "tiny", "--sheet", name)
        assert bad.returncode == 2 and bad.stderr == f"error: --sheet {name}: name it .png\n"
    bad = program(main, tmp_path / "none.jsonl")
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1


def test_a_first_look_says_what_each_column_became(tmp_path, program):
    pytest.importorskip("pyarrow", reason="pip install pyarrow")
    from datasets_made import write_mathvista

    path = write_mathvista(tmp_path)
    done = program(main, path, "--sheet", tmp_path / "sheet.png")
    assert done.returncode == 0 and done.stderr == ""
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for line in (
        "decoded_image images",
        "question question",
        "query question, where question is blank",
        "choices choices",
        "answer answer; not read without labels",
        "precision meta; not read without labels",
        "pid id",
        "without an answer: 0",
    ):
        assert line in lines, line
    assert "6 questions, 0 unusable rows" in done.stdout and "prompt tokens: min " in done.stdout
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.width == 1200 and len(sheet.getcolors(1_000_000)) > 50


def test_a_first_look_counts_what_is_unusable(tmp_path, capsys):
    rows = [
        {"question": "<image>?"},
        {"question": "How?", "answer": "3", "kind": "x"},
        {"answer": "3"},
        {"question": "?"},
    ]
    path = write_rows(tmp_path / "q.jsonl", rows)
    assert main([str(path), "--limit", "3"]) == 0
    said = capsys.readouterr().out
    assert (
        "1 questions, 2 unusable rows, of the first 3 rows of 4" in said
        and "q-2: 'How?'  [3] images: none" in said
    )
    assert (
        "skipped q.jsonl:1: question q-1: 1 <image> tags but 0 images" in said
        and "skipped q.jsonl:3: no question" in said
    )
    write_rows(path, rows[:1])
    assert main([str(path)]) == 1
