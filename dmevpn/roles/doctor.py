"""What is wrong with a daemon and what it works on, and the cure. Layer: role.

Nothing is kept for this: the driver reads the kernel when asked, the journal tells the recent past,
and the hub is asked whether our frames arrive there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from twisted.internet.defer import Deferred, gatherResults

from dmevpn.addresses import VTEP, format_address
from dmevpn.interfaces import Finding
from dmevpn.nhrp.cache import Kind
from dmevpn.nhrp.constants import CIECode, ErrorCode
from dmevpn.nhrp.indication import describe
from dmevpn.nhrp.records import refusal
from dmevpn.nhrp.registration import RegistrationClient, State
from dmevpn.nhrp.resolution import UNKNOWN, Said
from dmevpn.roles.histories import History
from dmevpn.roles.hub import HubRole
from dmevpn.roles.node import Node
from dmevpn.roles.spoke import SpokeRole
from dmevpn.roles.switch_checks import switch_findings
from dmevpn.roles.troubles import FRAMES_REFUSED
from dmevpn.roles.turns import Turns, unhurried

__all__ = ["examine", "rows"]

#: Members of a VPN that are looked at in a turn.
_SLICE: Final = 200
#: Hubs without a trunk that are named for a VPN: sites may say anything.
_MOST_MISSING: Final = 4
#: Seconds for which a step of the wall clock is told.
_STEP_TOLD: Final = 3600.0

_SECRET = "give `cisco-authentication` or the key the same value at both ends, and reload"
_FLOOD = "find out what sends them, and stop it there; if all is well, raise `request-rate`"
_NO_ANSWER = "start the hub's daemon; else let GRE (IP protocol 47) pass between us and it"

#: What to do about an answer of a hub, by the words that its refusal is kept in: check and cure.
_REFUSALS: Final = {
    describe(ErrorCode.AUTHENTICATION_FAILURE): ("secret", _SECRET),
    describe(ErrorCode.VPN_UNSUPPORTED): ("allowed", "add the VPN to `vpn-id` at the hub"),
    describe(ErrorCode.VPN_MISMATCH): ("allowed", "compare `vpn-id` here and at the hub"),
    refusal(CIECode.PROHIBITED): (
        "allowed",
        "the hub does not allow this site: its VNI may be another VPN's, see the hub's `doctor`",
    ),
    refusal(CIECode.NO_RESOURCES): ("room", "the hub is full: see its `doctor` and metrics"),
    refusal(CIECode.ALREADY_REGISTERED): (
        "mac",
        "another site registers our station MAC: change it in `map-vni`, or copy no machine-id",
    ),
}


def examine(node: Node, turns: Turns) -> Deferred[list[Finding]]:
    """Everything that is found wrong; empty if nothing is.

    :param turns: for tables that are too long to be gone through in one.
    """
    waiting = [_at_spoke(spoke, turns) for spoke in node.spokes.values()]
    waiting.append(turns.gather(_here(node)))
    return gatherResults(waiting, consumeErrors=True).addCallback(
        lambda parts: [finding for part in parts for finding in part]
    )


def _here(node: Node) -> Iterator[Finding | None]:
    """What needs no answer of anybody, and None after each step."""
    node.wall.look()
    history = History(node.journal, node.clock.seconds())
    yield from _clock(history)
    yield from _duplicates(node, history)
    yield from _repairs(history)
    yield None
    for spoke in list(node.spokes.values()):
        yield from _registrations(spoke, history)
        yield from _mtu_of_sites(spoke)
    for hub in list(node.hubs.values()):
        yield from hub.dataplane.examine()
        yield from _hub(hub)
        yield from switch_findings(hub, history)
        yield from _trunks(hub, history)
        yield from _mesh(hub)
    yield from _refused(node, history)
    yield from _floods(history)


# --- any node -----------------------------------------------------------------------------


def _clock(history: History) -> Iterator[Finding]:
    for event in history.recent("clock-stepped", _STEP_TOLD):
        yield Finding(
            "clock",
            "wall clock",
            f"it was set {event.detail} {_ago(history.now - event.at)}: dates in logs do not match",
            "find who sets it (`chronyc tracking`, `timedatectl`); after a suspend, expect to"
            " register anew",
        )


def _duplicates(node: Node, history: History) -> Iterator[Finding]:
    """MACs that were at several places lately; what a switch holds is said by the hub."""
    held = {(each.vpn, each.mac) for hub in node.hubs.values() for each in hub.dataplane.held()}
    for vpn, mac, finding in history.duplicates():
        if (vpn, mac) not in held:
            yield finding


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} s ago" if seconds < 120 else f"{seconds / 60:.0f} min ago"


def _repairs(history: History) -> Iterator[Finding]:
    """Drift between what we decided and the kernel, which was put right or could not be."""
    for name, check, cure in (
        ("device-mended", "device", "find who changes devices there: `ip monitor link`"),
        (
            "repaired",
            "entries",
            "find who runs `bridge fdb` or restarts the network there; `bridge monitor`",
        ),
        (
            "not-installed",
            "entries",
            "an entry made by hand is in the way: see `explain` of the MAC",
        ),
    ):
        latest = {event.interface: event for event in history.recent(name)}
        for interface, event in latest.items():
            when = _ago(history.now - event.at)
            yield Finding(check, interface, f"{name} {when}: {event.detail}", cure)


def _at_spoke(spoke: SpokeRole, turns: Turns) -> Deferred[list[Finding]]:
    """The driver's findings, and then, when it has read its tables, whether our frames arrive."""
    looked: Deferred[list[Finding]] = spoke.dataplane.examine()
    return looked.addCallback(
        lambda found: _arrival(spoke, turns).addCallback(lambda lost: [*found, *lost])
    )


