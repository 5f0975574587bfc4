"""LoRA: what trains, what the reference is, what is saved, and that peft and plain transformers
read it alike."""

import json
import shutil
import sys

import pytest
import torch
from families_made import RECIPES, SEEING, make_checkpoint, plain_model
from lora_made import LORA, ONE, adapted, plain_logits, sampled
from running import rows, run, without_times

import mmupt
import model_utils
from data import TINY, Example
from mmupt import Config, logprobs_before
from model import lora
from model.families import embed, text_model
from model.layers import fused_layers, linear_of
from model_utils import (
    ModelError,
    generate,
    latest_checkpoint,
    load_model,
    load_models,
    load_processor,
    recompute_activations,
    rollout_logprobs,
    token_logprobs,
)
from programs import merge_adapter

peft = pytest.importorskip("peft", reason="pip install peft")


# --- what trains


def test_the_adapter_is_on_every_projection_of_the_decoder_and_nowhere_else():
    policy, _ = adapted()
    trainable = [n for n, p in policy.named_parameters() if p.requires_grad]
    layers = policy.config.text_config.num_hidden_layers
    assert len(trainable) == layers * 7 * 2
    assert all(".language_model.layers." in n and ".lora_" in n for n in trainable)


def test_a_step_changes_the_adapter_alone(mixed_examples):
    policy, reference = adapted(lr=1e-2)
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    rollout = sampled(policy, mixed_examples)
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], 1e-2)
    for _ in range(2):  # in the first step A has no gradient, since B is zero
        (
            token_logprobs(policy, rollout) * torch.linspace(-1, 1, len(rollout.lengths))[:, None]
        ).sum().backward()
        assert all((p.grad is not None) == (".lora_" in n) for n, p in policy.named_parameters())
        optimizer.step()
        optimizer.zero_grad()
    for name, p in policy.named_parameters():
        assert torch.equal(before[name], p) == (".lora_" not in name), name


def test_the_adapter_is_the_same_for_a_seed_and_takes_nothing_from_other_draws():
    torch.manual_seed(5)
    one, _ = adapted()
    after = torch.rand(1)
    torch.manual_seed(6)
    two, _ = adapted()
    other, _ = adapted(seed=1)
    weights = [dict(m.named_parameters()) for m in (one, two, other)]
    name = next(n for n in weights[0] if ".lora_A" in n)
    assert torch.equal(weights[0][name], weights[1][name]) and not torch.equal(
        weights[0][name], weights[2][name]
    )
    torch.manual_seed(5)
    load_model(str(TINY))
    assert torch.equal(after, torch.rand(1))


def test_the_base_stays_in_the_dtype_of_products_and_the_adapter_in_float32(mixed_examples):
    policy, reference = adapted(dtype="bfloat16", noise=0.03)
    assert {p.dtype for n, p in policy.named_parameters() if ".lora_" in n} == {torch.float32}
    assert {p.dtype for n, p in policy.named_parameters() if ".lora_" not in n} == {torch.bfloat16}
    rollout = sampled(policy, mixed_examples)
    logprobs = token_logprobs(policy, rollout)
    logprobs.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters() if p.requires_grad)
    difference = (logprobs - rollout.logprobs)[rollout.mask].abs()
    assert difference.mean() < 0.05


# --- the reference


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_at_the_start_policy_and_reference_are_one_and_the_same(mixed_examples, dtype):
    policy, reference = adapted(dtype=dtype)
    rollout = sampled(policy, mixed_examples)
    _, ref = logprobs_before(Config(lora_rank=4, tokens_per_forward=10_000), policy, reference, rollout)
    assert torch.equal(rollout_logprobs(policy, rollout, 10_000), ref)


