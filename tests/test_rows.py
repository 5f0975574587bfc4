"""Rows: choices, answers, pictures in their places, and every bad one named."""

import json

import pytest
from conftest import every, write_rows
from PIL import Image

from answers import option_key
from data import BadRow, DataError, load
from data.cells import place_images, read_choices, split_options
from data.columns import find_columns
from data.labels import read_answers
from data.prompts import with_choices

# --- rows of a file


def test_an_empty_file_has_no_rows(tmp_path):
    for text in ("", "\n \n"):
        (tmp_path / "empty.jsonl").write_text(text)
        with pytest.raises(DataError, match="no rows"):
            load(str(tmp_path / "empty.jsonl"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "a row is a JSON object"),
        ('{"images": []}', "no question"),
        ('{"question": "  "}', "no question"),
        ('{"question": 7}', "`question` is not text"),
        ('{"question": "q", "images": "a.png"}', "list of paths"),
        ('{"question": "q", "images": ["gone.png"]}', "no such image"),
        ('{"question": "q", "choices": [true]}', "list of strings"),
        ('{"question": "q", "choices": ["a", null]}', "list of strings"),
        ('{"question": "q", "choices": {"A": "3", "C": "4"}}', "has the choices A, C: name them A, B, C"),
        ('{"question": "q", "choices": "[\'cat\' \'dog\']"}', "list of strings"),
        ('{"question": "q", "choices": "[\'a\', [\'b\']]"}', "list of strings"),
        ('{"question": "q", "choices": "[open(0), 1]"}', "list of strings"),
        ('{"question": "q", "answer": {"a": 1}}', "`answer` is"),
        (r'{"question": "\ud83d"}', "surrogate"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_row_says_where_and_what(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "fine"}\n' + line + "\n")
    rows = load(str(path), labels=True)
    assert rows[0].question == "fine"
    with pytest.raises(BadRow, match=message) as error:
        rows[1]
    assert str(error.value).startswith("rows.jsonl:2: ")


def test_line_separators_inside_strings_do_not_split_rows(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{"question": "a\u2028b"}])
    path.write_text(json.dumps({"question": "a\u2028b"}, ensure_ascii=False) + "\n")
    assert len(load(str(path))) == 1 and load(str(path))[0].question == "a\u2028b"


def test_a_question_that_is_no_text_is_said_to_be_that(tmp_path):
    pytest.importorskip("pyarrow", reason="pip install pyarrow")
    import pyarrow.parquet

    rows = [{"problem": [{"role": "user", "content": "Which?"}]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "q.parquet")
    with pytest.raises(DataError, match="`problem` is not text, so there is no question"):
        load(str(tmp_path / "q.parquet"))
    with pytest.raises(BadRow, match="q.jsonl:1: `problem` is not text"):
        load(str(write_rows(tmp_path / "q.jsonl", rows)))[0]


@pytest.mark.parametrize(
    "cell", [{"images": ["\ud800.png"]}, {"category": "\ud800"}, {"id": "\udfff"}, {"question": "\ud800"}]
)
def test_half_a_surrogate_pair_costs_its_row_wherever_it_stands(tmp_path, cell):
    source = load(str(write_rows(tmp_path / "q.jsonl", [{"question": "a"}, {"question": "b"} | cell])))
    assert source[0].question == "a"
    with pytest.raises(BadRow, match="q.jsonl:2: half a surrogate pair"):
        source[1]


def test_half_a_surrogate_pair_in_an_answer_is_no_matter_where_answers_are_not_read(tmp_path):
    path = str(
        write_rows(
            tmp_path / "q.jsonl", [{"question": "a", "answer": "\ud800 🙂"}, {"question": "\ud83d\ude00"}]
        )
    )
    assert load(path)[0].answer is None and load(path)[1].question == "😀"
    with pytest.raises(BadRow, match="half a surrogate pair"):
        load(path, labels=True)[0]


def test_a_picture_as_base64_text_is_refused_in_a_short_line(tmp_path):
    source = load(
        str(write_rows(tmp_path / "q.jsonl", [{"question": "a", "images": ["iVBO/Rw0K" * 40_000]}]))
    )
    with pytest.raises(
        BadRow, match="holds 360,000 characters, which is no path; a picture as base64"
    ) as error:
        source[0]
    assert len(str(error.value)) < 200


def test_a_file_may_begin_with_a_byte_order_mark_and_be_named_by_a_path(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "a"}\n', encoding="utf-8-sig")
    assert load(tmp_path / "q.jsonl")[0].question == "a"


def test_pictures_may_stand_alone_where_no_question_is_needed(tmp_path):
    Image.new("RGB", (60, 60)).save(tmp_path / "a.png")
    write_rows(
        tmp_path / "q.jsonl",
        [{"id": "a", "images": ["a.png"]}, {"id": "b", "question": " ", "images": ["a.png"]}],
    )
    with pytest.raises(BadRow, match="no question"):
        load(str(tmp_path / "q.jsonl"))[0]
    found = load(str(tmp_path / "q.jsonl"), need_question=False)
    assert [(e.id, e.question, len(e.images)) for e in found] == [("a", "", 1), ("b", "", 1)]


def test_rows_of_a_jsonl_may_name_their_columns_differently(tmp_path):
    Image.new("RGB", (30, 20), "blue").save(tmp_path / "b.png")
    rows = [
        {"question": "a", "images": ["b.png"], "answer": "1", "options": ["3", "1"]},
        {"problem": "b", "image": "b.png", "solution": "2", "choices": ["2", "5"]},
        {"question": "c", "images": None, "image": "b.png", "answer": None, "solution": "so 7"},
    ]
    read = every(load(str(write_rows(tmp_path / "q.jsonl", rows)), labels=True))
    assert [(e.question, len(e.images), e.answer) for e in read] == [
        ("a", 1, "1"),
        ("b", 1, "2"),
        ("c", 1, None),
    ]
    assert [e.choices for e in read] == [("3", "1"), ("2", "5"), ()]


def test_a_jsonl_row_may_have_any_of_the_names_and_repeats_are_refused_anywhere(tmp_path):
    rows = [
        {"pid": i % 3, "problem": f"p{i}", "solution": "<answer>4</answer>", "level": i} for i in range(4)
    ]
    source = load(str(write_rows(tmp_path / "q.jsonl", rows)), labels=True)
    assert (source[1].id, source[1].question, source[1].answer) == ("1", "p1", "4")
    assert source[1].meta == {"pid": 1, "level": 1, "category": ""}
    assert load(str(tmp_path / "q.jsonl"))[1].meta == {"category": ""}
    with pytest.raises(BadRow, match="q.jsonl:4: the id 0 is already taken by q.jsonl:1"):
        source[3]
    with pytest.raises(DataError, match="no question among the columns asks"):
        load(str(write_rows(tmp_path / "q.jsonl", [{"asks": "?"}])))
    (tmp_path / "q.jsonl").write_text("{\n[1]\n")
    with pytest.raises(DataError, match="q.jsonl:1: not JSON"):
        load(str(tmp_path / "q.jsonl"))


def test_a_key_is_part_of_the_id_only_where_it_can_be_no_answer():
    text = dict.fromkeys(("id", "key", "question"), "text")
    assert find_columns(text).ids == ("id",)
    assert find_columns(text | {"answer": "text"}).ids == ("id", "key")


@pytest.mark.parametrize("cell", ["a.png", ["pics/a.JPG", "b.webp"]])
def test_pictures_under_another_name_are_not_passed_over(tmp_path, cell):
    pytest.importorskip("pyarrow", reason="pip install pyarrow")
    import pyarrow.parquet

    rows = [{"question": "Which?", "img": None}, {"question": "How many?", "img": cell, "answer": "of a.png"}]
    with pytest.raises(
        DataError, match="`img` holds pictures; they are read from columns named images, .*: rename it"
    ):
        load(str(write_rows(tmp_path / "q.jsonl", rows)))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "q.parquet")
    with pytest.raises(DataError, match="`img` holds pictures"):
        load(str(tmp_path / "q.parquet"))
    rows[1] |= {"id": "a.png", "img": None}  # which may be an id
    assert len(load(str(write_rows(tmp_path / "q.jsonl", rows)))) == 2  # an answer may be the name of a file
    table = pyarrow.table({"question": ["?"], "pixels": [b"\x89PNG"]})
    pyarrow.parquet.write_table(table, tmp_path / "q.parquet")
    with pytest.raises(DataError, match="`pixels` holds pictures"):
        load(str(tmp_path / "q.parquet"))


@pytest.mark.parametrize(
    ("texts", "pictures", "placed", "order"),
    [
        (["<image2> or <image1>?"], "abc", ["<image> or <image>?"], "cba"),
        (["<image 2> or <image_1>?"], "abc", ["<image> or <image>?"], "cba"),
        (["<image1> <image2> <image1>"], "a", ["<image> <image2> <image1>"], "a"),
        (["<image0> <image9>"], "a", ["<image0> <image9>"], "a"),
        (["<image> x"], "a", ["<image> x"], "a"),
        (["Which?", "<image 2>", "<image 1>"], "ab", ["Which?", "<image>", "<image>"], "ba"),
    ],
)
def test_numbered_tags_take_their_pictures_along(texts, pictures, placed, order):
    assert place_images(texts, dict(enumerate(pictures, 1))) == (placed, tuple(order))


# --- choices and answers


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("A. 3; B. 4; C. No correct answer", ["3", "4", "No correct answer"]),
        ("A. 3 cm;B. x = 1; y = 2; C. U.S. dollars", ["3 cm", "x = 1; y = 2", "U.S. dollars"]),
        ("(A) yes\n(B) no", ["yes", "no"]),
        ("A: 145°\nB: 140°", ["145°", "140°"]),
        ("(A) 3 cm (B) 4 cm (C) 5 cm", ["3 cm", "4 cm", "5 cm"]),
        ("A. 3, B. 4, C. 5", ["3", "4", "5"]),
        ("A) 3 B) 4 C) 5", ["3", "4", "5"]),
        ("A.3cm B.4cm", ["3cm", "4cm"]),
        ("A. x; A. y; B. see A. above", ["x; A. y", "see A. above"]),
        ("A. U.S. dollars; B. point A. C. D.", ["U.S. dollars", "point A. C. D."]),
        ("A. 3 cm; B. 4 cm; D. 5 cm", None),
        ("A. 3; B.", None),
        ("B. 3; C. 4", None),
        ("[3, 4]", None),
    ],
)
def test_one_string_of_options_is_split_at_its_letters(text, choices):
    assert split_options(text) == choices


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["A. 3", "B. 4"], ("3", "4")),
        (["(A) red", "(B)blue"], ("red", "blue")),
        (["A) 3", "B: 4 cm"], ("3", "4 cm")),
        (["A.3", "B.\\frac12"], ("3", "\\frac12")),
        (["a. 3", "b. 4"], ("3", "4")),
        (["(a) 3", "(b) 4"], ("3", "4")),
        (["a. 3", "B. 4"], ("a. 3", "B. 4")),
        (["A.D.", "B.C."], ("A.D.", "B.C.")),
        (["A:B", "B:C"], ("A:B", "B:C")),
        (["B. 3", "A. 4"], ("B. 3", "A. 4")),
        (["A. 3", "4"], ("A. 3", "4")),
        (["A.", "B."], ("A.", "B.")),
        (["A", "B"], ("A", "B")),
        ([], ()),
    ],
)
def test_choices_come_without_letters_of_their_own(given, read):
    assert read_choices(given, "choices") == read


