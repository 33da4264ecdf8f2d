"""Requests, batches, dumps and notifications on the kernel's sockets, and octets as recorded."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from dmevpn.dataplane.links import LinkTable, parse_links
from dmevpn.dataplane.neighbours import (
    RTM_DELNEIGH,
    RTM_GETNEIGH,
    RTM_NEWNEIGH,
    RTNLGRP_NEIGH,
    bridge_add,
    change_filter,
    dump_request,
    flood_append,
    parse_entries,
    parse_miss,
    self_delete,
    self_get,
    self_set,
)
from dmevpn.dataplane.netlink import (
    BATCH_MESSAGES,
    READS_PER_TURN,
    Message,
    NetlinkReader,
    NetlinkRequests,
    attribute,
    nested,
    parse_attributes,
)
from dmevpn.errors import DataplaneError
from dmevpn.sockfilter import ACCEPT
from tests.contracts.spoke_dataplane import station
from tests.dataplane.site import UNDERLAY, Site

#: A miss as Linux 6.18 reports it: vxlan device 7, MAC 02:00:00:00:00:99.
MISS = bytes.fromhex(
    "440000001e00000000000000000000000200000007000000040000010a00020002000000009900000800"
    "070000000000140003009a2a01000100000001000000000000 00".replace(" ", "")
)
NBMA, NBMA6 = bytes([10, 0, 0, 2]), bytes(15) + b"\2"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


# --- octets ---------------------------------------------------------------------------------


def message(type_: int, body: bytes, sequence: int = 0) -> bytes:
    """A netlink message."""
    return struct.pack("=IHHII", 16 + len(body), type_, 0, sequence, 0) + body


def test_miss_as_recorded() -> None:
    """The MAC is read out of the kernel's own octets."""
    assert parse_miss(MISS) == bytes.fromhex("020000000099")


def test_what_is_no_miss() -> None:
    """Solicitations (with a destination), other types and stumps are passed over."""
    solicitation = struct.pack("=BxxxiHBB", socket.AF_INET, 7, 4, 0, 1) + attribute(1, NBMA)
    assert parse_miss(message(RTM_GETNEIGH, solicitation)) is None
    assert parse_miss(message(RTM_NEWNEIGH, MISS[16:])) is None
    broken = struct.pack("=BxxxiHBB", socket.AF_INET, 7, 4, 0, 1) + b"\0\0\2\0"
    assert parse_miss(message(RTM_GETNEIGH, broken)) is None
    for end in range(len(MISS)):
        assert parse_miss(MISS[:end]) in (None, bytes.fromhex("020000000099"))


@pytest.mark.parametrize("nbma", [NBMA, NBMA6])
def test_entry_reads_as_it_was_written(nbma: bytes) -> None:
    """The codec agrees with itself on both address families."""
    written = self_set(7, station(1), nbma, vni=101, port=4789)
    (entry,) = parse_entries(message(written.type, written.body))
    assert (entry.type, entry.ifindex, entry.mac) == (RTM_NEWNEIGH, 7, station(1))
    assert (entry.nbma, entry.vni, entry.port) == (nbma, 101, 4789)
    assert entry.ours
    assert entry.master is None
    plain = self_set(7, station(1), nbma)
    (entry,) = parse_entries(message(plain.type, plain.body))
    assert (entry.vni, entry.port) == (None, None)


def test_truncated_entries() -> None:
    """A datagram that ends early yields what is whole and never fails."""
    written = self_set(7, station(1), NBMA, vni=101, port=4789)
    data = message(written.type, written.body) * 3
    for end in range(len(data)):
        assert len(list(parse_entries(data[:end]))) <= end * 3 // len(data)
    for end in range(len(data)):
        list(parse_links(data[:end]))
    assert list(parse_entries(struct.pack("=IHHII", 4, 28, 0, 0, 0) + bytes(40))) == []


def test_damaged_entries() -> None:
    """Neither does one with a wrong length in it, whichever attribute that is of."""
    written = self_set(7, station(1), NBMA, vni=101, port=4789)
    cache_info = attribute(3, bytes(16)) + attribute(5, b"\2\0") + attribute(9, bytes(4))
    link = struct.pack("=BxHiII", 0, 1, 7, 1, 0) + attribute(3, b"vx0\0") + attribute(4, bytes(4))
    for data in (message(written.type, written.body + cache_info), message(16, link)):
        for place in range(len(data)):
            for octet in (0, 5, 6, 255):
                damaged = data[:place] + bytes([octet]) + data[place + 1 :]
                list(parse_entries(damaged))
                list(parse_links(damaged))


