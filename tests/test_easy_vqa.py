"""easy-VQA's files as rows that are read like any other; the package itself where it is installed."""

import importlib.util
import json

import pytest
from PIL import Image

from data import load
from programs import easy_vqa

ASKED = {
    "train": [["what color is the shape?", "blue", 3], ["is there a red shape?", "no", 3]],
    "test": [["what is the blue shape?", "circle", 0]],
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Files laid out as the package lays them out."""
    folder = tmp_path / "easy_vqa"
    for split, asked in ASKED.items():
        (folder / "data" / split / "images").mkdir(parents=True)
        (folder / "data" / split / "questions.json").write_text(json.dumps(asked))
        for _, _, n in asked:
            colour = (10 * n, 0, 255)
            Image.new("RGB", (64, 64), colour).save(folder / "data" / split / "images" / f"{n}.png")
    (folder / "__init__.py").write_text("raise RuntimeError('it was run')")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return folder


def test_questions_pictures_and_answers_are_read(package, tmp_path, capsys):
    assert easy_vqa.main(["--out", str(tmp_path / "out")]) == 0
    assert "train.jsonl: 2 questions" in capsys.readouterr().out
    train, test = (load(str(tmp_path / "out" / f"{s}.jsonl"), labels=True) for s in ("train", "test"))
    read = [(e.question, e.answer, e.meta["category"]) for e in (train[0], train[1], test[0])]
    assert read == [
        ("What color is the shape?", "blue", "colour"),
        ("Is there a red shape?", "no", "yes or no"),
        ("What is the blue shape?", "circle", "shape"),
    ]
    assert train[1].images[0].getpixel((0, 0)) == (30, 0, 255)
    assert load(str(tmp_path / "out" / "train.jsonl"))[0].answer is None


def test_a_package_that_is_missing_or_not_whole_is_said_in_one_line(package, tmp_path, program, monkeypatch):
    (package / "data" / "train" / "images" / "3.png").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(easy_vqa.importlib.util, "find_spec", lambda name: None)
        missing = program(easy_vqa.main, "--out", tmp_path / "out")
    broken = program(easy_vqa.main, "--out", tmp_path / "out")
    for done in (missing, broken):
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and easy_vqa.INSTALL in done.stderr
    assert "3.png" in broken.stderr


@pytest.mark.skipif(importlib.util.find_spec("easy_vqa") is None, reason=easy_vqa.INSTALL)
def test_the_package_has_its_questions(tmp_path):
    assert easy_vqa.main(["--out", str(tmp_path)]) == 0
    sizes = {"train": 38_575, "test": 9_673}
    for split, size in sizes.items():
        source = load(str(tmp_path / f"{split}.jsonl"), labels=True)
        assert len(source) == size and source[0].images[0].size == (64, 64)
    train, test = (
        {row["images"][0].split("/")[0] for row in map(json.loads, (tmp_path / f"{s}.jsonl").open())}
        for s in sizes
    )
    assert not train & test
