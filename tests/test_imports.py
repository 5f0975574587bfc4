"""What a command that needs no model imports: seconds before its first word."""

import pytest
from conftest import run_program

HEAVY = ("transformers", "torch.distributed.tensor", "torch.distributed.fsdp", "torch._dynamo", "peft")
SAY = "\nimport sys\nprint([name for name in {heavy!r} if name in sys.modules])"


@pytest.mark.parametrize(
    "what",
    [
        "import mmupt",
        "import eval",
        "import mmupt\ntry: mmupt.main(['--help'])\nexcept SystemExit: pass",
        "import mmupt, model_utils\nmmupt.Config(); model_utils.latest_checkpoint('/nowhere')",
    ],
)
def test_neither_transformers_nor_shares_of_tensors_are_imported_for(what):
    done = run_program("-c", what + SAY.format(heavy=HEAVY))
    assert done.returncode == 0 and done.stdout.endswith("[]\n"), done.stdout[-200:] + done.stderr


def test_loading_a_model_does_import_transformers():
    """So the names above are those of modules, and the test can fail."""
    done = run_program("-c", "import model_utils as m; m.load_model('data/tiny')" + SAY.format(heavy=HEAVY))
    assert "'transformers', 'torch.distributed.tensor'" in done.stdout, done.stderr
