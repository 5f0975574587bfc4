"""The algorithm: vote, advantages, KL, loss, rewards, against known answers and properties."""

import json
from pathlib import Path

import pytest
import torch

from mmupt import (
    Config,
    Encoded,
    compute_rewards,
    group_advantages,
    grpo_loss,
    kl_penalty,
    majority_vote,
    published_vote,
    sequence_divisors,
)

GOLDEN = Path(__file__).parent / "golden"
LOSS = json.loads((GOLDEN / "grpo_loss.json").read_text())
KL = json.loads((GOLDEN / "kl_gradient.json").read_text())


# --- vote


def test_the_commonest_answer_wins_with_its_share_of_all_answers():
    vote = majority_vote(["3", "3", "4", None])
    assert vote.winner == "3" and vote.share == 0.5 and vote.counts == {"3": 2, "4": 1}


def test_a_tie_abstains():
    assert majority_vote(["3", "4", "3", "4", "5"]).winner is None


def test_unparsed_answers_never_vote_and_never_win():
    assert majority_vote([None, None, None, "7"]).winner == "7"
    assert majority_vote([None, None]) == (None, 0.0, {})
    assert majority_vote([]) == (None, 0.0, {})


def test_a_share_below_the_threshold_abstains_and_one_on_it_does_not():
    answers = ["a", "a", "b", None]
    assert majority_vote(answers, 0.51).winner is None
    assert majority_vote(answers, 0.5).winner == "a"


def test_the_published_vote_counts_strings_and_the_unparsed_and_breaks_ties_by_order():
    assert published_vote(["45", "45°", "45°"]).winner == "45°"
    assert published_vote([None, "7", None]).winner == "None"
    assert published_vote(["4", "3", "3", "4"]).winner == "4"


# --- advantages


def test_advantages_are_the_golden_ones():
    rewards = torch.tensor([[1.0, 0, 0, 1]])
    golden = LOSS["advantages_of_[1,0,0,1]"]
    for eps, name in ((1e-4, "ddof1,eps1e-4"), (1e-6, "ddof1,eps1e-6")):
        expected = golden[name] * torch.tensor([1.0, -1, -1, 1])
        torch.testing.assert_close(group_advantages(rewards, eps=eps)[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, 1 / 3, -7.3, 1e8])
@pytest.mark.parametrize("scale", ["std", "none"])
def test_a_group_of_equal_rewards_has_no_advantage_at_all(value, scale):
    rewards = torch.full((2, 8), value)
    rewards[1, 0] += 1 + abs(value)
    advantages = group_advantages(rewards, scale, eps=1e-8)
    assert advantages[0].tolist() == [0.0] * 8
    assert advantages[1].abs().min() > 0


def test_scale_none_only_centres():
    assert group_advantages(torch.tensor([[1.0, 0, 0, 0]]), "none")[0].tolist() == [0.75, -0.25, -0.25, -0.25]


def test_a_group_of_one_is_an_error():
    with pytest.raises(ValueError, match="G at least 2"):
        group_advantages(torch.ones(3, 1))


def test_advantages_are_float32_whatever_the_rewards_are():
    assert group_advantages(torch.tensor([[1, 0, 0]])).dtype == torch.float32


# --- KL


def test_the_golden_means_of_the_kl_estimators():
    mask = torch.tensor(LOSS["mask"]).bool()
    logprobs, ref = (torch.tensor(LOSS[k], dtype=torch.float64)[mask] for k in ("logprobs", "ref_logprobs"))
    for kind, value in LOSS["mean_kl"].items():
        assert kl_penalty(logprobs, ref, kind).mean().item() == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_the_expected_gradient_of_each_kl_estimator(kind):
    theta = torch.tensor(KL["theta"], dtype=torch.float64, requires_grad=True)
    logprobs = theta.log_softmax(0)
    ref = torch.tensor(KL["ref_logits"], dtype=torch.float64).log_softmax(0)
    expected = (
        logprobs.detach().exp() * kl_penalty(logprobs, ref, kind)
    ).sum()  # over tokens drawn from the policy
    (gradient,) = torch.autograd.grad(expected, theta)
    torch.testing.assert_close(gradient, torch.tensor(KL[kind], dtype=torch.float64), rtol=0, atol=1e-7)
    if kind != "k2":
        assert expected.item() == pytest.approx(KL["kl"], abs=1e-9)  # k1 and k3 are unbiased in value


def test_k3_is_exact_for_tiny_differences():
    d = torch.tensor([1e-4])
    assert kl_penalty(d, torch.zeros(1), "k3").item() == pytest.approx(5e-9, rel=0.02)


