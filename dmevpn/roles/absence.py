"""Sites that a hub has lost, and that another hub of the VPN has. Layer: role.

A site that hears nothing of one of its hubs says so to the others, which it has told that it was
registered there (:mod:`dmevpn.nhrp.multihoming`). That hub may not know it: it has the site's
registration and goes on sending to it what others flood, and what they have for its stations.
So the others tell that hub, by a Purge Request that names the site's station (RFC 2332 §5.2.5). It
does not believe them, but asks the site for a sign of life, as sites ask hubs by keepalives, and
forgets one that gives none. As after every site that leaves, it tells all the others, in the same
way, which stations it had learnt there, and they forget what they have learnt of them behind it. So
frames for them are flooded, to the hubs that have the site, too, until its stations speak.

Only an answer is a sign of life: what else a site sends, registrations and frames, arrives here
from one, too, that hears nothing of us. One that registers anew meanwhile is asked once more, and
so is one that registers after it was left: it may not have heard that it is registered. One that
was left is asked on for a while: if it answers, it was left by mistake, since packets are lost,
and does not know it. So it is called back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dmevpn.addresses import VTEP, Path, format_address
from dmevpn.interfaces import ICacheListener, IHubDataplane, LearnedMAC
from dmevpn.log import Logger
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.nhrp.records import CIE
from dmevpn.nhrp.server import NextHopServer
from dmevpn.roles.trunks import Trunks

__all__ = ["LATER", "SIGNS", "Absences", "macs_at"]

#: Seconds for which sites are gathered that another hub is to be told of: all sites of a hub that
#: is silent say so at the same time.
_GATHERED: Final = 0.1
#: The same for MACs that are forgotten here, maybe many: frames for them are lost meanwhile.
_SOON: Final = 0.01
#: Gaps between the transmissions of what asks a site for a sign of life, and the last wait. So many
#: that each third packet may be lost, either way, and one site in two hundred is left by mistake.
SIGNS: Final = (0.1,) * 8
#: The same for a site that was left. They last longer than the longest gap between two requests
#: of a site that is registered no more (64 s), so that it is known when it is back.
LATER: Final = (0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2)


@implementer(ICacheListener)
class Absences:
    """What one VPN's hub says and hears of sites that a hub has lost.

    :param trunks: to the other hubs.
    """

    log = Logger()

    def __init__(
        self,
        *,
        vpn: int,
        clock: IReactorTime,
        cache: Cache,
        server: NextHopServer,
        trunks: Callable[[], Trunks],
        dataplane: IHubDataplane,
    ) -> None:
        self._vpn = vpn
        self._clock = clock
        self._cache = cache
        self._server = server
        self._trunks = trunks
        self._dataplane = dataplane
        #: Stations that other hubs are to be told of, by the addresses of hub and site.
        self._gone: dict[tuple[bytes, bytes], set[bytes]] = {}
        self._call: Any = None
        #: Stations that are asked for a sign of life.
        self._asked: set[bytes] = set()
        #: Those that were left and are asked on, with the request.
        self._left: dict[bytes, int] = {}
        cache.subscribe(self)

    def close(self) -> None:
        """Say nothing more."""
        self._cache.unsubscribe(self)
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._gone.clear()

    # --- the cache's word (ICacheListener) ----------------------------------------------------

    def binding_added(self, binding: Binding) -> None:
        """A station has registered. If it was left, it may not hear us still."""
        request_id = self._left.pop(binding.protocol, None)
        if request_id is not None:
            self._server.forget(request_id)
            self._ask(binding)

    def binding_changed(self, old: Binding, new: Binding) -> None:
        """A site has renewed its registration here: if it no longer has another hub that it had
        before, that one is told."""
        if new.vtep is None or old.vtep != new.vtep or old.apart == new.apart:
            return
        if new.vtep in self._trunks().vteps:
            # A hub, which says that it has other trunks now.
            return
        before, now = self._others(old), self._others(new)
        for hub in now - before:
            self._gone.get((hub, new.vtep.nbma), set()).discard(new.protocol)
        self._say(before - now, new.vtep.nbma, [new.protocol])

    def binding_removed(self, binding: Binding, reason: str) -> None:
        """Its hubs are its own business."""

    def _others(self, binding: Binding) -> frozenset[bytes]:
        """The other hubs that a site has, as far as it has said so."""
        hubs = self._trunks().addresses
        return hubs if binding.apart is None else hubs & binding.apart

    # --- telling another hub ------------------------------------------------------------------

    def forgotten(self, vtep: VTEP, macs: Sequence[bytes]) -> None:
        """MACs that were at a site are not known any more. The others must not know them behind us
        either: they would send to us alone what is for them, and what comes from a hub is not
        flooded to sites that are members there, too."""
        if macs and vtep not in self._trunks().vteps:
            self._say(self._trunks().addresses, vtep.nbma, macs, _SOON)

    def leaves(self, vtep: VTEP) -> None:
        """A member is about to be taken out of the switch, with what was learnt there."""
        if self._trunks().addresses:
            self.forgotten(vtep, macs_at(self._dataplane, self._vpn, vtep))

    def _say(
        self,
        hubs: Iterable[bytes],
        site: bytes,
        stations: Iterable[bytes],
        delay: float = _GATHERED,
    ) -> None:
        for hub in hubs:
            self._gone.setdefault((hub, site), set()).update(stations)
            if self._call is None:
                self._call = self._clock.callLater(delay, self._tell)

    def _tell(self) -> None:
        self._call = None
        gone, self._gone = self._gone, {}
        registered = {vtep.nbma: self._cache.registration_of(vtep) for vtep in self._trunks().vteps}
        for (address, site), stations in gone.items():
            hub = registered.get(address)
            # All addresses in a packet are of one family.
            if hub is not None and hub.path is not None and len(hub.path.peer) == len(site):
                self._server.tell(sorted(stations), site, hub.protocol, hub.path)

    # --- being told ---------------------------------------------------------------------------

    def told(self, hub: bytes, cies: Iterable[CIE]) -> None:
        """Another hub says that stations are not at a site any more, as far as we or it are
        concerned."""
        trunks = self._trunks().vteps
        for cie in cies:
            station = cie.protocol
            binding = self._cache.lookup(station)
            if binding is None or binding.kind is not Kind.DYNAMIC:
                seen: VTEP | None = self._dataplane.lookup(self._vpn, station)
                if seen is not None and seen in trunks and seen.nbma == hub:
                    self._dataplane.forget(self._vpn, station)
            elif (
                binding.path is not None
                and binding.vtep is not None
                and binding.vtep.nbma == cie.nbma
                and binding.vtep not in trunks
                and station not in self._asked
            ):
                self._ask(binding)

    def _ask(self, binding: Binding) -> None:
        station = binding.protocol
        if binding.path is None:
            return
        answered, silent = partial(self._asked.discard, station), partial(self._silent, binding)
        if self._server.probe(station, binding.path, SIGNS, answered, silent) is not None:
            self._asked.add(station)

    def _silent(self, binding: Binding) -> None:
        self._asked.discard(binding.protocol)
        found = self._cache.lookup(binding.protocol)
        if found is None or found.vtep is None or found.vtep != binding.vtep:
            return
        if found is binding:
            self._lose(binding, found.vtep)
        else:
            # It has registered anew, perhaps without knowing whether we have heard it.
            self._ask(found)

    def _lose(self, binding: Binding, vtep: VTEP) -> None:
        self.log.warn(
            "vpn {vpn}: {mac} at {vtep} does not answer, and another hub has it: it is left",
            vpn=self._vpn,
            mac=format_address(binding.protocol),
            vtep=str(vtep),
        )
        self._cache.drop(binding, "silent")
        if binding.path is not None:
            self._ask_on(binding.protocol, binding.path)

    def _ask_on(self, station: bytes, path: Path) -> None:
        def answered() -> None:
            del self._left[station]
            if self._cache.lookup(station) is None:
                self._server.disown(station, path)

        def silent() -> None:
            del self._left[station]

        request_id = self._server.probe(station, path, LATER, answered, silent)
        if request_id is not None:
            self._left[station] = request_id


def macs_at(dataplane: IHubDataplane, vpn: int, vtep: VTEP) -> list[bytes]:
    """What a hub's switch has learnt at a VTEP."""
    entries: Iterator[LearnedMAC] = dataplane.entries(vpn)
    return [entry.mac for entry in entries if entry.vtep == vtep]
