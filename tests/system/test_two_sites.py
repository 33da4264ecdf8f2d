"""Two sites, one LAN: the path changes from hub to shortcut and back, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dmevpn.nhrp.packet import decode_payload
from dmevpn.transport import gre
from lab.fdbwatch import FDBWatch
from lab.traffic import BROADCAST, Capture, Flow, Ping, ethernet, send_frame
from lab.wait import eventually
from tests.system.network import Network, Site, flush, reaches, shortcut, wait_for_shortcut

pytestmark = pytest.mark.system

#: EtherTypes of the underlay's packets.
UNDERLAY_TYPE = {4: b"\x08\x00", 6: b"\x86\xdd"}
ETHERNET_SIZE = 14
GRE_PROTOCOL = 47


@pytest.fixture(scope="module", params=[4, 6], ids=["IPv4", "IPv6"])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    with Network(family=request.param) as network:
        network.add_hub(1)
        network.add_site(2, {1: 100})
        network.add_site(3, {1: 101})
        network.await_members()
        yield network


def two_sites(network: Network) -> tuple[Site, Site]:
    return network.sites[0], network.sites[1]


def test_cold_start(network: Network) -> None:
    """The first thousand pings all arrive, and once there is a shortcut the hub sees none."""
    one, two = two_sites(network)
    assert two.vm.address is not None
    pings = Ping(one.vm.namespace, two.vm.address, count=20_000, interval=0.005)
    wait_for_shortcut(one, two)
    wait_for_shortcut(two, one)
    by_hub = network.traffic()
    before = pings.answered
    eventually(
        "a thousand pings, many of them by the shortcut",
        lambda: pings.answered >= max(1000, before + 500),
        timeout=60,
    )
    pings.stop()
    report = pings.finish()
    assert report.sent >= 1000
    assert report.lost == 0
    assert report.duplicated <= 1
    assert network.traffic() == by_hub
    assert all(received for received, _ in by_hub.values())


@pytest.mark.parametrize("turn", range(10))
def test_nothing_is_lost_when_the_path_changes(network: Network, turn: int) -> None:
    """At 5,000 frames/s a frame is neither lost nor overtaken by hold, shortcut and withdrawal."""
    one, two = two_sites(network)
    flush(one)
    eventually("withdrawal of the shortcut", lambda: shortcut(one, two.vm) is None)
    with FDBWatch(one.machine.namespace, "vx1-s") as watch:
        flow = Flow(
            one.vm.namespace,
            [two.vm.namespace],
            source=one.vm.mac,
            destination=two.vm.mac,
            rate=5000,
            count=50_000,
        ).start()
        try:
            eventually("first shortcut", lambda: watch.first("new", two.vm.mac, two.address))
            flush(one)
            eventually("second shortcut", lambda: shortcut(one, two.vm))
            eventually("5,000 frames", lambda: flow.sent >= 5000)
        finally:
            flow.stop()
        (report,) = flow.finish()
        changes = [
            (event.kind, event.destination)
            for event in watch.events
            if event.mac == two.vm.mac and event.kind != "miss"
        ]
    black_hole = "0.0.0.0" if network.family == 4 else "::"
    placed = [index for index, change in enumerate(changes) if change == ("new", two.address)]
    assert len(placed) == 2
    assert ("new", black_hole) in changes[: placed[0]]
    assert "gone" in {kind for kind, _ in changes[placed[0] : placed[1]]}
    assert not report.lost, report
    assert report.reordered == 0, report
    assert report.duplicated <= 1, report


def test_own_packets_decode(network: Network) -> None:
    """What the daemons say to each other on the wire reads back as what was meant."""
    one, two = two_sites(network)
    assert reaches(one.vm, two.vm)
    with Capture(network.hub.namespace, "ul0", outgoing=True) as capture:
        flush(one)
        one.daemon.ctl.text("registration", "renew")
        one.daemon.ctl.text("cache", "resolve", two.vm.mac)
        payloads: list[bytes] = []

        def answered() -> bool:
            payloads.extend(gre_payloads(network.family, capture.frames()))
            return len(payloads) >= 4

        eventually("registration and resolution, asked and answered", answered)
    kinds = set()
    for payload in payloads:
        encapsulation, packet = decode_payload(payload)
        assert encapsulation.vpn_id is not None
        assert encapsulation.vpn_id.index == 1
        assert packet.encode(encapsulation.form, encapsulation.vpn_id) == payload
        kinds.add(type(packet).__name__)
    assert kinds == {
        *("RegistrationRequest", "RegistrationReply"),
        *("ResolutionRequest", "ResolutionReply"),
    }


def gre_payloads(family: int, frames: list[bytes]) -> list[bytes]:
    """What the GRE packets among captured frames of the underlay carry."""
    found = []
    for frame in frames:
        packet = frame[ETHERNET_SIZE:]
        if frame[ETHERNET_SIZE - 2 : ETHERNET_SIZE] != UNDERLAY_TYPE[family]:
            continue
        protocol, header = (packet[9], (packet[0] & 15) * 4) if family == 4 else (packet[6], 40)
        if protocol == GRE_PROTOCOL:
            payload, _key = gre.decode(packet[header:], {None})
            found.append(payload)
    return found


def test_strangers_are_not_forwarded(network: Network) -> None:
    """Frames from an address, or in a VNI, that has not registered go nowhere and teach nothing."""
    one, two = two_sites(network)
    stranger = network.lab.machines.get("stranger") or network.lab.add_machine("stranger", 9)
    source = "02:00:00:00:00:99"
    frame = ethernet(BROADCAST, source, 0x88B6, b"from a stranger")
    address = stranger.address if network.family == 4 else stranger.address6
    dropped = network.metric(network.hub, "dmevpn_switch_drops_total", reason="unregistered")
    with Capture(one.vm.namespace) as first, Capture(two.vm.namespace) as second:
        for machine, local, vni in ((stranger, address, 100), (one.machine, one.address, 999)):
            machine.namespace.ip(
                *("link", "add", "strange", "type", "vxlan", "id", str(vni), "dstport", "4789"),
                *("local", local, "remote", network.hub_address, "nolearning"),
            )
            machine.namespace.ip("link", "set", "strange", "up")
            for _ in range(5):
                send_frame(machine.namespace, frame, "strange")
            machine.namespace.ip("link", "del", "strange")
        eventually(
            "count of the dropped frames",
            lambda: (
                network.metric(network.hub, "dmevpn_switch_drops_total", reason="unregistered")
                >= dropped + 10
            ),
        )
        seen = first.frames() + second.frames()
    assert frame not in seen
    assert source not in {row["mac"] for row in network.hub.ctl.rows("fdb", "show")}


def test_vpn_that_the_hub_does_not_serve(network: Network) -> None:
    """A site that registers in it is refused (error 17), and the hub stays as it was."""
    before = {row["vpn"] for row in network.hub.ctl.rows("member", "show")}
    outsider = network.add_daemon("outsider", 8, network.spoke_config({77: 100}))
    try:
        rows = eventually(
            "refusal",
            lambda: [row for row in outsider.ctl.rows("registration", "show") if row["last_error"]],
        )
        assert rows[0]["state"] != "registered"
        assert "17" in rows[0]["last_error"]
        assert {row["vpn"] for row in network.hub.ctl.rows("member", "show")} == before
    finally:
        outsider.stop()
