"""What a run is measured on, when, and by how many samples."""

from dataclasses import replace

import pytest
import torch

import evaluation.probe
from common.distributed import World
from evaluation.probe import Probe
from mmupt import Config


class Second(World):
    """The second of two processes, as far as it can be had alone."""

    def gather_json(self, items):
        return items


@pytest.fixture
def asked(monkeypatch):
    """Calls of the evaluation, [examples, decoding, (instruction, format, compare)], in the place of
    answers."""
    calls = []

    def evaluate(policy, processor, examples, decoding, instruction, *, answer_format, compare, keep):
        calls.append((examples, decoding, (instruction, answer_format, compare)))
        return []

    monkeypatch.setattr(evaluation.probe, "evaluate", evaluate)
    monkeypatch.setattr(evaluation.probe, "report", lambda records, k: {"k": k})
    return calls


SETTINGS = dict(
    eval_data="tiny:validation", steps=9, eval_every=4, eval_questions=6, eval_samples=3, max_new_tokens=7,
    temperature=0.6, top_p=0.9, seed=5, instruction=" Answer.", answer_format="tag",
)  # fmt: skip


def test_a_runs_settings_reach_the_evaluation(processor, asked):
    compare = object()
    probe = Probe(Config(**SETTINGS), processor, World(0, 1, torch.device("cpu")), compare)
    assert probe.measure(None, 4) == {"k": 3, "samples": []}
    ((examples, decoding, reading),) = asked
    assert decoding == (3, 7, 0.6, 0.9, 5) and reading == (" Answer.", "tag", compare)
    assert len(examples) == 6


def test_the_base_and_the_end_are_measured_on_all_questions_and_the_rest_where_due(processor, asked):
    probe = Probe(Config(**SETTINGS), processor, World(0, 1, torch.device("cpu")))
    assert [step for step in range(10) if probe.is_due(step)] == [0, 4, 8, 9]
    for step in (0, 9):
        probe.measure(None, step)
    assert [len(examples) for examples, _, _ in asked] == [512, 512]
    assert not any(Probe(Config(eval_data=""), processor, probe.world).is_due(step) for step in range(61))


def test_processes_share_the_questions(processor, asked):
    whole = Probe(Config(**SETTINGS), processor, World(0, 1, torch.device("cpu")))
    second = Probe(replace(whole.config), processor, Second(1, 2, torch.device("cpu")))
    for probe in (whole, second):
        probe.measure(None, 4)
    ids = [[example.id for example in examples] for examples, _, _ in asked]
    assert ids[1] == ids[0][1::2] and len(ids[1]) == 3
