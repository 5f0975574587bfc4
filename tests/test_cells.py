"""The forms that rows have: whatever the form, the same example, and no label unless asked for."""

import csv
import json
import re
import subprocess
import sys
from dataclasses import asdict

import pytest
from conftest import ROOT, every, write_rows
from PIL import Image

from data import BadRow, DataError, load
from data.cells import listed_texts, read_chat
from data.prompts import content, with_choices
from data.stream import Questions
from programs.look import main

ASKED = "Which is it?"
TWO = {"question": ASKED, "choices": ["cat", "dog"], "answer": "dog"}
LETTERED = f"{ASKED}\nA. cat\nB. dog"


def said(role: str, *parts, **names) -> dict:
    """A turn; of one text, or of parts."""
    return {
        "role": role,
        "content": parts[0] if len(parts) == 1 and isinstance(parts[0], str) else list(parts),
    }


def text(words: str) -> dict:
    return {"type": "text", "text": words}


PICTURED = {"type": "image", "image": "red.png"}
FORMS = {  # a row -> what is asked, its pictures in order, the label
    "a list": (TWO, LETTERED, "", "dog"),
    "a list in Python's words": (TWO | {"choices": "['cat', \"dog\"]"}, LETTERED, "", "dog"),
    "a list in JSON": (TWO | {"choices": '["cat", "dog"]'}, LETTERED, "", "dog"),
    "numbers": (
        {"question": ASKED, "options": [3, 4], "answer": "B"}, f"{ASKED}\nA. 3\nB. 4", "", "B"
    ),
    "numbers in a text": (
        {"question": ASKED, "options": "[3, 4.5]", "answer": "4.5"}, f"{ASKED}\nA. 3\nB. 4.5", "", "4.5"
    ),
    "by letter": (TWO | {"choices": {"B": "dog", "A": "cat", "C": None}}, LETTERED, "", "dog"),
    "labels and texts": (
        {"question": ASKED, "choices": {"label": ["A", "B"], "text": ["cat", "dog"]}, "answerKey": "B"},
        LETTERED, "", "B",
    ),
    "numbers and texts": (
        {"question": ASKED, "choices": {"label": ["1", "2"], "text": ["cat", "dog"]}, "answerKey": "2"},
        LETTERED, "", "B",
    ),
    "no options, as a text": ({"question": ASKED, "options": "[]", "answer": "secret"}, ASKED, "", "secret"),
    "choices that the question lists": (
        TWO | {"question": "Which?\n(A) cat\n(B) dog", "choices": "['cat', 'dog']"},
        "Which?\n(A) cat\n(B) dog", "", "dog",
    ),
    "a column per picture": (
        {"question": "Is <image 2> like <image 1>?", "image_1": "red.png", "image_2": "blue.png",
         "image_3": None, "answer": "secret"},
        "Is <image> like <image>?", "blue red", "secret",
    ),
    "pictures without tags": (
        {"question": ASKED, "image_2": "blue.png", "image_1": "red.png", "image_10": "green.png",
         "answer": "secret"},
        ASKED, "red blue green", "secret",
    ),
    "a gap between pictures": (
        {"question": "Like <image 3>?", "image_1": "red.png", "image_2": None, "image_3": "blue.png",
         "answer": "secret"},
        "Like <image>?", "red blue", "secret",
    ),
    "options that are pictures": (
        {"question": ASKED, "options": "['<image 2>', '<image 1>']", "image_1": "red.png",
         "image_2": "blue.png", "answer": "B"},
        f"{ASKED}\nA. <image>\nB. <image>", "blue red", "B",
    ),
    "options that are pictures in the question": (
        {"question": "(A) <image 2> (B) <image 1>", "options": ["<image 2>", "<image 1>"],
         "image_1": "red.png", "image_2": "blue.png", "answer": "B"},
        "(A) <image> (B) <image>", "blue red", "B",
    ),
    "a whole number": ({"question": ASKED, "answer": 7001}, ASKED, "", "7001"),
    "a list of one": ({"question": ASKED, "answer": ["secret"]}, ASKED, "", "secret"),
    "a list of several": ({"question": ASKED, "answer": ["secret", "hidden"]}, ASKED, "", "secret"),
    "several in a text": ({"question": ASKED, "answer": "['secret', 'hidden']"}, ASKED, "", "secret"),
    "several options": (TWO | {"answer": ["dog", "A"]}, LETTERED, "", "A, B"),
    "a chat": (
        {"messages": [said("system", "Be brief."), said("user", ASKED), said("assistant", "secret")]},
        ASKED, "", "secret",
    ),
    "a chat with parts": (
        {"messages": [said("user", text("Is "), PICTURED, text(" red?")),
                      said("assistant", text(r"So \boxed{secret}"))]},
        "Is <image> red?", "red", "secret",
    ),
    "a chat about a column of pictures": (
        {"images": ["blue.png"], "messages": [said("user", {"type": "image"}, text(ASKED)),
                                              said("assistant", text("secret"))]},
        f"<image>{ASKED}", "blue", "secret",
    ),
    "a chat of several turns": (
        {"messages": [said("user", PICTURED, text("What colour?")), said("assistant", text("hidden")),
                      said("user", text("And its name?")), said("assistant", text("secret"))]},
        "And its name?", "red", "secret",
    ),
    "a chat without a reply": ({"messages": [said("user", ASKED)]}, ASKED, "", None),
    "a conversation": (
        {"image": "red.png", "conversations": [{"from": "human", "value": f"<image>\n{ASKED}"},
                                               {"from": "gpt", "value": "secret"}]},
        f"<image>\n{ASKED}", "red", "secret",
    ),
    "a conversation of several turns": (
        {"image": "red.png", "conversations": [{"from": "system", "value": "Be brief."},
                                               {"from": "human", "value": "<image>\nWhat colour?"},
                                               {"from": "gpt", "value": "secret"},
                                               {"from": "human", "value": "And its name?"},
                                               {"from": "gpt", "value": "hidden"}]},
        "<image>\nWhat colour?", "red", "secret",
    ),
    "a conversation that goes on with another picture": (
        {"images": ["red.png", "blue.png"], "conversations": [{"from": "human", "value": "<image> is?"},
                                                              {"from": "gpt", "value": "secret"},
                                                              {"from": "human", "value": "And <image>?"}]},
        "<image> is?", "red", "secret",
    ),
    "a conversation whose first turn is not answered": (
        {"conversations": [{"from": "human", "value": ASKED}, {"from": "human", "value": "Hello?"},
                           {"from": "gpt", "value": "hidden"}]},
        ASKED, "", None,
    ),
    "a prompt of TRL": (
        {"prompt": [said("system", "Be brief."), said("user", ASKED)], "solution": "secret"},
        ASKED, "", "secret",
    ),
    "a prompt of TRL with parts": (
        {"images": ["blue.png"], "prompt": [said("user", {"type": "image"}, text(ASKED))],
         "answer": "secret"},
        f"<image>{ASKED}", "blue", "secret",
    ),
    "a chat with choices and a label beside it": (
        {"messages": [said("user", ASKED), said("assistant", "hidden")], "choices": ["cat", "dog"],
         "answer": "B"},
        LETTERED, "", "B",
    ),
}  # fmt: skip
KINDS = ["jsonl", "json", "csv", "parquet"]
COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 128, 0)}


