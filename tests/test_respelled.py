"""The bench of respelled answers: what it writes is equal, what it counts is right."""

import json
import sys
from inspect import signature
from random import Random
from types import SimpleNamespace

import pytest
import torch

import answers
from answers import canonical, compare, extract_answer
from bench.respelled import ARMS, UNITS, is_right, keys_of, respelling, rewritten
from bench.spellings import meaning, read, respell
from common.errors import UsageError
from data import figures
from mmupt import Config, compute_rewards

AREA = figures.make_figure("area", (3, 5, "red", 0, 0, "area"))
LINES = figures.make_figure("lines", (4, 9, "red", "blue", "longer"))


def test_a_response_keeps_its_steps_and_its_answer():
    text = r"3 wide, 5 high, 3 * 5 = 15. \boxed{15}"
    written = {rewritten(text, AREA, Random(seed)) for seed in range(200)}
    assert len(written) > 80 and all(w.startswith(text[:-10]) for w in written)
    assert {extract_answer(w) for w in written} >= {"15", "15 cm^2"}


def test_what_holds_no_answer_or_none_that_is_read_stays():
    assert rewritten("no box", AREA, Random(0)) == "no box"
    assert rewritten(r"\boxed{1+1}", AREA, Random(0)) == r"\boxed{1+1}"
    assert read("1/0") is None and read("x") is None and read("12.5%") is None


def test_a_choice_is_also_written_with_its_text():
    written = {respell("B", Random(seed), "", LINES.choices) for seed in range(200)}
    assert {"B", "(B)", "B. lower", "lower"} <= written and not any("upper" in w for w in written)


@pytest.mark.parametrize(
    ("text", "same"),
    [("15", "15.0"), ("3/8", r"\frac{6}{16}"), ("-2.50", "-5/2"), ("0", "0/7"), ("C", "C")],
)
def test_plain_answers_are_read(text, same):
    assert meaning(read(text)) == meaning(read(same)) != meaning(read("7"))


def test_right_is_what_the_label_says():
    assert is_right(r"\boxed{15}", AREA) and is_right(r"\boxed{30/2}", AREA) and is_right(r"\boxed{B}", LINES)
    assert (
        not is_right(r"\boxed{16}", AREA) and not is_right("15", AREA) and not is_right(r"\boxed{A}", LINES)
    )


def test_the_reward_reads_respelled_answers_and_is_counted(tmp_path, monkeypatch):
    """Gold knows the unit of the question; the same draw gives the same spelling."""
    monkeypatch.setattr("bench.respelled.drawn", lambda key: AREA)
    config = Config(group_size=8, reward="gold", eval_data="")
    texts, question = [r"\boxed{15}"] * 4 + [r"\boxed{16}"] * 4, SimpleNamespace(id="q", choices=())
    seen = []

    def spy(texts, questions, config, gold, step, compare):
        seen.append((texts, gold))
        return compute_rewards(texts, questions, config, {"q": "15"}, step, compare)

    wrapped = respelling(spy, True, tmp_path / "log")
    assert list(signature(wrapped).parameters) == list(signature(compute_rewards).parameters)
    for step in (3, 3, 4):
        _, rewards = wrapped(texts, [question], config, {"q": "15"}, step, compare)
    assert seen[0] == seen[1] != seen[2] and seen[0][1] == {"q": "15 " + UNITS[AREA.question]}
    assert seen[0][0] != texts and isinstance(rewards, torch.Tensor)
    counts = json.loads((tmp_path / "log").read_text().splitlines()[0])
    assert counts["groups"] == 1 and counts["right"] == 4 and counts["both"] <= counts["rewarded"]


def test_the_keys_of_another_checkout_stand_beside_ours(tmp_path):
    folder = tmp_path / "answers"
    folder.mkdir()
    (folder / "__init__.py").write_text("from answers.old import option_key\n")
    (folder / "old.py").write_text("def option_key(answer, choices=()):\n    return f'old {answer}'\n")
    before = dict(sys.modules)
    key = keys_of(str(tmp_path))
    assert key("0.5") == "old 0.5" and canonical("0.5") == "1/2" and sys.modules["answers"] is answers
    assert sys.modules.keys() == before.keys()
    with pytest.raises(UsageError, match="--old_keys .*: no answers/ there: git archive"):
        keys_of(str(tmp_path / "nowhere"))


def test_every_arm_has_flags_that_the_program_knows():
    names = {flag.removeprefix("--") for _, flags in ARMS.values() for flag in flags if flag.startswith("--")}
    assert names <= Config.__dataclass_fields__.keys()
