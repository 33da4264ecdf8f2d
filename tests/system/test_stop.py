"""A clean stop leaves nothing of ours, and keeps what is not ours."""

from __future__ import annotations

import signal

import pytest

from lab.topology import pins
from lab.traffic import ping
from tests.system.network import Network, wait_for_shortcut

pytestmark = pytest.mark.system


def test_clean_stop() -> None:
    """No device, filter, entry, socket, pin or pid file of ours remains, by SIGTERM or SIGINT;
    foreign ones do."""
    with Network() as network:
        network.add_hub(1)
        one, two = (network.add_site(number, {1: 98 + number}) for number in (2, 3))
        network.await_members()
        assert two.vm.address is not None
        assert ping(one.vm.namespace, two.vm.address).lost == 0
        wait_for_shortcut(one, two)
        hub = network.lab.machines["hub"].namespace
        assert pins(hub)
        hub.ip("link", "add", "foreign", "type", "vxlan", "id", "7", "dstport", "4444")
        hub.bridge("fdb", "append", one.vm.mac, "dev", "foreign", "dst", "10.0.0.9")
        signals = (signal.SIGTERM, signal.SIGTERM, signal.SIGINT)
        for daemon, number in zip(network.daemons.values(), signals, strict=True):
            daemon.stop(by=number)
            assert daemon.namespace.processes() == []
            assert not daemon.socket_path.exists()
            assert not list(daemon.config_path.parent.glob("*.pid"))
            assert "clsact" not in daemon.namespace.run("tc", "qdisc", "show").stdout
            daemon.assert_sound()
        assert hub.devices() == {"ul0", "foreign"}
        assert [row["dst"] for row in hub.fdb("foreign")] == ["10.0.0.9"]
        assert one.machine.namespace.devices() == {"ul0", one.vm.name}
        assert two.machine.namespace.devices() == {"ul0", two.vm.name}
        assert not pins(hub)


def test_stopped_sites_leave_the_hub() -> None:
    """A site that stops is no member any more, and the others' shortcuts to it are withdrawn."""
    with Network() as network:
        network.add_hub(1)
        one, two = (network.add_site(number, {1: 100}) for number in (2, 3))
        network.await_members()
        assert two.vm.address is not None
        assert ping(one.vm.namespace, two.vm.address).lost == 0
        wait_for_shortcut(one, two)
        two.daemon.stop()
        network.await_departure(one, two)
