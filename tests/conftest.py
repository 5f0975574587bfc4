"""Small checkpoints of the true architecture, made once per test session, and a few helpers."""

import os

# two busy OpenMP programs slow each other; one thread each is safe
os.environ.setdefault("OMP_NUM_THREADS", "1")

import fcntl
import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]


def make_random_checkpoint(folder: Path, seed: int = 0) -> None:
    """Qwen2.5-VL of two small layers with random weights: sharp enough that its samples differ, and
    they seldom end."""
    from transformers import GenerationConfig, Qwen2_5_VLForConditionalGeneration

    from programs.build_tiny import build_config, build_image_processor, build_tokenizer

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    config = build_config(tokenizer)
    config.text_config.num_hidden_layers = 2
    config.text_config.layer_types = config.text_config.layer_types[:2]
    model = Qwen2_5_VLForConditionalGeneration(config)
    for weight in model.parameters():
        if weight.ndim >= 2:
            torch.nn.init.normal_(weight, std=1.5 * weight[0].numel() ** -0.5)
    eos, pad = config.text_config.eos_token_id, config.text_config.pad_token_id
    with torch.no_grad():  # the head is tied: a longer eos embedding is a likelier end
        model.get_input_embeddings().weight[[eos, pad]] *= 2
    model.generation_config = GenerationConfig(
        eos_token_id=[config.text_config.eos_token_id, config.text_config.pad_token_id],
        pad_token_id=config.text_config.pad_token_id,
        do_sample=False,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    build_image_processor().save_pretrained(folder)


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    make_random_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def processor(random_folder):
    from model_utils import load_processor

    return load_processor(str(random_folder))


@pytest.fixture
def model(random_folder):
    from model_utils import load_model

    return load_model(str(random_folder))


@pytest.fixture(scope="session")
def drawn():
    from data import load

    return load("tiny", "validation")


@pytest.fixture
def mixed_examples(drawn):
    """Prompts of mixed length: pictures of two sizes, two pictures in one prompt, no picture at
    all."""
    from data import Example

    one, two, other = drawn[0], drawn[1], drawn[2]
    wide = other.images[0].resize((112, 84), Image.Resampling.BICUBIC)
    return [
        one,
        Example("pair", (two.images[0], wide), "Which of the two pictures shows more squares?"),
        Example("text", (), "No picture here, only words: what is 3 + 4? " * 3),
        Example("wide", (wide,), "What?"),
        drawn[4],
    ]


@pytest.fixture
def decodes_alike(model, processor, mixed_examples):
    """Samples questions now and, when called, once more: what was changed meanwhile changes no
    token."""
    from model_utils import generate

    options = dict(num_samples=8, max_new_tokens=40, temperature=1.5, seed=2)
    expected = generate(model, processor, mixed_examples, **options)
    assert len(set(expected.lengths.tolist())) > 4  # rows leave at different times

    def check(**changed) -> None:
        found = generate(model, processor, mixed_examples, **options | changed)
        assert torch.equal(found.lengths, expected.lengths)
        assert torch.equal(found.finished, expected.finished)
        assert torch.equal(found.tokens, expected.tokens)
        assert (found.logprobs - expected.logprobs).abs().max() < 1e-5

    return check


def every(source) -> list:
    return [source[i] for i in range(len(source))]


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def questions_file(tmp_path):
    """(path of a .jsonl of 24 drawn questions with answers, the rows)."""
    from data import load

    drawn, rows = load("tiny", "train", labels=True), []
    for i in range(24):
        drawn[i].images[0].save(tmp_path / f"{i}.png")
        rows.append(
            {"id": f"q{i}", "question": drawn[i].question, "images": [f"{i}.png"], "answer": drawn[i].answer}
        )
    return write_rows(tmp_path / "questions.jsonl", rows), rows


@pytest.fixture(scope="session")
def lora_run(tmp_path_factory) -> Path:
    """A run of ten steps at a high learning rate, in two parts."""
    from lora_made import LORA
    from running import run

    out = tmp_path_factory.mktemp("lora") / "run"
    assert run(out, steps=10, reward="random", **LORA) == 0
    return out


@pytest.fixture
def program(monkeypatch, capsys):
    """Calls a program's `main` as its command line does, in this process, which has imported all
    already."""
    from common import cli

    def call(main, *argv) -> subprocess.CompletedProcess:
        monkeypatch.setattr(sys, "argv", ["program", *map(str, argv)])
        capsys.readouterr()  # what was said before
        with pytest.raises(SystemExit) as ended:
            cli.run(main)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(argv, ended.value.code, said.out, said.err)

    return call


@contextmanager
def held_elsewhere(path: Path):
    """As if another process wrote there: a lock belongs to an opened file, not to a process."""
    file = os.open(path, os.O_RDONLY)
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(file)


def run_program(*argv: str, timeout: float = 300, **env: str) -> subprocess.CompletedProcess:
    """A program of this repository in a process of its own. Under torchrun it sees no GPU: a machine
    with one has none for a second process."""
    if "torch.distributed.run" in argv:
        env = {"CUDA_VISIBLE_DEVICES": ""} | env
    return subprocess.run(
        [sys.executable, *map(str, argv)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | env,
    )
