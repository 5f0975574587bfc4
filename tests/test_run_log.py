"""Meters and logs."""

from collections import Counter
from math import log

import pytest
import torch

from common.distributed import World
from common.run_log import Meter, cut_log, entropy_of, top_answer_share
from mmupt import majority_vote

ALONE = World(0, 1, torch.device("cpu"))


def test_the_meter_gives_weighted_means_and_leaves_out_what_nobody_measured():
    meter = Meter()
    meter.add(1, a=1.0, b=5.0)
    meter.add(3, a=5.0)
    assert meter.means(ALONE) == {"a": 4.0, "b": 5.0}


def test_the_entropy_of_a_vote():
    assert entropy_of(Counter(a=4)) == 0 == entropy_of(Counter())
    assert entropy_of(Counter(a=2, b=2)) == pytest.approx(log(2))


def test_the_commonest_pseudo_label_is_counted_over_questions_and_abstentions_count():
    votes = [majority_vote(a) for a in (["1", "1"], ["1", "1"], ["2", "2"], ["3", "4"])]
    assert top_answer_share(votes, ALONE) == 0.5
    assert top_answer_share([majority_vote([None])], ALONE) == 0.0


def test_logs_are_cut_to_the_resumed_step_and_lose_a_torn_row(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    cut_log(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
