"""Questions without labels: how samples vote, what is shown of it, and that no label gets there."""

import json
import random

import pytest
from conftest import write_rows
from PIL import Image

import eval as eval_program
from common import cli
from data import load
from data.prompts import INSTRUCTION
from eval import main
from evaluation import answering
from evaluation.answering import Decoding
from evaluation.votes import (
    one_question,
    printable,
    vote,
    vote_lines,
    vote_record,
    vote_report,
    vote_table,
)
from mmupt import majority_vote
from model_utils import Processor

KEYS = {"id", "answers", "winner", "share", "responses"}


def boxed(*answers) -> list[str]:
    return [f"\\boxed{{{a}}}" if a else "no idea" for a in answers]


# --- Votes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "winner", "share"),
    [
        (["45", "90", "45", None], "45", 0.5),
        (["45", "90"], None, 0.5),
        (["45", "90", None, None], None, 0.25),
        ([None, None], None, 0.0),
        ([None, None, "7"], "7", 1 / 3),
        (["7"], "7", 1.0),
    ],
)
def test_the_commonest_class_wins_and_a_tie_has_no_winner(classes, winner, share):
    assert vote(classes) == (winner, share)


def test_a_question_votes_as_a_group_of_training_does():
    rng = random.Random(0)
    for _ in range(300):
        classes = [rng.choice(["1", "2", "3", None]) for _ in range(rng.randint(1, 8))]
        expected = majority_vote(classes)
        assert vote(classes) == (expected.winner, expected.share)


@pytest.mark.parametrize(
    ("question", "answers", "classes", "winner"),
    [  # counted as written, 7 would win
        ("x?", ["1/2", "0.5", "\\frac12", "7", "7", None], ["1/2", "1/2", "1/2", "7", "7", None], "1/2"),
        ("x?\nA. 3 cm\nB. 4 cm", ["B", "4 cm", "A", None], ["B", "B", "A", None], "B"),
        ("x?", ["5", "6"], ["5", "6"], None),
    ],
)
def test_a_record_is_of_classes_of_equal_answers(question, answers, classes, winner):
    texts = boxed(*answers)
    row = vote_record(one_question([question]), texts)
    assert row.keys() == KEYS and row["responses"] == texts
    assert (row["answers"], row["winner"]) == (classes, winner)
    assert row["share"] == max(classes.count(name) for name in classes if name) / len(classes)


def test_a_report_is_means_over_questions_and_has_no_accuracy():
    groups = [["1", "1", "2", "2"], ["1", "1", "1", None], [None] * 4]
    records = [vote_record(one_question(["?"]), boxed(*g)) for g in groups]
    result = vote_report(records)
    assert result == {"parsed": 7 / 12, "share": (0.5 + 0.75) / 3, "ties": 1 / 3, "questions": 3}
    assert [line.split() for line in vote_table("m", result).split("\n")] == [
        ["parsed", "mean", "share", "ties", "questions"],
        ["m", "0.583", "0.417", "0.333", "3"],
    ]


@pytest.mark.parametrize(
    ("answers", "last"),
    [
        (["1", "1", "2"], "winner: 1"),
        (["1", "2", None, None], "no winner: a tie of 1, 2"),
        ([None, None], "no winner: no response holds an answer"),
    ],
)
def test_the_last_line_says_who_won(answers, last):
    lines = vote_lines(vote_record(one_question(["?"]), boxed(*answers)), "boxed").split("\n")
    assert lines[-1] == last
    assert lines[0] == f"{len(answers)} samples, {sum(a is not None for a in answers)} of them read as boxed"


