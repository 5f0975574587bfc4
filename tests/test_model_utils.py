"""Generation, scoring and checkpoints against Hugging Face's own generate, plain forwards and exact
distributions."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoTokenizer

from model import decode, kv_cache, layers, sampling
from model.checkpoint import is_whole
from model.families import image_inputs
from model.packed_attention import Layout, Sequences, packed_attention, packed_attention_by_rows
from model.sampling import bias_against, inverse_cdf, nucleus, sample_tokens
from model_utils import (
    ModelError,
    generate,
    latest_checkpoint,
    load_checkpoint,
    load_model,
    load_processor,
    micro_batches,
    recompute_activations,
    rollout_logprobs,
    save_checkpoint,
    token_logprobs,
    uniforms,
)


def plain_inputs(model, processor, encoded, response=None):
    """What transformers itself wants for one prompt, with a response appended."""
    ids = torch.tensor([encoded.ids + ([] if response is None else response)])
    if not encoded.vision:
        return {"input_ids": ids}
    vision = image_inputs(model, processor.collate([encoded]), lean=False)
    return {"input_ids": ids, "mm_token_type_ids": (ids == model.config.image_token_id).int(), **vision}


def plain_logprobs(model, processor, rollout, examples):
    """[B, T]: every [prompt | response] through the model on its own, unpacked and uncached."""
    rows = []
    for b, (row, n) in enumerate(zip(rollout.tokens, rollout.lengths.tolist(), strict=True)):
        encoded = processor.encode(examples[b // rollout.num_samples])
        response = row[:n].tolist()
        logits = model(**plain_inputs(model, processor, encoded, response), use_cache=False).logits[
            0, len(encoded.ids) - 1 : -1
        ]
        logprobs = (logits.double() / (rollout.temperature or 1.0)).log_softmax(-1)
        picked = logprobs.gather(-1, row[:n, None])[:, 0]
        rows.append(torch.cat([picked, picked.new_zeros(len(row) - n)]))
    return torch.stack(rows)


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


@pytest.mark.parametrize("way", ["kernel", "own forward", "shared", "copied", "refilled"])
def test_every_way_of_decoding_gives_the_same_tokens(model, processor, mixed_examples, monkeypatch, way):
    """As on a GPU; through a decoder of unknown parts; with prompts shared or copied into rows;
    with questions that join."""
    options = dict(num_samples=8, max_new_tokens=40, temperature=1.5, seed=2)
    expected = generate(model, processor, mixed_examples, **options)
    assert len(set(expected.lengths.tolist())) > 4  # rows leave at different times
    if way == "kernel":
        monkeypatch.setattr(kv_cache, "BY_KERNEL", True)
    elif way == "own forward":
        assert model.standard_decoder
        monkeypatch.setattr(model, "standard_decoder", False)
    elif way == "refilled":
        monkeypatch.setattr(decode, "REFILL_BELOW", 0.9)
        monkeypatch.setattr(kv_cache, "COPY_UP_TO", 0)
        options["memory"] = 1_100_000
    else:
        monkeypatch.setattr(kv_cache, "COPY_UP_TO", 0 if way == "shared" else 10**6)
    batches = count_calls(monkeypatch, decode.DecodeBatch, "__init__")
    together = count_calls(monkeypatch, decode.DecodeStep, "__call__", lambda self, batches: len(batches))
    found = generate(model, processor, mixed_examples, **options)
    if way == "refilled":
        assert len(batches) > 2 and max(together) > 1
    assert torch.equal(found.lengths, expected.lengths) and torch.equal(found.finished, expected.finished)
    assert torch.equal(found.tokens, expected.tokens)
    assert (found.logprobs - expected.logprobs).abs().max() < 1e-5


def count_calls(monkeypatch, cls, name, what=lambda *args: 1) -> list:
    """Every call of cls.name from now on, as what(*args) says of it."""
    calls, plain = [], getattr(cls, name)

    def counted(*args, **kwargs):
        calls.append(what(*args[: what.__code__.co_argcount] if what.__code__.co_argcount else ()))
        return plain(*args, **kwargs)

    monkeypatch.setattr(cls, name, counted)
    return calls


def test_a_decoder_that_steps_differently_is_found_out(random_folder, processor, mixed_examples, monkeypatch):
    """Its own forward is then what decodes."""
    monkeypatch.setattr(layers, "rms_norm", lambda module: lambda x: 1.1 * module(x))
    model = load_model(str(random_folder))
    assert not model.standard_decoder
    monkeypatch.undo()
    assert load_model(str(random_folder)).standard_decoder
    rollout = generate(model, processor, mixed_examples, 2, 12)
    with torch.no_grad():
        assert (rollout.logprobs - token_logprobs(model, rollout)).abs().max() < 1e-4


def test_weights_that_are_multiplied_together_are_one_matrix_without_a_copy(random_folder):
    model = load_model(str(random_folder))
    for part in model.model.language_model.layers:  # already read to where they are wanted
        for linears in layers.together(part):
            assert layers.view_of([linear.weight for linear in linears]) is not None
            assert len({linear.weight.untyped_storage().nbytes() for linear in linears}) == 1
    layer, part = layers.fused_layers(model)[0], model.model.language_model.layers[0]
    assert layer.qkv[0].data_ptr() == part.self_attn.q_proj.weight.data_ptr()
    with torch.no_grad():
        part.self_attn.v_proj.weight.add_(1)  # training in place trains the view
        part.mlp.up_proj.weight.mul_(2)
    assert torch.equal(layer.qkv[0], torch.cat([getattr(part.self_attn, f"{n}_proj").weight for n in "qkv"]))
    assert torch.equal(layer.gate_up[0], torch.cat([part.mlp.gate_proj.weight, part.mlp.up_proj.weight]))


def test_greedy_generation_is_hugging_faces_in_one_left_padded_batch(model, processor, mixed_examples):
    """The same, with Hugging Face's own batching."""
    encoded = [processor.encode(e) for e in mixed_examples]
    width = max(len(e.ids) for e in encoded)
    pad = processor.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(e.ids)) + e.ids for e in encoded])
    mask = torch.tensor([[0] * (width - len(e.ids)) + [1] * len(e.ids) for e in encoded])
    prompts = processor.collate(encoded)
    theirs = model.generate(
        input_ids=ids, attention_mask=mask, **image_inputs(model, prompts, lean=False),
        mm_token_type_ids=(ids == model.config.image_token_id).int(), max_new_tokens=16, do_sample=False,
        suppress_tokens=processor.banned().nonzero()[:, 0].tolist(),
    )[:, width:]  # fmt: skip
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


