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

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

ATTENTION = "mmupt"  # the name transformers knows it by, once it is registered


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

    def reads(self, H: int, R: int, kind: "type[Blocks] | type[Runs]") -> list["Read"]:
        """Prompts read themselves; responses read their prompt and themselves."""
        if (H, R, kind) not in self._reads:
            n, prompts = self.prompts.total, slice(None, self.prompts.total)
            P, places = len(self.prompts.lengths), self.prompts.coordinates
            keys = kind(*places, P, H, 1)
            found = [Read(prompts, kind(*places, P, H, R), prompts, keys, causal=True)]
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
                readers = kind(self.question[row], before[row] + t, P, H, R)
                bias = None
                if kind is Blocks and self.padding is not None:
                    bias = self.padding.repeat_interleave(H, 0)[:, None, None]
                found.append(Read(slice(n, None), readers, prompts, keys, causal=False, bias=bias))
                groups: Sequence[Tensor] = [lengths]
                if kind is Blocks:  # responses of like length together: else most would be padding
                    _, counts = width_class(lengths).unique_consecutive(return_counts=True)
                    groups = lengths.split(counts.tolist())
                for group in groups:
                    own = Sequences(group)
                    here = slice(n, n + own.total)
                    if own.total:
                        own_readers, own_keys = (
                            kind(*own.coordinates, len(group), H, each) for each in (R, 1)
                        )
                        found.append(Read(here, own_readers, here, own_keys, causal=True))
                    n += own.total
            self._reads[H, R, kind] = found
        return self._reads[H, R, kind]


def width_class(lengths: Tensor) -> Tensor:
    """Of lengths up to 16, 32, 64, ..: the exponent."""
    return lengths.clamp(min=16).log2().ceil()


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, window: int | None = None
) -> Tensor:
    """query [N, H*R, d], key and value [N, H, d] -> [N, H*R, d], differentiable. `window`: the
    newest tokens that one reads, itself included."""
    kind = kind_for(query) if layout.is_causal(window) else None
    if kind is not None:
        return PackedAttention.apply(query, key, value, layout, scale, kind)
    return packed_attention_by_rows(query, key, value, layout, scale, window)


def kind_for(query: Tensor) -> "type[Blocks] | type[Runs] | None":
    """How flash attention takes these [N, H*R, d]; None where it doesn't. On a GPU: 16-bit numbers, a
    compute capability of 8.0 or more, and d a multiple of 8 up to 192, which is what it can
    differentiate on all of those."""
    if query.device.type == "cpu":
        return Blocks
    fits = query.dtype in (torch.bfloat16, torch.float16) and query.shape[-1] in range(8, 193, 8)
    if not (fits and query.is_cuda and torch.backends.cuda.is_flash_attention_available()):
        return None
    return Runs if torch.cuda.get_device_capability(query.device) >= (8, 0) else None


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


# PyTorch's flash attention as its two halves: they give and take the log-sum-exp, which joining two
# key sets needs. On a CPU of blocks, on a GPU of sequences of any length (these are what
# torch.nn.attention.varlen calls, whose own gradient takes no joined log-sum-exp)
flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
flash_varlen = torch.ops.aten._flash_attention_forward
flash_varlen_backward = torch.ops.aten._flash_attention_backward


