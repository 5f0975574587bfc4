"""A run as one HTML file: what is in it, that nothing in it runs, how large it gets."""

import json
import time
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
import torch
from conftest import held_elsewhere, write_rows
from PIL import Image
from running import rows, run

import mmupt
import report
from common import events, files
from common.distributed import World
from common.run_log import Diverged, keep_samples
from programs import report as program_report
from report.curves import Axes, Bucket, buckets, chart, line, short, ticks
from report.gallery import colours, column, majority, merged
from report.markup import el, visible
from report.page import page
from report.pictures import SIDE, Album, small
from report.runs import Run, read, spread

MAIN = World(0, 1, torch.device("cpu"))
VOID = {"meta", "img", "br", "hr"}


class Page(HTMLParser):
    """Elements, text and attributes; fails where elements don't close as they were opened."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def of(self, tag: str, class_: str = "") -> list[dict]:
        return [
            a
            for name, a in self.elements
            if name == tag and (not class_ or class_ in (a.get("class") or "").split())
        ]


def metrics(steps: int = 4) -> list[dict]:
    return [
        {"step": s, "reward": s / 10, "majority_share": 0.5, "vote_entropy": 0.7, "entropy": 0.2,
         "kl": 0.01 * s, "response_length": 12.0, "parsed": 1.0, "health/ratio": 1.0,
         "seconds/rollout": 2.0, "seconds/update": 1.0}
        for s in range(1, steps + 1)
    ]  # fmt: skip


def evaluation(step: int, value: float) -> dict:
    found = {"pass@1": value, "pass@2": value, "pass@4": value, "maj@4": value, "questions": 9}
    return {"step": step} | {f"eval/{k}": v for k, v in found.items()} | {"eval/by_category": {"bars": found}}


def sample(step: int, responses: list[str], answers: list, gold: str = "14", **more) -> dict:
    record = {
        "step": step,
        "id": "q1",
        "question": "What is x?",
        "images": ["tiny-test-3"],
        "category": "bars",
    }
    record |= {
        "responses": responses,
        "answers": answers,
        "gold": gold,
        "right": [a == gold for a in answers],
    }
    return record | more


def rollout(step: int, text: str = "so \\boxed{4}") -> dict:
    name = f"tiny-train-{step}"
    return {"step": step, "id": name, "question": "How long?", "images": [name],
            "responses": [text, "no idea"], "answers": ["4", None], "winner": "4", "share": 0.5,
            "rewards": [1.0, 0.0]}  # fmt: skip


def folder(path, log=None, rollouts=None, samples=(), config=None, noted=()):
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(
        json.dumps({"steps": 4, "beta": 0.01, "train_data": ["tiny"], "eval_data": "tiny"} | (config or {}))
    )
    write_rows(path / "metrics.jsonl", metrics() if log is None else log)
    write_rows(path / "rollouts.jsonl", [rollout(1), rollout(4)] if rollouts is None else rollouts)
    write_rows(path / "evaluations.jsonl", list(samples))
    write_rows(path / events.NAME, list(noted))
    return path


def shown(*folders) -> Page:
    return Page(page([read(f) for f in folders]))


def test_what_the_base_said_before_the_first_step_is_no_step(tmp_path):
    base = {"step": 0, "health/ratio": 5.0, "seconds/sentinels": 100.0}
    run = read(folder(tmp_path / "r", log=[base, *metrics(4)]))
    assert run.points("health/ratio")[:2] == [(0, 5.0), (1, 1.0)] and len(run.rows) == 4
    text = shown(tmp_path / "r").text
    assert "mean of 2 steps     first     last" in text and "reward              0.150    0.350" in text
    assert "seconds a step3" in text


# --- Curves ---------------------------------------------------------------------------------------


def test_the_points_of_a_curve_stand_where_their_values_are():
    drawn = "".join(line([(0, 0.0), (5, 1.0), (10, 0.5)], Axes((0, 10), (0, 1)), "c0"))
    assert 'd="M46 130L189 8L332 69"' in drawn
    assert "<title>step 5: 1</title>" in drawn and drawn.count("<circle") == 3 and "band" not in drawn


@pytest.mark.parametrize(
    "low, high, marks",
    [
        (0.13, 0.88, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 100, [0, 25, 50, 75, 100]),
        (0, 0, [0, 0.25, 0.5, 0.75, 1.0]),
        (0.5, 0.5, [0.45, 0.475, 0.5, 0.525, 0.55]),
        (-3, 3, [-4, -2, 0, 2, 4]),
        (1e-9, 4e-9, [1e-9, 2e-9, 3e-9, 4e-9]),
        (1e-15, 4e-15, [1e-15, 2e-15, 3e-15, 4e-15]),  # a KL in a first step
    ],
)
def test_ticks_are_round_and_hold_all_values(low, high, marks):
    assert ticks(low, high) == pytest.approx(marks, rel=1e-9, abs=1e-30)


def test_a_long_line_is_means_of_neighbours_over_a_band_of_their_extremes():
    points = [(s, float(s % 2)) for s in range(1, 1001)]
    kept = buckets(points)
    assert len(kept) == 200 and kept[0] == Bucket(3, 0.6, 0, 1) and kept[-1].step == 998
    drawn = "".join(line(points, Axes((1, 1000), (0, 1)), "c0"))
    assert 'class="band c0"' in drawn and "<circle" not in drawn
    assert buckets([(1, 2.0)]) == [Bucket(1, 2, 2, 2)] and buckets([]) == []


def test_a_chart_says_first_and_last_values_and_one_without_points_is_none():
    assert "b 0.1 → 0.3" in Page(chart("reward", [("a", []), ("b", [(1, 0.1), (9, 0.3)])])).text
    assert chart("reward", [("a", [])]) is None
    assert Page(chart("one", [("", [(3, 1.5)])])).of("circle")[0]["cx"] == "189"


@pytest.mark.parametrize(
    "value, said",
    [
        (0.65321, "0.653"),
        (12.44, "12.4"),
        (1027.3, "1,027"),
        (12_430, "12.4k"),
        (3.14e6, "3.1e+06"),
        (-0.5, "-0.5"),
    ],
)
def test_numbers_are_short(value, said):
    assert short(value) == said


# --- Escaping -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, said",
    [
        ("plain 3 ≤ x, ünï, 中文\u3000和", "plain 3 ≤ x, ünï, 中文\u3000和"),
        ("a\nb\tc", "a\nb\tc"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\x00b\x07\r", "a\\x00b\\x07\\r"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_a_terminal_or_page_would_act_on_is_shown_as_its_escape(text, said):
    assert visible(text) == said


def test_children_and_attributes_are_escaped_but_for_markup():
    assert (
        el("p", "<b>", el("i", '"&'), None, class_='"x')
        == '<p class="&quot;x">&lt;b&gt;<i>&quot;&amp;</i></p>'
    )


HOSTILE = "</style></title><script>alert(1)</script><img src=x onerror=alert(2)> \x1b[2J \ud800 \" onload='x'"


def test_nothing_that_a_model_or_a_data_set_says_becomes_markup(tmp_path):
    bad = sample(0, [HOSTILE] * 2, [HOSTILE, None], gold=HOSTILE, question=HOSTILE, category=HOSTILE)
    bad |= {"id": HOSTILE, "images": [HOSTILE]}
    log = [row | {"warning": HOSTILE, f"health/{HOSTILE}": 1.0, HOSTILE: 2.0} for row in metrics()]
    log += [evaluation(0, 0.5), evaluation(4, 0.6)]
    log[-2]["eval/by_category"] = {HOSTILE: {"pass@1": 0.5}}
    noted = [{"event": "start", "step": 0, "environment": {HOSTILE: HOSTILE}}]
    noted += [{"event": "end", "step": 4, "why": HOSTILE}, {"event": "warning", "step": 1, "text": HOSTILE}]
    training = rollout(1, HOSTILE) | {"id": HOSTILE, "winner": HOSTILE, "answers": [HOSTILE, None]}
    made = folder(
        tmp_path / "<b>run",
        log,
        [training],
        [bad, bad | {"step": 4}],
        {HOSTILE: HOSTILE, "model": HOSTILE},
        noted,
    )
    text = page([read(made)])
    text.encode()
    found = Page(text)
    allowed = "html head meta title style body h1 h2 h3 h4 nav a section div table tr th td pre p b ul ol li"
    allowed += " i figure figcaption span svg path text circle article img details summary small"
    assert {tag for tag, _ in found.elements} <= set(allowed.split())
    for tag, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
    policy = found.of("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy" and policy["content"].startswith(
        "default-src 'none'"
    )
    assert (
        found.text.count("<script>alert(1)</script>") > 10
        and "\\x1b[2J" in found.text
        and "\\ud800" in found.text
    )
    assert "\x1b" not in text and "http://" not in text and "https://" not in text


# --- A report -------------------------------------------------------------------------------------


def test_a_report_holds_every_kind_of_curve_and_no_accuracy_without_labels(tmp_path):
    found = shown(folder(tmp_path / "r"))
    titles = {a["aria-label"] for a in found.of("svg")}
    assert titles >= {
        "reward",
        "majority share",
        "vote entropy, nats",
        "token entropy, nats",
        "parse rate",
        "ratio",
    }
    assert titles >= {
        "KL to the base, nats a token",
        "response length, tokens",
        "seconds of a step, by stage",
    }
    assert "accuracy" not in titles and "Accuracy" not in found.text and "held-out" not in found.text.lower()
    assert "rollout 2 → 2" in found.text and "update 1 → 1" in found.text
    assert "0.1 → 0.4" in found.text  # reward

    log = [*metrics(), evaluation(0, 0.25), evaluation(4, 0.75)]
    found = shown(folder(tmp_path / "labelled", log))
    assert "accuracy" in {a["aria-label"] for a in found.of("svg")}
    assert "pass@1 0.25 → 0.75" in found.text and "maj@4 0.25 → 0.75" in found.text
    assert "pass@2 0.25" not in found.text.split("Other metrics")[0]  # between 1 and k


def test_the_gallery_shows_base_and_trained_side_by_side_with_votes_and_label(tmp_path):
    before = sample(0, ["a \\boxed{13}", "b \\boxed{13}", "c \\boxed{14}", "d"], ["13", "13", "14", None])
    after = sample(4, ["e \\boxed{14}"] * 4, ["14"] * 4)
    found = shown(folder(tmp_path / "r", samples=[before, after], rollouts=[]))
    section = found.text[found.text.rindex("Held-out questions") : found.text.rindex("Settings")]
    for said in ("What is x?", "label: 14", "base: 1 of 4 right", "step 4: 4 of 4 right"):
        assert said in section
    assert (
        "13 × 2 (pseudo-label)" in section and "14 × 1 (the label)" in section and "no answer × 1" in section
    )
    assert "14 × 4 (pseudo-label, the label)" in section
    assert section.index("a \\boxed{13}") < section.index("e \\boxed{14}")
    assert len(found.of("img")) == 1  # once, though both ask about it


def test_a_class_has_one_colour_before_and_after_and_a_tie_has_no_winner():
    before, after = (
        column("b", sample(0, ["", ""], ["13", "14"])),
        column("a", sample(4, [""] * 4, ["14", None, None, None])),
    )
    assert colours([before, after]) == {"14": "c0", "13": "c1", None: "none"}
    assert before.winner is None and after.winner == "14" and majority([None]) is None
    many = column("m", sample(0, [""] * 12, [str(i) for i in range(12)]))
    assert set(colours([many]).values()) == {f"c{i}" for i in range(8)} | {"none"}


def test_a_training_question_shows_its_pseudo_label_and_never_a_label(tmp_path):
    found = shown(folder(tmp_path / "r", rollouts=[rollout(2) | {"gold": "SECRET"}]))
    assert "4 × 1 (pseudo-label)" in found.text and "no answer × 1" in found.text and "reward 1" in found.text
    assert "step 2, tiny-train-2" in found.text and "SECRET" not in found.text


def test_several_runs_share_charts_and_a_base_and_what_differs_is_marked(tmp_path):
    base, after = sample(0, ["\\boxed{13}"], ["13"]), sample(4, ["\\boxed{14}"], ["14"])
    log = [*metrics(), evaluation(0, 0.25), evaluation(4, 0.75)]
    one = folder(tmp_path / "one", log, samples=[base, after], config={"lr": 1e-4})
    two = folder(
        tmp_path / "two",
        log,
        samples=[base, after | {"answers": ["15"], "right": [False]}],
        config={"lr": 1e-3},
    )
    found = shown(one, two)
    reward = [a["aria-label"] for a in found.of("svg")].count("reward")
    assert reward == 1 and "one 0.1 → 0.4two 0.1 → 0.4" in found.text
    assert (
        "base of one; base of two: 0 of 1 right" in found.text and "step 4 of two: 0 of 1 right" in found.text
    )
    assert len(found.of("tr", "differs")) == 1 and "lr0.00010.001" in found.text
    assert [a["href"] for a in found.of("a")].count("#accuracy") == 1
    twice = page([read(one), read(one)])
    assert "one (1)" in twice and "one (2)" in twice


def test_the_same_samples_of_the_same_step_are_shown_once():
    a, b = (column(f"base of {name}", sample(0, ["x"], ["1"])) for name in "ab")
    later = column("step 4 of a", sample(4, ["x"], ["1"]))  # alike, but beside the base
    assert [c.title for c in merged([a, later, b])] == ["base of a; base of b", "step 4 of a"]


def test_a_report_of_ten_thousand_steps_is_small_and_soon_made(tmp_path):
    long = "step by step " * 700  # 9,100 characters
    log = [row | {f"more/{i}": float(s % 7) for i in range(30)} for s, row in enumerate(metrics(10_000))]
    rollouts = [
        rollout(s) | {"responses": [long] * 8, "answers": [str(i) for i in range(8)]} for s in range(1, 41)
    ]
    made = folder(
        tmp_path / "r",
        log,
        [],
        [sample(s, [long] * 8, ["14"] * 8, id=f"q{i}") for s in (0, 9) for i in range(24)],
    )
    with open(made / "rollouts.jsonl", "w") as file:  # 10,000 of them: 73 MB at full length would do no more
        for s in range(10_000):
            file.write(
                json.dumps(
                    rollouts[s % 40] | {"step": s, "responses": ["short"] * 8} if s % 97 else rollouts[s % 40]
                )
                + "\n"
            )
    began = time.perf_counter()
    report.write([made], made / "report.html")
    assert time.perf_counter() - began < 30
    assert (made / "report.html").stat().st_size < 20_000_000
    found = Page((made / "report.html").read_text())
    assert len(found.of("article")) == 24 + 24
    assert len(found.elements) < 60_000 and "more characters" in found.text


def test_the_same_folder_gives_the_same_file(tmp_path):
    made = folder(tmp_path / "r", samples=[sample(0, ["x"], ["14"])])
    assert page([read(made)]) == page([read(made)])


# --- Folders that are not whole -------------------------------------------------------------------


@pytest.mark.parametrize(
    "gone", ["config.json", "metrics.jsonl", "rollouts.jsonl", "evaluations.jsonl", events.NAME]
)
def test_a_missing_file_is_said_and_the_rest_is_shown(tmp_path, gone):
    made = folder(tmp_path / "r", samples=[sample(0, ["x"], ["14"])])
    (made / gone).unlink()
    found = shown(made)
    assert ("not in the folder" + gone in found.text) == (gone != "evaluations.jsonl")
    assert (gone == "metrics.jsonl") == (not found.of("svg"))


def test_torn_and_foreign_rows_are_left_out(tmp_path):
    made = folder(tmp_path / "r")
    odd = ['{"step": 5, "rew', "[1]", '"x"', '{"step": "6"}', "{}",
           '{"step": 7, "reward": NaN, "kl": Infinity}',
           '{"step": 8, "reward": "high", "kl": [1], "parsed": true}', "[" * 5000,
           '{"step": 9, "eval/by_category": 3, "eval/pass@1": null}', '{"step": 1e400}',
           '{"step": ' + "9" * 400 + "}"]  # fmt: skip
    for name in ("metrics.jsonl", "rollouts.jsonl", "evaluations.jsonl", events.NAME):
        with open(made / name, "a") as file:
            file.write("\n".join(odd))
    (made / "config.json").write_text("{")
    found = read(made)
    assert [p for p in found.points("reward")] == [(s, s / 10) for s in (1, 2, 3, 4)]
    assert found.config == {} and found.last_step == 9
    Page(page([found]))


@pytest.mark.parametrize(
    "odd",
    [{"responses": None}, {"responses": "x"}, {"answers": None}, {"answers": ["1"] * 9},
     {"answers": [[1], {}]}, {"images": 3}, {"images": [None, "/dev/zero", "no such.png", "train row 1"]},
     {"rewards": [None]}, {"winner": ["4"]}, {"right": [None]}, {"question": None}],
)  # fmt: skip
def test_a_record_of_odd_fields_ends_no_report(tmp_path, odd):
    made = folder(
        tmp_path / "r", rollouts=[rollout(1) | odd], samples=[sample(0, ["x", "y"], ["14", None]) | odd]
    )
    assert len(shown(made).of("article")) == 2


def test_rows_are_chosen_evenly_with_the_first_and_the_last():
    assert list(spread(3, 24)) == [0, 1, 2] and spread(101, 5) == [0, 25, 50, 75, 100]
    assert len(set(spread(10_000, 24))) == 24


KILLED = "no end is noted: it was killed, or still ran"


@pytest.mark.parametrize(
    "noted, said",
    [
        ([], "not noted"),
        ([{"event": "start", "step": 0}], KILLED),
        ([{"event": "start", "step": 0}, {"event": "end", "step": 4, "why": "all done"}], "all done"),
        ([{"event": "end", "step": 2, "why": "x"}, {"event": "start", "step": 2}], KILLED),
    ],
)
def test_why_it_ended(noted, said):
    assert Run("r", events=noted).ended == said


# --- Pictures -------------------------------------------------------------------------------------


def test_pictures_are_found_by_path_drawn_again_and_read_from_rows_again(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pip install pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install pyarrow")
    red, file = Image.new("RGB", (300, 600), "red"), tmp_path / "q.png"
    red.save(file)
    cell = {"bytes": file.read_bytes(), "path": "elsewhere.png"}
    table = pyarrow.Table.from_pylist([{"question": "?", "images": [cell, cell], "answer": "1"}] * 3)
    parquet.write_table(table, tmp_path / "mine.parquet")
    source = str(tmp_path / "mine.parquet")
    from data import load

    example = load(source)[1]
    assert example.pictures == ("mine row 2", "mine row 2")
    places = [str(file), "tiny-train-17", *example.pictures, "mine row 9", "gone.png"]
    found = Album().pictures(places, [source], "train")
    assert [(p.width, p.height) if p else None for p in found] == [
        (128, 256),
        (56, 56),
        (128, 256),
        (128, 256),
        None,
        None,
    ]


def test_a_picture_keeps_its_path_and_its_own_notes_dont_count(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    from data import load
    from data.images import PATH, open_image

    note = PngInfo()
    note.add_text(PATH, "/etc/passwd")
    Image.new("RGB", (30, 30)).save(tmp_path / "q.png", pnginfo=note)
    write_rows(
        tmp_path / "rows.jsonl",
        [{"question": "<image2> <image1>", "images": ["q.png", f"../{tmp_path.name}/q.png"]}],
    )
    assert load(str(tmp_path / "rows.jsonl"))[0].pictures == (str(tmp_path / "q.png"),) * 2
    with open(tmp_path / "q.png", "rb") as file:
        assert PATH not in open_image(file).info


def test_pictures_are_small_and_few_enough():
    noise = torch.randint(
        0, 256, (600, 500, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    picture = small(Image.fromarray(noise.numpy()))
    assert max(picture.width, picture.height) == SIDE and len(picture.uri) < 100_000
    album = Album()
    album.room = 0
    assert album.pictures(["tiny-train-1"], "", "train") == [None]


# --- Of a run -------------------------------------------------------------------------------------


def ended(tmp_path, steps: int, error: Exception | None = None):
    """A run of 4 steps that has done `steps` -> its folder."""
    made = folder(tmp_path / "r", metrics(steps), noted=[{"event": "start", "step": 0}])
    (made / "checkpoints").mkdir()
    files.hold(made / "checkpoints")
    try:
        with report.reported(SimpleNamespace(out=str(made), steps=4), MAIN):
            if error:
                raise error
    finally:
        files.release()
    return made


@pytest.mark.parametrize(
    "steps, said", [(4, "all steps done"), (2, "stopped as asked, before the last step")]
)
def test_a_run_that_ends_or_is_stopped_has_a_report_that_says_so(tmp_path, capsys, steps, said):
    made = ended(tmp_path, steps)
    assert f"ended{said}" in Page((made / "report.html").read_text()).text
    assert capsys.readouterr().out == f"the report is {made}/report.html\n"


def test_a_run_that_fails_has_a_report_and_fails_all_the_same(tmp_path):
    with pytest.raises(Diverged):
        ended(tmp_path, 2, Diverged("5 updates in a row\nmore"))
    assert "endedDiverged: 5 updates in a row" in Page((tmp_path / "r" / "report.html").read_text()).text


def test_a_report_that_cant_be_written_is_a_warning(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "replace_text", full)
    ended(tmp_path, 4)
    said = capsys.readouterr()
    assert said.err.startswith("warning: ") and "was not written" in said.err and "No space left" in said.err
    assert said.out == ""


def test_a_run_that_was_refused_leaves_the_other_ones_report_alone(tmp_path):
    made = folder(tmp_path / "r")
    (made / "checkpoints").mkdir()
    with held_elsewhere(made / "checkpoints"), pytest.raises(SystemExit):
        with report.reported(SimpleNamespace(out=str(made), steps=4), MAIN):
            raise SystemExit(2)
    assert not (made / "report.html").exists() and rows(made, events.NAME) == []


def test_samples_of_the_first_and_the_latest_evaluation_stay(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    for step in (0, 20, 40, 40):
        keep_samples(path, step, [{"id": "a"}, {"id": "b"}])
    assert [(r["step"], r["id"]) for r in rows(tmp_path, path.name)] == [
        (0, "a"),
        (0, "b"),
        (40, "a"),
        (40, "b"),
    ]


def test_a_torn_event_spoils_no_other(tmp_path):
    (tmp_path / events.NAME).write_text('{"event": "start", "step": 0}\n{"ev')
    events.begin(tmp_path, 3, MAIN)
    first, second = rows(tmp_path, events.NAME)
    assert first["step"] == 0 and second["event"] == "start" and second["step"] == 3
    assert (
        second["environment"]["torch"] == torch.__version__.partition("+")[0]
        or second["environment"]["torch"]
    )


def test_a_run_leaves_its_questions_its_samples_and_its_report(
    tmp_path, random_folder, questions_file, capsys
):
    path, asked = questions_file
    secret = write_rows(tmp_path / "train.jsonl", [row | {"answer": f"SECRET {row['id']}"} for row in asked])
    out = tmp_path / "r"
    assert run(out, model=random_folder, train_data=secret, eval_data=path, eval_samples=2, steps=2) == 0
    logged = rows(out, "rollouts.jsonl")
    fields = {"step", "id", "question", "images", "responses", "answers", "winner", "share", "rewards"}
    assert len(logged) == 4 and all(set(row) == fields for row in logged)
    by_id = {row["id"]: row for row in asked}
    for row in logged:
        assert row["question"] == by_id[row["id"]]["question"]
        assert row["images"] == [str(tmp_path / by_id[row["id"]]["images"][0])]
    assert "SECRET" not in "".join(p.read_text() for p in out.glob("*.*"))

    kept = rows(out, "evaluations.jsonl")
    assert [row["step"] for row in kept] == [0] * 24 + [2] * 24
    assert [row["id"] for row in kept[:24]] == [row["id"] for row in asked]
    assert all(len(row["responses"]) == 2 and row["gold"] for row in kept)
    assert all("samples" not in key for row in rows(out) for key in row)
    found = Page((out / "report.html").read_text())
    assert (
        "endedall steps done" in found.text and f"the report is {out}/report.html" in capsys.readouterr().out
    )
    assert len(found.of("img")) == len(found.of("article")) == 24 + 4
    assert read(out).environment["processes"] == "1"


# --- The command ----------------------------------------------------------------------------------


def test_the_command_writes_where_it_is_told_or_into_the_run(tmp_path, program):
    one, two = folder(tmp_path / "one"), folder(tmp_path / "two")
    assert program(program_report.main, one).stdout == f"the report is {one}/report.html\n"
    out = tmp_path / "new" / "both.html"
    assert program(program_report.main, one, two, "--out", out).returncode == 0
    assert "mmupt: one and two" in out.read_text()


@pytest.mark.parametrize(
    "words, message",
    [
        (["one", "two"], "--out must be given beside several runs"),
        (["one", "--out", "two"], "is a folder: name a file in it"),
        (["nothing"], "nothing: no run folder, it holds neither config.json nor metrics.jsonl"),
        ([], "--runs must be given"),
        (["one", "--out", "one/config.json/x.html"], "is a file"),
    ],
)
def test_the_command_says_in_a_line_what_is_wrong(tmp_path, program, monkeypatch, words, message):
    folder(tmp_path / "one"), folder(tmp_path / "two")
    monkeypatch.chdir(tmp_path)
    ended = program(program_report.main, *words)
    assert ended.returncode == 2 and message in ended.stderr and ended.stderr.count("\n") == 1


def test_training_asks_for_a_report():
    assert mmupt.reported is report.reported
