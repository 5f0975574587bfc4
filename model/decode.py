"""Decoding: prompts are prefilled once, then every row takes one token a step, with a cache that
the samples of a question share.

    decode(model, prompts, num_samples, max_new_tokens, sampling, draws, memory, bar) -> Decoded

Questions that were prefilled together are a batch (`DecodeBatch`) and decode in step. Samples that
ended leave it, and once enough memory is free the next questions are prefilled and join as another
batch: one decode step (`DecodeStep`) is one pass over the rows of all batches.

A step does only what it must. Where a decoder is of the standard make (`fused_layers`), its layers
are a few calls each: query, key and value from one product, gate and up from another, the attention
of kv_cache.py. Any other decoder takes the same step through its own forward. On a GPU the step is
captured as a CUDA graph (graphs.py) and replayed until rows leave or join.

Letters: P questions, G samples, B = P*G responses, N rows that decode, T max_new_tokens, V
vocabulary, D width, H key/value heads, R query heads for each of them, d width of a head.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from common.errors import first_line
from model.batch import Prompts, next_position
from model.families import no_mask, position_ids, product_dtype, rope_table, text_model, window_of
from model.graphs import Graph, NewGraph, graphs_for
from model.kv_cache import KVCache, shares_prompts
from model.layers import (
    CachedRows,
    Layer,
    Linear,
    forward_packed,
    fused_layers,
    linear,
    linear_of,
    rms_norm,
    rope_tables,
    run_layers,
    uses_fused_layers,
)
from model.packed_attention import Layout, Sequences
from model.sampling import Sampling, sample_tokens

CHECK_EVERY_CUDA = 16  # steps between looks at which rows have ended: each look waits for the GPU
DROP_BELOW = 0.75  # rows leave once the batch would shrink to this share: each time costs a copy of the cache
FEW_ROWS = 8  # so few take as long as one: none leaves before all have ended
MEMORY_CPU = 2**31  # bytes of cache and logits of a rollout
PREFILL_TOKENS = 16384  # prompt tokens of one forward
REFILL_BELOW = 0.5  # share of the memory in use below which waiting questions join


@dataclass(frozen=True)
class Decoded:
    """B responses; row p*G + g is sample g of question p. Nothing past a response's length is meant
    to be read."""

    tokens: Tensor  # [B, T]
    logprobs: Tensor  # [B, T] float32
    lengths: Tensor  # [B]
    finished: Tensor  # [B] bool


# --- Questions that decode in step ----------------------------------------------------------------


def prefill(model, layers: list[Layer] | None, prompts: Prompts, layout: Layout, cache: KVCache) -> Tensor:
    """Reads the prompts, each once, and their images: their keys go to the cache -> [P, D], after
    the last token of each."""
    real = layout.prompts.real
    ids, positions = prompts.ids[real][None], prompts.rope[:, real][:, None]
    hidden = forward_packed(model, layers, ids, prompts, positions, layout, cache)
    return hidden[prompts.lengths.cumsum(0) - 1]


class DecodeBatch:
    """Questions prefilled together; their rows, question by question, hold one token more at every
    step."""

    def __init__(
        self,
        model,
        prompts: Prompts,
        num_samples: int,
        max_new_tokens: int,
        sampling: Sampling,
        layers: list[Layer] | None = None,
    ):
        P, device, T = len(prompts), prompts.lengths.device, max_new_tokens
        self.sampling = sampling
        layout = Layout(Sequences(prompts.lengths), blocks=prompts.blocks)
        self.cache = KVCache(layout, num_samples, T, window_of(model))
        self.prompt_end = prefill(model, layers, prompts, layout, self.cache)  # [P, D]
        self.position = next_position(prompts)  # [P]
        self.rope_tables = torch.zeros(T, P, 0, device=device)
        if uses_fused_layers(model):
            later = self.position + torch.arange(T, device=device)[:, None]  # [T, P]
            self.rope_tables = rope_tables(*rope_table(model, later[None]))  # [T, P, 2 d]
        N = P * num_samples
        self.token = torch.zeros(N, dtype=torch.long, device=device)
        self.live = torch.ones(N, dtype=torch.bool, device=device)
        self.lengths = torch.zeros(N, dtype=torch.long, device=device)
        self.tokens = torch.zeros(T, N, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(T, N, device=device)

    def __len__(self) -> int:
        return len(self.token)

    def sample_first(self, rows: Tensor, draws: Tensor, head: Linear) -> None:
        """From the ends of the prompts. rows [N]: where each row's result goes; draws [N, T] in [0, 1)."""
        self.rows, self.draws = rows, draws.t().contiguous()
        self.sample_next(linear(self.prompt_end, head).index_select(0, self.cache.question))

    def sample_next(self, logits: Tensor) -> None:
        """logits [N, V]. Rows that ended draw too, until they leave; nobody reads what they draw."""
        slot, sampling = self.cache.slot, self.sampling
        u = self.draws.index_select(0, slot)[0]
        new, logprobs = sample_tokens(logits, u, sampling.temperature, sampling.top_p, sampling.bias)
        self.tokens.index_copy_(0, slot, new[None])
        self.logprobs.index_copy_(0, slot, logprobs[None])
        self.lengths.add_(self.live)  # before the next line: the eos counts
        self.live.logical_and_((new[:, None] != sampling.eos).all(1))
        self.token.copy_(new)

    @property
    def positions(self) -> Tensor:
        """[N] of the newest token."""
        return (self.position + self.cache.slot)[self.cache.question]

    def newest(self) -> CachedRows:
        """What the layers are given of this step's tokens, with their rotation, [N, 1, d] each."""
        of_step = self.rope_tables.index_select(0, self.cache.slot)[0]  # [P, 2 d]
        rotation = of_step.index_select(0, self.cache.question)[:, None].chunk(2, -1)
        return CachedRows(self.cache, rotation)

    def is_done(self, out: Decoded, max_new_tokens: int) -> bool:
        """Whether all rows have ended. Lets those that have leave, where they are enough; results of
        rows that leave are in `out`."""
        live = int(self.live.sum())
        if live == 0 or self.cache.steps + 1 == max_new_tokens:
            self.write_results(out)
            return True
        if live <= DROP_BELOW * len(self) and len(self) > FEW_ROWS:
            staying = self.as_many_per_question() if self.cache.by_kernel else self.live
            if int(staying.sum()) <= DROP_BELOW * len(self):
                self.write_results(out)
                self.keep(staying.nonzero()[:, 0])
        return False

    def as_many_per_question(self) -> Tensor:
        """[N] bool: the live rows, with as many others as give all questions that go on the same
        number of rows, which the kernel wants."""
        live = self.live.view(len(self.cache.lengths), -1)  # [P, G]
        most = int(live.sum(1).max())
        first = torch.argsort(~live, dim=1, stable=True)[:, :most]  # the live before the others
        staying = torch.zeros_like(live).scatter_(1, first, True)
        return staying.logical_and_(live.any(1, keepdim=True)).flatten()

    def keep(self, rows: Tensor) -> None:
        """The rows that stay, in order."""
        questions = self.cache.question[rows].unique_consecutive()
        self.rope_tables, self.position = self.rope_tables[:, questions], self.position[questions]
        self.cache.keep(rows)
        for name in ("token", "live", "lengths", "rows"):
            setattr(self, name, getattr(self, name)[rows])
        for name in ("tokens", "logprobs", "draws"):
            setattr(self, name, getattr(self, name)[:, rows])

    def write_results(self, out: Decoded) -> None:
        """What the rows have so far, to their places."""
        n = self.cache.steps + 1
        out.tokens[self.rows, :n] = self.tokens[:n].t()
        out.logprobs[self.rows, :n] = self.logprobs[:n].t()
        out.lengths[self.rows] = self.lengths
        out.finished[self.rows] = ~self.live