def test_lettered_choices_are_shown_once_and_graded_by_letter_or_value(tmp_path):
    path = tmp_path / "q.jsonl"
    write_rows(path, [{"question": "Which?", "choices": ["A. 3", "B. 4"], "answer": a} for a in ("3", "A")])
    for example in load(str(path), labels=True):
        assert with_choices(example.question, example.choices) == "Which?\nA. 3\nB. 4"
        keys = {option_key(a, example.choices) for a in ("A", "3", "A. 3", "(A)", example.answer)}
        assert len(keys) == 1


@pytest.mark.parametrize(
    ("cell", "answer"),
    [
        ("5", "5"),
        (5, "5"),
        (2.5, "2.5"),
        (None, None),
        (float("nan"), None),
        ("<answer> 145° </answer>", "145°"),
        (["5"], "5"),
        ([2.5], "2.5"),
        (["5", None], "5"),
        (["<answer>5</answer>", 6], ["5", "6"]),
        ("['5', 'five']", ["5", "five"]),
        ('["5"]', "5"),
        ("[1, 2]", "[1, 2]"),
        ("f'(x)", "f'(x)"),
        ("<think>no</think><answer>\n7\n</answer>", "7"),
        (r"So it is \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
    ],
)
def test_a_label_is_taken_out_of_its_tags(cell, answer):
    expected = answer if isinstance(answer, list) else [answer] * (answer is not None)
    assert read_answers(cell, "answer") == expected


@pytest.mark.parametrize("cell", [[], [["5"]], [True], ["5", True], {"a": 1}, True])
def test_a_label_of_another_type_is_a_bad_row(cell):
    with pytest.raises(BadRow, match="`answer` is a string, a number or a list of them"):
        read_answers(cell, "answer")