@pytest.fixture
def folder(tmp_path):
    for name in COLOURS:
        Image.new("RGB", (60, 60), name).save(tmp_path / f"{name}.png")
    return tmp_path


def as_cell(value) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def written(folder, kind: str, rows: list[dict]) -> str:
    path = folder / f"q.{kind}"
    if kind == "jsonl":
        write_rows(path, rows)
    elif kind == "json":
        path.write_text(json.dumps(rows, indent=1))
    elif kind == "csv":  # with lists as JSON
        names = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[as_cell(row.get(name)) for name in names] for row in rows]
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([names, *cells])
    else:
        pytest.importorskip("pyarrow", reason="pip install pyarrow")
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


def skip_nested(kind: str, form: str) -> None:
    if kind == "csv" and isinstance(FORMS[form][0].get("choices"), dict):
        pytest.skip("a cell of a .csv file has no names of its own")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_with_its_label_and_without(folder, kind, form):
    skip_nested(kind, form)
    row, shown, pictures, label = FORMS[form]
    path = written(folder, kind, [row])
    (bare,), (full,) = every(load(path)), every(load(path, labels=True))
    for example in (bare, full):
        assert with_choices(example.question, example.choices) == shown
        assert [i.getpixel((0, 0)) for i in example.images] == [COLOURS[name] for name in pictures.split()]
        assert [p["type"] for p in content(example)].count("image") == len(example.images)
    assert full.answer == label
    assert bare.answer is None and bare.meta == {"category": ""}
    told = json.dumps(asdict(bare) | {"images": None})
    assert "secret" not in told and "hidden" not in told


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [name for name in FORMS if "secret" in str(FORMS[name][0])])
def test_no_label_reaches_training_whatever_the_form(folder, kind, form, processor):
    skip_nested(kind, form)
    stream = Questions(written(folder, kind, [FORMS[form][0]]), processor, 0, 500)
    (question,) = stream.next(1)
    prompt = processor.tokenizer.decode(question.ids)
    assert "?" in prompt and "secret" not in prompt and "hidden" not in prompt and not stream.gold


def test_a_column_of_replies_is_not_even_read_where_questions_stand_beside_it(folder):
    row = {"question": ASKED, "messages": [said("user", "Other?"), said("assistant", "secret")]}
    source = load(written(folder, "parquet", [row]))
    assert "messages" not in source.store.columns and source[0].question == ASKED


@pytest.mark.parametrize("form", ["a chat", "a conversation of several turns", "a prompt of TRL"])
def test_the_systems_turn_comes_with_the_question(folder, form):
    (example,) = every(load(written(folder, "jsonl", [FORMS[form][0]])))
    assert example.system == "Be brief." and "brief" not in example.question


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["messages", "prompt"])
def test_a_chat_that_is_text_is_said_to_be_none(folder, kind, name):
    message = f"q.{kind}: `{name}` is no list of turns {{role, content}}, so there is no question"
    with pytest.raises(DataError, match=re.escape(message)):
        load(written(folder, kind, [{name: "a cat in the rain"}, {name: None}]))


