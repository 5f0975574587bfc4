"""Rewards beyond the plain majority: known answers of each, what a mask does to gradients, one's own file,
and that labels reach none of them. tests/test_oracle.py has whole runs with each flag."""

import re
import sys
from dataclasses import fields

import numpy as np
import pytest
import torch
from conftest import ROOT, write_rows
from oracle import MADE, Oracle, outside_box
from PIL import Image
from running import fingerprint, rows, run, without_times

import mmupt
from answers.span import answer_spans
from common.run_log import Meter
from data import Example
from data.stream import ALONE
from mmupt import Config, Encoded, LossInputs, compute_rewards, group_advantages, majority_vote
from model.answer_tokens import tokens_of
from model_utils import generate, rollout_logprobs
from rewards.answer_mask import outside
from rewards.variants import halved, share_weights
from rewards.views import CHANGES, in_views, reader

QUESTION = [Encoded("q", [1, 2])]


def box(*answers) -> list[str]:
    return [f"x \\boxed{{{a}}}" if a else "nothing" for a in answers]


def paid(texts: list[str], gold=None, **options) -> list[float]:
    config = Config(group_size=len(texts), **options)
    return compute_rewards(texts, QUESTION, config, gold or {}, step=0)[1][0].tolist()


def winner(answers: list, **options):
    config = Config(group_size=len(answers), **options)
    return compute_rewards(box(*answers), QUESTION, config, {}, 0)[0][0].vote.winner


# --- rewards


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("3347", [0.5, 0.5, 0.25, 0.25]),
        (["3", "3", "4", None], [0.5, 0.5, 0.25, 0]),
        (["1/2", "0.5", "7", "7"], [0.5] * 4),  # equal answers vote together; a tie pays both sides
        ([None, None], [0, 0]),
    ],
)
def test_the_frequency_reward_is_the_share_of_those_who_say_the_same(answers, expected):
    assert paid(box(*answers), reward="frequency") == expected


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        # parity: 3 3 4 against 5 5 3: the first half is labelled 5, the second 3
        ("353543", [0, 0, 0, 0, 0, 1]),
        ("33333333", [1] * 8),
        ("3434", [0, 0, 0, 0]),  # each half is of one mind, and the other isn't of it
        ("3343", [1, 0, 0, 0]),  # the first half, 3 4, has no single winner: nobody of the second earns
        (["3", None, "3", None], [0, 0, 0, 0]),
    ],
)
def test_the_cross_reward_labels_each_half_by_the_other(answers, expected):
    assert paid(box(*answers), reward="cross") == expected


def test_halves_are_by_parity_or_by_the_picture_seen():
    assert halved(majority_vote, list("aabb"))[0] == [0, 1, 0, 1]
    half, votes = halved(majority_vote, list("aabb"), views=2)
    assert half == [0, 0, 1, 1] and [vote.winner for vote in votes] == ["a", "b"]
    assert paid(box(*"3344"), reward="cross", other_view="dim") == [0, 0, 0, 0]
    assert paid(box(*"3334"), reward="cross") == [0, 1, 0, 0]
    assert paid(box(*"334433"), reward="cross", other_view="dim") == [1, 1, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"3 + 4 = 7 \boxed{7}", 1),
        (r"so \boxed{7} or so", 1),
        (r"\boxed{7}", 0),
        (r" **\boxed{7}** by 3 + 4", 0),
        (r"\boxed{7} and \boxed{8}", 0),  # one answer of two parts
        (r"\boxed{7}. No: \boxed{8}", 1),
        (r"<answer>7</answer>", 0),
        (r"<answer>\boxed{7}</answer>", 0),
        ("3 + 4 = 7", 0),
        (r"3 + 4 \boxed{7", 0),
    ],
)
def test_the_steps_reward_goes_to_work_that_is_shown_before_an_answer(text, expected):
    assert paid([text, text], reward="steps") == [expected] * 2


def test_several_rewards_add_up_by_their_weights():
    texts = [r"\boxed{1}", r"one \boxed{1}", "e e e", r"\boxed{2}"]
    expected = pytest.approx([1 + 0.125 - 0.2, 1 + 0.125 - 0.4, -0.6, 0.0625 - 0.2])  # boxed has an e
    assert paid(texts, reward=f"majority, frequency:0.25 ,{MADE}:letters:-2") == expected
    assert paid(texts, reward="majority:1") == paid(texts)


