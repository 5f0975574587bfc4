"""Which questions are measured on, and that neither pictures nor batches outgrow memory."""

import weakref

from conftest import write_rows
from PIL import Image

from data import Example
from evaluation import answering
from evaluation.answering import Decoding, answers, batches, labelled, usable, without_images


def test_questions_that_cannot_be_graded_are_left_out_and_named(tmp_path, processor):
    from data import load

    rows = [{"question": "a", "answer": "1"}, {"question": "b"}, {"question": "", "answer": "2"}]
    rows += [
        {"question": "c", "answer": 3},
        {"question": "<|image_pad|>", "answer": "1"},
        {"question": "d " * 99, "answer": "1"},
    ]
    good, skipped = labelled(load(str(write_rows(tmp_path / "q.jsonl", rows)), labels=True), processor, 120)
    assert [e.question for e in good] == ["a", "c"]
    for problem, message in zip(
        skipped, ("no answer", "no question", "image token", "prompt tokens"), strict=True
    ):
        assert message in problem


class Rows(list):
    def where(self, index):
        return f"row {index}"


class Pictures:
    """A source of plain pictures that knows how many of them are alive."""

    def __init__(self, count, side):
        self.count, self.side, self.alive, self.most = count, side, 0, 0

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        if row >= self.count:
            raise IndexError(row)
        image = Image.new("RGB", (self.side, self.side), (row, 0, 0))
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(image, self.leave)
        return Example(f"q{row}", (image,), "?", "1")

    def leave(self):
        self.alive -= 1


def test_the_pictures_of_a_benchmark_are_not_all_held(processor):
    source = Pictures(40, 1100)  # shrunk for this processor: they outweigh their encodings
    good, _ = labelled(source, processor, 2048)
    assert len(good) == 40 and [e.id for e in good[3:7][1:]] == ["q4", "q5", "q6"]
    assert source.most <= 3
    for part in batches((without_images(e), processor.encode(e)) for e in good):
        assert len(part) == 40
    assert source.most <= 3


def test_small_pictures_stay_with_their_encodings(processor):
    source = Pictures(5, 28)
    good, _ = labelled(source, processor, 2048)
    assert good[2] is good[2] and good[1:][1] is good[2]
    assert processor.encode(good[2]) is processor.encode(good[2])


def test_batches_end_at_their_number_or_their_bytes(processor, monkeypatch):
    items = [(e, processor.encode(e)) for e in Pictures(7, 56)]
    assert [len(part) for part in batches(items, 3)] == [3, 3, 1]
    monkeypatch.setattr("evaluation.answering.BATCH_BYTES", 2 * items[0][1].bytes())
    assert [len(part) for part in batches(items, 3)] == [2, 2, 2, 1]


def test_an_id_that_comes_again_is_left_out(processor):
    rows, skipped = Rows(Example(i, (), "?", "1") for i in ("a", "b", "a", "c")), {}
    found = usable(rows, processor.encode, 2048, skipped, seen={"c"})
    assert [example.id for _, example, _ in found] == ["a", "b"]
    assert skipped == {2: "row 2: the id a is already taken", 3: "row 3: the id c is already taken"}


def test_evaluations_draw_apart_from_every_training_step(model, processor, monkeypatch):
    steps, generate = [], answering.generate
    monkeypatch.setattr(
        answering,
        "generate",
        lambda *args, step, **more: steps.append(step) or generate(*args, step=step, **more),
    )
    encoded = [processor.encode(Example("q", (), "What is 1 + 1?"))]
    assert len(answers(model, processor, encoded, Decoding(2, 3))[0]) == 2
    assert len(steps) == 1 and steps[0] < 0  # training has 0 and above
