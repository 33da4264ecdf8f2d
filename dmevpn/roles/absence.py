"""Sites that a hub has lost, and that another hub of the VPN has. Layer: role.

A site that hears nothing of one of its hubs says so to the others, which it has told that it was
registered there (:mod:`dmevpn.nhrp.multihoming`). That hub may not know it: it has the site's
registration and goes on sending to it what others flood, and what they have for its stations.
So the others tell that hub, by a Purge Request that names the site's station (RFC 2332 §5.2.5). It
does not believe them, but asks the site for a sign of life, as sites ask hubs by keepalives, and
forgets one that gives none. Then it tells all the others, in the same way, which stations it had
learnt there, and they forget what they have learnt of them behind it. So frames for them are
flooded, to the hubs that have the site, too, until its stations speak.

What asked for the sign of life, or gave it, may have been lost, while the site has just registered:
it would not know for a third of the holding time that what it floods is dropped. So the site is
told, too, that it is not registered any more, and a few times, as long as it does not come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import VTEP, Path, format_address
from dmevpn.interfaces import IHubDataplane, LearnedMAC
from dmevpn.log import Logger
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.nhrp.records import CIE
from dmevpn.nhrp.server import NextHopServer
from dmevpn.roles.trunks import Trunks

__all__ = ["SIGNS", "Absences", "macs_at"]

#: Seconds for which sites are gathered that another hub is to be told of: all sites of a hub that
#: is silent say so at the same time.
_GATHERED: Final = 0.1
#: Gaps between the transmissions of what asks a site for a sign of life, and the last wait.
SIGNS: Final = (0.2, 0.2, 0.4)
#: Seconds from each time that a lost site is told so to the next, when it registers within two.
_CALLED_AGAIN: Final = (2.5, 5.0)


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
        #: When stations that were lost are told so once more.
        self._calls: dict[bytes, Any] = {}

    def close(self) -> None:
        """Say nothing more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        for call in self._calls.values():
            call.cancel()
        self._calls.clear()
        self._gone.clear()

    # --- telling another hub ----------------------------------------------------------------

    def renewed(self, old: Binding, new: Binding) -> None:
        """A site has renewed its registration here: if it no longer has another hub that it had
        before, that one is told."""
        if new.apart is None or new.vtep is None or old.apart == new.apart:
            return
        if new.vtep in self._trunks().vteps:
            # A hub, which says that it has other trunks now.
            return
        hubs = self._trunks().addresses
        before = hubs if old.apart is None else hubs & old.apart
        self._say(before - new.apart, new.vtep.nbma, [new.protocol])

    def _say(self, hubs: Iterable[bytes], site: bytes, stations: Iterable[bytes]) -> None:
        for hub in hubs:
            self._gone.setdefault((hub, site), set()).update(stations)
            if self._call is None:
                self._call = self._clock.callLater(_GATHERED, self._tell)

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
                self._ask(binding, binding.path)

    def _ask(self, binding: Binding, path: Path) -> None:
        station = binding.protocol

        def silent() -> None:
            self._asked.discard(station)
            # Whatever has come of it since is a sign of life, too.
            if self._cache.lookup(station) is binding and binding.vtep is not None:
                self._lose(binding, binding.vtep)

        if self._server.probe(station, path, SIGNS, lambda: self._asked.discard(station), silent):
            self._asked.add(station)

    def _lose(self, binding: Binding, vtep: VTEP) -> None:
        self.log.warn(
            "vpn {vpn}: {mac} at {vtep} does not answer, and another hub has it: it is left",
            vpn=self._vpn,
            mac=format_address(binding.protocol),
            vtep=str(vtep),
        )
        self._say(self._trunks().addresses, vtep.nbma, macs_at(self._dataplane, self._vpn, vtep))
        self._cache.drop(binding, "silent")
        if binding.path is not None:
            self._call_back(binding.protocol, binding.path, _CALLED_AGAIN)

    def _call_back(self, station: bytes, path: Path, again: tuple[float, ...]) -> None:
        """Tell a station that it is not registered, unless it is, now and after some more times."""
        before = self._calls.pop(station, None)
        if before is not None and before.active():
            before.cancel()
        if self._cache.lookup(station) is not None:
            return
        self._server.call_back(station, path)
        if again:
            self._calls[station] = self._clock.callLater(
                again[0], self._call_back, station, path, again[1:]
            )


def macs_at(dataplane: IHubDataplane, vpn: int, vtep: VTEP) -> list[bytes]:
    """What a hub's switch has learnt at a VTEP."""
    entries: Iterator[LearnedMAC] = dataplane.entries(vpn)
    return [entry.mac for entry in entries if entry.vtep == vtep]