# --- votes, gates, weights


def test_a_lead_of_the_margin_or_less_abstains():
    assert majority_vote(list("aaab")).winner == "a"
    assert majority_vote(list("aaab"), min_margin=0.5).winner is None
    assert majority_vote(list("aaab"), min_margin=0.49).winner == "a"
    assert majority_vote(["a", None, None, None], min_margin=0.25).winner is None  # a share of all
    assert majority_vote(["a"] * 3 + ["b"] * 2 + [None] * 5, min_margin=0.1).winner is None
    assert winner("33345", min_margin=0.3) == "3" and winner("33345", min_margin=0.4) is None
    assert paid(box(*"33345"), min_margin=0.4) == [0] * 5


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("33333344", "3"),
        ("34343434", None),  # each half of one mind
        ("33343434", None),  # 3 3 3 3 against 3 4 4 4
        ("33453344", None),  # 3 4 3 4 is a tie
        ("3345", None),  # both are
        (["3", "3", None, None], "3"),
        (["3", None, "3", None], None),
        ([None] * 4, None),
    ],
)
def test_the_gate_is_closed_where_half_votes_differ_or_tie(answers, expected):
    assert winner(answers, gate="halves") == expected
    if expected is None:
        assert paid(box(*answers), gate="halves") == [0] * len(answers)


def test_a_closed_gate_pays_nobody_whatever_the_reward():
    texts = box(*"34343434")
    for reward in ("frequency", "cross", "format", "steps", f"{MADE}:letters"):
        assert any(paid(texts, reward=reward)) == (reward != "cross")
        assert not any(paid(texts, reward=reward, gate="halves"))
    assert paid(texts, gold={"q": "3"}, reward="gold", gate="halves") == [0] * 8
    assert any(paid(box(*"33333344"), reward="frequency", gate="halves"))


def test_advantages_are_weighted_by_the_share_to_a_power():
    config = Config(group_size=4)
    texts = box(*"3334") + box(*"3345")
    groups, rewards = compute_rewards(texts, [Encoded("a", [1]), Encoded("b", [1])], config, {}, 0)
    assert share_weights(groups, 0.0).tolist() == [[1.0], [1.0]]
    assert share_weights(groups, 2.0).tolist() == [[0.75**2], [0.5**2]]
    plain, weighted = group_advantages(rewards), group_advantages(rewards) * share_weights(groups, 2.0)
    torch.testing.assert_close(weighted[0], plain[0] * 0.5625)
    # of |A| = sqrt((1 - f) / f) of those who agree
    assert weighted[1, 0].item() == pytest.approx((3 / 4) ** 0.5 * 0.25, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "halves", "vote": "published"}, "--gate must be none with --vote published"),
        ({"min_margin": 0.1, "vote": "published"}, "--min_margin must be 0 with --vote published"),
        ({"min_margin": 2}, "--min_margin must be between 0 and 1"),
        ({"share_power": -1}, "--share_power must be 0 or more"),
        (
            {"other_view": "shift", "group_size": 5},
            r"--group_size must be even with --other_view.* \(got 5\)",
        ),
        ({"other_view": "turn"}, "--other_view must be one of none, shift, dim"),
        ({"gate": "thirds"}, "--gate must be one of none, halves"),
    ],
)
def test_flags_that_make_no_sense_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)


