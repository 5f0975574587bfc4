"""A run of several processes ends when one of them is lost or stuck, and says which and where.

Ranks wait for one another inside of collectives, where no exception can reach them, and for as long as the
longest rollout takes. So every process has two threads beside the main one. `exchange` writes to the run's
store (which the process group was made with), once a second and at each new stage, that this rank is alive
and how far it is, and reads the same of the others; `judge` looks, by its own clock, at what changed:

lost    its beats have stopped for `timeout` seconds: killed, stopped, its machine gone. Once a collective has
        broken here, or the launcher has asked for an end, HURRY seconds are enough.
ended   it left by an error, which it has told.
stuck   it beats, but is furthest behind and hasn't got on for `timeout` seconds, nor has one that is ahead.
        A slow rank that ticks is never blamed. The bound is PATIENT times longer where a lack of ticks says
        little: in loading, in the first pass of every stage (compilation), in stages that don't tick; and
        always at least twice what that stage took between two ticks before.

Then every process says the same line and ends. A program says where it is: `enter(step, stage)`, `tick()` in
loops, `waiting()` around collectives. With one process nothing runs.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import NamedTuple

from torch.distributed import PrefixStore, TCPStore

BEAT = 1.0  # seconds between beats
HURRY = 5.0
PATIENT = 10.0


# --- Where this process is ------------------------------------------------------------------------


@dataclass
class Place:
    step: int = 0
    stage: str = ""  # none yet: loading
    passed: int = 0  # stages entered, collectives begun and ended: on every rank the same, in the same order
    ticks: int = 0  # in this stage
    steady: bool = False  # this stage ticked when it was last passed
    waiting: bool = False  # for the others, in a collective
    ended: str | None = None  # once it has left: why, or nothing
    saved: str | None = None  # the last checkpoint
    beat: int = 0

    def __str__(self) -> str:
        return f"in stage {self.stage} of step {self.step}" if self.stage else "at the start"

    def order(self) -> tuple[int, int]:
        """Of two ranks the one with less is behind; of those in one collective neither is."""
        return self.passed, 0 if self.waiting else self.ticks


here = Place()
_ticking: set[str] = set()  # stages that have ticked
_running: "Pulse | None" = None
at_tick: Callable[[], None] | None = None  # what else is done there, see stop.py


def enter(step: int, stage: str) -> None:
    if here.ticks:
        _ticking.add(here.stage)
    here.passed += 1
    here.step, here.stage, here.ticks, here.steady = step, stage, 0, stage in _ticking
    if _running:
        _running.moved.set()


def tick() -> None:
    """One more piece of the stage's work is done."""
    here.ticks += 1
    if at_tick:
        at_tick()


@contextmanager
def waiting():
    """Around a collective."""
    here.passed += 1
    here.waiting = True
    try:
        yield
    finally:
        here.waiting = False
        here.passed += 1


# --- Verdicts -------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    text: str
    stuck: Sequence[int] = ()  # ranks that are alive


