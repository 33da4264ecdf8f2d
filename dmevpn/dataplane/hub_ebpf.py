"""A hub's switch in the kernel: an eBPF program on an ``external`` vxlan device. Layer: edge.

The program (``ebpf/hub_switch.bpf.c``) forwards, floods and learns; this loads it, says who is a
member, and passes on what it reports. Its maps and itself are pinned, so that it goes on without
us: a daemon that was killed finds its members again and takes over between two frames.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorFDSet, IReactorTime
from zope.interface import implementer

from dmevpn.addresses import VTEP, format_address
from dmevpn.dataplane.ebpf import layout, libbpf
from dmevpn.dataplane.ebpf.pins import PIN_ROOT, PROGRAM_PIN, PinDirectory
from dmevpn.dataplane.ebpf.ringbuf import RingBuffer
from dmevpn.dataplane.hub_audit import Audit, AuditRounds
from dmevpn.dataplane.hub_device import Attachment, find_device
from dmevpn.dataplane.hub_keepsake import Keepsake
from dmevpn.dataplane.hub_macs import MACTable
from dmevpn.dataplane.hub_members import MemberTable
from dmevpn.dataplane.hub_prober import Prober
from dmevpn.dataplane.hub_reports import Reports
from dmevpn.dataplane.hub_watch import HubDeviceWatch, ProvisionedDevice
from dmevpn.dataplane.links import Link
from dmevpn.dataplane.underlay import source_address
from dmevpn.errors import DataplaneError, StartError
from dmevpn.interfaces import (
    Finding,
    HeldMAC,
    HubListener,
    IHubDataplane,
    IHubListener,
    LearnedMAC,
    MemberCounters,
    Registration,
    VPNRules,
)
from dmevpn.log import Logger
from dmevpn.metrics import Metrics

__all__ = ["AGEING_TIME", "EBPFSwitch"]

#: Seconds of silence after which a MAC counts as unknown, as on a Linux bridge.
AGEING_TIME = 300.0
#: Seconds between two looks at what nobody tells us: lost events, and maps that others change.
_POLL_INTERVAL = 0.65
_OBJECT = Path(__file__).parent / "ebpf" / "hub_switch.bpf.o"
_PROGRAM, _EDITOR, _PROBER = "hub_switch", "edit_macs", "send_probe"


@implementer(IHubDataplane)
class EBPFSwitch:
    """The learning switch on one external vxlan device.

    Start it in the network namespace of the device.

    :param reactor: provides IReactorTime and IReactorFDSet.
    :param interface: name of the device.
    :param pin_root: directory on a bpffs; made when needed.
    :param provision: makes the device before the switch starts; what it returns is removed after
        the switch has stopped. Without it the device is the operator's.
    :param ageing: seconds of silence after which a MAC counts as unknown.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        metrics: Metrics,
        interface: str,
        *,
        pin_root: str = PIN_ROOT,
        provision: Callable[[], ProvisionedDevice] | None = None,
        ageing: float = AGEING_TIME,
    ) -> None:
        self.interface = interface
        self.station_mac = b""
        self.mtu = 0
        self._reactor = reactor
        self._metrics = metrics
        self._watch: HubDeviceWatch | None = None
        self._time: IReactorTime = reactor
        self._readers: IReactorFDSet = reactor
        self._pins = PinDirectory(pin_root, interface)
        self._provision = provision
        self._device: ProvisionedDevice | None = None
        self._ageing = ageing
        self._listener: IHubListener = HubListener()
        self._maps: dict[str, libbpf.Map] = {}
        self._programs: dict[str, libbpf.Program] = {}
        self._ring: RingBuffer | None = None
        self._adopted: list[tuple[int, VTEP, bytes, Registration]] = []
        self._running = False
        self._lost = 0
        self._poll: Any = None
        self._collect: Any = None
        self._full = metrics.counter("switch_full", interface=interface)
        self._failed = metrics.counter("switch_errors", interface=interface)
        self._repairs = metrics.counter("switch_repairs", interface=interface)

    # --- start and stop -------------------------------------------------------------------

    def start(self, listener: IHubListener) -> None:
        """Load or adopt the switch and attach it.

        :raises StartError: with the cure. Nothing is left behind, and what a killed daemon has
            left running goes on.
        """
        libbpf.shared_library()
        # First of all the lock: what we would tidy up after a failure may be a running daemon's.
        self._pins.open()
        found = bool(self._pins.names())
        try:
            if self._provision is not None:
                self._device = self._provision()
            link = find_device(self.interface)
            self._load()
            self._watch = HubDeviceWatch(
                self._reactor,
                self._metrics,
                link,
                self._device,
                self._attached,
                self._move,
                self._mtu_changed,
                lambda faults: self._listener.devices_repaired(faults),
            )
            self._attach(link.ifindex)
        except BaseException as error:
            self._close()
            if found:
                # The switch of a killed daemon may be running on them.
                self._pins.close()
                if self._device is not None:
                    self._device.close()
            else:
                self._pins.remove()
                self._remove_device()
            self._device = None
            if isinstance(error, DataplaneError | OSError):
                raise StartError(f"interface {self.interface}: {error}") from None
            raise
        self.station_mac, self.mtu = link.address, link.mtu
        self._listener = listener
        self._lost = self.counters()["events_lost"]
        assert self._ring is not None
        self._readers.addReader(self._ring)
        self._running = True
        self._poll = self._time.callLater(_POLL_INTERVAL, self._poll_now)
        self._collect_later(self._members.collect(self._time.seconds()))
        if self._adopted:
            self.log.info(
                "{ifname}: took over a running switch with {count} members",
                ifname=self.interface,
                count=len(self._adopted),
            )

    def _load(self) -> None:
        file = libbpf.Object(str(_OBJECT), self._pins.path)
        try:
            if self._pins.unpin_other_builds(file.shapes()):
                self.log.warn(
                    "{ifname}: the switch of an earlier run is of another build: starting afresh",
                    ifname=self.interface,
                )
            self._maps, self._programs = file.load()
        finally:
            file.close()
        events = self._maps["events"]
        self._ring = RingBuffer(events.fd, events.shape.max_entries, self._event)
        self._keepsake = Keepsake(self._maps["keepsakes"])
        self._prober = Prober(self._programs[_PROBER], self._maps["probing"])
        self._members = MemberTable(
            self._maps, self._keepsake, self._time.seconds, ageing=self._ageing
        )
        self._macs = MACTable(
            self._time,
            self._maps,
            self._programs[_EDITOR],
            self._members.by_number,
            ageing=self._ageing,
            aged=self._mac_aged,
        )
        self._members.adopt()
        self._reports = Reports(
            self._members,
            self._maps["held"],
            self._metrics.counter("macs_held_unlisted", interface=self.interface),
        )
        self._rounds = AuditRounds(
            self._time,
            Audit(
                self._maps,
                self._members,
                {"probing": self._prober.pack, "keepsakes": self._keepsake.pack},
            ),
            repaired=self._repaired,
            failed=self._not_audited,
        )
        self._adopted = [
            (member.vpn, member.vtep, member.local, self._members.registration(member))
            for member in self._members.by_number.values()
        ]

    def _attach(self, ifindex: int) -> None:
        program = self._programs[_PROGRAM]
        made_clsact = self._keepsake.made_clsact
        earlier = {
            libbpf.pinned_program_id(self._pins.at(name)): name
            for name in self._pins.names()
            if name.startswith(PROGRAM_PIN)
        }
        self._attachment = Attachment(self.interface, ifindex, made_clsact=made_clsact)
        name = f"{PROGRAM_PIN}{program.id}"
        try:
            self._attachment.prepare(earlier)
            self._keepsake.attached(made_clsact=self._attachment.made_clsact)
            # Pinned before it is attached: whatever is found attached later is known as ours.
            libbpf.pin(program.fd, self._pins.at(name))
            self._prober.leave_by(ifindex)
            self._attachment.attach(program)
        except BaseException:
            self._pins.unpin(name)
            if not made_clsact:
                self._attachment.release()
            self._attachment.close()
            raise
        for other in earlier.values():
            self._pins.unpin(other)
        if self._pins.remove_other_layouts():
            self.log.info("{ifname}: replaced the switch of another version", ifname=self.interface)

    def _attached(self) -> bool:
        """Whether the program is at its place.

        :raises DataplaneError: if the kernel does not say.
        """
        return self._attachment.attached({self._programs[_PROGRAM].id})

    def _mtu_changed(self, mtu: int) -> None:
        self.mtu = mtu
        self._listener.mtu_changed(mtu)

    def _move(self, link: Link) -> None:
        """Go on on a device that took the place of the one before, or that lost the program.

        :raises DmevpnError: if the kernel refuses, or somebody else's program is there.
        """
        program = self._programs[_PROGRAM]
        before = self._attachment
        before.close()
        made_clsact = before.made_clsact and before.belongs_to(link.ifindex)
        self._attachment = Attachment(self.interface, link.ifindex, made_clsact=made_clsact)
        self._attachment.prepare({program.id})
        self._attachment.attach(program)
        self._keepsake.attached(made_clsact=self._attachment.made_clsact)
        self._prober.leave_by(link.ifindex)
        self.mtu = link.mtu

    def examine(self) -> list[Finding]:
        """Whether the device is there, up and external, and the program at its place."""
        if not self._running:
            return []
        return self._attachment.examine({self._programs[_PROGRAM].id})

    def stop(self) -> Deferred[None]:
        """Detach and unpin; frames are no longer forwarded when it returns."""
        if self._end():
            try:
                self._attachment.remove({self._programs[_PROGRAM].id})
            except DataplaneError as error:
                self.log.error("{ifname}: {reason}", ifname=self.interface, reason=str(error))
            self._attachment.close()
            self._close()
            self._pins.remove()
            self._remove_device()
        return succeed(None)

    def hand_over(self) -> None:
        """Leave the switch attached and pinned: it goes on, and so do its members."""
        if self._end():
            self._attachment.close()
            self._close()
            self._pins.close()
            if self._device is not None:
                self._device.close()
                self._device = None

    def _end(self) -> bool:
        """Have nothing more to do; whether there was something."""
        if not self._running:
            return False
        self._running = False
        self._listener = HubListener()
        assert self._ring is not None
        self._readers.removeReader(self._ring)
        for call in (self._poll, self._collect):
            if call is not None:
                call.cancel()
        self._poll = self._collect = None
        self._rounds.stop()
        self._macs.stop()
        return True

    def _close(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._ring is not None:
            self._ring.connectionLost()
            self._ring = None
        for table in self._maps.values():
            table.close()
        for program in self._programs.values():
            program.close()
        self._maps, self._programs = {}, {}

    def _remove_device(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            try:
                device.remove()
            except DataplaneError as error:
                self.log.error("{ifname}: {reason}", ifname=self.interface, reason=str(error))

    # --- VPNs and members -----------------------------------------------------------------

    def local_address(self, peer: bytes) -> bytes:
        """Our underlay address towards another hub, as the kernel routes it now."""
        return source_address(peer)

    def add_vpn(self, vpn: int, rules: VPNRules) -> None:
        """Make room for a VPN, or give it other rules.

        :raises DataplaneError: beyond MAX_VPNS of the program, or MAX_STICKY lines.
        """
        self._members.add_vpn(vpn, rules)

    def remove_vpn(self, vpn: int) -> None:
        """Forget a VPN with its members and MACs."""
        if vpn in self._members:
            self._members.remove_vpn(vpn)
            self._left()

    def add_member(self, vpn: int, vtep: VTEP, local: bytes, registration: Registration) -> None:
        """Admit a VTEP, or note its renewed registration.

        A switch that is full admits nobody new: counted as ``switch_full``, and tried again by
        the next refresh.
        """
        try:
            self._members.add(vpn, vtep, local, registration)
        except DataplaneError as error:
            full = error.errno in (errno.E2BIG, errno.ENOMEM)
            (self._full if full else self._failed).inc()
            self.log.error(
                "vpn {vpn}: {vtep} is not admitted to {ifname}: {reason}",
                vpn=vpn,
                vtep=str(vtep),
                ifname=self.interface,
                reason="the switch is full" if full else str(error),
            )

    def remove_member(self, vpn: int, vtep: VTEP) -> None:
        """Stop admitting and flooding; at once none of its MACs counts as known."""
        if self._members.remove(vpn, vtep):
            self._left()

    def adopted(self) -> list[tuple[int, VTEP, bytes, Registration]]:
        """Members that start has found, those whose registration has run out included."""
        return self._adopted

    def _left(self) -> None:
        """Members are gone: their MACs, and later they themselves, are to be swept up."""
        self._macs.sweep()
        if self._collect is None:
            self._collect_later(self._members.collect(self._time.seconds()))

    def _collect_later(self, due: float | None) -> None:
        self._collect = (
            None
            if due is None
            else self._time.callLater(max(due - self._time.seconds(), 0), self._collect_now)
        )

    def _collect_now(self) -> None:
        self._collect_later(self._members.collect(self._time.seconds()))

    # --- MACs -------------------------------------------------------------------------------

    def lookup(self, vpn: int, mac: bytes) -> VTEP | None:
        """Where a frame for this MAC would go now; None if it would be flooded."""
        return self._macs.lookup(vpn, mac)

    def entry(self, vpn: int, mac: bytes) -> LearnedMAC | None:
        """What the table has of a MAC, aged or not."""
        return self._macs.entry(vpn, mac)

    def entries(self, vpn: int) -> Iterator[LearnedMAC]:
        """The MAC table of a VPN."""
        return self._macs.entries(vpn)

    def tables(self, vpn: int | None) -> Iterator[tuple[int, LearnedMAC] | None]:
        """The MAC table of a VPN or those of all, in pieces."""
        return self._macs.tables(vpn)

    def mac_count(self, vpn: int) -> int:
        """How many MACs the table of a VPN holds; cheap."""
        return self._macs.count(vpn)

    def forget(self, vpn: int, mac: bytes) -> None:
        """Remove one MAC."""
        self._macs.forget(vpn, mac)

    def held(self) -> Iterator[HeldMAC]:
        """The MACs that are held now."""
        return self._macs.held()

    def probe(self, vpn: int, vtep: VTEP) -> None:
        """Send a loop probe into a member's site.

        Losing one is no fault: there will be another.
        """
        member = self._members.find(vpn, vtep)
        if member is None or member.hub:
            return  # what another hub gets goes to all of its sites
        try:
            self._prober.send(member.number, self.station_mac)
        except DataplaneError as error:
            self._failed.inc()
            self.log.debug("{ifname}: no probe: {reason}", ifname=self.interface, reason=str(error))

    def age(self, max_idle: float, keep: Mapping[int, Iterable[bytes]]) -> None:
        """Remove silent MACs, over the next turns of the reactor."""
        self._macs.age(max_idle, keep)

    def _mac_aged(self, vpn: int, mac: bytes) -> None:
        self._listener.mac_aged(vpn, mac)

    # --- counters ---------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """Frames dropped, by reason; also ``events_lost`` and ``not_learned`` (limit)."""
        counters = self._maps["counters"]
        values = {}
        for index, name in enumerate(layout.COUNTERS):
            counters.find(layout.NUMBER.pack(index))
            values[name] = sum(memoryview(counters.value).cast("B").cast("Q"))
        return values

    def member_counters(self, vpn: int, vtep: VTEP) -> MemberCounters | None:
        """Counters of one member; None if it is none."""
        return self._members.counters(vpn, vtep)

    # --- events -----------------------------------------------------------------------------

    def _event(self, record: bytes) -> None:
        self._macs.changed()
        self._reports.tell(record, self._listener)

    def _poll_now(self) -> None:
        self._poll = self._time.callLater(_POLL_INTERVAL, self._poll_now)
        lost = self.counters()["events_lost"]
        if lost != self._lost:
            self._lost = lost
            self._listener.events_lost()
        self._rounds.begin()

    def _repaired(self, count: int) -> None:
        self._repairs.inc(count)
        self.log.warn(
            "{ifname}: somebody changed {count} entries of the switch: put right",
            ifname=self.interface,
            count=count,
        )
        self._listener.entries_repaired(count)

    def _not_audited(self, error: DataplaneError) -> None:
        self.log.error("{ifname}: {reason}", ifname=self.interface, reason=str(error))

    def __repr__(self) -> str:
        return f"<EBPFSwitch {self.interface} {format_address(self.station_mac)}>"
