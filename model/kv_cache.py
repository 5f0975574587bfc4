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


def shares_prompts(tokens: int, device: torch.device) -> bool:
    """Whether rows read one copy of their prompt, or each its own, which would take `tokens` tokens
    in all."""
    return BY_KERNEL or device.type == "cuda" or tokens > COPY_UP_TO


class KVCache:
    """Keys and values of N rows that decode in step, in two parts, so that the samples of a
    question share its prompt.

    Per layer: the prompts', [P, H, L, d], kept once per question and read by all of its rows
    together; and each row's own (`own_blocks`), allocated once and written in place. All rows have
    generated equally much, so there is one count of steps. Rows that ended leave by `keep`. On a
    CPU short prompts are not shared but copied into every row: bringing the rows of a question
    together would take longer than reading its prompt for each.
    """

    def __init__(self, layout: Layout, num_samples: int, capacity: int):
        self.layout = layout  # of the prompts, while they are read
        self.lengths = layout.prompts.lengths  # [P]
        questions = torch.arange(len(self.lengths), device=self.lengths.device)
        self.question = questions.repeat_interleave(num_samples)  # [N]
        self.padding = layout.padding  # [P, L] or None
        self.constants: dict[float, Tensor] = {}
        self.longest = layout.prompts.width
        self.prompt_blocks: list[tuple[Tensor, Tensor]] = []
        self.prompt: list[tuple[Tensor, Tensor]] = []  # by layer
        self.own: list[tuple[Tensor, Tensor]] = []
        self.by_kernel = BY_KERNEL or self.lengths.is_cuda  # then every question has equally many rows
        self.shared = shares_prompts(len(self) * layout.prompts.width, self.lengths.device)
        # own keys of each row, on the host and on the device: equal between steps; while the next
        # token is drawn, `slot` is one ahead already
        self.steps = 0
        self.before = 0 if self.shared else layout.prompts.width  # places before the first of them
        self.capacity = self.before + capacity
        self.slot = torch.zeros(1, dtype=torch.long, device=self.lengths.device)

    def __len__(self):
        return len(self.question)

    def store_prompt(self, key: Tensor, value: Tensor) -> None:
        """key and value [n, H, d] of the next layer, for the prompts of the layout alone."""
        keys, values = (
            self.layout.prompts.pad(x).transpose(1, 2).contiguous() for x in (key, value)
        )  # [P, H, L, d]
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
        rows, (_, H, _, d) = len(self), like.shape
        if self.by_kernel:
            return like.new_empty(rows, H, self.capacity, d), like.new_empty(rows, H, self.capacity, d)
        return like.new_empty(rows, H, d, self.capacity), like.new_empty(rows, H, self.capacity, d)

    def group_rows(self) -> None:
        """Groups the rows of a question: row n is the seat-th of its question; a question has at
        most `slots`."""
        P, H, L, _ = self.prompt[0][0].shape
        count = torch.bincount(self.question, minlength=P)
        seat = torch.arange(len(self), device=count.device) - (count.cumsum(0) - count)[self.question]
        self.slots = int(count.max())
        heads = torch.arange(H, device=count.device)
        # where the heads of row n sit among those of all questions, [P, H, slots], and who sits
        # there
        self.place = ((self.question[:, None] * H + heads) * self.slots + seat[:, None]).flatten()  # [N*H]
        self.row_at_slot = torch.zeros(
            P * H * self.slots, dtype=torch.long, device=count.device
        )  # an empty seat: anyone
        self.row_at_slot[self.place] = torch.arange(len(self) * H, device=count.device)
        # [P*H, d, L] and [P*H, L, d]
        self.prompt_blocks = [(key.flatten(0, 1).mT, value.flatten(0, 1)) for key, value in self.prompt]
        self.bias = None
        if (
            self.padding is not None
        ):  # -inf on the padding of shorter prompts: [P*H, 1, L] or, copied, [N*H, 1, L + own]
            bias = self.padding.to(self.prompt[0][0].dtype)
            if not self.shared:
                bias = F.pad(bias[self.question], (0, self.capacity - self.before))
            self.bias = bias.repeat_interleave(H, 0)[:, None]

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None = None
    ) -> Tensor:
        """query [N, H*R, d], key and value [N, H, d] of the newest tokens -> [N, H*R*d]. Appends
        the keys."""
        if window is not None and self.longest + self.steps < window:
            window = None  # it holds everything there is
        own_key, own_value = self.own[layer]
        if self.by_kernel:
            own_key.index_copy_(2, self.slot, key[:, :, None])
            own_value.index_copy_(2, self.slot, value[:, :, None])
            if window is not None:
                return self.attend_in_window(layer, query, scale, window)
            grid = (len(self.lengths), -1)
            own = (x.unflatten(0, grid).transpose(1, 2) for x in (own_key, own_value))  # [P, H, G, T, d]
            return decode_attention(
                query, *self.prompt[layer], *own, self.lengths, self.slot + 1, scale
            ).flatten(1)
        N, H, d = key.shape
        R, at = query.shape[1] // H, self.before + self.steps
        own_key.select(3, at).copy_(key)
        own_value.select(2, at).copy_(value)
        if not self.prompt_blocks:
            self.group_rows()
        bias, first = (self.bias, 0) if window is None else self.bias_of_window(window, H)
        own_key = own_key.view(N * H, d, -1).narrow(2, first, at + 1 - first)
        own_value = own_value.view(N * H, -1, d).narrow(1, first, at + 1 - first)
        if not self.shared:
            to_add = self.constant(0, query) if bias is None else bias[..., : at + 1]
            q = query.reshape(-1, R, d)
            scores = torch.baddbmm(to_add, q, own_key, beta=bias is not None, alpha=scale)
            return scores.softmax(-1, dtype=torch.float32).to(value.dtype).bmm(own_value).view(N, -1)
        q = (query * self.constant(scale, query)).view(-1, R, d)  # [N*H, R, d]
        prompt_key, prompt_value = self.prompt_blocks[layer]
        L = prompt_value.shape[1]
        # all rows and query heads that read the same keys are one matrix: those are read once, and
        # never repeated
        blocks = (
            q.view(-1, R * d).index_select(0, self.row_at_slot).view(len(prompt_key), -1, d)
        )  # [P*H, slots*R, d]
        to_prompt = blocks.bmm(prompt_key) if bias is None else torch.baddbmm(bias, blocks, prompt_key)
        to_own = q.bmm(own_key).index_select(0, self.row_at_slot).view(*to_prompt.shape[:2], -1)
        weights = torch.cat((to_prompt, to_own), -1).softmax(-1, dtype=torch.float32).to(value.dtype)
        out = (
            weights.narrow(2, 0, L).bmm(prompt_value).view(-1, R * d).index_select(0, self.place)
        )  # [N*H, R*d]
        of_own = weights.view(-1, R, weights.shape[2]).narrow(2, L, at + 1 - first)
        of_own = of_own.index_select(0, self.place)  # [N*H, R, own]
        return out.view(-1, R, d).baddbmm_(of_own, own_value).view(N, -1)

    def bias_of_window(self, window: int, H: int) -> tuple[Tensor, int]:
        """Like `bias`, with -inf on what lies before the window of the newest tokens too, and the
        first of the own keys to be read (where those have no bias)."""
        lengths, L = (
            self.lengths,
            self.layout.prompts.width if self.padding is None else self.padding.shape[1],
        )
        place = torch.arange(L, device=lengths.device)
        out = (place >= lengths[:, None]) | (lengths[:, None] + self.steps - place >= window)  # [P, L]
        before = self.steps - window + 1  # own tokens outside
        if not self.shared:
            own = torch.arange(self.capacity - self.before, device=lengths.device) < before
            out = torch.cat([out[self.question], own.expand(len(self), -1)], 1)
        bias = torch.zeros(out.shape, dtype=self.prompt[0][0].dtype, device=out.device).masked_fill_(
            out, -torch.inf
        )
        return bias.repeat_interleave(H, 0)[:, None], max(before, 0) if self.shared else 0

    def attend_in_window(self, layer: int, query: Tensor, scale: float, window: int) -> Tensor:
        """Where the kernel serves: the same by public functions, each row with a copy of its
        prompt."""
        n = self.steps + 1
        key, value = (
            torch.cat([prompt[self.question], own[:, :, :n]], 2)
            for prompt, own in zip(self.prompt[layer], self.own[layer], strict=True)
        )  # [N, H, L + n, d]
        lengths, L = self.lengths[self.question][:, None], key.shape[2] - n
        place = torch.arange(L + n, device=key.device).expand(len(self), -1)
        back = torch.where(place < L, lengths + self.steps - place, L + self.steps - place)
        mask = (back < window) & ((place < lengths) | (place >= L))
        R = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(R, 1), value.repeat_interleave(R, 1)
        return F.scaled_dot_product_attention(
            query[:, :, None], key, value, attn_mask=mask[:, None, None], scale=scale
        ).flatten(1)

    def constant(self, x: float, like: Tensor) -> Tensor:
        """x as a tensor, made once: a Python number would be converted at every use."""
        if self.constants.get(x) is None:
            self.constants[x] = like.new_full((), x)
        return self.constants[x]

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

    def bytes(self) -> int:
        return sum(
            x.numel() * x.element_size() for pairs in (self.prompt, self.own) for pair in pairs for x in pair
        )
