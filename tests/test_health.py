"""Sentinels: what they say without labels, that nothing trains on them, a stop, and the best step kept."""

import json
import shutil

import pytest
from conftest import run_program, write_rows
from running import fingerprint, flags, rows, run, without_times

import bench.health
import mmupt
from common import health
from common.cli import UsageError
from common.run_log import RunLog
from data.stream import Questions
from evaluation import sentinels
from model.batch import Encoded
from model_utils import latest_checkpoint, load_model

# --- signals

A, B, NONE = "a", "b", None
KNOWN = [  # base, now -> agreement, support, consistency, collisions, parsed
    ([[A, A, B], [B, B, A]], [[A, A, A], [B, A, B]], (1.0, 5 / 6, 5 / 6, 0.0, 1.0)),
    ([[A, A, B], [B, B, A]], [[B, B, A], [B, B, B]], (0.5, 2 / 3, 5 / 6, 1.0, 1.0)),
    ([[A, B], [B, B]], [[A, A], [B, B]], (0.75, 0.75, 1.0, 0.0, 1.0)),  # the base's vote ties
    ([[A, A], [NONE, NONE]], [[A, B], [B, B]], (0.5, 0.5, 0.75, 0.0, 1.0)),  # one without the base's vote
    ([[A, A], [A, A]], [[A, NONE], [NONE, NONE]], (0.5, 0.25, 0.25, 0.0, 0.25)),
    ([[A], [A], [A], [B]], [[A], [A], [A], [B]], (1.0, 1.0, 1.0, 0.5, 1.0)),
]


@pytest.mark.parametrize("base, now, expected", KNOWN)
def test_signals_have_their_known_values(base, now, expected):
    found = health.signals(base, now)
    names = ("agreement", "support", "consistency", "collisions", "parsed")
    assert tuple(found[name] for name in names) == pytest.approx(expected)


def test_where_the_base_says_nothing_nothing_is_held_against_it():
    found = health.signals([[NONE, NONE]], [[A, A]])
    assert set(found) == {"consistency", "collisions", "parsed"}
    row = {f"health/{name}": value for name, value in found.items()}
    assert not health.judge([row, row]) and not health.is_better([row, row], None)


# --- limits

SOUND = dict(agreement=0.9, support=0.7, consistency=0.7, collisions=0.05, parsed=1.0, length=12.0)
SOUND |= dict(kl_answer=0.01, kl_rest=0.01)


def signals_of(*steps: dict) -> list[dict]:
    """Rows of metrics.jsonl: a sound base, then what each step changes of it."""
    return [
        {"step": n} | {f"health/{name}": v for name, v in (SOUND | changed).items()}
        for n, changed in enumerate([{}, *steps])
    ]


def test_a_sound_run_has_no_sign():
    assert not health.judge(signals_of({}, dict(support=0.75, length=20.0, kl_answer=0.1), dict(parsed=0.95)))


PLANTED = {
    "agreement": dict(agreement=0.2),
    "support": dict(support=0.4),
    "collisions": dict(collisions=0.6),
    "parsed": dict(parsed=0.5),
    "longer": dict(length=40.0),
    "shorter": dict(length=3.0),
    "kl_answer": dict(kl_answer=9.0),
    "kl_rest": dict(kl_rest=9.0),
}


@pytest.mark.parametrize("name", health.SIGNS)
def test_each_sign_names_itself_and_its_limit_can_be_moved(name):
    found = signals_of(PLANTED[name])
    (said,) = health.judge(found)
    assert said.startswith(health.SIGNS[name].says)
    assert not health.judge(found, {k: v for k, v in health.LIMITS.items() if k != name})
    assert set(health.SIGNS) == set(health.LIMITS) == set(PLANTED)


def test_support_is_held_against_its_highest_and_the_rest_against_the_base():
    rise, fall = dict(support=0.9), dict(support=0.9 - health.LIMITS["support"] - 0.01)
    assert health.judge(signals_of(rise, fall)) and not health.judge(signals_of(fall))
    assert not health.judge(signals_of(dict(length=3.5), dict(length=12.0)))


def test_a_run_without_a_reference_is_judged_all_the_same():
    rows = signals_of({}, dict(agreement=0.2))
    bare = [{k: v for k, v in row.items() if "kl_" not in k} for row in rows]
    assert health.judge(bare) == health.judge(rows) and not health.judge(bare[:2])


def test_the_best_is_the_highest_support_within_limits_and_of_equals_the_first():
    up, top, amiss = dict(support=0.75), dict(support=0.8), dict(support=0.95, agreement=0.1)
    assert health.best(signals_of(up, top, amiss, top, up))["step"] == 2
    assert health.best(signals_of(dict(support=0.69)))["step"] == 0  # none is better than the base


