"""Decode batches: questions that join while others are decoded change no token."""

from collections import Counter

import torch
from families_made import RECIPES, make_checkpoint
from torch.utils._python_dispatch import TorchDispatchMode

from model import decode, kv_cache
from model_utils import generate, load_model, load_processor


def test_questions_that_join_change_no_token(decodes_alike, monkeypatch):
    monkeypatch.setattr(decode, "REFILL_BELOW", 0.9)
    monkeypatch.setattr(kv_cache, "COPY_UP_TO", 0)
    batches = count_calls(monkeypatch, decode.DecodeBatch, "__init__")
    together = count_calls(monkeypatch, decode.DecodeStep, "__call__", lambda self, batches: len(batches))
    decodes_alike(memory=1_100_000)
    assert len(batches) > 2 and max(together) > 1


def count_calls(monkeypatch, cls, name, what=lambda *args: 1) -> list:
    """Every call of cls.name from now on, as what(*args) says of it."""
    calls, plain = [], getattr(cls, name)

    def counted(*args, **kwargs):
        calls.append(what(*args[: what.__code__.co_argcount] if what.__code__.co_argcount else ()))
        return plain(*args, **kwargs)

    monkeypatch.setattr(cls, name, counted)
    return calls


def test_copies_that_autocast_keeps_are_counted_as_autocast_makes_them(tmp_path, mixed_examples):
    """Of a decoder that decodes by its own forward, all but the head's: those of one rollout's casts of
    weights that are not made again."""
    make_checkpoint(tmp_path, RECIPES["gemma3"])
    model, processor = (
        load_model(str(tmp_path), compute=torch.bfloat16),
        load_processor(str(tmp_path)),
    )
    weights = {p.data_ptr(): p for p in model.parameters()}
    head = model.get_output_embeddings().weight
    casts = Counter()

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") == torch.bfloat16:
                casts[args[0].data_ptr()] += 1
            return func(*args, **kwargs or {})

    with Casts():
        generate(model, processor, mixed_examples, 2, 6)
    kept = [weights[at] for at, times in casts.items() if at in weights and weights[at] is not head]
    # the convolution over patches is cast where its own forward runs, and the projector's matrix too
    assert all(casts[p.data_ptr()] == 1 for p in kept)
    made, counted = sum(2 * p.numel() for p in kept), decode.copied_by_autocast(model)
    assert 0.9 * made <= counted <= 1.1 * made and counted > 50_000
    assert decode.copied_by_autocast(load_model(str(tmp_path))) == 0  # of one dtype


def test_fused_layers_leave_autocast_nothing_to_copy(random_folder):
    assert decode.copied_by_autocast(load_model(str(random_folder), compute=torch.bfloat16)) == 0


def test_what_is_spoken_for_is_not_handed_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (900, 2000))
    device = torch.device("cuda")
    assert [decode.memory_for(device, n) for n in (0, 400, 5000)] == [700, 420, 0]