class Watch:
    """What this rank knows of all. `clock`: seconds, of this process alone."""

    def __init__(self, size: int, timeout: float, clock: float = 0.0):
        self.timeout, self.places = timeout, [Place() for _ in range(size)]
        self.alive, self.moved = [clock] * size, [clock] * size  # when its beat and its place last changed
        self.longest: dict[tuple[int, str], float] = {}  # seconds without a tick, by rank and stage

    def look(self, places: Sequence[Place], clock: float, hurried: bool = False) -> Verdict | None:
        for rank, (old, new) in enumerate(zip(self.places, places, strict=True)):
            if new.beat != old.beat:
                self.alive[rank] = clock
            if (new.passed, new.ticks) != (old.passed, old.ticks):
                if not old.waiting:
                    gap, key = clock - self.moved[rank], (rank, old.stage)
                    self.longest[key] = max(gap, self.longest.get(key, 0.0))
                self.moved[rank] = clock
        self.places = list(places)
        return self.lost(clock, hurried) or self.ended(clock, hurried) or self.stuck(clock)

    def say(self, what: str, stuck: Sequence[int] = ()) -> Verdict:
        saved = self.places[0].saved  # rank 0 writes them
        then = "there is no checkpoint yet" if saved == "" else f"the last checkpoint is {saved}"
        return Verdict(what + f"; {then}" * (saved is not None) + "; continue with --resume", stuck)

    def lost(self, clock: float, hurried: bool) -> Verdict | None:
        bound = min(HURRY, self.timeout) if hurried else self.timeout
        for rank, place in enumerate(self.places):
            silent = clock - self.alive[rank]
            if place.ended is None and silent > bound:
                return self.say(f"rank {rank} was lost {place} (no sign of life for {silent:.0f} s)")
        return None

    def ended(self, clock: float, hurried: bool) -> Verdict | None:
        """An ended rank beats no more; the others get some time to end by themselves."""
        for rank, place in enumerate(self.places):
            if place.ended and clock - self.alive[rank] > (2 * BEAT if hurried else HURRY):
                return self.say(f"rank {rank} ended {place} ({place.ended})")
        return None

    def stuck(self, clock: float) -> Verdict | None:
        still = {r: clock - self.moved[r] for r, place in enumerate(self.places) if place.ended is None}
        last = min((self.places[r] for r in still), key=Place.order)
        behind = [r for r in still if self.places[r].order() == last.order()]
        ahead = [still[r] for r in still if r not in behind]
        shortest = min(still[r] for r in behind)
        if any(clock - self.alive[r] > 3 * BEAT for r in behind):
            return None  # not even a beat: soon it counts as lost
        if ahead and max(ahead) > self.timeout and all(still[r] > self.patience(r) for r in behind):
            who = f"rank {behind[0]} is" if len(behind) == 1 else f"ranks {', '.join(map(str, behind))} are"
            return self.say(f"{who} stuck {last} (no progress for {shortest:.0f} s)", behind)
        if not ahead and len(still) > 1 and last.waiting and shortest > PATIENT * self.timeout:
            return self.say(f"no rank gets on {last} (all wait for each other for {shortest:.0f} s)")
        return None

    def gone(self, holder: int | None, how: str) -> Verdict | None:
        """The run's store is gone; rank `holder` had it, or torchrun."""
        if holder is None:
            return self.say(f"torchrun, which holds the store of the run, {how}")
        place = self.places[holder]
        if place.ended is None:
            return self.say(f"rank {holder}, which holds the store of the run, {how} {place}")
        return self.say(f"rank {holder} ended {place} ({place.ended})") if place.ended else None

    def patience(self, rank: int) -> float:
        """Seconds without progress that are still no sign: twice of what it has taken before, at least."""
        place = self.places[rank]
        bound = self.timeout if place.steady else PATIENT * self.timeout
        return max(bound, 2 * self.longest.get((rank, place.stage), 0.0))


# --- Threads --------------------------------------------------------------------------------------


class Awake:
    """A clock that stands still while this process was stopped: then all others seem silent."""

    def __init__(self, now: float):
        self.seconds, self.now = 0.0, now

    def __call__(self, now: float) -> float:
        self.seconds += min(now - self.now, 3 * BEAT)
        self.now = now
        return self.seconds