def test_the_flag_is_named_from_the_first_step_on_and_once_as_long_as_it_lasts(tmp_path, capsys):
    from common.distributed import World

    log = RunLog({"out": str(tmp_path), "resume": False}, World(0, 1, "cpu"))
    good = dict(truncated=0.0, parsed=1.0, zero_spread=0.5, reward=0.5, nonfinite_responses=0.0)
    bad, said = good | {"truncated": 0.6}, []
    for step, row in enumerate([bad, bad, good, good | {"parsed": 0.15}, good | {"parsed": 0.15}], 1):
        log.warn(step, row := dict(row))
        log.rows.append(row)
        said.append(row.get("warning", ""))
    assert ["--max_new_tokens" in s for s in said[:3]] == [True, True, False]
    assert ["--answer_format" in s for s in said[2:]] == [False, True, True]
    shown = capsys.readouterr().err  # of the first step say.first_look says it
    assert shown.count("--max_new_tokens") == 0 and shown.count("step 4: few hold an answer") == 1


# --- finished runs, judged anew


def finished(support: list[float], right: list[float]) -> list[dict]:
    """metrics.jsonl of a run that was looked at and evaluated after each step."""
    found = signals_of(*(dict(support=x) for x in support))
    return found + [{"step": n, "eval/pass@1": x} for n, x in enumerate([0.6, *right])]


def test_a_finished_run_is_judged_as_it_would_have_been(tmp_path):
    rows = finished([0.75, 0.8, 0.7, 0.4], [0.65, 0.7, 0.66, 0.3])
    found = bench.health.verdict("collapse-x", rows, health.LIMITS)
    assert (found.stopped, found.fell, found.kept, found.of_kept, found.best) == (3, 3, 2, 0.7, 0.7)
    assert found.in_time and found.close and not found.healthy
    late = bench.health.verdict("collapse-x", rows, bench.health.limits_of(["support=0.35"]))
    assert (late.stopped, late.kept) == (4, 2)
    never = bench.health.verdict("healthy-x", rows, bench.health.limits_of(["support="]))
    assert never.stopped is None and never.healthy and not never.in_time
    figures = bench.health.summary([found, late, never])
    assert (figures["false stops"], figures["stopped in time"], figures["fallen"]) == (0, 2, 2)
    with pytest.raises(UsageError, match="--limits nonsense=1: NAME=VALUE of agreement"):
        bench.health.limits_of(["nonsense=1"])


def test_a_kept_checkpoint_that_is_worse_is_not_close():
    found = bench.health.verdict("collapse-x", finished([0.8, 0.75], [0.6, 0.7]), health.LIMITS)
    assert (found.kept, found.close, found.fell) == (1, False, None)


# --- sentinels


class Plain:
    def encode(self, example, instruction=""):
        return Encoded(example.id, [1, 2])


def test_what_is_held_never_comes_again_in_any_epoch_or_after_a_resume(tmp_path):
    path = write_rows(tmp_path / "q.jsonl", [{"id": f"q{i}", "question": f"{i}?"} for i in range(10)])
    stream = Questions(str(path), Plain(), 3, 500)
    stream.hold(3)
    held = [stream.read_held(place).id for place in range(3)]
    order = [q.id for q in Questions(str(path), Plain(), 3, 500).next(10)]
    assert held == order[:3]
    seen = [q.id for _ in range(3) for q in stream.next(7)]
    assert sorted(seen) == sorted(order[3:] * 3) and seen[:7] == order[3:]
    resumed = Questions(str(path), Plain(), 3, 500, state=stream.state())
    resumed.hold(3)
    assert [resumed.read_held(place).id for place in range(3)] == held
    assert [q.id for q in resumed.next(5)] == [q.id for q in stream.next(5)]


WATCHED = dict(sentinels=4, sentinel_every=1)


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    """Enough for known differences, and fast."""
    monkeypatch.setattr(sentinels, "SAMPLES", 4)
    monkeypatch.setattr(sentinels, "VOTERS", 6)


def watched(out) -> list[dict]:
    return [row for row in rows(out) if "health/parsed" in row]


def healths(row: dict) -> dict:
    return {k: v for k, v in row.items() if k.startswith("health/") and "kl_" not in k}


def test_a_policy_that_stands_still_answers_as_before(tmp_path):
    """Its draws are fixed."""
    assert run(tmp_path / "r", lr=0.0, **WATCHED) == 0
    base, *later = watched(tmp_path / "r")
    assert [row["step"] for row in (base, *later)] == [0, 1, 2, 3]
    assert all(healths(row) == healths(base) for row in later)
    assert all(abs(row[f"health/kl_{part}"]) < 1e-5 for row in later for part in ("answer", "rest"))
    assert 0 < base["health/support"] < base["health/consistency"] < 1  # its votes are of other draws


