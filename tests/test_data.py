"""Sources by name, their splits, and the order in which their rows are read."""

import json
import os
import re
import socket
import time
from pathlib import Path

import pytest
from conftest import every, write_rows
from PIL import Image

from data import BadRow, DataError, Several, load, order, tables, with_split
from data.stream import Questions

# --- reading


def test_labels_are_stripped_unless_asked_for(questions_file):
    path, rows = questions_file
    for source in (str(path), "tiny"):
        assert all(load(source)[i].answer is None for i in range(5))
        assert all(load(source, labels=True)[i].answer for i in range(5))
    assert load(str(path), labels=True)[3].answer == rows[3]["answer"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.jsonl", "no such file"),
        ("words", "a source is"),
        ("tiny:x", "tiny has the splits test, train, validation, not 'x'"),
    ],
)
def test_a_source_that_is_none_is_named(source, message):
    with pytest.raises(DataError, match=message):
        load(source)


def test_an_unknown_split_is_named():
    with pytest.raises(DataError, match="not 'dev'"):
        load("tiny", "dev")


def test_order_is_a_new_permutation_each_epoch_and_continues_anywhere(questions_file):
    examples = load(str(questions_file[0]))
    stream = order(examples, seed=1)
    first = [next(stream) for _ in range(60)]
    assert [position for position, _ in first] == list(range(60))
    epochs = [[index for _, index in first[i : i + 24]] for i in (0, 24)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(24)) and epochs[0] != epochs[1]
    later = order(examples, seed=1, start=37)
    assert [next(later) for _ in range(20)] == first[37:57]
    assert [next(order(examples, seed=2))] != first[:1] or next(order(examples, seed=3)) != first[0]
    tiny = order(load("tiny"), seed=1, start=5)
    assert next(tiny)[0] == 5


def test_rows_are_named_as_their_file_has_them(tmp_path):
    paths = [
        write_rows(tmp_path / f"{name}.jsonl", [{"question": f"{name}{i}"} for i in range(3)])
        for name in "ab"
    ]
    both = load(list(map(str, paths)))
    assert [both.where(i) for i in (0, 2, 3)] == ["a.jsonl:1", "a.jsonl:3", "b.jsonl:1"]
    assert load("tiny", "test").where(3) == "tiny-test-3"


def test_several_sources_are_one_with_ids_of_their_own(tmp_path, questions_file):
    pytest.importorskip("pyarrow", reason="pip install pyarrow")
    from datasets_made import write_geometry3k

    jsonl, rows = questions_file
    parquet = write_geometry3k(tmp_path)
    both = load([str(jsonl), str(parquet)], labels=True)
    assert isinstance(both, Several) and len(both) == 30
    assert both[3].id == "questions/q3" and both[3].answer == rows[3]["answer"]
    assert both[24].id == "geometry3k/geometry3k-1" and both[29].answer == "6607"
    assert all(e.answer is None for e in every(load([str(jsonl), str(parquet)])))
    assert load([str(jsonl)])[3].id == "q3"
    (tmp_path / "b").mkdir()
    twin = write_geometry3k(tmp_path / "b")
    ids = [e.id for e in every(load([str(parquet), str(twin)]))]
    assert (
        len(set(ids)) == 12
        and ids[0] == "geometry3k.1/geometry3k-1"
        and ids[6] == "geometry3k.2/geometry3k-1"
    )
    with pytest.raises(DataError, match="tiny has no end"):
        load(["tiny", str(parquet)])


def test_one_source_in_a_list_streams_as_it_did_alone(tmp_path, processor):
    pytest.importorskip("pyarrow", reason="pip install pyarrow")
    from datasets_made import write_geometry3k

    path = str(write_geometry3k(tmp_path))
    alone, listed = (Questions(s, processor, 3, 500) for s in (path, [path]))
    for _ in range(4):
        assert [e.id for e in alone.next(5)] == [e.id for e in listed.next(5)]


