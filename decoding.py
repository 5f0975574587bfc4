"""Sampling, one token at a time for all rows, with a cache that the samples of a question share.

    decode(model, prompts, num_samples, max_new_tokens, sampling, draws, memory, bar) -> Decoded

Questions that were read together are a cohort and decode in step. Samples that ended leave their cohort's batch, and
once enough memory is free the next questions are read and join as another cohort: one step is one pass over the rows
of all cohorts.

A step does only what it must. Where a decoder is made of the usual parts (`usual_layers`), its layers are a few calls
each: query, key and value from one product, gate and up from another, the attention of attention.py. Any other decoder
takes the same step through its own forward. On a GPU the step is captured as a CUDA graph and replayed until rows
leave or join.

Letters: P questions, G samples, B = P*G responses, N rows that decode, T max_new_tokens, V vocabulary, D width, H
key/value heads, R query heads for each of them, d width of a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from attention import KVCache, Layout, Sequences, packed_attention, shares_prompts
from families import embed, no_mask, position_ids, rope_positions, rope_table, text_model

CHECK_EVERY_CUDA = 16  # steps between looks at which rows have ended: each look waits for the GPU
ALIKE = (
    0.02  # largest difference, as a share of the largest logit, between two ways of one step: bfloat16 rounds by 0.004
)
DROP_BELOW = 0.75  # rows leave once the batch would shrink to this share: each time costs a copy of the cache
FEW_ROWS = 8  # so few take as long as one: none leaves before all have ended
MEMORY_CPU = 2**31  # bytes of cache and logits of a rollout
SMALL_VOCABULARY = 2048  # tokens whose probabilities are accumulated in one go
SAMPLE_AT_ONCE = 2**18  # logits that a CPU samples from at once: so many stay in its caches
READ_AT_ONCE = 16384  # prompt tokens of one forward
REFILL_BELOW = 0.5  # share of the memory in use below which waiting questions join


# --- One token per row -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampling:
    temperature: float
    top_p: float
    bias: Tensor  # [V], see bias_against
    eos: Tensor  # ids that end a response


def bias_against(banned: Tensor) -> Tensor:
    """[V] bool -> [V] float32 to be added to logits: -inf for what is never to be sampled."""
    return torch.zeros(banned.shape, device=banned.device).masked_fill_(banned, -torch.inf)


def sample_tokens(logits: Tensor, u: Tensor, temperature: float, top_p: float, bias: Tensor) -> tuple[Tensor, Tensor]:
    """One token per row by inverse CDF: the first token whose cumulative probability exceeds u.

    logits [N, V], u [N] in [0, 1), bias [V] of 0 and -inf -> tokens [N], logprobs [N] float32.
    Drawn from softmax(logits / temperature + bias) and, where top_p < 1, cut to the smallest set of
    likeliest tokens that holds top_p of the mass. The log-prob is of logits / temperature over the whole vocabulary,
    as the trainer scores it. Temperature 0 takes the likeliest token, and its log-prob at temperature 1.
    """
    rows = max(8, SAMPLE_AT_ONCE // logits.shape[1])
    if logits.device.type == "cpu" and len(logits) > rows:
        pieces = zip(logits.split(rows), u.split(rows), strict=True)
        parts = [sample_tokens(*piece, temperature, top_p, bias) for piece in pieces]
        return torch.cat([tokens for tokens, _ in parts]), torch.cat([logprobs for _, logprobs in parts])
    scaled = logits.float()
    if temperature not in (0, 1):
        scaled = scaled / temperature
    logprobs = scaled.log_softmax(-1)
    allowed = logprobs + bias
    if temperature == 0:
        tokens = allowed.argmax(-1)
    else:
        # normalised anew: the mass of what is allowed may be nothing beside that of a banned token
        probs = allowed.softmax(-1)
        if top_p < 1:
            probs = nucleus(probs, top_p)
        tokens = inverse_cdf(probs, u.double())
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def inverse_cdf(weights: Tensor, u: Tensor, block: int = 128) -> Tensor:
    """weights [N, V] >= 0, u [N] float64 in [0, 1) -> [N], the first token whose cumulative weight exceeds u * total.

    Of a large vocabulary first the block of tokens by the sums of the blocks, then the token within it, so that only few
    numbers are accumulated in float64.
    """
    N, V = weights.shape
    if V <= SMALL_VOCABULARY:
        cdf = weights.cumsum(-1, dtype=torch.float64)
        # below the total for any u of 53 bits, so some token with weight exceeds it
        return torch.searchsorted(cdf, u[:, None] * cdf[:, -1:], right=True).clamp_(max=V - 1)[:, 0]  # NaN is above all
    weights = (F.pad(weights, (0, -V % block)) if V % block else weights).view(N, -1, block)
    cdf = weights.sum(-1).cumsum(-1, dtype=torch.float64)  # [N, blocks]
    target = (u * cdf[:, -1])[:, None]
    chosen = torch.searchsorted(cdf, target, right=True).clamp_(max=cdf.shape[1] - 1)  # [N, 1]
    within = weights.gather(1, chosen[..., None].expand(-1, -1, block))[:, 0].cumsum(-1, dtype=torch.float64)
    target -= F.pad(cdf, (1, 0)).gather(1, chosen)
    # the float32 sum of a block is not quite that of its parts: stay below the latter, which nothing is above
    last = within[:, -1:]
    target = torch.minimum(target, torch.nextafter(last, torch.zeros_like(last)))
    return chosen.mul_(block).add_(torch.searchsorted(within, target, right=True)).clamp_(max=V - 1)[:, 0]


def nucleus(probs: Tensor, top_p: float) -> Tensor:
    """[N, V] unnormalised -> the same with 0 outside the smallest set of likeliest tokens of mass >= top_p."""
    ordered, index = probs.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    outside = before >= top_p * ordered.sum(-1, keepdim=True)
    outside[:, 0] = False
    return probs.masked_fill(torch.zeros_like(outside).scatter_(-1, index, outside), 0.0)


# --- The decoder's layers ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """The weights of one decoder layer; those that read the same input stand in one matrix."""

    norm_in: Callable
    qkv: tuple[Tensor, Tensor | None]  # [(H*R + 2 H) d, D] and bias
    norm_query: Callable | None
    norm_key: Callable | None
    out: tuple[Tensor, Tensor | None]
    norm_mlp: Callable
    gate_up: tuple[Tensor, Tensor | None]
    down: tuple[Tensor, Tensor | None]
    act: Callable
    scale: float
    head: int  # d


NORMS = ("input_layernorm", "post_attention_layernorm")


def usual_parts(layer) -> bool:
    """Whether a decoder layer is the usual one: x + attention(norm(x)), then x + down(act(gate(norm(x))) * up(norm(x)))."""
    children = {name: {n for n, _ in part.named_children()} for name, part in layer.named_children()}
    attention, mlp = children.get("self_attn", set()), children.get("mlp", set())
    return (
        children.keys() == {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
        and {"q_proj", "k_proj", "v_proj", "o_proj"} <= attention
        and attention <= {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm", "rotary_emb"}
        and mlp == {"gate_proj", "up_proj", "down_proj", "act_fn"}
        and getattr(layer.self_attn, "sliding_window", None) is None
        and all(hasattr(layer, n) and hasattr(getattr(layer, n), "variance_epsilon") for n in NORMS)
        and all(type(m) is torch.nn.Linear for n, m in layer.named_modules() if n.endswith("_proj"))
    )


SIDE_BY_SIDE = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # linear maps of one input


def together(layer) -> list[list[torch.nn.Linear]]:
    parts = layer.self_attn, layer.mlp
    return [[getattr(part, name) for name in names] for part, names in zip(parts, SIDE_BY_SIDE, strict=True)]


@torch.no_grad()
def lay_side_by_side(model) -> None:
    """Puts the weights that are multiplied together next to each other in memory, where they are not, so that one matrix
    can be a view of them. They stay separate parameters to everything else, and training them in place trains the view."""
    for layer in filter(usual_parts, text_model(model).layers):
        for linears in together(layer):
            for name in ("weight", "bias"):
                parts = [getattr(linear, name) for linear in linears]
                if all(p is not None for p in parts) and view_of(parts) is None:
                    whole = torch.cat(parts)
                    for p, rows in zip(parts, whole.split([len(p) for p in parts]), strict=True):
                        p.data = rows


def joined(parts: Sequence[Tensor | None], dtype: torch.dtype) -> Tensor | None:
    """The parts as one tensor of `dtype`: a view where they lie side by side in memory, a copy elsewhere."""
    if any(p is None for p in parts):
        return None
    if parts[0].dtype == dtype and (view := view_of(parts)) is not None:
        return view
    return torch.cat([p.detach().to(dtype) for p in parts])


def view_of(parts: Sequence[Tensor]) -> Tensor | None:
    """The parts as one tensor, where they lie side by side in memory."""
    first, end = parts[0].detach(), parts[0].data_ptr()
    for p in parts:
        one_block = p.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if p.dtype != first.dtype or p.data_ptr() != end or not (one_block and p.is_contiguous()):
            return None
        end += p.numel() * p.element_size()
    return first.as_strided((sum(len(p) for p in parts), *first.shape[1:]), first.stride())


def linear_of(linears: Sequence[torch.nn.Linear], dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    return joined([weight_of(m) for m in linears], dtype), joined([m.bias for m in linears], dtype)


def weight_of(linear) -> Tensor:
    """Its weight, with the adapter's part added where peft has put one on it (see lora.py) and it is not switched off."""
    if type(linear) is torch.nn.Linear or linear.disable_adapters:
        return linear.weight
    return linear.weight.float() + sum(linear.get_delta_weight(name) for name in linear.active_adapters)


