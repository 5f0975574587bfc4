"""`mmupt.py --verify`: is what the loop computes, of this model and these questions, what it should be?

A few of the run's questions go through the loop's own functions (evidence.py), and what comes out is held to
transformers' own forward of one sequence at a time (plain.py), a check a line (checks.py): name, figure, the
most that it may be, ok or FAILED. With several processes the figure is the worst of theirs. Exit status 1
where one failed. It trains nothing and leaves no file.

Left out: votes and rewards, which need no model; weights in shares.
"""

import math
import time

from tqdm import tqdm

from common import pulse
from common.distributed import World
from common.errors import UsageError, first_line
from model import plan
from verify.checks import CHECKS
from verify.evidence import Evidence, Loop

__all__ = ["Loop", "verify"]


def verify(config, world: World, loop: Loop) -> int:
    """-> exit status."""
    began = time.perf_counter()
    pulse.enter(0, "verify")
    config = plan.resolve(config, world)
    if config.shard == "on":
        raise UsageError("--verify wants whole weights on each process: add --shard off")
    evidence, failed = Evidence(config, world, loop), []
    for name, check in CHECKS.items():
        said, ok = worst(world.gather_json([outcome(check, evidence)]))
        failed += [] if ok else [name]
        if world.is_main:
            tqdm.write(f"{name:31} {said}")
    if world.is_main:
        ends = f"FAILED: {', '.join(failed)}" if failed else "all ok"
        print(f"{ends}  ({time.perf_counter() - began:.0f} s)", flush=True)
    return int(bool(failed))


def outcome(check, evidence: Evidence) -> list:
    """[figure, bound, words]; a check that raised has no figure."""
    try:
        found = check(evidence)
    except Exception as error:  # noqa: BLE001  a fault may raise anything, and the other checks want to be seen
        return [None, None, first_line(error)]
    figure, bound = found if not isinstance(found, str) else (0.0, -1.0)
    return [float(figure), float(bound), found if isinstance(found, str) else ""]


def worst(outcomes: list[list]) -> tuple[str, bool]:
    """What is said of a check by all processes' outcomes, and whether it passed."""
    raised = [words for figure, _, words in outcomes if figure is None]
    if raised:
        return f"{'-':>8}  {'':14}  FAILED: {raised[0]}", False
    asked = [(figure, bound) for figure, bound, words in outcomes if not words]
    if not asked:
        return f"{'-':>8}  {'':14}  ok: not asked, {outcomes[0][2]}", True
    figure, bound = max(asked, key=lambda x: math.inf if math.isnan(x[0]) else x[0])
    ok = figure <= bound
    return f"{figure:8.1e}  at most {bound:6.0e}  {'ok' if ok else 'FAILED'}", ok
