"""What the operator's script is told, in OpenNHRP's words. Layer: role."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zope.interface import implementer

from dmevpn.addresses import format_address
from dmevpn.interfaces import GREDevice, IControlDeviceListener, IScripts

__all__ = ["InterfaceEvents", "StationEvents", "Subject"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What an event is about."""

    kind: str
    """OpenNHRP's word: ``static``, ``dynamic-nhs``, ``dynamic``, ``cached``, ``shortcut-route``."""
    protocol: bytes
    """Protocol address; of a route its network."""
    bits: int
    """Prefix length."""
    nbma: bytes = b""
    """Underlay address of a peer."""
    claimed: bytes = b""
    """What the peer says that it is, if an address translation has changed it."""
    mtu: int = 0
    """Octets; 0: not stated."""
    next_hop: bytes = b""
    """Of a route: protocol address of the station that leads there."""


@implementer(IControlDeviceListener)
class InterfaceEvents:
    """Tells the script about one control interface.

    :param key: GRE key of its packets.
    """

    def __init__(self, scripts: IScripts, interface: str, key: int | None) -> None:
        self.scripts = scripts
        self.interface = interface
        self.environment = {"NHRP_INTERFACE": interface, "NHRP_GRE_KEY": str(key or 0)}

    def up(self) -> None:
        """The interface is there, or there again."""
        environment = {"NHRP_TYPE": "INTERFACE", **self.environment}
        self.scripts.run(self.interface, "interface-up", environment)

    def device_changed(self, old: GREDevice | None, new: GREDevice | None) -> None:
        """Its kernel device is another, or not as it was."""
        if new is None:
            return
        self.environment["NHRP_GRE_KEY"] = str(new.key or 0)
        if new.up and (old is None or not old.up or old.ifindex != new.ifindex):
            self.up()


class StationEvents:
    """Tells the script what happens to one of our protocol addresses.

    :param station: that address.
    :param vpn: the index of its VPN; None is the default routing instance.
    :param local_address: our underlay address towards another one; empty if there is no way.
    """

    def __init__(
        self,
        interface: InterfaceEvents,
        station: bytes,
        vpn: int | None,
        local_address: Callable[[bytes], bytes],
    ) -> None:
        self._interface = interface
        self._local_address = local_address
        self._vpn = "-" if vpn is None else str(vpn)
        self._environment = {"NHRP_SRCADDR": format_address(station)}
        if vpn is not None:
            self._environment["NHRP_VPN"] = str(vpn)

    def run(
        self,
        event: str,
        subject: Subject,
        *,
        reason: str = "",
        done: Callable[[bool], None] | None = None,
    ) -> Callable[[], None]:
        """Let the script hear of an event; see :meth:`dmevpn.interfaces.IScripts.run`.

        :param reason: why something went down.
        """
        protocol = format_address(subject.protocol)
        said = {
            "NHRP_TYPE": subject.kind,
            **self._environment,
            **self._interface.environment,
            "NHRP_DESTADDR": protocol,
            "NHRP_DESTPREFIX": str(subject.bits),
        }
        if subject.nbma:
            said["NHRP_DESTNBMA"] = format_address(subject.nbma)
            local = self._local_address(subject.nbma)
            if local:
                said["NHRP_SRCNBMA"] = format_address(local)
        if subject.claimed:
            said["NHRP_DESTNBMA_NAT_OA"] = format_address(subject.claimed)
        if subject.mtu:
            said["NHRP_DESTMTU"] = str(subject.mtu)
        if subject.next_hop:
            said["NHRP_NEXTHOP"] = format_address(subject.next_hop)
        if reason:
            said["NHRP_PEER_DOWN_REASON"] = reason
        about = f"{self._interface.interface} {self._vpn} {protocol}/{subject.bits}"
        return self._interface.scripts.run(about, event, said, done)