def test_attributes() -> None:
    """Attributes are padded, nested, read back, and a broken length ends them."""
    data = attribute(1, b"abc") + nested(2, attribute(3, b"x"), attribute(4, b""))
    assert len(data) % 4 == 0
    found = parse_attributes(data)
    assert found[1] == b"abc"
    assert parse_attributes(found[2]) == {3: b"x", 4: b""}
    assert parse_attributes(b"\2\0\1\0") == {}


# --- the kernel -------------------------------------------------------------------------------


@pytest.fixture
def site(site: Site) -> Site:
    """The site with a vxlan device."""
    site.add_single()
    return site


@pytest.fixture
def requests(site: Site) -> Iterator[NetlinkRequests]:
    """A request socket in the namespace."""
    with site.namespace.entered():
        requests = NetlinkRequests()
    yield requests
    requests.close()
    requests.close()


@pytest.fixture
def device(requests: NetlinkRequests) -> int:
    """Index of the vxlan device."""
    link = LinkTable(requests).named("vx1")
    assert link is not None
    return link.ifindex


@needs_root
def test_request(site: Site, requests: NetlinkRequests, device: int) -> None:
    """A request is done when the call returns; one that fails says why."""
    requests.request(self_set(device, station(1), NBMA, nlm_flags=0x600), "adding it")
    assert site.entry("vx1", station(1)) is not None
    with pytest.raises(DataplaneError, match="adding it: File exists") as caught:
        requests.request(self_set(device, station(1), NBMA, nlm_flags=0x600), "adding it")
    assert caught.value.errno == errno.EEXIST
    requests.request(self_delete(device, station(1)), "removing it")
    with pytest.raises(DataplaneError, match="removing it: No such file"):
        requests.request(self_delete(device, station(1)), "removing it")


@needs_root
def test_the_kernels_own_words(requests: NetlinkRequests, device: int) -> None:
    """Where the kernel explains a refusal, its explanation is in the error."""
    requests.request(flood_append(device, bytes(6), NBMA), "flooding")
    with pytest.raises(DataplaneError, match=r"adding \(.+\): "):
        requests.request(self_set(device, bytes(6), NBMA), "adding")


@needs_root
def test_batch(requests: NetlinkRequests, device: int) -> None:
    """Many changes are one call, over several sends; those that fail are known one by one."""
    count = 2 * BATCH_MESSAGES + 10
    assert requests.batch([]) == []
    macs = [station(number) for number in range(count)]
    assert requests.batch([self_set(device, mac, NBMA, port=4789) for mac in macs]) == []
    doomed = {0, 7, BATCH_MESSAGES - 1, BATCH_MESSAGES, count - 1}
    again = [
        self_set(device, mac, NBMA, nlm_flags=0x600)
        if index in doomed
        else self_delete(device, mac)
        for index, mac in enumerate(macs)
    ]
    assert requests.batch(again) == [(index, errno.EEXIST) for index in sorted(doomed)]
    all_fail = [self_delete(device, mac) for mac in macs]
    failed = requests.batch(all_fail)
    assert len(failed) == count - len(doomed)
    assert {code for _, code in failed} == {errno.ENOENT}


@needs_root
def test_sequence_numbers_wrap(requests: NetlinkRequests, device: int) -> None:
    """After four thousand million requests the next ones work."""
    requests._sequence = 0xFFFFFFFF - 3
    messages = [self_set(device, station(number), NBMA) for number in range(8)]
    assert requests.batch(messages) == []
    requests._sequence = 0xFFFFFFFF - 3
    failed = requests.batch([self_delete(device, station(number)) for number in range(20)])
    assert [index for index, _ in failed] == list(range(8, 20))


@needs_root
def test_answers_lost(requests: NetlinkRequests, device: int) -> None:
    """If the kernel had no room for its answers, the caller hears that it cannot know."""
    requests._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    with pytest.raises(DataplaneError, match="No buffer space"):
        requests.batch([self_delete(device, station(number)) for number in range(50)])
    requests._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
    requests.request(self_set(device, station(1), NBMA), "adding")


