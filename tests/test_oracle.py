"""Whole runs of two steps against the recomputation in oracle.py, one for each setting of the update.

    pytest tests/test_oracle.py -q -s      also prints the largest error of each quantity over all runs

Each case runs the program as a user does and says by what one sees that its settings acted. A seed is chosen
so that no update is without advantages while the policy is still its reference: what remains of a gradient
there is rounding noise of the KL term, AdamW divides it by its own size, and no recomputation can follow.
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, run_program, write_rows
from oracle import MADE, Oracle, Result, adapter_scale, saved_weights
from PIL import Image
from recorder import record

TINY = ROOT / "data" / "tiny"
SETTINGS = {
    "steps": 2, "questions": 4, "group_size": 4, "minibatch_questions": 0, "max_new_tokens": 24, "seed": 0,
    "lr": 1e-3, "warmup_steps": 0, "weight_decay": 0.01, "max_grad_norm": 1e6, "freeze_vision": False,
    "lora_rank": 0, "reward": "majority", "vote": "sound", "min_share": 0.0, "scale": "std",
    "beta": 0.1, "kl": "k3", "kl_clamp": 0.0, "clip_low": 0.2, "clip_high": 0.3, "dual_clip": 0.0,
    "aggregate": "grpo", "ratio": "token", "temperature": 1.0, "top_p": 1.0,
    "tokens_per_forward": 16384, "gradient_checkpointing": False, "sentinels": 0,
    "min_margin": 0.0, "gate": "none", "share_power": 0.0, "mask_answer": False, "other_view": "none",
}  # fmt: skip
UPDATES = dict(minibatch_questions=2, lr=3e-4, reward="random", seed=2)  # several to a rollout
CLIPS = ("clipped low", "clipped high")

# name: (flags beside SETTINGS, noise in the sampler's log-probs, what was seen to act: see Result.seen)
CASES = {
    "grpo": ({}, 0, ("equal groups", "unequal groups")),
    "dapo, k1 bounded on both sides": (
        dict(aggregate="dapo", kl="k1", kl_clamp=0.02), 0, ("KL above", "KL below", "KL within"),
    ),
    "dr_grpo, k2 bounded, several forwards": (
        dict(aggregate="dr_grpo", kl="k2", kl_clamp=0.003, tokens_per_forward=150), 0,
        ("KL above", "KL within", "several forwards"),
    ),
    "bnpo, blocks that span questions and forwards": (
        dict(aggregate="bnpo", group_size=3, tokens_per_forward=1, reward="random"), 0, ("several forwards",),
    ),
    "grpo, k3 bounded": (dict(kl_clamp=0.01), 0, ("KL above", "KL within")),
    "several updates, clipped on both sides": (UPDATES | dict(clip_low=0.02, clip_high=0.05), 0, CLIPS),
    "several updates, dual clip": (
        UPDATES | dict(minibatch_questions=1, dual_clip=1.05, aggregate="dapo", seed=3), 0, ("dual clip",),
    ),
    "several updates, ratio of the sequence": (
        UPDATES | dict(ratio="sequence", clip_low=0.002, clip_high=0.005), 0, CLIPS,
    ),
    "several updates: the old log-probs are scored": (UPDATES, 0.5, ()),
    "one update: the old log-probs are the sampler's": (
        dict(clip_high=0.4, dual_clip=1.2), 0.5, (*CLIPS, "dual clip"),
    ),
    "temperature and top-p": (
        dict(temperature=0.7, top_p=0.8, reward="random", seed=1), 0, ("unequal groups",),
    ),
    "advantages not scaled": (dict(scale="none"), 0, ("unequal groups",)),
    "least share": (dict(min_share=0.6, seed=7), 0, ("abstained below the share", "unequal groups")),
    "published vote": (dict(vote="published"), 0, ("unlike the sound vote",)),
    "random reward": (dict(reward="random"), 0, ("unequal groups",)),
    "format reward": (dict(reward="format", max_new_tokens=16, seed=1), 0, ("unequal groups",)),
    "gold reward": (dict(reward="gold"), 0, ("unequal groups",)),
    "frozen tower, norm above and below the limit": (
        dict(freeze_vision=True, max_grad_norm=0.9), 0, ("norm above", "norm below"),
    ),
    "recomputed activations": (dict(gradient_checkpointing=True), 0, ("recomputed",)),
    "adapter": (dict(lora_rank=16, lr=2e-3, weight_decay=1.0, seed=1), 0, ("equal groups", "unequal groups")),
    "no KL": (dict(beta=0.0), 0, ("equal groups", "unequal groups")),
    "warm-up": (dict(warmup_steps=3), 0, ("warm-up",)),
    "weight decay": (dict(weight_decay=20.0), 0, ("unequal groups",)),
    "norm above the limit": (dict(max_grad_norm=0.3), 0, ("norm above",)),
    "soft frequency": (dict(reward="frequency"), 0, ("unequal groups",)),
    "shows its work": (dict(reward="steps"), 0, ("unequal groups",)),
    "several rewards, one of a file": (dict(reward=f"majority,{MADE}:letters:0.3"), 0, ("unequal groups",)),
    "share to a power": (dict(share_power=2.0), 0, ("shares below 1",)),
    "least margin": (dict(min_margin=0.3, seed=6), 0, ("abstained by the margin", "unequal groups")),
    "half-votes agree": (dict(gate="halves", group_size=6), 0, ("the gate closed", "unequal groups")),
    "answer masked": (dict(mask_answer=True), 0, ("masked", "unequal groups")),
    "answer masked, several updates, dapo, clipped": (
        UPDATES | dict(mask_answer=True, aggregate="dapo", clip_low=0.02, clip_high=0.05), 0,
        ("masked", *CLIPS),
    ),
    "each half labels the other": (dict(reward="cross", seed=5), 0, ("labelled apart", "unequal groups")),
    "each view labels the other": (
        dict(reward="cross", other_view="shift", seed=13), 0, ("labelled apart", "unequal groups"),
    ),
    "two views, gated, several updates and forwards": (
        UPDATES | dict(other_view="dim", gate="halves", tokens_per_forward=1), 0,
        ("several forwards", "unequal groups"),
    ),
}  # fmt: skip
TWO_PROCESSES = {
    "dapo": (dict(aggregate="dapo"), 0, ("equal groups", "unequal groups")),
    "bnpo, blocks that span ranks": (UPDATES | dict(aggregate="bnpo", group_size=3), 0, ("unequal groups",)),
    "grpo, no KL, several forwards, norm above the limit": (
        dict(beta=0.0, tokens_per_forward=1, max_grad_norm=0.3, reward="random"), 0.5,
        ("several forwards", "norm above", *CLIPS),
    ),
    "bnpo, two views, answers masked": (
        UPDATES | dict(aggregate="bnpo", other_view="shift", mask_answer=True), 0,
        ("masked", "unequal groups"),
    ),
}  # fmt: skip
QUANTITIES = {
    "log-probs": (1e-4, "of the sampler, in nats"),
    "metrics": (1e-4, "of metrics.jsonl: |x - x'| / |x|, of an x below 0.01 over that"),
    "gradients": (1e-3, "of each tensor and update: |g - g'| / |g|, of a small g over |all g| / 1000"),
    # not a norm of squares: where a gradient is rounding noise, AdamW's first step is lr in either direction
    "weights": (2e-3, "of each tensor after each step: sum |w - w'| / sum |w - start|"),
}
WORST = defaultdict(float)  # of each quantity over all runs


def moved(pixels):
    """A pixel to the right and down."""
    after = pixels.copy()
    after[1:, 1:] = pixels[:-1, :-1]
    return after


def darker(pixels):
    return (pixels * 0.95).round().astype(np.uint8)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(file of six drawn questions, the oracle of the base). Pictures of two sizes, one question without."""
    from data import load

    folder, drawn = tmp_path_factory.mktemp("oracle"), load("tiny", "train", labels=True)
    rows, pictures = [], {}
    for i in range(6):
        image = drawn[i].images[0]
        if i == 3:
            image = image.resize((84, 56), Image.Resampling.BICUBIC)
        pictures[f"q{i}"] = [] if i == 4 else [image]
        for view, change in (("shift", moved), ("dim", darker)):
            seen = [Image.fromarray(change(np.asarray(x))) for x in pictures[f"q{i}"]]
            pictures[f"q{i}, {view}"] = seen
        image.save(folder / f"{i}.png")
        row = {"id": f"q{i}", "question": drawn[i].question, "answer": drawn[i].answer}
        rows.append(row | {"images": [] if i == 4 else [f"{i}.png"]})
    gold = {row["id"]: row["answer"] for row in rows}
    return write_rows(folder / "questions.jsonl", rows), Oracle(TINY, pictures, gold)


