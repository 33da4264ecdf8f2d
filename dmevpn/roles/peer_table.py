"""IPv4 and IPv6 of a node as OpenNHRP would have them: a table of peers. Layer: role."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from zope.interface import implementer

from dmevpn.interfaces import InterfaceEntry, IPeerTable, PeerEntry
from dmevpn.nhrp.cache import Binding, Kind
from dmevpn.roles.l3 import Layer3Role
from dmevpn.roles.l3_station import Layer3Station
from dmevpn.roles.l3_ways import Server
from dmevpn.roles.node import Node
from dmevpn.roles.rows import left

__all__ = ["PeerTable"]

_Match = Callable[[PeerEntry], bool]

#: What a flush leaves alone: it is configured.
_PERMANENT = frozenset({"static", "dynamic-nhs", "dynamic-map", "local"})


@implementer(IPeerTable)
class PeerTable:
    """The table of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    # --- what there is --------------------------------------------------------------------------

    def entries(self) -> Iterator[PeerEntry]:
        """Configured peers before the cache, address by address of ours."""
        for role, station in self._stations():
            for entry, _ in self._configured(role, station):
                yield entry
            for entry, _ in self._cached(station):
                yield entry

    def interfaces(self) -> Iterator[InterfaceEntry]:
        """Those of the plan that runs."""
        for plan in self._node.plan.speakers:
            device = self._node.devices.get(plan.interface)
            state = None if device is None else device.state
            role = self._node.layer3.get((plan.interface, None))
            stations = [] if role is None else list(role.each_station())
            flags = (
                {}
                if role is None
                else {
                    "shortcut": role.plan.shortcut,
                    "redirect": role.plan.redirect,
                }
            )
            seen_as = [address for station in stations for address in sorted(station.seen_as())]
            key = plan.gre_key if state is None else state.key
            yield InterfaceEntry(
                name=plan.interface,
                ifindex=0 if state is None else state.ifindex,
                protocols=tuple(station.address for station in stations),
                flags=(*(flag for flag, is_set in flags.items() if is_set), "configured"),
                holding_time=plan.holding_time,
                route_table=0 if role is None else role.plan.route_table,
                gre_key=key or 0,
                mtu=0 if state is None else state.mtu,
                nbma=(b"" if state is None else state.local) or plan.nbma_address or b"",
                seen_as=seen_as[0] if seen_as else b"",
            )

    def _stations(self) -> list[tuple[Layer3Role, Layer3Station]]:
        roles = list(self._node.layer3.values())
        return [(role, station) for role in roles for station in role.each_station()]

    def _configured(
        self, role: Layer3Role, station: Layer3Station
    ) -> Iterator[tuple[PeerEntry, Server | None]]:
        """What the file says, with the server that it is about if it is known."""
        known = {(each.network, each.prefix_length) for each in station.configured}
        for plan in role.plan.maps:
            named = (plan.protocol, plan.prefix_length) in known
            if len(plan.protocol) == len(station.station) and (plan.dynamic or not named):
                kind = "dynamic-map" if plan.dynamic else "static"
                entry = self._entry(station, kind, plan.protocol, plan.prefix_length)
                yield entry._replace(hostname=plan.host), None
        clients = {client.path: client for client in station.registrations}
        for server in station.configured:
            client = clients.get(server.path)
            if station.server_gate is not None and not station.server_gate.is_up(server):
                flags: tuple[str, ...] = ()
            elif server.register and (client is None or not client.usable):
                flags = ("lower-up",)
            else:
                flags = ("up",)
            told = b"" if client is None else client.server
            yield (
                self._entry(
                    station,
                    "dynamic-nhs" if server.dynamic else "static",
                    server.protocol or told or server.network,
                    server.prefix_length,
                )._replace(nbma=server.path.peer, hostname=server.hostname, flags=flags),
                server,
            )

    def _cached(self, station: Layer3Station) -> Iterator[tuple[PeerEntry, tuple[Binding, ...]]]:
        """What was learnt, with the bindings that say so."""
        now = self._node.clock.seconds()
        leaders: dict[bytes, list[Binding]] = {}
        for binding in station.cache.bindings():
            if binding.kind is Kind.STATIC:
                continue
            routed = binding.kind is Kind.CACHED and binding.next_hop
            if routed:
                leaders.setdefault(binding.next_hop, []).append(binding)
            up = binding.kind in (Kind.LOCAL, Kind.DYNAMIC) or station.forwards(binding)
            flags = {"unique": binding.unique, "up": up and binding.kind >= Kind.CACHED}
            entry = self._entry(
                station,
                "shortcut-route" if routed else binding.kind.name.lower(),
                binding.protocol,
                binding.bits,
            )
            yield (
                entry._replace(
                    nbma=b"" if routed or binding.vtep is None else binding.vtep.nbma,
                    next_hop=binding.next_hop if routed else b"",
                    claimed=binding.claimed,
                    flags=tuple(flag for flag, is_set in flags.items() if is_set),
                    expires_in=left(binding.expires, now),
                ),
                (binding,),
            )
        for address, bindings in leaders.items():
            # OpenNHRP caches the station that leads to a network by itself.
            known = station.cache.lookup(address)
            if known is not None and known.kind >= Kind.CACHED:
                continue
            latest = bindings[-1]
            entry = self._entry(station, "cached", address, 8 * len(address))
            yield (
                entry._replace(
                    nbma=b"" if latest.vtep is None else latest.vtep.nbma,
                    flags=("up",) if any(map(station.forwards, bindings)) else (),
                    expires_in=left(latest.expires, now),
                ),
                tuple(bindings),
            )

    @staticmethod
    def _entry(station: Layer3Station, kind: str, protocol: bytes, bits: int) -> PeerEntry:
        vpn = station.plan.vpn
        return PeerEntry(
            station.plan.interface, None if vpn is None else vpn.index, kind, protocol, bits
        )

    # --- what can be done -----------------------------------------------------------------------

    def flush(self, match: _Match) -> Iterator[bool]:
        """What is still needed is asked for, or registers, again."""
        return self._remove(match, "user-request")

    def purge(self, match: _Match, reason: str) -> Iterator[bool]:
        """Configured peers go down, come up after a while, and we register anew."""
        yield from self._remove(match, reason)
        for role, station in self._stations():
            meant = [server for entry, server in self._configured(role, station) if match(entry)]
            servers = {server for server in meant if server is not None}
            if servers:
                station.restart(servers.__contains__, reason)
            yield from (True for _ in meant)

    def _remove(self, match: _Match, reason: str) -> Iterator[bool]:
        for _, station in self._stations():
            for entry, bindings in self._cached(station):
                meant = entry.kind not in _PERMANENT and match(entry)
                if meant:
                    for binding in bindings:
                        station.cache.drop(binding, reason)
                yield meant

    def forget_redirects(self, protocol: bytes, bits: int) -> int:
        """At all of our addresses."""
        return sum(station.forget_redirects(protocol, bits) for _, station in self._stations())

    def name_server(self, nbma: bytes, protocol: bytes) -> int:
        """On all interfaces that have such a server."""
        roles = list(self._node.layer3.values())
        return sum(role.name_server(nbma, protocol) for role in roles)
