"""Metrics to TensorBoard and W&B, each where it is installed."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest
from running import rows, run

from common import log_to
from common.errors import UsageError
from mmupt import Config


def needs(package: str):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"pip install {package}")


@pytest.mark.parametrize(
    "asked, message",
    [
        ("tensorbord", "--log_to must be of tensorboard, wandb, with a comma between (got tensorbord)"),
        ("wandb", "--log_to wandb needs wandb, which is missing: pip install wandb"),
        (
            "tensorboard,wandb",
            "--log_to tensorboard needs tensorboard, which is missing: pip install tensorboard",
        ),
    ],
)
def test_what_is_unknown_or_missing_is_said_before_anything_else(monkeypatch, asked, message):
    monkeypatch.setattr(log_to, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as error:
        Config(log_to=asked)
    assert str(error.value) == message


def test_a_folder_of_that_name_is_no_package(monkeypatch):
    monkeypatch.setattr(log_to, "find_spec", lambda name: SimpleNamespace(origin=None))  # as of ./wandb
    with pytest.raises(UsageError, match="pip install wandb"):
        log_to.check("wandb")


def test_numbers_alone_are_logged():
    row = {
        "step": 3,
        "reward": 0.5,
        "kl": None,
        "bad_rows": 0,
        "warning": "x",
        "eval/by_category": {},
        "nan": float("nan"),
    }
    assert log_to.scalars(row) == {"reward": 0.5, "bad_rows": 0.0}


class Recording:
    def __init__(self, folder, config, done):
        self.done, self.logged, self.closed = done, [], False

    def log(self, step, values):
        self.logged.append((step, values))

    def close(self):
        self.closed = True


class Failing(Recording):
    def log(self, step, values):
        raise ValueError("no more\nroom")


@pytest.fixture
def made(monkeypatch):
    """Stand-ins for both -> what was opened."""
    opened = []

    def of(kind):
        return lambda *what: opened.append(kind(*what)) or opened[-1]

    monkeypatch.setattr(log_to, "find_spec", lambda name: SimpleNamespace(origin="there"))
    monkeypatch.setattr(log_to, "KINDS", {"tensorboard": of(Recording), "wandb": of(Failing)})
    return opened


def test_a_run_logs_every_row_and_one_that_fails_is_left(made, tmp_path, random_folder, capsys):
    out = tmp_path / "r"
    assert run(out, model=random_folder, steps=2, log_to="tensorboard, wandb") == 0
    good, bad = made
    assert [step for step, _ in good.logged] == [1, 2] and good.closed and not bad.closed
    assert [values for _, values in good.logged] == [log_to.scalars(row) for row in rows(out)]
    said = [line for line in capsys.readouterr().err.split("\n") if "log_to" in line]
    assert said == ["warning: nothing more goes to --log_to wandb (no more)"]
    assert run(out, model=random_folder, steps=3, log_to="tensorboard", resume=True) == 0
    assert made[2].done == 2 and [step for step, _ in made[2].logged] == [3]


def test_one_that_cant_be_opened_ends_the_run_with_a_line_before_it_begins(
    made, monkeypatch, tmp_path, random_folder
):
    def refuses(*_):
        raise RuntimeError("no login\nsee the docs")

    monkeypatch.setitem(log_to.KINDS, "wandb", refuses)
    with pytest.raises(UsageError, match="^--log_to wandb: no login$"):
        run(tmp_path / "r", model=random_folder, steps=1, log_to="wandb")
    assert list((tmp_path / "r").iterdir()) == []
    assert run(tmp_path / "r", model=random_folder, steps=1) == 0


@needs("tensorboard")
def test_tensorboard_has_every_number_of_a_run(tmp_path, random_folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "r"
    assert run(out, model=random_folder, steps=2, log_to="tensorboard") == 0
    found = EventAccumulator(str(out / "tensorboard")).Reload()
    for name in log_to.scalars(rows(out)[0]):
        assert [e.step for e in found.Scalars(name)] == [1, 2]
        assert [e.value for e in found.Scalars(name)] == pytest.approx([row[name] for row in rows(out)])


@pytest.mark.slow
@needs("wandb")
def test_wandb_without_a_network_has_every_row_of_a_run(tmp_path, random_folder, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    out = tmp_path / "r"
    assert run(out, model=random_folder, steps=2, log_to="wandb") == 0
    (written,) = (out / "wandb").glob("offline-run-*/run-*.wandb")
    assert written.stem == f"run-{(out / 'wandb_id').read_text().strip()}"
    held = written.read_bytes()
    assert held.count(b"majority_share") >= 2 and b"seconds/rollout" in held
    assert "wandb" in sys.modules and sys.modules["wandb"].run is None  # finished
