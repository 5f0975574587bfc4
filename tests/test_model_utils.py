"""Generation and scoring against Hugging Face's own generate and plain forwards."""

from dataclasses import replace

import numpy as np
import torch
from plain_transformers import plain_inputs, plain_logprobs

from model.families import image_inputs
from model_utils import generate, load_model, micro_batches, rollout_logprobs, token_logprobs, uniforms

# --- generation


def test_greedy_generation_is_hugging_faces_token_for_token_run_twice(model, processor, mixed_examples):
    banned = processor.banned().nonzero()[:, 0].tolist()
    for _ in range(2):  # the second time on a model object that both have used
        rollout = generate(model, processor, mixed_examples, num_samples=2, max_new_tokens=24, temperature=0)
        for p, example in enumerate(mixed_examples):
            encoded = processor.encode(example)
            theirs = model.generate(
                **plain_inputs(model, processor, encoded),
                max_new_tokens=24,
                do_sample=False,
                suppress_tokens=banned,
            )[0, len(encoded.ids) :]
            for b in (2 * p, 2 * p + 1):
                n = int(rollout.lengths[b])
                assert rollout.tokens[b, :n].tolist() == theirs[:n].tolist()
                assert n == len(theirs)


def test_greedy_generation_is_hugging_faces_in_one_left_padded_batch(model, processor, mixed_examples):
    """The same, with Hugging Face's own batching."""
    encoded = [processor.encode(e) for e in mixed_examples]
    width = max(len(e.ids) for e in encoded)
    pad = processor.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(e.ids)) + e.ids for e in encoded])
    mask = torch.tensor([[0] * (width - len(e.ids)) + [1] * len(e.ids) for e in encoded])
    prompts = processor.collate(encoded)
    theirs = model.generate(
        input_ids=ids,
        attention_mask=mask,
        **image_inputs(model, prompts, lean=False),
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
        max_new_tokens=16,
        do_sample=False,
        suppress_tokens=processor.banned().nonzero()[:, 0].tolist(),
    )[:, width:]
    rollout = generate(model, processor, prompts, 1, 16, temperature=0)
    for row, n, other in zip(rollout.tokens, rollout.lengths.tolist(), theirs, strict=True):
        assert row[:n].tolist() == other[:n].tolist()


def test_the_samplers_logprobs_are_a_plain_forwards(model, processor, mixed_examples):
    rollout = generate(model, processor, mixed_examples, 4, 30, temperature=0.8, top_p=0.9, seed=1)
    assert len(set(rollout.lengths.tolist())) > 2  # rows end at different times, so that some were dropped
    with torch.no_grad():
        plain = plain_logprobs(model, processor, rollout, mixed_examples)
    assert (plain - rollout.logprobs).abs().max() < 1e-4
    assert (plain - rollout_logprobs(model, rollout, 4096)).abs().max() < 1e-4


def test_draws_depend_on_seed_step_question_and_sample_and_on_nothing_else(model, processor, mixed_examples):
    options = dict(num_samples=3, max_new_tokens=12, seed=5, step=7)
    together = generate(model, processor, mixed_examples, **options)
    backwards = generate(model, processor, mixed_examples[::-1], **options)
    alone = [generate(model, processor, [e], **options) for e in mixed_examples]
    narrow = generate(model, processor, mixed_examples, memory=1, **options)  # one question at a time
    for p in range(len(mixed_examples)):
        for g in range(3):
            n = int(together.lengths[3 * p + g])
            expected = together.tokens[3 * p + g, :n].tolist()
            for other, row in ((backwards, 3 * (4 - p) + g), (alone[p], g), (narrow, 3 * p + g)):
                assert other.tokens[row, : int(other.lengths[row])].tolist() == expected
    changed = generate(model, processor, mixed_examples, **options | {"step": 8})
    assert changed.tokens.tolist() != together.tokens.tolist()
    groups = together.tokens.view(5, 3, -1)
    assert not torch.equal(groups[:, 0], groups[:, 1])


def test_uniform_numbers_are_uniform_and_keyed():
    u = uniforms(0, 0, "q", 0, 100_000)
    assert 0 <= u.min() and u.max() < 1 and abs(u.mean() - 0.5) < 0.01 and abs(u.var() - 1 / 12) < 0.002
    assert np.array_equal(uniforms(0, 0, "q", 0, 5), u[:5])
    keys = [(1, 0, "q", 0), (0, 1, "q", 0), (0, 0, "r", 0), (0, 0, "q", 1), (0, 0, "0 q", 0), (0, 10, "q", 0)]
    assert len({uniforms(*key, 1)[0] for key in keys}) == len(keys)


