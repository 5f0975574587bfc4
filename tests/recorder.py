"""Runs the trainer and keeps what an outsider sees of it: samples, and gradients as the optimiser gets them.

    torchrun --nproc_per_node 2 tests/recorder.py RUNS.json      several runs, one after the other

RUNS.json: [[record, noise, argv], ..]; rank r writes `record`.r. Of the trainer's names only `mmupt.main` and
`mmupt.generate` are used. Left out: all that is compared, which is recomputed in oracle.py.
"""

import json
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import mmupt  # noqa: E402


def record(argv: list[str], noise: float = 0.0) -> dict:
    """One run of `mmupt.main(argv)`:

    rollouts    per step {keys, prompts, responses, logprobs, handed}, each a list over questions or samples
    start       {name: weight} of what is trained, before the first update
    gradients   per update {name: gradient}, after clipping
    forwards    per update, how many backward passes made its gradient
    recomputed  modules that were called within a backward pass, to compute activations again

    `noise` is added to the sampler's log-probs before the trainer gets them (`handed`), of either sign, up to
    this size. So it shows whether they are used, and a ratio may differ from 1 in a first update.
    """
    kept = {"rollouts": [], "gradients": [], "forwards": [], "recomputed": 0}
    names, passes = {}, []
    generate, backward = mmupt.generate, torch.Tensor.backward

    def recorded_generate(policy, *args, **options):
        rollout = generate(policy, *args, **options)
        trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
        names.update({id(p): name for name, p in trained.items()})
        kept.setdefault("start", {name: p.detach().clone() for name, p in trained.items()})
        source = torch.Generator().manual_seed(len(kept["rollouts"]))
        drawn = torch.rand(rollout.logprobs.shape, generator=source)
        handed = rollout.logprobs + noise * (2 * drawn - 1) * rollout.mask

        def cut(rows, lengths):
            return [row[:n].tolist() for row, n in zip(rows, lengths.tolist(), strict=True)]

        kept["rollouts"].append({
            "keys": list(rollout.prompts.keys),
            "prompts": cut(rollout.prompts.ids, rollout.prompts.lengths),
            "responses": cut(rollout.tokens, rollout.lengths),
            "logprobs": cut(rollout.logprobs, rollout.lengths),
            "handed": cut(handed, rollout.lengths),
        })  # fmt: skip
        return replace(rollout, logprobs=handed)

    def recorded_backward(*args, **options):
        def count(*_):
            kept["recomputed"] += 1

        passes.append(1)
        called = register_module_forward_pre_hook(count)
        try:
            return backward(*args, **options)
        finally:
            called.remove()

    def before_step(optimizer, *_):
        owned = [p for group in optimizer.param_groups for p in group["params"]]
        kept["gradients"].append({names[id(p)]: p.grad.detach().clone() for p in owned})
        kept["forwards"].append(len(passes))
        passes.clear()

    hook = register_optimizer_step_pre_hook(before_step)
    counted = mock.patch("torch.Tensor.backward", recorded_backward)
    try:
        with mock.patch.object(mmupt, "generate", recorded_generate), counted:
            status = mmupt.main(argv)
    finally:
        hook.remove()
    assert status == 0
    return kept


if __name__ == "__main__":
    torch.set_num_threads(1)
    # one process group serves all runs: a second would find the addresses of the first
    with mock.patch("torch.distributed.destroy_process_group"):
        for path, noise, argv in json.loads(Path(sys.argv[1]).read_text()):
            known = torch.distributed.is_initialized()
            with mock.patch("torch.distributed.init_process_group") if known else nullcontext():
                torch.save(record(argv, noise), f"{path}.{os.environ['RANK']}")
    torch.distributed.destroy_process_group()
