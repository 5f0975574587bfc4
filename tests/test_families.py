"""Every served family in small against plain transformers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from families_made import RECIPES, SEEING, make_checkpoint, plain_model
from PIL import Image

from data import Example
from data.prompts import INSTRUCTION, with_choices
from model import kv_cache
from model.families import image_inputs, vision_parameters
from model.pixels import resize, resized, supports
from model_utils import (
    ModelError,
    freeze_vision,
    generate,
    load_checkpoint,
    load_model,
    load_processor,
    rollout_logprobs,
    save_checkpoint,
    token_logprobs,
)


@pytest.fixture(scope="session", params=list(RECIPES))
def family(request, tmp_path_factory):
    """(name, folder, plain transformers model)."""
    folder = tmp_path_factory.mktemp(request.param)
    make_checkpoint(folder, RECIPES[request.param])
    return request.param, folder, plain_model(request.param, folder)


@pytest.fixture
def loaded(family):
    name, folder, _ = family
    return load_model(str(folder)), load_processor(str(folder))


@pytest.fixture
def examples(family, mixed_examples):
    if family[0] in SEEING:
        tall = mixed_examples[3].images[0].resize((60, 150), Image.Resampling.BICUBIC)
        return [*mixed_examples, Example("tall", (tall,), "And this one?")]
    return [
        Example(f"text {i}", (), q)
        for i, q in enumerate(["What is 3 + 4?", "How many sides has a square? " * 4, "Why?"])
    ]


def at_its_size(processor, image):
    """The picture as the processor would resize it, where that is ours."""
    if not supports(processor.image_processor):
        return image
    _, h, w = resize(processor.image_processor, [image])["image_grid_thw"][0].tolist()
    side = processor.image_processor.patch_size
    return Image.fromarray(resized(image, h * side, w * side)[..., :3].copy())


def plain_inputs(processor, example, response=()) -> dict:
    """By transformers' own processor from the conversation on, with a response appended."""
    asked = with_choices(example.question, example.choices) + INSTRUCTION
    if processor.whole is None:
        ids = processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )["input_ids"]
        made = {"input_ids": ids}
    else:
        # pixels.py resizes as transformers' default image processors do, and not as the Pillow
        # ones: see test_pixels.py
        images = [at_its_size(processor, image) for image in example.images]
        content = [{"type": "image", "image": image} for image in images] + [{"type": "text", "text": asked}]
        made = processor.whole.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=processor.tokenizer.chat_template,
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
    more = torch.tensor([list(response)], dtype=torch.long)
    out = dict(made)
    out["input_ids"] = torch.cat([made["input_ids"], more], 1)
    out["attention_mask"] = torch.ones_like(out["input_ids"])
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in made:
            out[name] = torch.cat([made[name], torch.zeros_like(more)], 1)
    return out