def test_special_tokens_other_than_eos_are_never_sampled(model, processor, mixed_examples):
    banned = processor.banned()
    names = processor.tokenizer.convert_ids_to_tokens(banned.nonzero()[:, 0].tolist()[:12])
    assert "<|image_pad|>" in names and "<|im_start|>" in names
    assert not banned[list(processor.eos_ids)].any()
    assert banned[len(processor.tokenizer) :].all() and len(banned) == 512
    rollout = generate(model, processor, mixed_examples, 40, 40, temperature=3.0)
    assert not banned[rollout.tokens[rollout.mask]].any()


def test_responses_end_with_their_first_eos_or_at_the_limit(model, processor, mixed_examples):
    rollout = generate(model, processor, mixed_examples, 40, 40, temperature=2.0)
    eos = torch.tensor(processor.eos_ids)
    for row, n, finished in zip(
        rollout.tokens, rollout.lengths.tolist(), rollout.finished.tolist(), strict=True
    ):
        ends = torch.isin(row[:n], eos).nonzero()[:, 0].tolist()
        assert ends == ([n - 1] if finished else []) and (finished or n == 40)
    assert rollout.finished.any() and not rollout.finished.all()
    assert (rollout.logprobs[~rollout.mask] == 0).all()


def test_a_response_that_never_ends_stops_at_the_limit(model, processor, mixed_examples):
    rollout = generate(model, replace(processor, eos_ids=()), mixed_examples, 2, 9)
    assert rollout.lengths.tolist() == [9] * 10 and not rollout.finished.any()


# --- scoring


def test_packed_scoring_equals_plain_forwards_in_value_and_gradient(model, processor, mixed_examples):
    rollout = generate(model, processor, mixed_examples, 3, 12, temperature=0.9)
    weights = torch.randn(rollout.tokens.shape, generator=torch.Generator().manual_seed(0))
    gradients = []
    for logprobs in (
        token_logprobs(model, rollout),
        plain_logprobs(model, processor, rollout, mixed_examples),
    ):
        model.zero_grad()
        (logprobs * weights).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    packed, plain = gradients
    assert packed.keys() == plain.keys() and any("visual" in name for name in packed)
    for name, expected in plain.items():
        error = (packed[name] - expected).norm() / expected.norm().clamp(min=1e-6)
        assert error < 1e-5, (name, error)


def test_responses_of_one_token_and_single_samples_are_scored(model, processor, mixed_examples):
    for G, T in ((1, 1), (3, 1), (1, 5)):
        rollout = generate(model, processor, mixed_examples, G, T, temperature=0.9)
        with torch.no_grad():
            plain = plain_logprobs(model, processor, rollout, mixed_examples)
            assert (token_logprobs(model, rollout) - plain).abs().max() < 1e-4


def test_entropy_is_that_of_the_whole_distribution(model, processor, mixed_examples):
    rollout = generate(model, processor, mixed_examples[:1], 2, 6, temperature=0.7)
    with torch.no_grad():
        _, entropy = token_logprobs(model, rollout, with_entropy=True)
        encoded = processor.encode(mixed_examples[0])
        n = int(rollout.lengths[0])
        logits = model(**plain_inputs(model, processor, encoded, rollout.tokens[0, :n].tolist())).logits
    exact = torch.distributions.Categorical(logits=logits[0, len(encoded.ids) - 1 : -1] / 0.7).entropy()
    torch.testing.assert_close(entropy[0, :n], exact, rtol=0, atol=1e-4)


def test_micro_batches_hold_every_question_once_within_the_budget(model, processor, mixed_examples):
    rollout = generate(model, processor, mixed_examples, 2, 8)
    parts = micro_batches(rollout, range(5), 300)
    assert sorted(q for part in parts for q in part) == list(range(5)) and len(parts) > 1
    assert micro_batches(rollout, [3, 1], 1) == [[3], [1]]
    assert [len(p) for p in micro_batches(rollout, range(5), 10**6)] == [5]


# --- checkpoints


def test_bfloat16_products_with_float32_weights_generate_score_and_train(
    random_folder, processor, mixed_examples
):
    model = load_model(str(random_folder), compute=torch.bfloat16)
    rollout = generate(model, processor, mixed_examples, 2, 8)
    logprobs = token_logprobs(model, rollout)
    assert logprobs.dtype == torch.float32 and (logprobs - rollout.logprobs).abs().max() < 0.5
    exact = token_logprobs(load_model(str(random_folder)), rollout)
    assert 1e-6 < (logprobs - exact).abs().mean() < 0.1
    logprobs.sum().backward()
    assert all(
        p.grad.dtype == torch.float32 and p.grad.isfinite().all()
        for p in model.parameters()
        if p.grad is not None
    )


def test_bfloat16_weights_generate_and_score(random_folder, processor, mixed_examples):
    model = load_model(str(random_folder), dtype=torch.bfloat16)
    assert model.standard_decoder
    rollout = generate(model, processor, mixed_examples, 2, 8)
    with torch.no_grad():
        assert (token_logprobs(model, rollout) - rollout.logprobs).abs().max() < 0.5
