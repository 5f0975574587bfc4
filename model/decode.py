"""Sampling, one token at a time for all rows, with a cache that the samples of a question share.

    decode(model, prompts, num_samples, max_new_tokens, sampling, draws, memory, bar) -> Decoded

Questions that were read together are a batch and decode in step. Samples that ended leave their
batch's batch, and once enough memory is free the next questions are read and join as another batch:
one step is one pass over the rows of all batches.

A step does only what it must. Where a decoder is made of the usual parts (`fused_layers`), its
layers are a few calls each: query, key and value from one product, gate and up from another, the
attention of model/packed_attention.py. Any other decoder takes the same step through its own
forward. On a GPU the step is captured as a CUDA graph and replayed until rows leave or join.

Letters: P questions, G samples, B = P*G responses, N rows that decode, T max_new_tokens, V
vocabulary, D width, H key/value heads, R query heads for each of them, d width of a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from model.batch import next_position
from model.families import no_mask, position_ids, rope_positions, rope_table, text_model
from model.kv_cache import KVCache, shares_prompts
from model.layers import (
    Layer,
    forward_packed,
    fused_layers,
    is_standard_layer,
    linear_of,
    rms_norm,
    rope_tables,
    rotated_heads,
    run_layers,
    uses_fused_layers,
)
from model.packed_attention import Layout, Sequences
from model.sampling import Sampling, sample_tokens

CHECK_EVERY_CUDA = 16  # steps between looks at which rows have ended: each look waits for the GPU

MAX_LOGIT_DIFFERENCE = 0.02  # largest difference, as a share of the largest logit, between two ways of one step: bfloat16 rounds by 0.004

DROP_BELOW = 0.75  # rows leave once the batch would shrink to this share: each time costs a copy of the cache

FEW_ROWS = 8  # so few take as long as one: none leaves before all have ended

MEMORY_CPU = 2**31  # bytes of cache and logits of a rollout

READ_AT_ONCE = 16384  # prompt tokens of one forward

REFILL_BELOW = 0.5  # share of the memory in use below which waiting questions join


# --- Questions that decode in step ----------------------------------------------------------------


class DecodeBatch:
    """Questions read together; their rows, question by question, hold one token more at every
    step."""

    def __init__(
        self,
        model,
        prompts,
        num_samples: int,
        max_new_tokens: int,
        sampling: Sampling,
        layers: list[Layer] | None = None,
    ):
        """Reads the prompts, each once, and their images."""
        P, device = len(prompts.lengths), prompts.lengths.device
        self.sampling = sampling
        layout = Layout(Sequences(prompts.lengths), blocks=prompts.blocks)
        self.cache = KVCache(layout, num_samples, max_new_tokens)
        real = layout.prompts.real
        hidden = forward_packed(
            model,
            layers,
            prompts.ids[real][None],
            prompts,
            prompts.positions[:, real][:, None],
            layout,
            self.cache,
        )
        self.prompt_end = hidden[prompts.lengths.cumsum(0) - 1]  # [P, D]
        self.position = next_position(prompts)  # [P]
        self.rope_tables = torch.zeros(max_new_tokens, P, 0, device=device)
        if uses_fused_layers(model):
            later = self.position + torch.arange(max_new_tokens, device=device)[:, None]  # [T, P]
            self.rope_tables = rope_tables(*rope_table(model, later[None]))  # [T, P, 2 d]
        N = P * num_samples
        self.token = torch.zeros(N, dtype=torch.long, device=device)
        self.live = torch.ones(N, dtype=torch.bool, device=device)
        self.lengths = torch.zeros(N, dtype=torch.long, device=device)
        self.tokens = torch.zeros(max_new_tokens, N, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(max_new_tokens, N, device=device)

    def __len__(self) -> int:
        return len(self.token)

    def start(self, rows: Tensor, draws: Tensor, head: tuple[Tensor, Tensor | None]) -> None:
        """Draws the first tokens. rows [N]: where each row's result goes; draws [N, T] in [0,
        1)."""
        self.rows, self.draws = rows, draws.t().contiguous()
        self.accept(F.linear(self.prompt_end, *head).index_select(0, self.cache.question))

    @property
    def positions(self) -> Tensor:
        """[N] of the newest token."""
        return (self.position + self.cache.slot)[self.cache.question]

    def attend(self, i: int, layer: Layer, qkv: Tensor) -> Tensor:
        """qkv [N, (H*R + 2 H) d] -> [N, H*R*d]"""
        heads = rotated_heads(layer, qkv, self.cache.prompt[i][0].shape[1], self.rotation)
        return self.cache.attend(i, *heads, layer.scale)

    def look_up_rotation(self) -> None:
        """Looks up the rotation of this step's tokens, [N, 1, d] each."""
        rope_tables = self.rope_tables.index_select(0, self.cache.slot)[0].index_select(
            0, self.cache.question
        )
        self.rotation = rope_tables[:, None].chunk(2, -1)

    def accept(self, logits: Tensor) -> None:
        """Draws the next token of every row. Rows that ended draw too, until they leave; nobody
        reads what they draw."""
        slot, sampling = self.cache.slot, self.sampling
        new, logprobs = sample_tokens(
            logits, self.draws.index_select(0, slot)[0], sampling.temperature, sampling.top_p, sampling.bias
        )
        self.tokens.index_copy_(0, slot, new[None])
        self.logprobs.index_copy_(0, slot, logprobs[None])
        self.lengths.add_(self.live)  # before the next line: the eos counts
        self.live.logical_and_((new[:, None] != sampling.eos).all(1))
        self.token.copy_(new)

    def goes_on(self, out: "Decoded", max_new_tokens: int) -> bool:
        """Whether any row does. Lets rows that ended leave, where enough have, and hands their
        results over."""
        live = int(self.live.sum())
        if live == 0 or self.cache.steps + 1 == max_new_tokens:
            self.hand_over(out)
            return False
        if live <= DROP_BELOW * len(self) and len(self) > FEW_ROWS:
            self.drop(out)
        return True

    def drop(self, out: "Decoded") -> None:
        """Lets rows that ended leave."""
        staying = self.evened() if self.cache.by_kernel else self.live
        if int(staying.sum()) > DROP_BELOW * len(self):
            return
        self.hand_over(out)
        rows = staying.nonzero()[:, 0]
        questions = self.cache.question[rows].unique_consecutive()
        self.rope_tables, self.position = self.rope_tables[:, questions], self.position[questions]
        self.cache.keep(rows)
        for name in ("token", "live", "lengths", "rows"):
            setattr(self, name, getattr(self, name)[rows])
        for name in ("tokens", "logprobs", "draws"):
            setattr(self, name, getattr(self, name)[:, rows])

    def evened(self) -> Tensor:
        """[N] bool: the live rows, with as many others as give all questions that go on the same
        number of rows, which the kernel wants."""
        live = self.live.view(len(self.cache.lengths), -1)  # [P, G]
        widest = int(live.sum(1).max())
        first = torch.argsort(~live, dim=1, stable=True)[:, :widest]  # the live before the others
        return (
            torch.zeros_like(live).scatter_(1, first, True).logical_and_(live.any(1, keepdim=True)).flatten()
        )

    def hand_over(self, out: "Decoded") -> None:
        """Writes what the rows have so far to their places."""
        n = self.cache.steps + 1
        out.tokens[self.rows, :n] = self.tokens[:n].t()
        out.logprobs[self.rows, :n] = self.logprobs[:n].t()
        out.lengths[self.rows] = self.lengths
        out.finished[self.rows] = ~self.live


