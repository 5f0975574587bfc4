"""Each benchmark's rules against cases worked out by hand, and each schema through eval.py."""

import json

import pytest
from conftest import write_rows

from data import Example
from eval import main
from evaluation.benchmarks import BENCHMARKS, PLAIN, four_way, recognise, relaxed
from evaluation.metrics import compare, record, report


def box(answer):
    return f"so \\boxed{{{answer}}}"


def right(example, answer, benchmark=None, grader=None):
    return bool(record(example, [box(answer)], benchmark, grader)["correct"])


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        (("question_type", "answer_type", "precision", "metadata", "pid"), "mathvista"),
        (("problem_version", "question_type", "metadata", "sample_index"), "mathverse"),
        (("level", "subject", "id"), "mathvision"),
        (("ID", "key", "question number", "split"), "wemath"),
        (("human_or_machine",), "chartqa"),
        (("category",), "plain"),
        ((), "plain"),
    ],
)
def test_a_benchmark_is_recognised_by_its_columns(columns, name):
    assert recognise(dict.fromkeys(columns)).name == name


# --- MathVista ------------------------------------------------------------------------------------


def vista(gold, answer_type, precision=None, choices=()):
    kind = "multi_choice" if choices else "free_form"
    meta = {
        "question_type": kind,
        "answer_type": answer_type,
        "precision": precision,
        "metadata": {"skills": ["a", "b"]},
    }
    return Example("1", (), "?", gold, choices, meta)


@pytest.mark.parametrize(
    ("gold", "answer", "is_right"),
    [
        ("14", "14", True),
        ("14", "14.7", True),  # int(float("14.7")) = int(14.7) = 14: cut off, not rounded
        ("15", "14.7", False),
        ("14", "13.99", False),  # int(13.99) = 13
        ("0", "-0.5", True),  # int(-0.5) = 0: towards zero
        ("14", "29/2", True),  # 14.5, cut off to 14
        ("1000", "1,000", True),
        ("14", r"14\text{ cm}", True),
        ("14", "many", False),
        ("14", "14 people", True),
        ("14", r"\text{approximately } 14", True),
        ("14", "1" * 350, False),  # more than a float holds
        ("1" * 350, "1" * 350, True),
    ],
)
def test_mathvista_cuts_an_integer(gold, answer, is_right):
    assert right(vista(gold, "integer"), answer) is is_right


@pytest.mark.parametrize(
    ("gold", "precision", "answer", "is_right"),
    [
        ("1.2", 1.0, "1.2", True),
        ("1.2", 1.0, "1.24", True),  # round(1.24, 1) = 1.2
        ("1.2", 1.0, "1.26", False),  # round(1.26, 1) = 1.3
        ("1.2", 1.0, "1.25", True),  # 1.25 is exact in binary, and a half goes to the even digit: 1.2
        ("1.3", 1.0, "1.25", False),
        ("1.2", 1.0, r"\frac{6}{5}", True),
        ("0.60", 2.0, "0.6", True),  # the gold answer is rounded too
        ("2.67", 2.0, "2.675", True),  # the float next to 2.675 is 2.67499999999999982...: 2.67
        ("2.68", 2.0, "2.675", False),
        ("0.0", 1.0, "-0.01", True),  # -0.0 is 0.0
        ("1.234", None, "1.234", True),  # no precision: by canonical form
        ("1.234", float("nan"), "1.234", True),
        ("1.234", None, "1.2341", False),
    ],
)
def test_mathvista_rounds_a_float_to_its_precision(gold, precision, answer, is_right):
    assert right(vista(gold, "float", precision), answer) is is_right


def test_mathvista_compares_lists_item_by_item():
    question = vista("[0, 4]", "list")
    for answer in ("[0, 4]", "[0,4]", "0, 4", "(0, 4)", "[0.0, 8/2]", r"0 \text{ and } 4"):
        assert right(question, answer), answer
    for answer in ("[4, 0]", "[0, 4, 4]", "0", "4"):
        assert not right(question, answer), answer


def test_mathvista_takes_an_option_by_letter_or_value_whatever_the_answer_type():
    question = vista("triangle", "text", None, ("square", "triangle", "circle"))
    for answer in ("B", "(B)", "B. triangle", "triangle", r"\text{triangle}"):
        assert right(question, answer), answer
    assert not right(question, "A") and not right(question, "C. circle")
    numbers = vista("3", "integer", None, ("5", "3"))
    assert (
        right(numbers, "3") and right(numbers, "B") and not right(numbers, "3.4")
    )  # an option is not cut off


