"""The command line of ``make chaos``; the last line is "chaos: ok" or a broken promise."""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
from pathlib import Path

from lab.chaos.driver import Chaos
from lab.chaos.faults import FAULTS
from lab.chaos.mesh import Mesh
from lab.chaos.stage import Stage
from lab.interrupt import interruptible
from lab.netns import namespaces

__all__ = ["main", "run"]

PREFIX = "dmchaos"
#: Below the checkout, like everything that is built.
LOGS = Path("build/chaos")


def _show_table(chaos: Chaos) -> None:
    print(
        f"\n{'fault':28} {'times':>5} {'max s':>7} {'p99 s':>7} {'lost':>7} "
        f"{'elsewhere':>9} {'doubled':>7}"
    )
    for name, kind in sorted(chaos.table.items()):
        print(
            f"{name:28} {len(kind.recoveries):5} {max(kind.recoveries):7.2f} {kind.p99():7.2f} "
            f"{kind.lost:7} {kind.elsewhere:9} {kind.doubled:7}"
        )
    for role in chaos.after:
        print(f"{role} after the warm-up: {chaos.before.get(role)}")
        print(f"{role} at the end:        {chaos.after[role]}")


def _keep_logs(stage: Stage, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for node in stage.nodes:
        (directory / f"{node}.log").write_text(node.daemon.log)


def run(
    *,
    seed: int,
    seconds: float,
    prefix: str = PREFIX,
    only: str = "",
    most: int | None = None,
    keep_going: bool = False,
    logs: Path | None = None,
) -> tuple[Chaos | None, str]:
    """Build, let it happen, remove; what was measured, and the first broken promise or nothing.

    :param only: a regular expression that names of the wanted kinds of faults match.
    :param most: rounds that are enough, however soon they are over.
    :param keep_going: whether to go on after a broken promise.
    :param logs: a directory for the logs of all daemons.
    """
    try:
        kinds = [fault for fault in FAULTS if re.search(only, fault.kind)]
    except re.error as error:
        return None, f"{only}: {error}"
    if not kinds:
        return None, f"no kind of fault has a name that matches {only}"
    chaos = None
    try:
        with interruptible(), Stage(prefix) as stage:
            stage.build()
            with Mesh(stage.stations) as mesh:
                chaos = Chaos(stage, mesh, kinds, seed=seed, keep_going=keep_going)
                try:
                    chaos.run(seconds, most=most)
                finally:
                    if logs is not None:
                        _keep_logs(stage, logs)
        left = [namespace.name for namespace in namespaces(prefix)]
        assert not left, f"left behind: {', '.join(left)}"
    except KeyboardInterrupt:
        return chaos, "interrupted, and removed"
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        return chaos, str(error).strip() or type(error).__name__
    return chaos, chaos.broken[0] if chaos.broken else ""


def main() -> int:
    """See the module; 0 if all promises were kept."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="what chance follows (a random one)")
    parser.add_argument("--minutes", type=float, default=4.0, help="how long (4)")
    parser.add_argument("--only", default="", help="only faults whose name matches this")
    parser.add_argument("--keep-going", action="store_true", help="do not end at a broken promise")
    parser.add_argument("--logs", type=Path, default=LOGS, help=f"where to leave logs ({LOGS})")
    parser.add_argument("--prefix", default=PREFIX, help=f"of the namespaces ({PREFIX})")
    options = parser.parse_args()
    seed = random.randrange(2**16) if options.seed is None else options.seed
    print(f"chaos: seed {seed}, {options.minutes:g} minutes, two hubs, four sites, eight stations")
    chaos, problem = run(
        seed=seed,
        seconds=60 * options.minutes,
        prefix=options.prefix,
        only=options.only,
        keep_going=options.keep_going,
        logs=options.logs,
    )
    if chaos is not None and chaos.table:
        _show_table(chaos)
    if problem:
        only = f" --only '{options.only}'" if options.only else ""
        again = f'make chaos ARGS="--seed {seed} --minutes {options.minutes:g}{only}"'
        print(f"\nlogs: {options.logs}; again: {again}\nchaos: failed: {problem}", flush=True)
        return 1
    assert chaos is not None
    worst = max(max(kind.recoveries) for kind in chaos.table.values())
    print(
        f"\nchaos: ok: seed {seed}, {chaos.faults} faults, {chaos.frames} frames, recovered in "
        f"{worst:.2f} s at most"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
