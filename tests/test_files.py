"""Files that others hold, or that can't be written."""

import pytest
from conftest import run_program
from running import flags, run

import mmupt


def test_a_place_that_nothing_can_be_written_to_is_said_first(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "deep" / "r", tmp_path / ("r" * 300)):
        with pytest.raises(mmupt.cli.UsageError, match="--out .*(file|too long)"):
            run(out)
    monkeypatch.setattr("os.access", lambda *_: False)  # who runs the tests may be allowed everything
    with pytest.raises(mmupt.cli.UsageError, match="nothing may be written to"):
        run(tmp_path / "r")


@pytest.mark.slow
def test_a_second_process_on_one_folder_is_refused(tmp_path):
    assert run(tmp_path / "r", steps=1) == 0
    mmupt.files.hold(tmp_path / "r" / "checkpoints")
    done = run_program("mmupt.py", *flags(out=tmp_path / "r", steps=2, resume=True))
    assert (
        done.returncode == 2 and done.stderr.count("\n") == 1 and "another process is writing" in done.stderr
    )
    mmupt.files.release()
    assert run(tmp_path / "r", steps=2, resume=True) == 0
