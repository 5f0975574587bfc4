"""Files of text and folders of pictures: what becomes of each row, and that no text of anyone harms."""

import json
import random
import sys
import time
from copy import deepcopy

import pytest
from conftest import every
from PIL import Image

from data import BadRow, DataError, load
from data.text_files import pictures_in
from programs import look, synthesize

# --- CSV


@pytest.fixture
def table(tmp_path):
    Image.new("RGB", (60, 60), "red").save(tmp_path / "a.png")
    Image.new("RGB", (60, 60), "blue").save(tmp_path / "b, c.png")

    def write(text: str, encoding: str = "utf-8"):
        (tmp_path / "q.csv").write_bytes(text.encode(encoding))
        return str(tmp_path / "q.csv")

    return write


def rows_of(path: str) -> list:
    """(question, answer, pictures) of each row, or what is wrong with it."""
    source, found = load(path, labels=True), []
    for i in range(len(source)):
        try:
            found.append((source[i].question, source[i].answer, len(source[i].images)))
        except BadRow as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize(
    ("text", "encoding", "found"),
    [
        ("question,answer\nWhat?,5\n", "utf-8", [("What?", "5", 0)]),
        ("question,answer\nWhat?,5\n", "utf-8-sig", [("What?", "5", 0)]),
        ("question,answer\r\nWhat?,5\r\n\r\n,\r\nWhy?,\r\n", "utf-8", [("What?", "5", 0), ("Why?", None, 0)]),
        ("question,answer\rWhat?,5\r", "utf-8", [("What?", "5", 0)]),
        (' question ,,answer\n"a, ""b""\nc",x,5\n', "utf-8", [('a, "b"\nc', "5", 0)]),
        ("question,answer\nWhat is 1,2?,5\nWhy?,6\nHow?\n", "utf-8", [
            "q.csv:2: 3 cells, but the first line names 2 columns: a cell with a comma stands in quotes",
            ("Why?", "6", 0),
            "q.csv:4: 1 cells, but the first line names 2 columns: a cell with a comma stands in quotes",
        ]),
        ('question,answer\n"a\nb",1\n"c"d,2\ne,3\n', "utf-8", [
            ("a\nb", "1", 0),
            "q.csv:4: not CSV (',' expected after '\"'): a quote within quotes is doubled",
            ("e", "3", 0),
        ]),
        ('question,answer\nWhat?,5\n"Why?,6\nHow?,7\n', "utf-8", [
            ("What?", "5", 0),
            "q.csv:3: not CSV (unexpected end of data, up to line 4): a quote within quotes is doubled",
        ]),
        ("question,images\nA?,a.png\nB?,\"b, c.png\"\nC?,\"['a.png', 'b, c.png']\"\nD?,\nE?,gone.png\n",
         "utf-8", [
            ("A?", None, 1), ("B?", None, 1), ("C?", None, 2), ("D?", None, 0),
            "q.csv:6: gone.png: no such image file",
        ]),
        ("question,image_1,image_2\n<image 2> or <image 1>?,a.png,\"b, c.png\"\n", "utf-8",
         [("<image> or <image>?", None, 2)]),
        (f"question,answer\n{'x' * 200_000},5\n", "utf-8", [("x" * 200_000, "5", 0)]),
    ],
)  # fmt: skip
def test_a_table_is_read_row_by_row(table, text, encoding, found):
    assert rows_of(table(text, encoding)) == found


@pytest.mark.parametrize(
    ("text", "encoding", "message"),
    [
        ("", "utf-8", "q.csv: no rows"),
        ("question,answer\n", "utf-8", "q.csv: no rows"),
        ("id;question\n1;What?\n", "utf-8", "q.csv: no question among the columns id;question; one"),
        ("question,Answer,question\na,b,c\n", "utf-8", "q.csv: two columns are named question: rename one"),
        ('"question"s,answer\na,b\n', "utf-8", "q.csv:1: not CSV ("),
        ("question\nWhat?\n", "utf-16", "q.csv: not a readable UTF-8 file"),
        ("question,answer\na\n", "utf-8", "q.csv:2: 1 cells, but the first line names 2 columns"),
    ],
)  # fmt: skip
def test_a_table_that_can_not_be_read_says_why(table, text, encoding, message):
    with pytest.raises(DataError) as error:
        load(table(text, encoding))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_tables_rows_have_choices_labels_and_ids_as_any(table):
    path = table(
        "pid,question,options,answerKey,category\nx1,Which?,A. cat; B. dog,2,pets\n,Who?,\"['me']\",1,\n"
    )
    one, two = every(load(path, labels=True))
    assert (one.id, one.choices, one.answer, one.meta["category"]) == ("x1", ("cat", "dog"), "B", "pets")
    assert (two.id, two.choices, two.answer, two.meta["category"]) == ("q-3", ("me",), "A", "")
    assert [e.answer for e in every(load(path))] == [None, None]


