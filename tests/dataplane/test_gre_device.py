"""The GRE device of a control interface: what the kernel says of it, and how it is followed.

What it says was recorded where the kernel has GRE devices. Following is the same for every kind of
device, so dummies of another kind stand for them here; tests/transport/test_packet.py has the rest.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from twisted.internet.interfaces import IReactorFDSet
from twisted.logger import LogLevel
from zope.interface import implementer
from zope.interface.verify import verifyObject

from dmevpn.addresses import parse_ip, parse_mac
from dmevpn.dataplane.gre_device import KernelGREDevice, control_device, interpret
from dmevpn.dataplane.links import Link, LinkTable, parse_links
from dmevpn.dataplane.memory_device import MemoryControlDevice
from dmevpn.errors import DataplaneError, StartError
from dmevpn.interfaces import GREDevice, IControlDevice, IControlDeviceListener
from dmevpn.metrics import Metrics
from lab.netns import Namespace
from tests.dataplane.test_provision import texts_of
from tests.transport.readers import Readers

RECORDED = Path(__file__).parent.parent / "data" / "gre_links.txt"
NEAR, FAR = parse_ip("192.0.2.1"), parse_ip("192.0.2.2")
NEAR6, FAR6 = parse_ip("2001:db8::1"), parse_ip("2001:db8::2")
ADDRESSES = [(parse_ip("1.0.0.2"), 24)]


def recorded() -> dict[str, bytes]:
    """The messages of the file by device."""
    found: dict[str, str] = {}
    name = ""
    for line in RECORDED.read_text().splitlines():
        if line.startswith(" "):
            found[name] += line.strip()
        elif not line.startswith("#"):
            name = line.split()[0]
            found[name] = ""
    return {name: bytes.fromhex(octets) for name, octets in found.items()}


def link(name: str) -> Link:
    """A recorded device."""
    ((present, found),) = parse_links(recorded()[name])
    assert present and found.name == name
    return found


@pytest.mark.parametrize(
    ("name", "up", "mtu", "key", "local", "remote"),
    [
        ("multipoint", True, 1472, 1000, NEAR, b""),
        ("anywhere", False, 1472, 2000, b"", b""),
        ("tunnel", True, 1472, 0, NEAR, FAR),
        ("grouped", True, 1472, 0xFFFFFFFF, NEAR, b""),
        ("tunnel6", True, 1444, 7, NEAR6, FAR6),
    ],
)
def test_what_the_kernel_says(
    name: str, up: bool, mtu: int, key: int, local: bytes, remote: bytes
) -> None:
    """Key, addresses and MTU; a group of peers is no single peer."""
    device = interpret(link(name), ADDRESSES)
    assert device == GREDevice(
        link(name).ifindex, name, up, mtu, key, local, remote, tuple(ADDRESSES)
    )


def test_no_key() -> None:
    """A device without a key is told from one with key 0."""
    octets = recorded()["tunnel"]
    # IFLA_GRE_IFLAGS, a 16-bit number in network order: take GRE_KEY (0x2000) out.
    flags = struct.pack("=HH", 6, 2) + b"\x20\0"
    assert octets.count(flags) == 1
    ((_, found),) = parse_links(octets.replace(flags, flags[:4] + b"\0\0"))
    assert interpret(found, []).key is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("multipoint6", "the kernel has no multipoint GRE over IPv6: give the device a `remote`"),
        ("ethernet", "this is a gretap device"),
        ("external", "an external GRE device does not tell who sent a packet"),
    ],
)
def test_devices_that_cannot_carry_nhrp(name: str, reason: str) -> None:
    """They are refused with what is wrong with them and what to write."""
    with pytest.raises(StartError, match=f"^interface {name}: {reason}.*transport raw"):
        interpret(link(name), [])


def test_damaged_messages() -> None:
    """Whatever a message is cut to, reading it never fails."""
    for octets in recorded().values():
        for end in range(len(octets)):
            list(parse_links(octets[:end]))


# --- following ------------------------------------------------------------------------------


@implementer(IControlDeviceListener)
class Changes:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.states: list[GREDevice | None] = []

    def device_changed(self, old: GREDevice | None, new: GREDevice | None) -> None:
        self.states.append(new)


class ControlDeviceContract:
    """What every provider of IControlDevice does; ``make`` may be called once a test."""

    def make(self, *, present: bool = True) -> IControlDevice:
        """The device ``ctl0``, which is up with an MTU of 1400 if it is there."""
        raise NotImplementedError

    def change(self, *, up: bool = True, mtu: int = 1400, address: str = "") -> None:
        """Make it so."""
        raise NotImplementedError

    def remove(self) -> None:
        """Take the device away."""
        raise NotImplementedError

    def restore(self) -> None:
        """Make it again, up."""
        raise NotImplementedError

    def pump(self, done: Callable[[], bool]) -> None:
        """Let it notice, until ``done()``."""
        raise NotImplementedError

    def teach(self, protocol: str) -> bytes:
        """Give its neighbour table an entry; returns the link-layer address."""
        raise NotImplementedError

    def test_interface(self) -> None:
        """The provider has all that a control interface asks for."""
        assert verifyObject(IControlDevice, self.make())

    def test_start(self) -> None:
        """After start the state is there."""
        device = self.make()
        device.start()
        state = device.state
        assert (device.name, state.name, state.up, state.mtu) == ("ctl0", "ctl0", True, 1400)
        device.stop()

    def test_absent(self) -> None:
        """A device that is not there is a refused start, which leaves nothing open."""
        with pytest.raises(StartError, match="interface ctl0: no such device"):
            self.make(present=False).start()

    def test_changes(self) -> None:
        """MTU, addresses, down and up are told one by one."""
        device, changes = self.make(), Changes()
        device.start()
        device.subscribe(changes)
        self.change(mtu=1300)
        self.pump(lambda: device.state.mtu == 1300)
        self.change(mtu=1300, address="1.0.0.2/24")
        self.pump(lambda: (parse_ip("1.0.0.2"), 24) in device.state.addresses)
        self.change(up=False, mtu=1300, address="1.0.0.2/24")
        self.pump(lambda: not device.state.up)
        assert changes.states[-1] == device.state
        seen = len(changes.states)
        device.unsubscribe(changes)
        device.unsubscribe(changes)
        self.change(mtu=1200, address="1.0.0.2/24")
        self.pump(lambda: bool(device.state.up))
        assert len(changes.states) == seen
        device.stop()

    def test_removed_and_made_again(self) -> None:
        """It goes, and comes back with another index."""
        device, changes = self.make(), Changes()
        device.start()
        device.subscribe(changes)
        index = device.state.ifindex
        self.remove()
        self.pump(lambda: device.state is None)
        assert changes.states[-1] is None
        self.restore()
        self.pump(lambda: device.state is not None and device.state.up)
        assert device.state.ifindex != index and changes.states[-1] == device.state
        device.stop()

    def test_neighbours(self) -> None:
        """What its neighbour table has is told, of both families, as long as there is a device."""
        device = self.make()
        device.start()
        for protocol in ("1.0.0.9", "fd01::9"):
            assert device.neighbour(parse_ip(protocol)) is None
            link = self.teach(protocol)
            assert device.neighbour(parse_ip(protocol)) == link
        assert device.neighbour(parse_ip("1.0.0.8")) is None
        self.remove()
        self.pump(lambda: device.state is None)
        assert device.neighbour(parse_ip("1.0.0.9")) is None
        device.stop()

    def test_listeners_come_and_go(self) -> None:
        """A listener may leave while it is told; others are still told."""
        device, changes = self.make(), Changes()

        @implementer(IControlDeviceListener)
        class Leaving:
            def device_changed(self, old: GREDevice | None, new: GREDevice | None) -> None:
                device.unsubscribe(self)

        device.start()
        device.subscribe(Leaving())
        device.subscribe(changes)
        self.change(mtu=1300)
        self.pump(lambda: device.state.mtu == 1300)
        assert len(changes.states) == 1
        device.stop()

    def test_stop_twice(self) -> None:
        """Stopping what does not run is harmless, and it can be started again."""
        device = self.make()
        device.stop()
        device.start()
        device.stop()
        device.stop()
        device.start()
        device.stop()


class TestMemory(ControlDeviceContract):
    """In memory."""

    def make(self, *, present: bool = True) -> IControlDevice:
        state = GREDevice(1, "ctl0", True, 1400, None, NEAR, b"")
        self.device = MemoryControlDevice("ctl0", state if present else None)
        return self.device

    def change(self, *, up: bool = True, mtu: int = 1400, address: str = "") -> None:
        own, _, bits = address.partition("/")
        addresses = ((parse_ip(own), int(bits)),) if address else ()
        assert self.device.state is not None
        self.device.change(self.device.state._replace(up=up, mtu=mtu, addresses=addresses))

    def remove(self) -> None:
        self.device.change(None)

    def restore(self) -> None:
        self.device.change(GREDevice(2, "ctl0", True, 1400, None, NEAR, b""))

    def pump(self, done: Callable[[], bool]) -> None:
        assert done()

    def teach(self, protocol: str) -> bytes:
        self.device.neighbours[parse_ip(protocol)] = FAR
        return FAR


def as_gre(link: Link, addresses: list[tuple[bytes, int]]) -> GREDevice:
    """Any device as if it were a GRE device; a bridge is none."""
    if link.kind == "bridge":
        raise StartError(f"interface {link.name}: this is a bridge")
    return GREDevice(link.ifindex, link.name, link.up, link.mtu, None, NEAR, b"", tuple(addresses))


@pytest.fixture(scope="module")
def place() -> Iterator[Namespace]:
    """A namespace."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make network namespaces")
    place = Namespace(f"dmc-{os.getpid()}")
    try:
        place.create()
        yield place
    finally:
        place.remove()


