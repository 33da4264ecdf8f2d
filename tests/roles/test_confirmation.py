"""Spokes with two hubs: what the one has told that is asked no more is asked for at the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from twisted.internet.task import Clock

from dmevpn.addresses import VTEP, Path, parse_ip
from dmevpn.dataplane.memory_spoke import MemorySite, MemorySpokeDataplane
from dmevpn.interfaces import SpokeListener
from dmevpn.nhrp.cache import Binding, Kind
from dmevpn.nhrp.constants import CIECode, ErrorCode
from dmevpn.nhrp.packet import ResolutionRequest, decode_payload
from dmevpn.nhrp.records import CIE
from dmevpn.roles.confirmation import AGAIN, SETTLE, UNDER_WAY, UNUSED, Confirmation
from dmevpn.roles.pace import RATE, Pace
from tests.nhrp.neighbours import HOST, HUB, SITE_A, TO_HUB, VTEP_A, VTEP_B, binding, no_jitter
from tests.nhrp.test_resolution import World as Client
from tests.nhrp.test_resolution import answer, purge
from tests.roles.test_hubs import HUBS, TwoHubs, node_of, role_of
from tests.world import Machine, Site, mac

A, B, C = mac(1), mac(2), mac(3)
#: A hub that was asked, and a site that none of the hosts was at so far.
GONE = parse_ip("192.0.2.2")
ELSEWHERE = VTEP(parse_ip("192.0.2.30"), 300)
#: Seconds until a hub is silent, the other one is asked, and has answered once.
SOON = 1 + 2 * SETTLE + 0.5


class ThreeSites(TwoHubs):
    """Two hubs and three sites that know both. A is at the first site, B at the second."""

    def __init__(self, *, hubs: tuple[str, ...] = HUBS, trunks: bool = False) -> None:
        super().__init__(hubs=hubs, trunks=trunks)
        self.three = self.add_site("10.0.0.4", 102)
        self.run(2)

    def talk(self) -> None:
        """A and B have shortcuts to each other."""
        self.exchange(self.one, A, self.two, B)
        self.exchange(self.one, A, self.two, B)
        assert (self.path(self.one, B), self.path(self.two, A)) == (self.two.vtep, self.one.vtep)

    def go_on(self, seconds: float, *, broadcasts: bool = False) -> int:
        """A and B send each other twenty frames a second; how many did not arrive."""
        lost = 0
        for _ in range(round(seconds * 20)):
            for site, source, other, destination in (
                (self.one, A, self.two, B),
                (self.two, B, self.one, A),
            ):
                before = len(other.received)
                self.speak(site, source, destination)
                lost += len(other.received) != before + 1
                if broadcasts:
                    self.speak(site, source)
            self.run(0.05)
        return lost

    def move(self, station: bytes, old: Site, new: Site) -> None:
        """A station is elsewhere, and says so to all."""
        old.kernel.local.discard(station)
        self.speak(new, station)

    def told_by(self, site: Site, station: bytes) -> Machine | None:
        binding = role_of(site).cache.lookup(station)
        return None if binding is None or not binding.source else self.machines[binding.source]

    def asked(self, *, since: float = 0.0) -> list[tuple[float, bytes, ResolutionRequest]]:
        """Resolution Requests that were sent: when, to whom."""
        return [
            (sent.time, sent.destination, packet)
            for sent in self.network.transmissions
            if sent.time >= since
            and isinstance(packet := decode_payload(sent.payload())[1], ResolutionRequest)
        ]

    def outcomes(self, site: Site) -> Counter[str]:
        return Counter(
            {
                labels[0][1]: int(value)
                for name, labels, _, value in site.machine.metrics.snapshot()
                if name == "dmevpn_answers_confirmed_total" and value
            }
        )

    def tell(self, site: Site, by: Machine, macs: list[bytes], vtep: VTEP) -> None:
        """A hub has told a site where MACs are, and frames were sent there just now."""
        cache = role_of(site).cache
        for each in macs:
            until = self.clock.seconds() + 300
            cache.put(Binding(each, vtep, Kind.CACHED, 300, until, source=by.address))
        self.run(0.05)
        for number, each in enumerate(macs):
            site.kernel.used[each] = self.clock.seconds() - number / 1000


@pytest.fixture
def world() -> ThreeSites:
    world = ThreeSites()
    world.talk()
    assert world.told_by(world.one, B) is world.told_by(world.two, A) is world.first
    return world


# --- what a hub has told that is gone for good -------------------------------------------------


@pytest.mark.parametrize("spoken", [False, True], ids=["silent", "heard"])
def test_a_station_moves_after_its_hub_has_gone_for_good(world: ThreeSites, spoken: bool) -> None:
    """Not one frame is lost before, whether the other hub has heard the stations or not, and the
    shortcut follows within seconds; at once, if it had."""
    world.lose_power(world.first)
    world.run(1)
    assert world.go_on(SOON, broadcasts=spoken) == 0
    assert world.path(world.one, B) == world.two.vtep, "no shortcut was given up"
    assert world.told_by(world.one, B) is (world.second if spoken else world.first)
    world.move(B, world.two, world.three)
    world.run(0.2 if spoken else AGAIN + 0.5)
    assert world.path(world.one, B) != world.two.vtep
    before = len(world.three.received)
    world.speak(world.one, A, B)
    world.run(0.2)
    assert len(world.three.received) == before + 1
    assert world.path(world.one, B) == world.three.vtep
    world.move(B, world.three, world.two)
    world.run(0.2)
    assert world.path(world.one, B) != world.three.vtep, "the other hub takes it back from now on"


def test_what_another_hub_of_ours_had_told() -> None:
    """Hubs with a trunk: A's site asks the second hub, which has the first one answer for B. When
    that is gone, the second one is asked again, though it is who was asked before."""
    world = ThreeSites(trunks=True)
    role_of(world.one).set_servers(world.servers[::-1])
    world.run(10)
    assert world.carriers() == [world.second, world.first]
    world.talk()
    assert world.told_by(world.one, B) is world.first
    world.lose_power(world.first)
    world.run(1)
    assert world.go_on(SOON + AGAIN, broadcasts=True) == 0
    assert world.told_by(world.one, B) is world.second
    world.move(B, world.two, world.three)
    world.run(0.2)
    assert world.path(world.one, B) != world.two.vtep


def test_a_move_to_a_site_that_floods_by_another_hub(world: ThreeSites) -> None:
    """Found by tests/test_torture.py: a hub without a trunk hears nothing of who moves to a site
    that does not believe it again so far, and takes its answer back when that site does."""
    world.network.separate(world.three.machine.address, world.first.address)
    world.run(2)
    world.network.heal()
    world.run(2)
    assert world.path_of(world.three) == world.second.address
    assert world.path_of(world.one) == world.first.address
    world.move(B, world.two, world.three)
    world.run(1)
    assert world.path(world.one, B) == world.two.vtep, "what is not promised"
    world.run(7)
    assert world.path_of(world.three) == world.first.address
    world.speak(world.three, B)
    world.run(0.2)
    assert world.path(world.one, B) != world.two.vtep
    world.speak(world.one, A, B)
    world.run(0.2)
    assert world.path(world.one, B) == world.three.vtep


def test_a_station_has_moved_before_anybody_was_asked(world: ThreeSites) -> None:
    """It moves while its hub dies: the first answer of the other one leads to the new place."""
    world.lose_power(world.first)
    world.run(1)
    world.move(B, world.two, world.three)
    world.speak(world.one, A, B)
    world.run(2 * SETTLE + 0.5)
    assert world.path(world.one, B) == world.three.vtep
    assert world.outcomes(world.one) == {"moved": 1}


def test_what_nobody_knows_and_nobody_uses(world: ThreeSites) -> None:
    """Such a shortcut goes after a while; the next frame takes the way by the hub, and asks."""
    world.lose_power(world.first)
    world.run(1 + SOON)
    assert world.path(world.one, B) == world.two.vtep
    world.run(UNUSED + AGAIN)
    assert B not in world.one.kernel.rows
    assert world.outcomes(world.one)["unused"] == 1
    asked = len(world.asked())
    world.run(60)
    assert len(world.asked()) == asked, "nobody is asked for what nobody uses"
    before = len(world.two.received)
    world.speak(world.one, A, B)
    assert len(world.two.received) == before + 1


def test_what_nobody_knows_is_not_kept_for_longer(world: ThreeSites) -> None:
    """A shortcut in use is renewed when it was due, and then an answer counts as ever."""
    world.lose_power(world.first)
    assert world.go_on(150) == 0
    assert world.path(world.one, B) == world.two.vtep
    assert world.told_by(world.one, B) is world.first
    assert world.go_on(60) == 0
    assert world.told_by(world.one, B) is not world.first


# --- what the hub may say ---------------------------------------------------------------------


class Asking(Client):
    """A client that was told where a host is by a hub that it asks no more."""

    def __init__(self, *, succeeds: bool = False) -> None:
        super().__init__(limit=1000, cache_limit=1000)
        self.kernel = MemorySite(self.clock)
        self.dataplane = MemorySpokeDataplane(
            self.clock, self.metrics, self.kernel, local_vtep=VTEP_A
        )
        self.dataplane.start(SpokeListener())
        self.pace = Pace(self.clock)
        self.confirmation = Confirmation(
            vpn=1,
            clock=self.clock,
            jitter=no_jitter,
            cache=self.cache,
            resolution=self.client,
            dataplane=self.dataplane,
            pace=self.pace,
            metrics=self.metrics,
            succeeds=succeeds,
        )
        self.confirmation.ask_at(GONE)
        self.tell(HOST)

    def tell(self, host: bytes) -> None:
        """The hub of before has told where a host is, and a frame is sent there."""
        expires = self.clock.seconds() + 300
        self.cache.put(binding(host, VTEP_B, expires=expires, source=GONE))
        self.dataplane.install(host, VTEP_B)
        self.use(host)

    def use(self, host: bytes = HOST) -> None:
        """A frame is sent to a host."""
        self.clock.advance(0)
        self.kernel.send(host)

    def leave(self) -> None:
        """Another hub is asked, and asked for the host."""
        self.confirmation.ask_at(HUB)
        self.wait(2 * SETTLE)
        assert self.request().destination_protocol == HOST

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 10) + 2):
            self.clock.advance(0.1)

    def close(self) -> None:
        self.confirmation.close()
        self.dataplane.kill()
        super().close()


@pytest.mark.parametrize(
    ("cie", "kind", "source", "outcome"),
    [
        (answer(), Kind.CACHED, HUB, "same"),
        (answer(vtep=ELSEWHERE), Kind.CACHED, HUB, "moved"),
        (CIE(CIECode.NO_BINDING), Kind.CACHED, GONE, "unknown"),
        (CIE(CIECode.PROHIBITED), Kind.NEGATIVE, b"", "refused"),
        (CIE(CIECode.NO_RESOURCES), Kind.NEGATIVE, b"", "refused"),
        (answer(vtep=VTEP_A), Kind.NEGATIVE, b"", "moved"),
    ],
)
def test_what_the_hub_may_say(cie: CIE, kind: Kind, source: bytes, outcome: str) -> None:
    """It is believed, unless it only does not know."""
    world = Asking()
    world.leave()
    assert world.answer(cie)
    found = world.cache.lookup(HOST)
    assert found is not None
    assert (found.kind, found.source) == (kind, source)
    assert found.vtep == (
        None if kind is Kind.NEGATIVE else ELSEWHERE if outcome == "moved" else VTEP_B
    )
    assert world.metrics.value("answers_confirmed", outcome=outcome) == 1
    world.close()


@pytest.mark.parametrize("succeeds", [False, True], ids=["asked", "before"])
@pytest.mark.parametrize(
    ("vtep", "outcome"), [(VTEP_B, "same"), (ELSEWHERE, "not_believed"), (VTEP_A, "not_believed")]
)
def test_a_hub_that_may_know_what_was_true_once(vtep: VTEP, outcome: str, succeeds: bool) -> None:
    """It was asked minutes ago, by us or by an earlier run, and has heard nothing since. Where it
    agrees, it answers for the shortcut from now on; where not, that stays as it was told, and
    nobody asks again."""
    world = Asking(succeeds=succeeds)
    if not succeeds:
        world.confirmation.ask_at(HUB)
        world.confirmation.ask_at(GONE)
    world.wait(100)
    world.use()
    world.leave()
    assert world.answer(answer(vtep=vtep))
    found = world.cache.lookup(HOST)
    assert found is not None
    assert (found.vtep, found.source) == (VTEP_B, HUB if outcome == "same" else GONE)
    assert world.metrics.value("answers_confirmed", outcome=outcome) == 1
    world.link.take()
    world.wait(10 * AGAIN)
    assert not world.link.take()
    world.close()


def test_a_hub_that_was_asked_all_the_time() -> None:
    """What it knew once, when it was asked before, is long forgotten when another hub, which had
    answered for it, falls silent."""
    world = Asking(succeeds=True)
    world.confirmation.ask_at(HUB)
    world.clock.advance(600)
    world.tell(HOST)
    world.confirmation.ask_at(HUB, {GONE})
    world.wait(2 * SETTLE)
    assert world.answer(answer(vtep=ELSEWHERE))
    assert world.metrics.value("answers_confirmed", outcome="moved") == 1
    world.link.take()
    world.tell(HOST)
    world.confirmation.ask_at(HUB, {GONE})
    world.wait(10)
    assert not world.link.take(), "once is enough"
    world.close()


def test_what_was_long_ago_is_forgotten() -> None:
    """Ten minutes later a hub's switch knows nothing of then."""
    world = Asking(succeeds=True)
    world.clock.advance(600)
    world.tell(HOST)
    world.leave()
    assert world.answer(answer(vtep=ELSEWHERE))
    assert world.metrics.value("answers_confirmed", outcome="moved") == 1
    world.close()


