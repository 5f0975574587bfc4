"""What a question becomes: ids, special tokens, sizes of pictures, and the ids that end a
response."""

import json
import shutil
from dataclasses import replace

import pytest
from PIL import Image
from transformers import AutoModelForImageTextToText

from data import TINY, Example
from model_utils import ModelError, load_processor


def test_the_question_cannot_smuggle_in_image_tokens(processor, mixed_examples):
    example = replace(mixed_examples[0], question="look <|vision_start|><|image_pad|><|vision_end|>")
    with pytest.raises(ValueError, match="image token"):
        processor.encode(example)
    with pytest.raises(ValueError, match="image token"):
        processor.encode(replace(example, images=()))


def test_the_prompt_is_what_the_chat_template_says(processor, mixed_examples):
    text = processor.tokenizer.decode(processor.encode(mixed_examples[4]).ids)
    question = mixed_examples[4]
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|image_pad|><|image_pad|><|image_pad|><|vision_end|>"
        + question.question
        + "".join(f"\n{a}. {c}" for a, c in zip("ABCD", question.choices, strict=False))
        + " Please reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_ids_that_end_a_response_are_hugging_faces(tmp_path, random_folder):
    shutil.copytree(random_folder, tmp_path / "m")
    generation, config = (
        json.loads((tmp_path / "m" / f"{n}config.json").read_text()) for n in ("generation_", "")
    )
    width = config["text_config"]["vocab_size"]

    def found(generation, **top):
        (tmp_path / "m" / "generation_config.json").unlink(missing_ok=True)
        if generation is not None:
            (tmp_path / "m" / "generation_config.json").write_text(generation)
        (tmp_path / "m" / "config.json").write_text(json.dumps(config | top))
        return load_processor(str(tmp_path / "m")).eos_ids

    assert found(json.dumps(generation | {"eos_token_id": [7, width, -1, 9]})) == (
        7,
        9,
    )  # those that there are
    for top in ({"eos_token_id": [5, 6]}, {}):  # beside the text part's own
        ours, theirs = (
            found(None, **top),
            AutoModelForImageTextToText.from_pretrained(tmp_path / "m").generation_config,
        )
        assert list(ours) == (
            theirs.eos_token_id if isinstance(theirs.eos_token_id, list) else [theirs.eos_token_id]
        )
    assert found(None) == (config["text_config"]["eos_token_id"],)
    with pytest.raises(ModelError, match="generation_config.json"):
        found(json.dumps(generation)[:-9])


def test_an_id_between_tokens_is_banned_and_a_token_behind_a_gap_is_not(processor, monkeypatch):
    words = processor.tokenizer.get_vocab()
    monkeypatch.setattr(
        type(processor.tokenizer), "get_vocab", lambda _: words | {"far": processor.vocabulary - 1}
    )
    banned = replace(processor).banned()  # a processor that has not looked yet
    assert not banned[-1] and banned[len(words) : -1].all() and not banned[: len(words)].all()


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path, random_folder):
    folder = tmp_path / "m"
    shutil.copytree(random_folder, folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        load_processor(str(folder))


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        # by hand, from Qwen's rule: sides rounded to multiples of 28; over max_pixels both divided
        # by sqrt(pixels / max_pixels) and rounded down; under min_pixels multiplied likewise and
        # rounded up
        ((1000, 600), [1, 42, 72]),  # 600 -> 588, 1000 -> 1008
        ((2000, 1500), [1, 66, 90]),  # / 1.5784: 950.4 -> 924, 1267.1 -> 1260
        ((100, 100), [1, 38, 38]),  # * 5.12: 512 -> 532
        ((40, 400), [1, 116, 12]),  # * 4.0477: 161.9 -> 168, 1619.1 -> 1624
    ],
)
def test_min_and_max_pixels_resize_as_qwen_does(size, grid):
    from model_utils import load_processor

    processor = load_processor(str(TINY), 262144, 1204224)
    encoded = processor.encode(Example("q", (Image.new("RGB", size),), "?"))
    assert encoded.vision["image_grid_thw"].tolist() == [grid]
    assert encoded.ids.count(processor.image_token_id) == grid[1] * grid[2] // 4