class TestKernel(ControlDeviceContract):
    """On a device of the kernel's."""

    @pytest.fixture(autouse=True)
    def use(self, place: Namespace) -> Iterator[None]:
        self.place = place
        self.reactor = Readers()
        self.metrics = Metrics()
        yield
        if "ctl0" in place.devices():
            self.remove()
        assert self.reactor.readers == []

    def make(self, *, present: bool = True) -> IControlDevice:
        if present:
            self.restore()
        fds = cast(IReactorFDSet, self.reactor)
        device = KernelGREDevice(fds, self.metrics, "ctl0", as_gre)
        start = device.start

        def start_inside() -> None:
            with self.place.entered():
                start()

        device.start = start_inside  # type: ignore[method-assign]
        return device

    def change(self, *, up: bool = True, mtu: int = 1400, address: str = "") -> None:
        if address:
            self.place.ip("address", "replace", address, "dev", "ctl0")
        self.place.ip("link", "set", "ctl0", "mtu", str(mtu), "up" if up else "down")

    def remove(self) -> None:
        self.place.ip("link", "del", "ctl0")

    def restore(self) -> None:
        self.place.ip("link", "add", "ctl0", "mtu", "1400", "type", "veth", "peer", "name", "ctl1")
        # Without an address of its own that comes and goes.
        self.place.ip("link", "set", "ctl0", "addrgenmode", "none")
        self.place.ip("link", "set", "ctl0", "up")

    def pump(self, done: Callable[[], bool]) -> None:
        assert self.reactor.pump(done)

    def teach(self, protocol: str) -> bytes:
        # A link-layer address here is a MAC; on a GRE device it is an underlay address.
        link = "02:00:00:00:00:09"
        self.place.ip("neigh", "add", protocol, "lladdr", link, "dev", "ctl0")
        return parse_mac(link)

    def test_others_are_not_read(self) -> None:
        """What happens to other devices changes nothing; each change of ours is counted once."""
        device, changes = self.make(), Changes()
        device.start()
        device.subscribe(changes)
        self.place.ip("link", "add", "other", "type", "bridge")
        self.place.ip("address", "add", "1.0.0.9/24", "dev", "other")
        self.place.ip("link", "del", "other")
        self.reactor.settle()
        assert changes.states == []
        self.change(mtu=1300)
        self.pump(lambda: bool(changes.states))
        self.reactor.settle()
        assert len(changes.states) == 1
        assert self.metrics.value("control_device_changes", interface="ctl0") == 1
        device.stop()

    def test_another_kind_in_its_place(self) -> None:
        """A device of the name that is of no use counts as none."""
        device, changes = self.make(), Changes()
        device.start()
        device.subscribe(changes)
        self.remove()
        self.place.ip("link", "add", "ctl0", "type", "bridge")
        self.pump(lambda: bool(changes.states) and changes.states[-1] is None)
        self.reactor.settle()
        assert device.state is None
        self.remove()
        self.restore()
        self.pump(lambda: device.state is not None)
        device.stop()

    def test_a_kernel_that_does_not_say(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What has become of the device is read with the next notification, about whatever."""
        device, changes = self.make(), Changes()
        device.start()
        device.subscribe(changes)

        def refuse(self: LinkTable, name: str) -> Link | None:
            raise DataplaneError(errno.ENOBUFS, "reading from the kernel")

        with monkeypatch.context() as patch, texts_of(LogLevel.error) as said:
            patch.setattr(LinkTable, "named", refuse)
            self.change(mtu=1300)
            self.pump(lambda: bool(said))
            self.reactor.settle()
        assert changes.states == [] and device.state.mtu == 1400
        self.place.ip("link", "add", "other", "type", "bridge")
        self.pump(lambda: device.state.mtu == 1300)
        assert len(changes.states) == 1
        device.stop()

    def test_lost_notifications(self) -> None:
        """After an overrun the device is read, whatever was lost."""
        device, changes = self.make(), Changes()
        device.start()
        device.subscribe(changes)
        # Each is a notification of a kilobyte and more.
        lines = "for i in $(seq 1000 2000); do echo link set ctl1 mtu $i; done | ip -batch -"
        self.place.run("sh", "-c", lines)
        self.change(mtu=1200)
        self.pump(lambda: device.state.mtu == 1200)
        assert self.metrics.value("netlink_overruns", interface="ctl0") > 0
        device.stop()

    def test_choice(self) -> None:
        """``auto`` is raw where no GRE device of the name is; ``device`` wants one."""
        fds = cast(IReactorFDSet, self.reactor)
        self.restore()
        with self.place.entered():
            for name in ("ctl0", "absent"):
                assert control_device(fds, self.metrics, name, "auto") is None
                assert control_device(fds, self.metrics, name, "raw") is None
            refused = control_device(fds, self.metrics, "ctl0", "device")
            assert refused is not None
            with pytest.raises(StartError, match="interface ctl0: this is a veth device"):
                refused.start()
            absent = control_device(fds, self.metrics, "absent", "device")
            assert absent is not None
            with pytest.raises(StartError, match="no such device: ip link add absent type gre"):
                absent.start()