# --- benchmarks, typos, and where pictures may lie


ROW = {"question": "What?", "answer": "5"}


@pytest.mark.parametrize(
    ("here", "asked", "place", "split"),
    [
        ("", "mathvista", "AI4Math/MathVista", "testmini"),
        ("", "mathvista:test", "AI4Math/MathVista", "test"),
        ("", "mathverse", "AI4Math/MathVerse:testmini", "testmini"),
        ("mathvista.jsonl", "mathvista", "mathvista.jsonl", "testmini"),
        ("mathvista.csv", "mathvista", "mathvista.csv", "testmini"),
        ("wemath/testmini.parquet", "wemath", "wemath", "testmini"),
        ("wemath/test.parquet", "wemath:test", "wemath", "test"),
        ("mathvista.jsonl", "mathvision", "MathLLMs/MathVision", "test"),
    ],
)
def test_a_benchmark_by_its_bare_name_is_what_is_here_or_the_hubs(
    tmp_path, monkeypatch, capsys, here, asked, place, split
):
    def hub(*found):
        raise DataError(f"hub {found}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("data.HubRows", hub)
    if here.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="pip install pyarrow")
        import pyarrow.parquet

        Path(here).parent.mkdir()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROW]), here)
    elif here:
        Path(here).write_text(json.dumps(ROW) if here.endswith("jsonl") else "question,answer\nWhat?,5\n")
    assert with_split(asked, "other") == (place, split)
    if "/" in place:
        with pytest.raises(DataError, match=re.escape(f"hub {(place, split)}")):
            load(asked, "other")
    else:
        assert [e.question for e in every(load(asked, "other"))] == ["What?"]
    assert f"{asked} is {place}" in capsys.readouterr().err