def chi_square(counts: torch.Tensor, probs: torch.Tensor) -> tuple[float, float]:
    """(statistic, a bound it exceeds once in ten thousand draws of a right sampler)."""
    expected = probs * counts.sum()
    big = expected >= 5
    seen = torch.cat([counts[big], counts[~big].sum()[None]]).double()
    wanted = torch.cat([expected[big], expected[~big].sum()[None]]).double()
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    k = len(seen) - 1
    return ((seen - wanted) ** 2 / wanted).sum().item(), k + 3.72 * (2 * k) ** 0.5 + 10


@pytest.mark.parametrize("V", [200, 3000])  # on either side of SMALL_VOCABULARY
@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 0.8), (0.7, 0.5)]
)
def test_frequencies_pass_a_chi_square_test_against_the_exact_distribution(temperature, top_p, V):
    torch.manual_seed(3)
    N = 100_000
    logits = torch.randn(V) * 2
    banned = torch.zeros(V, dtype=torch.bool)
    banned[[0, 50, V - 1]] = True
    u = torch.rand(N, dtype=torch.float64)
    tokens, logprobs = sample_tokens(logits.expand(N, V), u, temperature, top_p, bias_against(banned))
    full = (logits.double() / temperature).softmax(-1)
    exact = full.masked_fill(banned, 0)
    if top_p < 1:  # the exact nucleus, by a loop
        total, mass, inside = exact.sum(), 0.0, []
        for i in exact.argsort(descending=True).tolist():
            if mass >= top_p * total:
                break
            inside.append(i)
            mass += exact[i]
        cut = torch.zeros_like(exact)
        cut[inside] = exact[inside]
        exact = cut
    exact = exact / exact.sum()
    counts = tokens.bincount(minlength=V)
    assert counts[exact == 0].sum() == 0
    statistic, bound = chi_square(counts, exact)
    assert statistic < bound
    torch.testing.assert_close(logprobs.double(), full.log()[tokens], rtol=0, atol=1e-5)


