"""What a run says of itself: a line a step, a first look, a closing table. All of it without labels."""

import io
import math
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from running import rows, run

from common.distributed import World
from common.run_log import RunLog
from common.say import CAVEAT, Lines, closing, first_look, mean_of, step_line
from mmupt import Encoded, Group, majority_vote

GOOD = dict(reward=0.5, majority_share=0.625, parsed=1.0, kl=0.00123, response_length=14.25)
GOOD |= dict(entropy=0.3, truncated=0.0, zero_spread=0.25)
A_STEP = re.compile(r"step +(\d+)/(\d+)  reward [01]\.\d{3}  share .* kl .* length .* \d+\.\d s  ETA [\d:]+$")


def test_the_line_of_a_step():
    assert step_line(3, 60, GOOD, 1.26, 3720.4) == (
        "step  3/60  reward 0.500  share 0.625  parsed 1.000  kl 0.0012  length 14.2  1.3 s  ETA 1:02:00"
    )


def test_what_was_not_measured_is_a_dash():
    without = {k: v for k, v in GOOD.items() if k != "kl"} | {"reward": math.nan, "parsed": None}
    line = step_line(1, 2, without, 1, 0)
    assert all(f"{name} -  " in line for name in ("kl", "reward", "parsed"))


@pytest.mark.parametrize(
    "seconds, done, of, said",
    [
        (0.4, 0, 10, [1, 4, 7, 10]),
        (0.4, 0, 9, [1, 4, 7, 9]),  # the last is said, however soon
        (0.001, 0, 500, [1, 500]),
        (1.0, 0, 4, [1, 2, 3, 4]),
        (30.0, 7, 10, [8, 9, 10]),
    ],
)
def test_steps_that_take_less_than_a_second_share_a_line(seconds, done, of, said):
    now = [100.0]
    lines, found = Lines(done, of, clock=lambda: now[0]), []
    for step in range(done + 1, of + 1):
        now[0] += seconds
        if lines.of_step(step, GOOD, seconds):
            found.append(step)
    assert found == said


def test_the_time_left_is_reckoned_by_the_steps_of_this_process():
    now = [0.0]
    lines = Lines(10, 20, clock=lambda: now[0])  # resumed at step 10
    for step, seconds in ((11, 2.0), (12, 4.0)):
        now[0] += seconds
        line = lines.of_step(step, GOOD, 1.0)
    assert line.endswith("1.0 s  ETA 00:24")  # 8 steps of 3 s, whatever stood between them


@pytest.mark.parametrize(
    "changed, advice",
    [
        ({}, "nothing to change"),
        ({"parsed": 0.2, "truncated": 0.5, "zero_spread": 0.9}, "nothing to change"),
        ({"parsed": 0.19}, "few hold an answer: change --answer_format or --instruction"),
        ({"parsed": 0.05}, "few hold an answer: change --instruction"),
        ({"truncated": 0.51}, "most responses are cut: raise --max_new_tokens"),
        (
            {"zero_spread": 0.95, "reward": 0.98},
            "groups don't teach, all earn: raise --temperature, or take harder questions",
        ),
        (
            {"zero_spread": 0.95, "reward": 0.02},
            "groups don't teach, hardly any earns: raise --group_size, or take easier questions",
        ),
        (
            {"truncated": 1.0, "parsed": 0.0, "zero_spread": 1.0, "reward": 0.0},
            "most responses are cut: raise --max_new_tokens; few hold an answer: change --instruction",
        ),
    ],
)
def test_the_first_step_names_the_flag_to_change(changed, advice):
    said = first_look(GOOD | changed)
    assert said.endswith(f"; {advice}") and "\n" not in said


def test_the_first_step_says_what_it_found():
    assert first_look(GOOD | {"truncated": 0.125}).startswith(
        "first step: 100.0% of responses parsed, 12.5% truncated, 75.0% of groups with spread (those teach); "
    )


def figures(table: str) -> dict[str, list[str]]:
    """A closing table's two columns."""
    return {line.split()[0]: line.split()[1:3] for line in table.splitlines()[1:-1]}


def test_the_closing_table_holds_the_first_five_steps_against_the_last_five():
    run_of_12 = [GOOD | {"reward": step / 10, "response_length": 10.0 * step} for step in range(1, 13)]
    table = closing(run_of_12, beta=0.01)
    assert table.startswith("mean of 5 steps ") and table.endswith(CAVEAT)
    found = figures(table)
    assert found["reward"] == ["0.300", "1.000"]  # means of .1 to .5 and .8 to 1.2
    assert found["response_length"] == ["30.0", "100.0"]
    assert found["parsed"] == ["1.000", "1.000"] and found["kl"] == ["0.0012", "0.0012"]
    assert list(found) == (
        "reward majority_share parsed entropy kl response_length truncated zero_spread".split()
    )


