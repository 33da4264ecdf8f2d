"""IPv4 and IPv6 addresses with real daemons, on raw sockets: no kernel GRE device is needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lab.daemons import Daemon
from lab.wait import eventually
from tests.system.network import Network

pytestmark = pytest.mark.system

ADDRESSES = "transport raw protocol-address 10.255.255.{0}/24 protocol-address 2001:db8::{0}/64"


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """A hub, and two spokes with networks behind them."""
    with Network() as network:
        leads = "".join(f"map 192.168.{n}.0/24 10.0.0.{n}\n" for n in (2, 3))
        network.add_daemon("hub", 1, f"interface nhrp {ADDRESSES.format(1)}\n{leads}")
        hub = network.hub_address
        for number in (2, 3):
            network.add_daemon(
                f"spoke{number}",
                number,
                f"""interface nhrp {ADDRESSES.format(number)}
                map 10.255.255.1/24 {hub} register map 2001:db8::1/64 {hub} register
                shortcut-target 192.168.{number}.0/24
                """,
            )
        yield network


def rows(daemon: Daemon, *words: str) -> dict[str, dict[str, Any]]:
    """What a daemon knows, by address."""
    return {row["protocol"]: row for row in daemon.ctl.rows("cache", "show", *words)}


def wait_for_registrations(network: Network, number: int) -> None:
    """Until the hub has so many of them."""
    eventually("registrations", lambda: len(rows(network.hub, "type", "dynamic")) == number)


def test_registrations(network: Network) -> None:
    """The hub knows both spokes by both of their addresses, from where they are."""
    wait_for_registrations(network, 4)
    known = rows(network.hub, "type", "dynamic")
    for number in (2, 3):
        for protocol in (f"10.255.255.{number}", f"2001:db8::{number}"):
            assert known[protocol]["nbma"] == f"10.0.0.{number}"
            assert known[protocol]["vpn"] is None


@pytest.mark.parametrize(
    ("address", "protocol"),
    [
        ("10.255.255.3", "10.255.255.3"),
        ("2001:db8::3", "2001:db8::3"),
        ("192.168.3.7", "192.168.3.0/24"),
    ],
)
def test_resolution(network: Network, address: str, protocol: str) -> None:
    """A spoke finds the other's addresses, and the network behind it."""
    spoke = network.daemons["spoke2"]
    wait_for_registrations(network, 4)
    (row,) = spoke.ctl.rows("cache", "resolve", address)
    assert (row["protocol"], row["nbma"], row["type"]) == (protocol, "10.0.0.3", "cached")


def test_a_spoke_that_stops(network: Network) -> None:
    """Everybody who was told of it forgets it."""
    spoke = network.daemons["spoke2"]
    spoke.ctl.rows("cache", "resolve", "192.168.3.7")
    network.daemons["spoke3"].stop()
    wait_for_registrations(network, 2)
    eventually("purge", lambda: rows(spoke, "type", "cached") == {})