@pytest.fixture(scope="module", autouse=True)
def table():
    yield
    print("\n\nlargest error over all runs")
    for quantity, (bound, measure) in QUANTITIES.items():
        print(f"  {quantity:10} {WORST[quantity]:.1e}  (at most {bound:.0e})  {measure}")


def argv(settings: dict, **files) -> list[str]:
    given = settings | {"model": TINY, "eval_data": "", "save_every": 1, "keep": 0} | files
    return [str(x) for name, value in given.items() for x in (f"--{name}", value)]


def check(settings: dict, oracle: Oracle, records: list[dict], out: Path) -> Result:
    """Holds a run against its recomputation, in every quantity."""
    scale = adapter_scale(out / "checkpoints" / "step-2") if settings["lora_rank"] else 0.0
    result, errors = oracle.run(settings, records, scale), defaultdict(float)

    def note(quantity, error):
        errors[quantity] = max(errors[quantity], float(error))

    note("log-probs", result.logprob_error)
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    logged = [row for row in logged if "reward" in row]  # not the base's row, of its sentinels
    for row, expected in zip(logged, result.metrics, strict=True):
        for name, x in expected.items():
            note("metrics", abs(row[name] - x) / max(abs(x), 0.01))
    for of_rank in records:
        for update, found in zip(result.updates, of_rank["gradients"], strict=True):
            assert found.keys() == update.gradients.keys()
            whole = sum(g.square().sum() for g in update.gradients.values()).sqrt()
            for name, g in update.gradients.items():
                note("gradients", (found[name] - g).norm() / max(g.norm(), whole / 1000))
    for step, weights in enumerate(result.weights, 1):
        found = saved_weights(out / "checkpoints" / f"step-{step}")
        for name, w in weights.items():
            note("weights", (found[name] - w).abs().sum() / (w - result.start[name]).abs().sum())
        for name in found.keys() - weights.keys():  # what is not trained stays to the bit
            assert torch.equal(found[name].double(), oracle.base[name]), name
    # the nucleus: a token is sampled where likelier ones have less than top_p of what may be sampled
    assert result.likelier < settings["top_p"] + 1e-6
    for quantity, error in errors.items():
        WORST[quantity] = max(WORST[quantity], error)
    print({quantity: f"{error:.1e}" for quantity, error in errors.items()}, dict(+result.seen))
    assert all(errors[quantity] <= bound for quantity, (bound, _) in QUANTITIES.items()), dict(errors)
    return result