@dataclass(frozen=True)
class Decoded:
    """B responses; row p*G + g is sample g of question p. Nothing past a response's length is meant
    to be read."""

    tokens: Tensor  # [B, T]
    logprobs: Tensor  # [B, T] float32
    lengths: Tensor  # [B]
    finished: Tensor  # [B] bool


# --- The loop -------------------------------------------------------------------------------------


class DecodeStep:
    """One token more for all rows of some batches; on a GPU replayed from a CUDA graph."""

    def __init__(self, model):
        self.model, self.layers, self.embedding = model, fused_layers(model), model.get_input_embeddings()
        self.decoder = text_model(model)
        self.norm = rms_norm(self.decoder.norm) if self.layers else self.decoder.norm
        self.head_weights = linear_of(
            [model.get_output_embeddings()], getattr(model, "compute_dtype", model.dtype)
        )
        self.graph = None
        self.fresh = True

    def rows_changed(self) -> None:
        self.graph, self.fresh = None, True

    def logits(self, batches: Sequence[DecodeBatch]) -> Tensor:
        """[N, V] after the newest token of every row, whose keys are appended to the caches."""
        tokens = torch.cat([batch.token for batch in batches]) if len(batches) > 1 else batches[0].token
        x = self.embedding(tokens)
        if self.layers is None:
            positions = torch.cat([batch.positions for batch in batches])
            hidden = self.decoder(
                inputs_embeds=x[:, None], position_ids=position_ids(self.model, positions[None, :, None]),
                attention_mask=no_mask(self.model), use_cache=False, caches=[batch.cache for batch in batches],
            ).last_hidden_state[:, 0]  # fmt: skip
        else:
            for batch in batches:
                batch.look_up_rotation()
            hidden = self.norm(run_layers(self.layers, x, batches))
        return F.linear(hidden, *self.head_weights)

    def run(self, batches: Sequence[DecodeBatch]) -> None:
        logits = self.logits(batches)
        for batch, piece in zip(batches, logits.split([len(batch) for batch in batches]), strict=True):
            batch.cache.slot.add_(1)
            batch.accept(piece)

    def __call__(self, batches: Sequence[DecodeBatch]) -> None:
        if self.graph is not None:
            self.graph.replay()
        elif self.fresh or self.layers is None or not batches[0].token.is_cuda:
            self.run(
                batches
            )  # the first step after a change is a plain one: it warms up what capture needs warm
            self.fresh = False
        else:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.run(batches)
            self.graph = graph
            graph.replay()
        for batch in batches:
            batch.cache.steps += 1


