"""A cable between two sites that flood by different hubs."""

from __future__ import annotations

import time

import pytest

from lab.wait import eventually
from tests.system.backdoor import BOUND, all_pairs, broadcasts, cable
from tests.system.trunked import FIRST, SECOND, Trunked

pytestmark = pytest.mark.system


def test_a_backdoor_between_sites_of_different_hubs() -> None:
    """One of the two floods by the one hub, one by the other, so that a hub sees MACs of what goes
    round come from one site alone: what other sites get of it is bounded all the same, once the
    loop is found."""
    with Trunked({2: (FIRST, SECOND), 3: (SECOND, FIRST), 4: (FIRST, SECOND)}) as network:
        two, three, four = network.sites
        daemons = [network.daemons[name] for name in (FIRST, SECOND)]

        def sent() -> int:
            rows = [row for hub in daemons for row in hub.ctl.rows("member", "show")]
            return sum(row["tx_packets"] for row in rows if row["nbma"] == four.address)

        def named() -> bool:
            found = [row["check"] for hub in daemons for row in hub.ctl.findings()]
            return "loop" in found

        def is_bounded() -> bool:
            before, since = sent(), time.monotonic()
            time.sleep(1)
            rates.append((sent() - before) / (time.monotonic() - since))
            return rates[-1] < BOUND

        rates: list[float] = []
        with cable(two, three), broadcasts(network):
            eventually("name of the loop", named, timeout=40)
            eventually("bounded floods", is_bounded, timeout=10)
            assert all(is_bounded() for _ in range(3)), rates
        print("frames a second to a site that is not connected:", [round(rate) for rate in rates])
        all_pairs(network)