def test_errors_and_silence() -> None:
    """A hub that knows no way says nothing about where the host is; nor does one that is silent.
    Both are asked again; another error counts."""
    world = Asking()
    world.leave()
    world.error(ErrorCode.UNREACHABLE)
    assert world.kind() is Kind.CACHED
    world.link.take()
    world.wait(AGAIN)
    assert len(world.link.take()) == 1
    world.use()
    world.wait(20)
    world.use()
    assert world.kind() is Kind.CACHED
    world.link.take()
    world.wait(AGAIN)
    world.error(ErrorCode.VPN_UNSUPPORTED)
    assert world.kind() is Kind.NEGATIVE
    world.close()


def test_a_renewal_was_under_way() -> None:
    """The hub that is gone cannot answer it, and the other one is asked in its place."""
    world = Asking()
    world.server = Path(GONE, SITE_A)
    world.client.renew(HOST)
    world.server = TO_HUB
    world.leave()
    assert world.answer(answer())
    found = world.cache.lookup(HOST)
    assert found is not None and found.source == HUB
    world.close()


def test_the_kernel_does_not_tell_what_is_used() -> None:
    """Then nothing goes that the hub only does not know."""
    world = Asking()
    world.wait(UNUSED)
    world.kernel.used.clear()
    world.leave()
    assert world.answer(CIE(CIECode.NO_BINDING))
    assert world.kind() is Kind.CACHED
    assert world.metrics.value("answers_confirmed", outcome="unknown") == 1
    world.close()