# --- a user's own reward


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("love", r"--reward must be one of majority, .* or FILE.py:FUNCTION.* \(got love\)"),
        ("", r"\(got nothing\)"),
        ("majority,", r"\(got nothing\)"),
        ("majority:much", r"--reward majority: its weight must be a finite number \(got much\)"),
        ("majority:", r"--reward majority: its weight .* \(got nothing\)"),
        ("majority:inf", "--reward majority: its weight must be a finite number"),
        (f"{MADE}", "FILE.py:FUNCTION"),
        (f"{MADE}:gone", "rewards_made.py:gone: .*rewards_made.py has no function gone"),
        (f"{MADE}:number", "has no function number"),
        ("gone.py:f", "--reward gone.py:f: no such file gone.py"),
    ],
)
def test_a_reward_that_can_not_be_is_refused_at_once(written, message):
    with pytest.raises(ValueError, match=message) as error:
        Config(reward=written)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1 +\n", "own.py doesn't load: .*SyntaxError"),
        ("\n\nimport gone\n", "own.py doesn't load: line 3: ModuleNotFoundError: No module named 'gone'"),
        ("raise SystemExit(3)\n", "own.py doesn't load: line 1: SystemExit"),
    ],
)
def test_a_file_that_does_not_load_says_where(tmp_path, text, message):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(ValueError, match=f"--reward .*own.py:f: .*{message}") as error:
        Config(reward=f"{tmp_path / 'own.py'}:f")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("short", "it gave 1 numbers for 2 responses"),
        ("endless", "it gave nan for response 0, which is no finite number"),
        ("wordy", "it gave 'much' for response 0, which is no finite number"),
        ("fails", r"line \d+: ZeroDivisionError: .*zero"),
    ],
)
def test_a_reward_that_gives_no_rewards_ends_the_run_in_one_line(program, tmp_path, function, message):
    with pytest.raises(ValueError, match=f"--reward .*rewards_made.py:{function}, question q: {message}"):
        paid(box(1, 2), reward=f"{MADE}:{function}")
    if function == "fails":
        flags = [
            "--steps",
            1,
            "--questions",
            2,
            "--group_size",
            2,
            "--eval_data",
            "",
            "--out",
            tmp_path / "r",
        ]
        done = program(mmupt.main, *flags, "--reward", f"{MADE}:fails")
        assert done.returncode == 2 and re.search(message, done.stderr.splitlines()[-1])


def test_a_file_is_run_once_and_its_functions_get_what_is_promised(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Kept:\n    calls: list\nkept = Kept([])\n"
        "def a(group, **context):\n    kept.calls.append((group, context))\n"
        "    return (1 for _ in group.keys)\n"
        "def b(group, **context):\n    return [len(kept.calls)] * len(group.keys)\n"
    )
    texts = [r"so \boxed{5}", r"\boxed{5.0}", "-"]
    assert paid(texts, reward=f"{path}:a,{path}:b") == [2, 2, 2]
    group, context = sys.modules[f"reward {path}"].kept.calls[0]
    assert group.question == QUESTION[0] and group.texts == texts and group.raw == ["5", "5.0", None]
    assert group.keys == ["5", "5", None] and group.vote == ("5", 2 / 3, {"5": 2})
    assert group.half == [0, 1, 0] and [vote.winner for vote in group.half_votes] == ["5", "5"]
    assert context == {"vote": "sound", "seed": 0, "step": 0, "answer_format": "boxed"}


