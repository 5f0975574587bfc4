"""The paths that a GPU alone takes, against the CPU's, on one GPU.

    pytest tests/test_gpu.py                              on a machine with a GPU
    MMUPT_GPU_TESTS_ON=cpu pytest tests/test_gpu.py       every body on the CPU too, decoding as a GPU does

The second finds a typo where there is no GPU; what is CUDA's alone is skipped there. Without it a
machine without a GPU skips all.
"""

import os
import subprocess
from contextlib import contextmanager
from dataclasses import replace

import conftest
import pytest
import torch
from families_made import RECIPES, SEEING, make_checkpoint
from lora_made import adapted
from running import rows, run

import mmupt
from bench.gpu_kit import graph_off, graph_replays
from common.distributed import World
from common.run_log import Meter
from data import HELD_OUT, TINY, Example
from model import decode, kv_cache
from model.families import with_positions
from model.packed_attention import Layout, Sequences, packed_attention, packed_attention_by_rows, width_class
from model.sampling import sample_tokens
from model_utils import (
    freeze_vision,
    generate,
    load_model,
    load_models,
    load_processor,
    recompute_activations,
    rollout_logprobs,
    token_logprobs,
)

HAS_CUDA = torch.cuda.is_available()
THERE = os.environ.get("MMUPT_GPU_TESTS_ON") or ("cuda" if HAS_CUDA else "")  # where the bodies run
gpu = pytest.mark.skipif(not THERE, reason="needs a GPU; MMUPT_GPU_TESTS_ON=cpu runs it on the CPU")
FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
SAMPLED = dict(num_samples=4, max_new_tokens=24, temperature=1.2, seed=3)


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch):
    """Convolutions too: by default cuDNN rounds their factors to 10 bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@contextmanager
def as_a_gpu_decodes():
    """Where the GPU is played by a CPU: prompts shared, and attention by the kernel's function."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_cache, "BY_KERNEL", True)
        yield


def there(model, processor, examples, **options):
    with as_a_gpu_decodes():
        return generate(model, processor, examples, **SAMPLED | options)


def moved(rollout, device: str):
    """A rollout with all that it holds on another device."""
    p, to = rollout.prompts, lambda x: x if x is None else x.to(device)
    vision = [{name: x.to(device) for name, x in v.items()} for v in p.vision]
    parts = {name: to(getattr(p, name)) for name in ("ids", "lengths", "positions", "blocks")}
    own = {name: to(getattr(rollout, name)) for name in ("tokens", "lengths", "logprobs", "finished")}
    return replace(rollout, prompts=replace(p, vision=vision, **parts), **own)


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.cpu().clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_gradients_agree(found: dict, expected: dict, tolerance: float):
    """Each parameter's, relative to its own norm; one without any to the largest."""
    assert found.keys() == expected.keys() and len(found) > 3
    largest = max(float(g.norm()) for g in expected.values())
    for name, g in expected.items():
        error = float((found[name].double() - g.double()).norm()) / max(float(g.norm()), 1e-4 * largest)
        assert error < tolerance, (name, error)


@pytest.fixture
def near(random_folder):
    """On the CPU, in float32: what is compared with."""
    return load_model(str(random_folder))


@pytest.fixture
def far(random_folder):
    """The same on the GPU."""
    return load_model(str(random_folder), device=THERE)


# --- decoding


@gpu
def test_greedy_tokens_in_float32_are_the_cpus(near, far, processor, mixed_examples):
    options = SAMPLED | dict(temperature=0.0)
    expected = generate(near, processor, mixed_examples, **options)
    found = there(far, processor, mixed_examples, temperature=0.0)
    assert found.tokens.device.type == THERE
    assert found.lengths.tolist() == expected.lengths.tolist()
    assert found.tokens.tolist() == expected.tokens.tolist()
    assert found.finished.tolist() == expected.finished.tolist()
    assert (found.logprobs.cpu() - expected.logprobs).abs().max() < 1e-4


