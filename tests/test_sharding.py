"""A model in shares trains as a whole one does: the same weights, moments and figures at any number of
processes. SHARDING=all tries every setting at every number of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, write_rows
from families_made import RECIPES
from running import flags, rows
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText

from data import TINY, load

# two updates a step, several forwards of unequal count in each
COMMON = {
    "steps": 5, "questions": 8, "minibatch_questions": 4, "group_size": 4, "max_new_tokens": 32, "seed": 1,
    "tokens_per_forward": 400, "save_every": 5, "lr": 1e-4, "warmup_steps": 0, "eval_data": "",
}  # fmt: skip
CASES: dict[str, dict] = {
    "KL": dict(beta=0.01, aggregate="bnpo"),
    "no KL": dict(beta=0.0),
    "evaluation": dict(eval_data="labelled", eval_questions=5, eval_every=2, eval_samples=2),
    "frozen tower": dict(freeze_vision=True),
    "recomputed": dict(gradient_checkpointing=True),
    "adapter": dict(lora_rank=4, lr=1e-3),
    "untied head": dict(model="untied"),
    "a rank without pictures": dict(train_data="mixed", reward="random"),
    "forwards of unequal number": dict(questions=16, minibatch_questions=8, tokens_per_forward=300),
    "updates without gradient": dict(
        beta=0.0, minibatch_questions=2, temperature=0.4, weight_decay=20.0, lr=2e-4
    ),
    "shares of unequal size": dict(questions=6, minibatch_questions=3),
}
# how many processes, and whether each holds a share
WAYS = {"whole at 2": (2, "off"), "at 2": (2, "on"), "at 3": (3, "on"), "at 4": (4, "on")}
FEW = [(case, "at 2") for case in CASES if "unequal" not in case]
FEW += [("KL", "at 4"), ("adapter", "at 4"), ("shares of unequal size", "at 3")]
ALL = [(c, w) for c in CASES for w in WAYS if ("unequal" in c) == (w == "at 3")]
ALL.remove(("updates without gradient", "at 4"))  # of two questions each
PAIRS = ALL if os.environ.get("SHARDING") == "all" else FEW


def call(calls: list[dict]) -> None:
    """Functions in several processes each, which share one import of torch; all shall end well."""
    done = subprocess.run(
        [sys.executable, "tests/forks.py"],
        cwd=ROOT, input=json.dumps(calls), capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    lines = done.stderr.splitlines()
    statuses = [json.loads(line[9:]) for line in lines if line.startswith("statuses ")]
    assert len(statuses) == len(calls) and not any(map(any, statuses)), done.stderr[-4000:]


def training(processes: int, out: Path, **options) -> dict:
    return dict(processes=processes, call="mmupt:main", given={"argv": flags(out=out, **options)})


def weights(run: Path, step: int, kind: str = "model") -> dict[str, torch.Tensor]:
    folder = run / "checkpoints" / f"step-{step}"
    return load_file(next(folder.glob(f"*{kind}.safetensors")))


def apart(one: dict, other: dict, start: dict) -> float:
    """Sum of differences, as a share of what moved: a single element whose gradient is rounding noise
    moves by the learning rate, either way."""
    assert one.keys() == other.keys()
    moved = sum((one[n] - start.get(n, 0.0)).abs().double().sum() for n in one)
    return float(sum((one[n] - other[n]).abs().double().sum() for n in one) / moved)


# --- Training


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, str]:
    """A checkpoint whose head is a matrix of its own; questions of which every other has a picture."""
    folder = tmp_path_factory.mktemp("made")
    model = AutoModelForImageTextToText.from_pretrained(TINY)
    config = AutoConfig.from_pretrained(TINY)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    untied = type(model)(config)
    untied.load_state_dict(model.state_dict())
    untied.generation_config = model.generation_config
    for file in TINY.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            (folder / file.name).write_bytes(file.read_bytes())
    untied.save_pretrained(folder)
    assert "lm_head.weight" in load_file(folder / "model.safetensors")
    drawn, mixed, labelled = load("tiny", "train", labels=True), [], []
    for i in range(40):
        drawn[i].images[0].save(folder / f"{i}.png")
        seen = {"id": f"q{i}", "question": drawn[i].question, "images": [f"{i}.png"]}
        mixed.append(seen if i % 2 else {"id": f"q{i}", "question": f"What is {i} + {i % 7}?"})
        labelled.append(seen | {"answer": drawn[i].answer})
    write_rows(folder / "mixed.jsonl", mixed)
    write_rows(folder / "labelled.jsonl", labelled[:7])
    return {"untied": str(folder)} | {n: str(folder / f"{n}.jsonl") for n in ("mixed", "labelled")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, made) -> Path:
    """A run of each case in one process, and of each pair of case and way."""
    folder, calls = tmp_path_factory.mktemp("runs"), []
    for case, way in [(case, "one") for case in CASES] + PAIRS:
        processes, shard = WAYS.get(way, (1, "off"))
        options = {name: made.get(value, value) for name, value in CASES[case].items()}
        calls.append(training(processes, folder / case / way, **COMMON | options, shard=shard))
    call(calls)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case, way", PAIRS, ids=[f"{case}, {way}" for case, way in PAIRS])
def test_ten_updates_are_those_of_one_process(runs, made, case, way):
    one, other = runs / case / "one", runs / case / way
    start = load_file(Path(made.get(CASES[case].get("model"), TINY)) / "model.safetensors")
    expected, found = weights(one, 5), weights(other, 5)
    moved = max(float((x - start.get(n, 0.0)).abs().max()) for n, x in expected.items())
    share = apart(expected, found, start)
    most = max(float((x - found[n]).abs().max()) for n, x in expected.items())
    print(f"{case}, {way}: {share:.1e} of what moved; largest difference {most:.1e} of {moved:.1e}")
    assert moved > 5e-4 and share < 2e-5
    moments, others = weights(one, 5, "optimizer"), weights(other, 5, "optimizer")
    assert moments.keys() == others.keys()
    assert max(float((x - others[n]).abs().max()) for n, x in moments.items()) < 1e-6
    for a, b in zip(rows(one), rows(other), strict=True):
        for name in a.keys() - {"lr", "peak_memory_mb", "tokens_per_second", "warning"}:
            if "second" not in name and not isinstance(a[name], dict | list):
                assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5), name


@pytest.mark.slow
def test_a_folder_says_nothing_of_shares(runs):
    one, other = (runs / "KL" / way / "checkpoints" / "step-5" for way in ("one", "at 2"))
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in other.iterdir())
    for file in one.glob("*.json"):
        if file.name != "trainer.json":
            assert file.read_bytes() == (other / file.name).read_bytes(), file.name
    plain = AutoModelForImageTextToText.from_pretrained(other)
    for name, p in plain.named_parameters():
        assert torch.isfinite(p).all() and p.shape == plain.get_parameter(name).shape


@pytest.mark.slow
def test_saved_at_two_and_resumed_at_one_and_four_and_back(runs, tmp_path):
    """The curve is that of the run which was never stopped."""
    ways = {"2 1": ((2, "on"), (1, "off")), "2 4": ((2, "on"), (4, "on")), "1 2": ((1, "off"), (2, "on"))}
    options, calls = COMMON | CASES["KL"] | dict(save_every=0), []
    for name, ((before, shard), (after, later)) in ways.items():
        calls.append(training(before, tmp_path / name, **options | dict(steps=2), shard=shard))
        calls.append(training(after, tmp_path / name, **options, shard=later, resume=True))
    call(calls)
    straight, start = runs / "KL" / "one", load_file(TINY / "model.safetensors")
    for name in ways:
        assert apart(weights(straight, 5), weights(tmp_path / name, 5), start) < 2e-5, name
        for a, b in zip(rows(straight), rows(tmp_path / name), strict=True):
            for key in ("reward", "loss", "grad_norm", "response_length", "kl"):
                assert a[key] == pytest.approx(b[key], rel=1e-3, abs=1e-5), (name, key)


# --- One gradient


@pytest.fixture(scope="module")
def families(tmp_path_factory) -> Path:
    """By family: gradients of a whole model in one process, and in shares at two; one sees no picture."""
    folder = tmp_path_factory.mktemp("families")
    names = [*RECIPES, "recomputed", "bfloat16"]
    made = [
        dict(processes=1, call="in_shares:make", given=dict(name=n, folder=str(folder / n))) for n in names
    ]
    call(made)
    calls = []
    for name in [n for n in names if (folder / n / "config.json").exists()]:
        here = dict(folder=str(folder / name), sampled=str(folder / name / "sampled"))
        how = dict(recompute=name == "recomputed", compute="bfloat16" if name == "bfloat16" else "float32")
        calls.append(dict(processes=1, call="in_shares:sample", given=here))
        for way, processes in (("one", 1), ("two", 2)):
            given = here | how | dict(out=str(folder / name / way), shard=processes > 1)
            calls.append(dict(processes=processes, call="in_shares:gradients", given=given))
    given = dict(folder=str(folder / "bfloat16"), sampled=str(folder / "bfloat16" / "sampled"))
    given |= dict(out=str(folder / "bfloat16" / "exact"), shard=False, compute="float32")
    call([*calls, dict(processes=1, call="in_shares:gradients", given=given)])
    return folder


def of(file: Path) -> tuple[dict, dict, str]:
    """Gradients, weights, and what was sampled greedily."""
    found = load_file(file)
    weights = {n: x for n, x in found.items() if n.startswith("weight ")}
    gradients = {n: x for n, x in found.items() if n not in weights}
    return gradients, weights, safe_open(file, "pt").metadata()["greedy"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RECIPES, "recomputed"])
def test_every_family_has_the_gradient_of_the_whole_model(families, name):
    if not (families / name / "one").exists():
        pytest.skip("this version of transformers can't make its image processor")
    (one, stored, greedy), (two, gathered, sampled) = (of(families / name / way) for way in ("one", "two"))
    assert apart(one, two, {}) < 2e-6
    assert all(torch.equal(x, gathered[n]) for n, x in stored.items()) and sampled == greedy


@pytest.mark.slow
def test_in_bfloat16_shares_are_as_near_to_float32_as_the_whole_is(families):
    exact, one, two = (of(families / "bfloat16" / way)[0] for way in ("exact", "one", "two"))
    rounding = apart(exact, one, {})
    print(f"bfloat16: {apart(exact, two, {}):.4f} in shares, {rounding:.4f} whole")
    assert 1e-4 < rounding and apart(exact, two, {}) < 1.5 * rounding


# --- What a process holds


@pytest.mark.slow
def test_a_process_reads_and_holds_its_share_and_saves_a_share_at_a_time(tmp_path):
    call(
        [dict(processes=n, call="in_shares:held", given=dict(out=str(tmp_path / f"{n}"))) for n in (1, 2, 4)]
    )
    (whole,), two, four = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (1, 2, 4))
    for ranks, n in ((two, 2), (four, 4)):
        for kind in ("parameters", "gradients", "moments", "reference", "read"):
            # the counts of steps, a number a parameter, are whole everywhere
            assert sum(rank[kind] for rank in ranks) == pytest.approx(whole[kind], rel=2e-3), (n, kind)
            assert max(rank[kind] for rank in ranks) <= 1.02 * whole[kind] / n, (n, kind)
        assert 0 < ranks[0]["saving"] <= ranks[0]["largest tensor"]