def decode(
    model,
    prompts,
    num_samples: int,
    max_new_tokens: int,
    sampling: Sampling,
    draws: Callable,
    memory: int,
    bar,
) -> Decoded:
    """num_samples responses to each prompt. draws(questions) gives [len(questions), G, T] numbers
    in [0, 1)."""
    P, G, T, device = len(prompts), num_samples, max_new_tokens, prompts.ids.device
    out = Decoded(
        torch.zeros(P * G, T, dtype=torch.long, device=device),
        torch.zeros(P * G, T, device=device),
        torch.zeros(P * G, dtype=torch.long, device=device),
        torch.zeros(P * G, dtype=torch.bool, device=device),
    )
    waiting = torch.argsort(prompts.lengths, stable=True).tolist()  # like lengths together: less padding
    lengths = prompts.lengths.tolist()
    costs = MemoryEstimate(model, G, T, sampling.top_p)
    batches: list[DecodeBatch] = []
    step, samples = DecodeStep(model), torch.arange(G, device=device)
    memory = memory or memory_for(device)  # of what the stepper's own copies of weights have left
    look_every, steps = CHECK_EVERY_CUDA if device.type == "cuda" else 1, 0
    while waiting or batches:
        in_use = sum(c.cache.bytes() + len(c) * costs.row for c in batches) if waiting else 0
        while waiting and (not batches or in_use < REFILL_BELOW * memory):
            chosen = waiting[
                : costs.how_many_fit([lengths[q] for q in waiting], memory - in_use, at_least=not batches)
            ]
            if not chosen:
                break
            waiting = waiting[len(chosen) :]
            batch = DecodeBatch(model, prompts.select(chosen), G, T, sampling, step.layers)
            rows = torch.tensor(chosen, device=device)[:, None] * G + samples
            batch.start(rows.flatten(), draws(chosen).flatten(0, 1).to(device), step.head_weights)
            batches.append(batch)
            step.rows_changed()
            in_use += batch.cache.bytes() + len(batch) * costs.row
        full = any(c.cache.steps + 1 == T for c in batches)
        if full or steps % look_every == 0:
            before = sum(len(c) for c in batches)
            batches = [c for c in batches if c.goes_on(out, T)]
            if sum(len(c) for c in batches) < before:
                step.rows_changed()
                bar.update(P * G - len(waiting) * G - sum(int(c.live.sum()) for c in batches) - bar.n)
        if batches:
            step(batches)
            steps += 1
    return out


def memory_for(device: torch.device) -> int:
    """Bytes that cache and logits of a rollout may take: most of what is free on a GPU."""
    if device.type != "cuda":
        return MEMORY_CPU
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch's, but free
    return int(0.7 * (torch.cuda.mem_get_info(device)[0] + unused))


class MemoryEstimate:
    """Bytes that decoding takes."""

    def __init__(self, model, num_samples: int, max_new_tokens: int, top_p: float = 1.0):
        text = model.config.get_text_config()
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        itemsize = getattr(model, "compute_dtype", model.dtype).itemsize
        self.token = 2 * text.num_hidden_layers * text.num_key_value_heads * head * itemsize  # of the cache
        self.row = (
            50 if top_p < 1 else 20
        ) * text.vocab_size  # a few float32 rows of logits; sorted, twice as many
        self.samples, self.own, self.device = num_samples, num_samples * max_new_tokens, model.device

    def how_many_fit(self, lengths: Sequence[int], room: int, at_least: int) -> int:
        """Of the first of these prompts, in order of length; reading them is kept to READ_AT_ONCE
        tokens."""
        read = 0
        for count, length in enumerate(lengths):
            read += length
            copies = (count + 1) * self.samples * length
            prompt = length if shares_prompts(copies, self.device) else length * self.samples
            size = (count + 1) * (self.token * (prompt + self.own) + self.samples * self.row)
            if count >= at_least and (size > room or read > READ_AT_ONCE):
                return count
        return len(lengths)


@torch.no_grad()
def fused_matches_reference(model) -> bool:
    """Whether `fused_layers` step as the decoder's own forward does. Tried on three rows after a
    prompt of four tokens."""
    if not all(map(is_standard_layer, text_model(model).layers)):
        return False
    device = next(model.parameters()).device
    ids = torch.arange(1, 5, device=device)[None]
    prompts = SimpleNamespace(ids=ids, lengths=torch.tensor([4], device=device), vision=[], blocks=None)
    prompts.positions = rope_positions(model, prompts)
    sampling = Sampling(
        0.0, 1.0, torch.zeros(model.config.get_text_config().vocab_size, device=device), ids[0, :0]
    )
    found = []
    for usual in (False, True):
        model.standard_decoder = usual
        step = DecodeStep(model)
        batch = DecodeBatch(model, prompts, 3, 2, sampling, step.layers)
        batch.start(ids.new_tensor(range(3)), torch.zeros(3, 2, device=device), step.head_weights)
        batch.token.copy_(ids[0, 1:])
        found.append(step.logits([batch]).float())
    return bool((found[0] - found[1]).abs().max() <= MAX_LOGIT_DIFFERENCE * found[0].abs().max())
