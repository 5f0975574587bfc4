"""Decode batches: questions that join while others are decoded change no token."""

from model import decode, kv_cache


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
