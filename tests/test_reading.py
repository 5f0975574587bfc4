"""What is asked and how responses are read: every flag reaches the vote, the evaluations and the resume."""

import json
import shutil

import pytest
import torch
from conftest import write_rows
from running import fingerprint, flags, rows, run

import eval as eval_program
import evaluation.reading
import mmupt
import model_utils
import programs.synthesize
from answers.equivalence import Same
from common import cli
from common.distributed import World
from common.errors import UsageError
from data import Example
from data.prompts import INSTRUCTION
from evaluation.answering import Decoding, evaluate
from evaluation.metrics import record
from evaluation.probe import Probe
from evaluation.reading import FirstLook, look
from mmupt import Config, Encoded, compute_rewards
from model_utils import load_processor

PHRASES = ["The answer is 1.", "I found it. The answer is 1.", "Answer: 2", "The answer is 3."]
BOXES = [r"\boxed{1}", r"\boxed{1}", r"\boxed{2}", r"\boxed{3}"]
QUESTIONS = [{"question": f"What is {i}?", "answer": "1"} for i in range(6)]


@pytest.fixture
def script(monkeypatch):
    """Has every rollout say these texts, over and over."""

    def say(texts):
        monkeypatch.setattr(
            model_utils.Rollout,
            "texts",
            lambda self, processor: [texts[i % len(texts)] for i in range(len(self.lengths))],
        )

    return say


@pytest.fixture
def source(tmp_path):
    return write_rows(tmp_path / "q.jsonl", QUESTIONS)


# --- the format


@pytest.mark.parametrize(
    ("answer_format", "texts"),
    [
        ("boxed", BOXES),
        ("tag", [f"<answer>{n}</answer>" for n in (1, 1, 2, 3)]),
        ("phrase", PHRASES),
        ("choice", ["(A)", "option A", "**B**", "C."]),
        ("last_number", ["so 1", "7, no, 1", "it may be 2", "3!"]),
    ],
)
def test_vote_and_evaluations_read_every_format(answer_format, texts):
    config = Config(group_size=4, answer_format=answer_format)
    assert compute_rewards(texts, [Encoded("q", [1])], config, {}, 0)[1].tolist() == [[1, 1, 0, 0]]
    gold = "A" if answer_format == "choice" else "1"
    row = record(Example("q", (), "?", gold), texts, answer_format=answer_format)
    assert row["right"] == [True, True, False, False] and row["parsed"] == 4 and row["majority"] == 1


def test_a_runs_format_reaches_vote_and_evaluation(tmp_path, source, script):
    script(PHRASES)
    for answer_format, parsed in (("phrase", 1), ("tag", 0)):
        out = tmp_path / answer_format
        assert run(out, steps=1, eval_data=source, answer_format=answer_format) == 0
        base, step, end = rows(out)
        assert base["eval/parsed"] == step["parsed"] == end["eval/parsed"] == parsed


def test_evaluate_hands_the_format_on(model, processor, monkeypatch):
    monkeypatch.setattr("evaluation.answering.answers", lambda *a: [PHRASES])
    examples = [Example("q", (), "?", "1")]
    for answer_format, correct in (("phrase", 2), ("tag", 0)):
        (row,) = evaluate(model, processor, examples, Decoding(4, 5), answer_format=answer_format)
        assert row["correct"] == correct


