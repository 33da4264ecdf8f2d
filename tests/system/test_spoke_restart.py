"""A spoke's daemon that dies leaves its entries at work, and its successor takes them over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.fdbwatch import FDBWatch
from lab.traffic import Flow, Ping, ping
from lab.wait import eventually
from tests.system.network import Network, wait_for_shortcut

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as network:
        network.add_hub(1)
        for number, vni in ((2, 100), (3, 101), (4, 100)):
            network.add_site(number, {1: vni})
        network.await_members()
        yield network


@pytest.mark.parametrize("state", ["kept", "spoilt"])
def test_killed_and_started_under_traffic(network: Network, state: str) -> None:
    """Killed with -9 and started again, a spoke costs no frame, by the shortcut or by the hub, and
    it says little: one registration, and one question for its shortcut, which is not touched.
    So it is when of its files on disk one is spoilt and the others are lost."""
    one, two, three = network.sites
    assert two.vm.address is not None
    assert three.vm.address is not None
    assert ping(one.vm.namespace, two.vm.address).lost == 0
    wait_for_shortcut(one, two)
    wait_for_shortcut(two, one)
    with FDBWatch(one.machine.namespace, "vx1-s") as watch:
        by_shortcut = Flow(
            one.vm.namespace,
            [two.vm.namespace],
            source=one.vm.mac,
            destination=two.vm.mac,
            rate=1000,
            count=40_000,
        ).start()
        one.daemon.kill()
        # Nobody has asked for the third before, and nobody asks now: these can only go by the hub.
        by_hub = Ping(one.vm.namespace, three.vm.address, count=300, interval=0.01)
        assert by_hub.finish().lost == 0
        if state == "spoilt":
            first, *others = (path for path in one.daemon.state_path.rglob("*") if path.is_file())
            first.write_bytes(b"\xff" * 100)
            for path in others:
                path.unlink()
        one.daemon.start()

        def confirmed() -> bool:
            rows = one.daemon.ctl.rows("cache", "show")
            return any(
                row["protocol"] == two.vm.mac and row["type"] == "cached" and row["expires_in"] > 60
                for row in rows
            )

        eventually("confirmation of the shortcut", confirmed, timeout=20)
        by_shortcut.stop()
        (report,) = by_shortcut.finish()
        touched = [event for event in watch.events if event.mac == two.vm.mac]
    assert not report.lost, report
    assert report.reordered == 0, report
    assert report.duplicated == 0, report
    assert [event.kind for event in touched if event.kind != "miss"] == []
    assert network.metric(one.daemon, "dmevpn_retransmissions_total") == 0
    assert network.metric(one.daemon, "dmevpn_fdb_repairs_total") == 0