def test_generated_first_tokens_pass_a_chi_square_test(model, processor, mixed_examples):
    """The same through the whole of generate: 4,000 samples of one question against a plain
    forward."""
    example = mixed_examples[0]
    rollout = generate(model, processor, [example], 4000, 1, temperature=1.3)
    encoded = processor.encode(example)
    with torch.no_grad():
        logits = model(**plain_inputs(model, processor, encoded)).logits[0, -1].double()
    exact = (logits / 1.3).softmax(-1).masked_fill(processor.banned(), 0)
    statistic, bound = chi_square(rollout.tokens[:, 0].bincount(minlength=len(exact)), exact / exact.sum())
    assert statistic < bound


@pytest.mark.parametrize("V", [8, 3000])
def test_inverse_cdf_never_lands_on_a_token_without_mass(V):
    logits = torch.full((3, V), -torch.inf)
    logits[:, 2:4] = 0.0
    u = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert sample_tokens(logits, u, 1.0, 1.0, torch.zeros(V))[0].tolist() == [2, 3, 3]


def test_both_ways_of_inverting_a_cdf_choose_the_same_tokens(monkeypatch):
    torch.manual_seed(0)
    weights, u = torch.rand(2000, 300), torch.rand(2000, dtype=torch.float64)
    small = inverse_cdf(weights, u)
    monkeypatch.setattr(sampling, "SMALL_VOCABULARY", 0)
    assert torch.equal(small, inverse_cdf(weights, u))


@pytest.mark.parametrize("V", [300, 3000])
def test_a_banned_token_with_all_the_mass_leaves_the_others_their_shares(V):
    """At a low temperature the others' probabilities underflow; NaN logits give some token, not an
    index error."""
    logits = torch.zeros(4000, V)
    logits[:, 7] = 50.0
    logits[:, 3] = 0.1
    bias = bias_against(torch.arange(V) == 7)
    tokens, _ = sample_tokens(logits, torch.rand(4000, dtype=torch.float64), 0.1, 1.0, bias)
    share = torch.e / (torch.e + V - 2)
    assert not (tokens == 7).any() and abs((tokens == 3).float().mean() - share) < 5 * (share / 4000) ** 0.5
    tokens, _ = sample_tokens(logits * torch.nan, torch.rand(4000, dtype=torch.float64), 1.0, 1.0, bias)
    assert (tokens >= 0).all() and (tokens < V).all()


def test_the_nucleus_is_the_smallest_set_that_holds_the_mass():
    probs = torch.tensor([[0.1, 0.4, 0.3, 0.2]])
    assert (nucleus(probs, 0.7) > 0).tolist() == [[False, True, True, False]]
    assert (nucleus(probs, 0.71) > 0).tolist() == [[False, True, True, True]]
    assert (nucleus(probs, 0.01) > 0).tolist() == [[False, True, False, False]]


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
        + " Please reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n<|im_start|>assistant\n"
    )


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


