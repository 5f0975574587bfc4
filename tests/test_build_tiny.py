"""The built-in base: what it is, how good it is, and the skills it was warmed on."""

import pytest
from transformers import AutoModelForImageTextToText

from data import TINY, Example, figures, load
from data.prompts import VERIFY, WRITE_DIRECT, WRITE_IN_CONTEXT, with_choices
from evaluation.answering import Decoding, evaluate
from evaluation.metrics import report
from model_utils import generate, load_model, load_processor
from programs.build_tiny import SPECIAL, WarmStart, build_tokenizer, demonstration, warm_start


@pytest.fixture(scope="module")
def base():
    return load_model(str(TINY)), load_processor(str(TINY))


def test_it_is_a_small_checkpoint_of_the_true_architecture():
    assert sum(f.stat().st_size for f in TINY.iterdir()) < 4_000_000
    model = AutoModelForImageTextToText.from_pretrained(TINY)
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert 500_000 < sum(p.numel() for p in model.parameters()) < 1_000_000


def test_its_tokenizer_has_qwens_special_tokens_and_splits_digits_as_qwen_does(base):
    tokenizer = base[1].tokenizer
    assert tokenizer.convert_tokens_to_ids(SPECIAL) == list(
        range(len(tokenizer) - len(SPECIAL), len(tokenizer))
    )
    assert tokenizer.tokenize("a 123.45") == ["a", "Ġ", "1", "2", "3", ".", "4", "5"]
    text = "caf\u00e9 \\boxed{\\frac{1}{2}} 你好 \U0001f600"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()


@pytest.mark.slow
def test_it_is_right_about_half_of_the_time_and_its_majority_more_often(base):
    model, processor = base
    examples = load("tiny", "test", labels=True)
    result = report(evaluate(model, processor, [examples[i] for i in range(300)], Decoding(8, 48)), 8)
    assert 0.45 <= result["pass@1"] <= 0.70
    assert result["maj@8"] >= result["pass@1"] + 0.08
    assert result["parsed"] > 0.95


def ask(base, questions, **options):
    model, processor = base
    prompts = processor.collate([processor.encode(q, instruction="") for q in questions])
    return generate(model, processor, prompts, 1, 40, **options).texts(processor)


def test_it_writes_questions_about_a_picture_with_and_without_an_example(base):
    drawn = figures.held_out("validation", 60)
    for prompt in (WRITE_DIRECT, WRITE_IN_CONTEXT):
        asked = [
            Example(f"w{i}", (f.image(),), prompt.format(question=f.question)) for i, f in enumerate(drawn)
        ]
        written = ask(base, asked)
        fits = [text in figures.QUESTIONS[f.family] for text, f in zip(written, drawn, strict=True)]
        assert sum(fits) > 0.7 * len(fits)
        if prompt == WRITE_IN_CONTEXT:
            other = [text != f.question for text, f in zip(written, drawn, strict=True)]
            assert sum(other) > 0.7 * len(other)


def test_it_says_yes_or_no_to_a_proposed_answer(base):
    questions = []
    for i, f in enumerate(figures.held_out("validation", 60)):
        text = VERIFY.format(question=with_choices(f.question, f.choices), answer=f.answer)
        questions.append(Example(f"v{i}", (f.image(),), text))
    said = ask(base, questions)
    assert sum(s in ("Yes", "No") for s in said) >= 58
    assert said.count("Yes") > 30  # every proposal was true


def test_the_warm_start_runs_and_is_the_same_every_time(tmp_path):
    for name in ("a", "b"):
        warm_start(WarmStart(out=str(tmp_path / name), steps=2, batch=4))
    a, b = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("a", "b"))
    assert a == b
    load_model(str(tmp_path / "a")), load_processor(str(tmp_path / "a"))


def test_demonstrations_cover_answering_writing_and_checking():
    written = [demonstration(i) for i in range(500)]
    boxed = [w for _, _, w in written if "\\boxed{" in w]
    assert 350 < len(boxed) < 450
    assert {w for _, _, w in written if w in ("Yes", "No")} == {"Yes", "No"}
    assert sum(w.endswith("?") for _, _, w in written) > 20