# --- spoke --------------------------------------------------------------------------------


def _registrations(spoke: SpokeRole, history: History) -> Iterator[Finding]:
    vpn = spoke.plan.vpn.index
    if not spoke.registrations:
        problem = f"vpn {vpn} registers with no hub: no frame comes to this site"
        yield Finding("hub", spoke.interface, problem, "add `register` to `default-vni`")
    for client in spoke.registrations:
        if client.state is not State.REGISTERED:
            yield _not_registered(vpn, client, history)


def _not_registered(vpn: int, client: RegistrationClient, history: History) -> Finding:
    hub = format_address(client.nhs)
    said = client.last_error or "no answer yet"
    check, cure = _REFUSALS.get(said, ("hub", _NO_ANSWER))
    problem = f"vpn {vpn} is not registered with hub {hub}: {said}"
    untrusted = [
        event
        for event in history.recent("refused")
        if event.nbma == client.nhs and "authentication" in event.detail
    ]
    if check == "hub" and untrusted:
        return Finding("secret", hub, f"{problem}; its answers do not prove themselves", _SECRET)
    return Finding(check, hub, problem, cure)


def _mtu_of_sites(spoke: SpokeRole) -> Iterator[Finding | None]:
    """Sites that take smaller frames than we send, as their registrations say."""
    ours = spoke.dataplane.mtu
    smaller: dict[bytes, int] = {}
    for binding in unhurried(spoke.cache.bindings()):
        if binding is None:
            yield None
        elif binding.kind is Kind.CACHED and binding.vtep is not None and 0 < binding.mtu < ours:
            smaller[binding.vtep.nbma] = binding.mtu
    for nbma, mtu in sorted(smaller.items())[:10]:
        problem = f"site {format_address(nbma)} takes frames of MTU {mtu}, this one sends {ours}"
        cure = f"give both sites' underlays one MTU, or ip link set {spoke.interface} mtu {mtu}"
        yield Finding("mtu", spoke.interface, problem, cure)


def _arrival(spoke: SpokeRole, turns: Turns) -> Deferred[list[Finding]]:
    """Whether the hub knows any of the stations here. A station that speaks is heard there, too, as
    it broadcasts every now and then; if none is, what we send does not reach the hub's switch."""
    macs = turns.gather(spoke.dataplane.local_macs())
    return macs.addCallback(lambda found: _ask_about(spoke, found))