def test_the_reference_is_the_base_checkpoint_however_far_the_adapter_is(mixed_examples):
    policy, reference = adapted(noise=0.03)
    rollout = sampled(policy, mixed_examples)
    _, ref = logprobs_before(Config(lora_rank=4, tokens_per_forward=10_000), policy, reference, rollout)
    assert torch.equal(ref, rollout_logprobs(load_model(str(TINY)), rollout, 10_000))
    assert (rollout_logprobs(policy, rollout, 10_000) - ref).abs().max() > 0.1  # and is back on, and trains
    assert any(p.requires_grad for p in policy.parameters())


def test_one_model_is_loaded_and_no_reference_where_beta_is_zero(tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        model_utils,
        "load_model",
        lambda *a, load=model_utils.load_model, **k: loaded.append(a) or load(*a, **k),
    )
    assert run(tmp_path / "with", steps=2, reward="random", **LORA) == 0
    assert run(tmp_path / "without", steps=2, reward="random", beta=0.0, **LORA) == 0
    assert len(loaded) == 2
    assert all("kl" in r for r in rows(tmp_path / "with"))
    assert not any("kl" in r for r in rows(tmp_path / "without"))


def test_ten_steps_log_sensible_figures(lora_run):
    log = rows(lora_run)
    assert len(log) == 10 and abs(log[0]["kl"]) < 1e-10 and log[-1]["kl"] > 1e-4
    assert all(
        r["nonfinite_updates"] == 0 and 0 < r["grad_norm"] < 100 and abs(r["approx_kl"]) < 1e-4 for r in log
    )


# --- sampling


@pytest.mark.parametrize("usual", [True, False])
def test_the_samplers_logprobs_are_the_trainers(mixed_examples, usual):
    """By merged copies in the lean layers, and by the decoder's own forward."""
    policy, _ = adapted(noise=0.03)
    assert policy.standard_decoder
    policy.standard_decoder = usual
    rollout = sampled(policy, mixed_examples)
    with torch.no_grad():
        scored = token_logprobs(policy, rollout)
    assert (scored - rollout.logprobs).abs().max() < 1e-4
    base = load_model(str(TINY))
    assert (rollout_logprobs(base, rollout, 10_000) - rollout.logprobs).abs().max() > 0.1


def test_with_the_adapter_off_the_base_is_sampled_from_its_own_weights(mixed_examples):
    policy, _ = adapted(noise=0.03)
    expected = sampled(load_model(str(TINY)), mixed_examples)
    with lora.adapter_off(policy):
        assert torch.equal(sampled(policy, mixed_examples).tokens, expected.tokens)
        address = policy.model.language_model.layers[0].self_attn.q_proj.base_layer.weight.data_ptr()
        assert fused_layers(policy)[0].qkv[0].data_ptr() == address  # no copy
    merged = linear_of([policy.model.language_model.layers[0].mlp.down_proj], torch.float32).weight
    down = policy.model.language_model.layers[0].mlp.down_proj
    A, B = down.lora_A["default"].weight, down.lora_B["default"].weight
    assert torch.allclose(merged, down.base_layer.weight + 2 * (B @ A), atol=1e-6)


def test_gradient_checkpointing_gives_the_same_gradients(mixed_examples):
    found = []
    for checkpointing in (False, True):
        policy, _ = adapted(noise=0.03)
        if checkpointing:
            recompute_activations(policy)
        rollout = sampled(policy, mixed_examples)
        policy.train()
        assert not embed(policy, rollout.prompts.ids, rollout.prompts)[
            "inputs_embeds"
        ].requires_grad  # nor the tower
        token_logprobs(policy, rollout).sum().backward()
        found.append([p.grad for p in policy.parameters() if p.requires_grad])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*found, strict=True))


# --- what is saved


