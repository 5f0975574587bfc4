"""Every way of decoding gives the tokens of the plainest one."""

import pytest
import torch

from model import decode, kv_cache
from model_utils import (
    generate,
)


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
