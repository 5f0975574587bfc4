"""What a run needs of memory and disk, from config.json alone: no weight is read.

    python mmupt.py --plan --plan_gpus 8 --plan_memory 80 --model Qwen/Qwen2.5-VL-7B-Instruct

Two moments of a step hold most: the rollout (all that stays, a copy of the weights in the dtype of products,
the cache) and the update (all that stays, gradients, what autograd saved, the head). Each is a sum of
parts, counted for the longest prompts, largest pictures and longest responses that the flags allow, on the
process that has most. `resolve` makes the choices that the flags leave open: the first of `CHOICES` that
fits.

Sharded, W processes hold a W-th each of weights, gradients, moments and reference; a forward and backward
pass gathers one layer at a time, a rollout the whole model.

Letters: N parameters, W processes, c bytes of a product's number (2 or 4), l parameters of a layer, E of an
embedding, D width, F width of the MLP, q and k widths of queries and of keys, t tokens of a forward, V
vocabulary, P questions and G samples each, L prompt and T response tokens. All sizes are bytes.

Left out: seconds, since no rate has been measured; what the allocator loses (a sixteenth of a GPU is kept for
it); copies of keys for each response, where attention goes by rows (`packed_attention_by_rows`).
"""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from common.distributed import World
from common.errors import UsageError
from kernels.logprob import BLOCK_BYTES, CHUNK_BYTES_CPU, CHUNK_BYTES_GPU, CHUNK_ROWS_MIN
from model.decode import MEMORY_CPU, PREFILL_TOKENS
from model.kv_cache import COPY_UP_TO
from model.loading import compute_dtype
from model.lora import TARGETS
from model.sampling import SAMPLE_AT_ONCE
from model.shape import Blocks, Shape, read_shape

GB = 1e9
USABLE = 15 / 16  # of a memory: contexts, libraries and gaps between tensors take the rest
# (gradient checkpointing, tokens of a forward), the fastest first: short forwards cost less than activations
# computed twice, until matrix products get thin
CHOICES = [(False, t) for t in (16384, 8192, 4096)] + [(True, t) for t in (16384, 8192, 4096, 2048, 1024)]
PARTS = ("gradients", "weights in flight", "activations", "head")  # of an update
ROWS = 40  # bytes of a place of a response: its token, log-probs, draw