def test_a_checkpoint_is_an_adapter_that_plain_peft_loads_with_the_same_logits(lora_run):
    from transformers import Qwen2_5_VLForConditionalGeneration

    folder = lora_run / "checkpoints" / "step-10"
    names = {p.name for p in folder.iterdir()}
    assert {
        "adapter_model.safetensors",
        "adapter_config.json",
        "tokenizer.json",
        "preprocessor_config.json",
    } <= names
    assert {"optimizer.safetensors", "trainer.json"} <= names and not {
        "model.safetensors",
        "config.json",
    } & names
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(TINY)

    prompts = torch.arange(10, 40)[None]
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(TINY, attn_implementation="eager")
    base = plain_logits(plain, prompts)
    theirs = plain_logits(peft.PeftModel.from_pretrained(plain, str(folder)), prompts)
    config = Config(model=str(TINY), **LORA)
    ours, _ = load_models(config, folder, ONE)
    ours.set_attn_implementation("eager")
    assert torch.equal(plain_logits(ours, prompts), theirs)
    assert (theirs - base).abs().max() > 0.01


def test_saving_asks_no_hub_about_the_base(tmp_path, monkeypatch):
    def asked(*_, **__):
        raise AssertionError("the network")

    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", asked)
    model = load_model(str(TINY))
    lora.add_adapter(model, "nobody/base", 4, seed=0)
    model.save_pretrained(tmp_path)
    lora.fill_adapter(model, tmp_path)
    assert (
        json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "nobody/base"
    )


@pytest.mark.parametrize("beta", [0.01, 0.0])
def test_a_resumed_run_is_the_run_never_stopped(tmp_path, beta):
    options = LORA | {"beta": beta, "reward": "random", "minibatch_questions": 2}
    assert run(tmp_path / "whole", steps=4, **options) == 0
    assert run(tmp_path / "parts", steps=2, **options) == 0
    assert run(tmp_path / "parts", steps=4, resume=True, **options) == 0
    found = [
        [
            (tmp_path / name / "checkpoints" / "step-4" / file).read_bytes()
            for file in ("adapter_model.safetensors", "optimizer.safetensors", "adapter_config.json")
        ]
        for name in ("whole", "parts")
    ]
    assert found[0] == found[1]
    assert [without_times(r) for r in rows(tmp_path / "whole")] == [
        without_times(r) for r in rows(tmp_path / "parts")
    ]


def test_a_half_written_adapter_is_passed_over(lora_run, tmp_path):
    shutil.copytree(lora_run / "checkpoints" / "step-9", tmp_path / "step-9")
    shutil.copytree(lora_run / "checkpoints" / "step-10", tmp_path / "step-10")
    assert latest_checkpoint(tmp_path).name == "step-10"
    weights = tmp_path / "step-10" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert latest_checkpoint(tmp_path).name == "step-9"


# --- every family


@pytest.mark.parametrize("name", RECIPES)
def test_every_family_trains_adapters_of_its_decoder(name, tmp_path, mixed_examples):
    make_checkpoint(tmp_path / "base", RECIPES[name])
    policy, reference = adapted(tmp_path / "base", noise=0.03)
    decoder = {id(p) for p in text_model(policy).parameters()}
    trainable = [p for p in policy.parameters() if p.requires_grad]
    assert len(trainable) == 2 * 7 * len(text_model(policy).layers) and all(
        id(p) in decoder for p in trainable
    )

    processor = load_processor(str(tmp_path / "base"))
    examples = mixed_examples if name in SEEING else [Example("text", (), "What is 3 + 4?")]
    rollout = generate(policy, processor, examples, 3, 8)
    scored = token_logprobs(policy, rollout)
    assert (scored - rollout.logprobs).abs().max() < 1e-4
    scored.sum().backward()
    assert all(p.grad.abs().max() > 0 for p in trainable)
    _, ref = logprobs_before(Config(lora_rank=4, tokens_per_forward=10_000), policy, reference, rollout)
    assert torch.equal(ref, rollout_logprobs(load_model(str(tmp_path / "base")), rollout, 10_000))

    (tmp_path / "a").mkdir()
    policy.save_pretrained(tmp_path / "a")
    plain, prompts = plain_model(name, tmp_path / "base"), torch.arange(10, 40)[None]
    theirs = plain_logits(peft.PeftModel.from_pretrained(plain, str(tmp_path / "a")), prompts)
    assert merge_adapter.main(["--adapter", str(tmp_path / "a"), "--out", str(tmp_path / "merged")]) == 0
    merged = plain_logits(plain_model(name, tmp_path / "merged").double(), prompts)
    assert (merged - theirs.double()).abs().max() < 1e-5 * merged.abs().max()
    policy.set_attn_implementation("eager")
    assert torch.equal(plain_logits(policy, prompts), theirs)


