"""What flags are that nobody gave: the built-in run's values, or those that fit another model or data."""

import json
import re
import shutil

import pytest
from conftest import ROOT
from running import rows, run

import eval as evaluating
import mmupt
from common import cli
from common.resume import parse_run
from data import TINY
from mmupt import Config
from model import defaults

OF_3B = ROOT / "tests" / "published" / "Qwen2.5-VL-3B"
BUILT_IN = {name: getattr(Config(), name) for name in ("lr", "max_new_tokens", "max_prompt_tokens")}
PAPER = {"lr": 1e-6, "max_new_tokens": 2048, "max_prompt_tokens": 2048}


@pytest.fixture(scope="module")
def of_half_a_billion(tmp_path_factory):
    """config.json of the 3B with one layer and one block: its embedding is most of it."""
    folder = tmp_path_factory.mktemp("models") / "half"
    config = json.loads((OF_3B / "config.json").read_text())
    config["vision_config"]["depth"] = 1
    for part in (config, config.get("text_config", {})):
        part |= {"num_hidden_layers": 1} if "num_hidden_layers" in part else {}
        part |= {"layer_types": part["layer_types"][:1]} if "layer_types" in part else {}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def settled(*argv, cls=Config):
    """As the program does; without weights, as --plan has it."""
    words = [*map(str, argv), "--plan"] if cls is Config else [*map(str, argv)]
    return cli.parse(cls, words, fit=defaults.fitting)


@pytest.mark.parametrize(
    "model, flags, expected",
    [
        ("tiny", [], BUILT_IN),
        ("random", [], BUILT_IN),
        ("half", [], {"lr": 5e-6, "max_new_tokens": 1024, "max_prompt_tokens": 2048}),
        ("half", ["--lora_rank", 8], {"lr": 5e-5, "max_new_tokens": 1024, "max_prompt_tokens": 2048}),
        ("3B", [], {"lr": 1e-6, "max_new_tokens": 1024, "max_prompt_tokens": 2048}),
        ("3B", ["--lora_rank", 8], {"lr": 1e-5, "max_new_tokens": 1024, "max_prompt_tokens": 2048}),
        # what is given wins, also where it is the built-in run's
        ("3B", ["--lr", BUILT_IN["lr"]], {"lr": BUILT_IN["lr"], "max_new_tokens": 1024}),
        ("3B", ["--max-new-tokens=48"], {"lr": 1e-6, "max_new_tokens": 48, "max_prompt_tokens": 2048}),
        ("3B", ["--preset", "mm-upt"], PAPER),
        ("3B", ["--preset", "mm-upt", "--lora_rank", 8], PAPER),
        ("3B", ["--preset", "mm-upt", "--lr", 3e-4], PAPER | {"lr": 3e-4}),
        ("tiny", ["--preset", "mm-upt"], PAPER),
    ],
)
def test_rate_and_lengths_are_those_of_the_models_size(
    model, flags, expected, random_folder, of_half_a_billion
):
    folder = {"tiny": TINY, "random": random_folder, "half": of_half_a_billion, "3B": OF_3B}[model]
    found = settled("--model", folder, *flags)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    "flags, measured_on",
    [
        ([], "tiny"),
        (["--train_data", "tiny:validation"], "tiny"),
        (["--train_data", "mine.jsonl"], ""),
        (["--train_data", "tiny", "mine.jsonl"], ""),
        (["--train_data", "owner/tiny"], ""),
        (["--train_data", "mine.jsonl", "--eval_data", "tiny"], "tiny"),
        (["--train_data", "mine.jsonl", "--eval_data", "theirs.jsonl"], "theirs.jsonl"),
        (["--train_data", "mine.jsonl", "--preset", "mm-upt"], ""),
    ],
)
def test_drawn_questions_follow_drawn_questions_alone(flags, measured_on):
    assert settled(*flags).eval_data == measured_on