class PackedAttention(torch.autograd.Function):
    """Response tokens attend to two sets of keys, prompt and own, joined by their log-sum-exp:

        out = sum_s exp(lse_s - lse) out_s,   lse = log sum_s exp(lse_s)

    Each part's gradient is flash attention's own, given the joined out and lse: its weights are
    then exp(score - lse), those of the joint softmax (as in ring attention, arXiv 2310.01889). All
    responses to a prompt read it as one sequence of queries; no key is repeated, and no score
    matrix stands in memory.
    """

    @staticmethod
    def forward(ctx, query, key, value, layout, scale, kind):
        reads = layout.reads(key.shape[1], query.shape[1] // key.shape[1], kind)
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
        return *grads, None, None, None


@dataclass(frozen=True)
class Read:
    """Which tokens read which: flash attention of blocks or runs, from flat tokens and back to them."""

    readers: slice
    queries: "Blocks | Runs"
    tokens: slice
    keys: "Blocks | Runs"
    causal: bool
    bias: Tensor | None = None  # of blocks: [A*H, 1, 1, S], -inf where a key doesn't count

    def forward(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Flat query [N, H*R, d], key, value [N, H, d] -> readers' out [n*H*R, d], lse [n*H*R]."""
        q, k, v = self.fill(query, key, value)
        out, lse = self.queries.flash(self, q, k, v, scale)
        return self.queries.take(out), self.queries.take(lse)

    def backward(self, grad, query, key, value, out, lse, scale: float, grads: list[Tensor]) -> None:
        """Adds the gradients of flat query, key and value to `grads`, given joined out and lse."""
        g, o, total = (self.queries.fill(x[self.readers]) for x in (grad, out, lse[..., None]))
        q, k, v = self.fill(query, key, value)
        found = self.queries.flash_backward(self, g, q, k, v, o, total[..., 0], scale)
        grads[0][self.readers] += self.queries.take(found[0]).view_as(query[self.readers])
        for to, x in zip(grads[1:], found[1:], strict=True):
            to[self.tokens] += self.keys.take(x).view_as(to[self.tokens])

    def fill(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys, values = (self.keys.fill(x[self.tokens]) for x in (key, value))
        return self.queries.fill(query[self.readers]), keys, values


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

    def flash(self, read: Read, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        k, v = (x.expand(-1, q.shape[1], -1, -1) for x in (k, v))  # R query heads read them, by stride 0
        return flash(q, k, v, 0.0, read.causal, attn_mask=bias_as(read, q), scale=scale)

    def flash_backward(self, read: Read, g, q, k, v, out, lse, scale: float) -> tuple[Tensor, ...]:
        k, v = (x.expand(-1, q.shape[1], -1, -1) for x in (k, v))
        mask = bias_as(read, q)
        found = flash_backward(g, q, k, v, out, lse, 0.0, read.causal, attn_mask=mask, scale=scale)
        return found[0], *(x.sum(1, keepdim=True) for x in found[1:])


def bias_as(read: Read, q: Tensor) -> Tensor | None:
    return None if read.bias is None else read.bias.to(q.dtype)


class Runs:
    """Flat heads [n, heads, ..] <-> the same with the tokens of each sequence one after the other."""

    def __init__(self, sequence: Tensor, t: Tensor, sequences: int, H: int, R: int):
        """As Blocks; the heads are left as they are."""
        lengths = torch.bincount(sequence, minlength=sequences)
        ends = F.pad(lengths.cumsum(0), (1, 0))
        self.ends = ends.int()  # [A+1]: sequence i is at ends[i] .. ends[i+1]
        # the longest, or more. Of 1 flash attention would take every sequence to have one token
        self.width = max(2, int(lengths.max()))
        self.place = ends[sequence] + t  # [n], where each token goes
        self.order = torch.argsort(self.place)
        self.moved = bool((self.place.diff() < 0).any())

    def fill(self, x: Tensor) -> Tensor:
        return x.index_select(0, self.order) if self.moved else x

    def take(self, run: Tensor) -> Tensor:
        """[n, heads, ..] -> [n*heads, ..]"""
        return (run.index_select(0, self.place) if self.moved else run).flatten(0, 1)

    def flash(self, read: Read, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        out, lse, *_ = flash_varlen(q, k, v, *self.bounds(read), 0.0, read.causal, False, scale=scale)
        return out, lse.t()  # [heads, n] in memory

    def flash_backward(self, read: Read, g, q, k, v, out, lse, scale: float) -> tuple[Tensor, ...]:
        state = (
            torch.zeros(2, dtype=torch.uint64, device=q.device),
            q.new_empty(0),
        )  # of dropout: there is none
        g, lse = g.contiguous(), lse.t().contiguous()  # read as they lie in memory, whatever their strides
        bounds = self.bounds(read)
        return flash_varlen_backward(g, q, k, v, out, lse, *bounds, 0.0, read.causal, *state, scale=scale)

    def bounds(self, read: Read) -> tuple[Tensor, Tensor, int, int]:
        keys = cast("Runs", read.keys)
        return self.ends, keys.ends, self.width, keys.width


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
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


def register_attention() -> str:
    """Makes `attention` known to transformers -> the name that a model asks for it by."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    return ATTENTION
