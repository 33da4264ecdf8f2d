"""The other hubs of one VPN: we are registered with each of them, and each with us. Layer: role.

A trunk is two registrations, one either way, of VTEPs with the same VNI. Ours is a spoke's, by a
station MAC of its own; the other hub's makes it a member of our switch, as a hub. What came from a
hub goes to no hub: all hubs of a VPN have trunks to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dmevpn.addresses import VNI_MAX, VPNID, VTEP, Path, format_address
from dmevpn.config.model import SpeakerPlan, TrunkPlan
from dmevpn.interfaces import IHubDataplane, ILink, IStation
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.complaints import Complaints
from dmevpn.nhrp.constants import PacketType, PurgeFlag
from dmevpn.nhrp.keepalive import Keepalives
from dmevpn.nhrp.packet import Packet, PurgeRequest
from dmevpn.nhrp.records import CIE
from dmevpn.nhrp.registration import RegistrationClient, State
from dmevpn.nhrp.requests import Outstanding
from dmevpn.roles.spoke import derive_station

__all__ = ["TrunkTable", "Trunks"]

#: Seconds that hubs ask each other to keep them registered. A third of it is how long a hub that
#: has lost its power may go unnoticed, with the MACs behind it.
HOLDING_TIME = 60
#: Seconds for which we believe that a hub has us. Those that renew at the same time need it not.
_CERTAIN = 1.0
#: Seconds until we look again for a way to a hub, if there is none.
_NO_WAY = 10.0


class TrunkTable:
    """What the file says about the other hubs of an interface."""

    def __init__(self, plans: Iterable[TrunkPlan]) -> None:
        self._plans: dict[bytes, list[TrunkPlan]] = {}
        for plan in plans:
            self._plans.setdefault(plan.address, []).append(plan)

    def __bool__(self) -> bool:
        return bool(self._plans)

    def vni(self, vpn: int, address: bytes) -> int | None:
        """The VNI between us and a hub in a VPN; None: whoever is there is no hub of it."""
        for plan in self._plans.get(address, ()):
            first, last = plan.vpns or (vpn, vpn)
            if first <= vpn <= last:
                vni = vpn if plan.vni is None else plan.vni + vpn - first
                return vni if vni <= VNI_MAX else None
        return None

    def of(self, vpn: int) -> dict[bytes, int]:
        """The hubs of a VPN, and the VNI of each."""
        found = {address: self.vni(vpn, address) for address in self._plans}
        return {address: vni for address, vni in found.items() if vni is not None}


@implementer(IStation)
class Trunks:
    """Our registrations with the other hubs of one VPN.

    :ivar vteps: of the other hubs; frames from there are a hub's.
    :param station: of the VPN's next hop server.
    :param keepalives: of the control interface: they tell when a hub falls silent.
    :param machine_id: what tells this machine from others.
    :param on_change: called with a hub's address after our registration with it has changed.
    :param on_purge: called with a hub's address and what it takes back.
    """

    log = Logger()

    packet_types = frozenset({PacketType.REGISTRATION_REPLY, PacketType.PURGE_REQUEST})

    def __init__(
        self,
        *,
        vpn_id: VPNID,
        station: bytes,
        machine_id: bytes,
        speaker_plan: SpeakerPlan,
        keepalives: Keepalives,
        dataplane: IHubDataplane,
        link: ILink,
        outstanding: Outstanding,
        clock: IReactorTime,
        jitter: Callable[[], float],
        metrics: Metrics,
        on_change: Callable[[RegistrationClient, State, State], None],
        on_purge: Callable[[bytes, tuple[CIE, ...]], None],
    ) -> None:
        self.station = station
        self.vteps: frozenset[VTEP] = frozenset()
        self.addresses: frozenset[bytes] = frozenset()
        self._vpn_id = vpn_id
        self._machine_id = machine_id
        self._speaker_plan = speaker_plan
        self._keepalives = keepalives
        self._dataplane = dataplane
        self._link = link
        self._outstanding = outstanding
        self._clock = clock
        self._jitter = jitter
        self._metrics = metrics
        self._on_change = on_change
        self._on_purge = on_purge
        self._vnis: dict[bytes, int] = {}
        self._clients: dict[bytes, RegistrationClient] = {}
        self._stations: dict[bytes, bytes] = {}
        #: When we asked a hub again since we had heard it.
        self._prompted: dict[bytes, float] = {}
        self._retry: Any = None
        self._complaints = Complaints(clock, metrics)

    @property
    def registrations(self) -> list[RegistrationClient]:
        """Ours with the other hubs."""
        return list(self._clients.values())

    def set(self, vnis: dict[bytes, int]) -> None:
        """Have trunks to these hubs, in these VNIs, and to no others."""
        for hub in [hub for hub, vni in self._vnis.items() if vnis.get(hub) != vni]:
            self._end(hub)
        self._vnis = dict(vnis)
        self.vteps = frozenset([VTEP(hub, vni) for hub, vni in vnis.items()])
        self.addresses = frozenset(vnis)
        for hub, client in self._clients.items():
            client.set_others(self._others(hub), leave=False)
        self._begin()

    def _others(self, hub: bytes) -> tuple[bytes, ...]:
        """What we tell a hub of: the others, each of which it should have a trunk to, too."""
        return tuple(sorted(each for each in self._vnis if each != hub and len(each) == len(hub)))

    def close(self) -> None:
        """Take our registrations back."""
        self._rest()
        for hub in list(self._clients):
            self._end(hub)

    def hand_over(self) -> None:
        """Be silent, and leave our registrations to a successor."""
        self._rest()
        for client in self._clients.values():
            self._keepalives.remove(client)
            client.hand_over()
        self._clients.clear()
        self._stations.clear()

    def _rest(self) -> None:
        self._look_no_more()
        self._vnis = {}

    def _look_no_more(self) -> None:
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._retry = None

    def heard(self, hub: bytes) -> None:
        """A hub has registered with us: it is there, so we do the same. It may have forgotten us
        since it was there before."""
        client = self._clients.get(hub)
        if client is None:
            return
        if client.state is State.REGISTERED:
            client.verify(_CERTAIN)
            return
        # Not more often, or two hubs that begin would only cancel each other's requests.
        now = self._clock.seconds()
        if now - self._prompted.get(hub, float("-inf")) >= _CERTAIN:
            self._prompted[hub] = now
            client.renew()

    def _begin(self) -> None:
        """Register with the hubs that we are not registered with."""
        self._look_no_more()
        for hub, vni in self._vnis.items():
            if hub not in self._clients:
                local = self._local(hub)
                if local == hub:
                    self._complain(hub, "it is this machine itself")
                elif local:
                    self._register(hub, VTEP(local, vni))
                else:
                    self._complain(hub, "there is no way to it")
        if len(self._clients) < len(self._vnis):
            self._retry = self._clock.callLater(_NO_WAY, self._begin)

    def _local(self, hub: bytes) -> bytes:
        """Our address that a hub knows us by; empty if there is no way to it."""
        given = self._speaker_plan.nbma_address
        if given and len(given) == len(hub):
            return given
        local: bytes = self._dataplane.local_address(hub)
        return local

    def _register(self, hub: bytes, vtep: VTEP) -> None:
        station = derive_station(self._machine_id, self._vpn_id, vtep)
        client = self._clients[hub] = RegistrationClient(
            clock=self._clock,
            jitter=self._jitter,
            outstanding=self._outstanding,
            link=self._link,
            path=Path(hub, vtep.nbma, self._speaker_plan.gre_key),
            station=station,
            vtep=vtep,
            holding_time=HOLDING_TIME,
            mtu=self._dataplane.mtu,
            metrics=self._metrics,
            on_change=self._changed,
        )
        self._stations[hub] = station
        client.set_others(self._others(hub), leave=False)
        self._keepalives.add(client)
        client.start()

    def _end(self, hub: bytes) -> None:
        client = self._clients.pop(hub, None)
        if client is not None:
            self._keepalives.remove(client)
            client.stop()
            del self._stations[hub]
            self._prompted.pop(hub, None)

    def _changed(self, client: RegistrationClient, old: State, new: State) -> None:
        if self._complaints.due(client.nhs + new.value.encode()):
            self.log.info(
                "vpn {vpn}: registration with hub {nbma}: {state}{reason}",
                vpn=self._vpn_id.index,
                nbma=format_address(client.nhs),
                state=new.name.lower(),
                reason=f" ({client.last_error})" if client.last_error else "",
            )
        self._keepalives.changed(client)
        self._on_change(client, old, new)

    def _complain(self, hub: bytes, why: str) -> None:
        if self._complaints.due(hub):
            self.log.error(
                "vpn {vpn}: no trunk to hub {nbma}: {why}",
                vpn=self._vpn_id.index,
                nbma=format_address(hub),
                why=why,
            )

    # --- wire (IStation) ------------------------------------------------------------------

    def packet_received(self, packet: Packet, path: Path) -> bool:
        """Replies go to whoever asked; what a hub takes back, its sites must hear of here, too."""
        if not isinstance(packet, PurgeRequest):
            return self._outstanding.reply_received(packet, path)
        if self._stations.get(path.peer) != packet.destination_protocol:
            return False
        client = self._clients[path.peer]
        client.purge_received(packet, path)
        if not packet.flags & PurgeFlag.N:
            self._link.send(packet.reply(), path)
        self._on_purge(path.peer, packet.cies)
        return True

    def transport_resumed(self) -> None:
        """Hubs may have forgotten us, and our address may be another one."""
        for hub, client in list(self._clients.items()):
            if client.path.local != self._local(hub):
                self._end(hub)
            else:
                client.renew()
        self._begin()