def test_without_labels_nothing_behind_the_question_of_a_chat_is_read():
    turns = [said("user", ASKED), {"role": "assistant", "content": 7}]
    assert read_chat(turns, "messages", labels=False).reply is None
    with pytest.raises(BadRow, match="neither text nor a list of parts"):
        read_chat(turns, "messages", labels=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": []}, "`messages` has no turn of a user"),
        ({"messages": ["What?"]}, "`messages` is a list of turns {role, content}"),
        ({"messages": [said("user", " ")]}, "no question"),
        ({"messages": [{"role": "user"}]}, "a turn that is neither text nor a list of parts"),
        ({"messages": [said("user", {"type": "video", "video": "a.mp4"})]}, "a part of type video"),
        ({"messages": [said("user", {"type": "image_url", "image_url": {"url": "https://x.org/a.png"}})]},
         "an image is the URL https://x.org/a.png"),
        ({"messages": [said("user", PICTURED, text("?"))], "images": ["red.png"]},
         "`images` and `messages` both hold pictures: keep them in one"),
        ({"question": "?", "image": "red.png", "image_1": "red.png"}, "`image` and `image_1` both hold"),
        ({"question": "?", "image_1": ["red.png", "red.png"]}, "`image_1` holds 2 pictures, not one"),
    ],
)  # fmt: skip
def test_what_is_no_such_form_costs_its_row(folder, row, message):
    with pytest.raises(BadRow) as error:
        load(written(folder, "jsonl", [row]))[0]
    assert str(error.value).startswith("q.jsonl:1: ") and message in str(error.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"""['a', "it's", 'it\'s', 3, -2.5]""", ["a", "it's", "it's", 3, -2.5]),
        ('["a", "é"]', ["a", "é"]),
        ('["\\u00e9", "1/2"]', ["é", "1/2"]),
        (r"['$\frac12$', '\\frac12', '\times', '\(x\)']", [r"$\frac12$", r"\frac12", r"\times", r"\(x\)"]),
        ("['a\\n']", ["a\n"]),
        ("[]", []),
        ("['a',]", ["a"]),
        ("['a' 'b']", None),
        ("['a', ['b']]", None),
        ("[None, 'a']", None),
        ("['a'", None),
        ("['a'] * 10**9", None),
        ("[1-1]", None),
        ("[" * 100_000, None),
        ("['" * 50_000, None),
        ("['a'" + " " * 100_000 + "'", None),
        ("['a'," + " " * 100_000 + "'", None),
    ],
)  # fmt: skip
def test_a_list_in_a_text_is_read_and_nothing_else(text, found):
    assert listed_texts(text) == found


def test_a_list_in_a_text_warns_of_nothing():
    code = r"from data.cells import listed_texts; print(listed_texts(r'''['\(x\)', '\d']'''))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "['\\\\(x\\\\)', '\\\\d']\n" and done.stderr == ""


def test_an_array_of_rows_is_read_as_lines_are(folder):
    rows = [{"question": f"What is {i}? 🙂", "answer": str(i)} for i in range(3)]
    lines, array = (load(written(folder, kind, rows), labels=True) for kind in ("jsonl", "json"))
    assert [(e.id, e.question, e.answer) for e in every(array)] == [
        (e.id, e.question, e.answer) for e in every(lines)
    ]
    assert array.where(1) == "q.json row 2" and lines.where(1) == "q.jsonl:2"
    (folder / "q.json").write_text((folder / "q.jsonl").read_text())  # lines under the other name
    assert [e.question for e in every(load(str(folder / "q.json")))] == [r["question"] for r in rows]
    bad = load(written(folder, "json", [*rows, 7, {"question": "\ud83d"}]))
    for row, message in ((3, "q.json row 4: a row is a JSON object"), (4, "q.json row 5: half a surrogate")):
        with pytest.raises(BadRow, match=message):
            bad[row]
    for text in ("[{]", "[" * 100_000):
        (folder / "q.json").write_text(text)
        with pytest.raises(DataError, match="q.json: not JSON"):
            load(str(folder / "q.json"))
    (folder / "q.json").write_text("[]")
    with pytest.raises(DataError, match="no rows"):
        load(str(folder / "q.json"))


def test_a_first_look_says_what_the_new_columns_became(folder, capsys):
    rows = [FORMS[name][0] for name in ("a column per picture", "a chat", "several options")]
    assert main([written(folder, "jsonl", [*rows, TWO | {"answer": "C"}])]) == 0
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        "image_1 image 1",
        "messages question (a user turn), pictures; its reply is not read without labels; "
        "where question is blank",
        "skipped q.jsonl:4: `answer` C is none of the 2 choices: write a letter, A to B, or the text of one",
    ):
        assert line in shown, line
    assert any("3 questions, 1 unusable rows" in line for line in shown)