@pytest.mark.parametrize("attend", [packed_attention, packed_attention_by_rows])
@pytest.mark.parametrize("ragged", [True, False])
def test_packed_attention_equals_a_loop_over_sequences_in_value_and_gradient(attend, ragged):
    """float64: each [prompt | response] on its own, softmax written out."""
    torch.manual_seed(1)
    P, G, H, R, d = 3, 4, 2, 3, 8
    prompts = torch.tensor([7, 3, 5] if ragged else [6] * P)
    responses = torch.tensor([5, 0, 2, 1, 0, 0, 0, 0, 4, 40, 17, 3] if ragged else [4] * P * G)
    layout = Layout(Sequences(prompts), Sequences(responses), torch.arange(P).repeat_interleave(G))
    N = int(prompts.sum() + responses.sum())
    inputs = [torch.randn(N, heads, d, dtype=torch.float64, requires_grad=True) for heads in (H * R, H, H)]
    weight = torch.randn(N, H * R, d, dtype=torch.float64)
    found = attend(*inputs, layout, 0.3)
    (found * weight).sum().backward()
    gradients = [x.grad for x in inputs]
    # the queries to a prompt are padded to the most that one prompt has, and no further
    assert layout.reads(H, R)[1].queries.shape[2] == responses.view(P, G).sum(1).max()

    plain = [x.detach().clone().requires_grad_() for x in inputs]
    query, key, value = plain[0], *(x.repeat_interleave(R, 1) for x in plain[1:])
    ends, starts = prompts.cumsum(0), int(prompts.sum()) + responses.cumsum(0) - responses
    expected = torch.zeros_like(weight)
    for p in range(P):
        own = [range(int(ends[p] - prompts[p]), int(ends[p]))]
        own += [
            [*own[0], *range(int(starts[b]), int(starts[b] + responses[b]))] for b in range(p * G, p * G + G)
        ]
        for tokens in own:
            for i, t in enumerate(tokens):
                read = list(tokens[: i + 1])
                scores = torch.einsum("hd,shd->hs", query[t], key[read]) * 0.3
                expected = expected.index_put(
                    (torch.tensor([t]),), torch.einsum("hs,shd->hd", scores.softmax(-1), value[read])[None]
                )
    assert (found - expected).abs().max() < 1e-12
    (expected * weight).sum().backward()
    for got, x in zip(gradients, plain, strict=True):
        assert (got - x.grad).abs().max() < 1e-12


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