# --- The loop -------------------------------------------------------------------------------------


class DecodeStep:
    """One token more for all rows of some batches. `graphs`: what makes a graph, from which steps are
    replayed until rows leave or join; None for plain steps."""

    def __init__(self, model, graphs: NewGraph | None = None):
        self.model, self.layers, self.embedding = model, fused_layers(model), model.get_input_embeddings()
        self.decoder = text_model(model)
        self.norm = rms_norm(self.decoder.norm) if self.layers else self.decoder.norm
        self.head: Linear = linear_of([model.get_output_embeddings()], product_dtype(model))
        self.graphs = graphs if self.layers else None  # a decoder's own forward may wait for the device
        self.graph: Graph | None = None
        self.rows_changed()

    def rows_changed(self) -> None:
        """What was captured no longer holds."""
        self.captured = self.warm = False

    def logits(self, batches: Sequence[DecodeBatch]) -> Tensor:
        """[N, V] after the newest token of every row, whose keys are appended to the caches."""
        tokens = torch.cat([batch.token for batch in batches]) if len(batches) > 1 else batches[0].token
        x = self.embedding(tokens)
        if self.layers is None:
            positions = torch.cat([batch.positions for batch in batches])
            hidden = self.decoder(
                inputs_embeds=x[:, None], attention_mask=no_mask(self.model),
                position_ids=position_ids(self.model, positions[None, :, None]),
                use_cache=False, caches=[batch.cache for batch in batches],
            ).last_hidden_state[:, 0]  # fmt: skip
        else:
            hidden = self.norm(run_layers(self.layers, x, [batch.newest() for batch in batches]))
        return linear(hidden, self.head)

    def run(self, batches: Sequence[DecodeBatch]) -> None:
        logits = self.logits(batches)
        for batch, piece in zip(batches, logits.split([len(batch) for batch in batches]), strict=True):
            batch.cache.advance()
            batch.sample_next(piece)

    def capture(self, batches: Sequence[DecodeBatch]) -> bool:
        """Whether a graph could be made, which as yet has done nothing."""
        if self.graphs is None or not self.warm:
            return False
        try:
            graph = self.graphs()
            graph.capture(partial(self.run, batches))
        except Exception as error:  # noqa: BLE001  out of memory, or whatever a driver has to say
            self.graphs = None
            print(f"decoding goes on without a CUDA graph: {first_line(error)}", file=sys.stderr)
            return False
        self.graph = graph  # the one before it has kept the pool until now
        return True

    def __call__(self, batches: Sequence[DecodeBatch]) -> None:
        self.captured = self.captured or self.capture(batches)
        if self.captured and self.graph is not None:
            self.graph.replay()
        else:
            self.run(batches)
            self.warm = True  # the first step after a change warms up what a capture needs warm
        for batch in batches:
            batch.cache.steps += 1


