"""Sources by name, their splits, and the order in which their rows are read."""

import pytest
from conftest import every, write_rows

from data import DataError, Several, load, order
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
