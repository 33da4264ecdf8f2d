"""What operators see and may do: the node's tables as rows of plain values. Layer: role."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import TaskFinished
from zope.interface import implementer

from dmevpn.addresses import format_address
from dmevpn.config.diff import describe, diff
from dmevpn.errors import CommandError
from dmevpn.interfaces import FDBEntry, IController, PlaneCounters
from dmevpn.journal import Event
from dmevpn.nhrp.cache import Binding, Kind
from dmevpn.nhrp.registration import RegistrationClient
from dmevpn.roles import doctor, explain, maintenance
from dmevpn.roles.configfile import ConfigFile
from dmevpn.roles.hub import AGEING_TIME, HubRole
from dmevpn.roles.l3_station import Layer3Station
from dmevpn.roles.matching import Match, accepts, index_of, learned_at, selected
from dmevpn.roles.node import Node
from dmevpn.roles.rows import Row, binding_row, event_row, left, part_row, place, vpn_ranges
from dmevpn.roles.shortcuts import shortcut_rows
from dmevpn.roles.spoke import SpokeRole
from dmevpn.roles.turns import STEP, Turns, unhurried
from dmevpn.roles.withdrawal import withdrawing

__all__ = ["Controller"]

#: Errors and warnings of a file that are named in one line.
_SHOWN = 3


@implementer(IController)
class Controller:
    """The admin's hands on a node.

    :param reload: reads the file again and applies it; Deferred of a report.
    :param shutdown: ends the daemon soon, and takes everything down.
    """

    def __init__(
        self,
        node: Node,
        config: ConfigFile,
        reload: Callable[[], Deferred[Row]],
        shutdown: Callable[[], None] = lambda: None,
    ) -> None:
        self._node = node
        self._config = config
        self._reload = reload
        self._turns = Turns(node.clock)
        self._shutdown = shutdown

    # --- tables -------------------------------------------------------------------------

    def vpns(self, match: Match) -> Iterator[Row]:
        """One row per VPN; a VPN with both roles here has one row with both."""
        return selected(match, self._vpns())

    def _vpns(self) -> Iterator[Row]:
        rows: dict[int | None, Row] = {}

        def row(vpn: int | None, role: str) -> Row:
            found = rows.setdefault(
                vpn,
                {"vpn": vpn, "roles": [], "members": 0, "macs": 0, "shortcuts": 0, "pending": 0},
            )
            found["roles"].append(role)
            return found

        for spoke in self._spokes():
            counts = row(spoke.plan.vpn.index, "spoke")
            counts["shortcuts"] += spoke.cache.count(Kind.CACHED)
            counts["pending"] += spoke.cache.count(Kind.INCOMPLETE)
        for hub in self._hubs():
            for vpn in unhurried(list(hub.vpns.values())):
                if vpn is None:
                    yield {}
                    continue
                counts = row(vpn.vpn_id.index, "hub")
                counts["members"] += len(vpn.members)
                counts["macs"] += hub.dataplane.mac_count(vpn.vpn_id.index)
        for station in unhurried(self._stations()):
            if station is None:
                yield {}
                continue
            index = index_of(station)
            counts = rows[index] if index in rows else row(index, "layer3")
            if "layer3" not in counts["roles"]:
                counts["roles"].append("layer3")
            counts["members"] += station.cache.count(Kind.DYNAMIC)
            counts["shortcuts"] += station.cache.count(Kind.CACHED)
            counts["pending"] += station.cache.count(Kind.INCOMPLETE)
        for index in sorted(rows, key=lambda vpn: vpn or 0):
            yield rows[index]

    def bindings(self, match: Match) -> Iterator[Row]:
        """Bindings of the protocol, and what the switch has learned."""
        return selected(match, self._bindings(match))

    def _bindings(self, match: Match) -> Iterator[Row]:
        now = self._node.clock.seconds()
        for spoke in self._spokes():
            used: dict[bytes, float | None] = {}
            for found in unhurried(spoke.dataplane.entries()):
                if found is None:
                    yield {}
                else:
                    used[found.mac] = found.used_ago
            for binding in spoke.cache.bindings():
                row = binding_row(binding, spoke.plan.vpn.index, spoke.interface, now)
                if binding.kind is Kind.CACHED and binding.protocol in used:
                    row["flags"].append("up")
                    idle = used[binding.protocol]
                    if idle is not None and idle < binding.holding_time:
                        row["flags"].append("used")
                yield row
        for station in self._stations():
            for binding in station.cache.bindings():
                row = binding_row(binding, index_of(station), station.plan.interface, now)
                if binding.kind is Kind.CACHED and station.forwards(binding):
                    row["flags"].append("up")
                yield row
        for hub in self._hubs():
            interface = hub.plan.interface
            for index, vpn in sorted(hub.vpns.items()):
                if index == match.get("vpn", index):
                    for binding in vpn.cache.bindings():
                        yield binding_row(binding, index, interface, now)
            for learned in learned_at(hub, match):
                if learned is None:
                    yield {}
                    continue
                index, entry = learned
                yield {
                    "vpn": index,
                    "protocol": format_address(entry.mac),
                    "type": "static" if entry.static else "learned",
                    **place(entry.vtep),
                    "expires_in": None if entry.static else max(0, int(AGEING_TIME - entry.idle)),
                    "flags": [],
                    "interface": interface,
                }

    def members(self, match: Match) -> Iterator[Row]:
        """Registered sites with the switch's counters."""
        return selected(match, self._members(match))

    def _members(self, match: Match) -> Iterator[Row]:
        now = self._node.clock.seconds()
        for hub in self._hubs():
            for index, vpn in sorted(hub.vpns.items()):
                if index != match.get("vpn", index):
                    continue
                for vtep, stations in list(vpn.members.items()):
                    counters = hub.dataplane.member_counters(index, vtep)
                    for station in sorted(stations):
                        binding = vpn.cache.lookup(station)
                        yield {
                            "vpn": index,
                            **place(vtep),
                            "protocol": format_address(station),
                            "expires_in": left(binding.expires, now) if binding else None,
                            "rx_packets": counters.rx_packets if counters else None,
                            "rx_bytes": counters.rx_bytes if counters else None,
                            "tx_packets": counters.tx_packets if counters else None,
                            "tx_bytes": counters.tx_bytes if counters else None,
                            "flooded": counters.flooded if counters else None,
                            "dropped": counters.dropped if counters else None,
                        }

    def shortcuts(self, match: Match) -> Iterator[Row]:
        """Which sites reach what directly: our own shortcuts, and what a hub has answered."""
        return selected(match, shortcut_rows(self._node))

    def registrations(self, match: Match) -> Iterator[Row]:
        """Our registrations with the hubs, as a spoke or as another hub of the VPN."""
        now = self._node.clock.seconds()
        for vpn, client in self._clients():
            row = {
                "vpn": vpn,
                "nhs": format_address(client.nhs),
                "state": client.state.name.lower(),
                "expires_in": left(client.expires, now),
                "renew_in": left(client.renew_at, now),
                "last_error": client.last_error,
            }
            if accepts(match, row):
                yield row

    def hubs(self, match: Match) -> Iterator[Row]:
        """Our hubs, and whether they are drained."""
        return maintenance.hub_rows(self._node, match)

    def drain(self, match: Match) -> Deferred[list[Row]]:
        """Have the members of our hubs leave."""
        return maintenance.drain(self._node, match)

    def undrain(self, match: Match) -> list[Row]:
        """Have them come back."""
        return maintenance.undrain(self._node, match)

    def fdb(self, match: Match) -> Deferred[Iterator[Row]]:
        """What the kernel forwards by, with ages read now."""
        reading = DeferredList(
            [spoke.dataplane.idle_times() for spoke in self._spokes()], consumeErrors=True
        )
        return reading.addCallback(lambda _: selected(match, self._fdb_rows(match)))

    def _fdb_rows(self, match: Match) -> Iterator[Row]:
        for spoke in self._spokes():
            for entry in spoke.dataplane.entries():
                yield self._fdb_row(entry, spoke.plan.vpn.index, spoke.interface)
        for hub in self._hubs():
            for learned in learned_at(hub, match):
                if learned is None:
                    yield {}
                    continue
                index, mac = learned
                yield {
                    "vpn": index,
                    "mac": format_address(mac.mac),
                    **place(mac.vtep),
                    "state": "static" if mac.static else "learned",
                    "used_ago": int(mac.idle),
                    "interface": hub.plan.interface,
                }

    def interfaces(self, match: Match) -> Iterator[Row]:
        """Control and data interfaces."""
        plan = self._node.plan
        rows: list[Row] = []
        for speaker in plan.speakers:
            address = format_address(speaker.nbma_address) if speaker.nbma_address else None
            rows.append(self._interface_row(speaker.interface, "control", nbma=address))
        for spoke in self._spokes():
            rows.append(
                self._interface_row(
                    spoke.interface,
                    "spoke",
                    controller=spoke.plan.controller,
                    vpns=str(spoke.plan.vpn.index),
                    mtu=spoke.dataplane.mtu,
                    **place(spoke.dataplane.local_vtep),
                )
            )
        for hub in self._hubs():
            rows.append(
                self._interface_row(
                    hub.plan.interface,
                    "hub",
                    controller=hub.plan.controller,
                    vpns=vpn_ranges(hub.plan.vpns),
                    mtu=hub.dataplane.mtu,
                )
            )
        return (row for row in rows if accepts(match, row))

    @staticmethod
    def _interface_row(
        interface: str,
        role: str,
        *,
        controller: str | None = None,
        vpns: str | None = None,
        nbma: str | None = None,
        vni: int | None = None,
        mtu: int | None = None,
    ) -> Row:
        return {
            "interface": interface,
            "role": role,
            "controller": controller,
            "vpns": vpns,
            "nbma": nbma,
            "vni": vni,
            "mtu": mtu,
        }

    @staticmethod
    def _fdb_row(entry: FDBEntry, vpn: int, interface: str) -> Row:
        return {
            "vpn": vpn,
            "mac": format_address(entry.mac),
            **place(entry.vtep),
            "state": entry.state,
            "used_ago": None if entry.used_ago is None else int(entry.used_ago),
            "interface": interface,
        }

    def _spokes(self) -> list[SpokeRole]:
        return list(self._node.spokes.values())

    def _stations(self) -> list[Layer3Station]:
        return [each for role in self._node.layer3.values() for each in role.each_station()]

    def _clients(self) -> Iterator[tuple[int | None, RegistrationClient]]:
        """Our registrations with their VPNs."""
        for spoke in self._spokes():
            for client in spoke.registrations:
                yield spoke.plan.vpn.index, client
        for station in self._stations():
            for client in station.registrations:
                yield index_of(station), client
        for hub in self._hubs():
            for index, vpn in sorted(hub.vpns.items()):
                for client in vpn.trunks.registrations:
                    yield index, client

    def _hubs(self) -> list[HubRole]:
        return list(self._node.hubs.values())

    # --- actions ------------------------------------------------------------------------

    def purge(self, match: Match) -> Deferred[int]:
        """Also ends registrations at a hub, whose sites will have to register again."""
        return self._remove(match, Kind.DYNAMIC, "purged")

    def flush(self, match: Match) -> Deferred[int]:
        """Only what is found again by itself."""
        return self._remove(match, Kind.LEARNED, "flushed")

    def _remove(self, match: Match, strongest: Kind, reason: str) -> Deferred[int]:
        removed = self._turns.gather(withdrawing(self._node, match, strongest, reason))
        return removed.addCallback(len)

    def resolve(self, match: Match) -> Deferred[Row]:
        """Ask now, also for what was refused a moment ago; what is cached is the answer."""
        protocol = match["mac"]
        asker = self._asker(protocol, match)
        if asker.way_to_server(protocol) is None:
            raise CommandError("no hub can be asked: see `dmevpnctl registration show`")
        done: Deferred[Row] = Deferred()

        def answered(binding: Binding) -> None:
            if binding.kind is not Kind.CACHED:
                text = format_address(protocol)
                done.errback(CommandError(f"{text}: no hub knows where it is"))
                return
            vpn, interface = asker.plan.vpn, asker.interface
            index = None if vpn is None else vpn.index
            done.callback(binding_row(binding, index, interface, self._node.clock.seconds()))

        existing = asker.cache.lookup(protocol)
        if existing is not None and existing.kind is Kind.NEGATIVE:
            asker.cache.remove(protocol, "asked again")
        asker.resolution.resolve(protocol, answered)
        return done

    def _asker(self, protocol: bytes, match: Match) -> SpokeRole | Layer3Station:
        """Who of us asks for an address.

        :raises CommandError: if nobody does, or if it could be one or the other.
        """
        candidates: list[SpokeRole | Layer3Station] = [
            *(spoke for spoke in self._spokes() if len(spoke.station) == len(protocol)),
            *(each for each in self._stations() if len(each.station) == len(protocol)),
        ]
        if "vpn" in match:
            candidates = [
                each
                for each in candidates
                if each.plan.vpn is not None and each.plan.vpn.index == match["vpn"]
            ]
        if len(candidates) == 1:
            return candidates[0]
        raise CommandError(
            "several VPNs are here: say which, as in `vpn 1`"
            if candidates
            else "no spoke serves that VPN here"
        )

    def renew(self, match: Match) -> int:
        """Register again now."""
        renewed = 0
        for vpn, client in self._clients():
            if accepts(match, {"vpn": vpn, "nhs": format_address(client.nhs)}):
                client.renew()
                renewed += 1
        return renewed

    # --- configuration and metrics ----------------------------------------------------------

    def config_show(self) -> str:
        """The file as it is on disk now, secrets masked."""
        return self._config.masked()

    def config_check(self, path: str | None) -> Row:
        """Like ``twistd dmevpn --check``."""
        config = self._config if path is None else self._config.other(path)
        plan, messages = config.load()
        return {"ok": plan is not None, "messages": messages}

    def config_diff(self, path: str | None) -> Iterator[Row]:
        """Compare a file with what runs."""
        config = self._config if path is None else self._config.other(path)
        plan, messages = config.load()
        if plan is None:
            shown, more = messages[:_SHOWN], len(messages) - _SHOWN
            raise CommandError("; ".join(shown + ([f"and {more} more"] if more > 0 else [])))
        changes = diff(self._node.plan, plan)
        rows = [part_row(change, part, keywords) for change, part, keywords in describe(changes)]
        rows += [part_row("change", None, (keyword,)) for keyword in changes.at_once]
        rows += [part_row("wait", None, (keyword,)) for keyword in changes.postponed]
        return iter(rows)

    def shutdown(self) -> None:
        """Like SIGTERM, but with all that ``leave-forwarding`` would leave."""
        self._shutdown()

    def reload(self) -> Deferred[Row]:
        """Like SIGHUP."""
        return self._reload()

    def metrics(self) -> Iterator[Row]:
        """Every counter, gauge and histogram; those of one name stand together."""
        for sample in self._node.metrics.snapshot():
            yield {
                "name": sample.name,
                "labels": dict(sample.labels),
                "kind": sample.kind,
                "value": sample.value,
            }
        for hub in self._hubs():
            for reason, value in hub.dataplane.counters().items():
                yield {
                    "name": "dmevpn_switch_drops_total",
                    "labels": {"interface": hub.plan.interface, "reason": reason},
                    "kind": "counter",
                    "value": value,
                }

        carried = [(spoke.plan.vpn.index, spoke.dataplane.traffic()) for spoke in self._spokes()]
        for field in PlaneCounters._fields:
            for vpn, planes in carried:
                for plane, counters in planes.items():
                    yield {
                        "name": f"dmevpn_plane_{field}_total",
                        "labels": {"plane": plane, "vpn": str(vpn)},
                        "kind": "counter",
                        "value": getattr(counters, field),
                    }

    # --- what happened ------------------------------------------------------------------

    def explain(self, match: Match) -> Deferred[list[Row]]:
        """Where frames for a MAC go, and why."""
        return explain.explain(self._node, self._turns, match["mac"], match.get("vpn"))

    def doctor(self) -> Deferred[list[Row]]:
        """What is wrong, and the cure."""
        found = doctor.examine(self._node, self._turns)
        return found.addCallback(lambda findings: list(doctor.rows(findings)))

    def events(self, match: Match) -> Iterator[Row]:
        """What the journal has."""
        offset = self._node.wall.offset
        for event in self._node.journal:
            row = event_row(event, offset)
            if accepts(match, row):
                yield row

    def follow(self, listener: Callable[[Row], None]) -> Callable[[], None]:
        """What it has, and what it gets."""
        journal, wall = self._node.journal, self._node.wall
        waiting = deque(journal)
        cancel_journal = journal.subscribe(waiting.append)

        def tell(event: Event) -> None:
            listener(event_row(event, wall.offset))

        def steps() -> Iterator[None]:
            nonlocal cancel_journal
            while waiting:
                for _ in range(min(STEP, len(waiting))):
                    tell(waiting.popleft())
                yield
            # All told: from now on each as it comes.
            cancel_journal()
            cancel_journal = journal.subscribe(tell)

        work = self._turns.run(steps())

        def cancel() -> None:
            with suppress(TaskFinished):
                work.stop()
            cancel_journal()

        return cancel

    def subscribe(self, listener: Callable[[Row], None]) -> Callable[[], None]:
        """Report every change of any cache until cancelled."""
        return self._node.watchers.add(listener)