@gpu
@pytest.mark.parametrize("name", RECIPES)
def test_greedy_tokens_of_every_family_are_the_cpus(name, tmp_path, mixed_examples):
    make_checkpoint(tmp_path, RECIPES[name])
    examples = mixed_examples if name in SEEING else [Example("t", (), "What is 3 + 4?")]
    processor, options = load_processor(str(tmp_path)), SAMPLED | dict(temperature=0.0)
    expected = generate(load_model(str(tmp_path)), processor, examples, **options)
    model = load_model(str(tmp_path), device=THERE)
    found = there(model, processor, examples, temperature=0.0)
    assert found.tokens.tolist() == expected.tokens.tolist()
    with torch.no_grad():
        assert (token_logprobs(model, found).cpu() - expected.logprobs).abs().max() < 2e-4


@gpu
@pytest.mark.parametrize("dtype", ["float32", "float32 in bfloat16", "bfloat16", "bfloat16 under LoRA"])
def test_decoding_by_graph_is_decoding_without_to_the_bit(
    random_folder, processor, mixed_examples, dtype, monkeypatch
):
    """Rows leave, and further questions join while others decode."""
    monkeypatch.setattr(decode, "CHECK_EVERY_CUDA", 4)
    monkeypatch.setattr(decode, "REFILL_BELOW", 0.9)
    if dtype == "bfloat16 under LoRA":
        pytest.importorskip("peft", reason="pip install peft")
        model, _ = adapted_on(random_folder, noise=0.03, dtype="bfloat16")
    else:
        weights, compute = (FLOAT32 if "float32" in dtype else BFLOAT16), dtype.endswith("bfloat16")
        model = load_model(str(random_folder), weights, BFLOAT16 if compute else None, THERE)
    options = dict(num_samples=8, max_new_tokens=40, temperature=1.5, seed=2)
    for memory in (0, 1_100_000 if dtype == "float32" else 600_000):
        joined = count_calls(monkeypatch, decode.DecodeBatch, "__init__")
        with graph_replays() as replays:
            found = there(model, processor, mixed_examples, **options, memory=memory)
        assert not memory or len(joined) > 2
        assert len(set(found.lengths.tolist())) > 4
        assert THERE != "cuda" or len(replays) > 10
        with graph_off(), graph_replays() as replays:
            plain = there(model, processor, mixed_examples, **options, memory=memory)
        assert not replays
        for name in ("tokens", "lengths", "finished", "logprobs"):
            assert torch.equal(getattr(found, name), getattr(plain, name)), (memory, name)


def count_calls(monkeypatch, cls, name) -> list:
    calls, plain = [], getattr(cls, name)
    monkeypatch.setattr(cls, name, lambda *a, **k: (calls.append(1), plain(*a, **k))[1])
    return calls


@gpu
def test_questions_that_wait_for_memory_get_the_tokens_of_those_that_need_not(far, processor, mixed_examples):
    together = there(far, processor, mixed_examples)
    apart = there(far, processor, mixed_examples, memory=1)
    assert torch.equal(together.tokens, apart.tokens) and torch.equal(together.lengths, apart.lengths)


@gpu
@pytest.mark.parametrize(
    "weights, compute", [(FLOAT32, None), (FLOAT32, BFLOAT16), (BFLOAT16, None)], ids=["32", "mixed", "16"]
)
def test_the_fused_step_is_taken(random_folder, weights, compute):
    for folder in (random_folder, TINY):
        assert load_model(str(folder), weights, compute, THERE).standard_decoder


