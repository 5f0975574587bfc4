"""The measurement on real weights: its flow at toy size, its figures, and the real checkpoint itself."""

import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import ROOT, every
from llama_made import make_llama
from plain_transformers import plain_logprobs
from transformers import AutoModelForCausalLM, AutoTokenizer

import eval as evaluation
import mmupt
from bench import real
from data import load
from model_utils import generate, load_model, load_processor, token_logprobs
from programs import arithmetic, merge_adapter

BASE = Path(os.environ.get("MMUPT_REAL", ROOT / "runs" / "real" / "base"))
needs_base = pytest.mark.skipif(
    not (BASE / "config.json").exists(), reason="no real checkpoint: make real, or python -m programs.smollm"
)
TOY = ["--limit", "3", "--steps", "1", "--rewards", "majority", "--workers", "1"]


def in_this_process(*argv, log) -> None:
    """Instead of a program: all is imported already."""
    mains = {"eval.py": evaluation.main, "mmupt.py": mmupt.main, "-m": merge_adapter.main}
    words = [str(word) for word in argv[2 if argv[0] == "-m" else 1 :]]
    assert mains[argv[0]](words) == 0


class AtOnce(ThreadPoolExecutor):
    """Signals are for the main thread alone."""

    def submit(self, job, *args):
        done = Future()
        done.set_result(job(*args))
        return done


def test_a_trial_trains_measures_and_writes_no_result(tmp_path, capsys, monkeypatch):
    pytest.importorskip("peft", reason="pip install peft")
    monkeypatch.setattr(real, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(real, "python", in_this_process)
    monkeypatch.setattr(real, "ThreadPoolExecutor", AtOnce)
    make_llama(tmp_path / "base")
    assert real.main(["--work", str(tmp_path), *TOY]) == 0
    table = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in table] == ["| ", "| base", "| majority-0"] and len({*map(len, table)}) == 1
    assert not (tmp_path / "results").exists()
    again = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert len(again) == 6  # three decodings of two models
    assert real.main(["--work", str(tmp_path), *TOY]) == 0
    assert again == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}


def one(fact, correct, samples=8, wording=0):
    return {"id": f"{fact}-{wording}", "correct": correct, "answers": ["1"] * samples}


def test_the_questions_of_a_fact_count_as_one(tmp_path):
    records = [one("sum-3-2", 8), one("sum-2-3", 4), one("sum-2-3", 0, wording=1), one("product-2-3", 2)]
    assert real.by_fact(records).tolist() == [0.25, 0.5]  # products first
    settings = real.Real(work=str(tmp_path))
    for name, correct in {"base": 2, "majority-0": 6}.items():
        result = {"records": [one(f"sum-{x}-{x}", correct) for x in range(2, 6)]}
        (tmp_path / f"{name}-T5.json").write_text(json.dumps(result))
    (tmp_path / "base-greedy.json").write_text(json.dumps({"records": [one("sum-2-2", 1, samples=1)]}))
    found = real.gain(settings, "majority-0", "T .5", "T .5")
    assert found == {"mean": 0.5, "low": 0.5, "high": 0.5}


def test_a_reward_that_is_none_is_named():
    with pytest.raises(mmupt.cli.UsageError, match="--rewards must be some of majority, frequency"):
        real.main(["--rewards", "majority", "luck"])


# --- the real checkpoint


@pytest.fixture(scope="module")
def checkpoint():
    return load_model(str(BASE)), load_processor(str(BASE)), AutoModelForCausalLM.from_pretrained(BASE).eval()


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    arithmetic.write(folder)
    return every(load(str(folder / "test.jsonl")))


@torch.no_grad()
def greedy(plain, processor, examples, length):
    """Of plain transformers, a question at a time -> ids of each response."""
    out = []
    for example in examples:
        ids = torch.tensor([processor.encode(example, real.ASKED[1]).ids])
        out.append(plain.generate(ids, max_new_tokens=length, do_sample=False)[0, ids.shape[1] :].tolist())
    return out


def own_greedy(model, processor, examples, length):
    prompts = processor.collate([processor.encode(e, real.ASKED[1]) for e in examples])
    rollout = generate(model, processor, prompts, 1, length, temperature=0)
    return [row[:n] for row, n in zip(rollout.tokens.tolist(), rollout.lengths.tolist(), strict=True)]


@needs_base
@pytest.mark.slow
def test_it_greets_counts_and_has_its_true_vocabulary(checkpoint):
    model, processor, plain = checkpoint
    assert len(processor.tokenizer) == processor.vocabulary == 49152
    assert (
        model.standard_decoder and plain.get_output_embeddings().weight is plain.get_input_embeddings().weight
    )
    assert sum(p.numel() for p in plain.parameters()) == 134_515_008
    asked = processor.chat("What is the capital of France?")
    assert asked.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    ids = processor.tokenizer(asked, return_tensors="pt")["input_ids"]
    said = plain.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert processor.decode(said) == "The capital of France is Paris."


@needs_base
@pytest.mark.slow
def test_greedy_tokens_of_32_questions_are_those_of_transformers(checkpoint, questions):
    model, processor, plain = checkpoint
    examples = questions[:: len(questions) // 32][:32]
    assert own_greedy(model, processor, examples, 16) == greedy(plain, processor, examples, 16)


@needs_base
@pytest.mark.slow
def test_logprobs_of_samples_are_as_near_to_exact_ones_as_those_of_transformers(checkpoint, questions):
    """Over 30 layers float32 alone makes 2e-5: `exact` are transformers' own in float64."""
    model, processor, plain = checkpoint
    examples = questions[:8]
    rollout = generate(model, processor, examples, 4, 16, temperature=1)
    double = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float64).eval()
    with torch.no_grad():
        exact, theirs = (plain_logprobs(m, processor, rollout, examples) for m in (double, plain))
        scored = token_logprobs(model, rollout)
    error = {
        name: (x - exact).abs()
        for name, x in dict(theirs=theirs, scored=scored, sampled=rollout.logprobs).items()
    }
    for x in error.values():
        assert x.max() < 1.5 * error["theirs"].max() < 5e-5 and x[rollout.mask].mean() < 1e-5


@needs_base
@pytest.mark.slow
def test_what_was_trained_loads_in_plain_transformers(checkpoint, questions, tmp_path):
    pytest.importorskip("peft", reason="pip install peft")
    arithmetic.write(tmp_path)
    argv = [
        "--model", BASE, "--train_data", tmp_path / "train.jsonl", "--eval_data", "",
        "--out", tmp_path / "run", "--steps", 1, "--questions", 2, "--group_size", 4, "--max_new_tokens", 8,
        "--reward", "random", "--warmup_steps", 0, "--lr", 1e-2, "--lora_rank", 4, *real.ASKED,
    ]  # fmt: skip
    assert mmupt.main([str(word) for word in argv]) == 0
    adapter = str(tmp_path / "run" / "checkpoints" / "step-1")
    assert merge_adapter.main(["--adapter", adapter, "--out", str(tmp_path / "merged")]) == 0
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    moved = plain.model.layers[0].mlp.down_proj.weight - checkpoint[2].model.layers[0].mlp.down_proj.weight
    assert moved.abs().max() > 1e-4
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    model, processor = load_model(str(tmp_path / "merged")), load_processor(str(tmp_path / "merged"))
    assert own_greedy(model, processor, questions[:4], 8) == greedy(plain, processor, questions[:4], 8)
