"""What rows and files are called reaches no terminal as a command to it."""

import json

import pytest
from conftest import write_rows
from PIL import Image

import eval as eval_program
from common.terminal import printable
from data import TINY, DataError
from data.stream import Questions
from programs import look

ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e"
SHOWN = "\\x1b]0;owned\\x07\\x1b[2J\\u202e"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 🙂", "plain é 🙂"),
        (ESCAPE, SHOWN),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\udcff \x9b \u2028", "\\udcff \\x9b \\u2028"),
    ],
)
def test_a_text_is_shown_with_its_commands_escaped(text, shown):
    assert printable(text) == shown


@pytest.fixture
def rows(tmp_path):
    """A sound row, and some that are skipped, each with a name that acts on a terminal."""
    folder = tmp_path / f"f{ESCAPE}"
    folder.mkdir()
    Image.new("RGB", (60, 60)).save(folder / "a.png")
    made = [
        {"id": f"sound{ESCAPE}", "question": "What?", "answer": "5", "category": f"kind{ESCAPE}"},
        {"id": f"gone{ESCAPE}", "question": "What?", "answer": "5", "images": [f"gone{ESCAPE}.png"]},
        {"id": f"tags{ESCAPE}", "question": "<image>?", "answer": "5"},
        {"id": f"sound{ESCAPE}", "question": "Twice?", "answer": "5"},
        {"id": f"url{ESCAPE}", "question": "?", "answer": "5", "images": [f"https://x.org/{ESCAPE}"]},
        {"id": "choices", "question": "?", "choices": ["a", "b"], "answer": ESCAPE},
        {"id": "named", "question": "?", "choices": {ESCAPE: "a"}, "answer": "a"},
    ]
    return write_rows(folder / f"q{ESCAPE}.jsonl", made)


def clean(*outputs: str) -> bool:
    return not any(c in text for text in outputs for c in "\x1b\x07\u202e\x9b")


def test_a_first_look_escapes_what_rows_hold(rows, program):
    done = program(look.main, rows)
    assert done.returncode == 0 and clean(done.stdout, done.stderr)
    assert f"gone{SHOWN}.png: no such image file" in done.stdout and f"sound{SHOWN}: 'What?'" in done.stdout
    done = program(look.main, rows.with_name(f"none{ESCAPE}.jsonl"))
    assert done.returncode == 2 and clean(done.stderr) and done.stderr.count("\n") == 1
    assert f"none{SHOWN}.jsonl: no such file" in done.stderr


def test_an_evaluation_escapes_what_rows_hold(rows, program, tmp_path):
    out = tmp_path / "out.json"
    done = program(
        eval_program.main, "--model", TINY, "--data", rows, "--num_samples", 1, "--max_new_tokens", 2,
        "--out", out,
    )  # fmt: skip
    assert done.returncode == 0 and clean(done.stdout, done.stderr)
    assert f"kind{SHOWN}" in done.stdout and f"gone{SHOWN}.png: no such image file" in done.stderr
    result = json.loads(out.read_text())
    assert [r["id"] for r in result["records"]] == [f"sound{ESCAPE}"] and len(result["skipped"]) == 6
    assert [f.name for f in tmp_path.iterdir() if f.is_file()] == ["out.json"]


def test_training_escapes_what_it_skips(rows, processor, capsys):
    stream = Questions(str(rows), processor, 0, 500)
    with pytest.raises(DataError):
        stream.next(8)
    said = capsys.readouterr().err
    assert clean(said) and said.count("skipped ") >= 4 and f"tags{SHOWN}" in said