def takes_usual_steps(model) -> bool:
    """Whether `usual_layers` serve. Not under an adapter in a narrow dtype: rounded to bfloat16, W + BA is mostly W."""
    narrow = getattr(model, "compute_dtype", model.dtype).itemsize < 4
    adapted = any(hasattr(m, "lora_A") and not m.disable_adapters for m in text_model(model).layers[0].modules())
    return getattr(model, "usual_decoder", False) and not (narrow and adapted)


def usual_layers(model) -> list[Layer] | None:
    """The decoder's layers in the compute dtype, or None where it isn't made of the usual parts."""
    decoder, dtype = text_model(model), getattr(model, "compute_dtype", model.dtype)
    if not takes_usual_steps(model):
        return None
    layers = []
    for layer in decoder.layers:
        attention, mlp = layer.self_attn, layer.mlp
        qkv, gate_up = (linear_of(linears, dtype) for linears in together(layer))
        layers.append(
            Layer(
                rms_norm(layer.input_layernorm), qkv, getattr(attention, "q_norm", None), getattr(attention, "k_norm", None),
                linear_of([attention.o_proj], dtype), rms_norm(layer.post_attention_layernorm), gate_up,
                linear_of([mlp.down_proj], dtype), mlp.act_fn.forward, attention.scaling, attention.head_dim,
            )
        )  # fmt: skip
    return layers