@needs_root
def test_dump(requests: NetlinkRequests, device: int) -> None:
    """A dump has the entries of one device, in as many datagrams as it takes."""
    macs = {station(number) for number in range(1000)}
    requests.batch([self_set(device, mac, NBMA, vni=101) for mac in macs])
    datagrams = list(requests.dump(dump_request(device)))
    entries = [entry for data in datagrams for entry in parse_entries(data)]
    assert len(datagrams) > 1
    assert {entry.mac for entry in entries} >= macs
    assert {entry.ifindex for entry in entries} == {device}
    assert {entry.vni for entry in entries if entry.mac in macs} == {101}
    with pytest.raises(DataplaneError):
        list(requests.dump(Message(RTM_GETNEIGH, 0, b"\7" * 12)))


@needs_root
def test_get(requests: NetlinkRequests, device: int) -> None:
    """One entry can be asked for; one that is not there is None."""
    requests.request(self_set(device, station(1), NBMA, vni=7, port=99), "adding")
    data = requests.get(self_get(device, station(1)))
    assert data is not None
    (entry,) = parse_entries(data)
    assert (entry.nbma, entry.vni, entry.port) == (NBMA, 7, 99)
    assert requests.get(self_get(device, station(2))) is None
    assert requests.get(self_get(9999, station(2))) is None
    with pytest.raises(DataplaneError):
        requests.get(Message(RTM_GETNEIGH, 0, self_get(device, station(2)).body[:12]))


@needs_root
def test_links(site: Site, requests: NetlinkRequests) -> None:
    """Devices are found by name, number, bridge and address."""
    links = LinkTable(requests)
    site.namespace.ip("link", "add", "br7", "type", "bridge")
    bridge, vxlan = links.named("br7"), links.named("vx1")
    assert bridge is not None
    assert vxlan is not None
    assert (bridge.kind, bridge.up, bridge.vxlan) == ("bridge", False, None)
    assert vxlan.vxlan is not None
    assert (vxlan.vxlan.vni, vxlan.vxlan.port) == (100, 8472)
    assert vxlan.vxlan.local == bytes([10, 0, 0, 1])
    assert vxlan.vxlan.l2miss
    assert not vxlan.vxlan.learning
    assert not vxlan.vxlan.external
    assert links.ports(bridge.ifindex) == []
    site.namespace.ip("link", "set", "vx1", "master", "br7", "alias", "mine")
    (port,) = links.ports(bridge.ifindex)
    assert (port.name, port.alias) == ("vx1", "mine")
    for address in ("10.0.0.1", "fd00::1"):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        owner = links.owner(socket.inet_pton(family, address))
        assert owner is not None
        assert owner.name == "ul0"
    assert links.owner(NBMA) is None
    assert {link.name for link in links.all()} == {"lo", "br7", "vx1", *UNDERLAY}
    assert links.named("nothing") is None
    assert links.named("a-name-that-is-too-long") is None


# --- notifications ----------------------------------------------------------------------------


class Listening:
    """A reader and what it heard."""

    def __init__(self, site: Site, program: list[object], buffer: int = 1 << 20) -> None:
        self.reactor = MemoryReactorClock()
        self.heard: list[bytes] = []
        self.drained = 0
        self.overruns = 0
        with site.namespace.entered():
            self.reader = NetlinkReader(
                self.reactor,
                groups=[RTNLGRP_NEIGH],
                program=program,  # type: ignore[arg-type]
                received=self.hear,
                drained=self.drain,
                overrun=self.overrun,
                buffer=buffer,
            )

    def hear(self, data: bytes) -> None:
        self.heard.append(data)

    def drain(self) -> None:
        self.drained += 1

    def overrun(self) -> None:
        self.overruns += 1


@needs_root
def test_bounded_reading(site: Site, requests: NetlinkRequests, device: int) -> None:
    """A burst is read in portions, so that others get their turn."""
    listening = Listening(site, [ACCEPT])
    count = READS_PER_TURN + 44
    requests.batch([self_set(device, station(number), NBMA) for number in range(count)])
    listening.reader.doRead()
    assert len(listening.heard) == READS_PER_TURN
    listening.reader.doRead()
    assert len(listening.heard) == count
    listening.reader.doRead()
    assert listening.drained == 3
    assert listening.overruns == 0
    listening.reader.close()


