"""What may befall a daemon."""

from __future__ import annotations

import contextlib
import signal

from lab.chaos.fault import Fault, at
from lab.chaos.stage import GUEST_VPN, HOLDING_TIME, VPNS, Hub, Site, Station

__all__ = ["DAEMON_FAULTS"]


class Kill(Fault):
    """A daemon is killed with -9, and started again."""

    kind = "daemon killed"
    contained = True

    def choose(self) -> None:
        self.node = self._choose_node(self.stage.nodes)

    def begin(self) -> None:
        self.node.daemon.kill()

    def end(self) -> None:
        self.node.daemon.start()


class Restart(Kill):
    """A daemon is stopped in order, which takes its forwarding down, and started again."""

    kind = "daemon restarted"
    contained = False

    def begin(self) -> None:
        self.node.daemon.stop()

    def disturbs(self, one: Station, other: Station, *, to_all: bool) -> bool:
        return isinstance(self.node, Hub) or at(self.node, one, other)


class Upgrade(Kill):
    """A daemon is stopped in order, and leaves its forwarding to the next one."""

    kind = "daemon upgraded"

    def begin(self) -> None:
        self.node.leaves = True
        self.node.reload()
        self.node.daemon.stop()

    def end(self) -> None:
        self.node.leaves = False
        self.node.daemon.configure(self.node.config())
        super().end()


class Freeze(Kill):
    """A daemon's clock stands still: it is stopped by SIGSTOP, and goes on later."""

    kind = "daemon frozen"
    longest = 6.0

    def begin(self) -> None:
        self.node.daemon.signal(signal.SIGSTOP)

    def end(self) -> None:
        self.node.daemon.signal(signal.SIGCONT)


class Reload(Kill):
    """A daemon reads a configuration with another holding time, and then the old one."""

    kind = "reload"

    def begin(self) -> None:
        self.node.holding_time = HOLDING_TIME + self.chance.randrange(1, 30)
        self.node.reload()

    def end(self) -> None:
        self.node.holding_time = HOLDING_TIME
        self.node.reload()


class GuestVPN(Fault):
    """A VPN comes by a reload, and goes."""

    kind = "VPN added"
    contained = True

    def choose(self) -> None:
        self.node = self._choose_node(self.stage.nodes)

    def begin(self) -> None:
        self.node.vpns.append(GUEST_VPN)
        if isinstance(self.node, Site):
            self.node.vnis = {**self.node.vnis, GUEST_VPN: 300}
        self.node.reload()

    def end(self) -> None:
        self.node.vpns.remove(GUEST_VPN)
        self.node.reload()


class VPNRemoved(GuestVPN):
    """A VPN goes by a reload, and comes back."""

    kind = "VPN removed"
    contained = False

    def choose(self) -> None:
        super().choose()
        self.vpn = self.chance.choice(VPNS)

    @property
    def where(self) -> str:
        return f"{super().where}, VPN {self.vpn}"

    def begin(self) -> None:
        self.node.vpns.remove(self.vpn)
        self.node.reload()

    def end(self) -> None:
        self.node.vpns = sorted([*self.node.vpns, self.vpn])
        self.node.reload()

    def disturbs(self, one: Station, other: Station, *, to_all: bool) -> bool:
        struck = isinstance(self.node, Hub) or at(self.node, one, other)
        return one.vpn == self.vpn and struck


class DiskFull(Kill):
    """A machine's disk is full, with log and state on it; the daemon is told to reload, so that
    it has something to write, and may be killed and started with the disk full."""

    kind = "disk full"

    def choose(self) -> None:
        super().choose()
        self.killed = self.chance.random() < 0.5

    def begin(self) -> None:
        filler = self.node.disk / "filler"
        with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            while stream.write(bytes(4096)):
                pass
        self.node.daemon.signal(signal.SIGHUP)
        if self.killed:
            self.node.daemon.kill()
            self.node.daemon.start()

    def end(self) -> None:
        (self.node.disk / "filler").unlink()


DAEMON_FAULTS = (Kill, Restart, Upgrade, Freeze, Reload, GuestVPN, VPNRemoved, DiskFull)