def test_eval_py_reads_and_asks_as_it_is_told(tmp_path, source, random_folder, monkeypatch, capsys):
    monkeypatch.setattr("evaluation.answering.answers", lambda m, p, asked, d: [PHRASES for _ in asked])
    asked = []
    encode = model_utils.Processor.encode

    def spy(self, example, instruction=INSTRUCTION):
        asked.append((example.id, instruction, self.system))
        return encode(self, example, instruction)

    monkeypatch.setattr(model_utils.Processor, "encode", spy)
    argv = [
        "--model",
        str(random_folder),
        "--data",
        str(source),
        "--num_samples",
        "4",
        "--instruction",
        " Go.",
    ]
    argv += ["--system", "Be brief."]
    for answer_format, found in (("phrase", "phrase"), ("auto", "phrase"), ("tag", "tag")):
        out = tmp_path / f"{answer_format}.json"
        assert eval_program.main([*argv, "--answer_format", answer_format, "--out", str(out)]) == 0
        result = json.loads(out.read_text())
        assert result["config"]["answer_format"] == found
        assert result["parsed"] == (found == "phrase")
    said = capsys.readouterr().out
    assert (
        "--answer_format auto is phrase: of 24 responses are read by boxed 0.0%, tag 0.0%, phrase 100.0%"
        in said
    )
    assert (
        "--answer_format tag finds an answer in 0.0% of the first 24 responses; --answer_format phrase"
        in said
    )
    assert {row[1:] for row in asked if row[0]} == {(" Go.", "Be brief.")}
    assert eval_program.main(["--compare", str(tmp_path / "phrase.json"), str(tmp_path / "tag.json")]) == 0
    assert "note: --answer_format was phrase in A and tag in B" in capsys.readouterr().out


def test_an_evaluation_that_goes_on_keeps_what_auto_was(tmp_path, source, random_folder, monkeypatch):
    calls = []

    def answers(model, processor, asked, decoding):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return [PHRASES if len(calls) == 1 else BOXES for _ in asked]

    monkeypatch.setattr("evaluation.answering.answers", answers)
    in_threes = evaluation.answering.batches
    monkeypatch.setattr("evaluation.answering.batches", lambda items, most: in_threes(items, 3))
    argv = ["--model", str(random_folder), "--data", str(source), "--num_samples", "4"]
    argv += ["--answer_format", "auto", "--out", str(tmp_path / "r.json")]
    assert [eval_program.main(argv), eval_program.main(argv)] == [130, 0]
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["config"]["answer_format"] == "phrase" and result["parsed"] == 0.5


# --- auto


def test_auto_is_settled_by_the_first_responses_and_kept_by_a_resume(tmp_path, source, script, capsys):
    options = dict(eval_data=source, answer_format="auto")
    script(PHRASES)
    assert run(tmp_path / "r", steps=1, **options) == 0
    said = capsys.readouterr().out
    assert said.count("--answer_format auto is phrase: of 16 responses") == 1
    assert json.loads((tmp_path / "r" / "config.json").read_text())["answer_format"] == "phrase"
    base, step, _ = rows(tmp_path / "r")
    assert base["eval/parsed"] == step["parsed"] == 1
    script(BOXES)
    assert run(tmp_path / "r", steps=2, **options, resume=True) == 0
    assert "auto is" not in capsys.readouterr().out
    assert json.loads((tmp_path / "r" / "config.json").read_text())["answer_format"] == "phrase"
    assert [r["parsed"] for r in rows(tmp_path / "r") if "parsed" in r] == [1, 0]


def test_looking_first_changes_nothing_and_sees_what_the_first_step_draws(tmp_path, monkeypatch):
    seen = []
    looked = evaluation.reading.look
    monkeypatch.setattr(
        evaluation.reading, "look", lambda f, texts, *w: seen.append((f, list(texts))) or looked(f, texts, *w)
    )
    for answer_format in ("boxed", "auto"):
        assert run(tmp_path / answer_format, steps=2, answer_format=answer_format) == 0
    assert fingerprint(tmp_path / "boxed", 2) == fingerprint(tmp_path / "auto", 2)
    (_, first), (auto, before), (_, again) = seen
    assert auto == "auto" and first == before == again and len(before) == 16


class Several(World):
    """One of several processes; what the others say."""

    others: tuple = ()

    def gather_json(self, items):
        return [*self.others, *items]


