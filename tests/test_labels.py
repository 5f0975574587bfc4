"""Labels of questions with options: letters, texts, numbers by one rule for the set, or none of them."""

import pytest
from conftest import write_rows

from answers import option_key
from data import BadRow, load
from data.labels import several_letters
from evaluation.answering import labelled


def labels_of(tmp_path, *rows: tuple, kind: str = "jsonl") -> list:
    """The labels of (choices, label) rows, and why a row has none."""
    rows = [{"question": f"Which of {i}?", "choices": c, "answer": a} for i, (c, a) in enumerate(rows)]
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="pip install pyarrow")
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "q.parquet")
    else:
        write_rows(tmp_path / "q.jsonl", rows)
    source, found = load(str(tmp_path / f"q.{kind}"), labels=True), []
    for i in range(len(source)):
        try:
            found.append(source[i].answer)
        except BadRow as error:
            assert str(error).startswith(source.where(i))
            found.append(error)
    return found


XY, XYZ, ABC, SMALL = ["x", "y"], ["x", "y", "z"], ["3", "4", "5"], ["2", "1"]
SETS = {  # rows -> their labels; of a refused one part of the reason
    "from 1": ([(XY, 2), (XYZ, 1), (XYZ, 2)], ["B", "A", "B"]),
    "from 1, one row": ([(XY, 2)], ["B"]),
    "from 0": ([(XY, 0), (XYZ, 1), (XYZ, 2)], ["A", "B", "C"]),
    "as texts": ([(XY, "0"), (XYZ, "2")], ["A", "C"]),
    "as floats": ([(XY, 0.0), (XYZ, 2.0)], ["A", "C"]),
    "as lists of one": ([(XY, [0]), (XYZ, [2])], ["A", "C"]),
    "either": ([(XY, 1), (XYZ, 1)], ["may count from 0 or from 1, as none is 0 and none"] * 2),
    "both": ([(XY, 0), (XY, 2)], ["labels count from 0 in one row and from 1 in another"] * 2),
    "too large": ([(XY, 0), (XY, 3)], ["the label 3 of 2 choices is no number of one, so this is none"] * 2),
    "beside letters": ([(XY, 0), (XY, "B")], ["the label B of 2 choices is no number of one", "B"]),
    "beside questions without options": ([(XY, 2), ([], 77)], ["B", "77"]),
    "beside missing labels": ([(XY, 2), (XY, None), (XY, 1)], ["B", None, "A"]),
    "texts that are numbers": ([(ABC, 4), (SMALL, 1), (ABC, "3")], ["4", "1", "3"]),
    "small texts that are numbers": ([(SMALL, 1), (SMALL, 2)], ["1", "2"]),
    "number and text agree": ([(XY, 2), (["1", "2"], 1)], ["B", "A"]),
    "number and text differ": (
        [(XY, 2), (SMALL, 1)],
        ["B", "`answer` 1 is the text of B and, counted from 1, the number of A: write the letter"],
    ),
    "texts, one wrong": ([(ABC, 4), (ABC, 1)], ["4", "`answer` 1 is none of the 3 choices"]),
    "letters": ([(XY, "A"), (XY, "(b)"), (XY, "B. y")], ["A", "(b)", "B. y"]),
    "no such letter": ([(XY, "C")], ["`answer` C is none of the 2 choices: write a letter, A to B, or the"]),
    "no such text": ([(XY, "blue")], ["`answer` blue is none of the 2 choices"]),
    "several letters": (
        [(ABC, a) for a in ("AC", "A, C", "(A) and (C)", "C and A", r"\text{A, C}", ["C", "A"])],
        ["A, C"] * 6,
    ),
    "several texts": ([(ABC, ["3", "5"]), (ABC, ["3", "three"])], ["A, C", "A"]),
    "several, of which one is none": ([(XY, "AC"), (ABC, ["A", "D"])], ["AC is none of", "D is none of"]),
    "a word of letters": ([(ABC, "CAB"), (ABC, "AA")], ["CAB is none of the 3", "AA is none of the 3"]),
    "a text of letters": ([(["AB", "AC", "BC"], "AC")], ["AC"]),
    "a text that two options share": ([(["1/2", "0.50", "3"], "0.5")], ["0.5"]),
    "named by numbers": (
        [({"label": ["1", "2"], "text": XY}, "1"), ({"0": "x", "1": "y"}, 1), ({"1": "x", "2": "y"}, 3)],
        ["A", "B", "`answer` 3 is none of the 2 choices"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_labels_name_options_by_one_rule_for_the_set(tmp_path, name):
    rows, expected = SETS[name]
    for label, wanted in zip(labels_of(tmp_path, *rows), expected, strict=True):
        assert str(wanted) in str(label) if isinstance(label, BadRow) else label == wanted, label


@pytest.mark.parametrize("name", ["from 1", "from 0", "number and text differ", "several letters"])
def test_labels_of_a_parquet_file_are_read_alike(tmp_path, name):
    rows = [row for row in SETS[name][0] if not isinstance(row[1], list)]
    assert list(map(str, labels_of(tmp_path, *rows, kind="parquet"))) == [
        str(label).replace("q.jsonl:", "q row ") for label in labels_of(tmp_path, *rows)
    ]


def test_that_numbers_are_read_as_letters_is_said_once(tmp_path, capsys, monkeypatch):
    labels_of(tmp_path, (XY, 2), (XYZ, 1))
    assert capsys.readouterr().err == (
        f"{tmp_path}/q.jsonl: labels are numbers of choices, from 1: read as letters\n"
    )
    load(str(tmp_path / "q.jsonl"))[0]  # without labels nothing is read of them, and nothing said
    monkeypatch.setenv("RANK", "1")  # nor by another process than the first
    load(str(tmp_path / "q.jsonl"), labels=True)
    assert capsys.readouterr().err == ""


def test_that_the_first_of_several_answers_counts_is_said_once(tmp_path, capsys):
    assert labels_of(tmp_path, ([], ["5", "five"])) == ["5"]
    assert capsys.readouterr().err == ""  # they are one
    assert labels_of(tmp_path, ([], ["6.67", "6.7"]), ([], ["1", "2"])) == ["6.67", "1"]
    assert capsys.readouterr().err.count("where `answer` lists several answers, the first is the label") == 1


def test_a_label_that_nobody_could_match_is_skipped_and_named_but_trained_on(tmp_path, processor):
    rows = [{"question": "?", "choices": XY, "answer": a} for a in ("C", "B", "AC")]
    path = str(write_rows(tmp_path / "q.jsonl", rows))
    good, skipped = labelled(load(path, labels=True), processor, 500)
    assert [e.answer for e in good] == ["B"] and [s.split(" is ")[0] for s in skipped] == [
        "q.jsonl:1: `answer` C",
        "q.jsonl:3: `answer` AC",
    ]
    assert [load(path)[i].choices for i in range(3)] == [("x", "y")] * 3


@pytest.mark.parametrize(
    ("answer", "letters"),
    [("AC", "AC"), ("A,C", "AC"), ("C; A", "AC"), ("(A)(C)", "AC"), ("A & C.", "AC"), ("CA", ""), ("AND", ""),
     ("A", ""), ("A or C", ""), ("A, A", ""), ("", "")],
)  # fmt: skip
def test_several_letters_are_seen_however_they_are_joined(answer, letters):
    assert several_letters(answer) == list(letters)


def test_a_label_of_several_letters_is_its_own_key():
    assert option_key("A, C", tuple(ABC)) == "A, C"
