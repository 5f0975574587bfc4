"""Parquet files, folders and hub ids: what each published schema becomes, that labels stay out, and
every bad case."""

import io
import json
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from itertools import islice
from pathlib import Path

import pytest
from conftest import every, write_rows
from PIL import Image

pytest.importorskip("pyarrow", reason="pip install pyarrow")

import pyarrow
import pyarrow.parquet
from datasets_made import PICTURE, PROBLEMS, TEXT, WRITERS, picture, write, write_geometry3k, write_mathvista

import mmupt
from answers import option_key
from common import run_log
from data import BadRow, DataError, Example, load, order, tables
from data.columns import find_columns
from data.stream import Questions
from evaluation.answering import labelled


def texts(example: Example) -> str:
    """All that an example says, but its pictures."""
    parts = (
        example.id,
        example.question,
        example.answer,
        *example.choices,
        *example.meta,
        *example.meta.values(),
    )
    return "\n".join(map(str, parts))


def row(problem="<image>How long?", answer="7", images=None) -> dict:
    return {"images": [picture(0)] if images is None else images, "problem": problem, "answer": answer}


# --- the data sets of the paper


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("made")
    return {name: writer(folder) for name, writer in WRITERS.items()}


@pytest.mark.parametrize("name", WRITERS)
def test_every_data_set_reads_with_and_without_labels(made, name):
    stored = pyarrow.parquet.read_table(made[name]).to_pylist()
    bare, full = every(load(str(made[name]))), every(load(str(made[name]), labels=True))
    assert len(bare) == len(full) == len(stored) and len({e.id for e in bare}) == len(stored)
    for one, two, cells in zip(bare, full, stored, strict=True):
        assert one.answer is None and two.answer
        assert (one.id, one.question, one.choices) == (two.id, two.question, two.choices)
        assert [i.tobytes() for i in one.images] == [i.tobytes() for i in two.images] and one.images
        assert all(i.mode == "RGB" for i in one.images)
        kept = next(
            c
            for c in ("images", "decoded_image", "image", "image_path")
            if isinstance(cells.get(c), (dict, list))
        )
        first = cells[kept][0] if isinstance(cells[kept], list) else cells[kept]
        assert one.images[0].tobytes() == Image.open(io.BytesIO(first["bytes"])).convert("RGB").tobytes()
        assert option_key(two.answer, two.choices) is not None


@pytest.mark.parametrize("name", WRITERS)
def test_no_field_of_an_unlabelled_example_holds_a_label(made, name):
    for one, two in zip(every(load(str(made[name]))), every(load(str(made[name]), labels=True)), strict=True):
        assert set(one.meta) == {"category"} and one.meta["category"] == ""
        if (
            not two.choices and len(two.answer) > 1
        ):  # a letter, or one of the choices, stands in the question itself
            assert two.answer not in texts(one) and two.answer in texts(two)


@pytest.mark.parametrize("name", WRITERS)
def test_columns_that_may_hold_labels_are_not_even_read(made, name, monkeypatch):
    read, original = set(), tables.ParquetRows.read
    monkeypatch.setattr(tables.ParquetRows, "read", lambda s, g, c: read.update(c) or original(s, g, c))
    every(load(str(made[name])))
    assert read and not read & {
        "answer",
        "solution",
        "label",
        "metadata",
        "question_for_eval",
        "precision",
        "level",
        "image_url",
    }


def test_the_columns_of_the_benchmarks_stand_in_meta_as_they_are(made):
    wanted = {
        "mathvista": {"precision", "answer_type", "question_type", "metadata", "unit", "pid", "query"},
        "mathverse": {
            "problem_version",
            "problem_index",
            "question_type",
            "metadata",
            "query_wo",
            "question_for_eval",
        },
        "mathvision": {"level", "subject", "solution"},
        "wemath": {"key", "ID", "question number", "knowledge concept"},
    }
    for name, columns in wanted.items():
        stored = pyarrow.parquet.read_table(made[name]).to_pylist()
        for example, cells in zip(every(load(str(made[name]), labels=True)), stored, strict=True):
            assert columns <= example.meta.keys()
            assert all(example.meta[c] == cells[c] for c in columns)
            json.dumps(example.meta)