def _ask_about(spoke: SpokeRole, macs: list[bytes]) -> Deferred[list[Finding]]:
    done: Deferred[list[Finding]] = Deferred()
    usable = any(client.usable for client in spoke.registrations)
    if not (macs and usable):
        done.callback([])
        return done
    answers: list[Said] = []

    def said(answer: Said) -> None:
        answers.append(answer)
        if len(answers) == len(macs):
            unknown = all(each.reason == UNKNOWN for each in answers)
            done.callback([_lost_on_the_way(spoke, answer)] if unknown else [])

    for mac in macs:
        spoke.resolution.enquire(mac, said)
    return done


def _lost_on_the_way(spoke: SpokeRole, answer: Said) -> Finding:
    hub = format_address(answer.server)
    vni, port = spoke.plan.vni, spoke.plan.port
    return Finding(
        "port",
        spoke.interface,
        f"hub {hub} answers, but has heard none of the stations that speak here",
        f"let UDP port {port} pass from {format_address(spoke.dataplane.local_vtep.nbma)} to {hub}"
        f" (`doctor` at the hub tells whether another VNI than {vni} arrives), unless they speak"
        " with nobody elsewhere",
    )


# --- hub ----------------------------------------------------------------------------------


def _hub(hub: HubRole) -> Iterator[Finding | None]:
    """Members whose frames the hub's device, or other sites, cannot take whole; and whether it
    is out of service."""
    if hub.drain.active:
        problem = f"it is {hub.drain.state}: {hub.drain.registered} sites are left, others refused"
        cure = "`dmevpnctl hub undrain` when the maintenance is over"
        yield Finding("hub", hub.plan.interface, problem, cure)
    mtu = hub.dataplane.mtu
    for index, vpn in sorted(hub.vpns.items()):
        yield None
        stated: dict[bytes, int] = {}
        for binding in unhurried(vpn.cache.bindings()):
            if binding is None:
                yield None
            elif binding.kind is Kind.DYNAMIC and binding.vtep is not None and binding.mtu:
                stated[binding.vtep.nbma] = binding.mtu
        if len(set(stated.values())) > 1:
            small = min(stated, key=stated.__getitem__)
            yield Finding(
                "mtu",
                f"vpn {index}",
                f"sites disagree: {format_address(small)} takes frames of MTU {stated[small]},"
                f" others of {max(stated.values())}",
                f"set the MTU {stated[small]} at all sites, or mend the underlay of that one",
            )
        elif stated and mtu and max(stated.values()) > mtu:
            problem = f"sites of vpn {index} send frames of MTU {max(stated.values())}, {mtu} fit"
            cure = f"ip link set {hub.plan.interface} mtu {max(stated.values())}"
            yield Finding("mtu", hub.plan.interface, problem, cure)


def _trunks(hub: HubRole, history: History) -> Iterator[Finding | None]:
    """Other hubs that do not have us, or that we do not have."""
    for index, vpn in sorted(hub.vpns.items()):
        yield None
        members = {vtep.nbma for vtep in vpn.trunks.vteps if vtep in vpn.members}
        for client in vpn.trunks.registrations:
            if client.state is not State.REGISTERED:
                yield _not_registered(index, client, history)
            elif client.nhs not in members:
                other = format_address(client.nhs)
                problem = f"hub {other} has us in vpn {index}, but has not registered here"
                cure = "name this hub there by `other-hub`, by the address that it sends from"
                yield Finding("hub", other, problem, cure)


