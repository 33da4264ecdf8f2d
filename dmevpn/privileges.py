"""Which privileges of the kernel a plan needs, and which of them we lack. Layer: top."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dmevpn.config.model import Plan
from dmevpn.errors import StartError

__all__ = ["check_privileges", "effective", "missing"]

#: Bits of linux/capability.h.
_NET_ADMIN: Final = 1 << 12
_NET_RAW: Final = 1 << 13
_SYS_ADMIN: Final = 1 << 21  # what CAP_BPF was a part of, and still is
_BPF: Final = 1 << 39

_STATUS = Path("/proc/self/status")


def effective() -> int:
    """The capabilities of this process, as the kernel numbers them; all if it does not say."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return -1
    return next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), -1)


def missing(plan: Plan, held: int) -> dict[str, str]:
    """The capabilities that a plan needs and that are not held, each with what it is for."""
    lacking: dict[str, str] = {}
    if (plan.spokes or plan.hubs or plan.layer3) and not held & _NET_ADMIN:
        lacking["CAP_NET_ADMIN"] = "devices and their entries"
    if plan.speakers and not held & _NET_RAW:
        lacking["CAP_NET_RAW"] = "GRE sockets"
    if plan.hubs and not held & (_BPF | _SYS_ADMIN):
        lacking["CAP_BPF"] = "the hub's switch"
    return lacking


def check_privileges(plan: Plan) -> None:
    """Make sure that a plan can be had, before anything is touched.

    :raises StartError: naming all that is missing, in one line with the cure.
    """
    lacking = missing(plan, effective())
    if lacking:
        uses = ", ".join(f"{name} ({use})" for name, use in lacking.items())
        raise StartError(
            f"no permission for what the file asks: {uses} missing; run as root or grant them"
            f" (systemd: AmbientCapabilities={' '.join(lacking)})"
        )
