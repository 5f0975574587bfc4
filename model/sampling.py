"""One token per row from logits, by temperature and top-p, with the log-prob that will be scored.

Letters: N rows, V vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SMALL_VOCABULARY = 2048  # tokens whose probabilities are accumulated in one go
BY_SEARCH = False  # cut to top_p on a CPU too as on a GPU; for tests
ABOVE_ONE, HALVINGS = 0x3F800001, 30  # the bits after those of 1.0, and how often numbers below it halve
SAMPLE_AT_ONCE = 2**18  # logits that a CPU samples from at once: so many stay in its caches


@dataclass(frozen=True)
class Sampling:
    temperature: float
    top_p: float
    bias: Tensor  # [V], see bias_against
    eos: Tensor  # ids that end a response


def bias_against(banned: Tensor) -> Tensor:
    """[V] bool -> [V] float32 to be added to logits: -inf for what is never to be sampled."""
    return torch.zeros(banned.shape, device=banned.device).masked_fill_(banned, -torch.inf)


def log_softmax(logits: Tensor) -> Tensor:
    """float32 [N, V]. On a CPU PyTorch's own loses mass where V is large: 3e-5 too high at 49,152 tokens."""
    if logits.device.type == "cpu":
        return logits - logits.logsumexp(-1, keepdim=True)
    return logits.log_softmax(-1)


def sample_tokens(
    logits: Tensor, u: Tensor, temperature: float, top_p: float, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """One token per row by inverse CDF: the first token whose cumulative probability exceeds u.

    logits [N, V], u [N] in [0, 1), bias [V] of 0 and -inf -> tokens [N], logprobs [N] float32.
    Drawn from softmax(logits / temperature + bias) and, where top_p < 1, cut to the smallest set of
    likeliest tokens that holds top_p of the mass. The log-prob is of logits / temperature over the
    whole vocabulary, as the trainer scores it. Temperature 0 takes the likeliest token, and its
    log-prob at temperature 1.
    """
    rows = max(8, SAMPLE_AT_ONCE // logits.shape[1])
    if logits.device.type == "cpu" and len(logits) > rows:
        pieces = zip(logits.split(rows), u.split(rows), strict=True)
        parts = [sample_tokens(*piece, temperature, top_p, bias) for piece in pieces]
        return torch.cat([tokens for tokens, _ in parts]), torch.cat([logprobs for _, logprobs in parts])
    scaled = logits.float()
    if temperature not in (0, 1):
        scaled = scaled / temperature
    logprobs = log_softmax(scaled)
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
    """weights [N, V] >= 0, u [N] in [0, 1) -> [N], the first with cumulative weight > u * total.

    Of a large vocabulary first the block of tokens by the sums of the blocks, then the token within
    it, so that only few numbers are accumulated in float64.
    """
    N, V = weights.shape
    if V <= SMALL_VOCABULARY:
        cdf = weights.cumsum(-1, dtype=torch.float64)
        # below the total for any u of 53 bits, so some token with weight exceeds it
        # NaN is above all
        return torch.searchsorted(cdf, u[:, None] * cdf[:, -1:], right=True).clamp_(max=V - 1)[:, 0]
    weights = (F.pad(weights, (0, -V % block)) if V % block else weights).view(N, -1, block)
    cdf = weights.sum(-1).cumsum(-1, dtype=torch.float64)  # [N, blocks]
    target = (u * cdf[:, -1])[:, None]
    chosen = torch.searchsorted(cdf, target, right=True).clamp_(max=cdf.shape[1] - 1)  # [N, 1]
    within = weights.gather(1, chosen[..., None].expand(-1, -1, block))[:, 0].cumsum(-1, dtype=torch.float64)
    target -= F.pad(cdf, (1, 0)).gather(1, chosen)
    # the float32 sum of a block is not quite that of its parts: stay below the latter, which
    # nothing is above
    last = within[:, -1:]
    target = torch.minimum(target, torch.nextafter(last, torch.zeros_like(last)))
    return chosen.mul_(block).add_(torch.searchsorted(within, target, right=True)).clamp_(max=V - 1)[:, 0]


def nucleus(probs: Tensor, top_p: float) -> Tensor:
    """probs [N, V] in [0, 1], float32, unnormalised -> 0 outside the smallest set of likeliest tokens
    of mass >= top_p of all; of tokens that are equally likely the first belong to it."""
    sorts = probs.device.type == "cpu" and not BY_SEARCH
    return (nucleus_by_sort if sorts else nucleus_by_search)(probs, top_p)


def nucleus_by_sort(probs: Tensor, top_p: float) -> Tensor:
    """On a CPU, where it is as fast at 150,000 tokens and twice as fast at 500."""
    ordered, index = probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    outside = before >= top_p * ordered.sum(-1, keepdim=True)
    outside[:, 0] = False
    return probs.masked_fill(torch.zeros_like(outside).scatter_(-1, index, outside), 0.0)


def nucleus_by_search(probs: Tensor, top_p: float) -> Tensor:
    """Without a wait for the device: the smallest probability in the set is found by halving.

    Floats >= 0 are in the order of their bits, so HALVINGS leave one number. Masses are float32 sums
    of [N, V] with zeros in the place of what is smaller: in one order for every threshold, so that
    rounding never makes a larger set the lighter one.
    """
    bits = probs.view(torch.int32)
    low = torch.zeros(len(probs), 1, dtype=torch.int32, device=probs.device)  # the mass from it on is enough
    high = torch.full_like(low, ABOVE_ONE)  # too little
    wanted, zero = top_p * probs.sum(-1, keepdim=True), probs.new_zeros(())
    for _ in range(HALVINGS):
        middle = (low + high) // 2
        enough = torch.where(bits >= middle, probs, zero).sum(-1, keepdim=True) >= wanted
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    above, equal = torch.where(bits > low, probs, zero), bits == low
    missing = (wanted - above.sum(-1, keepdim=True)) / low.view(torch.float32)
    first = equal.cumsum(-1, dtype=torch.int32) <= missing.ceil_().clamp_(min=1)
    return torch.where(equal & first, probs, above)
