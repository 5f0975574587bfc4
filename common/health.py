"""Is a run healthy? Signals that need no labels, their limits, and which step was the best.

Sentinels are unlabelled questions that are never trained on (evaluation/sentinels.py). The base votes on them
before the first update; the policy answers them then and every few steps, always by the same random draws,
which are not those of the base's votes. Here are pure functions of those answers: `base` and `now` hold for
each sentinel the classes of its samples' answers, None where nothing parsed; a class has one name in both.

A row of metrics.jsonl holds signals as `health/NAME`; the first row that does is the base's. `judge` and
`best` need such rows alone, so a finished run can be judged anew, by other limits (bench/health.py).
What the vote rewards rises in a collapse as it rises in learning, so it is no signal.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

Answers = Sequence[Sequence[str | None]]

# --- Signals --------------------------------------------------------------------------------------


def leaders(classes: Sequence[str | None]) -> set[str]:
    """The commonest class; several where they tie, none where nothing parsed."""
    counts = Counter(name for name in classes if name is not None)
    return {name for name, n in counts.items() if n == max(counts.values())}


def agreement(base: Answers, now: Answers) -> float:
    """Mean over sentinels of |W & W'| / |W | W'|, W and W' the leaders of base and policy: 1 where both votes
    have the same winner. Sentinels without an answer of the base are left out."""
    pairs = [(leaders(b), leaders(n)) for b, n in zip(base, now, strict=True)]
    return mean(len(b & n) / len(b | n) for b, n in pairs if b)


def support(base: Answers, now: Answers) -> float:
    """Mean over sentinels of the share of the policy's samples that say what the base's vote says: pass@1,
    with the base's votes in the place of labels. Where the base's vote ties, its leaders' mean share."""
    pairs = [(leaders(b), n) for b, n in zip(base, now, strict=True)]
    return mean(sum(name in b for name in n) / len(n) / len(b) for b, n in pairs if b)


def consistency(now: Answers) -> float:
    """Mean share of the commonest answer of a sentinel, of all its samples."""
    return mean(max(Counter(x for x in n if x is not None).values(), default=0) / len(n) for n in now)


def collisions(now: Answers) -> float:
    """Share of pairs of sentinels whose votes have the same winner, of those that have one: at 1 all
    questions get one answer."""
    winners = Counter(next(iter(found)) for n in now if len(found := leaders(n)) == 1)
    total = winners.total()
    return sum(n * (n - 1) for n in winners.values()) / (total * (total - 1)) if total > 1 else 0.0


def parsed(now: Answers) -> float:
    """Share of samples that hold an answer."""
    return mean(sum(name is not None for name in n) / len(n) for n in now)


def per_token(answer=(), of_answer=(), rest=(), of_rest=()) -> dict[str, float]:
    """KL per token within answers and outside of them, from sums over tokens and their numbers; nothing of
    nothing."""
    if not answer:
        return {}
    return {"kl_answer": sum(answer) / max(sum(of_answer), 1), "kl_rest": sum(rest) / max(sum(of_rest), 1)}


def mean(values) -> float:
    """0 of nothing."""
    values = list(values)
    return fmean(values) if values else 0.0


def signals(base: Answers, now: Answers) -> dict[str, float]:
    """All that answers alone say; nothing beside the base where it gave no answer at all."""
    found = {"consistency": consistency(now), "collisions": collisions(now), "parsed": parsed(now)}
    if parsed(base):
        found |= {"agreement": agreement(base, now), "support": support(base, now)}
    return found


# --- Limits ---------------------------------------------------------------------------------------


class Sign(NamedTuple):
    """A signal beyond its limit, which is LIMITS[name]."""

    signal: str
    beyond: Callable[[float, float, float, float], bool]  # of limit, value now, at the base, the highest
    says: str


LIMITS = {
    "agreement": 0.15,
    "support": 0.05,
    "collisions": 0.2,
    "parsed": 0.7,
    "longer": 3.0,
    "shorter": 1 / 3,
    "kl_answer": 1.0,
    "kl_rest": 0.5,
}
SIGNS = {
    "agreement": Sign("agreement", lambda x, now, base, top: now < base - x, "votes leave the base's"),
    "support": Sign(
        "support", lambda x, now, base, top: now < top - x, "fewer samples say what the base's votes say"
    ),
    "collisions": Sign(
        "collisions", lambda x, now, base, top: now > base + x, "different questions get the same answer"
    ),
    "parsed": Sign("parsed", lambda x, now, base, top: now < x * base, "fewer responses hold an answer"),
    "longer": Sign("length", lambda x, now, base, top: now > x * base, "responses grow"),
    "shorter": Sign("length", lambda x, now, base, top: now < x * base, "responses shrink"),
    "kl_answer": Sign("kl_answer", lambda x, now, base, top: now > x, "answers are far from the base's"),
    "kl_rest": Sign("kl_rest", lambda x, now, base, top: now > x, "reasoning is far from the base's"),
}


def judge(rows: Sequence[Mapping], limits: Mapping[str, float] = LIMITS) -> list[str]:
    """What says, at the last of these rows, that the run collapses; the first is the base's."""
    said = []
    for name, (signal, beyond, says) in SIGNS.items():
        values = [v for row in rows if (v := row.get(f"health/{signal}")) is not None]
        if name in limits and values and rows[-1].get(f"health/{signal}") is not None:
            base, top, now = values[0], max(values), values[-1]
            if beyond(limits[name], now, base, top):
                said.append(f"{says}: {signal} {base:.2f} -> {now:.2f} (highest {top:.2f})")
    return said


def is_better(rows: Sequence[Mapping], best: float | None, limits: Mapping[str, float] = LIMITS) -> bool:
    """Whether the policy of the last row is the best so far: nothing is amiss, and more of its samples say
    what the base's votes say than did at the `best` step until then, None where there is none."""
    now = rows[-1].get("health/support")
    return now is not None and (best is None or now > best) and not judge(rows, limits)


def best(rows: Sequence[Mapping], limits: Mapping[str, float] = LIMITS) -> Mapping:
    """The row of the step that checkpoints/best holds in the end; of several that are equal the first."""
    chosen = rows[0]
    for n in range(2, len(rows) + 1):
        if is_better(rows[:n], chosen.get("health/support"), limits):
            chosen = rows[n - 1]
    return chosen


# --- A step by itself -----------------------------------------------------------------------------

FEW_PARSED, MANY_TRUNCATED, MANY_ALIKE = 0.2, 0.5, 0.9
HARDLY = 0.1  # of the first responses: a format that reads fewer is warned of by evaluation/reading.py


def advice(row: Mapping) -> list[str]:
    """Why a step, by its row of metrics.jsonl, can't teach, and the flag to change."""
    found = []
    if row["truncated"] > MANY_TRUNCATED:
        found.append("most responses are cut: raise --max_new_tokens")
    if row["parsed"] < FEW_PARSED:  # the other warning names a better format
        flags = "--instruction" if row["parsed"] < HARDLY else "--answer_format or --instruction"
        found.append(f"few hold an answer: change {flags}")
    if row["zero_spread"] > MANY_ALIKE and not found:  # else for that reason
        agree = row["reward"] > 0.5
        way = "all earn: raise --temperature, or" if agree else "hardly any earns: raise --group_size, or"
        found.append(f"groups don't teach, {way} take {'harder' if agree else 'easier'} questions")
    return found
