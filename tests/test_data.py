"""The built-in questions and the readers."""

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import run_program, write_rows
from PIL import Image

from answers import canonical
from common.distributed import World
from data import BadRow, DataError, figures, load, order
from data.images import BadImage, open_image
from data.stream import Questions
from programs.build_tiny import demonstration

# --- drawn questions


def test_a_drawn_question_is_the_same_every_time():
    for i in range(20):
        one, two = figures.figure("train", i), figures.figure("train", i)
        assert one == two and one.image().tobytes() == two.image().tobytes()


def test_no_image_and_question_is_in_two_splits():
    drawn = {
        "train": [figures.figure("train", i) for i in range(3000)],
        "validation": figures.held_out("validation", 512),
        "test": figures.held_out("test", 1024),
    }
    content = {name: {(f.image().tobytes(), f.question, f.choices) for f in fs} for name, fs in drawn.items()}
    assert len(content["test"]) == 1024 and len(content["validation"]) == 512
    assert not content["train"] & content["test"]
    assert not content["train"] & content["validation"]
    assert not content["validation"] & content["test"]


def test_there_are_five_families_and_several_kinds_of_answer():
    answers = {}
    for drawn in figures.held_out("test", 300):
        answers.setdefault(drawn.family, set()).add(drawn.answer)
    assert len(answers) == 5 and all(len(a) >= 3 for a in answers.values())
    assert all(a.isdigit() for a in answers["bars"] | answers["area"])
    assert all("/" in a for a in answers["fraction"])
    assert any("." in a for a in answers["ruler"])
    assert answers["lines"] == set("ABC")


@pytest.mark.parametrize(
    ("family", "params", "question", "answer", "steps"),
    [
        (
            "bars",
            (4, 3, "red", "blue", "sum"),
            "What do the two bars add up to?",
            "7",
            "left 4, right 3, 4 + 3 = 7.",
        ),
        ("bars", (9, 4, "red", "blue", "difference"), "How much taller is the left bar?", "5", None),
        ("area", (3, 5, "red", 0, 0, "area"), "What is the area of the rectangle?", "15", None),
        ("area", (3, 5, "red", 0, 0, "border"), "How long is the border of the rectangle?", "16", None),
        ("fraction", (8, 3, "red", 0, "white"), "What fraction of the disc is white?", "5/8", None),
        (
            "ruler",
            (3, 8, "red", 0, "length"),
            "How long is the segment?",
            "2.5",
            "from 1.5 to 4, 4 - 1.5 = 2.5.",
        ),
        (
            "lines",
            (4, 9, "red", "blue", "shorter"),
            "Which line is shorter?",
            "A",
            "upper 4, lower 9, so upper.",
        ),
        ("lines", (4, 9, "red", "blue", "longer"), "Which line is longer?", "B", None),
        (
            "lines",
            (5, 5, "red", "blue", "longer"),
            "Which line is longer?",
            "C",
            "upper 5, lower 5, so the same.",
        ),
    ],
)
def test_questions_worked_out_by_hand(family, params, question, answer, steps):
    drawn = figures.make_figure(family, params)
    assert (drawn.question, drawn.answer) == (question, answer)
    if steps:
        assert drawn.work(drawn.readings)[0] == steps


def test_the_pictures_show_what_the_parameters_say():
    bars = figures.make_figure("bars", (4, 9, "red", "green", "sum")).image()
    for x, colour, height in ((15, "red", 4), (39, "green", 9)):
        column = [bars.getpixel((x, y)) for y in range(56)]
        assert column.count(figures.COLOURS[colour]) == 5 * height
    lines = figures.make_figure("lines", (4, 2, "red", "green", "longer")).image()
    assert [lines.getpixel((x, 15)) for x in range(56)].count(figures.COLOURS["red"]) == 5 * 4
    disc = figures.make_figure("fraction", (4, 1, "red", 0, "shaded")).image()
    red = sum(p == figures.COLOURS["red"] for p in disc.get_flattened_data())
    assert 0.7 < red / (3.1416 * 24.5**2 / 4) <= 1


def test_a_careful_reader_is_never_wrong_and_a_careless_one_sometimes():
    rng = random.Random(0)
    drawn = [figures.figure("train", i) for i in range(400)]
    assert all(figures.misread(f, rng, 0.0) == f.readings for f in drawn)
    wrong = [f.work(figures.misread(f, rng, 0.3))[1] != f.answer for f in drawn]
    assert 0.2 < sum(wrong) / len(wrong) < 0.6


def test_notations_of_an_answer_mean_the_same():
    rng = random.Random(0)
    seen = {figures.notation("2/4", rng) for _ in range(50)}
    assert seen == {"2/4", "\\frac{2}{4}", "0.5"} and {canonical(s) for s in seen} == {canonical("1/2")}


def test_other_questions_fit_the_picture_and_are_other():
    for i in range(50):
        drawn = figures.figure("train", i)
        others = figures.other_questions(drawn)
        assert others and drawn.question not in others


def test_demonstrations_cover_answering_writing_and_checking():
    written = [demonstration(i) for i in range(500)]
    boxed = [w for _, _, w in written if "\\boxed{" in w]
    assert 350 < len(boxed) < 450
    assert {w for _, _, w in written if w in ("Yes", "No")} == {"Yes", "No"}
    assert sum(w.endswith("?") for _, _, w in written) > 20


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


