"""Who is lost, who is stuck, who is merely slow: by recorded states, and by processes that really die."""

import json
import re
import socket
import threading
import time
from dataclasses import replace

import pytest
from conftest import ROOT, run_program
from running import fingerprint, flags
from torch.distributed import TCPStore

from common import distributed, pulse
from common.errors import UsageError
from common.pulse import HURRY, PATIENT, Awake, Place, Watch
from model.checkpoint import checkpoints, is_whole

BOUND = 60.0


class Ranks:
    """States of some ranks, second by second, as another rank reads them."""

    def __init__(self, size: int = 3, **known):
        start = dict(step=12, stage="update", passed=100, ticks=0, steady=True, saved="runs/x/step-10")
        self.places = [Place(**start | known) for _ in range(size)]
        self.clock, self.watch = 1000.0, Watch(size, BOUND, 1000.0)

    def set(self, rank: int, **values) -> None:
        self.places[rank] = replace(self.places[rank], **values)

    def wait(self, *ranks: int) -> None:
        """These begin to wait in the next collective."""
        for rank in ranks:
            self.set(rank, waiting=True, passed=self.places[rank].passed + 1)
        self.watch.look(self.places, self.clock)

    def go(self, seconds: float, dead=(), tick=lambda rank, second: False, hurried=False):
        """(seconds until a verdict, the verdict), or None after `seconds`."""
        for second in range(1, int(seconds) + 1):
            for rank, place in enumerate(self.places):
                if rank not in dead:
                    self.set(rank, beat=place.beat + 1, ticks=place.ticks + tick(rank, second))
            self.clock += 1
            if verdict := self.watch.look(self.places, self.clock, hurried):
                return second, verdict
        return None


def test_a_rank_whose_beats_stop_is_lost_and_the_line_says_where():
    ranks = Ranks(4)
    assert ranks.go(5) is None
    seconds, verdict = ranks.go(100, dead=[3])
    assert seconds == BOUND + 1 and not verdict.stuck
    assert verdict.text == (
        "rank 3 was lost in stage update of step 12 (no sign of life for 61 s); "
        "the last checkpoint is runs/x/step-10; continue with --resume"
    )


def test_a_few_seconds_are_enough_once_a_collective_broke_or_the_launcher_ends_the_run():
    seconds, verdict = Ranks(2).go(100, dead=[0], hurried=True)
    assert seconds == HURRY + 1 and verdict.text.startswith("rank 0 was lost")
    assert Ranks(2).go(500, hurried=True) is None


def test_before_the_first_stage_and_the_first_checkpoint_the_line_says_so():
    ranks = Ranks(2, stage="", saved="")
    assert ranks.go(100, dead=[1])[1].text == (
        "rank 1 was lost at the start (no sign of life for 61 s); there is no checkpoint yet; "
        "continue with --resume"
    )


def test_a_rank_that_others_wait_for_in_vain_is_stuck():
    ranks = Ranks(3)
    ranks.set(0, passed=104, step=13, stage="rollout")
    ranks.wait(0, 2)
    seconds, verdict = ranks.go(100)
    assert seconds == BOUND + 1 and verdict.stuck == [1]
    assert verdict.text.startswith("rank 1 is stuck in stage update of step 12 (no progress for 61 s); ")


def test_a_rank_that_beats_no_more_is_lost_and_not_stuck_though_others_wait_longer():
    ranks = Ranks(2)
    ranks.wait(0)
    assert ranks.go(30) is None  # it is there, without progress
    seconds, verdict = ranks.go(100, dead=[1])
    assert seconds == BOUND + 1 and verdict.text.startswith("rank 1 was lost") and not verdict.stuck


def test_it_is_missed_only_from_when_others_wait():
    ranks = Ranks(2)
    assert ranks.go(200, tick=lambda rank, second: rank == 0) is None
    ranks.wait(0)
    seconds, verdict = ranks.go(100)
    assert seconds == BOUND + 1 and verdict.stuck == [1]


@pytest.mark.parametrize("every", [1, 30, 59])
def test_a_slow_rank_that_ticks_is_not_blamed_however_long_the_others_wait(every):
    ranks = Ranks(3)
    ranks.wait(0, 2)
    assert ranks.go(3600, tick=lambda rank, second: rank == 1 and second % every == 0) is None
    seconds, verdict = ranks.go(200)  # and when it ticks no more it is
    assert verdict.stuck == [1] and BOUND < seconds <= 2 * every + BOUND + 1


def test_who_waits_for_a_stuck_rank_is_not_blamed_though_it_has_fewer_ticks():
    ranks = Ranks(3)
    ranks.set(1, ticks=500)
    ranks.wait(0, 2)
    assert ranks.go(100)[1].stuck == [1]


