"""Attention where G responses share a prompt: all at once for training, by token for sampling.

A batch of P questions with G responses each is one flat row of real tokens, all prompts first, then
all responses, no padding between them. A prompt token reads its prompt up to itself; a response
token reads its whole prompt and its own response up to itself. So prompts and their images cost
once, and nothing is computed on padding but inside attention. Two exceptions take a slower way by
masks: layers with a sliding window shorter than the text, and prompts whose images are read in both
directions.

Letters: P questions, G samples each, B = P*G responses, L longest prompt, T longest response, N
tokens in the row, H key/value heads, R query heads per key/value head, d width of a head.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "mmupt"  # the name transformers knows it by


@dataclass(frozen=True)
class Sequences:
    """A sequences one after the other, [total, ..], and as a padded block, [A, width, ..]."""

    lengths: Tensor  # [A]

    @cached_property
    def width(self) -> int:
        return int(self.lengths.max())

    @cached_property
    def total(self) -> int:
        return int(self.lengths.sum())

    @cached_property
    def real(self) -> Tensor:
        """[A, width] bool: where the block holds tokens."""
        return torch.arange(self.width, device=self.lengths.device) < self.lengths[:, None]

    @cached_property
    def coordinates(self) -> tuple[Tensor, Tensor]:
        """[total] each: the sequence of each token, and its place in it."""
        return tuple(self.real.nonzero().t())

    @cached_property
    def place(self) -> Tensor | None:
        """[total]: each token's place in the flattened block; None where there is no padding."""
        return None if self.total == self.real.numel() else self.real.flatten().nonzero()[:, 0]

    def pad(self, x: Tensor) -> Tensor:
        """[total, ..] -> [A, width, ..], zeros as padding."""
        if self.place is not None:
            x = x.new_zeros(self.real.numel(), *x.shape[1:]).index_copy(0, self.place, x)
        return x.view(*self.real.shape, *x.shape[1:])

    def unpad(self, block: Tensor) -> Tensor:
        """[A, width, ..] -> [total, ..]"""
        x = block.flatten(0, 1)
        return x if self.place is None else x.index_select(0, self.place)


