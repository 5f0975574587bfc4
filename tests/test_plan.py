"""What a run is said to need: against counted bytes, real models, and sizes known by hand."""

import json
import re
from functools import cache

import pytest
import torch
from conftest import ROOT

import mmupt
from bench.plan import ALLOWED, LOADS, WAYS, measure, planned, write_model
from common import cli
from common.distributed import World
from data import TINY
from mmupt import Config
from model import lora, plan
from model.families import no_mask, text_model
from model.loading import load_model
from model.packed_attention import Layout, Sequences
from model.shape import read_shape
from model.vision import lean_vision

PUBLISHED = ROOT / "tests" / "published"
HERE = World(0, 1, torch.device("cpu"))
ROOM = 75e9


@cache
def shape_of(name: str):
    return read_shape(str(PUBLISHED / f"Qwen2.5-VL-{name}"), weights=False)


def plan_of(shape, processes=1, sharded=False, gpu=True, checkpointing=False, tokens=16384, **settings):
    return plan.Plan(shape, Config(**settings), processes, sharded, gpu, ROOM, checkpointing, tokens)


@pytest.fixture(scope="module")
def tiny():
    return read_shape(str(TINY))


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, billions, layer, tied, cache",
    [("3B", 3.755, 77, True, 36), ("7B", 8.292, 233, False, 56),
     ("32B", 33.453, 488, False, 256), ("72B", 73.411, 878, False, 320)],
)  # fmt: skip
def test_published_models_have_the_sizes_they_are_known_by(name, billions, layer, tied, cache):
    s = shape_of(name)
    assert round(s.parameters / 1e9, 3) == billions and s.tied == tied
    assert round(s.decoder.parameters / 1e6) == layer and s.vision.count == 32
    assert 0.66e9 < s.of_vision < 0.71e9
    assert 2 * 2 * s.decoder.count * s.decoder.k == cache * 1024


def test_a_shape_is_that_of_the_model_that_loads(tiny):
    model = load_model(str(TINY))
    blocks = [*text_model(model).layers, *model.model.visual.blocks]
    outside = sum(p.numel() for p in model.parameters()) - sum(
        p.numel() for b in blocks for p in b.parameters()
    )
    assert tiny.parameters == sum(p.numel() for p in model.parameters()) and tiny.root == outside
    assert tiny.of_vision == sum(p.numel() for p in model.model.visual.parameters())
    lora.add_adapter(model, "x", 3, 0)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert plan_of(tiny, lora_rank=3).adapters == trained > 0


def test_what_stays_is_counted_by_the_parameter(tiny):
    N, vision = tiny.parameters, tiny.of_vision
    full = plan_of(tiny, gpu=False).resident
    assert (full["master"], full["AdamW"], full["reference"]) == (4 * N, 8 * N, 4 * N)
    assert plan_of(tiny, dtype="bfloat16").resident["reference"] == 2 * N
    assert "reference" not in plan_of(tiny, beta=0.0).resident
    frozen = plan_of(tiny, freeze_vision=True)
    assert frozen.resident["AdamW"] == 8 * (N - vision) and frozen.resident["master"] == 4 * N
    quarter = plan_of(tiny, processes=4, sharded=True).resident
    assert (quarter["master"], quarter["AdamW"], quarter["reference"]) == (N, 2 * N, N / 2)
    assert plan_of(tiny, processes=4).resident["master"] == 4 * N
    adapted = plan_of(tiny, lora_rank=8)
    assert (adapted.resident["base"], adapted.resident["AdamW"]) == (2 * N, 8 * adapted.adapters)
    assert "reference" not in adapted.resident and "master" not in adapted.resident


def test_gradients_are_there_from_the_second_forward_on(tiny):
    small = dict(questions=2, group_size=2, max_new_tokens=1, max_prompt_tokens=8, max_pixels=28 * 28)
    one = plan_of(tiny, tokens=16, **small).moments(16, 2, again=False)
    several = plan_of(tiny, tokens=8, **small).moments(8, 1, again=True)
    assert [m["gradients"] for m in one] == [0, 0, 0, 4 * tiny.parameters]
    assert [m["gradients"] for m in several] == 4 * [4 * tiny.parameters]


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("minibatch", [0, 2])
def test_a_question_in_two_views_counts_as_two_of_half_the_samples(tiny, gpu, minibatch):
    lengths = dict(tokens=300, max_prompt_tokens=20, max_new_tokens=10)  # half of them fit in one forward
    seen, as_two = (
        plan_of(tiny, gpu=gpu, **lengths, **options)
        for options in (
            dict(questions=4, group_size=6, minibatch_questions=minibatch, other_view="dim"),
            dict(questions=8, group_size=3, minibatch_questions=2 * minibatch),
        )
    )
    assert seen.resident == as_two.resident and seen.update == as_two.update
    assert seen.at_once == as_two.at_once and seen.rollout(8) == as_two.rollout(8)
    assert seen.resident["questions"] > plan_of(tiny, questions=4, group_size=6, **lengths).of_questions


