"""Packed attention against a loop over sequences.

On a CPU the GPU's way is taken too: in the place of PyTorch's flash attention of sequences of any
length stands the same in plain torch, with the same arguments, which PyTorch's own looks at as well.
"""

import pytest
import torch

from model import packed_attention as packed
from model.packed_attention import Blocks, Layout, Runs, Sequences, packed_attention, packed_attention_by_rows

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
RAGGED = [5, 0, 2, 1, 0, 0, 0, 0, 4, 40, 17, 3]  # tokens of responses; a question without any
ONE_EACH = [1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]


def of_sequences(query, key, value, ends_q, ends_k, causal, scale):
    """Of each sequence: the slices of its queries and keys, its keys and values for every query head, and
    scores [heads, q, k]. As flash attention sees them, the last query beside the last key."""
    R = query.shape[1] // key.shape[1]
    for (q0, q1), (k0, k1) in zip(
        ends_q.unfold(0, 2, 1).tolist(), ends_k.unfold(0, 2, 1).tolist(), strict=True
    ):
        k, v = (x[k0:k1].repeat_interleave(R, 1) for x in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[q0:q1], k) * scale
        if causal:
            later = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool).triu(1 + (k1 - k0) - (q1 - q0))
            scores = scores.masked_fill(later, -torch.inf)
        yield slice(q0, q1), slice(k0, k1), k, v, scores


def check(real, query, key, value, ends_q, ends_k, max_q, max_k, results):
    """What flash attention on a GPU takes as given; and PyTorch's, `real`, gives the same shapes."""
    for ends, most, n in ((ends_q, max_q, len(query)), (ends_k, max_k, len(key))):
        assert ends.dtype == torch.int32 and ends.is_contiguous() and ends[0] == 0 and ends[-1] == n
        assert most >= max(2, int(ends.diff().max())) and isinstance(most, int)
    assert all(x.dtype == query.dtype and x.stride(-1) == 1 for x in (query, key, value))
    assert value.shape == key.shape and query.shape[1] % key.shape[1] == 0
    shapes = [x.shape for x in results]
    assert [x.shape for x in real()[: len(results)]] == shapes


def varlen(query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal, debug, *, scale):
    out, lse = torch.zeros_like(query), query.new_full((query.shape[1], len(query)), torch.nan).float()
    lse = lse.to(torch.promote_types(query.dtype, torch.float32))
    for q, _, _, v, scores in of_sequences(query, key, value, cum_seq_q, cum_seq_k, is_causal, scale):
        lse[:, q] = scores.logsumexp(-1)
        out[q] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
    meta = [x.to("meta") for x in (query, key, value, cum_seq_q, cum_seq_k)]
    rest = max_q, max_k, dropout_p, is_causal, debug
    check(
        lambda: torch.ops.aten._flash_attention_forward(*meta, *rest, scale=scale),
        query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, (out, lse),
    )  # fmt: skip
    assert dropout_p == 0 and debug is False
    return out, lse, torch.empty(2), torch.empty(0), torch.empty(0)


def varlen_backward(
    grad_out, query, key, value, out, logsumexp, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal,
    rng_state, unused, *, scale,
):  # fmt: skip
    assert logsumexp.shape == (query.shape[1], len(query)) and logsumexp.dtype in (
        torch.float32,
        torch.float64,
    )
    assert all(x.is_contiguous() for x in (grad_out, out, logsumexp)) and dropout_p == 0
    found, H = [torch.zeros_like(x) for x in (query, key, value)], key.shape[1]
    for q, k_, k, v, scores in of_sequences(query, key, value, cum_seq_q, cum_seq_k, is_causal, scale):
        weights = (scores - logsumexp[:, q, None]).exp().to(query.dtype)
        g = grad_out[q]
        to_weights = torch.einsum("qhd,khd->hqk", g, v) - (g * out[q]).sum(-1).t()[..., None]
        to_scores = weights * to_weights * scale
        found[0][q] = torch.einsum("hqk,khd->qhd", to_scores, k)
        found[1][k_] = torch.einsum("hqk,qhd->khd", to_scores, query[q]).unflatten(1, (H, -1)).sum(2)
        found[2][k_] = torch.einsum("hqk,qhd->khd", weights, g).unflatten(1, (H, -1)).sum(2)
    meta = [x.to("meta") for x in (grad_out, query, key, value, out, logsumexp, cum_seq_q, cum_seq_k)]
    rest = max_q, max_k, dropout_p, is_causal, rng_state.to("meta"), unused.to("meta")
    check(
        lambda: torch.ops.aten._flash_attention_backward(*meta, *rest, scale=scale),
        query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, found,
    )  # fmt: skip
    return found


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(packed, "kind_for", lambda query: Runs)
    monkeypatch.setattr(packed, "flash_varlen", varlen)
    monkeypatch.setattr(packed, "flash_varlen_backward", varlen_backward)