@dataclass(frozen=True)
class Layout:
    """Which tokens of a flat row belong to which prompt and response."""

    prompts: Sequences  # P
    # B, in any order; best by `width_class`. None where there are prompts alone
    responses: Sequences | None = None
    question: Tensor | None = None  # [B], each response's prompt
    # [P, L], tokens of one prompt with the same number >= 0 read each other
    blocks: Tensor | None = None
    _reads: dict = field(default_factory=dict, init=False, compare=False)

    @cached_property
    def padding(self) -> Tensor | None:
        """[P, L] float32, -inf on the padding of prompts: added to scores of what reads them."""
        if self.prompts.place is None:
            return None
        real = self.prompts.real
        return torch.zeros(real.shape, device=real.device).masked_fill_(~real, -torch.inf)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest prompt with its response."""
        if self.responses is None:
            return self.prompts.width
        return max(
            self.prompts.width, int((self.prompts.lengths[self.question] + self.responses.lengths).max())
        )

    def is_causal(self, window: int | None) -> bool:
        """Whether tokens read all that stands before them in prompt and response, and no more."""
        return self.blocks is None and (window is None or self.longest <= window)

    def prompt_mask(self, window: int | None) -> Tensor:
        """[P, 1, L, L] bool: what each prompt token reads of its prompt. `window`: of so many
        tokens, itself the last."""
        place = torch.arange(self.prompts.width, device=self.prompts.lengths.device)
        back = place[:, None] - place
        mask = (back >= 0)[None]
        if self.blocks is not None:
            mask = mask | (self.blocks[:, :, None] == self.blocks[:, None]) & (self.blocks >= 0)[:, None]
        # also within an image, as in transformers
        mask = mask & (back < (window or self.longest + 1))
        return mask[:, None].expand(len(self.prompts.lengths), -1, -1, -1)

    def response_mask(self, window: int | None) -> Tensor:
        """[B, 1, T, L+T] bool: what each response token reads of [its prompt | its response]."""
        if self.responses is None or self.question is None:
            raise ValueError("there are prompts alone, and no response to mask")
        lengths, T = self.prompts.lengths[self.question], self.responses.width
        t, place = (torch.arange(n, device=lengths.device) for n in (T, self.prompts.width))
        to_prompt = self.prompts.real[self.question][:, None].expand(-1, T, -1)
        to_own = (t <= t[:, None]).expand(len(lengths), -1, -1)
        if window is not None:
            to_prompt = to_prompt & (lengths[:, None, None] + t[:, None] - place < window)
            to_own = to_own & (t[:, None] - t < window)
        return torch.cat([to_prompt, to_own], -1)[:, None]

    def reads(self, H: int, R: int) -> list["Read"]:
        """Prompts read themselves; responses read their prompt and themselves."""
        if (H, R) not in self._reads:
            n, prompts = self.prompts.total, slice(None, self.prompts.total)
            P, places = len(self.prompts.lengths), self.prompts.coordinates
            keys = Blocks(*places, P, H, 1)
            found = [Read(prompts, Blocks(*places, P, H, R), prompts, keys, causal=True)]
            if self.responses is not None and self.question is not None:
                # all responses to a prompt are one sequence of queries to it
                row, t = self.responses.coordinates
                lengths = self.responses.lengths
                order = torch.argsort(self.question, stable=True)
                before = torch.empty_like(lengths)
                before[order] = lengths[order].cumsum(0) - lengths[order]
                total = torch.zeros_like(self.prompts.lengths).index_add_(0, self.question, lengths)
                # tokens of the question's earlier responses
                before -= (total.cumsum(0) - total)[self.question]
                readers = Blocks(self.question[row], before[row] + t, P, H, R)
                bias = None if self.padding is None else self.padding.repeat_interleave(H, 0)[:, None, None]
                found.append(Read(slice(n, None), readers, prompts, keys, causal=False, bias=bias))
                # responses of like length together: else most would be padding
                _, counts = width_class(lengths).unique_consecutive(return_counts=True)
                for group in lengths.split(counts.tolist()):
                    own = Sequences(group)
                    here = slice(n, n + own.total)
                    if own.total:
                        own_readers, own_keys = (
                            Blocks(*own.coordinates, len(group), H, each) for each in (R, 1)
                        )
                        found.append(Read(here, own_readers, here, own_keys, causal=True))
                    n += own.total
            self._reads[H, R] = found
        return self._reads[H, R]


def width_class(lengths: Tensor) -> Tensor:
    """Of lengths up to 16, 32, 64, ..: the exponent."""
    return lengths.clamp(min=16).log2().ceil()


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, window: int | None = None
) -> Tensor:
    """query [N, H*R, d], key and value [N, H, d] -> [N, H*R, d], differentiable. `window`: the
    newest tokens that one reads, itself included."""
    if query.device.type == "cpu" and layout.is_causal(window):
        return PackedAttention.apply(query, key, value, layout, scale)
    return packed_attention_by_rows(query, key, value, layout, scale, window)


def packed_attention_by_rows(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, window: int | None = None
) -> Tensor:
    """The same by public functions alone, on any device and for any mask: each response is a row
    with its own copy of the prompt's keys."""
    n, R = layout.prompts.total, query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(R, 1), value.repeat_interleave(R, 1)
    # [P, H*R, L, d]
    q, k, v = (layout.prompts.pad(x[:n]).transpose(1, 2) for x in (query, key, value))
    # right padding lies after every real token, so plain causal attention is right for all of those
    plain = layout.is_causal(window)
    mask = None if plain else layout.prompt_mask(window)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=plain, scale=scale)
    out = layout.prompts.unpad(out.transpose(1, 2))
    if layout.responses is None:
        return out
    # [B, H*R, T, d]
    rows = [layout.responses.pad(x[n:]).transpose(1, 2) for x in (query, key, value)]
    k, v = (torch.cat([x[layout.question], own], 2) for x, own in zip((k, v), rows[1:], strict=True))
    own = F.scaled_dot_product_attention(rows[0], k, v, attn_mask=layout.response_mask(window), scale=scale)
    return torch.cat([out, layout.responses.unpad(own.transpose(1, 2))])


# PyTorch's CPU flash attention as its two halves: they give and take the log-sum-exp, which joining
# two key sets needs
flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class PackedAttention(torch.autograd.Function):
    """Response tokens attend to two sets of keys, prompt and own, joined by their log-sum-exp:

        out = sum_s exp(lse_s - lse) out_s,   lse = log sum_s exp(lse_s)

    Each part's gradient is flash attention's own, given the joined out and lse: its weights are
    then exp(score - lse), those of the joint softmax (as in ring attention, arXiv 2310.01889). All
    responses to a prompt read it as one sequence of queries; no key is repeated, and no score
    matrix stands in memory.
    """

    @staticmethod
    def forward(ctx, query, key, value, layout, scale):
        reads = layout.reads(key.shape[1], query.shape[1] // key.shape[1])
        outs, lses = zip(*(read.forward(query, key, value, scale) for read in reads), strict=True)
        if len(reads) > 1:
            to_prompt, own = (outs[1], lses[1]), (torch.cat(outs[2:]), torch.cat(lses[2:]))
            lse = torch.logaddexp(to_prompt[1], own[1])
            shares = [(part - lse).exp()[:, None].to(query.dtype) for _, part in (to_prompt, own)]
            outs, lses = (outs[0], torch.addcmul(to_prompt[0] * shares[0], own[0], shares[1])), (lses[0], lse)
        out = torch.cat(outs).view(query.shape)
        ctx.save_for_backward(query, key, value, out, torch.cat(lses).view(query.shape[:2]))
        ctx.reads, ctx.scale = reads, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        query, key, value, out, lse = ctx.saved_tensors
        grads = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (query, key, value)]
        for read in ctx.reads:
            read.backward(grad, query, key, value, out, lse, ctx.scale, grads)
        return *grads, None, None


