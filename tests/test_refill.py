"""Groups without spread give way to further questions': bounded, resumable, alike at any number of ranks."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from conftest import run_program, write_rows
from running import fingerprint, flags, rows, run, without_times
from safetensors.torch import load_file

import mmupt
from common import run_log
from common.distributed import World
from data import TINY
from data.answers import canonical, extract_answer
from data.stream import Questions
from mmupt import Config, Group
from model_utils import generate, rollout_logprobs
from rewards.refill import fill


@pytest.fixture
def asked(monkeypatch):
    """The ids of each call of the sampler."""
    calls = []

    def counted(policy, processor, prompts, *args, **options):
        calls.append(list(prompts.keys))
        return generate(policy, processor, prompts, *args, **options)

    monkeypatch.setattr(mmupt, "generate", counted)
    return calls


def test_joined_rollouts_score_as_each_alone(model, processor, mixed_examples):
    """Prompts and responses of other widths, pictures or none."""
    first = generate(model, processor, mixed_examples[:2], 3, 20, seed=1)
    second = generate(model, processor, mixed_examples[2:4], 3, 9, seed=2)
    expected = [rollout_logprobs(model, rollout, 10_000) for rollout in (second, first)]
    order = [3, 0, 2, 1]
    both = first.joined(second).select(order)
    assert both.prompts.keys == [mixed_examples[i].id for i in order]
    found = rollout_logprobs(model, both, 10_000)
    scored = rollout_logprobs(model, first.joined(second), 10_000)
    assert torch.allclose(scored[:6, : first.tokens.shape[1]], expected[1], atol=1e-5)
    assert torch.allclose(scored[6:, : second.tokens.shape[1]], expected[0], atol=1e-5)
    assert torch.allclose(found, scored[[9, 10, 11, 0, 1, 2, 6, 7, 8, 3, 4, 5]], atol=1e-5)
    assert torch.allclose(found, both.logprobs, atol=1e-4)  # the sampler's own


def test_a_stream_goes_on_past_what_is_known_and_ends_without_an_error(tmp_path, processor):
    made = [{"id": f"q{i}", "question": f"What is {i}?"} for i in range(7)]
    stream = Questions(str(write_rows(tmp_path / "q.jsonl", made)), processor, 0, 500)
    first = [question.id for question in stream.next(4)]
    more = [question.id for question in stream.next(2, known=first)]
    assert len({*first, *more}) == 6 and stream.taken == more
    last = stream.next(5, mine=[0, 3], known=[*first, *more])
    assert len(stream.taken) == 1 and [q.id for q in last] == stream.taken
    assert stream.next(3, mine=[1], known=[row["id"] for row in made]) == [] and stream.taken == []
    assert [q.id for q in stream.next(3, mine=[2])] == stream.taken[2:]


def test_groups_without_spread_give_way_and_no_others(tmp_path, monkeypatch, asked):
    monkeypatch.setattr(run_log, "LOGGED_QUESTIONS", 99)
    options = dict(steps=2, questions=6, lr=0.0, seed=1)
    for tries in (0, 1, 3):
        asked.clear()
        assert run(tmp_path / f"{tries}", refill=tries, **options) == 0
        steps = [[]]
        for ids in asked:
            if len(ids) == 6 and steps[-1]:
                steps.append([])
            steps[-1].append(ids)
        groups = rows(tmp_path / f"{tries}", "rollouts.jsonl")
        assert len(steps) == 2 and len(groups) == 12
        for number, calls in enumerate(steps, 1):
            mine = [g for g in groups if g["step"] == number]
            together = [key for ids in calls for key in ids]
            assert len(calls) <= 1 + tries and len(set(together)) == len(together)
            assert {g["id"] for g in mine} <= set(together)
            for place, g in enumerate(mine):  # what took the place of the first that were asked has spread
                assert g["id"] == calls[0][place] or len(set(g["rewards"])) > 1
                assert g["rewards"] == [float(a is not None and a == g["winner"]) for a in g["answers"]]
                assert g["answers"] == [canonical(extract_answer(text)) for text in g["responses"]]
            if tries:  # as many further questions as there were groups without spread
                before = [g for g in rows(tmp_path / "0", "rollouts.jsonl") if g["step"] == 1]
                flat = sum(len(set(g["rewards"])) == 1 for g in before)
                assert number > 1 or len(calls[1]) == flat > 0
    flat = [[row["zero_spread"] for row in rows(tmp_path / name)] for name in ("0", "3")]
    assert sum(flat[1]) < sum(flat[0])


def test_a_small_source_is_asked_once_and_then_no_more(tmp_path, questions_file, asked):
    assert run(tmp_path / "r", train_data=questions_file[0], steps=1, questions=20, refill=9) == 0
    together = [key for ids in asked for key in ids]
    assert len(asked) <= 3 and len(together) == len(set(together)) <= 24


class Asked(list):
    """Stands for a rollout: the ids of its questions."""

    num_samples = 2

    def joined(self, other):
        return Asked([*self, *other])

    def select(self, questions):
        return Asked([self[q] for q in questions])


@dataclass(frozen=True)
class Rank:
    """A process that is a thread."""

    rank: int
    size: int
    said: list
    barrier: threading.Barrier
    device: torch.device = torch.device("cpu")
    is_main = True

    my_part = World.my_part

    def gather_json(self, items):
        self.said[self.rank] = items
        self.barrier.wait(30)
        everything = [x for own in self.said for x in own]
        self.barrier.wait(30)
        return everything


@pytest.mark.parametrize("tries", [1, 2, 9])
def test_each_place_gets_the_same_question_at_any_number_of_processes(tmp_path, processor, tries):
    """Where the first question of every three has spread."""
    source = write_rows(tmp_path / "q.jsonl", [{"id": f"q{i}", "question": f"{i}?"} for i in range(40)])

    def ask(questions):
        return Asked(q.id for q in questions), [q.id for q in questions]

    def earn(texts, questions):
        groups = [Group(q, [], [], None, [q.id]) for q in questions]
        return groups, torch.tensor([[0.0, float(int(q.id[1:]) % 3 == 0)] for q in questions])

    def process(world):
        stream = Questions(str(source), processor, 0, 500, world=world)
        mine = stream.next(12)
        rollout, texts = ask(mine)
        step = (rollout, texts, *earn(texts, mine))
        rollout, texts, groups, rewards = fill(step, ask, earn, stream, Config(refill=tries), world)
        assert rollout == texts == [group.question.id for group in groups]
        assert rewards[:, 1].tolist() == [float(int(key[1:]) % 3 == 0) for key in texts]
        return texts, stream.state()

    ends = []
    for size in (1, 2, 3):
        said, barrier = [None] * size, threading.Barrier(size)
        with ThreadPoolExecutor(size) as pool:
            ranks = list(pool.map(process, [Rank(rank, size, said, barrier) for rank in range(size)]))
        ends.append(([ranks[place % size][0][place // size] for place in range(12)], ranks[0][1]["position"]))
    assert ends[0] == ends[1] == ends[2]
    spread = sum(int(key[1:]) % 3 == 0 for key in ends[0][0])
    assert (spread == 12) == (tries == 9) and len(set(ends[0][0])) == 12


@pytest.mark.slow
def test_a_resumed_run_refills_as_the_run_never_stopped(tmp_path):
    options = dict(refill=2, mask_answer=True, other_view="shift", save_every=1)
    assert run(tmp_path / "whole", steps=3, **options) == 0
    assert run(tmp_path / "parts", steps=1, **options) == 0
    assert run(tmp_path / "parts", steps=3, resume=True, **options) == 0
    assert fingerprint(tmp_path / "whole", 3) == fingerprint(tmp_path / "parts", 3)
    whole, parts = ([without_times(row) for row in rows(tmp_path / name)] for name in ("whole", "parts"))
    assert whole == parts


@pytest.mark.slow
def test_two_processes_refill_as_one_does(tmp_path):
    options = dict(steps=3, questions=8, minibatch_questions=4, seed=1, save_every=3, refill=2)
    options |= dict(aggregate="bnpo", other_view="dim", gate="halves", mask_answer=True)
    for name, processes in (("one", 1), ("two", 2)):
        done = run_program(
            *"-m torch.distributed.run --standalone --nproc_per_node".split(), processes, "mmupt.py",
            *flags(out=tmp_path / name, **options),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    file = "checkpoints/step-3/model.safetensors"
    one, two = (load_file(tmp_path / name / file) for name in ("one", "two"))
    base = load_file(TINY / "model.safetensors")
    moved = sum((one[n] - base[n]).abs().sum() for n in base)
    assert sum((one[n] - two[n]).abs().sum() for n in base) < 2e-3 * moved
    for a, b in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        for name in ("reward", "majority_share", "zero_spread", "response_length", "grad_norm", "loss"):
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5), name
