"""Sampling against exact distributions."""

import pytest
import torch
from plain_transformers import plain_inputs

from model import sampling
from model.sampling import bias_against, inverse_cdf, sample_tokens
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


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_logprobs_over_a_large_vocabulary_are_as_exact_as_float32_allows(temperature):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 152_000, generator=generator) * 3
    u = torch.rand(8, generator=generator, dtype=torch.float64)
    tokens, logprobs = sample_tokens(logits, u, temperature, 1.0, torch.zeros(152_000))
    exact = (logits.double() / temperature).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    assert (logprobs - exact).abs().max() < 4e-6


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


WAYS = [sampling.nucleus_by_sort, sampling.nucleus_by_search]


@pytest.mark.parametrize("nucleus", WAYS)
def test_the_nucleus_is_the_smallest_set_that_holds_the_mass(nucleus):
    probs = torch.tensor([[0.1, 0.4, 0.3, 0.2]])
    assert (nucleus(probs, 0.7) > 0).tolist() == [[False, True, True, False]]
    assert (nucleus(probs, 0.71) > 0).tolist() == [[False, True, True, True]]
    assert (nucleus(probs, 0.01) > 0).tolist() == [[False, True, False, False]]
    assert torch.equal(nucleus(probs, 1.0), probs)


@pytest.mark.parametrize("nucleus", WAYS)
def test_of_tokens_that_are_equally_likely_the_first_are_in_the_nucleus(nucleus):
    probs = torch.tensor([[0.125, 0.25, 0.125, 0.125, 0.25, 0.125], [1, 1, 0, 0, 0, 0]]) / 2
    assert nucleus(probs, 0.5).bool().tolist() == [
        [False, True, False, False, True, False],
        [True] + [False] * 5,
    ]
    assert nucleus(probs, 0.7)[0].bool().tolist() == [True, True, True, False, True, False]
    flat = torch.full((1, 1000), 2**-10)
    assert nucleus(flat, 0.25).nonzero()[:, 1].tolist() == list(range(250))


def rows_of(kind: str, V: int) -> torch.Tensor:
    """[16, V], whole multiples of 2^-20 below 2^4 in all, so that their sums in float32 are exact."""
    draw = torch.Generator().manual_seed(V)
    if kind == "random":
        whole = torch.randint(0, 2**24 // V, (16, V), generator=draw)
    elif kind == "peaked":
        whole = torch.randint(0, 4, (16, V), generator=draw)
        whole[:, V // 3] = 2**19
    elif kind == "flat":
        whole = torch.full((16, V), 5)
    else:  # few values, so that many are equal
        whole = 2 ** torch.randint(0, 5, (16, V), generator=draw)
    return whole.clamp(max=2**20).float() / 2**20


@pytest.mark.parametrize("kind", ["random", "peaked", "flat", "tied"])
@pytest.mark.parametrize("V", [2, 513, 5000])
def test_a_search_finds_the_nucleus_that_sorting_finds(kind, V):
    probs = rows_of(kind, V)
    for top_p in (0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1 - 2**-20):
        found = sampling.nucleus_by_search(probs, top_p)
        assert torch.equal(found, sampling.nucleus_by_sort(probs, top_p))
        if V < 1000:  # and by its definition
            place, wanted = torch.arange(V), top_p * probs.sum(1, keepdim=True)
            one, other = probs[..., None], probs[:, None]
            likelier = (other > one) | (other == one) & (place < place[:, None])
            before = (likelier * other).double().sum(-1)
            assert torch.equal(found.bool(), (before < wanted.double()) & (probs > 0))


@pytest.mark.parametrize("scale", [0.01, 1, 8, 40])
def test_the_nucleus_of_a_softmax_holds_the_mass_and_no_token_more(scale):
    torch.manual_seed(0)
    probs = (torch.randn(20, 30_000) * scale).softmax(-1)
    for top_p in (0.1, 0.9, 0.99):
        for nucleus in WAYS:
            inside, exact = nucleus(probs, top_p), probs.double()
            mass, total = inside.double().sum(1), exact.sum(1)
            least = inside.where(inside > 0, 2).amin(1)
            assert torch.equal(inside[inside > 0], probs[inside > 0])
            assert (least >= probs.where(inside == 0, 0).amax(1)).all()
            # sorting accumulates one by one in float32
            slack = (1e-6 if nucleus is sampling.nucleus_by_search else 2e-5) * total
            assert (mass >= top_p * total - slack).all() and (mass - least < top_p * total + slack).all()


def test_numbers_that_are_not_finite_end_no_search():
    probs = torch.full((2, 100), torch.nan)
    assert sampling.nucleus_by_search(probs, 0.9).shape == probs.shape


def test_both_ways_sample_the_same_tokens(monkeypatch):
    torch.manual_seed(0)
    logits, u, bias = torch.randn(300, 700) * 3, torch.rand(300, dtype=torch.float64), torch.zeros(700)
    by_sort = sample_tokens(logits, u, 0.8, 0.9, bias)
    monkeypatch.setattr(sampling, "BY_SEARCH", True)
    monkeypatch.setattr(sampling, "nucleus_by_sort", None)
    assert all(map(torch.equal, by_sort, sample_tokens(logits, u, 0.8, 0.9, bias)))
