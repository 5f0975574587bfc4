"""A run as one HTML file that needs no network: curves, what the model said before and after, settings.

    RUN/report.html                                       made when a run ends, whatever ended it
    python -m programs.report RUN [RUN ...] --out FILE    of any run, or of several side by side

Everything is read from the run folder (runs.py) and, for pictures, from the data (pictures.py). The page
(page.py) has no script, and its security policy lets none run: a model may write anything. All text goes
through markup.py, which escapes it. Curves (curves.py) are SVG. The same folder gives the same file.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common import events, files
from common.distributed import World
from common.errors import first_line
from report.page import page
from report.runs import Run, read

__all__ = ["reported", "write"]


def write(folders: Sequence[str | Path], out: str | Path) -> None:
    """The report of these runs; UsageError where one isn't a run."""
    files.replace_text(out, page([read(Path(folder)) for folder in folders]))


def ended(run: Run, config) -> str:
    done = run.last_step == config.steps
    return "all steps done" if done else "stopped as asked, before the last step"


@contextmanager
def reported(config, world: World) -> Iterator[None]:
    """Around a run: notes why it ended and writes its report, if this process has opened its folder. What
    goes wrong with that is a warning."""
    why = ""
    try:
        yield
    except BaseException as error:
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise
    finally:
        folder = Path(config.out)
        if world.is_main and files.holds(folder / "checkpoints"):
            path = folder / "report.html"
            try:
                run = read(folder)
                events.note(folder, "end", run.last_step, why=why or run.stopped or ended(run, config))
                write([folder], path)
                print(f"the report is {path}", flush=True)
            except Exception as error:  # noqa: BLE001
                print(f"warning: {path} was not written ({first_line(error)})", file=sys.stderr)
