"""What --resume and --out refuse, what they find again, and what is left on disk."""

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import run_program, write_rows
from lora_made import LORA
from running import fingerprint, flags, rows, run, without_times

import mmupt
from common import files
from common.errors import ModelError, UsageError
from common.resume import parse_run
from data import TINY
from eval import main as eval_main
from model.damage import damage
from model_utils import load_model


def everything(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def history(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


def flip(file: Path, at: int = -1000) -> None:
    """One bit."""
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run of two steps on a model and questions that are files here, and the same run never stopped."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(TINY, folder / "base")
    questions = [{"id": f"q{i}", "question": f"What is {i} + {i % 7}?"} for i in range(12)]
    write_rows(folder / "rows.jsonl", questions)
    options = dict(model=folder / "base", train_data=folder / "rows.jsonl", questions=2)
    assert run(folder / "whole", steps=3, **options) == 0
    assert run(folder / "r", steps=2, **options) == 0
    return folder


@pytest.fixture
def here(made, tmp_path) -> Path:
    """Copies of them, as if moved."""
    shutil.copytree(made, tmp_path / "moved")
    return tmp_path / "moved"


def go_on(here: Path, *more, steps: int = 3) -> int:
    return mmupt.main(["--out", str(here / "r"), "--resume", "--steps", str(steps), *map(str, more)])


# --- what is refused


def broken_config(out: Path) -> None:
    (out / "config.json").write_text('{"steps": 2, "train')


def config_of_a_model(out: Path) -> None:
    shutil.copy(TINY / "config.json", out / "config.json")


def cut_weights(out: Path) -> None:
    for folder in (out / "checkpoints").iterdir():
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])