def test_a_purge_meanwhile() -> None:
    """What is taken back while it is asked for is asked for no more."""
    world = Asking()
    world.leave()
    world.client.purge_received(purge(CIE(prefix_length=0xFF, protocol=HOST)), TO_HUB)
    assert not world.answer(answer())
    assert world.kind() is None
    world.link.take()
    world.wait(2 * AGAIN)
    assert not world.link.take()
    world.close()


def test_nobody_is_asked_while_there_is_nobody() -> None:
    """The next hub is silent, too, for a while; then it is asked, and the one of before is, too."""
    world = Asking()
    for hubs in ((None,), (HUB, None), (None, GONE), (HUB, GONE)):
        for hub in hubs:
            world.confirmation.ask_at(hub)
        world.wait(10)
        assert not world.link.take()
    world.use()
    world.leave()
    world.confirmation.ask_at(None)
    world.link.take()
    world.requests.close()
    world.wait(30)
    assert not world.link.take()
    world.close()


# --- how much of it ---------------------------------------------------------------------------


def test_many_shortcuts(world: ThreeSites) -> None:
    """Ten thousand are asked for in turn, fifty a second in all, those first that are used most;
    no more timers are needed than for one."""
    macs = [bytes([2, 2, 2, 0, *number.to_bytes(2, "big")]) for number in range(10_000)]
    for each in macs[:2000]:
        world.speak(world.three, each)
    world.tell(world.one, world.first, macs, world.three.vtep)
    world.lose_power(world.first)
    world.run(1)
    for each in macs[:2000]:
        world.speak(world.three, each)
    timers = len(world.clock.getDelayedCalls())
    begin = world.clock.seconds()
    world.network.transmissions.clear()
    world.run(20)
    mine = [
        (when, packet.destination_protocol)
        for when, to, packet in world.asked()
        if packet.source_nbma == world.one.machine.address and to == world.second.address
    ]
    busy = mine[-1][0] - mine[0][0]
    assert RATE * busy * 0.9 <= len(mine) <= RATE * busy + UNDER_WAY
    assert max(Counter(when for when, _ in mine).values()) <= UNDER_WAY
    assert {each for _, each in mine[2:]} <= {B, *macs[: len(mine)]}
    assert mine[0][0] - begin <= 2 * SETTLE + 0.5
    assert len(world.clock.getDelayedCalls()) <= timers + 2 * UNDER_WAY
    assert all(world.path(world.one, each) == world.three.vtep for each in macs)
    assert world.told_by(world.one, macs[0]) is world.second