def test_an_unknown_kl_is_an_error():
    with pytest.raises(ValueError, match="k1, k2, k3"):
        kl_penalty(torch.zeros(1), torch.zeros(1), "k4")


# --- loss

MASK = torch.tensor(LOSS["mask"]).bool()
VARIANTS = {
    ("grpo", "beta=0"): {},
    ("grpo", "beta=0.04,k3"): {"beta": 0.04},
    ("dapo", "beta=0"): {},
    ("dapo", "beta=0.04,k3"): {"beta": 0.04},
    ("dapo", "beta=0,clip_high=0.28"): {"clip_high": 0.28},
    ("bnpo", "beta=0"): {},
    ("dr_grpo", "beta=0"): {"max_new_tokens": 8},
    ("dr_grpo", "beta=0.04,k3"): {"beta": 0.04, "max_new_tokens": 8},
    ("gspo", "beta=0"): {"ratio": "sequence", "aggregate": "grpo"},
}


def fixture(dtype=torch.float64):
    names = ("logprobs", "old_logprobs", "ref_logprobs")
    logprobs, old, ref = (torch.tensor(LOSS[k], dtype=dtype) for k in names)
    return logprobs.requires_grad_(), old, ref, torch.tensor(LOSS["advantages"], dtype=dtype)


def loss_of(rows=slice(None), junk=None, denominator=None, mask=MASK, advantages=None, **options):
    """(value, gradient, metrics) of the fixture's rows."""
    logprobs, old, ref, golden_advantages = fixture()
    if junk is not None:
        logprobs, old, ref = (x.detach().masked_fill(~mask, junk) for x in (logprobs, old, ref))
        logprobs.requires_grad_()
    advantages = golden_advantages if advantages is None else advantages
    value, metrics = grpo_loss(
        logprobs[rows], old[rows], ref[rows] if options.get("beta") else None, advantages[rows], mask[rows],
        denominator=denominator, **options,
    )  # fmt: skip
    value.backward()
    return value.item(), logprobs.grad, metrics


def test_every_golden_loss_is_tested():
    listed = {(name, variant) for name, variants in LOSS["loss"].items() for variant in variants}
    assert listed == set(VARIANTS) | {("bnpo", "beta=0, rows split 2+2")}


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_the_loss_is_the_golden_one(name, variant):
    value, _, _ = loss_of(**{"aggregate": name} | VARIANTS[name, variant])
    assert value == pytest.approx(LOSS["loss"][name][variant], abs=1e-8)


@pytest.mark.parametrize("shape", [(2, 2), (4, 1), (3,), ()])
def test_advantages_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"advantages \[B\] \(got "):
        grpo_loss(torch.zeros(4, 5), torch.zeros(4, 5), None, torch.ones(shape), torch.ones(4, 5))


def test_bnpo_is_a_mean_of_micro_batch_means():
    parts = [loss_of(slice(i, i + 2), aggregate="bnpo", denominator=2)[0] for i in (0, 2)]
    assert sum(parts) == pytest.approx(LOSS["loss"]["bnpo"]["beta=0, rows split 2+2"], abs=1e-8)


@pytest.mark.parametrize("split", [[4], [1, 3], [1, 1, 1, 1]])
def test_bnpo_with_fixed_micro_batches_does_not_depend_on_the_split(split):
    divisors = sequence_divisors(MASK.sum(1), "bnpo", block=2)
    assert divisors.tolist() == [14, 14, 6, 6]  # 7 and 3 tokens, times two micro-batches
    first, total = 0, 0.0
    for size in split:
        rows = slice(first, first + size)
        total, first = total + loss_of(rows, aggregate="bnpo", denominator=divisors[rows])[0], first + size
    assert total == pytest.approx(LOSS["loss"]["bnpo"]["beta=0, rows split 2+2"], abs=1e-8)


def test_a_last_micro_batch_may_be_smaller():
    assert sequence_divisors(torch.tensor([1, 2, 3, 4, 5]), "bnpo", block=2).tolist() == [9, 9, 21, 21, 15]


def test_an_extreme_token_gives_finite_gradients():
    logprobs = torch.tensor([[-1.0, -1.0]], requires_grad=True)
    old, ref = torch.tensor([[-200.0, -1.0]]), torch.tensor([[150.0, -1.0]])
    value, _ = grpo_loss(logprobs, old, ref, torch.tensor([-1.0]), torch.ones(1, 2), beta=0.1)
    value.backward()
    assert value.isfinite() and logprobs.grad.isfinite().all()