def test_votes_on_a_rounded_answer_are_votes_for_one_answer():
    row = record(vista("1.2", "float", 1.0), [box(a) for a in ("1.24", "1.16", "1.3", "1.31", "1.22")])
    assert row["answers"] == ["1.2", "1.2", "1.3", "1.3", "1.2"]  # three to two
    assert row["majority"] == 1 and row["correct"] == 3


def test_a_question_counts_for_each_of_its_skills():
    rows = []
    for i, (skills, task) in enumerate([(["a", "b"], "x"), (["b"], "x"), (["c"], "y")]):
        meta = vista("1", "integer").meta | {"metadata": {"skills": skills, "task": task}}
        rows.append(record(Example(str(i), (), "?", "1", (), meta), [box("1" if i else "2")]))
    by = report(rows, 1, BENCHMARKS["mathvista"])["by"]
    assert {name: (r["pass@1"], r["questions"]) for name, r in by["skills"].items()} == {
        "a": (0, 1),
        "b": (0.5, 2),
        "c": (1, 1),
    }
    assert by["task"]["x"]["pass@1"] == 0.5 and by["answer_type"]["integer"]["questions"] == 3


# --- MathVerse, MathVision, ChartQA ---------------------------------------------------------------


def verse(number, version, problem="1", **meta):
    meta = {"problem_version": version, "problem_index": problem, "question_type": "free-form", **meta}
    return Example(str(number), (), "?", "1", (), meta)


def test_mathverses_mean_is_over_versions_without_text_only():
    # Text Lite: 1 of 2; Vision Only: 1 of 1; Text Only: 0 of 1. Mean of versions (1/2 + 1)/2 = 3/4;
    # of rows 2/4
    rows = [
        record(verse(i, version, str(i)), [box(answer)])
        for i, (version, answer) in enumerate(
            [("Text Lite", "1"), ("Text Lite", "2"), ("Vision Only", "1"), ("Text Only", "2")]
        )
    ]
    result = report(rows, 1, BENCHMARKS["mathverse"])
    assert result["scores"] == {"mean_of_versions": 0.75} and result["pass@1"] == 0.5
    assert (
        result["by_category"]["Text Only"]["pass@1"] == 0
        and result["by_category"]["Text Lite"]["pass@1"] == 0.5
    )


def test_mathverses_options_are_read_from_the_question():
    text = "Find angle C. ( )\nChoices:\nA:145°\nB:140°\nC:135°\nD:130°"
    shown = Example("1", (), text, "B", (), {"problem_version": "Text Lite"})
    hidden = Example(
        "1", (), "See the image.", "B", (), {"problem_version": "Vision Only", "question_for_eval": text}
    )
    for question in (shown, hidden):
        for answer in ("B", "140", r"140^\circ", "B. 140°", "(B)"):
            assert right(question, answer), answer
        assert not right(question, "145") and not right(question, "A")