def test_a_hub_that_is_slow_is_asked_less() -> None:
    """Questions under way are few, so that misses find room."""
    world = Asking()
    for number in range(200):
        world.tell(bytes([2, 0, 0, 0, 1, number]))
    world.confirmation.ask_at(HUB)
    world.wait(10)
    assert world.client.asking == UNDER_WAY
    assert len({each.destination_protocol for each in world.link.take()}) == UNDER_WAY
    world.close()


def test_vpns_take_turns() -> None:
    """All VPNs of a control interface share its pace, and one that has much does not keep another
    one waiting."""
    clock = Clock()
    pace = Pace(clock)
    done: list[str] = []

    def step(name: str, times: int) -> Callable[[], bool]:
        def take() -> bool:
            done.append(name)
            return done.count(name) < times

        return take

    many, few = step("many", 1000), step("few", 5)
    pace.add(many)
    pace.add(few)
    for _ in range(10):
        clock.advance(0.1)
    assert len(done) == RATE
    assert done[:10] == ["many", "few"] * 5
    pace.remove(many)
    pace.remove(few)
    assert not clock.getDelayedCalls()


def test_a_fault_of_one_vpn() -> None:
    """It ends its work, not that of others."""
    clock = Clock()
    pace = Pace(clock)
    done: list[int] = []

    def fails() -> bool:
        raise RuntimeError

    def works() -> bool:
        done.append(1)
        return len(done) < 3

    pace.add(fails)
    pace.add(works)
    with pytest.raises(RuntimeError):
        clock.advance(0.1)
    clock.advance(0.1)
    assert len(done) == 3
    assert not clock.getDelayedCalls()


