"""The data plane of a spoke. Layer: base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from zope.interface import Attribute, Interface, implementer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dmevpn.addresses import VTEP

__all__ = [
    "FDBEntry",
    "ISpokeDataplane",
    "ISpokeListener",
    "Placement",
    "PlaneCounters",
    "SpokeListener",
]


class FDBEntry(NamedTuple):
    """One entry of ours in a spoke's forwarding database."""

    mac: bytes
    vtep: VTEP | None
    """None for a hold entry: frames go by the hub, misses are silent."""
    state: str
    """``hold``, ``shortcut`` or ``flood``."""
    used_ago: float | None
    """Seconds since a frame was last sent by it; None if unknown."""


class Placement(NamedTuple):
    """What one of the kernel's tables says of a MAC."""

    table: str
    """``bridge``, ``hub plane``, ``shortcut plane``, or ``device`` where there is one for both."""
    interface: str
    """The bridge's port that the MAC is behind, or the vxlan device that has the entry."""
    vtep: VTEP | None
    """Where the device sends frames for it; None in a bridge, and for a hold that drops them."""
    origin: str
    """``ours``, ``by hand`` or ``learned``."""


class PlaneCounters(NamedTuple):
    """Frames that one vxlan device of a spoke has carried since it was made."""

    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int


class ISpokeDataplane(Interface):
    """The vxlan and bridge forwarding of one VPN at one site.

    Declarative: ``hold``, ``install``, ``withdraw`` and ``set_flood`` state what should be true.
    The driver makes it so, in batches once a reactor turn, and repairs it after lost events.
    Only entries that carry our mark (``extern_learn``) are ever changed or removed.
    """

    local_vtep = Attribute("Our own VTEP; valid after start.")
    mtu = Attribute("MTU of the vxlan device in octets; valid after start.")
    interface = Attribute("Name of the device that operators know this VPN by.")

    def start(listener: ISpokeListener) -> None:
        """Make or check the devices, adopt our entries found there, and report misses.

        :raises StartError: if a device is missing, not ours, or the kernel refuses.
        """

    def hold(mac: bytes) -> None:
        """Silence misses for a MAC while its frames go by the hub."""

    def install(mac: bytes, vtep: VTEP) -> None:
        """Send frames for a MAC straight to a VTEP; replaces hold or shortcut in place."""

    def withdraw(mac: bytes) -> None:
        """Forget a MAC: its next frame goes by the hub and misses afresh."""

    def set_flood(vteps: Iterable[bytes]) -> None:
        """Send frames without an entry to these underlay addresses (at most one today)."""

    def entries() -> Iterator[FDBEntry]:
        """What we have installed, with its age as last read by idle_times."""

    def adopted() -> list[tuple[bytes, VTEP | None]]:
        """Shortcuts (and holds, VTEP None) of an earlier run that start found in the kernel."""

    def idle_times() -> Any:
        """Deferred of a dict: MAC of each shortcut to seconds since it last carried a frame."""

    def traffic() -> dict[str, PlaneCounters]:
        """What went by the ``hub`` and by the ``shortcut`` plane; by ``both`` if they are one.

        Planes whose device is missing are left out.
        """

    def placements(mac: bytes) -> list[Placement]:
        """What the kernel's tables say of a MAC now, the bridge's first."""

    def local_macs() -> Iterator[bytes | None]:
        """A few MACs that the bridge has learned at ports of this site; empty without a bridge.

        To be read over many reactor turns; None among them: others should get theirs.
        """

    def examine() -> Any:
        """Deferred of the Findings about devices and tables, read now."""

    def stop() -> Any:
        """Withdraw every entry of ours, remove every device of ours; returns a Deferred."""

    def hand_over() -> None:
        """Stop, and leave entries and devices to a successor, which adopts them."""


class ISpokeListener(Interface):
    """What a spoke data plane reports."""

    def fdb_missed(mac: bytes) -> None:
        """A frame for a MAC without an entry was seen (de-duplicated per MAC and turn)."""

    def mac_local(mac: bytes) -> None:
        """A MAC that was remote has shown up at a local port of the bridge."""

    def device_up() -> None:
        """The devices are there and up."""

    def device_down() -> None:
        """A device went down or away."""

    def mtu_changed(mtu: int) -> None:
        """The devices have another MTU."""

    def address_changed() -> None:
        """Our underlay address is this machine's no more, and there is another towards the hub."""

    def install_failed(mac: bytes, error: Exception) -> None:
        """The kernel refused a shortcut; the MAC stays with the hub."""

    def entries_repaired(count: int) -> None:
        """Somebody changed entries of ours; they are put right now."""

    def devices_repaired(faults: str) -> None:
        """Somebody changed devices of ours, in the way that ``faults`` says; they are put right."""


@implementer(ISpokeListener)
class SpokeListener:
    """Ignores every event of a spoke data plane."""

    def fdb_missed(self, mac: bytes) -> None: ...
    def mac_local(self, mac: bytes) -> None: ...
    def mtu_changed(self, mtu: int) -> None: ...
    def address_changed(self) -> None: ...
    def device_up(self) -> None: ...
    def device_down(self) -> None: ...
    def install_failed(self, mac: bytes, error: Exception) -> None: ...
    def entries_repaired(self, count: int) -> None: ...
    def devices_repaired(self, faults: str) -> None: ...
