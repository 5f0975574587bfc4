"""math-verify in a process of its own."""

import subprocess
import sys
import time
from importlib import metadata

import pytest
from conftest import ROOT

import evaluation.grader
from common.errors import GraderError
from eval import main


@pytest.fixture(scope="module")
def grader():
    pytest.importorskip("math_verify", reason="pip install 'math-verify[antlr4_13_2]'")
    with evaluation.grader.MathVerify(seconds=2) as grader:
        yield grader


def test_math_verify_compares_in_a_process_of_its_own(grader):
    assert grader.equal(r"\frac{1}{2}", "0.5") is True
    assert grader.equal("(x+1)^2", "x^2+2x+1") is True  # which our canonical form does not see
    assert grader.equal("3", "4") is False
    assert grader.equal("3", "{\\frac{") is False and grader.equal("3", "a\nb\u2028\ud800") is False


def test_a_comparison_that_hangs_is_killed_and_the_next_one_is_answered(grader):
    before, started = grader.worker, time.monotonic()
    assert grader.equal("9^{9^{9^{9}}}", "3") is None
    assert time.monotonic() - started < 10 and before.poll() is not None
    assert grader.equal("2", "4/2") is True and grader.worker.poll() is None
    grader.worker.kill()  # as the kernel does when memory is short
    assert grader.equal("2", "6/3") is None and grader.equal("2", "8/4") is True
    grader.worker.kill()
    grader.worker.wait()  # so that the next line breaks the pipe
    assert grader.equal("2", "6/3") is None and grader.equal("2", "8/4") is True


def test_a_missing_grader_is_one_line_with_the_install_line(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(evaluation.grader.metadata, "version", missing)
    with pytest.raises(GraderError, match="pip install 'math-verify") as error:
        main(["--grader", "math-verify"])
    assert "\n" not in str(error.value)


def test_the_graders_worker_imports_nothing_of_ours():
    code = "import runpy, sys; runpy.run_path('evaluation/math_verify_worker.py');"
    code += "print('torch' in sys.modules or 'common' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
