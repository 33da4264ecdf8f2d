"""The hubs of one VPN at a site: our registrations with them, and who carries the flooding.

Layer: role.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import VTEP, Path, format_address
from dmevpn.config.model import NHSPlan, SpeakerPlan, SpokePlan
from dmevpn.config.peers import UNAWARE, takes_nat_extension
from dmevpn.interfaces import ILink, ISpokeDataplane
from dmevpn.journal import Journal
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.constants import PurgeFlag
from dmevpn.nhrp.keepalive import Keepalives, Status
from dmevpn.nhrp.packet import PurgeRequest
from dmevpn.nhrp.peers import Peer, Peers, peer_of
from dmevpn.nhrp.registration import RegistrationClient, State
from dmevpn.nhrp.requests import Outstanding
from dmevpn.roles.carrier import Carrier, Standing
from dmevpn.roles.multihoming import introduce, is_expected
from dmevpn.roles.recollection import Registered
from dmevpn.roles.rows import REGISTRATION_EVENTS

__all__ = ["SpokeHubs"]


class SpokeHubs:
    """Registers one station with hubs, and has one of them carry what it floods.

    :ivar registrations: with the hubs, by preference.
    :param plan: every server in it has an address.
    :param keepalives: of the control interface: they tell when a hub falls silent.
    :param recalled: how an earlier run stood with its hubs.
    :param on_registered: called when a hub has us that had us not, or seemed to be down.
    :param on_asked: called with the underlay address of the hub that is asked for stations, maybe
        the same as before; None: there is none that has us and answers.
    """

    log = Logger()

    def __init__(
        self,
        *,
        plan: SpokePlan,
        speaker_plan: SpeakerPlan,
        peers: Peers,
        keepalives: Keepalives,
        dataplane: ISpokeDataplane,
        station: bytes,
        link: ILink,
        outstanding: Outstanding,
        clock: IReactorTime,
        jitter: Callable[[], float],
        metrics: Metrics,
        journal: Journal,
        recalled: Iterable[Registered],
        on_registered: Callable[[], None],
        on_asked: Callable[[bytes | None], None],
    ) -> None:
        self.registrations: list[RegistrationClient] = []
        self._plan = plan
        self._speaker_plan = speaker_plan
        self._peers = peers
        self._keepalives = keepalives
        self._dataplane = dataplane
        self._station = station
        self._link = link
        self._outstanding = outstanding
        self._clock = clock
        self._jitter = jitter
        self._metrics = metrics
        self._journal = journal
        self._recalled = {each.nhs: each for each in recalled}
        self._on_registered = on_registered
        self._on_asked = on_asked
        #: Those that are being asked for the first time.
        self._starting: set[RegistrationClient] = set()
        self._carrier = Carrier(clock, self._carrier_changed, self._answers)

    # --- life ---------------------------------------------------------------------------

    def start(self) -> None:
        """Register, and flood: to the hub that an earlier run has left, as long as that will do."""
        flooding = [each.vtep for each in self._dataplane.entries() if each.state == "flood"]
        self._carrier.current = next((each.nbma for each in flooding if each is not None), None)
        self.set_servers(self._plan.servers)
        self._end_recalled()
        self._flood()

    def stop(self) -> None:
        """Purge our registrations."""
        for client in self.registrations:
            self._keepalives.remove(client)
            client.stop()
        self._close()

    def hand_over(self) -> None:
        """Leave our registrations to a successor."""
        for client in self.registrations:
            self._keepalives.remove(client)
            client.hand_over()
        self._close()

    def _close(self) -> None:
        self._carrier.close()
        self._peers.claim(self, {})

    # --- which hubs ---------------------------------------------------------------------

    def set_servers(self, servers: tuple[NHSPlan, ...]) -> None:
        """Register with these hubs, in this order of preference, and with no others.

        A registration with a hub that is still among them goes on.

        :param servers: each has an address.
        """
        self._plan = replace(self._plan, servers=servers)
        wanted = {each.address: each for each in servers if each.register and each.address}
        known = {client.nhs: client for client in self.registrations}
        added = {
            nbma: self._client(nbma, each) for nbma, each in wanted.items() if nbma not in known
        }
        self.registrations = [{**known, **added}[nbma] for nbma in wanted]
        self._choose_carrier()
        for nbma, client in known.items():
            if nbma not in wanted:
                self._keepalives.remove(client)
                client.stop()
            else:
                server = wanted[nbma]
                client.set_terms(
                    unique=server.unique,
                    keeps_id=server.peer == "cisco",
                    nat_extension=takes_nat_extension(self._speaker_plan, server.peer),
                )
        self._peers.claim(self, self._others(servers))
        # The first registration says it, or each hub would seem to be lost while the others hear.
        self._starting = set(added.values())
        introduce(self._multihomed(), self._starting)
        for client in added.values():
            self._recall(client)
            self._keepalives.add(client)
            client.start()
        self._starting.clear()
        introduce(self._multihomed())

    def _multihomed(self) -> list[RegistrationClient]:
        """Our registrations with hubs that may hear of each other: those of this daemon."""
        ours = {server.address for server in self._plan.servers if server.peer == "rfc"}
        return [client for client in self.registrations if client.nhs in ours]

    def _others(self, servers: tuple[NHSPlan, ...]) -> dict[bytes, Peer]:
        """Those of the servers that are said to be other daemons."""
        return {
            server.address: peer_of(server.peer, self._plan.vpn if server.peer in UNAWARE else None)
            for server in servers
            if server.address and server.peer != "rfc"
        }

    def remembered(self) -> Iterator[Registered]:
        """How we stand with our hubs, for a successor."""
        vtep: VTEP = self._dataplane.local_vtep
        for client in self.registrations:
            if client.usable and client.expires is not None:
                yield Registered(
                    client.nhs, client.expires, client.seen_as, client.kept_id, self._station, vtep
                )

    def _recall(self, client: RegistrationClient) -> None:
        """Go on where an earlier run has left, if we are who that was."""
        known = self._recalled.pop(client.nhs, None)
        if known is not None and (known.station, known.vtep) == (
            self._station,
            self._dataplane.local_vtep,
        ):
            client.recall(known.until, known.seen_as, known.request_id)

    def _end_recalled(self) -> None:
        """Take registrations back that an earlier run had with hubs that are ours no more."""
        family = len(self._dataplane.local_vtep.nbma)
        for nhs in [nhs for nhs in self._recalled if len(nhs) == family]:
            client = self._client(nhs, NHSPlan(host=format_address(nhs), address=nhs))
            self._recall(client)
            client.start()
            client.stop()

    def set_holding_time(self, seconds: int) -> None:
        """Ask for this holding time from now on."""
        self._speaker_plan = replace(self._speaker_plan, holding_time=seconds)
        for client in self.registrations:
            client.set_holding_time(seconds)

    def _client(self, nbma: bytes, server: NHSPlan) -> RegistrationClient:
        vtep: VTEP = self._dataplane.local_vtep
        return RegistrationClient(
            clock=self._clock,
            jitter=self._jitter,
            outstanding=self._outstanding,
            link=self._link,
            path=Path(nbma, vtep.nbma, self._speaker_plan.gre_key),
            station=self._station,
            vtep=vtep,
            unique=server.unique,
            keeps_id=server.peer == "cisco",
            nat_extension=takes_nat_extension(self._speaker_plan, server.peer),
            holding_time=self._speaker_plan.holding_time,
            mtu=self._dataplane.mtu,
            metrics=self._metrics,
            on_change=self._registration_changed,
        )

    def set_mtu(self, mtu: int) -> None:
        """Tell the hubs of another MTU of the data interface."""
        for client in self.registrations:
            client.set_mtu(mtu)

    def seen_as(self) -> set[bytes]:
        """Our addresses outside of an address translation, as our servers say."""
        return {client.seen_as for client in self.registrations if client.seen_as}

    # --- which of them serves -----------------------------------------------------------

    @property
    def carrier(self) -> bytes | None:
        """Underlay address of the hub that carries our flooding."""
        return self._carrier.current

    @property
    def passed_over(self) -> str:
        """Why the hub that is preferred does not carry our flooding; empty if it does."""
        for client in self.registrations:
            if client.nhs in self._carrier:
                if client.nhs == self._carrier.current:
                    return ""
                left = self._carrier.trusted_in(client.nhs)
                why = client.last_error or f"its registration is {client.state.value}"
                if left is not None:
                    why = f"it was lost, and has to stand for {left:.0f} s more"
                return f"{format_address(client.nhs)} is passed over: {why}"
        return ""

    def _standing(self, client: RegistrationClient) -> Standing:
        if not client.usable:
            return Standing.NONE
        expected = is_expected(client, self._multihomed())
        good = client.state is State.REGISTERED and expected
        return Standing.GOOD if good else Standing.DOUBTFUL

    def _answers(self, nhs: bytes) -> bool:
        """Whether a hub that does not confirm our registration is there all the same."""
        return self._keepalives.status(nhs) is Status.UP and any(
            client.nhs == nhs and client.state is State.DOWN for client in self.registrations
        )

    def _has_other(self, hub: RegistrationClient) -> bool:
        """Whether another hub could carry our flooding at once."""
        return any(
            self._standing(client) is Standing.GOOD and client.nhs in self._carrier
            for client in self.registrations
            if client is not hub
        )

    def _serving(self) -> list[RegistrationClient]:
        """The hubs that know our registration. First the one that carries our flooding: its switch
        has seen the most. The others by preference; those that are silent or refuse us come last.
        """
        usable = [client for client in self.registrations if client.usable]
        return sorted(
            usable,
            key=lambda client: (-self._standing(client), client.nhs != self._carrier.current),
        )

    def way_to_server(self, mac: bytes) -> Path | None:
        """The way to the NHS to ask."""
        serving = self._serving()
        return serving[0].path if serving else None

    def _say_who_is_asked(self) -> None:
        good = [each for each in self._serving()[:1] if self._standing(each) is Standing.GOOD]
        self._on_asked(good[0].nhs if good else None)

    def verify(self) -> None:
        """Make sure of the registration with the hub that serves us."""
        for client in self._serving()[:1]:
            client.verify()

    def _choose_carrier(self) -> None:
        """Flood to one hub only, so that nothing arrives twice.

        While none has us, it is the first of the file; its switch will know us in a moment.
        """
        standings = {
            server.address: Standing.NONE
            for server in self._plan.servers
            if server.flood and server.address
        }
        for client in self.registrations:
            if client.nhs in standings:
                standings[client.nhs] = self._standing(client)
        self._carrier.choose(tuple(standings.items()))
        self._say_who_is_asked()

    def _flood(self) -> None:
        carrier = self._carrier.current
        self._dataplane.set_flood([] if carrier is None else [carrier])

    def _carrier_changed(self, old: bytes | None, new: bytes | None) -> None:
        """Another hub carries our flooding. This is the one place that says so."""
        self._flood()
        self._say_who_is_asked()
        if old is None or new is None:
            return
        before = next((each for each in self.registrations if each.nhs == old), None)
        why = ""
        if before is None:
            why = "no longer configured"
        elif self._standing(before) is not Standing.GOOD:
            why = before.last_error or "lost"
        self._metrics.counter("carrier_changes", vpn=str(self._plan.vpn.index)).inc()
        self._journal.note(
            "hub-lost" if why else "hub-back",
            self._plan.vpn.index,
            nbma=old if why else new,
            interface=self._plan.interface,
            detail=f"flooding goes by {format_address(new)}{why and f': {why}'}",
        )
        self.log.info(
            "vpn {vpn}: flooding goes by {new} instead of {old}{why}",
            vpn=self._plan.vpn.index,
            why=why and f": {why}",
            new=format_address(new),
            old=format_address(old),
        )

    def _registration_changed(self, client: RegistrationClient, old: State, new: State) -> None:
        self.log.info(
            "vpn {vpn}: registration with {nbma}: {state}{reason}",
            vpn=self._plan.vpn.index,
            nbma=format_address(client.nhs),
            state=new.name.lower(),
            reason=f" ({client.last_error})" if client.last_error else "",
        )
        if new is not old:
            self._journal.note(
                REGISTRATION_EVENTS[new],
                self._plan.vpn.index,
                self._station,
                client.nhs,
                interface=self._plan.interface,
                detail=client.last_error or "",
            )
        self._keepalives.changed(client)
        if new is not State.IDLE:  # then we stop, and what is in the kernel is not ours to change
            introduce(self._multihomed(), self._starting)
            self._choose_carrier()
        if new is State.REGISTERED and old is not State.REGISTERED:
            self._on_registered()

    # --- what hubs say ------------------------------------------------------------------

    def purge_received(self, packet: PurgeRequest, path: Path) -> None:
        """A hub may have taken our registration back, or want to be left."""
        for client in self.registrations:
            # One that says farewell wants no reply; one that wants to be left does.
            leave = not packet.flags & PurgeFlag.N and self._has_other(client)
            client.purge_received(packet, path, leave=leave)

    def late_reply(self, path: Path) -> None:
        """A Registration Reply came that nobody waits for any more."""
        for client in self.registrations:
            client.late_reply(path)

    def transport_resumed(self) -> None:
        """Hubs may have forgotten us, or lost what we sent: register anew at once."""
        for client in self.registrations:
            client.renew()
