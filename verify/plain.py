"""What the checks compare with: transformers' own forward of one sequence at a time, nothing cached, packed
or shared, and the GRPO loss written out a second time.

    logprobs    log softmax(logits / temperature) of a response's tokens, in float64
    slopes      d loss / d logprob of each token where every ratio is 1
    gradients   d loss / d weight = sum_bt slope_bt d logprob_bt / d weight

On a CPU the model is float64 where it is small, elsewhere float32. Of ours it takes questions as tensors, and
how a family's image tensors are called.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from common.pulse import tick
from model.batch import Model, Prompts
from model.families import VISION, flat, image_inputs
from model_utils import Rollout

SMALL = 10**8  # parameters up to which float64 takes no minutes
LORA_SCALE = 2  # alpha / rank
BLOCK = 4  # sequences of a block of --aggregate bnpo
SLOPES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {  # of d = logp - ref: the KL and its slope
    "k1": lambda d: (d, torch.ones_like(d)),
    "k2": lambda d: (d * d / 2, d),
    "k3": lambda d: ((-d).exp() - 1 + d, 1 - (-d).exp()),
}


class Plain:
    """A checkpoint in transformers alone, as it was stored until `take` gives it a policy's weights."""

    def __init__(self, path: str, device: torch.device):
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        auto: Any = AutoModelForImageTextToText if config.model_type in VISION else AutoModelForCausalLM
        self.model: Model = auto.from_pretrained(
            path, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
        )
        small = device.type == "cpu" and sum(p.numel() for p in self.model.parameters()) <= SMALL
        self.model.to(device, torch.float64 if small else torch.float32).eval()
        self.image_token = getattr(config, "image_token_id", -1)
        self.device = device

    @torch.no_grad()
    def take(self, policy: Model) -> "Plain":
        """The weights of a policy, an adapter's added: W + 2 B A (arXiv 2106.09685, section 4.1)."""
        own = dict(self.model.named_parameters())
        for name, w in policy.named_parameters():
            if ".lora_" not in name:
                own[name.replace(".base_layer", "")].copy_(w)
        for name, (A, B) in adapters(policy).items():
            own[name] += LORA_SCALE * B.to(own[name]) @ A.to(own[name])
        return self

    def inputs(self, prompts: Prompts, question: int, response: Tensor) -> dict[str, Tensor]:
        ids = torch.cat([prompts.ids[question, : prompts.lengths[question]], response])[None]
        found = image_inputs(self.model, prompts.select([question]), lean=False) or {}
        if found:
            known = inspect.signature(self.model.forward).parameters
            for name in {"mm_token_type_ids", "token_type_ids"} & known.keys():
                found[name] = (ids == self.image_token).int()
        if hasattr(self.model.model, "rope_deltas"):  # the module keeps those of the sequence before
            self.model.model.rope_deltas = None
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **found}

    def scores(self, prompts: Prompts, question: int, response: Tensor, temperature: float) -> Tensor:
        """[T, V] float64, the log-probs of all tokens at each place of a response."""
        logits = self.model(**self.inputs(prompts, question, response), use_cache=False).logits
        tick()
        return (logits[0, -len(response) - 1 : -1].double() / temperature).log_softmax(-1)

    def rows(self, rollout: Rollout, temperature: float):
        """(b, log-probs [n]) of each response in turn."""
        for b, n in enumerate(rollout.lengths.tolist()):
            response = rollout.tokens[b, :n]
            every = self.scores(rollout.prompts, b // rollout.num_samples, response, temperature)
            yield b, every.gather(-1, response[:, None])[:, 0]

    @torch.no_grad()
    def logprobs(self, rollout: Rollout, temperature: float) -> Tensor:
        """[B, T], 0 after the end."""
        out = torch.zeros(rollout.tokens.shape, dtype=torch.float64, device=self.device)
        for b, own in self.rows(rollout, temperature):
            out[b, : len(own)] = own
        return out

    def gradients(
        self, rollout: Rollout, temperature: float, slopes: Tensor, policy: Model
    ) -> dict[str, Tensor]:
        """Of sum_bt slopes_bt logprob_bt, by the names of what the policy trains. Of an adapter by the chain
        rule: dA = 2 B^T dW, dB = 2 dW A^T."""
        self.model.zero_grad()
        for b, own in self.rows(rollout, temperature):
            if slopes[b].any():
                (own * slopes[b, : len(own)]).sum().backward()
        found = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        for name, (A, B) in adapters(policy).items():
            dW = found.get(name, torch.zeros_like(self.model.get_parameter(name)))
            stem = name.removesuffix("weight")
            found[f"{stem}lora_A.default.weight"] = LORA_SCALE * B.to(dW).T @ dW
            found[f"{stem}lora_B.default.weight"] = LORA_SCALE * dW @ A.to(dW).T
        trained = {name for name, p in policy.named_parameters() if p.requires_grad}
        return {name: g for name, g in found.items() if name in trained}

    @torch.no_grad()
    def hidden(self, prompts: Prompts, question: int, response: Tensor) -> Tensor:
        """[T, D], what the head is given of the places that predict a response."""
        given: list[Tensor] = []
        hook = self.model.get_output_embeddings().register_forward_pre_hook(lambda _, x: given.append(x[0]))
        self.scores(prompts, question, response, 1.0)
        hook.remove()
        return given[0][0, -len(response) - 1 : -1]

    @torch.no_grad()
    def features(self, prompts: Prompts, question: int) -> int:
        """How many image features its pictures have."""
        images = image_inputs(self.model, prompts.select([question]), lean=False)
        return len(flat(self.model.model.get_image_features(**images).pooler_output)) if images else 0

    @torch.no_grad()
    def greedy(self, prompts: Prompts, question: int, most: int, banned: list[int], eos: tuple) -> Tensor:
        """The response of transformers' generate, with none of the checkpoint's own settings for it."""
        from transformers import GenerationConfig

        self.model.generation_config = GenerationConfig(
            do_sample=False, max_new_tokens=most, suppress_tokens=banned or None,
            eos_token_id=list(eos) or None, pad_token_id=0,
        )  # fmt: skip
        inputs = self.inputs(prompts, question, prompts.ids[question, :0])
        tick()
        return self.model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]


