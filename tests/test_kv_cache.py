"""Every way of reading the cache gives the same tokens."""

import pytest

from model import kv_cache


@pytest.mark.parametrize("way", ["kernel", "shared", "copied"])
def test_every_way_of_reading_the_cache_gives_the_same_tokens(decodes_alike, monkeypatch, way):
    """By the kernel as on a GPU; with prompts shared by their samples, or copied into rows."""
    if way == "kernel":
        monkeypatch.setattr(kv_cache, "BY_KERNEL", True)
    else:
        monkeypatch.setattr(kv_cache, "COPY_UP_TO", 0 if way == "shared" else 10**6)
    decodes_alike()