def test_ranks_that_share_their_forwards_are_told_apart_by_ticks():
    """Sharded: collectives within the model are not marked as waiting."""
    ranks = Ranks(3, ticks=40)
    ranks.set(2, ticks=39)
    assert ranks.go(100)[1].stuck == [2]
    ranks = Ranks(3, ticks=40)
    ranks.set(0, ticks=41)
    assert ranks.go(100)[1].text.startswith("ranks 1, 2 are stuck in stage update of step 12")


def test_a_rank_that_is_behind_by_a_stage_or_a_collective_is_the_culprit():
    ranks = Ranks(2)
    ranks.set(1, stage="reward", passed=98)
    ranks.wait(0)
    assert "rank 1 is stuck in stage reward" in ranks.go(100)[1].text
    ranks = Ranks(2, waiting=True)  # 0 never came out of a collective that 1 has behind it
    ranks.set(1, passed=101, waiting=False)
    ranks.wait(1)
    assert ranks.go(1000)[1].stuck == [0]


def test_nobody_is_missed_while_all_work():
    assert Ranks(3, steady=False, stage="").go(5000) is None  # loading, without a tick
    assert Ranks(3).go(5000) is None


def test_a_collective_that_nobody_leaves_names_nobody():
    ranks = Ranks(3)
    for rank in range(3):
        ranks.set(rank, ticks=rank)
    ranks.wait(0, 1, 2)
    seconds, verdict = ranks.go(1000)
    assert seconds == PATIENT * BOUND + 1 and not verdict.stuck
    assert verdict.text.startswith(
        "no rank gets on in stage update of step 12 (all wait for each other for 601 s)"
    )


@pytest.mark.parametrize("stage", ["", "rollout"])
def test_the_first_pass_of_a_stage_has_ten_times_the_bound(stage):
    ranks = Ranks(2, steady=False, stage=stage)
    ranks.wait(0)
    seconds, verdict = ranks.go(1000)
    assert seconds == PATIENT * BOUND + 1 and verdict.stuck == [1]


def test_a_stage_whose_ticks_are_far_apart_has_twice_that():
    """A micro-batch of a large model on a CPU."""
    ranks = Ranks(2, steady=False)
    assert ranks.go(301, tick=lambda rank, second: second % 100 == 0) is None
    for rank in range(2):
        ranks.set(rank, steady=True, passed=110, ticks=0)
    ranks.go(1)
    ranks.wait(0)
    seconds, verdict = ranks.go(1000)
    assert 200 <= seconds <= 202 and verdict.stuck == [1]


def test_time_spent_waiting_is_no_measure_of_a_stage():
    ranks = Ranks(2)
    ranks.wait(0)
    assert ranks.go(3000, tick=lambda rank, second: rank == 1) is None
    ranks.set(0, waiting=False, passed=102)
    ranks.wait(1)
    ranks.set(1, passed=103)
    assert ranks.go(100)[1].stuck == [0]


def test_a_rank_that_left_by_an_error_is_named_with_it_and_one_that_is_done_is_not():
    ranks = Ranks(3)
    ranks.set(2, ended="")
    assert ranks.go(1000, dead=[2]) is None
    ranks.set(1, ended="OSError: disk full")
    seconds, verdict = ranks.go(100, dead=[1, 2])
    assert seconds == HURRY + 1
    assert verdict.text.startswith("rank 1 ended in stage update of step 12 (OSError: disk full); ")


def test_the_store_goes_with_who_holds_it():
    ranks = Ranks(2)
    ranks.go(3)
    gone = ranks.watch.gone(0, "was lost")
    assert gone.text.startswith(
        "rank 0, which holds the store of the run, was lost in stage update of step 12; "
    )
    assert ranks.watch.gone(None, "was lost").text.startswith(
        "torchrun, which holds the store of the run, was lost"
    )
    ranks.set(0, ended="")
    ranks.go(1)
    assert ranks.watch.gone(0, "was lost") is None  # it was done
    ranks.set(0, ended="OSError: disk full")
    ranks.go(1)
    assert "rank 0 ended in stage update" in ranks.watch.gone(0, "was lost").text


def test_a_process_that_was_stopped_itself_blames_nobody_when_it_goes_on():
    awake = Awake(500.0)
    assert [awake(501.0), awake(502.0), awake(9000.0), awake(9001.0)] == [1, 2, 5, 6]


def test_a_place_moves_by_stages_collectives_and_ticks(monkeypatch):
    monkeypatch.setattr(pulse, "here", Place())
    monkeypatch.setattr(pulse, "_ticking", set())
    for step in (1, 2):
        pulse.enter(step, "data")
        pulse.enter(step, "rollout")
        assert pulse.here.steady == (step == 2) and pulse.here.ticks == 0
        pulse.tick()
        with pulse.waiting():
            assert pulse.here.waiting
    assert not pulse.here.waiting and (pulse.here.passed, pulse.here.ticks, pulse.here.step) == (8, 1, 2)
    pulse.enter(3, "data")
    assert not pulse.here.steady  # a stage that never ticks
    with pytest.raises(RuntimeError), pulse.waiting():
        raise RuntimeError("connection reset")
    assert not pulse.here.waiting


