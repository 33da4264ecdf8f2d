"""Where frames for a MAC go from here, why, since when, and who said so. Layer: role.

One row for each thing that is known, the verdict first and what is wrong last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, succeed

from dmevpn.addresses import VTEP, format_address, is_station_mac
from dmevpn.errors import CommandError
from dmevpn.interfaces import Placement
from dmevpn.nhrp.cache import Binding, Kind
from dmevpn.nhrp.resolution import Said
from dmevpn.roles.histories import History
from dmevpn.roles.hub import AGEING_TIME, HubRole
from dmevpn.roles.hub_vpn import HubVPN
from dmevpn.roles.node import Node
from dmevpn.roles.rows import Row, left, place
from dmevpn.roles.spoke import SpokeRole
from dmevpn.roles.switch_checks import held_finding
from dmevpn.roles.turns import Turns, unhurried

__all__ = ["explain"]

#: Events of a MAC that are told.
_LATEST = 5


def explain(node: Node, turns: Turns, mac: bytes, vpn: int | None) -> Deferred[list[Row]]:
    """Rows of ``explain``.

    :param turns: for the VPNs of a hub, which may be thousands.
    :param vpn: index of the VPN; None: all that are here.
    :return: fails with a CommandError if there is none.
    """
    history = History(node.journal, node.clock.seconds())
    waiting = [
        _at_spoke(spoke, mac, history)
        for spoke in node.spokes.values()
        if vpn in (None, spoke.plan.vpn.index)
    ]
    waiting.append(turns.gather(_at_hubs(node, mac, vpn, history)))

    def gathered(parts: list[list[Row]]) -> list[Row]:
        rows = [row for part in parts for row in part]
        if not rows:
            where = "of this daemon" if vpn is None else f"{vpn} of this daemon"
            raise CommandError(f"no VPN {where} knows {format_address(mac)}")
        return rows

    return gatherResults(waiting, consumeErrors=True).addCallback(gathered)


def _at_hubs(node: Node, mac: bytes, vpn: int | None, history: History) -> Iterator[Row | None]:
    """What each VPN of our hubs has to say."""
    for hub in list(node.hubs.values()):
        alone = len(hub.vpns) == 1
        for item in unhurried(sorted(hub.vpns.items())):
            if item is None:
                yield None
                continue
            index, hub_vpn = item
            if vpn not in (None, index) or index not in hub.vpns:
                continue
            # Of thousands of VPNs, only those tell that know the MAC.
            known = hub.dataplane.lookup(index, mac) or hub_vpn.cache.lookup(mac)
            if known or alone or vpn is not None:
                yield from _Case(index, mac, history).at_hub(hub, hub_vpn)


def _at_spoke(spoke: SpokeRole, mac: bytes, history: History) -> Deferred[list[Row]]:
    case = _Case(spoke.plan.vpn.index, mac, history)
    if not is_station_mac(mac):
        text = "it is a group's address: frames for it go to every site, by way of the hub"
        return succeed([case.row("verdict", text, interface=spoke.interface)])
    done: Deferred[list[Row]] = Deferred()
    spoke.resolution.enquire(mac, lambda said: done.callback(case.at_spoke(spoke, said)))
    return done


class _Case:
    """One MAC in one VPN."""

    def __init__(self, vpn: int, mac: bytes, history: History) -> None:
        self._vpn = vpn
        self._mac = mac
        self._history = history

    def row(
        self,
        about: str,
        text: str,
        *,
        vtep: VTEP | None = None,
        interface: str | None = None,
        since: float | None = None,
        by: bytes = b"",
    ) -> Row:
        """One row; ``since`` on the daemon's clock."""
        return {
            "vpn": self._vpn,
            "about": about,
            "text": text,
            **place(vtep),
            "interface": interface,
            "since": None if since is None else max(0, int(self._history.now - since)),
            "by": format_address(by) if by else None,
        }

    # --- spoke ----------------------------------------------------------------------------

    def at_spoke(self, spoke: SpokeRole, said: Said) -> list[Row]:
        """What this site knows of it, and what the hub has just said."""
        binding = spoke.cache.lookup(self._mac)
        tables: list[Placement] = spoke.dataplane.placements(self._mac)
        return [
            self._spoke_verdict(spoke, binding, tables),
            *(self._table(each) for each in tables),
            self._cached(spoke, binding),
            self._hub_view(spoke, said),
            *self._events(),
            *self._wrong_at_spoke(spoke, binding, tables, said),
        ]

    def _spoke_verdict(
        self, spoke: SpokeRole, binding: Binding | None, tables: list[Placement]
    ) -> Row:
        """What the kernel does with a frame now, whatever we believe."""
        flood = next((e for e in spoke.dataplane.entries() if e.state == "flood"), None)
        bridge = next((each for each in tables if each.table == "bridge"), None)
        direct = [e for e in tables if e.table != "bridge" and e.vtep is not None]
        hub = flood.vtep if flood is not None else None
        if bridge is not None and bridge.origin == "learned":
            since = self._history.since(self._mac, self._vpn, None, "home")
            text = f"frames stay at this site: the station is behind bridge port {bridge.interface}"
            at = None if since is None else since.at
            return self.row("verdict", text, interface=bridge.interface, since=at)
        if direct and direct[-1].vtep != hub:
            vtep, origin = direct[-1].vtep, direct[-1].origin
            event = self._history.since(self._mac, self._vpn, vtep, "shortcut-up")
            source = binding.source if binding is not None and binding.vtep == vtep else b""
            why = "an entry made by hand says so"
            if origin == "ours":
                why = "a shortcut, adopted from an earlier run"
                if source:
                    why = f"a shortcut, as hub {format_address(source)} has answered"
            return self.row(
                "verdict",
                f"frames go straight to {vtep}: {why}",
                vtep=vtep,
                interface=direct[-1].interface,
                since=None if event is None else event.at,
                by=source,
            )
        if hub is None:
            return self.row("verdict", "frames go nowhere: there is no hub to send them to")
        why = {
            None: "nobody here has sent to it lately",
            Kind.INCOMPLETE: "the hub is being asked",
            Kind.NEGATIVE: "there is no shortcut to it",
            Kind.CACHED: "the shortcut is not in the kernel",
        }[None if binding is None or binding.kind > Kind.CACHED else binding.kind]
        text = f"frames go by the hub at {format_address(hub.nbma)}: {why}"
        if spoke.hubs.passed_over:
            text += f"; {spoke.hubs.passed_over}"
        return self.row("verdict", text, vtep=hub, interface=spoke.interface)

    def _table(self, found: Placement) -> Row:
        if found.table == "bridge":
            text = f"behind port {found.interface} ({found.origin})"
        elif found.vtep is None:
            text = f"{found.interface} drops frames for it, so that the hub carries them"
        else:
            text = f"{found.interface} sends to {found.vtep} ({found.origin})"
        return self.row(found.table, text, vtep=found.vtep, interface=found.interface)

    def _cached(self, spoke: SpokeRole, binding: Binding | None) -> Row:
        if binding is None:
            return self.row("cache", "nothing")
        where = f" at {binding.vtep}" if binding.vtep is not None else ""
        seconds = left(binding.expires, self._history.now)
        until = "" if seconds is None else f", for {seconds} s more"
        event = self._history.since(
            self._mac, self._vpn, binding.vtep, "resolved", "unresolved", "registered", "moved"
        )
        return self.row(
            "cache",
            f"{binding.kind.name.lower()}{where}{until}",
            vtep=binding.vtep,
            since=None if event is None else event.at,
            by=binding.source,
        )

    def _hub_view(self, spoke: SpokeRole, said: Said) -> Row:
        if said.vtep is None:
            return self.row("hub", said.reason, by=said.server)
        ours = said.vtep == spoke.dataplane.local_vtep
        text = f"says it is at {said.vtep}{', which is this site' if ours else ''}"
        return self.row("hub", text, vtep=said.vtep, by=said.server)

    def _wrong_at_spoke(
        self, spoke: SpokeRole, binding: Binding | None, tables: list[Placement], said: Said
    ) -> Iterator[Row]:
        mac = format_address(self._mac)
        for each in tables:
            if each.origin == "by hand":
                where = "" if each.vtep is None else f" to {each.vtep}"
                table = "master" if each.table == "bridge" else "self"
                yield self._problem(
                    f"an entry made by hand on {each.interface} takes its frames{where}",
                    f"bridge fdb del {mac} dev {each.interface} {table}",
                )
        answer = binding if binding is not None and binding.kind is Kind.CACHED else None
        if answer is not None and said.vtep not in (None, answer.vtep):
            text = "the hub says now that it is elsewhere, and has not taken its answer back"
            yield self._problem(text, f"dmevpnctl cache flush vpn {self._vpn} mac {mac}")
        if answer is not None and not any(each.vtep for each in tables):
            text = "the shortcut is not in the kernel: somebody removed it, or the device is down"
            yield self._problem(text, "it is repaired within a second; else see `doctor`")
        if not any(client.usable for client in spoke.registrations):
            text = "we are registered with no hub: nobody can be asked, no frame comes by a hub"
            yield self._problem(text, "see `doctor` and `registration show`")
        local = any(each.table == "bridge" and each.origin == "learned" for each in tables)
        if local and said.vtep is not None and said.vtep != spoke.dataplane.local_vtep:
            text = f"the station is at this site, but the hub sees it at {said.vtep}"
            yield self._problem(text, "one MAC at two sites? else it has just moved here")
        yield from self._duplicate()

    # --- hub ------------------------------------------------------------------------------

    def at_hub(self, hub: HubRole, vpn: HubVPN) -> list[Row]:
        """What the switch does with frames for it, and what it has told others."""
        interface = hub.plan.interface
        vtep = hub.dataplane.lookup(self._vpn, self._mac)
        is_hub = vtep is not None and vtep in vpn.trunks.vteps
        rows = [self._hub_verdict(interface, vtep, is_hub=is_hub)]
        entry = hub.dataplane.entry(self._vpn, self._mac)
        if entry is not None:
            ends = "" if entry.static else f", forgotten after {AGEING_TIME - entry.idle:.0f} s"
            text = f"seen at {entry.vtep} {entry.idle:.0f} s ago{ends}"
            rows.append(self.row("switch", text, vtep=entry.vtep, interface=interface))
        binding = vpn.cache.lookup(self._mac)
        if binding is not None and binding.vtep is not None:
            seconds = left(binding.expires, self._history.now)
            text = f"a station, registered at {binding.vtep}, for {seconds} s more"
            rows.append(self.row("registration", text, vtep=binding.vtep, by=binding.vtep.nbma))
        told = vpn.server.told(self._mac)
        if told:
            text = f"clients were told {', '.join(map(str, told))}"
            rows.append(self.row("answers", text, vtep=told[0]))
        rows += self._events()
        for held in hub.dataplane.held():
            if (held.vpn, held.mac) == (self._vpn, self._mac):
                finding = held_finding(held)
                return [*rows, self._problem(finding.problem, finding.cure)]
        if vtep is not None and vtep not in vpn.members:
            text = f"{vtep} is no member: its frames are dropped"
            rows.append(self._problem(text, "see `member show` and, at that site, `doctor`"))
        return [*rows, *self._duplicate()]

    def _hub_verdict(self, interface: str, vtep: VTEP | None, *, is_hub: bool) -> Row:
        if vtep is None:
            if not is_station_mac(self._mac):
                text = "it is a group's address: frames for it go to every member"
            else:
                text = "frames for it go to every member: the switch has not seen it lately"
            return self.row("verdict", text, interface=interface)
        event = self._history.since(self._mac, self._vpn, vtep, "learned", "moved")
        text = f"frames go to {vtep}: the switch has seen it there"
        if is_hub:
            text = f"it is behind hub {format_address(vtep.nbma)}, which tells its site: ask there"
        return self.row(
            "verdict",
            text,
            vtep=vtep,
            interface=interface,
            since=None if event is None else event.at,
            by=vtep.nbma,
        )

    # --- both -----------------------------------------------------------------------------

    def _events(self) -> Iterator[Row]:
        for event in self._history.of(self._mac, self._vpn)[-_LATEST:]:
            vtep = VTEP(event.nbma, event.vni) if event.nbma else None
            where = f" at {vtep}" if vtep is not None else ""
            why = f" ({event.detail})" if event.detail else ""
            text = f"{event.event}{where}{why}"
            yield self.row("event", text, vtep=vtep, interface=event.interface, since=event.at)

    def _duplicate(self) -> Iterator[Row]:
        for vpn, mac, finding in self._history.duplicates():
            if (vpn, mac) == (self._vpn, self._mac):
                yield self._problem(finding.problem, finding.cure)

    def _problem(self, text: str, cure: str) -> dict[str, Any]:
        return self.row("problem", f"{text}; cure: {cure}")