# --- What a process holds -------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What one process of `processes` needs, of `room` bytes."""

    shape: Shape
    config: Any  # the run's settings
    processes: int
    sharded: bool
    gpu: bool
    room: float
    checkpointing: bool
    tokens: int

    # --- sizes

    @cached_property
    def c(self) -> int:
        return compute_dtype(self.config.dtype, torch.device("cuda" if self.gpu else "cpu")).itemsize

    @cached_property
    def adapters(self) -> int:
        return self.config.lora_rank * self.shape.decoder.count * self.shape.decoder.adapted

    @cached_property
    def trained(self) -> float:
        """Parameters that this process keeps gradients and moments of."""
        if self.adapters:
            return self.adapters
        frozen = self.shape.of_vision if self.config.freeze_vision else 0
        return (self.shape.parameters - frozen) / self.shares

    @property
    def shares(self) -> int:
        return self.processes if self.sharded else 1

    @property
    def autocast(self) -> bool:
        """Whether products run in a copy of the weights in a narrower dtype."""
        return self.c < 4 and not self.adapters

    @property
    def width(self) -> int:
        """Bytes of a number that layers hand on: in the dtype of the weights, as they are gathered."""
        return self.c if self.adapters or self.sharded else 4

    @cached_property
    def questions(self) -> int:
        """Of a step, on this process; one that is asked in two views counts as two, each with its samples."""
        return max(1, self.config.questions // self.processes) * self.config.views

    @cached_property
    def image_tokens(self) -> int:
        """Of the largest prompt."""
        most, side = self.config.max_prompt_tokens, self.shape.numbers // 3 * self.shape.patches
        return 0 if not side else int(min(most, (self.config.max_pixels or most * side) // side))

    # --- moments of a step

    @cached_property
    def resident(self) -> dict[str, float]:
        """What stays."""
        N = self.shape.parameters / self.shares
        held = {"base": self.c * N, "adapters": 4.0 * self.adapters} if self.adapters else {"master": 4 * N}
        held["AdamW"] = 8 * self.trained
        if self.config.beta and not self.adapters:
            held["reference"] = self.c * N
        held["questions"] = self.of_questions
        return held

    @cached_property
    def of_questions(self) -> float:
        """The pictures and responses of a step."""
        responses = self.questions * self.config.per_view * self.config.max_new_tokens
        patches = self.questions * self.image_tokens * self.shape.patches
        return 4 * patches * self.shape.numbers + ROWS * responses

    @cached_property
    def copy(self) -> float:
        """Of the weights, for a rollout."""
        layers = self.shape.decoder.count * self.shape.decoder.linears
        if self.sharded:
            return self.c * self.shape.parameters
        if self.adapters:  # float32 reads W + BA as one
            return 4 * layers if self.c == 4 else 0
        return self.c * (layers + self.shape.E) if self.autocast else 0

    @cached_property
    def question(self) -> float:
        """Cache and logits of one question's rows."""
        L, G, T = self.config.max_prompt_tokens, self.config.per_view, self.config.max_new_tokens
        token = 2 * self.c * self.shape.decoder.count * self.shape.decoder.k
        if self.gpu:
            return token * (L + G * T) + G * self.per_row
        copied = G * L <= COPY_UP_TO  # on a CPU few short prompts are copied into their rows
        return token * ((G if copied else 1) * L + G * T) + G * self.c * self.shape.V

    @property
    def per_row(self) -> int:
        """Logits of a row while its token is drawn, by the bound that `MemoryEstimate` goes by."""
        return (50 if self.config.top_p < 1 else 20) * self.shape.V

    @cached_property
    def at_once(self) -> int:
        """Questions that decode together."""
        left = self.room - sum(self.resident.values()) - self.copy
        return int(min(self.questions, max(1, (0.7 * left if self.gpu else MEMORY_CPU) // self.question)))

    def rollout(self, questions: int) -> dict[str, float]:
        """With so many questions at a time."""
        s, c, L = self.shape.decoder, self.c, self.config.max_prompt_tokens
        read = min(questions, max(1, PREFILL_TOKENS // L))
        width = self.width
        inside = 2 * c + 12 if self.adapters and c < 4 else 3 * c  # adapters read and add float32
        reading = read * L * (2 * width * s.D + inside * s.F + c * (s.D + 2 * (s.q + s.k)))
        if v := self.shape.vision:
            patches = read * self.image_tokens * self.shape.patches
            seeing = patches * (2 * width * v.D + c * (6 * v.D + 3 * v.F) + 4 * self.shape.numbers)
            reading = max(reading, seeing)
        logits = questions * self.config.per_view * self.shape.V
        drawing = 0 if self.gpu else self.per_row / self.shape.V * min(logits, SAMPLE_AT_ONCE)
        return {"copy": self.copy, "cache": questions * self.question, "reading": max(reading, drawing)}

    @cached_property
    def update(self) -> dict[str, float]:
        """At its worst: of one question with the longest responses, or of as many as fit."""
        G, L, T = self.config.per_view, self.config.max_prompt_tokens, self.config.max_new_tokens
        whole = L + G * (T - 1)  # tokens read of one question
        questions = max(1, (self.config.minibatch_questions or self.config.questions) // self.processes)
        questions *= self.config.views
        again = questions > 1 and questions * whole > self.tokens  # in several forwards
        most = min(questions, self.tokens // L)
        loads = [(1, whole), (most, min(self.tokens, most * whole))][: 1 + (most > 1)]
        return max((m for n, t in loads for m in self.moments(t, n, again)), key=lambda m: sum(m.values()))

    def moments(self, t: int, n: int, again: bool) -> list[dict[str, float]]:
        """Of a forward over t tokens of n questions and its backward pass. `again`: the gradients of an
        earlier one are there."""
        s, c = self.shape, self.c
        predicted = t - n * self.config.max_prompt_tokens + n * self.config.per_view
        patches = n * self.image_tokens * s.patches
        layers, layer = self.kept(s.decoder, t)
        blocks, block = self.kept(s.vision, patches)
        # the last norm, the rotary tables, the hidden states of what is predicted
        kept = layers + blocks + t * (8 * s.decoder.D + 2 * s.head * self.width) + 4 * predicted * s.decoder.D
        gradients, head, (gathered, flight) = 4 * self.trained, self.head(predicted), self.in_flight
        before = gradients if again else 0.0
        casts = c * (self.trained - s.E * (1 if s.tied else 2)) if self.autocast and not self.sharded else 0.0
        later = c * s.decoder.linears * bool(casts) if self.checkpointing else casts
        # the head's gradient, until all are there
        of_head = 0 if self.adapters else (c if self.sharded else 4) * s.E
        of_root = (c + 4) * s.root if self.sharded and not self.adapters else of_head
        found = [
            (before, casts + gathered, kept + 4 * t * s.decoder.D, head - of_head),  # the forward's end
            (before, gathered + (0 if self.checkpointing else casts), kept, head),  # then the head,
            (before, flight + later, kept + layer + self.inside(s.decoder, t), of_head),  # the last layer,
            (gradients, flight, blocks + block + self.inside(s.vision, patches), of_root),  # the tower
        ]
        return [dict(zip(PARTS, m, strict=True)) for m in found]

    def kept(self, b: Blocks | None, n: float) -> tuple[float, float]:
        """What autograd keeps of n tokens in all of these blocks, and what the backward pass makes anew of
        one."""
        if b is None or not self.trains(b):
            return 0.0, 0.0
        if self.checkpointing:
            return n * b.count * self.width * b.D, n * self.saved(b)
        return n * b.count * self.saved(b), 0.0

    def saved(self, b: Blocks) -> float:
        """Bytes of a token and block, of those that autograd keeps: inputs of products, of norms (float32),
        attention's, and four of the MLP's."""
        c = self.c
        narrow = c < 4 and self.width == c  # what comes in: widened for a norm, and for products as it is
        norms = 2 * (4 + c) * b.D if narrow else 4 * 4 * b.D  # each: what comes in, and that normed
        if b is self.shape.vision:  # queries, keys and values as they were and rotated
            read = 8 if c == 4 else (2 if narrow else 3) * c
            return norms + read * b.D + 6 * c * b.D + 4 * c * b.F
        attention = c * (2 * b.q + 2 * b.k)
        if not self.adapters:  # narrowed for each product anew
            read = 8 if c == 4 else (2 if narrow else 5) * c
            return norms + read * b.D + attention + 4 * c * b.F
        low = 4 * len(TARGETS) * self.config.lora_rank
        if c == 4:  # the norms' weights are frozen, so that normed is not kept
            return 16 * b.D + attention + 4 * c * b.F + low
        return 8 * b.D + 4 * (5 * b.D + b.q + b.F) + attention + 3 * c * b.F + low  # adapters read float32

    def inside(self, b: Blocks | None, n: float) -> float:
        """Gradients within a block while the backward pass is in it."""
        return 0.0 if b is None or not self.trains(b) else n * (2 * self.c * b.F + 8 * b.D)

    def trains(self, b: Blocks) -> bool:
        return b is self.shape.decoder or not (self.adapters or self.config.freeze_vision)

    @cached_property
    def in_flight(self) -> tuple[float, float]:
        """Sharded: the root and a layer gathered, on a GPU the next one as well; in the backward pass two,
        a layer's gradient and its float32 sum."""
        c, root, of_layer = self.c, self.shape.root, self.shape.decoder.parameters
        forward = c * (root + (1 + self.gpu) * of_layer)
        backward = c * (root + 2 * of_layer) + (not self.adapters) * (c + 4) * of_layer
        return forward * self.sharded, backward * self.sharded

    def head(self, predicted: int) -> float:
        """Backward: a chunk of logits, the weight in c, its float32 gradient, that of the hidden states."""
        s, c = self.shape, self.c
        rows = max(CHUNK_ROWS_MIN, (CHUNK_BYTES_GPU if self.gpu else CHUNK_BYTES_CPU) // (s.V * c))
        chunk = min(rows, predicted) * s.V * (c if self.gpu or c == 4 else c + 4)
        if not self.gpu:  # plain PyTorch goes through them by blocks of float32
            chunk += (2 if c == 4 else 3) * min(BLOCK_BYTES, 4 * min(rows, predicted) * s.V)
        narrow = c * s.E if c < 4 and not self.adapters else 0  # sharded: its gradient
        return chunk + narrow + (0 if self.adapters else 4 * s.E) + predicted * s.decoder.D * (c + 4)

    # --- does it fit

    @property
    def stays(self) -> float:
        return sum(self.resident.values())

    @cached_property
    def peaks(self) -> dict[str, float]:
        """The least that each of the two moments needs."""
        found = {"rollout": self.rollout(1), "update": self.update}
        return {name: self.stays + sum(parts.values()) for name, parts in found.items()}

    @property
    def need(self) -> float:
        return max(self.peaks.values())

    @property
    def fits(self) -> bool:
        return self.need <= self.room

    def __str__(self) -> str:
        config, s, rollout = self.config, self.shape, self.rollout(self.at_once)
        parts = lambda held: "  ".join(f"{k} {size(x)}" for k, x in held.items() if x)  # noqa: E731
        total = lambda held: size(self.stays + sum(held.values()))  # noqa: E731
        how = f"adapters of rank {config.lora_rank}" if config.lora_rank else "all weights"
        how += " but the vision tower" if config.freeze_vision and not config.lora_rank else ""
        kind = "GPU" if self.gpu else "process"
        many = f"{self.processes} {kind}{'' if self.processes == 1 else 's' if self.gpu else 'es'}"
        saved = 6 if config.save_dtype == "bfloat16" else 4  # with the float32 ones beside them
        disk = (8 + saved) * self.adapters or saved * s.parameters + 8 * self.trained * self.shares
        token = size(2 * self.c * s.decoder.count * s.decoder.k)
        again = "recomputed" if self.checkpointing else "kept"
        host = size((self.c if self.adapters else 4) * s.parameters / self.shares)
        return f"""\
plan: {s.name}, {s.parameters / 1e6:,.1f} M parameters, {how}, {many}{", sharded" if self.sharded else ""}
  stays       {parts(self.resident)}: {size(self.stays)}
  rollout     {parts(rollout)}: {total(rollout)}
              {self.at_once} of {self.questions} questions at a time, cache {token} a token
  update      {parts(self.update)}: {total(self.update)}
              {self.tokens} tokens a forward, activations {again}
  checkpoint  {size(disk)} on disk, {size(4 * s.E)} of host memory{f", loading {host}" if self.gpu else ""}"""


# --- Which plan a run takes -----------------------------------------------------------------------


def best(shape: Shape, config, processes: int, gpu: bool, room: float) -> Plan:
    """The first that fits of what the flags leave open; where none does, that which needs least."""
    sharded = {"off": [False], "on": [True]}.get(config.shard, [False, True] if processes > 1 else [False])
    given, tokens = config.gradient_checkpointing, config.tokens_per_forward
    choices = dict.fromkeys((c if given is None else given, tokens or t) for c, t in CHOICES)
    plans = [Plan(shape, config, processes, s, gpu, room, *choice) for s in sharded for choice in choices]
    return next((p for p in plans if p.fits), min(plans, key=lambda p: p.need))


def of_run(config, world: World) -> Plan:
    """The same on every process: the one with least memory decides."""
    processes = config.plan_gpus or world.size
    gpu = bool(config.plan_gpus or config.plan_memory) or world.device.type == "cuda"
    if gpu and not config.plan_memory and world.device.type != "cuda":
        raise UsageError("--plan_memory must be given with --plan_gpus where there is no GPU: GB of each")
    if config.shard == "on" and processes == 1:
        raise UsageError("--shard must be auto or off with one process: there is nobody to share with")
    room = min(world.gather_json([config.plan_memory * GB * USABLE or memory(world.device)]))
    return best(read_shape(config.model, weights=not config.plan), config, processes, gpu, room)


def memory(device: torch.device) -> float:
    """Bytes that this process may take: of a GPU what is free, of a machine its share of all, or of what its
    container or batch job may have."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return min(free, USABLE * total)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return USABLE * min([whole, *limits()]) / int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def limits(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Bytes that control groups allow: this process's own and those around it, of either version. A container
    may show its own as the root, under another name."""
    lines = own.read_text().splitlines() if own.exists() else []
    found = []
    for _, controllers, path in (line.split(":", 2) for line in [*lines, "0::/", "0:memory:/"]):
        if controllers in ("", "memory"):
            place, file = root / controllers, ("memory.limit_in_bytes" if controllers else "memory.max")
            for group in [place / path.lstrip("/"), *(place / path.lstrip("/")).parents]:
                if (group / file).exists() and (limit := (group / file).read_text().strip()) != "max":
                    found.append(int(limit))
    return found


def shards(config, world: World) -> bool:
    """Whether processes hold shares of the weights: by --shard auto where there are several, and what one
    would hold of a whole model doesn't fit."""
    return of_run(config, world).sharded


def resolve(config, world: World):
    """The settings with what the plan chose in the place of what was left open; says it, or refuses."""
    plan = of_run(config, world)
    if world.is_main:
        print(plan, flush=True)
    if not plan.fits:
        raise UsageError(refused(plan))
    if world.is_main:
        print(f"fits: {size(plan.need)} of {size(plan.room)} at the least", flush=True)
    chosen = dict(gradient_checkpointing=plan.checkpointing, tokens_per_forward=plan.tokens)
    return replace(config, **chosen, shard="on" if plan.sharded else "off")


def show(config, world: World) -> int:
    """--plan -> exit status."""
    resolve(config, world)
    return 0


def refused(plan: Plan) -> str:
    """What doesn't fit, and the flags with which it would."""
    config, here = plan.config, plan.processes
    updates = config.minibatch_questions or config.questions
    more = [W for W in (2, 4, 8, 16, 32, 64) if W > here and updates % W == 0]
    shorter = [config.max_new_tokens // part for part in (2, 4, 8)]
    fewer = [config.views * (config.per_view >> n) for n in range(1, config.per_view.bit_length())]
    open_: dict[str, Any] = dict(gradient_checkpointing=None, tokens_per_forward=0)
    ways: list[list[tuple[str, dict[str, Any], int]]] = [  # of each the first that fits
        [("neither --gradient_checkpointing nor --tokens_per_forward", open_, here)],
        [("--lora_rank 16", {"lora_rank": 16}, here)] if not config.lora_rank else [],
        [(f"{W} processes with --shard on", {"shard": "on"}, W) for W in more],
        [(f"--max_new_tokens {T}", {"max_new_tokens": T}, here) for T in shorter if T],
        [(f"--group_size {G}", {"group_size": G}, here) for G in fewer if G > 1],
    ]
    fitting = []
    for way in ways:
        for words, change, W in way:
            found = best(plan.shape, replace(config, **change), W, plan.gpu, plan.room)
            if found.fits:
                fitting.append(f"{words} ({size(found.need)})")
                break
    where = max(plan.peaks, key=lambda name: plan.peaks[name])
    text = f"does not fit: {size(plan.need)} of {size(plan.room)} in the {where}; "
    if fitting:
        return text + ", or ".join(fitting[:2])
    least = best(plan.shape, replace(config, **open_, shard="on"), 64, plan.gpu, plan.room)
    if least.peaks["rollout"] > plan.room:
        whole = f"all weights on each device ({size(least.copy)})"
        return f"{text}its rollout needs {whole}: one over several (tensor parallel) is not here yet"
    return f"{text}64 processes with --shard on still need {size(least.need)} each"


def size(x: float) -> str:
    scale, unit = next(((s, u) for s, u in ((GB, "GB"), (1e6, "MB")) if x >= s), (1e3, "KB"))
    return f"{x / scale:.1f} {unit}"