@torch.no_grad()
def steps_alike(model) -> bool:
    """Whether `usual_layers` step as the decoder's own forward does. Tried on three rows after a prompt of four tokens."""
    if not all(map(usual_parts, text_model(model).layers)):
        return False
    device = next(model.parameters()).device
    ids = torch.arange(1, 5, device=device)[None]
    prompts = SimpleNamespace(ids=ids, lengths=torch.tensor([4], device=device), vision=[], blocks=None)
    prompts.positions = rope_positions(model, prompts)
    sampling = Sampling(0.0, 1.0, torch.zeros(model.config.get_text_config().vocab_size, device=device), ids[0, :0])
    found = []
    for usual in (False, True):
        model.usual_decoder = usual
        step = Stepper(model)
        cohort = Cohort(model, prompts, 3, 2, sampling, step.layers)
        cohort.start(ids.new_tensor(range(3)), torch.zeros(3, 2, device=device), step.head_weights)
        cohort.token.copy_(ids[0, 1:])
        found.append(step.logits([cohort]).float())
    return bool((found[0] - found[1]).abs().max() <= ALIKE * found[0].abs().max())


def rms_norm(module) -> Callable:
    """A norm of the usual kind in few calls; one of another kind would fail the check at loading."""
    weight, share = module.weight, 1 / module.weight.numel()
    if weight.is_cuda:
        return lambda x: F.rms_norm(x, weight.shape, weight, module.variance_epsilon)
    # PyTorch's own is a dozen operations on a CPU
    eps = torch.full((1,), module.variance_epsilon, device=weight.device)

    def norm(x: Tensor) -> Tensor:  # x / sqrt(mean(x^2) + eps) * weight
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scaled = x * torch.addcmul(eps, length, length, value=share).rsqrt_()
        return (scaled if scaled.dtype == x.dtype else scaled.to(x.dtype)) * weight

    return norm


