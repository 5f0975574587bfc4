"""The report of a run, or of several side by side: `python -m programs.report RUN [RUN ...] --out FILE.html`.

Without --out it is RUN/report.html, which a run writes at its end by itself; of several it must be named. The
file needs no network (report/).
"""

from dataclasses import dataclass
from pathlib import Path

from common import cli, files
from common.cli import flag
from report import write


@dataclass
class ReportConfig:
    runs: list[str] = flag([], "run folders; may stand first, without the flag", "given")
    out: str = flag("", "HTML file; empty: report.html in the run's folder")

    def __post_init__(self):
        cli.check(self)
        if len(self.runs) > 1 and not self.out:
            raise cli.UsageError("--out must be given beside several runs: the file of their report")
        self.out = self.out or str(Path(self.runs[0]) / "report.html")
        if Path(self.out).is_dir():
            raise cli.UsageError(f"--out {self.out} is a folder: name a file in it")
        files.check_out(Path(self.out).parent)


def main(argv: list[str]) -> int:
    if argv and not argv[0].startswith("-"):
        argv = ["--runs", *argv]
    config = cli.parse(ReportConfig, argv)
    try:
        Path(config.out).parent.mkdir(parents=True, exist_ok=True)
        write(config.runs, config.out)
    except OSError as error:
        raise cli.UsageError(f"--out {config.out}: {error.strerror or error}") from None
    print(f"the report is {config.out}")
    return 0


if __name__ == "__main__":
    cli.run(main)