def test_each_class_is_shown_with_a_response_of_its_own_and_model_text_is_escaped():
    texts = ["\x1b[2Jhm", "first\n\\boxed{7}", "\x1b]0;x\x07\\boxed{2^{-1}}\r", "\\boxed{0.5}", "\\boxed{½}"]
    shown = vote_lines(vote_record(one_question(["?"]), texts), "boxed")
    assert shown.split("\n") == [
        "5 samples, 4 of them read as boxed",
        "",
        "3 of 5   60.0%  answer 1/2",
        r"    \x1b]0;x\x07\boxed{2^{-1}}\r",
        "",
        "1 of 5   20.0%  answer 7",
        "    first",
        r"    \boxed{7}",
        "",
        "1 of 5   20.0%  no answer",
        r"    \x1b[2Jhm",
        "",
        "winner: 1/2",
    ]
    row = {"answers": ["a\x1b[1m\n"], "winner": "a\x1b[1m\n", "share": 1.0, "responses": ["?"]}
    assert vote_lines(row, "boxed").split("\n")[2::3] == [
        r"1 of 1  100.0%  answer a\x1b[1m\n",
        r"winner: a\x1b[1m\n",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("√2 \\frac12 面积", "√2 \\frac12 面积"),
        ("a\tb\n", r"a\tb\n"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202eabc\u2066", r"\u202eabc\u2066"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_a_terminal_would_act_on_is_printed_as_its_escape(text, shown):
    assert printable(text) == shown


# --- One question ---------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """Paths of a red and a blue picture."""
    paths = [tmp_path / f"{colour}.png" for colour in ("red", "blue")]
    for path in paths:
        Image.new("RGB", (56, 56), path.stem).save(path)
    return [str(path) for path in paths]


def test_a_question_is_what_a_row_of_a_file_would_be(pictures, tmp_path):
    for question in ("Same?", "Is <image> like <image>?", "Is <image2> like <image1>?\nA. yes\nB. no"):
        row = {"id": "ask", "question": question, "images": pictures}
        expected, found = (
            load(str(write_rows(tmp_path / "q.jsonl", [row])))[0],
            one_question([*pictures, question]),
        )
        assert [i.getpixel((0, 0)) for i in found.images] == [i.getpixel((0, 0)) for i in expected.images]
        assert (found.question, found.choices) == (expected.question, expected.choices)
        assert found.answer is None


BROKEN = {
    "gone": (["gone.png", "x?"], "gone.png: no such image file"),
    "no picture": (["{folder}/not.png", "x?"], "not.png: not a whole image"),
    "a folder": (["{folder}", "x?"], "not a file"),
    "a URL": (["https://x.org/a.png", "x?"], "URL"),
    "no quotes": (["{red}", "What", "is", "x?"], "What: no such image file; pictures come first"),
    "empty": (["{red}", " "], "--ask ends with the question (got an empty one)"),
    "nothing else": ([""], "--ask ends with the question (got an empty one)"),
    "no question": (["{red}", "{red}"], "--ask ends with the question (got `"),
    "half a surrogate": (["\udcff?"], "--ask: the question is no UTF-8 text"),
    "too many tags": (["{red}", "<image> <image> x?"], "2 <image> tags but 1 images"),
    "a special token": (["<|image_pad|> x?"], "image token"),
    "too long": (["x " * 99, "--max_prompt_tokens", "50"], "more than --max_prompt_tokens allows"),
    "--data": (["x?", "--data", "tiny"], "leave --data out"),
    "--limit": (["x?", "--limit=1"], "leave --limit out"),
    "--split": (["x?", "--split", "test"], "leave --split out"),
    "--benchmark": (["x?", "--benchmark", "plain"], "leave --benchmark out"),
    "--compare": (["x?", "--compare", "a.json", "b.json"], "leave --compare out"),
    "no value": (["--seed", "1"], "--ask: expected at least one argument"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_question_that_cannot_be_asked_is_one_line(case, pictures, tmp_path, random_folder, program):
    words, message = BROKEN[case]
    (tmp_path / "not.png").write_text("no picture")
    words = [word.format(red=pictures[0], folder=tmp_path) for word in words]
    done = program(main, "--model", random_folder, "--ask", *words)
    assert done.returncode == 2 and done.stdout == "", done
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr


@pytest.fixture
def asked(monkeypatch):
    """What models were asked since: (system, example, tokens of the prompt, decoding) each. They answer that
    it is 1/2, 0.5 or, twice, 7."""
    seen, encode = [], Processor.encode
    texts = ["the answer is 1/2", "the answer is 0.5", "the answer is 7", "7", "the answer is 50%", "7"]

    def spy(self, example, instruction=INSTRUCTION):
        if example.id:  # none where a checkpoint's processor is tried out
            seen.append([self.system, example])
        return encode(self, example, instruction)

    def answers(model, processor, encoded, decoding):
        for row, one in zip(seen[-len(encoded) :], encoded, strict=True):
            row += [list(one.ids), decoding]
        return [texts[: decoding.num_samples] for _ in encoded]

    monkeypatch.setattr(Processor, "encode", spy)
    monkeypatch.setattr(answering, "answers", answers)
    return seen


SETTINGS = (
    "--instruction Go. --system Brief. --answer_format phrase --num_samples 6 --max_new_tokens 9".split()
)
SETTINGS += "--temperature 0.5 --top_p 0.9 --seed 4".split()


def test_ask_samples_and_reads_as_an_evaluation_does(pictures, tmp_path, random_folder, asked, capsys):
    model = ["--model", str(random_folder), *SETTINGS]
    question, source = "Is <image2> like <image1>?", tmp_path / "q.jsonl"
    write_rows(source, [{"id": "q", "question": question, "images": pictures}])
    assert main([*model, "--data", str(source)]) == 0
    capsys.readouterr()
    assert main([*model, "--ask", *pictures, question, "--out", str(tmp_path / "a.json")]) == 0
    (system, _, ids, decoding), by_ask = asked
    assert [by_ask[0], *by_ask[2:]] == [system, ids, decoding]
    assert system == "Brief." and decoding == Decoding(6, 9, 0.5, 0.9, 4)
    said = capsys.readouterr().out
    assert said.startswith(
        "6 samples, 4 of them read as phrase\n\n3 of 6   50.0%  answer 1/2\n    the answer is"
    )
    assert said.endswith("\nwinner: 1/2\n")
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["share"] == 0.5 and result["records"][0]["winner"] == "1/2"
    assert result["config"]["answer_format"] == "phrase" and result["config"]["ask"] == [*pictures, question]


def test_a_question_needs_no_picture_and_auto_is_what_the_responses_are(random_folder, asked, capsys):
    assert main(["--model", str(random_folder), "--ask", "1 + 1?", "--answer_format", "auto"]) == 0
    assert asked[0][1].images == () and "of them read as phrase\n" in capsys.readouterr().out


@pytest.mark.parametrize("way", ["ask", "data"])
def test_the_grader_is_a_votes_second_opinion(way, tmp_path, random_folder, monkeypatch):
    class Fake:
        name = "math-verify 0"

        def __init__(self, seconds):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def equal(self, gold, answer):
            return True

    monkeypatch.setattr(eval_program, "MathVerify", Fake)
    monkeypatch.setattr(
        answering, "answers", lambda *a: [boxed("\\sum_{k=1}^n k", "n(n+1)/2", "seven", "seven")]
    )
    source = write_rows(tmp_path / "q.jsonl", [{"question": "?"}])
    argv = [
        "--model",
        str(random_folder),
        "--num_samples",
        "4",
        f"--{way}",
        "?" if way == "ask" else str(source),
    ]
    classes = {}
    for grader in ("ours", "math-verify"):
        assert main([*argv, "--grader", grader, "--out", str(tmp_path / f"{grader}.json")]) == 0
        result = json.loads((tmp_path / f"{grader}.json").read_text())
        classes[grader] = len(set(result["records"][0]["answers"]))
    assert classes == {"ours": 3, "math-verify": 2} and result["grader"] == "math-verify 0"


# --- Rows without labels --------------------------------------------------------------------------


def chat(*turns) -> dict:
    roles = ("user", "assistant")
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]}


ROWS = {
    "no column": ([{"question": "a"}, {"question": "b"}], False),
    "blank": ([{"question": "a", "answer": ""}, {"question": "b", "answer": None}], False),
    "one": ([{"question": "a"}, {"question": "b", "answer": 3}], True),
    "one that can't be read": ([{"question": "a"}, {"question": "b", "answer": {}}], True),
    "chat": ([chat("a"), chat("b")], False),
    "chat with a reply": ([chat("a"), chat("b", "\\boxed{3}")], True),
    "choices": ([{"question": "a", "choices": ["x", "y"]}], False),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_source_knows_whether_any_row_has_a_label(case, tmp_path):
    rows, has = ROWS[case]
    path = str(write_rows(tmp_path / "q.jsonl", rows))
    assert load(path, labels=True).has_labels() is has
    bare = str(write_rows(tmp_path / "bare.jsonl", [{"question": "?"}]))
    assert load([bare, path], labels=True).has_labels() is has
    assert load("tiny:test", labels=True).has_labels()


def test_a_parquet_file_knows_it_too(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="pip install pyarrow")
    from pyarrow.parquet import write_table

    for labels, has in (([None, ""], False), ([None, "3"], True)):
        write_table(pa.table({"question": ["a", "b"], "answer": labels}), tmp_path / "q.parquet")
        assert load(str(tmp_path / "q.parquet"), labels=True).has_labels() is has


@pytest.fixture
def bare(questions_file):
    """A file of 24 drawn questions without answers, and with a column that only labelled rows show."""
    path, rows = questions_file
    return write_rows(path, [{k: v for k, v in r.items() if k != "answer"} | {"hint": "h"} for r in rows])


def test_rows_without_labels_give_answers_and_shares(tmp_path, bare, random_folder, asked, capsys):
    out = tmp_path / "r.json"
    assert main(["--model", str(random_folder), *SETTINGS, "--data", str(bare), "--out", str(out)]) == 0
    result, said = json.loads(out.read_text()), capsys.readouterr()
    assert said.out == vote_table(random_folder.name, result) + "\n"
    assert "no row has a label, so answers are counted, not graded" in said.err
    assert result.keys() == {
        "parsed", "share", "ties", "questions", "grader", "skipped", "config", "records", "of",
    }  # fmt: skip
    assert (result["parsed"], result["share"], result["questions"]) == (4 / 6, 0.5, 24)
    assert [r["id"] for r in result["records"]] == [f"q{i}" for i in range(24)]
    assert all(
        r.keys() == KEYS and len(r["responses"]) == 6 and r["winner"] == "1/2" for r in result["records"]
    )
    for _, example, *_ in asked:
        assert example.answer is None and example.meta == {"category": ""}  # read as training reads
    with pytest.raises(cli.UsageError, match="its questions have no labels"):
        main(["--compare", str(out), str(out)])
    with pytest.raises(cli.UsageError, match="--benchmark mathvista grades, but no row"):
        main(["--model", str(random_folder), "--data", str(bare), "--benchmark", "mathvista"])


def test_a_stopped_evaluation_without_labels_goes_on(tmp_path, bare, random_folder, monkeypatch):
    in_fives, answers, calls = answering.batches, answering.answers, []
    monkeypatch.setattr(answering, "batches", lambda items, most: in_fives(items, 5))

    def dies(*a):
        calls.append(a)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answers(*a)

    argv = ["--model", str(random_folder), "--data", str(bare), "--num_samples", "2", "--max_new_tokens", "5"]
    assert main([*argv, "--out", str(tmp_path / "whole.json")]) == 0
    monkeypatch.setattr(answering, "answers", dies)
    assert main([*argv, "--out", str(tmp_path / "r.json")]) == 130
    partial = tmp_path / "r.json.partial.jsonl"
    (tmp_path / "old.json.partial.jsonl").write_text(partial.read_text().replace("with responses", "without"))
    with pytest.raises(cli.UsageError, match="begun with other form of records; use the same, or another"):
        main([*argv, "--out", str(tmp_path / "old.json")])
    assert main([*argv, "--out", str(tmp_path / "r.json")]) == 0 and len(calls) == 3 + 3
    whole, resumed = (json.loads((tmp_path / name).read_text()) for name in ("whole.json", "r.json"))
    whole["config"].pop("out"), resumed["config"].pop("out")
    assert whole == resumed and len({t for r in whole["records"] for t in r["responses"]}) > 24


def test_of_a_mixed_file_the_rows_without_a_label_are_counted(tmp_path, random_folder, asked, program):
    rows = [
        {"question": "a", "answer": "1/2"},
        {"question": "b"},
        {"question": ""},
        {"question": "c", "answer": ""},
    ]
    source, out = write_rows(tmp_path / "q.jsonl", rows), tmp_path / "r.json"
    done = program(main, "--model", random_folder, *SETTINGS, "--data", source, "--out", out)
    assert done.stderr == "skipped 3 rows (2 without a label), the first: q-2: no answer\n"
    (row,) = json.loads(out.read_text())["records"]
    assert row["correct"] == 3 and row["responses"][1] == "the answer is 0.5"


def test_files_with_and_without_responses_compare(tmp_path, questions_file, random_folder, asked, capsys):
    argv = ["--model", str(random_folder), *SETTINGS, "--data", str(questions_file[0]), "--out"]
    new, old = tmp_path / "new.json", tmp_path / "old.json"
    assert main([*argv, str(new)]) == 0
    result = json.loads(new.read_text())
    for row in result["records"]:
        assert len(row.pop("responses")) == 6
    del result["config"]["ask"]
    old.write_text(json.dumps(result))
    assert main(["--compare", str(old), str(new)]) == 0 and "over 24 questions" in capsys.readouterr().out