def test_labels_are_handed_to_the_reward_gold_alone():
    seen = []
    table = {"spy": lambda group, **context: seen.append(context) or [0.0, 0.0]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(mmupt.REWARDS, "spy", table["spy"])
        assert paid(box(1, 2), gold={"q": "2"}, reward="spy,gold:3") == [0, 3]
    assert [sorted(context) for context in seen] == [["answer_format", "seed", "step", "vote"]]
    known = {"id", "ids", "vision", "choices", "question", "pictures", "other"}
    assert {f.name for f in fields(Encoded)} == known


def test_the_example_of_the_docs_runs(tmp_path):
    text = (ROOT / "docs" / "rewards.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "mine.py").write_text(example)
    texts = [r"\boxed{5}", "word " * 30 + r"\boxed{5}", "word " * 300 + r"\boxed{5}", r"\boxed{6}"]
    pays = paid(texts, reward=f"majority,{tmp_path / 'mine.py'}:brief:0.5")
    assert pays == pytest.approx([1 + 0.5 * 0.99, 1 + 0.5 * 0.69, 1, 0.5 * 0.99])


# --- the answer's tokens


@pytest.mark.parametrize(
    ("pieces", "masked"),
    [
        (["so \\boxed", "{", "1", "2", "}", "."], [2, 3]),
        (["so \\boxed{", "12", "}."], [1]),
        (["\\boxed", "{1", "2}", "."], [1, 2]),  # a token that holds a brace and a digit
        (["\\boxed{1", "} no \\boxed{", "45", "}"], [2]),
        (["\\boxed{", "\\frac", "{", "1", "}{", "2", "}", "}"], [1, 2, 3, 4, 5, 6]),
        (["\\boxed{12}"], [0]),
        (["\\boxed{ ", " 7", " ", "}"], [0, 1, 2]),  # blanks are of its content
        ([b"\xf0\x9f", b"\x98\x80 \\boxed{", "7", "}"], [2]),  # a character of two tokens before
        (["\\boxed{", b"\xc3", b"\xa9", "}", b"\xc3", b"\xa9"], [1, 2]),  # within
        (["\\boxed", b"{\xf0", b"\x9f", b"\x98\x80}", "."], [1, 2, 3]),
        (["\\boxed{5", b"}\xc3", b"\xa9"], [0]),  # behind
        (["\\boxed{5", "}", b"\xff", "."], [0]),  # no character at all
        (["\\boxed{", b"5\xff", "}"], [1, 2]),  # what may yet become a character is of the next one too
        (["", "\\boxed{", "", "5", "", "}", ""], [2, 3, 4]),  # a special token says nothing
        (["\\boxed{", "5"], []),
        (["\\boxed{1} and ", "\\boxed{", "2", "}"], [0, 2]),
    ],
)
def test_a_token_that_holds_a_character_of_the_answer_is_masked(pieces, masked):
    pieces = [piece if isinstance(piece, bytes) else piece.encode() for piece in pieces]
    ids = list(range(len(pieces)))

    def decode(some):
        return b"".join(pieces[i] for i in some).decode(errors="replace")

    found = {t for span in answer_spans(decode(ids)) for t in tokens_of(span, ids, decode)}
    empty = {i for i, piece in enumerate(pieces) if not piece}
    assert found - empty == set(masked) - empty


TEXTS = {
    "boxed": [
        r"12 + 34 = 46. \boxed{46}", r"\boxed{\frac{12}{345}} it is", r"so \boxed{3.14 cm}",
        r"é😀 \boxed{😀é} 😀", r"\boxed{1}. Or \boxed{23}", "nothing", r"\boxed{5",
        r"\boxed{a{b}c}", r"\boxed{12345678901234567890}",
    ],
    "tag": ["<answer>46</answer> 7", "<answer>46"], "phrase": ["The answer is **46 cm**. So", "no"],
    "choice": ["It is (B) and so", "-"], "last_number": ["12 + 34 = 46 cm", "none"],
}  # fmt: skip


@pytest.mark.parametrize("answer_format", TEXTS)
def test_the_mask_is_exact_on_real_tokens(processor, answer_format):
    """Against bytes, which every token of a byte-level vocabulary has of its own."""
    texts = TEXTS[answer_format]
    ids = [processor.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    ids = [row + [processor.eos_ids[0]] for row in ids]
    T, lengths = max(map(len, ids)), torch.tensor([len(row) for row in ids])
    tokens = torch.tensor([row + [processor.pad] * (T - len(row)) for row in ids])
    rollout = mmupt.Rollout(None, 1, tokens, lengths, torch.zeros(tokens.shape), lengths > 0, 1.0)
    assert outside(rollout, processor, Config(answer_format=answer_format)) is None
    trained = outside(rollout, processor, Config(answer_format=answer_format, mask_answer=True))
    assert trained.shape == tokens.shape and trained.dtype == torch.bool
    answers = {"tag": r"46", "phrase": r"46 cm", "choice": r"B", "last_number": "46"}
    for row, text, own in zip(trained.tolist(), texts, ids, strict=True):
        pieces = Oracle.pieces(processor, own)  # the processor has a tokenizer, as the oracle
        if answer_format == "boxed":
            expected = outside_box(text, pieces)
        else:
            at = text.find(answers[answer_format], text.find("=") + 1)
            start, end = len(text[:at].encode()), len(text[:at].encode()) + len(answers[answer_format])
            ends = np.cumsum([len(piece) for piece in pieces])
            expected = [b <= start or b - len(p) >= end for b, p in zip(ends, pieces, strict=True)]
            expected = [True] * len(pieces) if text == texts[-1] else expected
        assert row[: len(own)] == expected, text
        assert all(row[len(own) - 1 :])  # the eos and what is behind it


@pytest.fixture
def scored(model, processor, drawn):
    """A rollout of two questions, made to look read by hand: log-probs that differ, and advantages."""
    rollout = generate(model, processor, [drawn[0], drawn[1]], 4, 12, seed=1)
    old = rollout_logprobs(model, rollout, 10_000)
    noise = torch.rand(old.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    advantages = torch.tensor([1.0, -1, 0.5, -2, 1, -1, 0, 3])
    return rollout, (old + 0.6 * noise) * rollout.mask, (old - 0.4 * noise) * rollout.mask, advantages


@pytest.mark.parametrize("aggregate", ["grpo", "dapo", "bnpo", "dr_grpo"])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_masked_tokens_have_no_gradient_and_the_others_the_one_they_had(
    monkeypatch, model, scored, aggregate, ratio
):
    """Policy and KL: divided by what it was, so that the mask takes nothing from the other tokens."""
    rollout, *known = scored
    config = Config(group_size=4, questions=2, beta=0.3, max_new_tokens=12, aggregate=aggregate, ratio=ratio,
                    tokens_per_forward=10_000)  # fmt: skip
    plain, kept = mmupt.token_logprobs, []

    def watched(policy, part, with_entropy):
        out = plain(policy, part, with_entropy)
        out[0].retain_grad()
        kept.append(out[0])
        return out

    monkeypatch.setattr(mmupt, "token_logprobs", watched)

    def gradient(trained):
        meter = Meter()
        mmupt.accumulate_gradients(config, ALONE, model, LossInputs(rollout, *known, trained), meter)
        return kept.pop().grad, meter.means(ALONE)

    masked = torch.rand(rollout.tokens.shape, generator=torch.Generator().manual_seed(3)) < 0.4
    whole, figures = gradient(None)
    part, same_figures = gradient(~masked)
    assert (whole != 0)[masked & rollout.mask].float().mean() > 0.5
    assert torch.equal(part, whole.masked_fill(masked, 0.0))
    assert figures == same_figures  # of all tokens, masked ones too


# --- views


def test_the_other_view_is_the_picture_changed_by_a_hair():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    moved = np.asarray(CHANGES["shift"](image))
    assert np.array_equal(moved[1:, 1:], pixels[:-1, :-1])
    assert np.array_equal(moved[0], pixels[0]) and np.array_equal(moved[:, 0], pixels[:, 0])
    assert np.array_equal(np.asarray(CHANGES["dim"](image)), (pixels * 0.95).round().astype(np.uint8))
    assert np.array_equal(np.asarray(image), pixels)
    assert CHANGES["shift"](Image.new("RGB", (1, 1), "red")).getpixel((0, 0)) == (255, 0, 0)


def test_a_question_holds_both_views_with_draws_of_their_own(processor, drawn):
    asked = [drawn[0], Example("text", (), "What is 3 + 4?")]
    questions = [reader(processor, "shift").encode(example) for example in asked]
    views = in_views(questions)
    assert [view.id for view in views] == [drawn[0].id, f"{drawn[0].id}, shift", "text", "text, shift"]
    assert views[0].ids == views[1].ids and views[2].ids == views[3].ids
    plain = processor.encode(asked[0])
    seen = [processor.collate([x]).vision[0]["pixel_values"] for x in (plain, views[0], views[1])]
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    assert reader(processor, "none") is processor and in_views([plain]) == [plain]


# --- whole runs

ACTS = {  # flags, and a reward or vote that they change
    "frequency": dict(reward="frequency"),
    "cross views": dict(reward="cross", other_view="shift"),
    "all that is no reward": dict(gate="halves", min_margin=0.1, share_power=2.0, mask_answer=True, refill=1),
    "steps and a user's own": dict(reward=f"steps,{MADE}:nosy:0.1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTS)
def test_training_is_the_same_to_the_bit_with_wrong_labels_and_with_none(tmp_path, questions_file, name):
    source, made = questions_file
    answers = [row["answer"] for row in made]
    wrong = [row | {"answer": a} for row, a in zip(made, answers[1:] + answers[:1], strict=True)]
    none = [{k: v for k, v in row.items() if k != "answer"} for row in made]
    ends = []
    for i, some in enumerate((made, wrong, none)):
        file = write_rows(source.with_name("same.jsonl"), some)
        assert run(tmp_path / f"{i}", train_data=file, steps=2, save_every=0, group_size=8, **ACTS[name]) == 0
        logged = [without_times(row) for row in rows(tmp_path / f"{i}")]
        ends.append((fingerprint(tmp_path / f"{i}", 2), logged, rows(tmp_path / f"{i}", "rollouts.jsonl")))
    assert ends[0] == ends[1] == ends[2]
    assert ends[0][1][0]["grad_norm"] > 0
