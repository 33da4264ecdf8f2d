"""Word to the service manager: sd_notify(3), in a datagram each. Layer: top."""

from __future__ import annotations

import os
import socket
from typing import Any

from dmevpn.log import Logger

__all__ = ["Watchdog", "notify_systemd", "reloading"]

#: Octets of a STATUS= text, which ``systemctl status`` shows in one line.
STATUS_LIMIT = 200


def notify_systemd(state: str, status: str = "") -> None:
    """Tell the service manager how we are, if it wants to know.

    :param state: such as ``READY=1``.
    :param status: a line for people, shown by ``systemctl status``.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    if status:
        state += f"\nSTATUS={' '.join(status.split())[:STATUS_LIMIT]}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(errors="replace"), address)
        except OSError:
            Logger().warn("the service manager does not listen at {path}", path=address)


def reloading(now: float) -> None:
    """Announce a reload, which ``READY=1`` ends (Type=notify-reload of systemd 253).

    :param now: seconds of CLOCK_MONOTONIC, by which the manager tells this reload from earlier
        ones.
    """
    notify_systemd(f"RELOADING=1\nMONOTONIC_USEC={int(now * 1_000_000)}")


class Watchdog:
    """Tells the service manager, twice in each of its intervals, that the reactor turns.

    A daemon that is stuck says nothing, and is killed and started again (WatchdogSec=).

    :param clock: the reactor, since it is the reactor that is watched.
    """

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._call: Any = None
        self._interval: float | None = None

    def start(self) -> None:
        """Begin, if the manager watches us."""
        # Not earlier: a process that makes itself a daemon has another identifier by now.
        self._interval = _interval()
        if self._interval is not None:
            self._alive()

    def stop(self) -> None:
        """No more; the manager gives a stopping service time of its own."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _alive(self) -> None:
        notify_systemd("WATCHDOG=1")
        self._call = self._clock.callLater(self._interval, self._alive)


def _interval() -> float | None:
    """Half of what the manager wants (sd_watchdog_enabled(3)); None if it does not watch us."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    watched = os.environ.get("WATCHDOG_PID") or str(os.getpid())
    if watched != str(os.getpid()) or not (microseconds.isascii() and microseconds.isdigit()):
        return None
    return int(microseconds) / 2_000_000 or None
