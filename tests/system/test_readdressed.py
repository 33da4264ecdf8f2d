"""A machine that gets another underlay address is a site there a moment later."""

from __future__ import annotations

import pytest

from lab.traffic import ping
from lab.wait import eventually
from tests.system.network import Network

pytestmark = pytest.mark.system


def test_another_underlay_address() -> None:
    """Its daemon moves by itself: the hub has it at the new address, its station still hangs on
    the bridge, and reaches the others."""
    with Network() as network:
        network.add_hub(1)
        one, two = (network.add_site(number, {1: 98 + number}) for number in (2, 3))
        network.await_members()
        assert two.vm.address is not None
        assert ping(one.vm.namespace, two.vm.address).lost == 0
        namespace = one.machine.namespace
        namespace.ip("address", "add", "10.0.0.22/24", "dev", "ul0")
        namespace.ip("address", "del", f"{one.address}/24", "dev", "ul0")
        namespace.ip("address", "replace", "10.0.0.22/24", "dev", "ul0")

        def moved() -> bool:
            return "10.0.0.22" in {row["nbma"] for row in network.hub.ctl.rows("member", "show")}

        eventually("registration from the new address", moved)
        eventually("a ping", lambda: ping(one.vm.namespace, two.vm.address or "", count=3).lost < 3)
        assert ping(one.vm.namespace, two.vm.address).lost == 0
        events = one.daemon.ctl.rows("events")
        assert [row["event"] for row in events].count("readdressed") == 1