def test_the_gradient_is_the_golden_one():
    _, gradient, metrics = loss_of(aggregate="grpo")
    torch.testing.assert_close(
        gradient, torch.tensor(LOSS["grad_grpo_beta0"], dtype=torch.float64), rtol=0, atol=1e-8
    )
    assert metrics["clipped_low"] == pytest.approx(LOSS["clip_fraction"]["low"])
    assert metrics["clipped_high"] == pytest.approx(LOSS["clip_fraction"]["high"])
    assert metrics["clipfrac"] == pytest.approx(0.4)


def plain_loss(
    logprobs, old, ref, A, mask, *, low=0.2, high=0.2, dual=None, beta=0.0, kl="k3", aggregate, sequence
):
    """The same objective as loops over single tokens in float64: an independent path."""
    constant = lambda x: torch.tensor(x, dtype=torch.float64)  # noqa: E731
    per_sequence = []
    for i in range(len(mask)):
        tokens = [t for t in range(mask.shape[1]) if mask[i, t]]
        ratios = [torch.exp(logprobs[i, t] - old[i, t]) for t in tokens]
        if sequence:
            ratios = [torch.exp(sum(logprobs[i, t] - old[i, t] for t in tokens) / len(tokens))] * len(tokens)
        losses = []
        for t, r in zip(tokens, ratios, strict=True):
            clipped = max(min(r.item(), 1 + high), 1 - low)
            best = r * A[i] if (r * A[i]).item() <= clipped * float(A[i]) else constant(clipped * float(A[i]))
            if dual and float(A[i]) < 0 and best.item() < dual * float(A[i]):
                best = constant(dual * float(A[i]))
            d = logprobs[i, t] - ref[i, t]
            losses.append(-best + beta * {"k1": d, "k2": d * d / 2, "k3": torch.exp(-d) - 1 + d}[kl])
        per_sequence.append(losses)
    flat = [x for losses in per_sequence for x in losses]
    return {
        "grpo": sum(sum(losses) / len(losses) for losses in per_sequence) / len(per_sequence),
        "dapo": sum(flat) / len(flat),
        "bnpo": sum(flat) / len(flat),
        "dr_grpo": sum(flat) / (len(per_sequence) * 8),
    }[aggregate]


