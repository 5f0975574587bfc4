"""Keys and values of rows that decode in step; the samples of a question share those of its prompt.

Letters: P questions, N rows, L longest prompt, H key/value heads, R query heads per key/value head,
d width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.decode_attention import decode_attention
from model.packed_attention import Layout

BY_KERNEL = False  # decode on a CPU too as on a GPU; for tests
COPY_UP_TO = 8192  # prompt tokens that a CPU copies into rows rather than let rows share them


def by_kernel(device: torch.device) -> bool:
    return BY_KERNEL or device.type == "cuda"


def shares_prompts(tokens: int, device: torch.device) -> bool:
    """Whether rows read one copy of their prompt, or each its own, of `tokens` tokens in all."""
    return by_kernel(device) or tokens > COPY_UP_TO


class KVCache:
    """Keys and values of N rows that decode in step, in two parts, so that the samples of a
    question share its prompt.

    Per layer: the prompts', [P, H, L, d], kept once per question and read by all of its rows
    together; and each row's own (`own_blocks`), allocated once and written in place. All rows have
    generated equally much, so there is one count of steps. Rows that ended leave by `keep`. On a
    CPU short prompts are not shared but copied into every row: bringing the rows of a question
    together would take longer than reading its prompt for each.
    """

    def __init__(self, layout: Layout, num_samples: int, capacity: int, window: int | None = None):
        """Room for `capacity` tokens a row. `window`: that of the layers that have one, where it may
        be exceeded."""
        self.layout = layout  # of the prompts, while they are read
        self.lengths = layout.prompts.lengths  # [P]
        device = self.lengths.device
        self.question = torch.arange(len(self.lengths), device=device).repeat_interleave(num_samples)  # [N]
        self.padding = layout.padding  # [P, L] or None
        self.constants: dict[float, Tensor] = {}
        self.longest = layout.prompts.width
        self.prompt_blocks: list[tuple[Tensor, Tensor]] = []
        self.prompt: list[tuple[Tensor, ...]] = []  # by layer
        self.own: list[tuple[Tensor, ...]] = []
        self.by_kernel = by_kernel(device)  # then every question has equally many rows
        windowed = window is not None and self.longest + capacity > window
        self.shared = windowed or shares_prompts(len(self) * self.longest, device)
        # own keys of each row, on the host and on the device: equal between steps; while the next
        # token is drawn, `slot` is one ahead already
        self.steps = 0
        self.before = 0 if self.shared else self.longest  # places before the first of them
        self.capacity = self.before + capacity
        self.slot = torch.zeros(1, dtype=torch.long, device=device)
        self.count = self.slot + 1  # own keys once the newest is among them

    def __len__(self) -> int:
        return len(self.question)

    # --- writing

    def store_prompt(self, key: Tensor, value: Tensor) -> None:
        """key and value [n, H, d] of the next layer, for the prompts of the layout alone."""
        pad = self.layout.prompts.pad
        keys, values = (pad(x).transpose(1, 2).contiguous() for x in (key, value))  # [P, H, L, d]
        own = self.own_blocks(keys)
        if not self.shared:
            L, rows = keys.shape[2], (len(keys), -1)  # as yet, every question has equally many
            own[0].unflatten(0, rows)[..., :L] = keys.mT.contiguous()[:, None]
            own[1].unflatten(0, rows)[..., :L, :] = values[:, None]
            keys, values = keys[:, :, :0].clone(), values[:, :, :0].clone()
        self.prompt.append((keys, values))
        self.own.append(own)

    def own_blocks(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Room for values, [N, H, capacity, d], and for keys: on a CPU transposed, [N, H, d,
        capacity], for small products of them are then three times as fast."""
        N, (_, H, _, d), T = len(self), like.shape, self.capacity
        keys = (N, H, T, d) if self.by_kernel else (N, H, d, T)
        return like.new_empty(keys), like.new_empty(N, H, T, d)

    def append(self, layer: int, key: Tensor, value: Tensor) -> None:
        """key and value [N, H, d] of the newest tokens."""
        own_key, own_value = self.own[layer]
        if self.by_kernel:
            own_key.index_copy_(2, self.slot, key[:, :, None])
            own_value.index_copy_(2, self.slot, value[:, :, None])
        else:
            own_key.select(3, self.before + self.steps).copy_(key)
            own_value.select(2, self.before + self.steps).copy_(value)

    def advance(self) -> None:
        """To the next slot, on the device alone: `steps` follows when the step is over."""
        self.slot.add_(1)
        self.count.add_(1)

    def keep(self, rows: Tensor) -> None:
        """The rows that stay, in order; questions without any leave too."""
        self.prompt_blocks = []  # made anew at the next step; views of what is dropped would keep it alive
        n = self.before + self.steps
        stay, self.question = self.question[rows].unique_consecutive(return_inverse=True)
        for layer, (prompt, own) in enumerate(zip(self.prompt, self.own, strict=True)):
            if len(stay) < len(prompt[0]):
                self.prompt[layer] = tuple(x.index_select(0, stay) for x in prompt)
            if n > self.capacity // 2:
                self.own[layer] = tuple(x.index_select(0, rows) for x in own)
                continue
            self.own[layer] = self.own_blocks(prompt[0])  # what was never written is not copied
            for new, old, axis in zip(self.own[layer], own, (2 if self.by_kernel else 3, 2), strict=True):
                new.narrow(axis, 0, n).copy_(old.narrow(axis, 0, n).index_select(0, rows))
        self.lengths, self.padding = self.lengths[stay], None if self.padding is None else self.padding[stay]

    # --- reading

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None = None
    ) -> Tensor:
        """query [N, H*R, d], key and value [N, H, d] of the newest tokens -> [N, H*R*d]. Appends the keys."""
        self.append(layer, key, value)
        return self.read(layer, query, scale, window)

    def read(self, layer: int, query: Tensor, scale: float, window: int | None = None) -> Tensor:
        """The same, of keys that are appended already."""
        if window is not None and self.longest + self.steps >= window:  # else it holds everything there is
            return self.attend_in_window(layer, query, scale, window)
        if self.by_kernel:
            grid = (len(self.lengths), -1)
            # [P, H, L, d] and [P, H, G, T, d]
            (prompt_key, prompt_value), own = self.prompt[layer], self.own[layer]
            own_key, own_value = (x.unflatten(0, grid).transpose(1, 2) for x in own)
            out = decode_attention(
                query, prompt_key, prompt_value, own_key, own_value, self.lengths, self.count, scale
            )
            return out.flatten(1)
        if not self.prompt_blocks:
            self.group_rows()
        return (self.attend_shared if self.shared else self.attend_copied)(layer, query, scale)

    def group_rows(self) -> None:
        """Where each row stands among those of its question, which read its prompt together: a
        question has places for the most rows that any has."""
        P, H, L, _ = self.prompt[0][0].shape
        count = torch.bincount(self.question, minlength=P)
        nth = torch.arange(len(self), device=count.device) - (count.cumsum(0) - count)[self.question]
        most, heads = int(count.max()), torch.arange(H, device=count.device)
        # [N*H]: the place of each row's heads among those of all questions, [P, H, most]; and back,
        # where an empty place is anyone's
        self.place = ((self.question[:, None] * H + heads) * most + nth[:, None]).flatten()
        self.row_at_place = torch.zeros(P * H * most, dtype=torch.long, device=count.device)
        self.row_at_place[self.place] = torch.arange(len(self) * H, device=count.device)
        # [P*H, d, L] and [P*H, L, d]
        self.prompt_blocks = [(key.flatten(0, 1).mT, value.flatten(0, 1)) for key, value in self.prompt]
        self.bias = None  # -inf on the padding of shorter prompts: [P*H, 1, L] or, copied, [N*H, 1, L + own]
        if self.padding is not None:
            bias = self.padding.to(self.prompt[0][0].dtype)
            if not self.shared:
                bias = F.pad(bias[self.question], (0, self.capacity - self.before))
            self.bias = bias.repeat_interleave(H, 0)[:, None]

    def attend_copied(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """Each row reads its prompt and its own tokens from one block."""
        own_key, own_value = self.own[layer]  # [N, H, d, capacity], [N, H, capacity, d]
        (N, H, d, _), n = own_key.shape, self.before + self.steps + 1
        bias = None if self.bias is None else self.bias[..., :n]
        scores = torch.baddbmm(
            self.constant(0, query) if bias is None else bias,
            query.reshape(N * H, -1, d), own_key.view(N * H, d, -1).narrow(2, 0, n),
            beta=bias is not None, alpha=scale,
        )  # fmt: skip
        weights = scores.softmax(-1, dtype=torch.float32).to(own_value.dtype)
        return weights.bmm(own_value.view(N * H, -1, d).narrow(1, 0, n)).view(N, -1)

    def attend_shared(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """All rows and query heads that read the same keys are one matrix: those are read once, and never
        repeated."""
        own_key, own_value = self.own[layer]
        (N, H, d, _), n = own_key.shape, self.steps + 1
        q = (query * self.constant(scale, query)).view(N * H, -1, d)  # [N*H, R, d]
        R = q.shape[1]
        key, value = self.prompt_blocks[layer]
        L = value.shape[1]
        # [P*H, most*R, d]
        blocks = q.view(-1, R * d).index_select(0, self.row_at_place).view(len(key), -1, d)
        to_prompt = blocks.bmm(key) if self.bias is None else torch.baddbmm(self.bias, blocks, key)
        to_own = q.bmm(own_key.view(N * H, d, -1).narrow(2, 0, n))
        to_own = to_own.index_select(0, self.row_at_place).view(*to_prompt.shape[:2], -1)
        weights = torch.cat((to_prompt, to_own), -1).softmax(-1, dtype=torch.float32).to(value.dtype)
        out = weights.narrow(2, 0, L).bmm(value).view(-1, R * d).index_select(0, self.place)  # [N*H, R*d]
        of_own = weights.view(-1, R, L + n).narrow(2, L, n).index_select(0, self.place)  # [N*H, R, own]
        return out.view(-1, R, d).baddbmm_(of_own, own_value.view(N * H, -1, d).narrow(1, 0, n)).view(N, -1)

    def attend_in_window(self, layer: int, query: Tensor, scale: float, window: int) -> Tensor:
        """Where the window leaves something out: by public functions, each row with a copy of its prompt."""
        n = self.steps + 1
        own_key, own_value = self.own[layer]
        own = (own_key if self.by_kernel else own_key.mT, own_value)
        key, value = (
            torch.cat([prompt[self.question], x[:, :, :n]], 2)
            for prompt, x in zip(self.prompt[layer], own, strict=True)
        )  # [N, H, L + n, d]
        lengths, L = self.lengths[self.question][:, None], key.shape[2] - n
        place = torch.arange(L + n, device=key.device).expand(len(self), -1)
        back = torch.where(place < L, lengths + self.steps - place, L + self.steps - place)
        mask = (back < window) & ((place < lengths) | (place >= L))
        R = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(R, 1), value.repeat_interleave(R, 1)
        mask, query = mask[:, None, None], query[:, :, None]
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale).flatten(1)

    def constant(self, x: float, like: Tensor) -> Tensor:
        """x as a tensor, made once: a Python number would be converted at every use."""
        if x not in self.constants:
            self.constants[x] = like.new_full((), x)
        return self.constants[x]

    def bytes(self) -> int:
        return sum(
            x.numel() * x.element_size() for pairs in (self.prompt, self.own) for pair in pairs for x in pair
        )
