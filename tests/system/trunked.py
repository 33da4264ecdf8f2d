"""Networks whose hubs know each other."""

from __future__ import annotations

from typing import Self

from lab.wait import eventually
from tests.system.network import Network

__all__ = ["FIRST", "SECOND", "Trunked"]

#: The names of the hubs.
FIRST, SECOND = "hub", "hub2"
_NUMBERS = {FIRST: 1, SECOND: 9}


class Trunked(Network):
    """A network with two hubs of VPN 1, which name each other.

    :param hubs: those of each site, by its number; the one that it prefers first.
    """

    def __init__(self, hubs: dict[int, tuple[str, ...]]) -> None:
        super().__init__()
        self._hubs_of = hubs
        self._hubs: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        super().__enter__()
        self.add_hubs()
        self.add_sites()
        self.await_registrations()
        return self

    def address_of(self, name: str) -> str:
        """A hub's underlay address."""
        machine = self.lab.machines[name]
        return machine.address if self.family == 4 else machine.address6

    def add_hubs(self) -> None:
        """Start both, each of which names the other."""
        for name, number in _NUMBERS.items():
            self.lab.add_machine(name, number)
        for name, other in ((FIRST, SECOND), (SECOND, FIRST)):
            lines = ["interface nhrp", "keepalive 600", "interface vx0", "controller nhrp"]
            lines += ["vpn-id 1", "l2learnonly", "provision"]
            lines += [f"other-hub {self.address_of(other)} vni 7001"]
            self.add_daemon(name, _NUMBERS[name], "\n".join(lines) + "\n")

    def add_sites(self) -> None:
        """Start all sites."""
        for number, hubs in self._hubs_of.items():
            self._hubs = hubs
            self.add_site(number, {1: 98 + number})

    def spoke_config(self, vnis: dict[int, int]) -> str:
        lines = ["interface nhrp", "keepalive 600"]
        for vpn, vni in vnis.items():
            lines += [f"interface vx{vpn}", "controller nhrp", f"vpn-id {vpn}"]
            lines += [f"default-vni {vni} {self.address_of(each)} register" for each in self._hubs]
            lines += [f"provision br{vpn}"]
        return "\n".join(lines) + "\n"

    def await_registrations(self) -> None:
        """Wait until all sites and both hubs are registered wherever they should be."""

        def states() -> list[str]:
            rows = [
                row
                for daemon in self.daemons.values()
                for row in daemon.ctl.rows("registration", "show")
            ]
            return [row["state"] for row in rows]

        wanted = ["registered"] * (2 + sum(map(len, self._hubs_of.values())))
        eventually("registrations with all hubs", lambda: states() == wanted)