def test_one_process_has_no_pulse(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    threads = threading.active_count()
    distributed.start(1.0)
    assert threading.active_count() == threads and pulse._running is None
    distributed.stop()


def test_ranks_that_never_start_are_named(monkeypatch):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    with pytest.raises(UsageError, match=r"after 1 s of 3 processes \[1, 2\] have not started"):
        distributed.join(0, 3, 1.0)


def test_keys_of_ranks_that_were_killed_are_no_part_of_a_new_start(monkeypatch):
    """torchrun's store outlives its ranks: rank 1 of the last start is found first, and of it only names."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    found = []

    def start(delays: tuple[float, ...]) -> set[str]:
        def one(rank: int) -> None:
            time.sleep(delays[rank])
            found.append(distributed.join(rank, len(delays), 20.0)[1])

        found.clear()
        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(delays))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == len(delays)
        return set(found)

    names = [start(delays) for delays in ((0, 0, 0), (0, 0.3, 0.6), (0.6, 0.3, 0), (0.3, 0, 0.6))]
    assert all(len(one) == 1 for one in names) and len(set.union(*names)) == 4


# --- processes that die

PLANTS = (
    "none@1",
    "killed@1",
    "killed-in-save@1",
    "killed-while-writing@0",
    "stopped@1",
    "stuck@1",
    "slow@1",
)
OPTIONS = dict(steps=6, rank_timeout=5)


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """(folder, by plant: exit statuses, seconds from fault to the survivor's end, what the survivor said)."""
    out = tmp_path_factory.mktemp("ranks")
    found = {}
    for group in (PLANTS[:4], (*PLANTS[4:], "failed@1")):  # so many processes at a time
        done = run_program(ROOT / "tests" / "ranks.py", out, *group, "--", *flags(**OPTIONS), timeout=120)
        assert done.returncode == 0, done.stderr
        found |= json.loads(done.stdout.splitlines()[-1])
    for name, end in found.items():
        faulty = int(name[-1])
        said = [(out / f"{name}.{rank}").read_text() for rank in range(2)]
        times = [line for line in said[faulty].splitlines() if re.fullmatch(r"[0-9.]+", line)]
        began = float(times[0]) if times else 0.0
        found[name] = end["status"], end["end"][1 - faulty] - began, said[1 - faulty]
    return out, found


LINE = "error: rank {}; the last checkpoint is {}; continue with --resume\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "says", "saved"),
    [
        ("killed@1", "1 was lost in stage reward of step 2 (no sign of life for {} s)", 1),
        ("killed-in-save@1", "1 was lost in stage save of step 2 (no sign of life for {} s)", 2),
        (
            "killed-while-writing@0",
            "0, which holds the store of the run, was lost in stage save of step 2",
            1,
        ),
        ("stopped@1", "1 was lost in stage rollout of step 2 (no sign of life for {} s)", 1),
        ("stuck@1", "1 is stuck in stage reward of step 2 (no progress for {} s)", 1),
        ("failed@1", "1 ended in stage score of step 2 (ZeroDivisionError: planted)", 1),
    ],
)
def test_the_survivor_ends_and_says_which_rank_where_and_what_is_saved(ends, plant, says, saved):
    out, found = ends
    status, seconds, said = found[plant]
    folder = out / plant / "checkpoints"
    assert status[1 - int(plant[-1])] == 1
    assert seconds < OPTIONS["rank_timeout"] + 15
    assert "Traceback" not in said
    last = said[said.index("error: ") :]
    assert last in {LINE.format(says.format(n), folder / f"step-{saved}") for n in range(4, 12)}
    assert [p.name for p in checkpoints(folder)] == [f"step-{n + 1}" for n in range(saved)]
    assert all(map(is_whole, checkpoints(folder)))


@pytest.mark.slow
def test_the_stuck_rank_says_what_it_is_stuck_in(ends):
    out, found = ends
    assert found["stuck@1"][0] == [1, 1]
    said = (out / "stuck@1.1").read_text()
    assert "error: rank 1 is stuck" in said and "in spin\n" in said


@pytest.mark.slow
def test_a_slow_rank_that_ticks_is_waited_for_and_trains_as_any_other(ends):
    out, found = ends
    assert found["slow@1"][0] == found["none@1"][0] == [0, 0]
    assert fingerprint(out / "slow@1", 6) == fingerprint(out / "none@1", 6)


@pytest.mark.slow
def test_torchrun_restarts_after_a_kill_and_the_run_is_the_one_never_killed(ends, tmp_path):
    options = ["--in_steps", 1, "--in_saves", 0, "--whole", ends[0] / "none@1"]
    done = run_program(ROOT / "tests" / "kill_ranks.py", tmp_path / "r", *options, "--", *flags(**OPTIONS))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "1 of 1 kills as they should be" in done.stdout
