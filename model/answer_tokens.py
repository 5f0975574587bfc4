"""Which tokens of a response hold its answer, to the character."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from answers.span import Span, answer_spans
from common import pulse
from model.processor import Processor

PARTIAL = "\ufffd"  # what a decoder makes of a character whose last bytes are in the next token


def tokens_of(span: Span, ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> range:
    """The tokens that hold a character of decode(ids)[start:end], or a part of one.

    Token t holds from the first character that those before it don't complete to the last that it touches.
    Both ends grow with t, so they are searched for: log(T) decodings. Bytes that never become a character may
    still become one with the next token, so they are of that one as well.
    """

    def completed(n: int) -> int:
        return len(decode(ids[:n]).rstrip(PARTIAL))

    def touched(n: int) -> int:
        return completed(n) + decode(ids[:n]).endswith(PARTIAL)

    counts = range(len(ids) + 1)
    first = bisect_right(counts, span[0], key=touched) - 1
    return range(first, min(bisect_left(counts, span[1], key=completed), len(ids)))


def answer_tokens(rollout, processor: Processor, answer_format: str) -> Tensor:
    """[B, T] bool, of a Rollout's responses; none where nothing parsed."""
    decode = partial(processor.tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    found = torch.zeros(rollout.tokens.shape, dtype=torch.bool)
    for row, ids, n in zip(found, rollout.tokens.tolist(), rollout.lengths.tolist(), strict=True):
        for span in answer_spans(decode(ids[:n]), answer_format):
            held = tokens_of(span, ids[:n], decode)
            row[held.start : held.stop] = True
        pulse.tick()
    return found.to(rollout.tokens.device)
