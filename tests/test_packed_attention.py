"""Packed attention against a loop over sequences."""

import pytest
import torch

from model.packed_attention import Layout, Sequences, packed_attention, packed_attention_by_rows


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