@needs_root
def test_overrun(site: Site, requests: NetlinkRequests, device: int) -> None:
    """A burst beyond the buffer is reported once; what was queued is read, and reading goes on."""
    listening = Listening(site, [ACCEPT], buffer=1 << 14)
    requests.batch([self_set(device, station(number), NBMA) for number in range(200)])
    listening.reader.doRead()
    assert listening.overruns == 1
    assert 0 < len(listening.heard) < 200
    listening.heard.clear()
    requests.request(self_delete(device, station(1)), "removing")
    listening.reader.doRead()
    assert [entry.type for data in listening.heard for entry in parse_entries(data)] == [29]
    listening.reader.close()


@needs_root
def test_receiver_that_fails(
    site: Site, requests: NetlinkRequests, device: int, logged_failures: list[object]
) -> None:
    """A mistake of ours in one notification ends in the log; the next one is read."""
    listening = Listening(site, [ACCEPT])
    heard: list[bytes] = []

    def fail_once(data: bytes) -> None:
        heard.append(data)
        if len(heard) == 1:
            raise RuntimeError("our mistake")

    listening.reader._received = fail_once
    requests.batch([self_set(device, station(number), NBMA) for number in range(2)])
    listening.reader.doRead()
    assert len(heard) == 2
    assert len(logged_failures) == 1
    logged_failures.clear()
    listening.reader.close()


@needs_root
@pytest.mark.parametrize("lost", [False, True])
def test_a_mistake_at_the_end_of_a_reading(
    site: Site, requests: NetlinkRequests, device: int, lost: bool, logged_failures: list[object]
) -> None:
    """It ends in the log, too: the reactor would not ask a reader again that raises."""

    def fail() -> None:
        raise RuntimeError("our mistake")

    listening = Listening(site, [ACCEPT], buffer=1 << 14 if lost else 1 << 20)
    setattr(listening.reader, "_overrun" if lost else "_drained", fail)
    requests.batch([self_set(device, station(number), NBMA) for number in range(200)])
    listening.reader.doRead()
    assert listening.heard != []
    assert len(logged_failures) == 1
    logged_failures.clear()
    listening.reader.close()


@needs_root
def test_closed_while_reading(site: Site, requests: NetlinkRequests, device: int) -> None:
    """A receiver may close the reader; nothing more is read."""
    listening = Listening(site, [ACCEPT])
    listening.reader._received = lambda data: listening.reader.connectionLost(Failure(OSError()))
    requests.batch([self_set(device, station(number), NBMA) for number in range(2)])
    listening.reader.doRead()
    listening.reader.close()
    assert listening.drained == 0
    assert listening.reactor.getReaders() == []


@needs_root
def test_change_filter(site: Site, requests: NetlinkRequests, device: int) -> None:
    """Removals and moves pass; what we write ourselves and what bridges learn does not."""
    site.namespace.ip("link", "add", "br7", "type", "bridge")
    bridge = LinkTable(requests).named("br7")
    assert bridge is not None
    site.add_station("br7")
    site.namespace.ip("link", "set", "br7", "up")
    site.namespace.ip("link", "set", "vx1", "master", "br7")
    listening = Listening(site, list(change_filter([device])))
    ours, theirs = station(1), station(2)
    assert requests.batch([self_set(device, ours, NBMA), bridge_add(device, ours)]) == []
    site.send("vm0", b"\xff" * 6, theirs)  # learnt: not ours to know
    site.send("vm0", b"\xff" * 6, ours)  # moved
    requests.batch([self_delete(device, ours)])
    listening.reader.doRead()
    port = LinkTable(requests).named("port0")
    assert port is not None
    heard = [entry for data in listening.heard for entry in parse_entries(data)]
    assert [(entry.type, entry.ifindex, entry.mac, entry.static) for entry in heard] == [
        (RTM_NEWNEIGH, port.ifindex, ours, True),
        (RTM_DELNEIGH, device, ours, False),
    ]
    assert heard[0].master == bridge.ifindex
    listening.reader.set_filter([ACCEPT])
    requests.batch([self_set(device, ours, NBMA)])
    listening.reader.doRead()
    assert len(listening.heard) == 3
    listening.reader.close()