@pytest.mark.parametrize("steps, each", [(2, 1), (5, 2), (9, 4), (10, 5), (11, 5)])
def test_no_step_is_in_both_columns(steps, each):
    table = closing([GOOD | {"reward": float(i)} for i in range(steps)], beta=0.01)
    assert table.startswith(f"mean of {each} steps ")
    assert figures(table)["reward"] == [f"{(each - 1) / 2:.3f}", f"{steps - (each + 1) / 2:.3f}"]


def test_the_table_leaves_out_what_nobody_measured():
    assert closing([], 0.01) == closing([GOOD], 0.01) == ""
    assert "kl" not in figures(closing([GOOD, GOOD], beta=0.0))
    assert figures(closing([GOOD | {"entropy": None}, GOOD], 0.01))["entropy"] == ["-", "0.300"]
    assert mean_of("a", [{"a": 1.0}, {"a": None}, {"a": math.nan}, {}, {"a": 3.0}]) == 2.0


# --- in a run


def test_a_run_without_a_terminal_says_how_it_goes_and_a_resumed_one_how_it_went(tmp_path, capsys):
    assert run(tmp_path / "r", steps=3) == 0
    said = capsys.readouterr()
    steps = [m for line in said.err.splitlines() if (m := A_STEP.match(line))]
    assert [m[1] for m in steps][:: len(steps) - 1] == ["1", "3"] and {m[2] for m in steps} == {"3"}
    assert steps[0][0].startswith(step_line(1, 3, rows(tmp_path / "r")[0], 0, 0).rpartition("  0.0 s")[0])
    assert said.err.count("first step: ") == 1 and first_look(rows(tmp_path / "r")[0]) in said.err
    table = closing(rows(tmp_path / "r"), 0.01)
    assert table in said.out and "step 1/3" not in said.out
    assert run(tmp_path / "r", steps=3, resume=True) == 0  # nothing is left to do
    said = capsys.readouterr()
    assert table in said.out and "step 3/3" not in said.err and "first step" not in said.err
    assert run(tmp_path / "r", steps=4, resume=True) == 0
    said = capsys.readouterr()
    assert said.err.count("step 4/4  ") == 1 and "first step" not in said.err
    assert closing(rows(tmp_path / "r"), 0.01) in said.out and "mean of 2 steps" in said.out


@pytest.mark.parametrize(
    "options, said",
    [
        ({}, "nothing to change"),
        ({"max_new_tokens": 2}, "most responses are cut: raise --max_new_tokens; few hold an answer: change"),
        ({"answer_format": "tag"}, "few hold an answer: change --instruction"),
        ({"temperature": 0.01}, "groups don't teach, all earn: raise --temperature, or take harder"),
    ],
)
def test_the_first_step_of_a_run_says_what_to_change(tmp_path, capsys, options, said):
    assert run(tmp_path / "r", steps=2, questions=8, **options) == 0
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("first step: ")]
    assert line.partition("(those teach); ")[2].startswith(said)
    assert rows(tmp_path / "r")[0].get("warning", "nothing to change").startswith(said)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    "rank, stream, lines, looks", [(0, io.StringIO, 1, 1), (0, Terminal, 0, 1), (1, io.StringIO, 0, 0)]
)
def test_a_line_comes_once_from_one_process_and_not_beside_a_bar(
    tmp_path, monkeypatch, rank, stream, lines, looks
):
    monkeypatch.setattr(sys, "stderr", err := stream())
    config = dict(out=str(tmp_path / "r"), resume=False, group_size=2, beta=0.01)
    log = RunLog(config, World(rank, 1, torch.device("cpu")))
    log.open(0)
    for step in log.steps(0, 1):
        rollout = SimpleNamespace(
            lengths=torch.tensor([3, 5]),
            finished=torch.tensor([True, True]),
            nonfinite=torch.tensor([False, False]),
        )
        question = Encoded("q", [1])
        group = Group(question, ["1", "1"], ["1", "1"], majority_vote(["1", "1"]))
        stream_state = {"bad_rows": 0, "too_long": 0}
        log.step(step + 1, ["a", "b"], [group], torch.ones(1, 2), rollout, stream_state, 1e-4)
    said = err.getvalue()
    assert said.count("step 1/1  reward 1.000") == lines and said.count("first step: ") == looks
    assert ("training" in said) == (stream is Terminal)  # the bar