@gpu
@pytest.mark.parametrize("V", [512, 152_064])
@pytest.mark.parametrize("top_p", [1.0, 0.99, 0.5])
def test_tokens_are_those_of_an_exact_cdf(V, top_p):
    """float64 on the CPU; a token at whose edge the draw lies may be either."""
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(16, V, generator=generator)
    u = torch.rand(16, generator=generator, dtype=torch.float64)
    bias = torch.zeros(V).masked_fill_(torch.arange(V) % 7 == 0, -torch.inf)
    tokens, logprobs = (
        x.cpu() for x in sample_tokens(logits.to(THERE), u.to(THERE), 0.8, top_p, bias.to(THERE))
    )
    exact = logits.double() / 0.8
    assert (logprobs - exact.log_softmax(-1).gather(1, tokens[:, None])[:, 0]).abs().max() < 1e-4
    probs = (exact + bias.double()).softmax(-1)
    ordered, index = probs.sort(-1, descending=True)
    before = (ordered.cumsum(-1) - ordered).scatter(-1, index, ordered.cumsum(-1) - ordered)
    slack, here = 1e-5, tokens[:, None]
    assert (before.gather(1, here) < top_p + slack).all()
    kept = probs.masked_fill(before >= top_p, 0.0) if top_p < 1 else probs
    cdf = kept.cumsum(-1) / kept.sum(-1, keepdim=True)
    below = (cdf.gather(1, here) - (kept / kept.sum(-1, keepdim=True)).gather(1, here))[:, 0]
    assert (below <= u + slack).all() and (cdf.gather(1, here)[:, 0] >= u - slack).all()


@gpu
def test_what_top_p_leaves_out_is_not_sampled_and_changes_no_logprob(far, processor, mixed_examples):
    rollout = there(far, processor, mixed_examples, top_p=0.7)
    with torch.no_grad():
        assert (token_logprobs(far, rollout) - rollout.logprobs).abs().max() < 1e-4
    assert not processor.banned()[rollout.tokens[rollout.mask].cpu()].any()


@gpu
def test_the_same_seed_gives_the_same_rollout(far, processor, mixed_examples):
    one, two = (there(far, processor, mixed_examples) for _ in range(2))
    assert torch.equal(one.tokens, two.tokens) and torch.equal(one.logprobs, two.logprobs)


# --- scoring and its gradient


@gpu
@pytest.mark.parametrize("folder", ["random", "built-in"])
def test_the_samplers_logprobs_are_those_of_scoring(folder, random_folder, processor, mixed_examples):
    path = str(random_folder if folder == "random" else TINY)
    rounding = 0.02 if folder == "built-in" else 0.05  # random weights give larger logits
    for weights, compute, most, mean in ((FLOAT32, None, 1e-4, 1e-5), (FLOAT32, BFLOAT16, 0.5, rounding)):
        model = load_model(path, weights, compute, THERE)
        rollout = there(model, processor, mixed_examples, temperature=0.8, top_p=0.9)
        scored = token_logprobs(model, rollout).detach()  # with gradient, so by the decoder's own forward
        difference = (scored - rollout.logprobs)[rollout.mask].abs()
        assert difference.max() < most and difference.mean() < mean
        assert (scored - rollout_logprobs(model, rollout, 300))[rollout.mask].abs().max() < most


@gpu
def test_scores_are_the_cpus_in_value_entropy_and_gradient(near, far, processor, mixed_examples):
    rollout = generate(near, processor, mixed_examples, **SAMPLED)
    weights = torch.randn(rollout.tokens.shape, generator=torch.Generator().manual_seed(0))
    expected, entropy = token_logprobs(near, rollout, with_entropy=True)
    (expected * weights).sum().backward()
    found, its_entropy = token_logprobs(far, moved(rollout, THERE), with_entropy=True)
    (found * weights.to(THERE)).sum().backward()
    assert (found.cpu() - expected).abs().max() < 1e-4
    assert (its_entropy.cpu() - entropy).abs().max() < 1e-4
    assert_gradients_agree(gradients(far), gradients(near), 1e-4)


