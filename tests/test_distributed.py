"""Several processes train as one does."""

import pytest
import torch
from conftest import run_program
from running import flags, rows, run
from safetensors.torch import load_file

import mmupt
from data import TINY


def test_more_processes_than_gpus_is_a_users_mistake(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(mmupt.cli.UsageError, match="--nproc_per_node must be at most 4"):
        mmupt.distributed.start()


@pytest.mark.slow
@pytest.mark.parametrize(
    "special", [dict(beta=0.01, aggregate="bnpo"), dict(beta=0.0), dict(lora_rank=4)], ids=str
)
def test_two_processes_train_as_one_does(tmp_path, special):
    """Several forwards per update, blocks of bnpo that span ranks, and at beta 0 groups and whole
    updates that a rank leaves out."""
    if "lora_rank" in special:
        pytest.importorskip("peft", reason="pip install peft")
    options = dict(steps=5, questions=8, minibatch_questions=4, lr=1e-4, seed=1, save_every=5)
    options |= dict(tokens_per_forward=400, eval_data="", group_size=3) | special
    for name, processes in (("one", 1), ("two", 2)):
        done = run_program(
            *"-m torch.distributed.run --standalone --nproc_per_node".split(),
            processes,
            "mmupt.py",
            *flags(out=tmp_path / name, **options),
        )
        assert done.returncode == 0, done.stderr[-3000:]
    file = "adapter_model.safetensors" if "lora_rank" in special else "model.safetensors"
    one, two = (load_file(tmp_path / n / "checkpoints" / "step-5" / file) for n in ("one", "two"))
    base = {n: torch.zeros_like(w) for n, w in one.items() if "lora_B" in n} or load_file(TINY / file)
    assert max((one[n] - base[n]).abs().max() for n in base) > 1e-4
    assert max((one[n] - two[n]).abs().max() for n in one) < 1e-5
    for a, b in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        for name in (
            "reward",
            "majority_share",
            "response_length",
            "grad_norm",
            "top_answer_share",
            "entropy",
            "loss",
        ):
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5), name


def test_questions_must_divide_among_the_processes(tmp_path, monkeypatch):
    from common.distributed import World

    monkeypatch.setattr(mmupt.distributed, "start", lambda timeout: World(0, 3, torch.device("cpu")))
    with pytest.raises(mmupt.cli.UsageError, match=r"\(4\) must be a multiple of the 3 processes"):
        run(tmp_path / "r")