def _mesh(hub: HubRole) -> Iterator[Finding | None]:
    """Hubs that others speak of, and that we have no trunk to: sites of theirs do not hear ours.

    Without any trunk hubs need not know each other, and a site may have several of them.
    """
    for index, vpn in sorted(hub.vpns.items()):
        yield None
        trunks = vpn.trunks
        if not trunks.addresses:
            continue
        missing: dict[bytes, VTEP] = {}
        for number, vtep in enumerate(list(vpn.members)):
            binding = vpn.cache.registration_of(vtep)
            named = binding.apart if binding is not None and binding.apart else frozenset()
            for other in named - trunks.addresses:
                # A hub knows better than a site which hubs there are.
                if other not in missing or vtep in trunks.vteps:
                    missing[other] = vtep
            if number % _SLICE == 0:
                yield None
        for other, vtep in sorted(missing.items())[:_MOST_MISSING]:
            who = "hub" if vtep in trunks.vteps else "site"
            yield Finding(
                "hub",
                format_address(other),
                f"it is a hub of vpn {index}, as {who} {format_address(vtep.nbma)} says, and there"
                " is no trunk to it: its sites do not hear those of this hub",
                f"name it here by `other-hub {format_address(other)}`, and this hub there: every"
                " two hubs of a VPN need a trunk",
            )


def _refused(node: Node, history: History) -> Iterator[Finding | None]:
    """Who was turned away, and why: one line for each sender and reason."""
    servers = {client.nhs for spoke in node.spokes.values() for client in spoke.registrations}
    for hub in node.hubs.values():
        servers |= {address for vpn in hub.vpns.values() for address in vpn.trunks.addresses}
    latest = {(e.nbma, e.vni, e.detail): e for e in history.recent("refused")}
    registered = {event.nbma: event.serial for event in history.recent("registered")}
    senders = {nbma for nbma, _, _ in latest}
    members: set[VTEP] = set()
    for hub in list(node.hubs.values()):
        for vpn in list(hub.vpns.values()):
            members.update(member for member in vpn.members if member.nbma in senders)
            yield None
    for (nbma, vni, detail), event in latest.items():
        who = format_address(nbma) if nbma else "somebody"
        when = _ago(history.now - event.at)
        if nbma in servers or VTEP(nbma, vni) in members:
            continue  # told with the registration; a member by now
        if detail != FRAMES_REFUSED and registered.get(nbma, 0) > event.serial:
            continue
        if detail == FRAMES_REFUSED:
            yield _stranger(members, VTEP(nbma, vni), when)
        elif "authentication" in detail:
            yield Finding("secret", who, f"{detail}, {when}", _SECRET)
        elif "vpn" in detail:
            cure = f"add the VPN to `vpn-id` here, or take it from the file of {who}"
            yield Finding("allowed", who, f"{detail}, {when}: we do not serve it", cure)
        else:
            check, cure = _REFUSALS.get(detail, ("hub", "see the log, and `metrics show`"))
            if check == "allowed":
                cure = f"correct VPN, VNI and station in the file of {who}, if it belongs here"
            yield Finding(check, who, f"its registration or packet was {detail}, {when}", cure)


def _floods(history: History) -> Iterator[Finding]:
    """Who sends more packets than it may: one line for each."""
    for nbma, event in {event.nbma: event for event in history.recent("flooded")}.items():
        problem = f"more packets than `request-rate` allows, {_ago(history.now - event.at)}"
        yield Finding("allowed", format_address(nbma) if nbma else "strangers", problem, _FLOOD)


def _stranger(members: set[VTEP], vtep: VTEP, when: str) -> Finding:
    """Frames of no member: of one that has registered with another VNI, or of nobody."""
    who = format_address(vtep.nbma)
    registered = sorted(member.vni or 0 for member in members if member.nbma == vtep.nbma)
    if registered:
        known = ", ".join(map(str, registered))
        return Finding(
            "vni",
            who,
            f"it sends frames with VNI {vtep.vni}, {when}, but has registered VNI {known}",
            "at that site, give the vxlan device, `default-vni` and `map-vni` one VNI",
        )
    problem = f"it sends frames with VNI {vtep.vni}, {when}, but has not registered"
    cure = "start its daemon; else find out who it is, and block it"
    return Finding("allowed", who, problem, cure)


def rows(findings: list[Finding]) -> Iterator[dict[str, Any]]:
    """Rows of ``doctor``, each finding once, in order of the checks."""
    for finding in sorted(set(findings)):
        yield {
            "check": finding.check,
            "subject": finding.subject,
            "finding": finding.problem,
            "cure": finding.cure,
        }
