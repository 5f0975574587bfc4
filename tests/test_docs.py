"""What README, CONTRIBUTING and docs/ name is there: flags, paths, commands, names. No program runs here."""

import ast
import re

import pytest
from conftest import ROOT

README = ROOT / "README.md"
DOCS = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERS_FLAGS = {"max-restarts", "nproc_per_node", "shutdown-timeout", "standalone"}  # torchrun's
OTHERS_MODULES = {"pytest", "venv"}
MADE_ELSEWHERE = ("runs",)  # folders that only a user's commands make
USERS_OWN = {"mine.py"}
SOURCES = (".py", ".md", ".toml", ".yaml", ".txt")  # of this repository wherever they are named


def names(paths: list) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


every_document = pytest.mark.parametrize("document", DOCS, ids=names(DOCS))


def fenced(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def in_code_style(text: str) -> list[str]:
    """What stands in code style: in blocks and in lines."""
    return fenced(text) + re.findall(
        r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    )


def settings_of(path) -> set[str]:
    """The fields of a module's dataclasses."""
    classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    return {
        field.target.id
        for one in classes
        if any("dataclass" in ast.unparse(d) for d in one.decorator_list)
        for field in one.body
        if isinstance(field, ast.AnnAssign)
    }


def known_flags() -> set[str]:
    programs = [
        ROOT / "mmupt.py",
        ROOT / "eval.py",
        ROOT / "common" / "machine.py",
        *(ROOT / "evaluation").glob("*.py"),
        *(ROOT / "rewards").glob("*.py"),
        *(ROOT / "programs").glob("*.py"),
        *(ROOT / "bench").glob("*.py"),
    ]
    return set().union(*map(settings_of, programs)) | OTHERS_FLAGS | {"help"}


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--([a-zA-Z][\w-]*)", text))


def paths_in(text: str) -> set[str]:
    """Words in code style that name a file or folder of this repository."""
    top = {p.name for p in ROOT.iterdir()} - set(MADE_ELSEWHERE)
    words = {w.rstrip(".:") for part in in_code_style(text) for w in re.findall(r"(?<![\w/.])[\w./-]+", part)}
    return {
        w
        for w in words
        if ("/" in w and w.split("/")[0] in top) or (w.endswith(SOURCES) and not w.startswith("."))
    } | set(re.findall(r"`(\.[\w-]+\.ya?ml)`", text))


def links_in(text: str) -> set[str]:
    """Targets of links and pictures, but for those elsewhere."""
    return {t for t in re.findall(r"\]\(([^)\s]+)\)", text) if not t.startswith("http")}


def anchors_of(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def test_the_readme_is_short():
    text = README.read_text()
    assert len(text.splitlines()) <= 120
    assert max(map(len, text.splitlines())) <= 120
    assert len(text.split()) <= 900 and len(text.encode()) <= 6_200


@every_document
def test_every_flag_that_is_named_exists(document):
    assert flags_in(document.read_text()) <= known_flags()


@every_document
def test_every_path_that_is_named_exists(document):
    named = paths_in(document.read_text()) - USERS_OWN
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@every_document
def test_every_link_leads_somewhere(document):
    for link in links_in(document.read_text()):
        path, _, anchor = link.partition("#")
        target = (document.parent / path) if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target.read_text()), link


@every_document
def test_every_make_target_and_module_that_is_named_exists(document):
    code = "\n".join(in_code_style(document.read_text()))
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z][\w-]*)", code)) <= targets
    modules = set(re.findall(r"python3? -m ([\w.]+)", code)) - OTHERS_MODULES
    assert [module for module in sorted(modules) if not is_module(module)] == []


def test_every_name_in_contributing_is_in_the_files_it_points_to():
    """A recipe's names in the recipe's own files, so that it goes with the code it is about; other
    names in any file that the document names."""
    text = re.sub(r"^```.*?^```", "", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    checked = 0
    for paragraph in text.split("\n\n"):
        where = paragraph if paragraph.startswith("**") else text
        files = set(re.findall(r"`([\w./]+\.py)`", where))
        code = "\n".join((ROOT / file).read_text() for file in sorted(files))
        spans = [
            s for s in re.findall(r"`([A-Za-z_][\w.]*)`", paragraph) if not s.endswith((*SOURCES, ".jsonl"))
        ]
        parts = {part for span in spans for part in span.split(".")}
        assert [part for part in sorted(parts) if not re.search(rf"\b{part}\b", code)] == [], paragraph
        checked += len(parts)
    assert checked > 50


def test_the_names_that_contributing_says_to_read_first_stand_where_it_says():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    first = re.findall(r"^\d\. `(\w+)` in `([\w.]+)`", text, re.MULTILINE)
    assert [name for name, _ in first] == ["grpo_loss", "train", "token_logprobs"]
    for name, path in first:
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE)


def test_the_flags_that_the_changelog_calls_gone_are_gone():
    rows = re.findall(r"^\| `--(\w+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    trainer = settings_of(ROOT / "mmupt.py")
    assert len(rows) == 5 and not trainer & set(rows)


def test_the_packed_row_is_drawn_as_it_is():
    """The indices and predictors of CONTRIBUTING's example."""
    import torch

    from model_utils import Prompts, Rollout, pack

    prompts = Prompts(
        ["a", "b"], torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([3, 2]), [{}, {}],
        torch.arange(3).expand(1, 2, 3),
    )  # fmt: skip
    lengths = torch.tensor([3, 30, 5, 1])
    tokens = 100 * torch.arange(1, 5)[:, None] + torch.arange(30)  # a.0 from 100 on, a.1 from 200 on, ..
    rollout = Rollout(prompts, 2, tokens, lengths, torch.zeros(4, 30), torch.ones(4, dtype=torch.bool), 1.0)
    packed = pack(rollout)
    row = [1, 2, 3, 4, 5, 100, 101, 300, 301, 302, 303, *range(200, 229)]
    assert packed.ids[0].tolist() == row and len(row) == 40
    assert packed.positions[0, 0].tolist() == [0, 1, 2, 0, 1, 3, 4, 2, 3, 4, 5, *range(3, 32)]
    assert packed.predictor.tolist() == [2, 5, 6, 2, *range(11, 40), 4, 7, 8, 9, 10, 4]
    drawn = (ROOT / "CONTRIBUTING.md").read_text()
    for line in (
        "2   5  6",
        "2  11 12 .. 39",
        "4   7  8  9 10",
        "position  0   1   2 | 0   1 | 3   4 | 2   3   4   5",
    ):
        assert line in drawn