@pytest.mark.parametrize("name", CASES)
def test_a_run_computes_what_its_settings_say(tmp_path, world, name):
    (source, oracle), (flags, noise, acts) = world, CASES[name]
    if "lora_rank" in flags:
        pytest.importorskip("peft", reason="pip install peft")
    settings = SETTINGS | flags
    recorded = record(argv(settings, train_data=source, out=tmp_path / "r"), noise)
    result = check(settings, oracle, [recorded], tmp_path / "r")
    assert all(result.seen[what] for what in acts), result.seen
    # in the first step the policy is the base, in the second no longer
    assert (abs(result.metrics[1].get("kl", 0.0)) > 3e-4) == bool(settings["beta"])


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, world):
    """{name: (settings, records, run folder)}: all runs in one start of two processes."""
    folder, runs, given = tmp_path_factory.mktemp("two"), [], {}
    for i, (name, (flags, noise, _)) in enumerate(TWO_PROCESSES.items()):
        settings, out = SETTINGS | flags, folder / f"{i}"
        runs.append([f"{out}.pt", noise, argv(settings, train_data=world[0], out=out)])
        given[name] = settings, out
    (folder / "runs.json").write_text(json.dumps(runs))
    done = run_program(
        "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, ROOT / "tests" / "recorder.py",
        folder / "runs.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    read = lambda out: [torch.load(f"{out}.pt.{rank}", weights_only=True) for rank in range(2)]  # noqa: E731
    return {name: (settings, read(out), out) for name, (settings, out) in given.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO_PROCESSES)
def test_two_processes_compute_what_their_settings_say(world, two_processes, name):
    settings, records, out = two_processes[name]
    result = check(settings, world[1], records, out)
    assert all(result.seen[what] for what in TWO_PROCESSES[name][2]), result.seen
    for first, second in zip(*(of_rank["rollouts"] for of_rank in records), strict=True):
        assert set(first["keys"]).isdisjoint(second["keys"])
        # so that a rank's own count of tokens isn't half of all
        assert sum(map(len, first["responses"])) != sum(map(len, second["responses"]))


def test_an_adapters_part_is_scaled_by_two(tmp_path, world):
    """alpha = 2 * rank, whatever the adapter's file says of itself."""
    pytest.importorskip("peft", reason="pip install peft")
    out, flags = tmp_path / "r", dict(steps=1, lora_rank=16)
    record(argv(SETTINGS | flags, train_data=world[0], out=out))
    assert adapter_scale(out / "checkpoints" / "step-1") == 2