# --- a folder of pictures


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "more/c.webp", ".hidden.png"):
        Image.new("RGB", (60, 60), "red").save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    (folder / "cut.png").write_bytes(b"\x89PNG")
    (folder / "new.images").mkdir()
    Image.new("RGB", (60, 60)).save(folder / "new.images" / "d.png")
    return folder


def test_a_folder_of_pictures_has_a_row_for_each(photos):
    source = load(str(photos), need_question=False)
    assert [source.where(i) for i in range(len(source))] == ["a.JPG", "b.png", "cut.png", "more/c.webp"]
    assert [(source[i].id, source[i].question, len(source[i].images)) for i in (0, 3)] == [
        ("a.JPG", "", 1), ("more/c.webp", "", 1),
    ]  # fmt: skip
    with pytest.raises(BadRow, match="cut.png: cut.png: not a whole image"):
        source[2]
    assert pictures_in(photos / "more") == [photos / "more" / "c.webp"]


def test_questions_are_written_about_a_folder_and_no_training_begins_on_it(photos, tmp_path, program):
    out = tmp_path / "out" / "new.jsonl"
    done = program(look.main, photos)
    assert done.returncode == 2 and "--mode direct" in done.stderr
    assert done.stderr.startswith(
        f"error: {photos}: a folder of pictures has no questions; python -m data.synth"
    )
    done = program(synthesize.main, "--data", photos, "--out", out)
    assert done.returncode == 2 and "a folder of pictures has no questions" in done.stderr
    assert not out.parent.exists()
    short = ("--max_new_tokens", 32, "--filters", "none", "--temperature", 0)
    done = program(synthesize.main, "--data", photos, "--mode", "direct", "--out", out, *short)
    report = json.loads(out.with_suffix(".report.json").read_text())
    assert report["counts"]["source rows"] == 3 and report["counts"]["unusable rows"] == 1
    assert "skipped cut.png: cut.png: not a whole image" in done.stderr
    assert {f.name for f in out.parent.iterdir()} == {
        "new.jsonl", "new.images", "new.log.jsonl", "new.report.json",
    }  # fmt: skip
    ids = [json.loads(line)["source_id"] for line in out.read_text().splitlines()]
    assert done.returncode == (0 if ids else 1) and set(ids) <= {"a.JPG", "b.png", "more/c.webp"}


# --- files of anyone

SAID = [
    {"from": "system", "value": "s"},
    {"from": "human", "value": "<image> q?"},
    {"from": "gpt", "value": "7"},
]
SHOWN = {"role": "user", "content": [{"type": "image", "image": "a.png"}]}
SOUND = [
    {"id": "1", "question": "Which? (A) 3 (B) 4", "answer": "B", "images": ["a.png"], "category": "c"},
    {"id": "2", "question": "<image 1>?", "choices": ["3", "4"], "answer": "['3', '4']", "image_1": "a.png"},
    {"id": "3", "prompt": [SHOWN], "solution": 2.5},
]
PIECES = [
    '"', "'", ",", "\n", "\r", "\r\n", "\ufeff", "\0", "\x1b[2J", "\u202e", "é", "🙂", "\\", "\\ud800",
    "[", "]", "{", "}", ":", "null", "true", "NaN", "-Infinity", "1e999", "\\u0000", "9" * 5000,
    "[" * 2000, '{"a":' * 2000, " " * 3000, "(" * 3000, "A.\n" * 900, "a" * 5000,
    "<image>", "<image 1>", "<|im_end|>", "\\boxed{", "<answer>", "A. ", "(B) ",
    "../../../etc/passwd", "/dev/zero", "/dev/stdin", "file:///etc/passwd", "https://x.org/a.png",
    "__import__('os').system('touch owned')", "=cmd|' /C calc'!A0", "!!python/object/apply:os.system [x]",
    '"role"', '"from"', '"value"', '"content"', '"question"', '"images"', '"choices"', "question", "answer",
]  # fmt: skip
CELLS = [
    None, True, -1, 2.5, 1e308, float("nan"), 10**400, [], {}, [[]], [None], {"A": "3"}, SAID, [SHOWN],
    "\ud800",
]  # fmt: skip
TABLE = 'id,question,images,options,answer\n1,What?,a.png,A. 3; B. 4,B\n2,"Why,\nso?",,"[1, 2]",1\n'