@dataclass(frozen=True)
class Read:
    """Which tokens read which: flash attention of blocks, from flat tokens and back to them."""

    readers: slice
    queries: "Blocks"
    tokens: slice
    keys: "Blocks"
    causal: bool
    bias: Tensor | None = None  # [A*H, 1, 1, S], -inf where a key doesn't count

    def forward(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Flat query [N, H*R, d], key, value [N, H, d] -> readers' out [n*H*R, d], lse [n*H*R]."""
        q = self.queries.fill(query[self.readers])
        # the R query heads of a block read the same keys, by stride 0
        k, v = (self.keys.fill(x[self.tokens]).expand(-1, q.shape[1], -1, -1) for x in (key, value))
        out, lse = flash(q, k, v, 0.0, self.causal, attn_mask=self.bias_as(q), scale=scale)
        return self.queries.take(out), self.queries.take(lse)

    def backward(self, grad, query, key, value, out, lse, scale: float, grads: list[Tensor]) -> None:
        """Adds the gradients of flat query, key and value to `grads`, given joined out and lse."""
        g, q, o, total = (self.queries.fill(x[self.readers]) for x in (grad, query, out, lse[..., None]))
        k, v = (self.keys.fill(x[self.tokens]).expand(-1, q.shape[1], -1, -1) for x in (key, value))
        bias = self.bias_as(q)
        found = flash_backward(g, q, k, v, o, total[..., 0], 0.0, self.causal, attn_mask=bias, scale=scale)
        grads[0][self.readers] += self.queries.take(found[0]).view_as(query[self.readers])
        for to, x in zip(grads[1:], found[1:], strict=True):
            to[self.tokens] += self.keys.take(x.sum(1, keepdim=True)).view_as(to[self.tokens])

    def bias_as(self, q: Tensor) -> Tensor | None:
        return None if self.bias is None else self.bias.to(q.dtype)


class Blocks:
    """Flat heads [n, H*R, ..] <-> padded blocks [A*H, R, S, ..] by sequence and key/value head."""

    def __init__(self, sequence: Tensor, t: Tensor, sequences: int, H: int, R: int):
        """sequence, t [n]: the sequence of each token, and its place in it."""
        S, heads = int(t.max()) + 1, torch.arange(H * R, device=t.device)
        self.shape = (sequences * H, R, S)
        # [n*H*R], where each head's row goes
        self.place = ((sequence[:, None] * H * R + heads) * S + t[:, None]).flatten()

    def fill(self, x: Tensor) -> Tensor:
        """[n, H*R, ..] -> [A*H, R, S, ..], zeros as padding."""
        A, R, S = self.shape
        x = x.flatten(0, 1)
        block = x.new_zeros(A * R * S, *x.shape[1:]) if A * R * S > len(x) else torch.empty_like(x)
        return block.index_copy_(0, self.place, x).view(*self.shape, *x.shape[1:])

    def take(self, block: Tensor) -> Tensor:
        """[A*H, R, S, ..] -> [n*H*R, ..]"""
        return block.reshape(-1, *block.shape[3:]).index_select(0, self.place)


# --- transformers' attention interface ------------------------------------------------------------


def attention(
    module,
    query,
    key,
    value,
    attention_mask,
    scaling=None,
    layout=None,
    caches=None,
    sliding_window=None,
    **kwargs,
):
    """transformers' attention interface, [batch, heads, tokens, d] -> [batch, tokens, heads, d].

    `layout` and `caches` are keyword arguments of the decoder's forward, which transformers hands
    through to here. With `layout`: one flat row of many sequences, also stored in the one cache
    that may come along, layer by layer in order. With `caches` alone: the newest token of every
    row, cache by cache. With neither: plain sdpa.
    """
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotation may have widened them
    if layout is not None:
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [N, heads, d]
        for cache in caches or ():
            cache.store_prompt(k, v)
        return packed_attention(q, k, v, layout, scaling, sliding_window)[None], None
    if caches is not None:
        pieces = [x[:, :, 0].split([len(cache) for cache in caches]) for x in (query, key, value)]
        out = [
            cache.attend(module.layer_idx, *rows, scaling, sliding_window)
            for cache, *rows in zip(caches, *pieces, strict=True)
        ]
        return torch.cat(out).unflatten(1, (query.shape[1], -1))[:, None], None
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