def test_questions_of_the_data_sets_worked_out_by_hand(made):
    vista, verse, vision, wemath = (
        every(load(str(made[n]), labels=True)) for n in ("mathvista", "mathverse", "mathvision", "wemath")
    )
    assert (vista[0].question, vista[0].choices) == ("Which shape is it?", ("square", "triangle", "circle"))
    assert option_key(vista[0].answer, vista[0].choices) == option_key("B", vista[0].choices)
    assert (
        verse[3].question.startswith("As shown, find angle C.")
        and verse[3].answer == "A"
        and verse[3].choices == ("145°", "140°", "135°", "130°")  # which its question lists
    )
    assert verse[4].question == (
        "According to the question shown in the image, please first conduct reasoning, "
        "and then answer the question."
    )
    assert vision[0].question == "Which of the pieces fits?\n<image>" and vision[0].choices == tuple("ABCDE")
    assert vision[2].question == "What are <image> and <image2> together?"
    assert vision[3].question == "How many triangles does <image> hold? Count <image1> twice."
    assert wemath[4].choices == ("5 cm", "6 cm", "7 cm", "No correct answer")
    assert [e.id for e in wemath][:4] == ["1-2steps_1", "1-2steps_2", "1-2steps_multi", "2-3steps_1"]
    assert load(str(made["geoqa_r1v"]), labels=True)[0].answer == "1511°"
    assert load(str(made["geometry3k"]))[3].id == "geometry3k-4"


@pytest.mark.parametrize("name", WRITERS)
def test_every_data_set_can_be_measured_on(made, name, processor):
    good, skipped = labelled(load(str(made[name]), labels=True), processor, 1000)
    assert not skipped and len(good) == pyarrow.parquet.read_metadata(made[name]).num_rows


def test_a_run_trains_on_all_data_sets_together_and_measures_on_one(made, tmp_path, monkeypatch):
    argv = [
        "--train_data",
        *map(str, made.values()),
        "--eval_data",
        str(made["mathvista"]),
        "--out",
        str(tmp_path / "r"),
    ]
    options = dict(steps=2, questions=8, group_size=2, max_new_tokens=4, eval_samples=1, eval_every=0)
    argv += [str(x) for name, value in options.items() for x in (f"--{name}", value)]
    monkeypatch.setattr(run_log, "LOGGED_QUESTIONS", 8)
    assert mmupt.main(argv) == 0
    metrics = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics if "reward" in m] == [1, 2] and metrics[-1].get("bad_rows", 0) == 0
    ids = [json.loads(line)["id"] for line in (tmp_path / "r" / "rollouts.jsonl").read_text().splitlines()]
    assert len({i.split("/")[0] for i in ids}) > 3 and all("/" in i for i in ids)
    assert json.loads((tmp_path / "r" / "config.json").read_text())["train_data"] == [
        str(p) for p in made.values()
    ]
    assert mmupt.main([*argv, "--resume", "--steps", "3"]) == 0
    with pytest.raises(DataError, match="is not what it was when this run began"):
        mmupt.main([*argv[:2], *argv[len(made) + 1 :], "--resume", "--steps", "3"])


@pytest.mark.parametrize("name", WRITERS)
def test_every_data_set_trains(made, name, tmp_path):
    argv = ["--train_data", str(made[name]), "--eval_data", str(made[name]), "--out", str(tmp_path / "r")]
    options = dict(steps=1, questions=4, group_size=2, max_new_tokens=4, eval_samples=1, eval_every=0)
    assert mmupt.main(argv + [str(x) for name, value in options.items() for x in (f"--{name}", value)]) == 0
    metrics = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert any("eval/pass@1" in m for m in metrics) and [
        m["bad_rows"] for m in metrics if "bad_rows" in m
    ] == [0]