def sound(kind: str) -> list[dict]:
    said = [{"id": i, "image": "a.png", "conversations": SAID} for i in range(3)]
    return json.loads(json.dumps(said if kind == "conversations" else SOUND))


def as_file(kind: str, rows: list[dict]) -> str:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    return {"csv": TABLE, "jsonl": lines}.get(kind, json.dumps(rows))


def spoil_cell(rng: random.Random, rows: list[dict]) -> None:
    """Somewhere in a row, or in what a cell of it holds, another value."""
    place = rng.choice(rows)
    while True:
        key = rng.choice([*(place if isinstance(place, dict) else range(len(place)))])
        if isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.7:
            place = place[key]
            continue
        place[key] = rng.choice((deepcopy(rng.choice(CELLS)), rng.choice(PIECES) * rng.choice((1, 1, 7))))
        return


def spoil_text(rng: random.Random, text: str) -> str:
    a, b = sorted(rng.randrange(len(text) + 1) for _ in range(2))
    piece = rng.choice(PIECES) * rng.choice((1, 1, 1, 2, 7))
    before, between, after = text[:a], text[a:b], text[b:]
    return rng.choice((before + piece + between + after, before + after, before + piece + after, text * 2))


def spoilt(rng: random.Random, kind: str) -> bytes:
    """A sound file after a few edits of somebody who means ill: of cells, of the text, of bytes."""
    rows, how = sound(kind), rng.random()
    for _ in range(rng.randint(1, 4) if how < 0.6 else 0):
        spoil_cell(rng, rows)
    text = as_file(kind, rows)
    for _ in range(rng.randint(1, 8) if how > 0.5 or kind == "csv" else 0):
        text = spoil_text(rng, text)[:30_000]
    raw = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        cut = rng.randrange(len(raw) + 1)
        raw = raw[:cut] + rng.randbytes(rng.randint(1, 40)) + raw[cut:]
    return raw


RUN = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect"}
seen: list[str] = []
watching = False


def watch(event: str, args: tuple) -> None:
    if watching and (event in RUN or event == "exec" and args[0].co_filename == "<string>"):
        seen.append(event)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "conversations"])
def test_a_thousand_hostile_files_cost_their_rows_and_no_more(tmp_path, kind):
    global watching
    rng, read, bad, refused = random.Random(kind), 0, 0, 0
    Image.new("RGB", (60, 60)).save(tmp_path / "a.png")
    sys.addaudithook(watch)
    path = tmp_path / ("q.json" if kind == "conversations" else f"q.{kind}")
    path.write_text(as_file(kind, sound(kind)))
    assert len(every(load(str(path), labels=True)))  # and what is imported on demand is
    seen.clear()
    try:
        watching = True
        for _ in range(1000):
            path.write_bytes(spoilt(rng, kind))
            start = time.process_time()
            for labels in (False, True):
                try:
                    source = load(str(path), labels=labels)
                except DataError as error:
                    refused += 1
                    assert str(error)
                    continue
                for i in range(len(source)):
                    try:
                        assert labels or source[i].answer is None
                        read += 1
                    except BadRow:
                        bad += 1
            assert time.process_time() - start < 1, path.read_bytes()[:2000]
    finally:
        watching = False
    assert not seen and {f.name for f in tmp_path.iterdir()} == {"a.png", path.name}
    assert min(read, bad, refused) > 50  # the edits are neither too mild nor too wild
