"""The questions of each step: skipped, read ahead and shared among processes."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import write_rows

from common.distributed import World
from data import DataError, load, order
from data.stream import Questions


def test_a_stream_without_usable_questions_ends(questions_file, processor):
    from data.stream import Questions

    with pytest.raises(DataError, match="0 usable questions of 24"):
        Questions(str(questions_file[0]), processor, 0, max_prompt_tokens=3).next(2)
    with pytest.raises(DataError, match="0 usable questions"):
        Questions("tiny", processor, 0, max_prompt_tokens=3).next(2)


def test_a_second_row_of_one_id_is_skipped_and_named(tmp_path, processor, capsys):
    from data.stream import Questions

    rows = [{"id": "same", "question": "a"}, {"id": "same", "question": "b"}, {"id": None, "question": "c"}]
    stream = Questions(str(write_rows(tmp_path / "q.jsonl", rows)), processor, 0, 500)
    assert {e.id for e in stream.next(2)} == {"same", "q-3"}
    with pytest.raises(DataError, match="2 usable questions of 3"):
        stream.next(3)
    assert "the id same is already taken" in capsys.readouterr().err


def test_reading_ahead_changes_neither_questions_nor_state_and_reads_no_row_twice_in_a_step(
    tmp_path, processor
):
    rows = [{"id": f"q{i}", "question": f"What is {i}?"} for i in range(23)]
    rows[5] = {"id": "q5"}  # no question: unusable
    path = str(write_rows(tmp_path / "q.jsonl", rows))
    stream, resumed = Questions(path, processor, 3, 500), None
    read, inner = [], stream.read
    stream.read = lambda index: read.append(index) or inner(index)
    examples = load(path)
    expected, position = order(examples, 3), 0
    for step in range(9):
        want, seen = [], set()
        while len(want) < 8:  # one row after the other, nothing read ahead
            position, index = next(expected)
            if index not in seen and index != 5:
                want.append(f"q{index}")
            seen.add(index)
        before = len(read)
        assert [e.id for e in stream.next(8)] == want
        assert stream.state()["position"] == position + 1
        assert len(read) - before <= 24
        if resumed is not None:
            assert [e.id for e in resumed.next(8)] == want and resumed.state() == stream.state()
        if step == 3:
            resumed = Questions(path, processor, 3, 500, state=stream.state())
    assert len(read) <= position + 1 + 8  # no row more often than its place came up


class Together(World):
    """A process that is a thread: `gather_json` through memory."""

    def gather_json(self, items):
        told, barrier = self.board
        told[self.rank] = items
        barrier.wait()
        found = [x for part in told for x in part]
        barrier.wait()
        return found


def step_by_step(size: int, steps: int, count: int, *args, **options) -> tuple[list, list]:
    """Questions of each step put together from `size` processes, and the rows that each has
    read."""
    board, reads = ([None] * size, threading.Barrier(size)), [[] for _ in range(size)]

    def process(rank: int) -> list:
        world = Together(rank, size, torch.device("cpu"))
        object.__setattr__(world, "board", board)
        stream = Questions(*args, world=world, **options)
        read = stream.read
        stream.read = lambda index: reads[rank].append(index) or read(index)
        parts = [(stream.next(count), stream.state(), dict(stream.gold)) for _ in range(steps)]
        stream.close()
        return parts

    with ThreadPoolExecutor(size) as pool:
        parts = list(pool.map(process, range(size)))
    merged = []
    for step in range(steps):
        mine = [p[step][0] for p in parts]
        assert all(p[step][1:] == parts[0][step][1:] for p in parts)
        merged.append(([e for place in zip(*mine, strict=True) for e in place], *parts[0][step][1:]))
    return merged, reads


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("bad", [(), (0, 5, 6, 17, 30)])
def test_processes_share_the_reading_and_take_what_one_would(tmp_path, processor, ahead, bad):
    rows = [{"id": f"q{i}", "question": f"What is {i}?", "answer": str(i)} for i in range(50)]
    for i in bad:
        rows[i] = {"id": f"q{i}"} if i % 2 else {"id": f"q{i}", "question": "long " * 600}
    args = (str(write_rows(tmp_path / "q.jsonl", rows)), processor, 3, 500)
    one, read_by_one = step_by_step(1, 7, 8, *args, ahead=ahead, labels=True)
    two, read = step_by_step(2, 7, 8, *args, ahead=ahead, labels=True)
    assert [[e.id for e in step[0]] for step in one] == [[e.id for e in step[0]] for step in two]
    assert [step[1:] for step in one] == [step[1:] for step in two] and one[-1][2]
    spare = 8 * ahead  # what the threads may have read for a step that doesn't come
    if not bad:
        assert 56 <= len(read[0] + read[1]) <= 56 + spare and abs(len(read[0]) - len(read[1])) <= spare
    assert len(read[0] + read[1]) < 1.6 * len(read_by_one[0]) + spare


def test_a_row_that_one_process_can_read_and_another_can_not_is_an_error(tmp_path, processor):
    rows = [{"id": f"q{i}", "question": f"What is {i}?"} for i in range(9)]
    stream = Questions(str(write_rows(tmp_path / "q.jsonl", rows)), processor, 3, 500, ahead=False)
    read = stream.read
    stream.read_together = lambda rows, encoded: [
        [n, f"q{i}", 9, None, None] for n, (i, _) in enumerate(rows)
    ]
    assert len(stream.next(4)) == 4  # all of them moved here
    stream.read = lambda index: (None, None, "row 1: gone") if index else read(index)
    with pytest.raises(DataError, match="row 1: gone, though another process could read it"):
        stream.next(4)


def test_rows_that_a_step_has_tried_are_read_by_threads_for_the_next(processor, tmp_path, monkeypatch):
    """A source of as many rows as a step has questions: each step's rows were all tried in the step
    before."""
    rows = [{"id": f"q{i}", "question": f"What is {i}?", "images": []} for i in range(6)]
    path = tmp_path / "few.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    stream, here = Questions(str(path), processor, 0, 500), []
    read = stream.read
    monkeypatch.setattr(
        stream, "read", lambda index: here.append(threading.current_thread().name) or read(index)
    )
    for _ in range(3):
        assert len(stream.next(6)) == 6
    stream.close()
    assert here and all(name.startswith("questions") for name in here)


def test_a_source_may_name_its_split_and_is_the_same_source(processor, tmp_path):
    named, plain = (Questions(source, processor, 3, 500) for source in ("tiny:train", "tiny"))
    assert [q.id for q in named.next(3)] == [q.id for q in plain.next(3)]
    assert named.size is None
    held_out = Questions("tiny:validation", processor, 3, 500)
    assert held_out.size == 512 and {q.id.split("-")[1] for q in held_out.next(3)} == {"validation"}


def test_the_files_of_a_source_that_names_its_split_are_watched(processor, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install pyarrow")
    import pyarrow

    rows = pyarrow.table({"question": ["What is 1?", "What is 2?"]})
    file = tmp_path / "train.parquet"
    parquet.write_table(rows, file)
    stream = Questions(f"{tmp_path}:train", processor, 0, 500)
    assert [name for name, *_ in stream.files] == ["train.parquet"]
    parquet.write_table(pyarrow.table({"question": [f"What is {i} + {i}?" for i in range(99)]}), file)
    with pytest.raises(DataError, match="train.parquet is not what it was"):
        Questions(f"{tmp_path}:train", processor, 0, 500, state=stream.state())