def test_a_hub_that_comes_and_goes(world: ThreeSites) -> None:
    """It costs no more than the pace allows, no request ID is used twice, and nothing is lost."""
    macs = [bytes([2, 2, 2, 0, 0, number]) for number in range(100)]
    world.tell(world.one, world.first, macs, world.three.vtep)
    world.network.transmissions.clear()
    begin = world.clock.seconds()
    for _ in range(10):
        world.network.isolate(world.first.address)
        assert world.go_on(1.5) == 0
        world.network.heal()
        assert world.go_on(1.5) == 0
    asked = world.asked()
    for site in (world.one, world.two):
        mine = [each for each in asked if each[2].source_nbma == site.machine.address]
        assert len(mine) <= RATE * (world.clock.seconds() - begin)
        ids: dict[int, bytes] = {}
        for _, _, packet in mine:
            assert ids.setdefault(packet.request_id, packet.destination_protocol) == (
                packet.destination_protocol
            )
    assert world.path(world.one, B) == world.two.vtep
    world.run(100)
    assert not world.asked(since=world.clock.seconds() - 10)


# --- what else may happen ---------------------------------------------------------------------


def test_where_there_is_no_other_hub() -> None:
    """Nothing is asked, and the shortcut stays."""
    world = ThreeSites(hubs=HUBS[:1])
    world.talk()
    world.network.transmissions.clear()
    world.lose_power(world.first)
    assert world.go_on(60) == 0
    assert not world.asked()