def make_case(prompts, responses, H, R, d, dtype=torch.float64, device="cpu", seed=1):
    """Layout, query, key, value with gradient, and a weight for each number of the result. responses: of the
    first question, then of the next, equally many."""
    draw = torch.Generator().manual_seed(seed)
    P, B = len(prompts), len(responses)
    prompts, responses = torch.tensor(prompts, device=device), torch.tensor(responses, device=device)
    # those of a question don't stand together
    mixed = torch.randperm(B, generator=draw).to(device)
    question = torch.arange(P, device=device).repeat_interleave(B // P)[mixed]
    layout = Layout(Sequences(prompts), Sequences(responses[mixed]), question)
    N = int(prompts.sum() + responses.sum())
    made = [torch.randn(N, n, d, generator=draw, dtype=torch.float64) for n in (H * R, H, H, H * R)]
    *inputs, weight = (x.to(device, dtype) for x in made)
    return layout, [x.requires_grad_() for x in inputs], weight


def by_loop(layout, inputs, weight, scale):
    """float64: each [prompt | response] on its own, softmax written out -> value and gradients."""
    plain = [x.detach().double().cpu().requires_grad_() for x in inputs]
    R = plain[0].shape[1] // plain[1].shape[1]
    query, key, value = plain[0], *(x.repeat_interleave(R, 1) for x in plain[1:])
    prompts, responses = layout.prompts.lengths.cpu(), layout.responses.lengths.cpu()
    ends, starts = prompts.cumsum(0), int(prompts.sum()) + responses.cumsum(0) - responses
    expected = torch.zeros(query.shape, dtype=torch.float64)
    for p in range(len(prompts)):
        own = [range(int(ends[p] - prompts[p]), int(ends[p]))]
        own += [
            [*own[0], *range(int(starts[b]), int(starts[b] + responses[b]))]
            for b in (layout.question == p).nonzero()[:, 0].tolist()
        ]
        for tokens in own:
            for i, t in enumerate(tokens):
                read = list(tokens[: i + 1])
                scores = torch.einsum("hd,shd->hs", query[t], key[read]) * scale
                expected = expected.index_put(
                    (torch.tensor([t]),), torch.einsum("hs,shd->hd", scores.softmax(-1), value[read])[None]
                )
    (expected * weight.double().cpu()).sum().backward()
    return [expected, *(x.grad for x in plain)]


def assert_equals_the_loop(attend, layout, inputs, weight, tolerance):
    found = attend(*inputs, layout, 0.3)
    (found * weight).sum().backward()
    want = by_loop(layout, inputs, weight, 0.3)
    for got, x in zip([found, *(x.grad for x in inputs)], want, strict=True):
        assert (got.double().cpu() - x).abs().max() <= tolerance * x.abs().max()


@pytest.mark.parametrize("attend", [packed_attention, packed_attention_by_rows])
@pytest.mark.parametrize("responses", [RAGGED, [4] * 12], ids=["ragged", "alike"])
def test_packed_attention_equals_a_loop_over_sequences_in_value_and_gradient(attend, responses):
    H, R = 2, 3
    layout, inputs, weight = make_case([7, 3, 5] if responses is RAGGED else [6] * 3, responses, H, R, 8)
    assert_equals_the_loop(attend, layout, inputs, weight, 1e-13)
    # the queries to a prompt are padded to the most that one prompt has, and no further
    most = torch.tensor(responses).view(3, 4).sum(1).max()
    assert layout.reads(H, R, Blocks)[1].queries.shape[2] == most


@pytest.mark.parametrize("heads", [(2, 3), (1, 1), (3, 1)], ids=str)
@pytest.mark.parametrize("responses", [RAGGED, [4] * 12, ONE_EACH], ids=["ragged", "alike", "one each"])
def test_the_gpus_way_equals_a_loop_over_sequences_in_value_and_gradient(as_on_a_gpu, responses, heads):
    case = make_case([7, 1, 5], responses, *heads, 8)
    assert_equals_the_loop(packed_attention, *case, 1e-13)


def test_the_gpus_way_in_16_bits_costs_what_rounding_costs(as_on_a_gpu):
    case = make_case([7, 3, 5], RAGGED, 2, 3, 8, torch.bfloat16)
    assert_equals_the_loop(packed_attention, *case, 2e-2)


def test_the_gpus_way_reads_no_copy_of_a_key(as_on_a_gpu, monkeypatch):
    """Three launches: prompts; all responses on their prompts; all responses on themselves."""
    calls = []

    def counted(query, key, *rest, **options):
        calls.append((len(query), len(key), key.shape[1]))
        return varlen(query, key, *rest, **options)

    monkeypatch.setattr(packed, "flash_varlen", counted)
    layout, inputs, _ = make_case([7, 3, 5], RAGGED, 2, 3, 8)
    packed_attention(*inputs, layout, 0.3)
    assert calls == [(15, 15, 2), (72, 15, 2), (72, 72, 2)]


def test_a_gradient_may_lie_anyhow(as_on_a_gpu):
    """That of a sum arrives with stride 0."""
    layout, inputs, weight = make_case([7, 3, 5], RAGGED, 2, 3, 8)
    assert_equals_the_loop(packed_attention, layout, inputs, torch.ones_like(weight), 1e-13)
    before = [x.grad.clone() for x in inputs]
    for x in inputs:
        x.grad = None
    packed_attention(*inputs, layout, 0.3).sum().backward()
    assert all(torch.equal(x.grad, want) for x, want in zip(inputs, before, strict=True))


def test_prompts_alone_are_read_too(as_on_a_gpu):
    _, inputs, _ = make_case([7, 3], [0, 0], 2, 3, 8)
    layout = Layout(Sequences(torch.tensor([7, 3])))
    want = packed_attention_by_rows(*inputs, layout, 0.3)
    assert (packed_attention(*inputs, layout, 0.3) - want).abs().max() < 1e-13


def test_which_way_is_taken():
    assert packed.kind_for(torch.zeros(1, 2, 7)) is Blocks  # a CPU, whatever the dtype and width
    for kind in (torch.float32, torch.float64):
        assert packed.kind_for(torch.zeros(1, 2, 64, dtype=kind, device="meta")) is None


# ---- on a GPU only


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("responses", [RAGGED, [40] * 12, ONE_EACH], ids=["ragged", "alike", "one each"])
def test_flash_attention_on_a_gpu_equals_a_loop_over_sequences(responses, dtype):
    case = make_case([70, 1, 5], responses, 2, 7, 128, dtype, "cuda")
    if torch.cuda.get_device_capability() >= (8, 0):
        assert packed.kind_for(case[1][0]) is Runs
    assert_equals_the_loop(packed_attention, *case, 2e-2)


@needs_cuda
def test_float32_on_a_gpu_equals_a_loop_over_sequences():
    case = make_case([7, 3, 5], RAGGED, 2, 3, 16, torch.float32, "cuda")
    assert packed.kind_for(case[1][0]) is None
    assert_equals_the_loop(packed_attention, *case, 1e-4)
