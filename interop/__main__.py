"""``make interop``: FRR's daemons and ours together, in a guest whose kernel has GRE devices.

The last line begins with ``interop: ok``, or with ``interop: skipped`` and the reason, both with
exit status 0. Otherwise the exit status is 1, and the table says what failed.
"""

from __future__ import annotations

import argparse
import sys

from interop import guest, packages
from interop.frr import NHRPD
from interop.stories import STORIES

__all__ = ["main"]

#: Seconds for all stories: four times what they take on two idle cores.
PATIENCE = 1200.0

#: What the guest needs besides what `make venv` has installed here: package and a file of it.
PACKAGES = (("frr", str(NHRPD)), ("iptables", "/usr/sbin/iptables-legacy"))


def main() -> int:
    """The command line: ``python -m interop [--story NAME]... [--timeout SECONDS]``."""
    parser = argparse.ArgumentParser(prog="python -m interop", description=__doc__)
    parser.add_argument(
        "--story",
        action="append",
        choices=tuple(STORIES),
        default=[],
        help="tell this one only (all); repeatable",
    )
    parser.add_argument(
        "--timeout", type=float, default=PATIENCE, help=f"seconds for all ({PATIENCE:g})"
    )
    options = parser.parse_args()
    try:
        machine = guest.Guest()
        for package, path in PACKAGES:
            packages.provide(package, path)
    except (guest.Unavailable, packages.PackageMissing) as reason:
        print(f"interop: skipped: {reason}")
        return 0
    captures = packages.CACHE / "captures"
    captures.mkdir(exist_ok=True)
    print(f"interop: starting a guest with Linux {machine.release}", flush=True)
    command = [sys.executable, "-m", "interop.stories", *options.story]
    try:
        return machine.run(
            command,
            timeout=options.timeout,
            out=guest.writer(sys.stdout),
            err=guest.writer(sys.stderr),
            keep=captures,
        )
    except guest.Unavailable as reason:
        print(f"interop: skipped: {reason}")
        return 0
    except guest.GuestTimeout as reason:
        print(f"interop: failed: {reason}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