@pytest.mark.parametrize("aggregate", ["grpo", "dapo", "bnpo", "dr_grpo"])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("beta,kl", [(0.0, "k3"), (0.04, "k1"), (0.04, "k2"), (0.3, "k3")])
@pytest.mark.parametrize("dual", [None, 1.1])
def test_every_variant_equals_a_loop_over_tokens_in_value_and_gradient(aggregate, ratio, beta, kl, dual):
    options = dict(aggregate=aggregate, ratio=ratio, beta=beta, kl=kl, dual_clip=dual, max_new_tokens=8)
    value, gradient, _ = loss_of(**options)
    logprobs, old, ref, A = fixture()
    expected = plain_loss(
        logprobs,
        old,
        ref,
        A,
        MASK,
        beta=beta,
        kl=kl,
        dual=dual,
        aggregate=aggregate,
        sequence=ratio == "sequence",
    )
    expected.backward()
    assert value == pytest.approx(expected.item(), abs=1e-10)
    torch.testing.assert_close(gradient, logprobs.grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize("aggregate", ["grpo", "dapo", "bnpo", "dr_grpo"])
@pytest.mark.parametrize("split", [[1, 3], [2, 2], [1, 1, 1, 1]])
def test_any_split_of_a_batch_sums_to_the_same_loss_and_gradient(aggregate, split):
    options = dict(aggregate=aggregate, beta=0.04, max_new_tokens=8)
    whole, gradient, _ = loss_of(**options)
    divisors = sequence_divisors(MASK.sum(1), aggregate, 8, block=4)
    first, total, gradients = 0, 0.0, torch.zeros_like(gradient)
    for size in split:
        value, g, _ = loss_of(
            slice(first, first + size), denominator=divisors[first : first + size], **options
        )
        total, gradients, first = total + value, gradients + g, first + size
    assert total == pytest.approx(whole, abs=1e-12)
    torch.testing.assert_close(gradients, gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("junk", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("aggregate", ["grpo", "dapo", "bnpo", "dr_grpo"])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_junk_under_the_mask_changes_nothing(junk, aggregate, ratio):
    options = dict(aggregate=aggregate, ratio=ratio, beta=0.04, max_new_tokens=8)
    clean, dirty = loss_of(**options), loss_of(junk=junk, **options)
    assert dirty[0] == clean[0] and dirty[2] == clean[2]
    assert torch.equal(dirty[1], clean[1])


def test_a_sequence_without_tokens_counts_but_adds_nothing():
    mask = MASK.clone()
    mask[3] = False
    value, gradient, _ = loss_of(mask=mask, aggregate="grpo")
    three, _, _ = loss_of(slice(0, 3), mask=mask, aggregate="grpo")
    assert value == pytest.approx(three * 3 / 4, abs=1e-12) and not gradient[3].any()


def test_the_kl_clamp_bounds_each_token_and_stops_its_gradient():
    logprobs = torch.tensor([[-20.0, -1.0]], requires_grad=True)
    ref = torch.tensor([[-1.0, -1.5]])
    ones = torch.ones(1, 2)
    value, metrics = grpo_loss(
        logprobs, logprobs.detach(), ref, torch.zeros(1), ones, beta=1.0, kl_clamp=10.0, aggregate="dapo"
    )
    value.backward()
    small = torch.expm1(torch.tensor(-0.5)) + 0.5
    assert value.item() == pytest.approx((10 + small.item()) / 2, rel=1e-6)
    assert logprobs.grad[0, 0] == 0 and logprobs.grad[0, 1] != 0
    assert metrics["kl"] == pytest.approx(value.item(), rel=1e-6)


def test_beta_without_a_reference_is_an_error():
    logprobs, old, _, A = fixture()
    with pytest.raises(ValueError, match="ref_logprobs"):
        grpo_loss(logprobs, old, None, A, MASK, beta=0.1)


@pytest.mark.parametrize("options", [{"aggregate": "mean"}, {"ratio": "batch"}, {"aggregate": "dr_grpo"}])
def test_unknown_or_incomplete_variants_are_errors(options):
    with pytest.raises(ValueError, match=r"aggregate|ratio|max_new_tokens"):
        loss_of(**options)


# --- rewards

QUESTION = [Encoded("q", [1, 2])]
TEXTS = [r"\boxed{1/2}", r"\boxed{0.5}", "no box", r"\boxed{2}"]


def rewards_of(texts=TEXTS, gold=None, **options):
    _, rewards = compute_rewards(
        texts, QUESTION, Config(group_size=len(texts), **options), gold or {}, step=0
    )
    return rewards[0].tolist()


def test_the_majority_reward_goes_to_every_notation_of_the_winner():
    assert rewards_of() == [1, 1, 0, 0]


def test_an_options_value_votes_as_its_letter():
    question = [Encoded("q", [1], choices=("red", "green"))]
    texts = [r"\boxed{B}", r"\boxed{green}", r"\boxed{A}", r"\boxed{red?}"]
    assert compute_rewards(texts, question, Config(group_size=4), {}, 0)[1][0].tolist() == [1, 1, 0, 0]


def test_an_abstaining_group_earns_nothing():
    assert rewards_of([r"\boxed{1}", r"\boxed{2}"]) == [0, 0]
    assert rewards_of(["none", "none"]) == [0, 0]
    assert rewards_of(min_share=0.6) == [0, 0, 0, 0]


def test_the_published_vote_lets_the_unparsed_win_and_earn():
    assert rewards_of(["-", "-", r"\boxed{2}"], vote="published") == [1, 1, 0]
    assert rewards_of(["-", r"\boxed{None}", r"\boxed{2}"], vote="published") == [1, 1, 0]
    # strings split the vote, the reward compares by meaning
    assert rewards_of([r"\boxed{45}", r"\boxed{45°}", r"\boxed{45°}"], vote="published") == [1, 1, 1]
    texts = [r"\boxed{0.50}", r"\boxed{0.50}", r"\boxed{1/2}", r"\boxed{3}"]  # the winner's text is no key
    assert rewards_of(texts, vote="published") == [1, 1, 1, 0]


def test_the_gold_reward_compares_with_the_label():
    assert rewards_of(gold={"q": "2"}, reward="gold") == [0, 0, 0, 1]


def test_the_format_reward_goes_to_whatever_parses():
    assert rewards_of(reward="format") == [1, 1, 0, 1]


def test_the_random_reward_depends_on_seed_step_and_question_alone():
    def drawn(text, seed=0, step=0, key="q"):
        config = Config(group_size=64, reward="random", seed=seed)
        return compute_rewards([text] * 64, [Encoded(key, [1])], config, {}, step)[1][0].tolist()

    once = drawn(r"\boxed{1}")
    assert once == drawn("other") and 16 < sum(once) < 48
    assert once != drawn("other", seed=1)
    assert once != drawn("other", step=1)
    assert once != drawn("other", key="p")