def test_a_benchmark_by_name_is_graded_by_its_rules(tmp_path, monkeypatch):
    from eval import EvalConfig, opened

    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "chartqa.jsonl", [ROW])
    for config, name in (
        (EvalConfig(data="chartqa"), "chartqa"),
        (EvalConfig(data="chartqa", benchmark="plain"), "plain"),
        (EvalConfig(data="chartqa.jsonl"), "plain"),
    ):
        assert opened(config)[2].name == name


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("photos/typo", "photos/typo: no such folder in photos; the hub's data set of that name is photos/"),
        ("nobody/typo", "nobody/typo: no such folder here, and no network to ask the hub for it"),
        ("photos/typo::train", "photos/typo: no such folder here, and no network to ask the hub for it"),
        ("photos/list.txt", "photos/list.txt: a source is `tiny`, a .jsonl, .json, .csv, .parquet file, a"),
        ("photos/typo.csv", "photos/typo.csv: no such file"),
        ("photos", "photos: no .parquet file in this folder, and no picture"),
        ("mathvitsa", "mathvitsa: a source is `tiny`"),
        ("mathvista", "AI4Math/MathVista: no such folder here, and no network to ask the hub for it"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said_at_once(tmp_path, monkeypatch, program, source, message):
    import eval as eval_program

    pytest.importorskip("datasets", reason="pip install datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("data.tables.has_network", lambda: False)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "list.txt").write_text("")
    start = time.process_time()
    done = program(eval_program.main, "--data", source, "--out", tmp_path / "out.json")
    said = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and said.startswith(f"error: {message}") and done.stdout == ""
    assert time.process_time() - start < 2
    assert [f.name for f in tmp_path.iterdir()] == ["photos"]


def test_a_network_is_found_by_one_try(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(tables, "getproxies", dict)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert tables.has_network()
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert not tables.has_network()
        monkeypatch.delenv("HF_HUB_OFFLINE")
    assert not tables.has_network(0.5)
    monkeypatch.setattr(tables, "getproxies", lambda: {"https": "http://proxy"})
    assert tables.has_network()


def test_what_the_cache_holds_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    assert not tables.in_cache("owner/geo")
    (tmp_path / "owner___geo").mkdir()
    assert tables.in_cache("owner/geo") and not tables.in_cache("other/geo")


@pytest.fixture
def pictures(tmp_path):
    """rows/ and shelf/ side by side, a picture in each and one beside them."""
    for name in ("rows/near.png", "shelf/in.png", "shelf/sub/deep.png", "out.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 60)).save(tmp_path / name)
    (tmp_path / "shelf" / "link.png").symlink_to(tmp_path / "out.png")
    (tmp_path / "shelf" / "loop.png").symlink_to(tmp_path / "shelf" / "loop.png")
    os.mkfifo(tmp_path / "shelf" / "pipe.png")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "without", "within"),
    [
        ("in.png", "no such image file", "read"),
        ("sub/../in.png", "no such image file", "read"),
        ("../shelf/sub/deep.png", "read", "read"),
        ("{}/shelf/in.png", "read", "read"),
        ("near.png", "read", "no such image file in"),
        ("../out.png", "read", "it leaves"),
        ("../../../../../../../../etc/passwd", "not a whole image", "it leaves"),
        ("{}/out.png", "read", "it leaves"),
        ("../shelf/link.png", "read", "it leaves"),
        ("{}/shelf/loop.png", "", "--images_root"),
        ("{}/shelf/pipe.png", "not a file", "no such image file in"),
        ("a\0b.png", "", "--images_root"),
        ("x" * 3000, "", "--images_root"),
    ],
)
@pytest.mark.parametrize("form", ["images", "image", "image_1", "chat", "csv"])
def test_no_path_leaves_the_root(pictures, form, path, without, within):
    path = path.format(pictures)
    file = pictures / "rows" / ("q.csv" if form == "csv" else "q.jsonl")
    said = {"role": "user", "content": [{"type": "image", "image": path}, {"type": "text", "text": "?"}]}
    cells = {"images": {"images": [path]}, "chat": {"messages": [said]}}.get(form, {form: {"path": path}})
    if form == "csv":
        file.write_text(f'question,images\n?,"{path}"\n')
    else:
        write_rows(file, [({} if form == "chat" else {"question": "?"}) | cells])
    for root, expected in (("", without), (str(pictures / "shelf"), within)):
        source = load(str(file), images_root=root)
        if expected == "read":
            assert len(source[0].images) == 1
            continue
        with pytest.raises(BadRow) as error:
            source[0]
        assert expected in str(error.value) and str(error.value).startswith(f"{file.name}:")


def test_a_root_that_is_none_is_named(pictures, program):
    import eval as eval_program

    write_rows(pictures / "q.jsonl", [ROW])
    done = program(eval_program.main, "--data", pictures / "q.jsonl", "--images_root", pictures / "gone")
    assert done.returncode == 2 and done.stderr == f"error: --images_root {pictures}/gone: no such folder\n"


def test_every_program_holds_pictures_to_the_root_that_it_is_given(pictures, program, random_folder):
    import eval as eval_program
    import mmupt
    from programs import look, synthesize

    row = {"id": "q", "question": "?", "answer": "5", "images": ["../out.png"]}
    file, root = write_rows(pictures / "rows" / "q.jsonl", [row]), ("--images_root", pictures / "shelf")
    small = ("--model", random_folder, "--max_new_tokens", 2)
    new, out = pictures / "new.jsonl", [("--out", pictures / name) for name in ("a", "b")]
    for main, *argv in (
        (look.main, file),
        (eval_program.main, *small, "--data", file),
        (mmupt.main, *small, *out[0], "--train_data", file),
        (mmupt.main, *small, *out[1], "--train_data", "tiny", "--eval_data", file),
        (synthesize.main, "--model", random_folder, "--data", file, "--mode", "direct", "--out", new),
    ):
        done = program(main, *argv, *root)
        assert "it leaves" in done.stdout + done.stderr, (main.__module__, done.stdout, done.stderr)