@pytest.fixture
def trained(model, processor, mixed_examples):
    """A model and optimiser after one step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    token_logprobs(model, generate(model, processor, mixed_examples, 2, 6)).sum().backward()
    optimizer.step()
    return model, optimizer


def save(folder, processor, trained, step, **options):
    save_checkpoint(folder / f"step-{step}", trained[0], processor, trained[1], {"step": step}, **options)


def test_a_checkpoint_gives_back_model_and_optimiser_exactly(tmp_path, processor, trained):
    save(tmp_path, processor, trained, 3)
    folder = latest_checkpoint(tmp_path)
    model = load_model(str(folder))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    assert load_checkpoint(folder, model, optimizer)["step"] == 3
    for (name, p), (_, q) in zip(model.named_parameters(), trained[0].named_parameters(), strict=True):
        assert torch.equal(p, q), name
        for key, value in trained[1].state[q].items():
            assert torch.equal(optimizer.state[p][key], value), (name, key)


def test_a_saved_checkpoint_loads_in_plain_transformers_with_the_same_logits(
    tmp_path, processor, trained, mixed_examples
):
    save(tmp_path, processor, trained, 1)
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "step-1")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "step-1")
    assert tokenizer.chat_template == processor.tokenizer.chat_template
    assert load_processor(str(tmp_path / "step-1")).eos_ids == processor.eos_ids
    inputs = plain_inputs(plain, processor, processor.encode(mixed_examples[1]))
    with torch.no_grad():
        assert torch.equal(plain(**inputs).logits, trained[0](**inputs).logits)


def test_older_checkpoints_go_once_a_newer_one_is_whole(tmp_path, processor, trained):
    for step in (9, 10, 11):
        save(tmp_path, processor, trained, step, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-10", "step-11"]


def test_a_broken_checkpoint_of_a_later_step_never_pushes_out_a_good_one(tmp_path, processor, trained):
    save(tmp_path, processor, trained, 20)
    save(tmp_path, processor, trained, 30)
    (tmp_path / "step-30" / "model.safetensors").unlink()
    save(tmp_path, processor, trained, 21, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-21"] and latest_checkpoint(
        tmp_path
    ).name == "step-21"


@pytest.mark.parametrize("damage", ["truncate", "delete", "no list", "empty list", "partial", "header"])
def test_a_half_written_checkpoint_is_passed_over(tmp_path, processor, trained, damage):
    save(tmp_path, processor, trained, 1)
    save(tmp_path, processor, trained, 2)
    newest = tmp_path / "step-2"
    weights = newest / "model.safetensors"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "header":
        weights.write_bytes(b"\xff" * weights.stat().st_size)
    elif damage == "delete":
        (newest / "optimizer.safetensors").unlink()
    elif damage == "no list":
        (newest / "trainer.json").unlink()
    elif damage == "empty list":
        (newest / "trainer.json").write_text('{"step": 2, "fi')
    else:
        shutil.move(newest, tmp_path / "step-2.partial")
    assert latest_checkpoint(tmp_path).name == "step-1"
    save(tmp_path, processor, trained, 2)  # its place can be written again
    assert latest_checkpoint(tmp_path).name == "step-2"


def test_nothing_in_a_checkpoint_is_pickled(tmp_path, processor, trained):
    save(tmp_path, processor, trained, 1)
    for file in (tmp_path / "step-1").iterdir():
        if file.suffix == ".safetensors":
            load_file(file)
        elif file.suffix == ".json":
            json.loads(file.read_text())
        else:
            assert file.name == "chat_template.jinja"
    assert is_whole(tmp_path / "step-1")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: shutil.rmtree(f), "no such folder"),
        (lambda f: (f / "model.safetensors").unlink(), r"no \*.safetensors, so no weights"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "pickled .bin weights are never loaded",
        ),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "model.safetensors").write_bytes(b"short"), "--model"),
        (
            lambda f: (f / "config.json").write_text('{"model_type": "gpt2", "vocab_size": 8}'),
            "gpt2 is not served",
        ),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_named_in_one_line(tmp_path, random_folder, break_it, message):
    folder = tmp_path / "m"
    shutil.copytree(random_folder, folder)
    break_it(folder)
    with pytest.raises(ModelError, match=message) as error:
        load_model(str(folder))
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_lacks_a_weight_is_refused(tmp_path, random_folder):
    folder = tmp_path / "m"
    shutil.copytree(random_folder, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.self_attn.k_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="1 weights are missing"):
        load_model(str(folder))


def test_of_two_saves_in_one_folder_the_single_file_is_read_as_transformers_does(tmp_path, random_folder):
    shutil.copytree(random_folder, tmp_path / "m")
    model = load_model(str(random_folder))
    with torch.no_grad():
        model.lm_head.weight.zero_()
    model.save_pretrained(tmp_path / "m", max_shard_size="50KB")
    assert (tmp_path / "m" / "model.safetensors.index.json").exists()
    ours, theirs = (
        load_model(str(tmp_path / "m")),
        AutoModelForImageTextToText.from_pretrained(tmp_path / "m"),
    )
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    next((tmp_path / "m").glob("model-*.safetensors")).unlink()  # of no account
    assert load_model(str(tmp_path / "m")).lm_head.weight.any()


def test_a_weight_of_another_shape_is_named(tmp_path, random_folder):
    shutil.copytree(random_folder, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["text_config"]["intermediate_size"] += 8
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"mlp.\w+.weight is \[.*\] in its file, \[.*\] by its config.json"):
        load_model(str(tmp_path / "m"))


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


def test_a_family_that_no_test_covers_is_refused(tmp_path, random_folder):
    folder = tmp_path / "m"
    shutil.copytree(random_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["layer_types"] = ["full_attention", "sliding_attention"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="is not served"):
        load_model(str(folder))


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path, random_folder):
    folder = tmp_path / "m"
    shutil.copytree(random_folder, folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        load_processor(str(folder))


def test_recomputed_activations_give_the_same_gradients(random_folder, processor, mixed_examples):
    found = []
    for recompute in (False, True):
        model = load_model(str(random_folder))
        if recompute:
            recompute_activations(model)
        rollout = generate(model, processor, mixed_examples, num_samples=2, max_new_tokens=6)
        model.train()
        token_logprobs(model, rollout).sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    assert found[0]["model.visual.patch_embed.proj.weight"].abs().max() > 0
    for name, grad in found[0].items():
        assert torch.allclose(grad, found[1][name], rtol=1e-4, atol=1e-4 * grad.abs().max()), name