def test_looks_are_at_the_base_every_so_often_and_at_the_end(tmp_path):
    assert run(tmp_path / "r", steps=5, **WATCHED | {"sentinel_every": 2}) == 0
    assert [row["step"] for row in watched(tmp_path / "r")] == [0, 2, 4, 5]
    assert all(
        ("seconds/sentinels" in row) == (row in watched(tmp_path / "r")) for row in rows(tmp_path / "r")
    )


def test_without_a_reference_there_is_no_kl(tmp_path):
    assert run(tmp_path / "r", steps=1, beta=0.0, **WATCHED) == 0
    assert watched(tmp_path / "r") and not any("kl_" in k for row in watched(tmp_path / "r") for k in row)


def test_a_source_that_is_one_step_alone_holds_nothing_back(tmp_path, questions_file):
    path, labelled = questions_file
    options = dict(steps=1, questions=len(labelled), group_size=2, max_new_tokens=4)
    assert run(tmp_path / "r", train_data=path, **options | WATCHED) == 0
    assert not watched(tmp_path / "r")


def test_of_a_small_source_at_most_a_quarter_is_held_back(tmp_path, questions_file, monkeypatch):
    monkeypatch.setattr("common.run_log.LOGGED_QUESTIONS", 4)
    path, labelled = questions_file
    assert run(tmp_path / "r", train_data=path, steps=5, sentinels=20, sentinel_every=5) == 0
    state = json.loads((tmp_path / "r" / "checkpoints" / "step-5" / "trainer.json").read_text())
    assert len(state["stream"]["held"]) == len(state["sentinels"]["base"]) == len(labelled) // 4
    trained = {row["id"] for row in rows(tmp_path / "r", "rollouts.jsonl")}
    assert len(trained) == len(labelled) - len(labelled) // 4


FAST = dict(lr=2e-3, **WATCHED)  # so that answers change


KEEP = FAST | {"stop_on_collapse": "True"}


def test_a_resumed_run_is_watched_as_the_run_never_stopped(tmp_path, monkeypatch):
    for name in list(health.LIMITS):  # nor does any of these stop
        monkeypatch.delitem(health.LIMITS, name)
    assert run(tmp_path / "whole", steps=4, **KEEP) == 0
    assert run(tmp_path / "parts", steps=2, **KEEP) == 0
    assert run(tmp_path / "parts", steps=4, resume=True, **KEEP) == 0
    whole, parts = ([without_times(r) for r in rows(tmp_path / name)] for name in ("whole", "parts"))
    assert whole == parts and len({r["health/agreement"] for r in watched(tmp_path / "whole")}) > 1
    assert fingerprint(tmp_path / "whole", 4) == fingerprint(tmp_path / "parts", 4)
    best = [(tmp_path / name / "checkpoints" / "best" / "trainer.json") for name in ("whole", "parts")]
    assert json.loads(best[0].read_text()) == json.loads(best[1].read_text())


def test_the_base_is_asked_once_however_early_a_run_was_killed(tmp_path):
    assert run(tmp_path / "r", steps=2, **FAST) == 0
    before = [without_times(r) for r in rows(tmp_path / "r")]
    for path in (tmp_path / "r" / "checkpoints").glob("step-*"):
        shutil.rmtree(path)
    assert run(tmp_path / "r", steps=2, resume=True, **FAST) == 0
    assert [without_times(r) for r in rows(tmp_path / "r")] == before


def test_the_best_is_kept_whole_beside_the_last(tmp_path, capsys, monkeypatch):
    """Here step 2 is, by what its sentinels are made to say."""
    says(monkeypatch, 0.5, 0.6, 0.7, 0.7, 0.4)
    folder, seen = tmp_path / "r" / "checkpoints", []

    def write(path, *what, then=mmupt.save_checkpoint, **options):
        then(path, *what, **options)
        seen.append(sorted(p.name for p in folder.iterdir()))

    monkeypatch.setattr(mmupt, "save_checkpoint", write)
    assert run(tmp_path / "r", steps=4, keep=1, **KEEP) == 0
    assert seen[:3] == [["best"], ["best"], ["best", "step-1"]] and ["best", "step-1"] in seen[3:4]
    assert sorted(p.name for p in folder.iterdir()) == ["best", "step-4"]
    assert json.loads((folder / "best" / "trainer.json").read_text())["step"] == 2
    assert health.best(watched(tmp_path / "r"))["step"] == 2
    assert f"without labels: {folder / 'best'}" in capsys.readouterr().out
    assert latest_checkpoint(folder) == folder / "step-4"
    load_model(str(folder / "best"))


