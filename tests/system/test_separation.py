"""Two VPNs that use the same VNI numbers at different sites stay two networks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.traffic import BROADCAST, Capture, Flow, mac_octets
from tests.system.network import Network, reaches

pytestmark = pytest.mark.system

#: A MAC that nobody has, different for each sender: unknown unicast.
NOBODY = "02:00:00:{vpn:02x}:ff:{number:02x}"


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as network:
        network.add_hub(1, 2)
        network.add_site(2, {1: 100, 2: 200})
        network.add_site(3, {1: 200, 2: 100})
        network.add_site(4, {1: 100, 2: 101})
        network.await_members()
        yield network


def test_no_frame_crosses(network: Network) -> None:
    """In a storm of broadcasts and unknown unicasts nobody sees a frame of the other VPN."""
    vms = [(vpn, vm) for site in network.sites for vpn, vm in site.vms.items()]
    for one in network.sites:
        for two in network.sites:
            if one is not two:
                assert reaches(one.vm, two.vm)
    captures = [(vpn, Capture(vm.namespace)) for vpn, vm in vms]
    flows = [
        Flow(
            vm.namespace,
            [],
            source=vm.mac,
            destination=destination,
            rate=500,
            count=500,
        ).start()
        for number, (vpn, vm) in enumerate(vms)
        for destination in (BROADCAST, NOBODY.format(vpn=vpn, number=number))
    ]
    for flow in flows:
        flow.finish()
    vpn_of = {mac_octets(vm.mac): vpn for vpn, vm in vms}
    for vpn, capture in captures:
        with capture:
            sources = {frame[6:12] for frame in capture.frames()}
        seen = {vpn_of[source] for source in sources if source in vpn_of}
        assert seen == {vpn}, "frames of the other VPN, or none at all"


def test_equal_macs_do_not_meet(network: Network) -> None:
    """The same MAC in both VPNs is two machines: learnt, resolved and reached separately."""
    first, second, _ = network.sites
    rows = network.hub.ctl.rows("fdb", "show", "mac", first.vms[1].mac)
    assert {row["vpn"] for row in rows} == {1}
    for vpn in (1, 2):
        assert reaches(first.vms[vpn], second.vms[vpn])