def decode(
    model,
    prompts: Prompts,
    num_samples: int,
    max_new_tokens: int,
    sampling: Sampling,
    draws: Callable[[list[int]], Tensor],
    memory: int,
    bar,
    graphs: Callable[[torch.device], NewGraph | None] = graphs_for,
) -> Decoded:
    """num_samples responses to each prompt. draws(questions) gives [questions, G, T] numbers in [0, 1).
    `graphs`: what makes the graphs of this rollout; see DecodeStep."""
    P, G, T, device = len(prompts), num_samples, max_new_tokens, prompts.ids.device
    out = Decoded(
        torch.zeros(P * G, T, dtype=torch.long, device=device),
        torch.zeros(P * G, T, device=device),
        torch.zeros(P * G, dtype=torch.long, device=device),
        torch.zeros(P * G, dtype=torch.bool, device=device),
    )
    waiting = torch.argsort(prompts.lengths, stable=True).tolist()  # like lengths together: less padding
    lengths = prompts.lengths.tolist()
    estimate = MemoryEstimate(model, G, T, sampling.top_p)
    batches: list[DecodeBatch] = []
    step, samples = DecodeStep(model, graphs(device)), torch.arange(G, device=device)
    memory = memory or memory_for(device, copied_by_autocast(model))  # what the step's own copies have left
    look_every, steps = CHECK_EVERY_CUDA if device.type == "cuda" else 1, 0
    while waiting or batches:
        in_use = sum(map(estimate.in_use, batches)) if waiting else 0
        while waiting and (not batches or in_use < REFILL_BELOW * memory):
            room, at_least = memory - in_use, 0 if batches else 1
            chosen = waiting[: estimate.how_many_fit([lengths[q] for q in waiting], room, at_least)]
            if not chosen:
                break
            waiting = waiting[len(chosen) :]
            batch = DecodeBatch(model, prompts.select(chosen), G, T, sampling, step.layers)
            rows = torch.tensor(chosen, device=device)[:, None] * G + samples
            batch.sample_first(rows.flatten(), draws(chosen).flatten(0, 1).to(device), step.head)
            batches.append(batch)
            step.rows_changed()
            in_use += estimate.in_use(batch)
        full = any(batch.cache.steps + 1 == T for batch in batches)
        if full or steps % look_every == 0:
            before = sum(map(len, batches))
            batches = [batch for batch in batches if not batch.is_done(out, T)]
            if sum(map(len, batches)) < before:
                step.rows_changed()
                live = sum(int(batch.live.sum()) for batch in batches)
                bar.update((P - len(waiting)) * G - live - bar.n)
        if batches:
            step(batches)
            steps += 1
    return out


