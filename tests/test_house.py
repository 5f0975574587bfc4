"""The rooms: imports run one way, and no room or file outgrows its bounds."""

import ast

import pytest
from conftest import ROOT

# from the ground up; a room may import rooms of lower floors alone
FLOORS = [
    {"answers", "common", "kernels"},
    {"data"},
    {"model", "report"},
    {"model_utils"},
    {"evaluation", "rewards"},
    {"verify"},
    {"mmupt", "eval", "programs"},
    {"bench"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(p for room in FLOOR for p in [*ROOT.glob(f"{room}.py"), *ROOT.glob(f"{room}/**/*.py")])


def room_of(path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(path) -> set[str]:
    """The rooms that a file names in its imports, wherever in it they stand."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.split(".")[0] for name in names} & FLOOR.keys()


def test_the_root_holds_three_files_and_every_room_has_a_floor():
    assert sorted(p.stem for p in ROOT.glob("*.py")) == ["eval", "mmupt", "model_utils"]
    rooms = {p.parent.name for p in ROOT.glob("*/*.py")} - {"tests"}
    assert rooms | {"eval", "mmupt", "model_utils"} == FLOOR.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downward(path):
    own = room_of(path)
    assert {r for r in imported(path) if r != own and FLOOR[r] >= FLOOR[own]} == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_outgrows_a_sitting(path):
    bound = 525 if path.name == "mmupt.py" else 450
    if room_of(path) != "bench":
        assert path.read_text().count("\n") <= bound


def test_the_algorithm_begins_early():
    lines = (ROOT / "mmupt.py").read_text().split("\n")
    assert next(n for n, line in enumerate(lines, 1) if line.startswith("def majority_vote")) <= 130