# --- what autograd keeps --------------------------------------------------------------------------


def bytes_kept(model, run) -> int:
    """Of all that the graph of run() keeps, but for weights and their copies in another dtype."""
    own, found = {tuple(p.shape) for p in model.parameters()}, {}

    def pack(x):
        if tuple(x.shape) not in own and tuple(x.t().shape if x.ndim == 2 else ()) not in own:
            found[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = run()
    total = sum(storage.nbytes() for storage in found.values())
    del out
    return total


def of_decoder(model, n: int, narrow: bool) -> int:
    layer, text = text_model(model).layers[0], text_model(model)
    x = torch.randn(1, n, model.config.text_config.hidden_size, dtype=model.dtype, requires_grad=True)
    positions = torch.arange(n).expand(3, 1, -1)
    layout, tables = Layout(Sequences(torch.tensor([n]))), text.rotary_emb(x, positions)

    def run():
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow and model.dtype == torch.float32):
            return layer(
                x, attention_mask=no_mask(model), position_ids=positions, position_embeddings=tables,
                use_cache=False, layout=layout,
            )  # fmt: skip

    return bytes_kept(model, run)


def of_tower(model, n: int, narrow: bool) -> int:
    tower = model.config.vision_config
    x = torch.randn(n, tower.hidden_size, requires_grad=True)
    tables = tuple(torch.randn(n, tower.hidden_size // tower.num_heads) for _ in range(2))

    def run():
        with lean_vision(model), torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            windows = torch.arange(0, n + 1, 20, dtype=torch.int32)
            return model.model.visual.blocks[0](x, cu_seqlens=windows, position_embeddings=tables)

    return bytes_kept(model, run)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rank", [0, 8])
def test_autograd_keeps_of_a_layer_what_the_plan_says(tiny, dtype, rank):
    of_weights = torch.bfloat16 if rank and dtype == "bfloat16" else torch.float32
    model = load_model(str(TINY), dtype=of_weights)
    if rank:
        lora.add_adapter(model, "x", rank, 0)
    each = (of_decoder(model, 140, dtype == "bfloat16") - of_decoder(model, 60, dtype == "bfloat16")) / 80
    tables, sums = 2 * tiny.head * of_weights.itemsize, 4 * 4 + 2 * 4  # log-sum-exps of 4 heads, two norms
    expected = plan_of(tiny, dtype=dtype, lora_rank=rank).saved(tiny.decoder)
    assert each - tables - sums == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_autograd_keeps_of_a_tower_block_what_the_plan_says(tiny, dtype):
    model = load_model(str(TINY))
    each = (of_tower(model, 140, dtype == "bfloat16") - of_tower(model, 60, dtype == "bfloat16")) / 80
    tables, sums = 2 * 4 * 16, 4 * 4 + 2 * 4
    assert each - tables - sums == plan_of(tiny, dtype=dtype).saved(tiny.vision)


@pytest.mark.slow
@pytest.mark.parametrize("way, dtype", [("full", "float32"), ("lora", "float32"), ("recomputed", "bfloat16")])
def test_a_run_holds_at_its_peaks_what_the_plan_says(tmp_path, way, dtype):
    model = write_model("tiny", tmp_path / "model")
    one, found = measure(model, tmp_path / "run", dtype=dtype, **LOADS["tiny"], **WAYS[way])
    for moment, expected in planned(one).items():
        assert expected == pytest.approx(found[moment], rel=ALLOWED), moment


# --- which plan is taken --------------------------------------------------------------------------


def chosen(name: str, processes: int, **settings):
    return plan.best(shape_of(name), Config(**settings), processes, gpu=True, room=ROOM)


def test_defaults_start_where_they_can():
    alone = chosen("3B", 1, lora_rank=16, preset="mm-upt")
    assert alone.fits and not alone.sharded
    for name in ("3B", "7B"):
        several = chosen(name, 8)
        assert several.fits, name
        whole = plan.best(shape_of(name), Config(shard="off"), 8, gpu=True, room=ROOM)
        assert several.sharded == (not whole.fits)
    assert chosen("7B", 8).sharded and not chosen("7B", 8, shard="off").fits


def test_layers_are_recomputed_only_where_short_forwards_do_not_do():
    s = shape_of("7B")
    ample, tight = (plan.best(s, Config(lora_rank=16), 1, True, room) for room in (200e9, 30e9))
    assert (ample.checkpointing, ample.tokens) == (False, 16384)
    assert tight.fits and tight.checkpointing
    asked = plan.best(
        s, Config(lora_rank=16, gradient_checkpointing=False, tokens_per_forward=500), 1, True, 20e9
    )
    assert (asked.checkpointing, asked.tokens) == (False, 500)


def test_a_run_on_a_cpu_computes_as_it_is_told_by_default(capsys):
    found = plan.resolve(Config(), HERE)
    assert (found.tokens_per_forward, found.gradient_checkpointing, found.shard) == (16384, False, "off")
    said = capsys.readouterr().out
    assert "tiny, 0.8 M parameters, all weights, 1 process\n" in said and "\nfits: " in said


def test_a_machine_is_shared_by_its_processes(monkeypatch):
    whole = plan.memory(torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert plan.memory(torch.device("cpu")) == whole / 4
    monkeypatch.setattr(plan, "limits", lambda: [2**70, 1600])
    assert plan.memory(torch.device("cpu")) == 1500 / 4  # a sixteenth is kept for what is no tensor


@pytest.mark.parametrize(
    "groups, own, expected",
    [
        ({"memory.max": "1000\n"}, "0::/\n", [1000]),  # a container, in which its group is the root
        ({"memory.max": "max\n"}, "0::/\n", []),
        ({"a/memory.max": "7", "a/b/memory.max": "max"}, "0::/a/b/c\n", [7]),  # a batch job around the step
        ({"a/memory.max": "9", "a/b/memory.max": "8"}, "0::/a/b\n", [8, 9]),
        ({"memory/memory.limit_in_bytes": "5"}, "4:memory:/\n1:cpu:/\n0::/\n", [5]),  # version 1
        ({"memory/x/memory.limit_in_bytes": "4", "x/memory.max": "3"}, "4:memory:/x\n1:cpu:/y\n", [4]),
        ({"memory.max": "2"}, "0::/elsewhere/docker/1\n", [2]),
        ({"memory.max": "6", "memory/memory.limit_in_bytes": "5"}, "", [5, 6]),  # which it is in is not told
        ({}, "0::/gone\n", []),
    ],
)
def test_control_groups_bound_the_memory(tmp_path, groups, own, expected):
    for name, text in groups.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text)
    (tmp_path / "own").write_text(own)
    assert sorted(set(plan.limits(tmp_path / "cgroup", tmp_path / "own"))) == expected


# --- the program ----------------------------------------------------------------------------------


def planning(program, model: str, *flags):
    folder = PUBLISHED / f"Qwen2.5-VL-{model}"
    return program(mmupt.main, "--plan", "--model", folder, "--plan_memory", 80, *flags)


def test_a_plan_that_fits_ends_with_0(program):
    found = planning(program, "7B", "--plan_gpus", 8, "--preset", "mm-upt")
    assert found.returncode == 0 and not found.stderr
    assert "7B, 8,292.2 M parameters, all weights, 8 GPUs, sharded\n" in found.stdout
    assert re.search(r"\nfits: [\d.]+ GB of 75.0 GB at the least\n", found.stdout)


def test_one_that_does_not_ends_with_2_and_names_flags_that_would(program):
    found = planning(program, "7B", "--preset", "mm-upt")
    assert found.returncode == 2 and found.stderr.count("\n") == 1
    line = r"error: does not fit: [\d.]+ GB of 75.0 GB in the update; "
    ways = r"--lora_rank 16 \(([\d.]+) GB\), or (\d+) processes with --shard on \(([\d.]+) GB\)\n"
    adapters, processes, shares = re.fullmatch(line + ways, found.stderr).groups()
    with_adapters = planning(program, "7B", "--preset", "mm-upt", "--lora_rank", 16)
    with_shares = planning(program, "7B", "--preset", "mm-upt", "--plan_gpus", processes, "--shard", "on")
    assert f"fits: {adapters} GB of" in with_adapters.stdout and f"fits: {shares} GB of" in with_shares.stdout


@pytest.mark.parametrize("model", ["32B", "72B"])
def test_what_no_device_holds_whole_is_refused_by_what_is_missing(program, model):
    for processes in (1, 8, 64):
        found = planning(program, model, "--preset", "mm-upt", "--plan_gpus", processes)
        assert found.returncode == 2 and "(tensor parallel) is not here yet\n" in found.stderr


def test_a_run_that_does_not_fit_is_refused_before_anything_is_loaded(program, monkeypatch, tmp_path):
    monkeypatch.setattr(plan, "memory", lambda device: 1e6)
    monkeypatch.setattr(mmupt.model_utils, "load_models", lambda *_: pytest.fail("loaded"))
    found = program(mmupt.main, "--out", tmp_path / "run", "--eval_data", "")
    assert found.returncode == 2 and not (tmp_path / "run").exists()
    assert found.stderr.startswith("error: does not fit: ")


@pytest.mark.parametrize("plans", [["--plan"], []])
def test_a_group_that_no_machine_holds_is_refused_with_the_largest_that_it_would(
    program, monkeypatch, tmp_path, plans
):
    monkeypatch.setattr(plan, "memory", lambda device: 16e9)
    monkeypatch.setattr(mmupt.model_utils, "load_models", lambda *_: pytest.fail("loaded"))
    flags = ["--out", tmp_path / "run", *plans]
    found = program(mmupt.main, *flags, "--group_size", 100_000)
    assert found.returncode == 2 and not (tmp_path / "run").exists()
    said = r"error: does not fit: .* GB of 16.0 GB in the update; .*, or --group_size (\d+) \([\d.]+ GB\)\n"
    fewer = re.fullmatch(said, found.stderr)[1]
    assert fewer == "12500" and program(mmupt.main, *flags, "--plan", "--group_size", fewer).returncode == 0
    assert program(mmupt.main, *flags, "--plan", "--group_size", 2 * int(fewer)).returncode == 2


def test_what_was_left_open_is_planned_anew_on_resume(program, tmp_path, monkeypatch):
    flags = ["--out", tmp_path / "run", "--eval_data", "", "--questions", 2, "--max_new_tokens", 4]
    assert program(mmupt.main, *flags, "--steps", 1).returncode == 0
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (saved["tokens_per_forward"], saved["gradient_checkpointing"], saved["shard"]) == (0, None, "auto")
    seen = []
    real = mmupt.model_utils.load_models
    monkeypatch.setattr(mmupt.model_utils, "load_models", lambda c, *rest: seen.append(c) or real(c, *rest))
    monkeypatch.setattr(plan, "CHOICES", [(True, 999)])
    assert program(mmupt.main, *flags, "--steps", 2, "--resume").returncode == 0
    assert (seen[0].tokens_per_forward, seen[0].gradient_checkpointing) == (999, True)


@pytest.mark.parametrize("words, value", [([], None), ([""], True), (["False"], False), (["True"], True)])
def test_gradient_checkpointing_can_be_given_bare(words, value):
    argv = [w for word in words for w in ("--gradient_checkpointing", word) if w]
    assert cli.parse(Config, argv).gradient_checkpointing is value


def test_flags_of_a_plan_that_make_no_sense_are_named(program, tmp_path):
    for flags, said in (
        (["--plan_gpus", 8], "--plan_gpus must be given together with --plan"),
        (["--plan", "--plan_gpus", 8], "--plan_memory must be given with --plan_gpus where there is no GPU"),
        (["--plan", "--plan_gpus", 3, "--plan_memory", 8], "must be a multiple of the 3 processes"),
        (["--shard", "on"], "--shard must be auto or off with one process"),
        (["--plan", "--model", tmp_path], "no config.json"),
    ):
        found = program(mmupt.main, *flags)
        assert found.returncode == 2 and said in found.stderr and found.stderr.count("\n") == 1, flags


def test_the_table_in_the_docs_is_what_the_plan_says():
    text = (ROOT / "docs" / "models.md").read_text()
    rows = re.findall(
        r"^\| (\d+B) \| (all|LoRA) \| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| (\w+)", text, re.M
    )
    assert len(rows) >= 16
    for name, trained, gpus, *figures, verdict in rows:
        one = of_docs(name, trained, int(gpus))
        expected = [one.stays, one.peaks["rollout"], one.peaks["update"]]
        assert figures == [f"{x / 1e9:.1f}" for x in expected], (name, trained, gpus)
        assert verdict == ("yes" if one.fits else "no")


def of_docs(name: str, trained: str, gpus: int):
    preset = Config.PRESETS["mm-upt"]
    return chosen(name, gpus, **preset, lora_rank=16 if trained == "LoRA" else 0)
