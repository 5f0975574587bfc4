"""Sampling against exact distributions."""

import pytest
import torch
from plain_transformers import plain_inputs

from model import sampling
from model.sampling import bias_against, inverse_cdf, nucleus, sample_tokens
from model_utils import generate


def chi_square(counts: torch.Tensor, probs: torch.Tensor) -> tuple[float, float]:
    """(statistic, a bound it exceeds once in ten thousand draws of a right sampler)."""
    expected = probs * counts.sum()
    big = expected >= 5
    seen = torch.cat([counts[big], counts[~big].sum()[None]]).double()
    wanted = torch.cat([expected[big], expected[~big].sum()[None]]).double()
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    k = len(seen) - 1
    return ((seen - wanted) ** 2 / wanted).sum().item(), k + 3.72 * (2 * k) ** 0.5 + 10


def sides_of_small_vocabulary(*cases):
    """Each with 200 and 3000 tokens, on either side of SMALL_VOCABULARY; to sort 3000 takes long."""
    slow = pytest.mark.slow
    return [
        pytest.param(*case, V, marks=[slow] if V == 3000 and case[1] < 1 else [])
        for V in (200, 3000)
        for case in cases
    ]


@pytest.mark.parametrize(
    ("temperature", "top_p", "V"),
    sides_of_small_vocabulary((1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 0.8), (0.7, 0.5)),
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
