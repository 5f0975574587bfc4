"""The speed bench at toy size: that it runs, compares what both sides compute, and writes what it
says it writes."""

import json

import pytest

from bench.shapes import build_shape
from bench.speed import Speed, main
from common import cli
from model_utils import load_model, load_processor

SMALL = [
    "--questions",
    "2",
    "--group_size",
    "2",
    "--max_new_tokens",
    "6",
    "--image_side",
    "56",
    "--repeats",
    "1",
]


@pytest.mark.slow
def test_the_bench_runs_and_writes_its_tables(tmp_path):
    out = tmp_path / "speed"
    assert main(["--parts", "rollout,shared,profile", "--vocabulary", "1000", "--out", str(out), *SMALL]) == 0
    found = json.loads((tmp_path / "speed.json").read_text())
    assert found.keys() == {"rollout", "shared", "profile"}
    assert found["rollout"]["numbers"].keys() == {"vocabulary 512", "vocabulary 1000"}
    for one in found["shared"]["numbers"].values():
        assert one["gradient_difference"] < 1e-5 and one["ratio"] > 0
    assert "best of theirs / ours" in (tmp_path / "speed.md").read_text()


@pytest.mark.slow
def test_a_full_step_against_trl(tmp_path):
    pytest.importorskip("trl", reason="a peer to measure against: pip install trl")
    assert main(["--parts", "step", "--step_vocabulary", "0", "--out", str(tmp_path / "speed"), *SMALL]) == 0
    (found,) = json.loads((tmp_path / "speed.json").read_text())["step"]["numbers"].values()
    assert found["ratio"] > 0 and all(side["peak"] > 100 for side in found["memory_mb"].values())


def test_shapes_are_checkpoints_that_load(tmp_path):
    folder = build_shape("toy", tmp_path / "toy")
    model, processor = load_model(str(folder)), load_processor(str(folder))
    assert (
        model.standard_decoder
        and processor.vocabulary == model.get_output_embeddings().weight.shape[0] == 2048
    )


def test_unknown_parts_and_shapes_are_named(tmp_path):
    with pytest.raises(cli.UsageError, match="--parts speed: there is rollout"):
        main(["--parts", "speed"])
    with pytest.raises(cli.UsageError, match="--shape huge: there is tiny, toy, speck, speck-untied, 3b, 7b"):
        build_shape("huge", tmp_path / "m")
    assert Speed().repeats >= 7
