"""What the operator's script sees of peers and routes, change by change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from dmevpn.addresses import VTEP, parse_ip
from dmevpn.interfaces import ICacheListener
from dmevpn.metrics import Metrics
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.roles.peer_gate import PeerGate
from dmevpn.roles.script_events import InterfaceEvents, StationEvents
from tests.roles.scripts import Script

THREE = parse_ip("10.255.255.3")
HOME, AWAY = VTEP(parse_ip("10.0.0.3"), None), VTEP(parse_ip("10.0.0.33"), None)
HOST = Binding(THREE, HOME, Kind.CACHED, 100, 100.0)
NETWORK = replace(HOST, protocol=parse_ip("192.168.3.0"), prefix_length=24, next_hop=THREE)


@implementer(ICacheListener)
class Kernel:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def binding_added(self, binding: Binding) -> None:
        self.calls.append(f"added {binding.bits} {binding.vtep}")

    def binding_changed(self, old: Binding, new: Binding) -> None:
        self.calls.append(f"changed {new.bits} {new.vtep}")

    def binding_removed(self, binding: Binding, reason: str) -> None:
        self.calls.append(f"removed {binding.bits} {reason}")

    def told(self) -> list[str]:
        """Since the last look."""
        found, self.calls = self.calls, []
        return found


class Stage:
    """A cache, a gate and a kernel."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.script = Script(self.clock)
        self.kernel = Kernel()
        self.cache = Cache(self.clock, Metrics())
        interface = InterfaceEvents(self.script, "gre1", None)
        events = StationEvents(interface, parse_ip("10.255.255.2"), None, lambda peer: b"")
        self.gate = PeerGate(self.cache, self.kernel, events, self.reject)
        self.cache.subscribe(self.gate)

    def reject(self, protocol: bytes) -> None:
        self.cache.put(Binding(protocol, None, Kind.NEGATIVE, 10, None), overrule=True)

    def put(self, binding: Binding) -> None:
        """A binding, and time for the script."""
        self.cache.put(binding, overrule=True)
        self.clock.advance(0.1)
        self.clock.advance(0.1)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_interface(stage: Stage) -> None:
    """It listens to a cache."""
    assert verifyObject(ICacheListener, stage.gate)


def test_a_refresh(stage: Stage) -> None:
    """It reaches the kernel, and is no event."""
    stage.put(HOST)
    assert stage.script.heard() == ["peer-up 10.255.255.3"]
    stage.put(replace(HOST, expires=200.0))
    assert stage.script.heard() == []
    assert stage.kernel.told() == ["added 32 10.0.0.3", "changed 32 10.0.0.3"]


def test_two_that_need_a_peer(stage: Stage) -> None:
    """It comes up with the first and goes down with the last."""
    stage.put(NETWORK)
    stage.put(HOST)
    assert stage.script.heard() == ["peer-up 10.255.255.3", "route-up 192.168.3.0"]
    stage.cache.remove(HOST.key, "purged")
    assert stage.script.heard() == []
    stage.cache.remove(NETWORK.key, "purged")
    assert stage.script.heard() == ["route-down 192.168.3.0", "peer-down 10.255.255.3"]


def test_a_peer_that_moves_under_a_route(stage: Stage) -> None:
    """The kernel hears of the new place when the script has seen it, not before."""
    stage.script.hangs = {"route-up 192.168.3.0"}
    stage.put(NETWORK)
    route = stage.script.runs[-1].done
    assert route is not None
    stage.script.hangs = {"peer-up 10.255.255.3"}
    stage.put(replace(NETWORK, vtep=AWAY))
    assert stage.script.heard() == [
        "peer-up 10.255.255.3",
        "route-up 192.168.3.0",
        "peer-down 10.255.255.3",
        "peer-up 10.255.255.3",
    ]
    route(True)
    assert stage.kernel.told() == []
    peer = stage.script.seen[-1].done
    assert peer is not None
    peer(True)
    assert stage.kernel.told() == ["added 24 10.0.0.33"]


def test_a_refusal_after_a_move(stage: Stage) -> None:
    """What the kernel had is taken from it."""
    stage.put(HOST)
    stage.script.refuses = {"peer-up 10.255.255.3"}
    stage.put(replace(HOST, vtep=AWAY))
    assert stage.kernel.told() == ["added 32 10.0.0.3", "removed 32 refused", "added 32 None"]


def test_a_server(stage: Stage) -> None:
    """Its events are told elsewhere, though a network is reached by it."""
    stage.put(replace(HOST, kind=Kind.STATIC, expires=None))
    stage.put(NETWORK)
    assert stage.script.heard() == ["route-up 192.168.3.0"]
    stage.cache.remove(NETWORK.key, "expired")
    assert stage.script.heard() == ["route-down 192.168.3.0"]


def test_a_route_that_becomes_a_registration(stage: Stage) -> None:
    """A network that is registered with us needs no route of ours any more."""
    stage.put(NETWORK)
    stage.put(replace(NETWORK, kind=Kind.DYNAMIC))
    assert stage.script.heard()[-1] == "route-down 192.168.3.0"
    assert stage.kernel.told() == ["added 24 10.0.0.3", "changed 24 10.0.0.3"]


def test_the_end(stage: Stage) -> None:
    """Everything goes down, and what the script is at is ended."""
    stage.put(NETWORK)
    stage.script.hangs = {"peer-up 10.255.255.4"}
    stage.put(replace(HOST, protocol=parse_ip("10.255.255.4")))
    stage.script.heard()
    pending = stage.script.seen[-1]
    stage.gate.close()
    assert pending.cancelled
    assert stage.script.heard() == ["route-down 192.168.3.0", "peer-down 10.255.255.3"]