def test_the_hub_is_back_and_takes_back_what_it_told(world: ThreeSites) -> None:
    """Its memory was on its disk: a station that moves then is followed at once, whoever was
    asked meanwhile."""
    world.kill(world.first)
    assert world.go_on(SOON) == 0
    world.add_hub(HUBS[0])
    assert world.go_on(20) == 0
    assert world.told_by(world.one, B) is world.first
    world.move(B, world.two, world.three)
    world.run(0.3)
    assert world.path(world.one, B) != world.two.vtep


def test_told_by_both(world: ThreeSites) -> None:
    """What the other hub has told anyway is not asked for."""
    world.tell(world.one, world.second, [C], world.three.vtep)
    world.speak(world.three, C)
    world.lose_power(world.first)
    world.run(1)
    world.network.transmissions.clear()
    world.run(20)
    assert C not in {packet.destination_protocol for _, _, packet in world.asked()}
    assert B in {packet.destination_protocol for _, _, packet in world.asked()}


def test_a_hub_is_drained(world: ThreeSites) -> None:
    """It takes back what it has told as its sites leave; what is left is asked for, and nothing is
    lost."""
    (hub,) = node_of(world.first).hubs.values()
    hub.drain.begin()
    assert world.go_on(15) == 0
    assert world.told_by(world.one, B) is world.told_by(world.two, A) is world.second


def test_a_daemon_is_started_again_in_between(world: ThreeSites) -> None:
    """Its successor asks for all shortcuts anyway, at the hub that is there."""
    world.lose_power(world.first)
    world.run(1.5)
    world.kill(world.one.machine)
    world.start_site(world.one)
    assert world.go_on(12, broadcasts=True) == 0
    assert world.told_by(world.one, B) is world.second
    assert not world.outcomes(world.one)


@pytest.mark.parametrize("moment", [1.0, 1.0 + SETTLE, SOON, SOON + AGAIN])
def test_a_site_stops_meanwhile(world: ThreeSites, moment: float) -> None:
    """At any moment no timer is left."""
    world.lose_power(world.first)
    world.run(moment)
    node_of(world.one.machine).stopService()
    world.run(3)
    assert world.one.machine.clock.getDelayedCalls() == []