def test_an_empty_file_has_no_rows(tmp_path):
    for text in ("", "\n \n"):
        (tmp_path / "empty.jsonl").write_text(text)
        with pytest.raises(DataError, match="no rows"):
            load(str(tmp_path / "empty.jsonl"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "a row is a JSON object"),
        ('{"images": []}', "no question"),
        ('{"question": "  "}', "no question"),
        ('{"question": 7}', "`question` is not text"),
        ('{"question": "q", "images": "a.png"}', "list of paths"),
        ('{"question": "q", "images": ["gone.png"]}', "no such image"),
        ('{"question": "q", "choices": [1]}', "list of strings"),
        ('{"question": "q", "answer": {"a": 1}}', "`answer` is"),
        (r'{"question": "\ud83d"}', "surrogate"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_row_says_where_and_what(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "fine"}\n' + line + "\n")
    rows = load(str(path), labels=True)
    assert rows[0].question == "fine"
    with pytest.raises(BadRow, match=message) as error:
        rows[1]
    assert str(error.value).startswith("rows.jsonl:2: ")


def test_line_separators_inside_strings_do_not_split_rows(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{"question": "a\u2028b"}])
    path.write_text(json.dumps({"question": "a\u2028b"}, ensure_ascii=False) + "\n")
    assert len(load(str(path))) == 1 and load(str(path))[0].question == "a\u2028b"


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


# --- images


def saved(tmp_path, image, name="x.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_a_cmyk_image_becomes_rgb(tmp_path):
    image = open_image(saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "x.jpg"))
    assert image.mode == "RGB" and image.getpixel((4, 4))[0] > 200 and max(image.getpixel((4, 4))[1:]) < 60


@pytest.mark.parametrize("mode", ["palette", "rgba", "la"])
def test_transparency_is_laid_over_white(tmp_path, mode):
    if mode == "palette":
        image = Image.new("P", (4, 4), 1)
        image.putpalette([255, 0, 0, 0, 0, 0])
        path = saved(tmp_path, image, transparency=1)
    else:
        path = saved(tmp_path, Image.new(mode.upper(), (4, 4), 0))
    assert open_image(path).getpixel((2, 2)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_is_turned_as_its_camera_says(tmp_path, kind):
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[274] = 6  # the camera stood on its side: to be turned clockwise
    found = open_image(saved(tmp_path, image, f"x.{kind.lower()}", exif=exif))
    assert found.size == (20, 40) and found.mode == "RGB"
    assert found.getpixel((10, 5))[0] > 200 and found.getpixel((10, 35))[0] < 50


def test_sixteen_bits_of_grey_are_brought_to_eight(tmp_path):
    grey = Image.fromarray(np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16))
    found = open_image(saved(tmp_path, grey))
    assert [found.getpixel((x, 0)) for x in (0, 1, 15)] == [(0,) * 3, (1,) * 3, (15,) * 3]
    assert found.getpixel((15, 15)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_brightness_are_refused(tmp_path, mode):
    with pytest.raises(BadImage, match=f"its pixels are of mode {mode}"):
        open_image(saved(tmp_path, Image.new(mode, (8, 8), 1), "x.tiff"))


def test_whatever_a_reader_of_pillow_raises_costs_one_row(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("RGB", (8, 8)))
    for error in (RuntimeError("AVIF"), NotImplementedError("DDS"), KeyError("x")):
        monkeypatch.setattr(Image.Image, "load", lambda self, error=error: (_ for _ in ()).throw(error))
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", Image.Image.load)
        with pytest.raises(BadImage, match="not a whole image"):
            open_image(path)


def test_a_one_pixel_image_is_an_image(tmp_path, processor):
    from data import Example

    image = open_image(saved(tmp_path, Image.new("RGB", (1, 1), (9, 8, 7))))
    encoded = processor.encode(Example("dot", (image,), "What?"))
    assert encoded.vision["image_grid_thw"].tolist() == [[1, 4, 4]]


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "huge", "thin", "missing", "folder"])
def test_what_is_no_usable_image_says_so(tmp_path, kind):
    path = tmp_path / "x.png"
    if kind == "truncated":
        noise = Image.effect_noise((100, 100), 50)
        path.write_bytes(saved(tmp_path, noise, "whole.png").read_bytes()[:-2000])
    elif kind == "huge":  # 100 megapixels that compress to little: refused by its header, before any decoding
        saved(tmp_path, Image.new("1", (10_000, 10_000)))
    elif kind == "thin":
        saved(tmp_path, Image.new("RGB", (300, 1)))
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_text("" if kind == "empty" else "not an image")
    expected = {"huge": "10000 x 10000 pixels", "thin": "thinner", "missing": "no such image"}
    with pytest.raises(BadImage, match=expected.get(kind, "not a whole image")):
        open_image(path)


def test_a_first_look_prints_the_source_and_draws_it(tmp_path):
    done = run_program("-m", "data", "tiny", "--split", "validation", "--sheet", tmp_path / "s.png")
    assert done.returncode == 0 and "512 questions, 0 unusable" in done.stdout and done.stderr == ""
    assert Image.open(tmp_path / "s.png").width > 1000
    for name in ("sheet", "x.nothing"):
        bad = run_program("-m", "data", "tiny", "--sheet", name)
        assert bad.returncode == 2 and bad.stderr == f"error: --sheet {name}: name it .png\n"
    bad = run_program("-m", "data", tmp_path / "none.jsonl")
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1


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