def plain_logprobs(model, processor, rollout, examples):
    """[B, T]: every [prompt | response] through plain transformers on its own."""
    rows = []
    for b, (row, n) in enumerate(zip(rollout.tokens, rollout.lengths.tolist(), strict=True)):
        inputs = plain_inputs(processor, examples[b // rollout.num_samples], row[:n].tolist())
        logits = model(**inputs, use_cache=False).logits[0, -n - 1 : -1]
        picked = (
            (logits.double() / (rollout.temperature or 1.0)).log_softmax(-1).gather(-1, row[:n, None])[:, 0]
        )
        rows.append(torch.cat([picked, picked.new_zeros(len(row) - n)]))
    return torch.stack(rows)


def gradients(model, loss) -> dict:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_prompts_are_what_the_familys_own_processor_makes(family, loaded, examples):
    model, processor = loaded
    for example in examples:
        encoded, plain = processor.encode(example), plain_inputs(processor, example)
        assert encoded.ids == plain["input_ids"][0].tolist()
        assert bool(encoded.vision) == bool(example.images)
        inputs = image_inputs(model, processor.collate([encoded]), lean=False) or {}
        assert ("pixel_values" in inputs) == bool(example.images)
        for name, x in inputs.items():
            assert torch.equal(x.flatten(), plain[name].flatten())


def test_greedy_generation_is_hugging_faces_token_for_token(family, loaded, examples):
    model, processor = loaded
    banned = processor.banned().nonzero()[:, 0].tolist()
    rollout = generate(model, processor, examples, num_samples=2, max_new_tokens=20, temperature=0)
    for p, example in enumerate(examples):
        inputs = plain_inputs(processor, example)
        theirs = family[2].generate(**inputs, max_new_tokens=20, do_sample=False, suppress_tokens=banned)
        theirs = theirs[0, inputs["input_ids"].shape[1] :].tolist()
        for b in (2 * p, 2 * p + 1):
            assert rollout.tokens[b, : rollout.lengths[b]].tolist() == theirs


def test_logprobs_and_gradients_are_those_of_plain_forwards(family, loaded, examples):
    """The sampler's, the scorer's, and the gradient of every weight, those of the vision tower
    included."""
    model, processor = loaded
    rollout = generate(model, processor, examples, 3, 14, temperature=0.8, seed=1)
    assert len(set(rollout.lengths.tolist())) > 1
    plain = plain_logprobs(family[2], processor, rollout, examples)
    assert (plain - rollout.logprobs).abs().max() < 1e-4
    assert (plain - rollout_logprobs(model, rollout, 300)).abs().max() < 1e-4
    scored = token_logprobs(model, rollout)
    mask = rollout.mask
    assert ((plain - scored).abs() / plain.abs().clamp(min=1))[mask].max() < 1e-5
    weights = torch.randn(scored.shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = gradients(model, (scored * weights).sum()), gradients(family[2], (plain * weights).sum())
    assert ours.keys() == theirs.keys()
    noise = (
        1e-7 * torch.cat([g.flatten() for g in theirs.values()]).norm()
    )  # the bias of keys has no gradient but that
    for name, expected in theirs.items():
        assert (ours[name] - expected).norm() < 1e-4 * expected.norm() + noise, name
    seen = {name for name, p in model.named_parameters() if any(p is v for v in vision_parameters(model))}
    assert bool(seen & ours.keys()) == (family[0] in SEEING)


@pytest.mark.parametrize("family", ["gemma3", "gemma3_text"], indirect=True)
@pytest.mark.parametrize("way", ["kernel", "shared", "copied"])
def test_a_window_is_the_same_for_every_way_of_decoding(family, loaded, examples, monkeypatch, way):
    model, processor = loaded
    options = dict(num_samples=4, max_new_tokens=40, seed=2)
    monkeypatch.setattr(kv_cache, "BY_KERNEL", way == "kernel")
    monkeypatch.setattr(kv_cache, "COPY_UP_TO", 0 if way == "shared" else 10**6)
    rollout = generate(model, processor, examples, **options)
    assert rollout.lengths.max() > 30  # the window is past the prompt's end
    with torch.no_grad():
        assert (rollout.logprobs - plain_logprobs(family[2], processor, rollout, examples)).abs().max() < 1e-4


@pytest.mark.parametrize("family", SEEING, indirect=True)
def test_a_frozen_vision_tower_has_neither_gradient_nor_optimiser_state(family, loaded, examples, tmp_path):
    model, processor = loaded
    freeze_vision(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, fused=True)
    token_logprobs(model, generate(model, processor, examples, 2, 6)).sum().backward()
    optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name, p in model.named_parameters() if p.requires_grad}
    frozen = before.keys() - changed
    assert frozen and all(
        "language_model" not in n and "text_model" not in n and "lm_head" not in n for n in frozen
    )
    save_checkpoint(tmp_path / "step-1", model, processor, optimizer, {"step": 1})
    again = load_model(str(tmp_path / "step-1"))
    freeze_vision(again)
    resumed = torch.optim.AdamW([p for p in again.parameters() if p.requires_grad], lr=1e-2, fused=True)
    assert load_checkpoint(tmp_path / "step-1", again, resumed) == {"step": 1}
    assert len(resumed.state) == len(optimizer.state) == len(changed)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3_vl"], indirect=True)
def test_no_mask_is_built_for_packed_rows(family, loaded, examples, monkeypatch):
    """It would have as many entries as the row has tokens, squared."""
    model, processor = loaded

    def fail(*args, **kwargs):
        raise AssertionError("a mask was asked for")

    monkeypatch.setattr(transformers.masking_utils, "find_packed_sequence_indices", fail)
    assert torch.isfinite(token_logprobs(model, generate(model, processor, examples[2:3], 2, 4))).all()


def test_a_trained_step_is_saved_and_loads_in_plain_transformers(family, loaded, examples, tmp_path):
    name, folder, _ = family
    model, processor = loaded
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    token_logprobs(model, generate(model, processor, examples, 2, 6)).sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path / "step-1", model, processor, optimizer, {"step": 1})
    plain, again = plain_model(name, tmp_path / "step-1"), load_processor(str(tmp_path / "step-1"))
    assert again.eos_ids == processor.eos_ids
    for example in examples[:2]:
        assert again.encode(example).ids == processor.encode(example).ids
        inputs = plain_inputs(again, example)
        with torch.no_grad():
            model.set_attn_implementation("eager")
            assert torch.equal(plain(**inputs).logits, model(**inputs).logits)


# --- not for every family alone


@pytest.mark.parametrize("name", ["internvl", "gemma3"])
def test_bfloat16_in_shards_loads_generates_and_scores(tmp_path, mixed_examples, name):
    make_checkpoint(tmp_path, RECIPES[name])
    plain_model(name, tmp_path).to(torch.bfloat16).save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    load_processor(str(tmp_path)).save(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    model, processor = (
        load_model(str(tmp_path / "shards"), dtype=torch.bfloat16),
        load_processor(str(tmp_path / "shards")),
    )
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    rollout = generate(model, processor, mixed_examples, 2, 8)
    with torch.no_grad():
        assert (token_logprobs(model, rollout) - rollout.logprobs).abs().max() < 0.5
        exact = plain_logprobs(plain_model(name, tmp_path), processor, rollout, mixed_examples)
    assert 1e-6 < (exact - rollout.logprobs).abs().mean() < 0.2


def test_a_window_shorter_than_an_image_is_transformers_window(tmp_path, mixed_examples):
    recipe = RECIPES["gemma3"]
    text = recipe.options["text_config"] | dict(sliding_window=3)
    make_checkpoint(tmp_path, replace(recipe, options=recipe.options | dict(text_config=text)))
    processor = load_processor(str(tmp_path))
    rollout = generate(load_model(str(tmp_path)), processor, mixed_examples, 2, 10)
    with torch.no_grad():
        plain = plain_logprobs(plain_model("gemma3", tmp_path), processor, rollout, mixed_examples)
    assert (plain - rollout.logprobs).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("internvl", dict(image_seq_length=2)),
        ("internvl", dict(image_seq_length=8)),
        ("idefics3", dict(image_seq_len=2)),
        ("gemma3", dict(image_seq_length=3)),
        ("llava_onevision", dict(num_image_tokens=9)),
    ],
)
def test_image_tokens_that_are_not_as_many_as_features_are_refused(tmp_path, mixed_examples, name, settings):
    """Else the features of one question's picture would stand in another's places."""
    recipe = RECIPES[name]
    make_checkpoint(tmp_path, replace(recipe, settings=recipe.settings | settings))
    with pytest.raises(
        ModelError, match=r"its processor writes \d+ image tokens where the model has \d+ image features"
    ):
        generate(load_model(str(tmp_path)), load_processor(str(tmp_path)), mixed_examples, 2, 4)


