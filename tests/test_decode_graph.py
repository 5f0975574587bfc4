"""The captured decode step, acted out on a CPU: replayed steps give what plain steps give, to the bit, and
what would break a capture or a replay on a GPU is seen."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from lora_made import adapted
from recorded_graph import RecordedGraph, Recorder, Refused

import model_utils
from model import decode, kv_cache, sampling
from model_utils import generate, load_model

OPTIONS = dict(num_samples=6, max_new_tokens=40, temperature=1.5, seed=2)
# bytes; the least lets questions in one by one, those between let them join while others decode
BUDGETS = [0, 1, 800_000, 1_300_000]


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(kv_cache, "BY_KERNEL", True)
    monkeypatch.setattr(sampling, "BY_SEARCH", True)
    monkeypatch.setattr(decode, "REFILL_BELOW", 0.9)
    monkeypatch.setattr(RecordedGraph, "made", [])
    monkeypatch.setattr(RecordedGraph, "refused", [])


@pytest.fixture(scope="module")
def processor(processor):
    """One by which responses end soon, so that rows leave."""
    return replace(processor, eos_ids=[*processor.eos_ids, *range(60, 75)])


@pytest.fixture
def together(monkeypatch):
    """How many batches each step had."""
    seen, plain = [], decode.DecodeStep.__call__
    monkeypatch.setattr(
        decode.DecodeStep, "__call__", lambda self, batches: seen.append(len(batches)) or plain(self, batches)
    )
    return seen


@pytest.fixture
def both_ways(processor, mixed_examples, monkeypatch):
    """Samples by plain steps and by replayed ones."""

    def sample(model, **options):
        found = []
        for new_graph in (None, RecordedGraph):
            with monkeypatch.context() as patch:
                patch.setattr(
                    model_utils, "decode", partial(decode.decode, graphs=lambda _, new=new_graph: new)
                )
                found.append(generate(model, processor, mixed_examples, **OPTIONS | options))
        return found

    return sample


def assert_alike(plain, replayed) -> None:
    assert not RecordedGraph.refused
    assert len(set(plain.lengths.tolist())) > 4 or plain.temperature == 0  # rows left at different times
    for name in ("lengths", "finished", "tokens", "logprobs"):
        assert torch.equal(getattr(plain, name), getattr(replayed, name)), name
    assert sum(graph.replays for graph in RecordedGraph.made) > 5


WEIGHTS = {
    "float32": {},
    "bfloat16 of float32": dict(compute=torch.bfloat16),
    "bfloat16": dict(dtype=torch.bfloat16),
}


@pytest.mark.parametrize("how", [{}, dict(top_p=0.9, max_new_tokens=24), dict(temperature=0.0)], ids=str)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_replayed_steps_are_plain_steps_to_the_bit(random_folder, weights, how, both_ways):
    plain, replayed = both_ways(load_model(str(random_folder), **WEIGHTS[weights]), memory=1_000_000, **how)
    assert_alike(plain, replayed)
    # anew when rows left or joined; when they do is for the samples to say, which rounding changes
    assert len(RecordedGraph.made) > (2 if weights == "float32" else 0)


@pytest.mark.parametrize("memory", BUDGETS)
def test_questions_that_join_and_rows_that_leave_change_no_bit(model, memory, both_ways, together):
    assert_alike(*both_ways(model, memory=memory))
    assert (max(together) > 1) == (memory > 1)  # batches in one step


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_with_an_adapter_too(random_folder, dtype, both_ways):
    pytest.importorskip("peft", reason="pip install peft")
    policy, reference = adapted(random_folder, dtype=dtype, noise=0.03)
    assert_alike(*both_ways(policy, memory=1_000_000))
    with reference() as base:
        assert_alike(*both_ways(base))


def test_a_decoders_own_forward_is_never_captured(model, both_ways, monkeypatch):
    monkeypatch.setattr(model, "standard_decoder", False)
    plain, replayed = both_ways(model)
    assert torch.equal(plain.tokens, replayed.tokens) and not RecordedGraph.made


# --- a capture that fails


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory.\nTried"), RuntimeError("")])
def test_a_failed_capture_is_said_in_one_line_and_plain_steps_go_on(
    model, error, both_ways, monkeypatch, capsys
):
    def fail(self, run):
        run()  # as far as it goes: on a GPU it did nothing
        raise error

    monkeypatch.setattr(RecordedGraph, "capture", lambda self, run: undone(fail, self, run))
    plain, replayed = both_ways(model, max_new_tokens=12)
    assert torch.equal(plain.tokens, replayed.tokens) and torch.equal(plain.logprobs, replayed.logprobs)
    assert len(RecordedGraph.made) == 1  # and no other is tried
    line = (
        f"decoding goes on without a CUDA graph: {'CUDA out of memory.' if str(error) else 'RuntimeError'}\n"
    )
    assert capsys.readouterr().err == line


def undone(capture, graph, run) -> None:
    recorder = Recorder()
    try:
        with recorder:
            capture(graph, run)
    finally:
        recorder.undo()


def test_an_interrupt_while_capturing_is_no_failed_capture(model, both_ways, monkeypatch):
    def interrupt(self, run):
        raise KeyboardInterrupt

    monkeypatch.setattr(RecordedGraph, "capture", interrupt)
    with pytest.raises(KeyboardInterrupt):
        both_ways(model)


# --- planted faults


def after(name, then):
    """`DecodeBatch.name`, and then something more of the batch and its arguments."""
    plain = getattr(decode.DecodeBatch, name)

    def changed(self, *args):
        out = plain(self, *args)
        then(self, *args)
        return out

    return decode.DecodeBatch, name, changed


def rotation_by_the_hosts_count(self):
    of_step = self.rope_tables[self.cache.steps].index_select(0, self.cache.question)
    return decode.CachedRows(self.cache, of_step[:, None].chunk(2, -1))


def draws_by_the_hosts_count(plain):
    def sample_next(self, logits):
        draws, slot = self.draws, self.cache.slot
        self.draws = draws[self.cache.steps + (len(self.cache.own[0]) > 0) - 1].expand_as(draws)
        plain(self, logits)
        self.draws, self.cache.slot = draws, slot

    return sample_next


def token_in_another_place(plain):
    def sample_next(self, logits):
        place, before = self.token, self.token.clone()
        plain(self, logits)
        self.token = place.clone()
        place.copy_(before)

    return sample_next


def count_of_the_host(plain):
    def read(self, *args):
        held, self.count = self.count, self.count.new_full((1,), self.steps + 1)
        out = plain(self, *args)
        self.count = held
        return out

    return read


def keys_moved_after_a_step(plain):
    def step(self, batches):
        plain(self, batches)
        for batch in batches:
            batch.cache.own[0] = tuple(x.clone() for x in batch.cache.own[0])

    return step


def a_graph_kept_too_long(plain):
    return lambda self: plain(self) if getattr(self, "graph", None) is None else None


Batch, Step, Cache = decode.DecodeBatch, decode.DecodeStep, kv_cache.KVCache
DIFFERS = {
    "the rotation of the host's step": (Batch, "newest", lambda plain: rotation_by_the_hosts_count),
    "uniforms of the host's step": (Batch, "sample_next", draws_by_the_hosts_count),
    "a token that is put elsewhere": (Batch, "sample_next", token_in_another_place),
    "keys counted by the host": (Cache, "read", count_of_the_host),
    "keys moved between replays": (Step, "__call__", keys_moved_after_a_step),
    "a graph of rows that left": (Step, "rows_changed", a_graph_kept_too_long),
}


@pytest.mark.parametrize("fault", DIFFERS)
def test_a_step_that_holds_on_to_what_was_is_seen(fault, model, both_ways, monkeypatch):
    cls, name, change = DIFFERS[fault]
    monkeypatch.setattr(cls, name, change(getattr(cls, name)))
    try:
        plain, replayed = both_ways(model, memory=1_000_000)
    except (RuntimeError, IndexError) as error:  # shapes of what is no longer there
        assert "a graph of rows" in fault, error
        return
    assert not RecordedGraph.refused
    with pytest.raises(AssertionError):
        assert_alike(plain, replayed)


WAITS = {
    "asks whether any is live": lambda batch, logits: bool(batch.live.any()),
    "counts those that live": lambda batch, logits: int(batch.live.sum()),
    "lists those that live": lambda batch, logits: batch.live.nonzero(),
    "takes rows by a mask": lambda batch, logits: batch.token[batch.live],
    "writes rows by a mask": lambda batch, logits: batch.token.__setitem__(batch.live, batch.token[:1]),
    "reads the tokens": lambda batch, logits: batch.token.tolist(),
    "copies a number from the host": lambda batch, logits: torch.tensor([batch.cache.steps]),
    "counts tokens": lambda batch, logits: batch.token.bincount(),
    "repeats by a tensor": lambda batch, logits: batch.token.repeat_interleave(batch.lengths),
    "compares all": lambda batch, logits: torch.equal(batch.token, batch.lengths),
}


@pytest.mark.parametrize("fault", WAITS)
def test_a_step_that_waits_for_the_device_is_refused(fault, model, both_ways, monkeypatch, capsys):
    monkeypatch.setattr(*after("sample_next", WAITS[fault]))
    plain, replayed = both_ways(model, max_new_tokens=6)
    assert len(RecordedGraph.refused) == 1 and isinstance(RecordedGraph.refused[0], Refused)
    assert torch.equal(plain.tokens, replayed.tokens)  # by plain steps
    assert capsys.readouterr().err.count("\n") == 1