class Pulse:
    def __init__(self, rank: int, size: int, timeout: float, prefix: str):
        """In the main thread. `prefix`: of the store's keys, of this run alone."""
        self.rank, self.size, self.timeout = rank, size, timeout
        self.prefix, self.holder = prefix, holder()
        self.hurried = False
        self.verdict: Verdict | None = None
        self.moved, self.done = threading.Event(), threading.Event()
        self.news: queue.SimpleQueue = queue.SimpleQueue()  # (all places, a verdict) or an error
        self.signals, self.into_signals = os.pipe()
        for end in (self.signals, self.into_signals):
            os.set_blocking(end, False)
        # the main thread may wait in a collective: then no handler runs, but this is written
        signal.set_wakeup_fd(self.into_signals, warn_on_full_buffer=False)
        self.exchanger = threading.Thread(target=self.exchange, daemon=True)
        self.judging = threading.Thread(target=self.judge, daemon=True)
        self.exchanger.start()
        self.judging.start()

    def exchange(self) -> None:
        try:
            # its own connection: that of the process group is taken for as long as the main thread waits
            store = PrefixStore(self.prefix, connect(None, PATIENT * self.timeout))
            while not self.done.is_set():
                self.moved.clear()
                self.publish(store)
                self.news.put(self.read(store))
                self.moved.wait(BEAT)
            self.publish(store)
            until = time.monotonic() + HURRY  # a store of its own goes with it: the others read it before
            while self.rank == self.holder and time.monotonic() < until:
                if all(place.ended is not None for place in self.read(store)[0]):
                    break
                time.sleep(0.1)
        except RuntimeError as error:  # all that a store raises
            self.news.put(error)

    def publish(self, store: PrefixStore) -> None:
        here.beat += 1
        store.set(f"pulse/{self.rank}", json.dumps(asdict(here)))

    def read(self, store: PrefixStore) -> tuple[list[Place], Verdict | None]:
        """All places, and the verdict that came first, where there is one."""
        keys, key = [f"pulse/{rank}" for rank in range(self.size)], "verdict"
        known = keys if store.check(keys) else [one for one in keys if store.check([one])]
        found = dict(zip(known, store.multi_get(known), strict=True))
        places = [Place(**json.loads(found[one])) if one in found else Place() for one in keys]
        if self.verdict:
            return places, Verdict(*json.loads(store.compare_set(key, "", json.dumps(self.verdict))))
        return places, Verdict(*json.loads(store.get(key))) if store.check([key]) else None

    def judge(self) -> None:
        watch, awake = Watch(self.size, self.timeout), Awake(time.monotonic())
        heard, bound = 0.0, PATIENT * self.timeout
        while not self.done.is_set():
            news = self.hear(BEAT)
            clock, verdict = awake(time.monotonic()), None
            if isinstance(news, RuntimeError):
                self.done.wait(2 * BEAT)  # this process may be about to end as well
                verdict = watch.gone(self.holder, "was lost")
                if not verdict:
                    return
            elif news:
                heard, bound = clock, self.timeout
                verdict = news[1] or watch.look(news[0], clock, self.hurried)
            elif clock - heard > bound:
                verdict = watch.gone(self.holder, f"has not answered for {bound:.0f} s")
            if verdict and not self.done.is_set():
                self.end(verdict)

    def hear(self, seconds: float):
        """What the other thread has sent, or None."""
        try:
            self.hurried |= signal.SIGTERM in os.read(self.signals, 100)
        except BlockingIOError:
            pass
        try:
            return self.news.get(timeout=seconds)
        except queue.Empty:
            return None

    def end(self, verdict: Verdict) -> None:
        """Says the verdict that came first on any rank."""
        self.verdict = verdict
        until = time.monotonic() + 3 * BEAT
        while time.monotonic() < until:
            news = self.hear(BEAT)
            if isinstance(news, RuntimeError):
                break
            if news and news[1]:
                verdict = news[1]
                break
        if self.done.is_set():  # the main thread has ended by itself
            return
        os.write(2, f"error: {verdict.text}\n".encode())  # whatever lock the main thread holds
        if self.rank in verdict.stuck:  # what it is stuck in
            stack = traceback.format_stack(sys._current_frames()[threading.main_thread().ident or 0])
            os.write(2, "".join(stack).encode())
        if self.rank == self.holder:
            time.sleep(3 * BEAT)  # until the others have read it
        os._exit(1)


def holder() -> int | None:
    """Rank 0 holds the run's store, or torchrun does."""
    return None if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else 0


def connect(rank: int | None, seconds: float) -> TCPStore:
    """A connection to the run's store, for which it waits; where rank 0 holds it, it is made by rank 0."""
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    made = rank is not None and rank == holder()
    return TCPStore(
        *address,
        is_master=made,
        timeout=timedelta(seconds=seconds),
        wait_for_workers=False,
        multi_tenant=True,
    )


def start(rank: int, size: int, timeout: float, prefix: str) -> None:
    """Before the process group is made, in which a rank may be lost already."""
    global here, _running
    here = Place()
    _ticking.clear()
    _running = Pulse(rank, size, timeout, prefix)


def stop(error: BaseException | None) -> None:
    """At the end. `error`: in flight, if any. Doesn't return where that came of another rank's loss."""
    global _running
    if not _running:
        return
    if isinstance(error, RuntimeError):  # as a broken collective raises
        _running.hurried = True
        _running.judging.join(HURRY + 4 * BEAT)
    if here.ended is None:
        here.ended = "" if error is None else f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    _running.done.set()
    _running.moved.set()
    _running.exchanger.join(2 * HURRY)
    signal.set_wakeup_fd(-1)
    _running = None