# --- mistakes


def test_peft_missing_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelError) as error:
        run(tmp_path / "r", **LORA)
    assert str(error.value) == "--lora_rank needs peft: pip install peft"
    assert not (tmp_path / "r").exists()
    assert run(tmp_path / "r", steps=1) == 0  # nothing else wants it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_rank": -1}, "--lora_rank must be 0 or more"),
        ({"lora_alpha": 8}, "unknown flag --lora_alpha"),
    ],
)
def test_a_users_mistake_names_the_flag(tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as error:
        run(tmp_path / "r", **LORA | options)
    assert "\n" not in str(error.value) and not (tmp_path / "r").exists()


def test_a_run_keeps_its_adapter_settings(lora_run):
    with pytest.raises(mmupt.cli.UsageError, match="--lora_rank was .* and can't change on --resume"):
        mmupt.main(["--resume", "--out", str(lora_run), "--lora_rank", "8"])


def test_an_adapter_where_a_checkpoint_is_wanted_says_how_to_merge_it(lora_run):
    with pytest.raises(
        ModelError,
        match="a LoRA adapter; first: python -m programs.merge_adapter --adapter .*step-10 --out FOLDER",
    ):
        load_model(str(lora_run / "checkpoints" / "step-10"))


def test_an_adapter_stands_beside_bfloat16_weights_and_is_not_rounded_into_them():
    """W + BA in bfloat16 is W wherever BA is under half a step: such a policy would be sampled as
    its base."""
    policy, reference = adapted(dtype="bfloat16", noise=1e-5)
    part = policy.model.language_model.layers[0]
    projections = [getattr(part.self_attn, f"{n}_proj") for n in "qkv"]
    layer = fused_layers(policy)[0]
    assert layer.qkv.weight.data_ptr() == projections[0].weight.data_ptr()  # no copy
    added, delta = (
        (layer.qkv.low.float().t() @ layer.qkv.high.float()).t(),
        torch.cat([m.get_delta_weight("default") for m in projections]),
    )
    assert (added - delta).norm() <= 2**-8 * delta.norm() and delta.norm() > 0
    assert ((layer.qkv.weight.float() + delta).bfloat16() == layer.qkv.weight).float().mean() > 0.9
    with reference() as base:
        assert fused_layers(base)[0].qkv.low is None
    assert fused_layers(adapted(noise=1e-5)[0])[0].qkv.low is None  # in float32 it is merged


def test_in_bfloat16_sampler_and_trainer_are_equally_near_to_float32(mixed_examples):
    """The sampler takes the fused layers, and rounds no more than peft's own forward does."""
    policy, reference = adapted(dtype="bfloat16", noise=0.03)
    rollout = sampled(policy, mixed_examples, seed=1)
    scored = rollout_logprobs(policy, rollout, 10_000)
    with reference() as base:
        of_base = rollout_logprobs(base, rollout, 10_000)
        by_base = sampled(base, mixed_examples, seed=1)
        assert (rollout_logprobs(base, by_base, 10_000) - by_base.logprobs).abs().mean() < 0.02
    exact = rollout_logprobs(policy.float(), rollout, 10_000)
    fused, theirs, adapter = (
        (x - exact)[rollout.mask].square().mean().sqrt() for x in (rollout.logprobs, scored, of_base)
    )
    assert fused < 1.5 * theirs and 8 * theirs < adapter