def update_of(model, rollout, device: str, **settings) -> dict:
    """One update as the loop takes it -> its gradients, of which each moves its weights."""
    config = mmupt.Config(questions=len(rollout.prompts), group_size=rollout.num_samples, **settings)
    rewards = (rollout.tokens.sum(1) % 2 == 0).float().view(-1, rollout.num_samples)
    old = rollout.logprobs + 0.1 * torch.sin(torch.arange(rollout.tokens.shape[1], device=device))
    inputs = mmupt.LossInputs(
        rollout, old, old - 0.1 if config.beta else None, mmupt.group_advantages(rewards).flatten()
    )
    world, meter = World(0, 1, torch.device(device)), Meter()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3, fused=True)
    mmupt.accumulate_gradients(config, world, model, inputs, meter)
    found = gradients(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    assert mmupt.apply_gradients(config, world, model, optimizer, meter)
    assert all(not torch.equal(before[n], p) for n, p in model.named_parameters() if n in found)
    return found


@gpu
@pytest.mark.parametrize(
    "special",
    [
        dict(beta=0.0),
        dict(beta=0.05, tokens_per_forward=300, aggregate="bnpo", kl="k3"),
        dict(beta=0.05, ratio="sequence", dual_clip=3.0),
    ],
    ids=["one forward", "several forwards", "sequence ratio"],
)
def test_an_updates_gradients_are_the_cpus(near, far, processor, mixed_examples, special):
    rollout = generate(near, processor, mixed_examples, **SAMPLED)
    expected = update_of(near, rollout, "cpu", **special)
    found = update_of(far, moved(rollout, THERE), THERE, **special)
    assert_gradients_agree(found, expected, 1e-4)


@gpu
@pytest.mark.parametrize("frozen", [False, True], ids=["all", "frozen tower"])
def test_recomputed_activations_give_the_gradients_of_kept_ones(near, far, processor, mixed_examples, frozen):
    rollout = generate(near, processor, mixed_examples, **SAMPLED)
    if frozen:
        freeze_vision(near), freeze_vision(far)
    expected = update_of(near, rollout, "cpu")
    recompute_activations(far)
    found = update_of(far, moved(rollout, THERE), THERE)
    assert frozen != any("visual" in name for name in found)
    assert_gradients_agree(found, expected, 1e-4)


@gpu
def test_bfloat16_products_cost_what_rounding_costs(random_folder, near, processor, mixed_examples):
    rollout = generate(near, processor, mixed_examples, **SAMPLED)
    expected = update_of(near, rollout, "cpu")
    model = load_model(str(random_folder), compute=BFLOAT16, device=THERE)
    found = update_of(model, moved(rollout, THERE), THERE)
    flat = [torch.cat([g[name].double().flatten() for name in expected]) for g in (found, expected)]
    assert torch.nn.functional.cosine_similarity(*flat, dim=0) > 0.98
    assert 1e-5 < float((flat[0] - flat[1]).norm() / flat[1].norm()) < 0.2
    assert all(p.dtype == FLOAT32 for p in model.parameters())


# --- packed attention


def reads(layout: Layout, window: int | None) -> torch.Tensor:
    """[N, N] bool of the row: which token (row) reads which (column), told by who each token is."""
    who = [(p, -1, t) for p, n in enumerate(layout.prompts.lengths.tolist()) for t in range(n)]
    lengths = layout.prompts.lengths.tolist()
    for b, (p, n) in enumerate(zip(layout.question.tolist(), layout.responses.lengths.tolist(), strict=True)):
        who += [(p, b, lengths[p] + t) for t in range(n)]
    found = torch.zeros(len(who), len(who), dtype=torch.bool)
    for i, (p, b, t) in enumerate(who):
        for j, (q, c, s) in enumerate(who):
            found[i, j] = p == q and c in (-1, b) and s <= t and (window is None or t - s < window)
    return found


@gpu
@pytest.mark.parametrize("attend", [packed_attention, packed_attention_by_rows])
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("H, R, d", [(2, 8, 128), (4, 7, 64), (1, 1, 80), (2, 2, 256)])
def test_packed_attention_is_a_masked_softmax_in_float64(attend, dtype, window, H, R, d):
    """In value and in gradient; prompts of several lengths, responses of several width classes."""
    generator = torch.Generator().manual_seed(0)
    prompts, G = torch.tensor([7, 3, 20]), 3
    responses = torch.tensor([2, 5, 1, 0, 40, 3, 16, 17, 0])
    order = torch.argsort(width_class(responses), stable=True)
    layout = Layout(
        Sequences(prompts.to(THERE)), Sequences(responses[order].to(THERE)), (order // G).to(THERE)
    )
    N, scale = int(prompts.sum() + responses.sum()), d**-0.5
    draw = lambda heads: torch.randn(N, heads, d, generator=generator)  # noqa: E731
    values = [draw(heads).to(dtype) for heads in (H * R, H, H)]
    weight = draw(H * R)

    inputs = [x.clone().to(THERE).requires_grad_() for x in values]
    found = attend(*inputs, layout, scale, window)
    assert found.dtype == dtype and found.shape == (N, H * R, d)
    (found.float() * weight.to(THERE)).sum().backward()

    exact = [x.double().requires_grad_() for x in values]
    q, k, v = exact[0], *(x.repeat_interleave(R, 1) for x in exact[1:])
    scores = torch.einsum("nhd,mhd->hnm", q, k) * scale
    scores = scores.masked_fill(~reads(layout_on_cpu(layout), window), -torch.inf)
    expected = torch.einsum("hnm,mhd->nhd", scores.softmax(-1), v)
    (expected * weight.double()).sum().backward()
    bound = 1e-5 if dtype == FLOAT32 else 2e-2
    for a, b in zip([found, *(x.grad for x in inputs)], [expected, *(x.grad for x in exact)], strict=True):
        a, b = a.detach(), b.detach()
        assert float((a.cpu().double() - b).norm() / b.norm()) < bound


def layout_on_cpu(layout: Layout) -> Layout:
    return Layout(
        Sequences(layout.prompts.lengths.cpu()),
        Sequences(layout.responses.lengths.cpu()),
        layout.question.cpu(),
    )


# --- LoRA


def adapted_on(folder, noise: float, **options):
    """As lora_made's, on the GPU: A and the noise are drawn on the CPU, so both are one adapter."""
    config = mmupt.Config(model=str(folder), lora_rank=4, **options)
    policy, reference = load_models(config, None, torch.device(THERE))
    generator = torch.Generator().manual_seed(1)
    for p in policy.parameters():
        if p.requires_grad and noise:
            p.data += noise * torch.randn(p.shape, generator=generator).to(THERE)
    return policy, reference


@gpu
def test_a_step_of_an_adapter_has_the_cpus_tokens_and_gradients(mixed_examples, processor):
    pytest.importorskip("peft", reason="pip install peft")
    near, _ = adapted(noise=0.03, dtype="float32")
    far, reference = adapted_on(TINY, noise=0.03, dtype="float32")
    options = SAMPLED | dict(temperature=0.0)
    rollout = generate(near, processor, mixed_examples, **options)
    its_own = there(far, processor, mixed_examples, temperature=0.0)
    assert its_own.tokens.tolist() == rollout.tokens.tolist()
    # with gradient by peft's own forward: not by the layers that sampling reads
    assert (token_logprobs(far, its_own).detach() - its_own.logprobs).abs().max() < 1e-4
    expected = update_of(near, rollout, "cpu")
    found = update_of(far, moved(rollout, THERE), THERE)
    assert all(".lora_" in name for name in found)
    assert_gradients_agree(found, expected, 1e-4)
    with reference() as base, torch.no_grad():  # the adapter is off
        plain = token_logprobs(load_model(str(TINY)), rollout)
        assert (token_logprobs(base, moved(rollout, THERE)).cpu() - plain).abs().max() < 1e-4


@gpu
def test_an_adapter_on_a_bfloat16_base_is_sampled_from_and_trained(mixed_examples, processor):
    pytest.importorskip("peft", reason="pip install peft")
    policy, _ = adapted_on(TINY, noise=0.03, dtype="bfloat16")
    rollout = there(policy, processor, mixed_examples)
    difference = (token_logprobs(policy, rollout).detach() - rollout.logprobs)[rollout.mask].abs()
    assert difference.mean() < 0.05
    found = update_of(policy, rollout, THERE)
    assert found and all(g.isfinite().all() for g in found.values())


# --- whole runs


@gpu
@pytest.mark.parametrize(
    "special",
    [
        dict(),
        dict(lora_rank=4, lr=1e-3),
        dict(gradient_checkpointing=True, freeze_vision=True, beta=0.0),
        dict(minibatch_questions=2, top_p=0.9, temperature=0.8, tokens_per_forward=400),
        dict(dtype="float32"),
        dict(dtype="bfloat16", eval_data="tiny:validation", eval_questions=8, eval_every=1),
    ],
    ids=["defaults", "LoRA", "recomputed", "several updates", "float32", "bfloat16 and an evaluation"],
)
def test_a_whole_run_of_two_steps_and_its_resume(tmp_path, special, monkeypatch):
    if "lora_rank" in special:
        pytest.importorskip("peft", reason="pip install peft")
    monkeypatch.setitem(HELD_OUT, "validation", 16)
    with as_a_gpu_decodes():
        assert run(tmp_path / "r", **{**dict(steps=2, reward="random"), **special}) == 0
        steps = [r for r in rows(tmp_path / "r") if "reward" in r]
        first = steps[0]
        assert [r["step"] for r in steps] == [1, 2] and steps[1]["nonfinite_updates"] == 0
        assert 0 < first["grad_norm"] < 1e4 and first["entropy"] > 0
        if "minibatch_questions" not in special:  # the first update is of the policy that sampled
            exact = special.get("dtype") == "float32" or THERE == "cpu" and "dtype" not in special
            assert abs(first["approx_kl"]) < (1e-6 if exact else 1e-2)
            assert abs(first["kl"]) < (1e-6 if exact else 1e-2)
        more = ["--resume", "--out", str(tmp_path / "r"), "--steps", "3"]
        assert mmupt.main(more) == 0
    assert rows(tmp_path / "r")[-1]["step"] == 3
    assert "lora_rank" in special or load_model(str(tmp_path / "r" / "checkpoints" / "step-3"))


@gpu
def test_a_run_in_float32_is_the_cpus(tmp_path, monkeypatch):
    """Two steps from the same draws: tokens may part at a tie, so what they add up to is compared."""
    options = dict(steps=2, reward="random", dtype="float32", save_every=0, lr=1e-5)
    with as_a_gpu_decodes():
        assert run(tmp_path / "there", **options) == 0
    monkeypatch.setattr(mmupt.distributed, "start", lambda: World(0, 1, torch.device("cpu")))
    assert run(tmp_path / "here", **options) == 0
    for a, b in zip(rows(tmp_path / "there"), rows(tmp_path / "here"), strict=True):
        for name in ("reward", "response_length", "entropy", "grad_norm", "loss"):
            assert a[name] == pytest.approx(b[name], rel=0.02, abs=1e-3), name


@gpu
def test_prompts_of_two_devices_are_one(near, far, processor, mixed_examples):
    """Positions and images, as the model says them on either."""
    encoded = [processor.encode(e) for e in mixed_examples]
    here, other = (with_positions(m, processor.collate(encoded, d)) for m, d in ((near, "cpu"), (far, THERE)))
    assert torch.equal(here.ids, other.ids.cpu()) and torch.equal(here.rope, other.rope.cpu())
    for a, b in zip(here.vision, other.vision, strict=True):
        for name in a:
            torch.testing.assert_close(b[name].cpu(), a[name], rtol=0, atol=1e-6)


# --- where there is no GPU, or one


@pytest.mark.parametrize(
    "words, hidden", [(("-m", "torch.distributed.run", "mmupt.py"), True), (("mmupt.py",), False)]
)
def test_programs_of_several_processes_see_no_gpu(words, hidden, monkeypatch):
    """On a machine with one GPU a second process would have none; both run on the CPU."""
    seen = []
    monkeypatch.setattr(subprocess, "run", lambda *a, env, **k: seen.append(env))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    conftest.run_program(*words)
    assert seen[0]["CUDA_VISIBLE_DEVICES"] == ("" if hidden else "0")