# --- files


@pytest.fixture
def many(tmp_path) -> tuple[str, int]:
    """A file of 15 row groups of 4 rows each, and the bytes of one group."""
    file = io.BytesIO()
    Image.effect_noise((200, 200), 90).save(file, "PNG")
    rows = [
        row(f"<image>Question {i}", str(i), [{"bytes": file.getvalue(), "path": None}]) for i in range(60)
    ]
    path = write(tmp_path, "many.parquet", PROBLEMS, rows, row_group_size=4)
    group = pyarrow.parquet.ParquetFile(path).read_row_group(0, columns=["images", "problem"]).nbytes
    return str(path), group


def test_an_epoch_reads_no_row_group_twice_however_little_is_kept(many, monkeypatch):
    path, group = many
    monkeypatch.setattr(tables, "KEEP_BYTES", 6 * group + group // 2)
    source, read = load(path), []
    assert [size for _, size in source.blocks] == pytest.approx([group] * 15, rel=0.01)
    source.store.kept.clear()
    original = source.store.read
    monkeypatch.setattr(source.store, "read", lambda g, c: read.append(g) or original(g, c))
    epochs = [[i for _, i in islice(order(source, 5, 60 * epoch), 60)] for epoch in (0, 1)]
    with ThreadPoolExecutor(4) as threads:
        for start in range(0, 60, 8):  # in any order within eight rows, of which some are in the next window
            rows = epochs[0][start : start + 8]
            examples = threads.map(source.__getitem__, rows)
            assert [e.question for e in examples] == [f"<image>Question {i}" for i in rows]
    assert sorted(read) == list(range(15))
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(60)) and epochs[0] != epochs[1]
    assert [i for _, i in islice(order(source, 5, 17), 100)] == (epochs[0] + epochs[1])[17:117]
    for start in range(0, 60, 12):  # the rows of three groups, mixed
        window = [i // 4 for i in epochs[0][start : start + 12]]
        assert len(set(window)) == 3 and window != sorted(window)
    assert {i // 4 for i in epochs[0][:12]} != {i // 4 for i in epochs[1][:12]} != {0, 1, 2}


def test_groups_that_are_empty_or_unlike_the_others_are_shuffled_in_windows_too(tmp_path, monkeypatch):
    file = io.BytesIO()
    Image.effect_noise((200, 200), 90).save(file, "PNG")
    small, large = picture(0), {"bytes": file.getvalue(), "path": None}
    schema = pyarrow.schema(PROBLEMS)
    with pyarrow.parquet.ParquetWriter(tmp_path / "a.parquet", schema) as out:
        out.write_table(schema.empty_table())
        for g in range(10):
            pictures = [small if g < 6 else large] * 4
            rows = [row(f"<image>{g} {i}", str(i), [p]) for i, p in enumerate(pictures)]
            out.write_table(pyarrow.Table.from_pylist(rows, schema))
            out.write_table(schema.empty_table())
    monkeypatch.setattr(tables, "KEEP_BYTES", 20 * len(file.getvalue()))
    source, read = load(str(tmp_path / "a.parquet")), []
    assert sum(size for _, size in source.blocks) > 30 * len(file.getvalue())
    source.store.kept.clear()
    original = source.store.read
    monkeypatch.setattr(source.store, "read", lambda g, c: read.append(g) or original(g, c))
    assert sorted(i for _, i in islice(order(source, 2), 40) if source[i]) == list(range(40))
    assert sorted(read) == list(range(1, 21, 2))


def test_answers_decide_nothing_of_the_order_however_large_they_are(tmp_path, monkeypatch):
    """Neither the windows of a file nor whether it needs any, with labels or without."""
    found, sizes = set(), set()
    for long in (range(0), range(30), range(30, 60), range(60)):
        rows = [
            row(f"<image>Question {i}", f"{'long ' * 5000 * (i in long)}{i}", [picture(i)]) for i in range(60)
        ]
        path = write(tmp_path, "a.parquet", PROBLEMS, rows, row_group_size=4)
        sizes.add(path.stat().st_size)
        for labels in (False, True):
            source = load(str(path), labels=labels)
            monkeypatch.setattr(tables, "KEEP_BYTES", 4 * source.blocks[0][1])
            found.add(tuple(i for _, i in islice(order(source, 5), 60)))
    assert len(sizes) > 1 and len(found) == 1


def test_two_groups_are_kept_however_large(many, monkeypatch):
    path, group = many
    monkeypatch.setattr(tables, "KEEP_BYTES", group // 2)
    source, read = load(path), []
    original = source.store.read
    monkeypatch.setattr(source.store, "read", lambda g, c: read.append(g) or original(g, c))
    for index in (0, 4, 1, 5, 2, 8, 6):  # threads pass from one group to the next one by one
        source[index]
    assert read == [0, 1, 2, 1]


def test_what_fits_in_memory_is_shuffled_as_a_whole(many, tmp_path):
    path, _ = many
    wanted = list(range(60))
    random.Random("order 3 0").shuffle(wanted)
    assert [i for _, i in islice(order(load(path), 3), 60)] == wanted


def test_several_sources_are_shuffled_together_in_windows(many, tmp_path, monkeypatch):
    path, group = many
    monkeypatch.setattr(tables, "KEEP_BYTES", 6 * group + group // 2)
    lines = write_rows(tmp_path / "more.jsonl", [{"question": f"What is {i}?"} for i in range(30)])
    several = load([path, str(lines)])
    indices = [i for _, i in islice(order(several, 1), 90)]
    assert sorted(indices) == list(range(90))
    halves = [sum(i >= 60 for i in half) for half in (indices[:45], indices[45:])]
    assert min(halves) >= 5  # rows that come alone are spread over the windows


def test_rows_are_read_at_random_in_bounded_memory(many, monkeypatch):
    path, group = many
    monkeypatch.setattr(tables, "KEEP_BYTES", 3 * group + group // 2)
    source, read = load(path), []
    original = source.store.read
    monkeypatch.setattr(source.store, "read", lambda g, c: read.append(g) or original(g, c))
    for index in (59, 0, 31, 1, 58, 17, 30, 44, 2):
        assert source[index].question == f"<image>Question {index}"
        assert sum(t.nbytes for t in source.store.kept.values()) <= tables.KEEP_BYTES
    assert read == [14, 0, 7, 4, 7, 11, 0]  # a group is read again only once three others were wanted later
    with pytest.raises(IndexError):
        source[60]


def test_threads_may_read_at_once(made):
    source = load(str(made["geometry3k"]))
    expected = every(source)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(source.__getitem__, [i % 6 for i in range(60)]))
    assert all(e.question == expected[i % 6].question for i, e in enumerate(read))


def test_a_folder_is_its_shards_in_order_and_has_splits(tmp_path):
    for split, count in (("train", 2), ("test", 1)):
        for shard in range(count):
            rows = [row(f"{split} {shard} {i}") for i in range(3)]
            write(tmp_path / "geo" / "data", f"{split}-{shard:05}-of-{count:05}.parquet", PROBLEMS, rows)
    source = load(str(tmp_path / "geo"))
    assert [e.question for e in every(source)] == [f"train {s} {i}" for s in (0, 1) for i in range(3)]
    assert source[4].id == "geo-train-5"
    assert load(str(tmp_path / "geo"), "test")[1].question == "test 0 1"
    with pytest.raises(DataError, match="geo: there is no split 'dev', but test, train$"):
        load(str(tmp_path / "geo"), "dev")
    (tmp_path / "vista").mkdir()
    write_mathvista(tmp_path / "vista").rename(tmp_path / "vista" / "testmini.parquet")
    assert len(load(str(tmp_path / "vista"))) == len(load(str(tmp_path / "vista"), "testmini")) == 6
    write_mathvista(tmp_path / "vista").rename(tmp_path / "vista" / "test.parquet")
    with pytest.raises(DataError, match="there is no split `train`, but test, testmini$"):
        load(str(tmp_path / "vista"))


def test_pictures_as_bytes_and_as_paths_beside_the_file(tmp_path):
    Image.new("RGB", (30, 20), "blue").save(tmp_path / "b.png")
    schema = [("image", pyarrow.binary()), ("question", TEXT)]
    rows = [{"image": picture(1)["bytes"], "question": "a"}, {"image": None, "question": "b"}]
    one, two = every(load(str(write(tmp_path, "bytes.parquet", schema, rows))))
    assert one.images[0].size == (72, 60) and two.images == ()
    schema = [("image", TEXT), ("question", TEXT)]
    path = write(tmp_path, "paths.parquet", schema, [{"image": "b.png", "question": "a"}])
    assert load(str(path))[0].images[0].size == (30, 20)
    schema = [("image", PICTURE), ("question", TEXT)]
    path = write(
        tmp_path, "struct.parquet", schema, [{"image": {"bytes": None, "path": "b.png"}, "question": "a"}]
    )
    assert load(str(path))[0].images[0].size == (30, 20)


def types_of_pictures() -> dict:
    found = {
        "a list of two": pyarrow.list_(PICTURE, 2),
        "bytes in a list": pyarrow.list_(pyarrow.binary()),
        "large": pyarrow.large_list(pyarrow.struct([("bytes", pyarrow.large_binary())])),
        "a view": pyarrow.list_view(PICTURE) if hasattr(pyarrow, "list_view") else None,
    }
    return {name: kind for name, kind in found.items() if kind}


@pytest.mark.parametrize("name", types_of_pictures())
def test_pictures_of_any_arrow_type_are_seen(tmp_path, name):
    cell = [picture(0), picture(1)]
    if name == "bytes in a list":
        cell = [one["bytes"] for one in cell]
    table = pyarrow.table({"images": pyarrow.array([cell], types_of_pictures()[name]), "question": ["?"]})
    assert find_columns({f.name: tables.kind_of(f.type) for f in table.schema}).images == ("images",)
    if name != "a view":  # which parquet files can't hold
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        assert [i.size for i in load(str(tmp_path / "a.parquet"))[0].images] == [(72, 60)] * 2


def test_paths_in_a_struct_are_beside_the_file(tmp_path):
    Image.new("RGB", (30, 20), "blue").save(tmp_path / "b.png")
    schema = [("image", pyarrow.struct([("path", TEXT)])), ("question", TEXT)]
    path = write(tmp_path, "a.parquet", schema, [{"image": {"path": "b.png"}, "question": "?"}])
    assert load(str(path))[0].images[0].size == (30, 20)


@pytest.mark.parametrize(
    ("kind", "cell", "answer"),
    [
        (pyarrow.float32(), 0.1, "0.1"),
        (pyarrow.float64(), 0.1, "0.1"),
        (pyarrow.float32(), 2.5, "2.5"),
        (pyarrow.decimal128(6, 2), Decimal("1.50"), "1.50"),
        (pyarrow.list_(pyarrow.int64()), [7], "7"),
        (pyarrow.list_(TEXT), ["7"], "7"),
        (pyarrow.list_(pyarrow.float32()), [0.1], "0.1"),
        (pyarrow.large_string(), "7", "7"),
        (pyarrow.int8(), 7, "7"),
    ],
)
def test_numbers_are_labels_as_they_are_written(tmp_path, kind, cell, answer):
    path = write(
        tmp_path, "a.parquet", [("question", TEXT), ("answer", kind)], [{"question": "?", "answer": cell}]
    )
    assert load(str(path), labels=True)[0].answer == answer


# --- the hub, from a folder of this machine


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """`owner/geo` and its splits as the hub would give them; nothing is fetched."""
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    folder = tmp_path / "hub" / "owner" / "geo" / "data"
    for split in ("train", "test"):
        table = pyarrow.parquet.read_table(write_geometry3k(tmp_path / split))
        images = datasets.Features(
            images=datasets.Sequence(datasets.Image()),
            problem=datasets.Value("string"),
            answer=datasets.Value("string"),
        )
        folder.mkdir(parents=True, exist_ok=True)
        data = datasets.Dataset(table.cast(images.arrow_schema))
        data.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    local, asked = str(folder.parent), []
    for name in ("get_dataset_split_names", "load_dataset"):
        original = getattr(datasets, name)

        def from_folder(path, config=None, original=original, **options):
            asked.append((path, config))
            if path != "owner/geo":
                raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{path}' doesn't exist on the Hub")
            return original(
                local, **options | ({} if "split" not in options else {"cache_dir": str(tmp_path / "cache")})
            )

        monkeypatch.setattr(datasets, name, from_folder)
    monkeypatch.setattr("data.tables.has_network", lambda: True)
    return asked


def test_a_hub_id_reads_as_its_files_do(hub, tmp_path, monkeypatch):
    direct = every(load(str(tmp_path / "train" / "geometry3k.parquet"), labels=True))
    decoded = []
    monkeypatch.setattr("datasets.Image.decode_example", lambda *a, **k: decoded.append(a))
    for source in ("owner/geo", "owner/geo:default"):
        read = every(load(source, labels=True))
        assert [(e.question, e.answer) for e in read] == [(e.question, e.answer) for e in direct]
        assert [e.images[0].tobytes() for e in read] == [e.images[0].tobytes() for e in direct]
    assert not decoded and set(hub) == {("owner/geo", None), ("owner/geo", "default")}
    bare = load("owner/geo", "test")
    assert (
        bare[2].id == "geo-test-3"
        and bare[2].answer is None
        and bare.store.data.column_names == ["images", "problem"]
    )
    with pytest.raises(DataError, match="owner/geo: there is no split 'dev', but t"):
        load("owner/geo", "dev")
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda *a: 1 / 0)  # as without a network
    assert len(load("owner/geo", "test")) == len(load("owner/geo")) == 6
    with pytest.raises(
        DataError, match="owner/gone: not a data set that can be loaded from the hub .*doesn't exist"
    ):
        load("owner/gone")


# --- bad cases


@pytest.mark.parametrize(
    ("package", "source"), [("pyarrow", "geometry3k.parquet"), ("datasets", "owner/geo")]
)
def test_a_missing_package_is_named_with_its_install_line(tmp_path, monkeypatch, package, source):
    path = write_geometry3k(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=f"needs {package}, which is missing: pip install {package}$"):
        load(str(path) if source.endswith("parquet") else source)


def test_sources_that_can_not_be_used_say_why(tmp_path):
    good = write_geometry3k(tmp_path)
    cases = {
        "cut.parquet": "not a whole parquet file",
        "empty.parquet": "no rows",
        "other.parquet": "no question among the columns asks, image; one must be named problem, question",
        "urls.parquet": "an image is the URL https://x.org/a.png: nothing is fetched while training",
        "urls.jsonl": "an image is the URL https://x.org/a.png: nothing is fetched while training",
        "labels.parquet": "the labels in `answer` are neither text nor numbers",
        "blind.parquet": "`image` holds no pictures that can be read: {bytes, path}, bytes, "
        "or paths beside the file",
        "shards": "shards: 2 of 5 files of train are missing, the first: train-00001-of-00005",
        "gone.parquet": "gone.parquet: no such file",
        "nothing": "nothing: no .parquet file in this folder",
        "mixed": "its columns differ from those of train-00000-of-00002.parquet",
        "configs": "parquet files in several folders; name one of ",
    }
    (tmp_path / "cut.parquet").write_bytes(good.read_bytes()[:-100])
    write(tmp_path, "empty.parquet", PROBLEMS, [])
    write(
        tmp_path,
        "other.parquet",
        [("asks", TEXT), ("image", PICTURE)],
        [{"asks": "?", "image": picture(0)}],
    )
    linked = {"image": "https://x.org/a.png", "question": "?"}
    write(tmp_path, "urls.parquet", [("image", TEXT), ("question", TEXT)], [linked])
    write_rows(tmp_path / "urls.jsonl", [linked])
    truths = pyarrow.list_(pyarrow.bool_())
    write(
        tmp_path,
        "labels.parquet",
        [("question", TEXT), ("answer", truths)],
        [{"question": "?", "answer": [True]}],
    )
    numbers = pyarrow.list_(pyarrow.uint8())
    write(
        tmp_path, "blind.parquet", [("question", TEXT), ("image", numbers)], [{"question": "?", "image": [1]}]
    )
    for n in (0, 2, 3):
        write(tmp_path / "shards", f"train-0000{n}-of-00005.parquet", PROBLEMS, [row()])
    (tmp_path / "nothing").mkdir()
    write(tmp_path / "mixed", "train-00000-of-00002.parquet", PROBLEMS, [row()])
    write(tmp_path / "mixed", "train-00001-of-00002.parquet", [("question", TEXT)], [{"question": "?"}])
    for name in ("a", "b"):
        write(tmp_path / "configs" / name, "test.parquet", PROBLEMS, [row()])
    for name, message in cases.items():
        with pytest.raises(DataError) as error:
            load(str(tmp_path / name), labels=True)
        assert message in str(error.value) and "\n" not in str(error.value), name


def test_bad_rows_are_skipped_counted_and_named_once(tmp_path, processor, capsys):
    path = write(
        tmp_path,
        "q.parquet",
        [("id", TEXT), *PROBLEMS, ("options", TEXT)],
        [
            row() | {"id": "a"},
            row("Again?") | {"id": "a"},
            row(None) | {"id": "b"},
            row(images=[{"bytes": picture(3)["bytes"][:80], "path": None}]) | {"id": "c"},
            row(images=[None]) | {"id": "d"},
            row("<image> <image>") | {"id": "e"},
            row() | {"id": "f", "options": "3 or 4"},
            row() | {"id": None},
        ],
    )
    stream = Questions(str(path), processor, 0, 500)
    ids = {e.id for _ in range(4) for e in stream.next(2)}
    assert ids == {"a", "q-8"} and 6 < stream.bad_rows <= 4 * 6  # counted in every epoch
    said = capsys.readouterr().err
    assert said.count("skipped ") == 6
    for message in (
        "q row 2: the id a is already taken by q row 1",
        "q row 3: no question",
        "q row 4: image: not a whole image",
        "q row 5: `images` is a list of paths or pictures, not of null",
        "question e: 2 <image> tags but 1 images",
        "q row 7: `options` is a list of strings, or one string",
    ):
        assert said.count(message) == 1, message


def test_a_corrupt_part_of_a_file_costs_its_rows_alone(tmp_path, processor, capsys):
    path = write_geometry3k(tmp_path)
    column = pyarrow.parquet.ParquetFile(path).metadata.row_group(1).column(0)
    cut = bytearray(path.read_bytes())
    cut[column.data_page_offset : column.data_page_offset + 60] = b"\xff" * 60
    path.write_bytes(cut)
    source = load(str(path))
    assert [source[i].question for i in range(3)] == [f"<image>Find side {c} of the triangle." for c in "abc"]
    with pytest.raises(BadRow, match=r"geometry3k.parquet: row group 2 of 2 can't be read"):
        source[4]
    stream = Questions(str(path), processor, 0, 500)
    assert len(stream.next(3)) == 3
    with pytest.raises(DataError, match="3 usable questions of 6"):
        stream.next(4)
    assert capsys.readouterr().err.count("skipped ") == 1


# --- the first look


def test_the_bench_of_the_reader_runs(tmp_path):
    from bench.data_path import main

    assert main(["--images", "3", "--rounds", "1", "--side", "64", "--out", str(tmp_path / "data.md")]) == 0
    assert (tmp_path / "data.md").read_text().count("\n| ") == 3
