"""One site floods the hub, over real sockets: the others are answered all the same.

How long they wait is measured by `make bench ARGS=flood`; here they only have to be answered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from lab.flood import Flooder, Probe
from lab.wait import eventually
from tests.system.network import Network

pytestmark = pytest.mark.system


#: A slow machine cannot send as much as the default lets pass.
HUB = """interface nhrp
    request-rate 200
interface vx0
    controller nhrp
    vpn-id 1
    l2learnonly
    provision
"""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as network:
        network.add_daemon("hub", 1, HUB)
        for number in (2, 3):
            network.lab.add_machine(f"spoke{number}", number)
        yield network


@pytest.fixture(scope="module")
def probe(network: Network) -> Iterator[Probe]:
    """A registered site."""
    machine = network.lab.machines["spoke2"]
    with Probe(machine.namespace, machine.address, network.hub_address) as probe:
        probe.register()
        yield probe


@pytest.mark.parametrize("kind", ["registrations", "garbage", "forged"])
def test_others_are_answered(network: Network, probe: Probe, kind: str) -> None:
    """Under as many packets as the machine gives no answer is lost, nor later than a second."""
    hub, flooder = network.lab.machines["hub"], network.lab.machines["spoke3"]
    flood = Flooder(hub, kind, flooder.address, seconds=1.5, rate=100_000)
    delays = probe.measure(20)
    rates = flood.finish()
    print(f"{kind}, {rates.arrived:,}/s: {delays}")
    assert rates.arrived > 2000, "this machine is too slow to flood anybody"
    assert delays.lost == 0, str(delays)


def test_it_is_named(network: Network, probe: Probe) -> None:
    """Counters, journal and doctor tell who it was."""
    address = network.lab.machines["spoke3"].address

    def dropped() -> int:
        return sum(
            row["value"]
            for row in network.hub.ctl.rows("metrics", "show")
            if "drops" in row["name"] and "_rate" in str(row)
        )

    assert eventually("drops", lambda: max(0, dropped() - 1000))
    rows = json.loads(network.hub.ctl.run("doctor", json=True).stdout)["table"]
    assert {address, "strangers"} <= {
        row["subject"] for row in rows if "request-rate" in row["finding"]
    }
    assert f"packets of {address} were dropped" in network.hub.log