def test_a_mathverse_problem_is_drawn_with_all_its_versions():
    versions = ("Text Lite", "Vision Only")
    results = []
    for answers in (
        ["2"] * 8,
        ["1"] * 4 + ["2"] * 4,
    ):  # of four problems the first two become right, in both versions
        rows = [record(verse(i, versions[i % 2], str(i // 2)), [box(a)]) for i, a in enumerate(answers)]
        results.append({"benchmark": "mathverse", "grader": "ours", "records": rows})
    change = compare(*results)["scores"]["mean_of_versions"]
    # draws of 4 problems of which each is right with 1/2: P(none right) = 1/16 > 2.5 %, so the
    # interval is [0, 1]
    assert (change["difference"], change["low"], change["high"]) == (0.5, 0, 1)


def test_mathvision_takes_letter_or_value():
    meta = {"level": 3, "subject": "algebra"}
    choice, open_one = (
        Example("1", (), "?", "C", ("3", "4", "5"), meta),
        Example("2", (), "?", "2749", (), meta),
    )
    assert right(choice, "C") and right(choice, "5") and right(choice, "(C)") and not right(choice, "3")
    assert right(open_one, "2749") and not right(open_one, "2750")
    row = record(choice, [box("C")])
    assert row["by"] == {"level": ["3"], "subject": ["algebra"]} and row["category"] == "3"


@pytest.mark.parametrize(
    ("gold", "answer", "is_right"),
    [
        ("100", "105", True),  # exactly 5 %
        ("100", "95", True),
        ("100", "105.1", False),
        ("0.2", "0.21", True),  # exactly 5 %, although 0.21 - 0.2 > 0.01 in floats
        ("-100", "-104", True),
        ("-100", "104", False),
        ("0", "0.01", False),  # nothing is within 5 % of nothing
        ("0", "0", True),
        ("14", r"14\%", True),
        ("Yes", "yes", True),
        ("Germany", "Germany", True),
        ("Germany", "France", False),
    ],
)
def test_chartqa_tolerates_five_percent_of_a_number_and_case(gold, answer, is_right):
    assert right(Example("1", (), "?", gold, (), {"human_or_machine": 0}), answer) is is_right


def test_a_tolerant_rule_lets_two_answers_be_right_in_a_tie():
    row = record(
        Example("1", (), "?", "100", (), {"human_or_machine": 1}), [box(a) for a in ("99", "101", "7")]
    )
    assert row["majority"] == pytest.approx(2 / 3) and row["correct"] == 2


# --- We-Math --------------------------------------------------------------------------------------


# (sub-questions, multi-step question) and its kind, strict and loose (arXiv 2407.01284)
TWO_STEPS = [
    ("11", "1", "CM", "CM"),
    ("10", "1", "RM", "CM"),  # loose: one sub right is enough
    ("00", "1", "RM", "RM"),
    ("11", "0", "IG", "IG"),
    ("10", "0", "IK", "IK"),
    ("00", "0", "IK", "IK"),
]
THREE_STEPS = [
    ("111", "1", "CM", "CM"),
    ("110", "1", "RM", "CM"),
    ("000", "1", "RM", "RM"),
    ("111", "0", "IG", "IG"),
    ("011", "0", "IK", "IK"),
]


@pytest.mark.parametrize(("subs", "multi", "strict", "loose"), TWO_STEPS + THREE_STEPS)
def test_the_four_kinds_of_a_composite(subs, multi, strict, loose):
    subs = [s == "1" for s in subs]
    assert four_way(subs, multi == "1", loose=False) == strict
    assert four_way(subs, multi == "1", loose=True) == loose


def wemath_rows(composites, steps):
    """Records of composites numbered from 1 on, as the data numbers both kinds."""
    rows = []
    for number, (subs, multi, *_) in enumerate(composites, 1):
        for part, verdict in [*enumerate(subs, 1), ("multi", multi)]:
            key = f"{steps}steps_{part}"
            example = Example(f"{number}-{key}", (), "?", "A", ("x", "y"), {"ID": str(number), "key": key})
            rows.append(record(example, [box("A" if verdict == "1" else "B")]))
    return rows


def test_wemaths_four_way_score_worked_out_by_hand():
    rows = wemath_rows(TWO_STEPS, 2) + wemath_rows(THREE_STEPS, 3)
    result = report(rows, 1, BENCHMARKS["wemath"])
    # 11 composites. strict: CM 1+1, RM 2+2, IG 1+1, IK 2+1. loose: CM 2+2, RM 1+1, IG and IK as
    # before
    assert result["composites"] == 11 and result["incomplete"] == 0
    assert result["strict"] == {"IK": 3, "IG": 2, "CM": 2, "RM": 4, "RM_of_solved": 4 / 6}
    assert result["loose"] == {"IK": 3, "IG": 2, "CM": 4, "RM": 2, "RM_of_solved": 2 / 6}
    # score = (CM + IG/2) / composites
    assert result["scores"]["score_strict"] == pytest.approx((2 + 1) / 11)
    assert result["scores"]["score_loose"] == pytest.approx((4 + 1) / 11)
    assert result["scores"]["IK_strict"] == pytest.approx(3 / 11) and result["scores"][
        "RM_loose"
    ] == pytest.approx(2 / 11)
    # plain accuracy: 3+2+1+2+1+0 of 18 rows and 4+3+1+3+2 of 20
    assert result["pass@1"] == pytest.approx((9 + 13) / 38)


def test_a_whole_wemath_has_525_composites():
    rows = wemath_rows([("11", "1")] * 360, 2) + wemath_rows([("111", "0")] * 165, 3)
    result = report(rows, 1, BENCHMARKS["wemath"])
    assert len(rows) == 1740 and result["composites"] == 525
    assert result["scores"]["score_strict"] == pytest.approx((360 + 0.5 * 165) / 525)


def test_a_composite_that_lacks_a_member_is_left_out_and_counted():
    rows = wemath_rows(TWO_STEPS, 2) + wemath_rows(THREE_STEPS, 3)
    gone = {"1-2steps_2", "4-3steps_multi", "4-3steps_1", "5-3steps_3"}  # a CM, an IG and an IK
    result = report([r for r in rows if r["id"] not in gone], 1, BENCHMARKS["wemath"])
    # left: 8 composites. strict: CM 0+1, RM 2+2, IG 1+0, IK 2+0
    assert (result["composites"], result["incomplete"]) == (8, 3)
    assert result["strict"] == {"IK": 2, "IG": 1, "CM": 1, "RM": 4, "RM_of_solved": 4 / 5}
    assert result["scores"]["score_strict"] == pytest.approx((1 + 0.5) / 8)


def test_an_unparsed_answer_is_a_wrong_member_not_a_missing_one():
    rows = wemath_rows([("11", "1")], 2)
    example = Example("1-2steps_multi", (), "?", "A", ("x", "y"), {"ID": "1", "key": "2steps_multi"})
    rows[-1] = record(example, ["no box"])
    result = report(rows, 1, BENCHMARKS["wemath"])
    assert result["composites"] == 1 and result["strict"]["IG"] == 1


def test_with_several_samples_sample_j_of_each_member_makes_composite_j():
    rows = []
    for part, samples in (("1", "11"), ("2", "10"), ("multi", "10")):  # sample 0 is CM; sample 1 is 10|0: IK
        example = Example(part, (), "?", "A", ("x", "y"), {"ID": "1", "key": f"2steps_{part}"})
        rows.append(record(example, [box("A" if s == "1" else "B") for s in samples]))
    result = report(rows, 2, BENCHMARKS["wemath"])
    assert result["strict"] == {"IK": 0.5, "IG": 0, "CM": 0.5, "RM": 0, "RM_of_solved": 0}
    assert result["scores"]["score_strict"] == 0.5


def test_a_comparison_draws_whole_composites():
    def result(composites):
        return {"benchmark": "wemath", "grader": "ours", "records": wemath_rows(composites, 2)}

    change = compare(result([("11", "0")] * 20), result([("11", "1")] * 10 + [("10", "1")] * 10))
    strict, loose = change["scores"]["score_strict"], change["scores"]["score_loose"]
    assert strict["questions"] == 20 and strict["difference"] == pytest.approx(10 / 20 * 1 - 0.5)
    # strict: ten composites gain 1/2 and ten lose 1/2, sd of the mean 0.5 / sqrt(20) = 0.112
    assert strict["low"] == pytest.approx(-1.96 * 0.112, abs=0.04) and strict["high"] == pytest.approx(
        1.96 * 0.112, abs=0.04
    )
    assert loose == pytest.approx({"difference": 0.5, "low": 0.5, "high": 0.5, "questions": 20})


# --- math-verify ----------------------------------------------------------------------------------


def test_what_timed_out_counts_as_wrong_and_is_counted():
    row = record(Example("1", (), "?", "1"), [box("1"), box("2"), "?"], grader=lambda gold, answer: None)
    assert row["correct"] == 0 and row["timed_out"] == 2 and row["parsed"] == 2


def test_a_grader_judges_free_form_answers_only():
    asked = []

    def grader(gold, answer):
        asked.append((gold, answer))
        return True

    choice = Example("1", (), "?", "B", ("1", r"\sqrt{3}"))
    assert not right(choice, "A", PLAIN, grader) and right(choice, "B", PLAIN, grader) and asked == []
    assert right(choice, "1.732", PLAIN, grader) and asked == [
        (r"\sqrt{3}", "1.732")
    ]  # against the option's value
    assert right(vista("14", "integer"), "14.7", None, grader) and len(asked) == 1  # MathVista's own rule
    assert right(Example("2", (), "?", "(x+1)^2"), "x^2+2x+1", PLAIN, grader) and asked[-1] == (
        "(x+1)^2",
        "x^2+2x+1",
    )


def test_our_grader_may_accept_more_than_equal_keys_but_votes_are_by_key(monkeypatch):
    monkeypatch.setattr(
        "evaluation.benchmarks.equivalent", lambda gold, answer: answer in ("apples", "pears", gold)
    )
    row = record(Example("1", (), "?", "1"), [box(a) for a in ("apples", "pears", "3", "3")])
    assert row["right"] == [True, True, False, False] and row["majority"] == 0


# --- From a file to a result ----------------------------------------------------------------------


SCHEMAS = {  # writer of tests/datasets_made.py: (benchmark, categorisations)
    "geometry3k": ("plain", set()),
    "geoqa": ("plain", set()),
    "geoqa_r1v": ("plain", set()),
    "mmr1": ("plain", set()),
    "mathvista": ("mathvista", {"question_type", "answer_type", "task", "skills"}),
    "mathverse": ("mathverse", {"problem_version", "question_type", "subject", "subfield"}),
    "mathvision": ("mathvision", {"level", "subject"}),
    "wemath": ("wemath", {"key"}),
    "chartqa": ("chartqa", {"human_or_machine"}),
}


@pytest.fixture(params=SCHEMAS)
def schema(request, tmp_path):
    """(path of a small parquet file, the benchmark it is, its categorisations)."""
    pytest.importorskip("pyarrow", reason="pip install pyarrow")
    from datasets_made import WRITERS

    return str(WRITERS[request.param](tmp_path)), *SCHEMAS[request.param]


def run(tmp_path, *argv):
    out = tmp_path / "result.json"
    out.unlink(missing_ok=True)  # of another evaluation
    assert main([*map(str, argv), "--out", str(out)]) == 0
    return json.loads(out.read_text())


def test_each_schema_goes_through_the_program(schema, tmp_path, random_folder, capsys):
    path, name, by = schema
    argv = [
        "--model",
        random_folder,
        "--data",
        path,
        "--num_samples",
        2,
        "--max_new_tokens",
        4,
        "--max_pixels",
        56 * 56,
    ]
    result = run(tmp_path, *argv)
    assert result["benchmark"] == name and result["grader"] == "ours" and result["skipped"] == []
    assert (
        result["questions"] == len(result["records"]) >= 5 and set(result.get("by", {})) - {"category"} == by
    )
    assert {"pass@1", "maj@2", "pass@2", "parsed"} <= result.keys()
    if name == "chartqa":
        assert set(result["by"]["human_or_machine"]) == {"human", "machine"}
    printed = capsys.readouterr().out
    assert f"benchmark {name}, graded by ours" in printed and all(f"\n{column} " in printed for column in by)
    change = compare(result, result)
    assert change["pass@1"]["difference"] == change["pass@1"]["high"] == 0


def answering(monkeypatch, answer):
    """Lets the program's model write what answer(question id) says."""

    def answers(model, processor, encoded, decoding):
        return [[answer(e.id)] * decoding.num_samples for e in encoded]

    monkeypatch.setattr("evaluation.answering.answers", answers)


@pytest.mark.parametrize("with_grader", [False, True])
def test_whoever_writes_the_gold_answer_is_always_right(
    schema, with_grader, tmp_path, random_folder, monkeypatch
):
    from data import load

    path, name, _ = schema
    if with_grader:
        pytest.importorskip("math_verify", reason="pip install 'math-verify[antlr4_13_2]'")
    examples = load(path, labels=True)
    gold = {e.id: e.answer for e in (examples[i] for i in range(len(examples)))}
    answering(monkeypatch, lambda key: box(gold[key]))
    argv = ["--model", random_folder, "--data", path, "--num_samples", 1]
    result = run(tmp_path, *argv, *(["--grader", "math-verify"] if with_grader else []))
    assert result["pass@1"] == result["maj@1"] == 1 and result["timed_out"] == 0
    assert result["grader"].startswith("math-verify" if with_grader else "ours")
    if name == "wemath":
        assert result["scores"]["score_strict"] == 1 and (result["composites"], result["incomplete"]) == (
            3,
            0,
        )
    if name == "mathverse":
        assert result["scores"]["mean_of_versions"] == 1


def test_a_jsonl_with_a_benchmarks_columns_is_graded_as_it(tmp_path, random_folder, monkeypatch):
    row = {
        "id": "1",
        "question": "?",
        "answer": "1.2",
        "question_type": "free_form",
        "answer_type": "float",
        "precision": 1,
    }
    path = write_rows(tmp_path / "q.jsonl", [row])
    answering(monkeypatch, lambda key: box("1.24"))
    argv = ["--model", random_folder, "--data", path, "--num_samples", 1]
    assert run(tmp_path, *argv)["pass@1"] == 1
    assert run(tmp_path, *argv, "--benchmark", "plain")["pass@1"] == 0


def test_relaxed_keys_that_are_no_numbers_compare_as_text():
    assert relaxed("A", "a") and not relaxed("1", "A")