def test_all_processes_count(monkeypatch):
    world = Several(0, 2, torch.device("cpu"))
    # the other one: 12 responses, of which one box, no tag, 11 phrases, no letter, 12 numbers
    monkeypatch.setattr(Several, "others", ([12, 1, 0, 11, 0, 12],))
    assert look("auto", BOXES, world)[0] == "phrase"
    assert look("auto", BOXES)[0] == "boxed"
    monkeypatch.setattr(Several, "others", ((0, 36),))
    assert look("boxed", BOXES, world) == ("boxed", "")  # 4 of 40


def test_a_format_that_reads_hardly_anything_is_said_with_one_that_reads_more(
    tmp_path, script, capsys, monkeypatch
):
    monkeypatch.setattr("common.health.advice", lambda *_: [])
    script(["so it is 5", "no number", "perhaps 6", "7 or 8"])
    assert run(tmp_path / "r", steps=2) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "answer_format" in line]
    assert said == [
        "warning: --answer_format boxed finds an answer in 0.0% of the first 16 responses; "
        "--answer_format last_number would read 75.0%"
    ]
    script(BOXES)
    assert run(tmp_path / "s", steps=2) == 0
    assert "answer_format" not in capsys.readouterr().err
    assert look("tag", ["none", "at all"])[1].endswith("; no other format reads more")


def test_the_first_batch_settles_the_format():
    first = FirstLook("auto")
    assert [first(PHRASES), first(BOXES)] == ["phrase", "phrase"]
    assert FirstLook("phrase", settled=True)(BOXES) == "phrase"


def test_a_format_that_is_none_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--answer_format"):
        run(tmp_path / "r", answer_format="xml")


# --- the system message


def test_the_system_message_comes_first_and_none_changes_no_token(random_folder, mixed_examples):
    plain, brief = load_processor(str(random_folder)), load_processor(str(random_folder), system="Be brief.")
    for example in mixed_examples:
        before, after = (p.tokenizer.decode(p.encode(example).ids) for p in (plain, brief))
        assert before.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")
        assert after == before.replace("You are a helpful assistant.", "Be brief.", 1)
        assert load_processor(str(random_folder), system="").encode(example).ids == plain.encode(example).ids


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system!') }}{% endif %}",
            "no system!",
        ),
        (
            "{% for m in messages if m['role'] == 'user' %}{{ m['content'][0]['text'] }}{% endfor %}",
            "leaves it out",
        ),
    ],
)
def test_a_template_that_takes_no_system_message_is_one_line(tmp_path, random_folder, template, message):
    shutil.copytree(random_folder, tmp_path / "m")
    template = template + "{% for part in messages[-1]['content'] %}{% if part['type'] == 'image' %}"
    template += "<|vision_start|><|image_pad|><|vision_end|>{% endif %}{% endfor %}"
    (tmp_path / "m" / "chat_template.jinja").write_text(template)
    load_processor(str(tmp_path / "m"))
    with pytest.raises(UsageError, match=f"--system: .*takes no system message.*{message}") as error:
        load_processor(str(tmp_path / "m"), system="Be brief.")
    assert "\n" not in str(error.value)


def test_a_system_message_holds_no_picture(random_folder):
    with pytest.raises(UsageError, match="--system: .*image token"):
        load_processor(str(random_folder), system="<|image_pad|>")


class Loaded(Exception):
    pass


@pytest.mark.parametrize(
    ("place", "call"),
    [
        ("model_utils.load_processor", lambda out: mmupt.main(flags(out=out / "r", system="Be brief."))),
        ("eval.load_processor", lambda out: eval_program.main(["--system", "Be brief."])),
        (
            "programs.synthesize.load_processor",
            lambda out: programs.synthesize.main(
                ["--system", "Be brief.", "--out", str(out / "n.jsonl"), "--limit", "1"]
            ),
        ),
    ],
)
def test_every_program_hands_the_system_message_on(tmp_path, monkeypatch, place, call):
    def load(path, low, high, system):
        raise Loaded(system)

    monkeypatch.setattr(place, load)
    with pytest.raises(Loaded, match="Be brief."):
        call(tmp_path)