# --- Memory ---------------------------------------------------------------------------------------


def memory_for(device: torch.device, spoken_for: int = 0) -> int:
    """Bytes that cache and logits of a rollout may take: most of what is free on a GPU, but for what
    is spoken for."""
    if device.type != "cuda":
        return MEMORY_CPU
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch's, but free
    return int(0.7 * max(0, torch.cuda.mem_get_info(device)[0] + unused - spoken_for))


def copied_by_autocast(model) -> int:
    """Bytes of the copies that autocast makes of weights at their first product and keeps, where the
    decoder's own forward decodes; the head's has been made. Fused layers have their own."""
    dtype, head = product_dtype(model), model.get_output_embeddings().weight
    if uses_fused_layers(model) or dtype == model.dtype:
        return 0
    multiplied = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)
    weights = {p for m in model.modules() if isinstance(m, multiplied) for p in m.parameters(recurse=False)}
    return sum(p.numel() * dtype.itemsize for p in weights if p.requires_grad and p is not head)


class MemoryEstimate:
    """Bytes that decoding takes."""

    def __init__(self, model, num_samples: int, max_new_tokens: int, top_p: float = 1.0):
        text = model.config.get_text_config()
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        per_layer = 2 * text.num_key_value_heads * head * product_dtype(model).itemsize  # keys and values
        self.token = text.num_hidden_layers * per_layer
        # a few float32 rows of logits; sorted, twice as many
        self.row = (50 if top_p < 1 else 20) * text.vocab_size
        self.samples, self.own, self.device = num_samples, num_samples * max_new_tokens, model.device

    def in_use(self, batch: DecodeBatch) -> int:
        return batch.cache.bytes() + len(batch) * self.row

    def how_many_fit(self, lengths: Sequence[int], room: int, at_least: int) -> int:
        """Of the first of these prompts, in order of length; one prefill is kept to PREFILL_TOKENS."""
        read = 0
        for count, length in enumerate(lengths):
            read += length
            copies = (count + 1) * self.samples * length
            prompt = length if shares_prompts(copies, self.device) else length * self.samples
            size = (count + 1) * (self.token * (prompt + self.own) + self.samples * self.row)
            if count >= at_least and (size > room or read > PREFILL_TOKENS):
                return count
        return len(lengths)