def adapters(policy: Model) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, B) by the name of the weight that they are added to."""
    own = dict(policy.named_parameters())
    end = ".lora_A.default.weight"
    stems = [name.removesuffix(end) for name in own if name.endswith(end)]
    return {f"{s}.weight": (own[s + end].detach(), own[f"{s}.lora_B.default.weight"].detach()) for s in stems}


def divisors(config, lengths: list[int]) -> list[float]:
    """What each response's summed loss is divided by; `lengths` of the whole optimiser batch."""
    B, total = len(lengths), sum(lengths)
    blocks = [sum(lengths[i : i + BLOCK]) for i in range(0, B, BLOCK)]
    return {
        "grpo": [B * n for n in lengths],
        "dapo": [total] * B,
        "dr_grpo": [B * config.max_new_tokens] * B,
        "bnpo": [blocks[i // BLOCK] * len(blocks) for i in range(B)],
    }[config.aggregate]


def slopes(config, logprobs: Tensor, ref: Tensor | None, advantages: Tensor, divisor: Tensor) -> Tensor:
    """d loss / d logprob [B, T] at ratio 1, where l = -rho A + beta KL has the slope -A + beta KL'."""
    out = -advantages[:, None].double().expand_as(logprobs)
    if ref is not None:
        kl, slope = SLOPES[config.kl](logprobs - ref)
        out = out + config.beta * slope.where(kl.abs() <= (config.kl_clamp or torch.inf), 0.0)
    return out / divisor[:, None]