@pytest.mark.parametrize(
    ("name", "token", "message"),
    [
        ("internvl", 7, "its processor writes no .*image_token_id 7"),
        ("qwen2_vl", 570, "no token 570, its config.json's image_token_id"),
        ("qwen3_vl", 570, "no token 570, its config.json's image_token_id"),
    ],
)
def test_an_image_token_that_the_processor_does_not_write_is_refused(tmp_path, name, token, message):
    make_checkpoint(tmp_path, RECIPES[name])
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"image_token_id": token}))
    with pytest.raises(ModelError, match=message):
        load_processor(str(tmp_path))


@pytest.mark.parametrize("name", ["internvl", "qwen2"])
def test_what_a_tokenizer_lacks_is_said_when_it_is_loaded(tmp_path, name, monkeypatch):
    make_checkpoint(tmp_path, RECIPES[name])
    said = "apply_chat_template requires jinja2"

    def lacks(*_, **__):
        raise ImportError(said)

    with monkeypatch.context() as patch:
        patch.setattr(
            "transformers.tokenization_utils_base.PreTrainedTokenizerBase.apply_chat_template", lacks
        )
        with pytest.raises(ModelError, match=f"its processor reads no question .{said}"):
            load_processor(str(tmp_path))
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="no tokenizer.json, so no tokenizer"):
        load_processor(str(tmp_path))


def refuse(folder: Path, change) -> str:
    config = json.loads((folder / "config.json").read_text())
    change(config, config.get("text_config", config))
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as found:
        load_model(str(folder))
    assert "\n" not in str(found.value)
    return str(found.value)


def test_what_is_not_served_is_refused_in_one_line(tmp_path):
    make_checkpoint(tmp_path, RECIPES["internvl"])
    assert "pixels" in str(pytest.raises(ModelError, load_processor, str(tmp_path), max_pixels=10_000).value)
    # each change on top of those before: the first that is found is named
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    assert "rotary embeddings of type dynamic" in refuse(
        tmp_path, lambda c, t: t.update(rope_parameters=rope)
    )
    windows = ["full_attention", "full_attention", "sliding_attention"]
    change = dict(layer_types=windows, use_sliding_window=True, sliding_window=8)
    assert "qwen2 with sliding windows is not served" in refuse(tmp_path, lambda c, t: t.update(change))
    assert "its decoder is mistral" in refuse(
        tmp_path, lambda c, t: t.update(model_type="mistral", head_dim=16)
    )
    assert "mllama is not served" in refuse(
        tmp_path, lambda c, t: c.update(model_type="mllama", text_config=None)
    )


def test_a_model_without_eyes_says_so_of_a_question_with_images(tmp_path, mixed_examples):
    make_checkpoint(tmp_path, RECIPES["qwen2"])
    with pytest.raises(ValueError, match="has images, and qwen2 reads none"):
        load_processor(str(tmp_path)).encode(mixed_examples[0])


@pytest.mark.parametrize(
    ("name", "token"),
    [("gemma3", "<image_soft_token>"), ("gemma3", "<start_of_image>"), ("internvl", "<IMG_CONTEXT>")],
)
def test_a_question_cannot_smuggle_in_image_tokens(tmp_path, mixed_examples, name, token):
    make_checkpoint(tmp_path, RECIPES[name])
    for images in (mixed_examples[0].images, ()):
        with pytest.raises(ValueError, match="holds the image token"):
            load_processor(str(tmp_path)).encode(Example("q", images, f"see {token} here"))
