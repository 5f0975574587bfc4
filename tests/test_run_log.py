"""Meters, logs and label-free warnings."""

from collections import Counter
from math import log

import pytest
import torch

from common.distributed import World
from common.run_log import CollapseWatch, Meter, cut_log, entropy_of, top_answer_share
from mmupt import majority_vote

ALONE = World(0, 1, torch.device("cpu"))


HEALTHY = {"top_answer_share": 0.1, "kl": 0.01, "response_length": 13.0, "parsed": 1.0}


def warnings(later: dict, steps: int = 20) -> list[str | None]:
    """Of a run that starts healthy and is otherwise from step 10 on."""
    watch = CollapseWatch()
    return [watch.look(HEALTHY if i < 10 else HEALTHY | later) for i in range(steps)]


def test_a_healthy_run_never_warns():
    for later in ({}, {"response_length": 22.0}, {"kl": 0.1}, {"top_answer_share": 0.19}, {"parsed": 0.95}):
        assert not any(warnings(later)), later


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ({"top_answer_share": 0.6}, "different questions get the same answer"),
        ({"kl": 1.0}, "far from its base"),
        ({"response_length": 48.0}, "responses grow"),
        ({"response_length": 3.0}, "responses shrink"),
        ({"parsed": 0.2}, "fewer responses hold an answer"),
    ],
)
def test_each_sign_of_a_collapse_warns_and_names_itself(later, message):
    found = warnings(later)
    assert message in found[-1] and next(iter(later)) in found[-1]
    assert not any(found[:12])


def test_one_odd_step_is_no_alarm():
    watch = CollapseWatch()
    assert not any(watch.look(HEALTHY | ({"kl": 50.0} if i == 12 else {})) for i in range(20))


def test_a_run_without_a_reference_is_watched_all_the_same():
    watch = CollapseWatch()
    rows = [{k: v for k, v in HEALTHY.items() if k != "kl"} for _ in range(20)]
    assert not any(watch.look(row) for row in rows)


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