def damaged(out: Path) -> None:
    flip(out / "checkpoints" / "step-1" / "optimizer.safetensors")
    (out / "checkpoints" / "step-2" / "trainer.json").unlink()


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda out: (out / "config.json").unlink(), "config.json is missing, so there is no run to go on"),
        (shutil.rmtree, "config.json is missing, so there is no run to go on"),
        (broken_config, "config.json can't be read"),
        (config_of_a_model, "config.json is not of a run"),
        (cut_weights, r"whole \(step-2: model.safetensors has 1000 of \d+ bytes; step-1: model.safe"),
        (damaged, "step-2: no trainer.json; step-1: optimizer.safetensors is not what was saved, by its"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_go_on_is_refused_and_left_as_it_is(here, spoil, message):
    out = here / "r"
    spoil(out)
    before = everything(out)
    with pytest.raises(UsageError, match=message) as error:
        go_on(here, "--model", here / "base", "--train_data", here / "rows.jsonl")
    assert "\n" not in str(error.value) and everything(out) == before


@pytest.mark.parametrize("name", ["notes", "config.json", "checkpoints/step-3/model.safetensors"])
def test_a_folder_of_others_is_refused_and_left_as_it_is(tmp_path, name):
    (tmp_path / "r" / name).parent.mkdir(parents=True)
    (tmp_path / "r" / name).write_text("{}")
    first = name.partition("/")[0]
    for more in ({}, {"resume": "auto"} if name != "config.json" else {}):
        with pytest.raises(UsageError, match=rf"--out .*r holds what is no run's \({first}\): name another"):
            run(tmp_path / "r", **more)
    assert everything(tmp_path / "r") == {name: b"{}"}


def test_a_schedulers_log_and_what_a_kill_left_are_nobodys(tmp_path):
    (tmp_path / "r" / "checkpoints").mkdir(parents=True)
    for name in ("slurm-7.out", "train.log", ".hidden", "history.jsonl", "config.json.partial"):
        (tmp_path / "r" / name).write_text("x")
    assert run(tmp_path / "r", steps=1, questions=1) == 0
    assert len(history(tmp_path / "r")) == 1


def test_status_and_line_on_the_command_line(here, program):
    cut_weights(here / "r")
    done = program(mmupt.main, "--out", here / "r", "--resume", "auto", "--model", here / "base",
                   "--train_data", here / "rows.jsonl")  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "is whole" in done.stderr
    done = program(mmupt.main, "--out", here / "gone", "--resume")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "config.json is missing" in done.stderr
    assert not (here / "gone").exists()


# --- --resume auto


def test_auto_begins_where_there_is_nothing_and_else_goes_on(tmp_path, capsys):
    options = dict(questions=2, resume="auto")
    assert run(tmp_path / "r", steps=1, **options) == 0
    assert "resumed" not in capsys.readouterr().out
    assert run(tmp_path / "r", steps=2, **options) == 0
    assert "resumed from" in capsys.readouterr().out and [r["step"] for r in rows(tmp_path / "r")] == [1, 2]


@pytest.mark.parametrize(
    "words, resumes",
    [(["--resume"], True), (["--resume", "True"], True), (["--resume=auto"], True),
     (["--resume", "auto"], True), (["--resume", "false"], False), ([], False)],
)  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
def test_the_flag_is_read_in_every_form_and_place(made, monkeypatch, words, resumes, first):
    monkeypatch.chdir(made)
    argv = ["--out", str(made / "r"), "--steps", "9"]
    config = parse_run(mmupt.Config, [*words, *argv] if first else [*argv, *words])
    assert (config.resume, config.steps) == (resumes, 9)
    assert config.questions == (2 if resumes else 32)  # the run's own
    if words and "auto" in words[-1]:
        assert not parse_run(mmupt.Config, [*words, "--out", str(made / "new")]).resume


def test_auto_without_a_folder_is_refused():
    with pytest.raises(UsageError, match="--resume must be given together with --out"):
        parse_run(mmupt.Config, ["--resume", "auto"])
    with pytest.raises(UsageError, match="argument --resume: it is on or off"):
        parse_run(mmupt.Config, ["--resume=perhaps", "--out", "x"])


# --- content, not places


def test_what_was_moved_is_found_and_the_run_goes_on_to_the_same_bits(made, here):
    (here / "base").rename(here / "base of mine")
    (here / "rows.jsonl").rename(here / "mine.jsonl")
    assert go_on(here, "--model", here / "base of mine", "--train_data", here / "mine.jsonl") == 0
    assert fingerprint(here / "r", 3) == fingerprint(made / "whole", 3)
    of_run, whole = (
        [without_times(r) for r in rows(f / "r" if f == here else f / "whole")] for f in (here, made)
    )
    assert of_run == whole
    changed = history(here / "r")[-1]["changed"]
    assert changed["model"] == [str(made / "base"), str(here / "base of mine")] and "train_data" in changed


@pytest.mark.parametrize("name, given", [("model", "base"), ("train_data", "rows.jsonl")])
def test_what_is_gone_is_said_with_the_flag_that_mends_it(here, made, name, given):
    config = json.loads((here / "r" / "config.json").read_text())
    gone = str(here / "gone" / given)
    config |= {"model": str(here / "base"), "train_data": [str(here / "rows.jsonl")]}
    config[name] = gone if name == "model" else [gone]
    (here / "r" / "config.json").write_text(json.dumps(config))
    before = everything(here / "r")
    with pytest.raises(
        UsageError, match=f"--{name} {gone}: the run .* isn't there any more; --{name} may name"
    ):
        go_on(here)
    assert everything(here / "r") == before
    assert go_on(here, f"--{name}", here / given) == 0


def test_another_base_in_the_same_place_is_refused(here):
    flip(here / "base" / "model.safetensors")
    before = everything(here / "r")
    with pytest.raises(UsageError, match="its weights are not those from which the run of .* began"):
        go_on(here, "--model", here / "base", "--train_data", here / "rows.jsonl")
    assert everything(here / "r") == before


@pytest.mark.parametrize("change", ["a letter", "a row less", "two files"])
def test_other_questions_in_the_same_place_are_refused(here, change):
    file, given = here / "rows.jsonl", [here / "rows.jsonl"]
    text = file.read_text()
    if change == "a letter":  # of the same length
        file.write_text(text.replace("What is 5", "What is 6"))
    elif change == "a row less":
        file.write_text("".join(text.splitlines(True)[:-1]))
    else:
        given.append(shutil.copy(file, here / "more.jsonl"))
    before = everything(here / "r")
    with pytest.raises(ValueError, match=r"(rows|more).jsonl is not what it was when this run began"):
        go_on(here, "--model", here / "base", "--train_data", *given)
    assert everything(here / "r") == before


def test_runs_from_before_know_names_and_sizes(here, capsys):
    (here / "r" / "history.jsonl").unlink()
    trainer = here / "r" / "checkpoints" / "step-2" / "trainer.json"
    state = json.loads(trainer.read_text())
    del state["crc32"]
    state["stream"]["files"] = [f[:2] for f in state["stream"]["files"]]
    trainer.write_text(json.dumps(state))
    with pytest.raises(UsageError, match="--model was .* and can't change on --resume"):
        go_on(here, "--model", here / "base", "--train_data", here / "rows.jsonl")
    config = json.loads((here / "r" / "config.json").read_text())
    (here / "r" / "config.json").write_text(json.dumps(config | {"model": str(here / "base")}))
    assert go_on(here, "--train_data", here / "rows.jsonl") == 0


def test_a_digest_knows_content_and_not_names(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(bytes(range(256)) * 2**14)  # 4 MB
    b.write_bytes(a.read_bytes())
    for most in (2**21, 2**23):  # in pieces, whole
        assert files.digest([a], most) == files.digest([b], most) != files.digest([a, b], most)
    content = bytearray(a.read_bytes())
    for at in (0, 2**22 - 1):
        content[at] ^= 1
        b.write_bytes(content)
        assert files.digest([a], 2**21) != files.digest([b], 2**21)
        content[at] ^= 1
    assert files.digest([], 2**20) == ""


# --- settings


def test_what_changes_is_printed_and_kept(here, capsys):
    assert history(here / "r")[0].keys() == {"step", "time", "version", "base"}
    moved = ["--model", here / "base", "--train_data", here / "rows.jsonl"]
    assert go_on(here, *moved, "--lr", "3e-05") == 0
    assert "changed at step 2: " in (said := capsys.readouterr().out) and "--lr 0.0001 -> 3e-05" in said
    assert go_on(here, *moved, steps=4) == 0
    said = capsys.readouterr().out
    assert "changed at step 3: --steps 3 -> 4\n" in said
    first, second, third = history(here / "r")
    assert second["changed"]["lr"] == [1e-4, 3e-5] and second["step"] == 2
    assert third["changed"] == {"steps": [3, 4]} and third["step"] == 3
    assert go_on(here, *moved, steps=4) == 0 and "changed" not in capsys.readouterr().out


# --- checksums and modes


def test_a_flipped_bit_is_named_and_the_checkpoint_before_taken(made, here, capsys):
    weights = here / "r" / "checkpoints" / "step-2" / "model.safetensors"
    flip(weights)
    why = "model.safetensors is not what was saved, by its checksum"
    with pytest.raises(ModelError, match=f"--model .*step-2: {why}; take a whole copy") as error:
        load_model(str(weights.parent))
    assert "\n" not in str(error.value)
    moved = ["--model", here / "base", "--train_data", here / "rows.jsonl"]
    assert go_on(here, *moved) == 0
    said = capsys.readouterr()
    assert f"warning: passed over on --resume: step-2: {why}" in said.err and "step-1" in said.out
    assert fingerprint(here / "r", 3) == fingerprint(made / "whole", 3)
    assert not damage(weights.parent)  # its step was done again


def test_eval_py_refuses_a_flipped_bit(here, program):
    folder = here / "r" / "checkpoints" / "step-1"
    flip(folder / "model.safetensors", 2**20)
    done = program(eval_main, "--model", folder, "--limit", 2)
    assert done.returncode == 2 and done.stderr.startswith(
        f"error: --model {folder}: model.safetensors is not"
    )
    (folder / "trainer.json").unlink()  # somebody's own weights
    assert program(eval_main, "--model", folder, "--limit", 1, "--max_new_tokens", 2).returncode == 0


@pytest.mark.parametrize("file", ["optimizer.safetensors", "tokenizer.json", "adapter_model.safetensors"])
def test_every_file_has_its_checksum(tmp_path, file):
    assert run(tmp_path / "r", steps=1, questions=1, **LORA) == 0
    folder = tmp_path / "r" / "checkpoints" / "step-1"
    assert not damage(folder)
    flip(folder / file)
    assert damage(folder) == f"{file} is not what was saved, by its checksum"
    assert not damage(folder, content=False)


@pytest.mark.parametrize("umask", [0o022, 0o002])
def test_files_have_the_mode_of_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        assert run(tmp_path / "r", steps=1, questions=1, **LORA) == 0
    finally:
        os.umask(before)
    modes = {f.name: f.stat().st_mode & 0o777 for f in (tmp_path / "r").rglob("*") if f.is_file()}
    assert set(modes.values()) == {0o666 & ~umask}, modes


# --- eval.py --out


def test_eval_py_does_not_write_over_another_evaluation(tmp_path, questions_file, random_folder, program):
    out = tmp_path / "e.json"
    given = ["--model", random_folder, "--data", questions_file[0], "--out", out, "--max_new_tokens", 4]
    given += ["--limit", 2, "--num_samples", 2]
    assert program(eval_main, *given).returncode == 0
    first = out.read_bytes()
    assert program(eval_main, *given).returncode == 0 and out.read_bytes() == first  # the same one, again
    for more, said in (
        (["--seed", 1], "with other seed: name another file, or delete it"),
        (["--model", TINY, "--temperature", "0"], "with other model, temperature, weights: "),
        (["--ask", "What is 1?"], "with other ask"),
        (["--compare", out, out], "holds another evaluation's result: "),
    ):
        argv = given[4:] if "--ask" in more else given
        done = program(eval_main, *argv, *more)
        assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
        assert f"--out {out} holds another evaluation's result" in done.stderr and said in done.stderr, (
            done.stderr
        )
        assert out.read_bytes() == first and not list(tmp_path.glob("*.partial*"))
    write_rows(questions_file[0], questions_file[1][3:])
    assert "with other rows: " in program(eval_main, *given).stderr
    out.write_text("my notes")
    done = program(eval_main, *given)
    assert done.returncode == 2 and "holds what eval.py has not written" in done.stderr
    assert out.read_text() == "my notes"


# --- what a kill leaves


def test_a_run_killed_before_config_json_begins_again_and_one_killed_after_goes_on(tmp_path):
    script = """
import os, sys
import mmupt
from common import files, resume
name = sys.argv.pop(1)
replace = files.replace_text
def killed(path, text):
    if name in str(path):
        os._exit(9)
    replace(path, text)
files.replace_text = killed
sys.exit(mmupt.main(sys.argv[1:]))
"""
    argv = flags(out=tmp_path / "r", steps=1, questions=1, resume="auto")
    assert run_program("-c", script, "config.json", *argv).returncode == 9
    assert not (tmp_path / "r" / "config.json").exists()
    assert mmupt.main(argv) == 0 and len(history(tmp_path / "r")) == 1
    assert mmupt.main([*argv, "--steps", "2"]) == 0 and len(history(tmp_path / "r")) == 2