def test_what_was_set_is_said_in_one_line_by_the_first_process(capsys, monkeypatch):
    settled("--model", OF_3B, "--lora_rank", 8, "--train_data", "mine.jsonl")
    assert capsys.readouterr().out == (
        "not given, so set: --lr 1e-05 --max_new_tokens 1024 --max_prompt_tokens 2048 for a model of 3.8 B "
        "parameters with LoRA; --eval_data '' for data of your own\n"
    )
    settled("--model", OF_3B, "--max_new_tokens", 7, "--max_prompt_tokens", 9)
    assert capsys.readouterr().out == "not given, so set: --lr 1e-06 for a model of 3.8 B parameters\n"
    settled()
    assert settled("--model", OF_3B, "--preset", "mm-upt") and not capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")
    assert settled("--model", OF_3B).lr == 1e-6 and not capsys.readouterr().out


def test_the_help_says_what_is_set(program):
    said = " ".join(program(mmupt.main, "--help").stdout.split())
    (small, of_small, its_adapters), (_, of_large, large_adapters) = defaults.RATES
    assert (small, defaults.TINY_SIZE) == (1e9, 50e6)
    assert its_adapters / of_small == pytest.approx(10) and large_adapters / of_large == pytest.approx(10)
    rates = [float(x) for x in re.search(r"from 50 M parameters (\S+), 1 B (\S+); LoRA x 10", said).groups()]
    assert rates == [of_small, of_large]
    lengths = map(int, re.findall(r"from 50 M parameters (\d+) \(default: \d+\)", said))
    assert list(lengths) == list(defaults.LENGTHS.values())
    assert "empty: none, as with your own data (default: tiny)" in said


def test_an_evaluation_is_long_enough_for_its_model_too(random_folder, of_half_a_billion, monkeypatch):
    read = lambda *flags: settled(*flags, cls=evaluating.EvalConfig).max_new_tokens  # noqa: E731
    monkeypatch.setattr(defaults, "read_shape", lambda path, weights: real(path, weights=False))
    assert read() == read("--model", random_folder) == evaluating.EvalConfig().max_new_tokens
    assert read("--model", of_half_a_billion) == 1024
    assert read("--model", of_half_a_billion, "--max_new_tokens", 64) == 64
    assert read("--model", of_half_a_billion, "--preset", "paper-eval") == 16384


real = defaults.read_shape


def test_eval_py_measures_with_them(monkeypatch):
    def parse(*given, **named):
        assert named == {"fit": defaults.fitting}
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluating.cli, "parse", parse)
    with pytest.raises(KeyboardInterrupt):
        evaluating.main([])


def test_a_model_that_is_not_there_is_named_in_one_line(program, tmp_path):
    for main in (mmupt.main, evaluating.main):
        found = program(main, "--model", tmp_path / "gone", "--out", tmp_path / "out")
        assert found.returncode == 2 and found.stderr.count("\n") == 1
        assert found.stderr.startswith(f"error: --model {tmp_path / 'gone'}: ")
        assert not (tmp_path / "out").exists()


def test_a_run_keeps_what_was_set_when_it_began(tmp_path, random_folder, questions_file, capsys, monkeypatch):
    """On whichever size the rule draws its line by then."""
    words = ["--model", random_folder, "--train_data", questions_file[0], "--questions", 2, "--group_size", 2]
    words = [*map(str, words), "--steps", "1", "--sentinels", "0", "--max_new_tokens", "4"]
    monkeypatch.setattr(defaults, "TINY_SIZE", 0)
    for argv in (words, ["--resume", "--steps", "2"]):
        assert mmupt.main([*argv, "--out", str(tmp_path / "r")]) == 0
        said, config = capsys.readouterr().out, json.loads((tmp_path / "r" / "config.json").read_text())
        assert (config["lr"], config["max_prompt_tokens"], config["eval_data"]) == (5e-6, 2048, "")
        assert config["max_new_tokens"] == 4 and ("not given, so set: " in said) == (argv is words)
        monkeypatch.undo()
    assert [row["lr"] for row in rows(tmp_path / "r")] == pytest.approx([5e-7, 1e-6])  # of ten of warm-up
    assert not any("eval/pass@1" in row for row in rows(tmp_path / "r"))
    shutil.rmtree(tmp_path / "r")
    again = parse_run(Config, [*words, "--out", str(tmp_path / "r"), "--resume", "auto"], defaults.fitting)
    assert (again.lr, again.eval_data) == (BUILT_IN["lr"], "")  # where nothing is, it begins


def test_the_built_in_run_is_as_it_was(tmp_path, capsys):
    assert run(tmp_path / "r", steps=1) == 0
    assert "not given, so set" not in capsys.readouterr().out