def says(monkeypatch, *support: float) -> None:
    """What the sentinels' support is, look by look; nothing else is amiss."""
    values = iter(support)
    monkeypatch.setattr(health, "support", lambda base, now: next(values))
    for name in ("agreement", "collisions", "kl_answer", "kl_rest"):
        monkeypatch.setitem(health.LIMITS, name, 100.0)


def test_best_has_the_weights_of_its_step(tmp_path, monkeypatch):
    says(monkeypatch, 0.5, 0.6, 0.7, 0.65)
    assert run(tmp_path / "r", **KEEP) == 0
    shutil.move(tmp_path / "r" / "checkpoints" / "best", tmp_path / "r" / "checkpoints" / "step-9")
    assert fingerprint(tmp_path / "r", 9) == fingerprint(tmp_path / "r", 2) != fingerprint(tmp_path / "r", 3)


@pytest.mark.parametrize("stop", [True, False])
def test_a_collapse_ends_the_run_where_asked_and_is_said_anyway(tmp_path, capsys, monkeypatch, stop):
    says(monkeypatch, 0.5, 0.6, 0.3, 0.2)
    assert run(tmp_path / "r", stop_on_collapse=str(stop), **FAST) == 0
    said = capsys.readouterr()
    assert "warning, step 2: fewer samples say" in said.err
    assert ("stopped at step 2" in said.out and "lower --lr" in said.out) == stop
    last = tmp_path / "r" / "checkpoints" / f"step-{2 if stop else 3}"
    assert latest_checkpoint(last.parent) == last and rows(tmp_path / "r")[-1]["step"] == (2 if stop else 3)
    assert (last.parent / "best").exists() == stop  # a run that can't be stopped writes none
    assert not stop or json.loads((last.parent / "best" / "trainer.json").read_text())["step"] == 1
    report = (tmp_path / "r" / "report.html").read_text()
    assert ("stopped as it collapses: fewer samples say" in report) == stop
    assert ("all steps done" in report) != stop


def test_no_label_reaches_sentinels_or_the_choice_of_the_best(tmp_path, questions_file):
    path, labelled = questions_file
    answers = [r["answer"] for r in labelled]
    files = {
        "present": labelled,
        "permuted": [r | {"answer": a} for r, a in zip(labelled, answers[5:] + answers[:5], strict=True)],
        "absent": [{k: v for k, v in r.items() if k != "answer"} for r in labelled],
    }
    found = []
    for name, content in files.items():
        source = write_rows(path.with_name(f"{name}.jsonl"), content)
        assert run(tmp_path / name, train_data=source, stop_on_collapse="True", **FAST) == 0
        folder = tmp_path / name / "checkpoints"
        steps = sorted(p.name for p in folder.iterdir())
        weights = [(folder / s / "model.safetensors").read_bytes() for s in steps]
        found.append((steps, weights, [without_times(r) for r in rows(tmp_path / name)]))
    assert found[0] == found[1] == found[2] and "best" in found[0][0]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(sentinels=0, stop_on_collapse="True"), "--stop_on_collapse must be given with --sentinels"),
        (dict(sentinel_every=0), "--sentinel_every must be at least 1"),
        (dict(sentinels=-1), "--sentinels must be 0 or more"),
    ],
)
def test_bad_settings_are_refused(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        run(tmp_path / "r", **options)


def test_the_sentinels_of_a_run_stay(tmp_path):
    assert run(tmp_path / "r", steps=1, **WATCHED) == 0
    with pytest.raises(UsageError, match="--sentinels was 4 in .* and can't change"):
        run(tmp_path / "r", resume=True, sentinels=5)


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["off", "on"])
def test_two_processes_see_what_one_does_and_stop_together(tmp_path, shard):
    """Five sentinels, dealt to two."""
    options = dict(steps=5, questions=8, group_size=3, lr=5e-3, save_every=5, seed=1)
    options |= dict(sentinels=5, sentinel_every=1, stop_on_collapse="True")
    for name, processes, more in (("one", 1, {}), ("two", 2, {"shard": shard})):
        done = run_program(
            *"-m torch.distributed.run --standalone --nproc_per_node".split(),
            processes,
            "mmupt.py",
            *flags(out=tmp_path / name, **options | more),
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "stopped at step" in done.stdout
    one, two = ([healths(r) for r in watched(tmp_path / name)] for name in ("one", "two"))
    assert len(one) == len(two) > 1 and one[0] == two[0]
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, abs=0.05)  # a sample may differ by rounding
    folders = [tmp_path / name / "checkpoints" / "best" / "trainer.json" for name in ("one", "two")]
    best = [json.loads(path.read_text()) for path in folders]
    assert best[0]["sentinels"] == best[1]["sentinels"] and best[0]["step"] == best[1]["step"]