def through_layers(layers: list[Layer], x: Tensor, cohorts: Sequence["Cohort | Row"]) -> Tensor:
    """x [N, D], the embedded newest token of every row -> [N, D] before the last norm. Takes x's memory.

    Where products run in a narrower dtype than the weights', autocast is on around this: x stays in the wider one.
    """
    rows = [len(cohort) for cohort in cohorts]
    for i, layer in enumerate(layers):
        qkv = F.linear(layer.norm_in(x), *layer.qkv)
        pieces = qkv.split(rows) if len(cohorts) > 1 else [qkv]
        read = [cohort.attend(i, layer, piece) for cohort, piece in zip(cohorts, pieces, strict=True)]
        x = plus_linear(x, read[0] if len(read) == 1 else torch.cat(read), *layer.out)
        gate, up = F.linear(layer.norm_mlp(x), *layer.gate_up).chunk(2, -1)
        x = plus_linear(x, layer.act(gate).mul_(up), *layer.down)
    return x


def rotated_heads(layer: Layer, qkv: Tensor, H: int, rotation: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """qkv [N, (H*R + 2 H) d], rotation [N, 1, d] twice -> query [N, H*R, d], key and value [N, H, d]"""
    d, (cos, sin) = layer.head, rotation
    heads = qkv.view(qkv.shape[0], -1, d)  # [N, H*R + 2 H, d]
    rotated, value = heads[:, :-H], heads[:, -H:]
    if layer.norm_query is not None:
        rotated = torch.cat([layer.norm_query(rotated[:, :-H]), layer.norm_key(rotated[:, -H:])], 1)
    # rolled by half a head, its halves change places
    rotated = torch.addcmul(rotated * cos, rotated.roll(d // 2, -1), sin)
    rotated = rotated if rotated.dtype == value.dtype else rotated.to(value.dtype)
    return rotated[:, :-H], rotated[:, -H:], value


def turns(cos: Tensor, sin: Tensor) -> Tensor:
    """[.., d] each -> [.., 2 d], for x cos + rotate_half(x) sin: the sign of the half that is negated is moved into sin."""
    half = sin.shape[-1] // 2
    return torch.cat([cos, -sin[..., :half], sin[..., half:]], -1)


class Row:
    """A flat row of whole sequences, all tokens at once, in the place of a cohort."""

    def __init__(self, model, positions: Tensor, layout: Layout, cache: KVCache | None):
        self.layout, self.cache, self.H = layout, cache, model.config.get_text_config().num_key_value_heads
        self.rotation = turns(*rope_table(model, positions))[0][:, None].chunk(2, -1)  # [N, 1, d] each

    def __len__(self) -> int:
        return len(self.rotation[0])

    def attend(self, i: int, layer: Layer, qkv: Tensor) -> Tensor:
        """qkv [N, (H*R + 2 H) d] -> [N, H*R*d]"""
        query, key, value = rotated_heads(layer, qkv, self.H, self.rotation)
        if self.cache is not None:
            self.cache.store_prompt(key, value)
        return packed_attention(query, key, value, self.layout, layer.scale).flatten(1)


def read_row(
    model,
    layers: list[Layer] | None,
    ids: Tensor,
    prompts,
    positions: Tensor,
    layout: Layout,
    cache: KVCache | None = None,
) -> Tensor:
    """A flat row of whole sequences, ids [1, N] and positions [A, 1, N] -> [N, D] after the last norm; the keys of prompts
    go to `cache`. Through `layers` without gradient, where they are given; else through the decoder's own forward."""
    inputs = embed(model, ids, prompts)
    if layers is not None and len(inputs) == 1:  # nothing but embeddings: no features for later layers
        x = inputs["inputs_embeds"][0]
        return rms_norm(text_model(model).norm)(through_layers(layers, x, [Row(model, positions, layout, cache)]))
    return text_model(model)(
        **inputs, position_ids=position_ids(model, positions), attention_mask=no_mask(model), use_cache=False,
        layout=layout, caches=None if cache is None else [cache],
    ).last_hidden_state[0]  # fmt: skip


def plus_linear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x + y W^T + b, in place where it can be; the sum stays in x's dtype, which may be wider than the product's."""
    if bias is None and x.dtype == y.dtype == weight.dtype:
        return x.addmm_(y, weight.t())
    return x + F.linear(y, weight, bias)


# --- Questions that decode in step -------------------------------------------------------------------------------


def next_position(prompts) -> Tensor:
    """[P], the rotary position of the first response token."""
    real = torch.arange(prompts.ids.shape[1], device=prompts.ids.device) < prompts.lengths[:, None]
    return prompts.positions.amax(0).masked_fill(~real, -1).amax(-1) + 1


class Cohort:
    """Questions read together; their rows, question by question, hold one token more at every step."""

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
        hidden = read_row(
            model, layers, prompts.ids[real][None], prompts, prompts.positions[:, real][:, None], layout, self.cache
        )
        self.prompt_end = hidden[prompts.lengths.cumsum(0) - 1]  # [P, D]
        self.position = next_position(prompts)  # [P]
        self.turns = torch.zeros(max_new_tokens, P, 0, device=device)
        if takes_usual_steps(model):
            later = self.position + torch.arange(max_new_tokens, device=device)[:, None]  # [T, P]
            self.turns = turns(*rope_table(model, later[None]))  # [T, P, 2 d]
        N = P * num_samples
        self.token = torch.zeros(N, dtype=torch.long, device=device)
        self.live = torch.ones(N, dtype=torch.bool, device=device)
        self.lengths = torch.zeros(N, dtype=torch.long, device=device)
        self.tokens = torch.zeros(max_new_tokens, N, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(max_new_tokens, N, device=device)

    def __len__(self) -> int:
        return len(self.token)

    def start(self, rows: Tensor, draws: Tensor, head: tuple[Tensor, Tensor | None]) -> None:
        """Draws the first tokens. rows [N]: where each row's result goes; draws [N, T] in [0, 1)."""
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
        turns = self.turns.index_select(0, self.cache.slot)[0].index_select(0, self.cache.question)
        self.rotation = turns[:, None].chunk(2, -1)

    def accept(self, logits: Tensor) -> None:
        """Draws the next token of every row. Rows that ended draw too, until they leave; nobody reads what they draw."""
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
        """Whether any row does. Lets rows that ended leave, where enough have, and hands their results over."""
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
        self.turns, self.position = self.turns[:, questions], self.position[questions]
        self.cache.keep(rows)
        for name in ("token", "live", "lengths", "rows"):
            setattr(self, name, getattr(self, name)[rows])
        for name in ("tokens", "logprobs", "draws"):
            setattr(self, name, getattr(self, name)[:, rows])

    def evened(self) -> Tensor:
        """[N] bool: the live rows, with as many others as give all questions that go on the same number of rows, which
        the kernel wants."""
        live = self.live.view(len(self.cache.lengths), -1)  # [P, G]
        widest = int(live.sum(1).max())
        first = torch.argsort(~live, dim=1, stable=True)[:, :widest]  # the live before the others
        return torch.zeros_like(live).scatter_(1, first, True).logical_and_(live.any(1, keepdim=True)).flatten()

    def hand_over(self, out: "Decoded") -> None:
        """Writes what the rows have so far to their places."""
        n = self.cache.steps + 1
        out.tokens[self.rows, :n] = self.tokens[:n].t()
        out.logprobs[self.rows, :n] = self.logprobs[:n].t()
        out.lengths[self.rows] = self.lengths
        out.finished[self.rows] = ~self.live


@dataclass(frozen=True)
class Decoded:
    """B responses; row p*G + g is sample g of question p. Nothing past a response's length is meant to be read."""

    tokens: Tensor  # [B, T]
    logprobs: Tensor  # [B, T] float32
    lengths: Tensor  # [B]
    finished: Tensor  # [B] bool


# --- The loop ----------------------------------------------------------------------------------------------------


class Stepper:
    """One token more for all rows of some cohorts; on a GPU replayed from a CUDA graph."""

    def __init__(self, model):
        self.model, self.layers, self.embedding = model, usual_layers(model), model.get_input_embeddings()
        self.decoder = text_model(model)
        self.norm = rms_norm(self.decoder.norm) if self.layers else self.decoder.norm
        self.head_weights = linear_of([model.get_output_embeddings()], getattr(model, "compute_dtype", model.dtype))
        self.graph = None
        self.fresh = True

    def rows_changed(self) -> None:
        self.graph, self.fresh = None, True

    def logits(self, cohorts: Sequence[Cohort]) -> Tensor:
        """[N, V] after the newest token of every row, whose keys are appended to the caches."""
        tokens = torch.cat([cohort.token for cohort in cohorts]) if len(cohorts) > 1 else cohorts[0].token
        x = self.embedding(tokens)
        if self.layers is None:
            positions = torch.cat([cohort.positions for cohort in cohorts])
            hidden = self.decoder(
                inputs_embeds=x[:, None], position_ids=position_ids(self.model, positions[None, :, None]),
                attention_mask=no_mask(self.model), use_cache=False, caches=[cohort.cache for cohort in cohorts],
            ).last_hidden_state[:, 0]  # fmt: skip
        else:
            for cohort in cohorts:
                cohort.look_up_rotation()
            hidden = self.norm(through_layers(self.layers, x, cohorts))
        return F.linear(hidden, *self.head_weights)

    def run(self, cohorts: Sequence[Cohort]) -> None:
        logits = self.logits(cohorts)
        for cohort, piece in zip(cohorts, logits.split([len(cohort) for cohort in cohorts]), strict=True):
            cohort.cache.slot.add_(1)
            cohort.accept(piece)

    def __call__(self, cohorts: Sequence[Cohort]) -> None:
        if self.graph is not None:
            self.graph.replay()
        elif self.fresh or self.layers is None or not cohorts[0].token.is_cuda:
            self.run(cohorts)  # the first step after a change is a plain one: it warms up what capture needs warm
            self.fresh = False
        else:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.run(cohorts)
            self.graph = graph
            graph.replay()
        for cohort in cohorts:
            cohort.cache.steps += 1


def decode(
    model, prompts, num_samples: int, max_new_tokens: int, sampling: Sampling, draws: Callable, memory: int, bar
) -> Decoded:
    """num_samples responses to each prompt. draws(questions) gives [len(questions), G, T] numbers in [0, 1)."""
    P, G, T, device = len(prompts), num_samples, max_new_tokens, prompts.ids.device
    out = Decoded(
        torch.zeros(P * G, T, dtype=torch.long, device=device),
        torch.zeros(P * G, T, device=device),
        torch.zeros(P * G, dtype=torch.long, device=device),
        torch.zeros(P * G, dtype=torch.bool, device=device),
    )
    waiting = torch.argsort(prompts.lengths, stable=True).tolist()  # like lengths together: less padding
    lengths = prompts.lengths.tolist()
    costs = Costs(model, G, T, sampling.top_p)
    cohorts: list[Cohort] = []
    step, samples = Stepper(model), torch.arange(G, device=device)
    memory = memory or memory_for(device)  # of what the stepper's own copies of weights have left
    look_every, steps = CHECK_EVERY_CUDA if device.type == "cuda" else 1, 0
    while waiting or cohorts:
        in_use = sum(c.cache.bytes() + len(c) * costs.row for c in cohorts) if waiting else 0
        while waiting and (not cohorts or in_use < REFILL_BELOW * memory):
            chosen = waiting[: costs.how_many_fit([lengths[q] for q in waiting], memory - in_use, at_least=not cohorts)]
            if not chosen:
                break
            waiting = waiting[len(chosen) :]
            cohort = Cohort(model, prompts.select(chosen), G, T, sampling, step.layers)
            rows = torch.tensor(chosen, device=device)[:, None] * G + samples
            cohort.start(rows.flatten(), draws(chosen).flatten(0, 1).to(device), step.head_weights)
            cohorts.append(cohort)
            step.rows_changed()
            in_use += cohort.cache.bytes() + len(cohort) * costs.row
        full = any(c.cache.steps + 1 == T for c in cohorts)
        if full or steps % look_every == 0:
            before = sum(len(c) for c in cohorts)
            cohorts = [c for c in cohorts if c.goes_on(out, T)]
            if sum(len(c) for c in cohorts) < before:
                step.rows_changed()
                bar.update(P * G - len(waiting) * G - sum(int(c.live.sum()) for c in cohorts) - bar.n)
        if cohorts:
            step(cohorts)
            steps += 1
    return out


def memory_for(device: torch.device) -> int:
    """Bytes that cache and logits of a rollout may take: most of what is free on a GPU."""
    if device.type != "cuda":
        return MEMORY_CPU
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch's, but free
    return int(0.7 * (torch.cuda.mem_get_info(device)[0] + unused))


class Costs:
    """Bytes that decoding takes."""

    def __init__(self, model, num_samples: int, max_new_tokens: int, top_p: float = 1.0):
        text = model.config.get_text_config()
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        itemsize = getattr(model, "compute_dtype", model.dtype).itemsize
        self.token = 2 * text.num_hidden_layers * text.num_key_value_heads * head * itemsize  # of the cache
        self.row = (50 if top_p < 1 else 20) * text.vocab_size  # a few float32 rows of logits; sorted, twice as many
        self.samples, self.own, self.device = num_samples, num_samples * max_new_tokens, model.device

    def how_many_fit(self, lengths: Sequence[int], room: int, at_least: int) -> int:
        """Of the first of these prompts, in order of length; reading them is kept to READ_AT_ONCE tokens."""
        read = 0
        for count, length in enumerate(lengths):
            read += length
            copies = (count + 1) * self.samples * length
            prompt = length if shares_prompts(copies, self.device) else length * self.samples
            size = (count + 1) * (self.token * (prompt + self.own) + self.samples * self.row)
            if count >= at_least and (size > room or read > READ_AT_ONCE):
                return count
        return len(lengths)