# --- a second opinion


def says_yes(a: str, b: str) -> Same:
    return Same.YES


def test_the_vote_and_the_majority_compare_as_they_are_told(model, processor, monkeypatch):
    texts = [r"\boxed{1}", r"\boxed{2}", r"\boxed{3}", r"\boxed{3}"]
    config, question = Config(group_size=4), [Encoded("q", [1])]
    assert compute_rewards(texts, question, config, {}, 0)[1].tolist() == [[0, 0, 1, 1]]
    assert compute_rewards(texts, question, config, {}, 0, says_yes)[1].tolist() == [[1, 1, 1, 1]]
    example = Example("q", (), "?", "1")
    assert record(example, texts)["majority"] == 0
    assert record(example, texts, compare=says_yes)["majority"] == 0.25
    monkeypatch.setattr("evaluation.answering.answers", lambda *a: [texts])
    (row,) = evaluate(model, processor, [example], Decoding(4, 5), compare=says_yes)
    assert row["majority"] == 0.25


class Fake:
    """In the place of math-verify: all is equal."""

    made: list = []

    def __init__(self, seconds):
        self.seconds, self.open, self.started = seconds, True, False
        self.name = "fake"
        self.made.append(self)

    def start(self):
        self.started = True

    def equal(self, a, b):
        return True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.open = False


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(Fake, "made", [])
    monkeypatch.setattr("evaluation.reading.MathVerify", Fake)
    monkeypatch.setattr("eval.MathVerify", Fake)
    return Fake.made


SUMS = [r"\boxed{\sum_{k=1}^n k}", r"\boxed{n(n+1)/2}", r"\boxed{seven}", r"\boxed{seven}"]


def test_a_runs_grader_reaches_vote_and_evaluation_and_is_closed(tmp_path, fake, script, monkeypatch):
    source = write_rows(tmp_path / "q.jsonl", [{"question": "?", "answer": "n(n+1)/2"}] + QUESTIONS[:3])
    script(SUMS)
    found = {}
    for grader in ("ours", "math-verify"):
        options = dict(grader=grader, grader_seconds=2.5, eval_data=source, eval_samples=4, steps=1)
        assert run(tmp_path / grader, **options) == 0
        base, step, _ = rows(tmp_path / grader)
        found[grader] = step["abstained"], base["eval/maj@4"]
    assert found == {"ours": (0, 0), "math-verify": (1, 0.0625)}  # two against two
    (one,) = fake
    assert one.seconds == 2.5 and one.started and not one.open
    monkeypatch.setattr(mmupt, "train", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "failed", grader="math-verify")
    assert not fake[-1].open


def test_eval_pys_grader_is_the_second_opinion_of_its_majorities(tmp_path, fake, random_folder, monkeypatch):
    source = write_rows(tmp_path / "q.jsonl", [{"question": "?", "answer": "n(n+1)/2"}])
    monkeypatch.setattr("evaluation.answering.answers", lambda *a: [SUMS])
    argv = ["--model", str(random_folder), "--data", str(source), "--num_samples", "4"]
    found = {}
    for grader in ("ours", "math-verify"):
        out = tmp_path / f"{grader}.json"
        assert eval_program.main([*argv, "--grader", grader, "--out", str(out)]) == 0
        (row,) = json.loads(out.read_text())["records"]
        found[grader] = len(set(row["answers"]))
    assert found == {"ours": 3, "math-verify": 2}
    assert not fake[-1].open


def test_without_a_grader_no_process_is_started(monkeypatch):
    monkeypatch.setattr("evaluation.reading.MathVerify", None)
    with evaluation.reading.comparing(Config()) as compare:
        assert compare("1/2", "0.5") == Same.YES
    assert cli.parse(Config, []).grader == "ours"
    assert Probe(Config(eval_data=""), None, World(0, 1, torch.device("cpu"))).compare is compare
