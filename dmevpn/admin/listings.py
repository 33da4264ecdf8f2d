"""Commands about tables: who is here, what lives where, what the kernel does. Layer: admin."""

from __future__ import annotations

from collections.abc import Awaitable

from dmevpn.addresses import parse_protocol_address
from dmevpn.admin.columns import (
    AT_NBMA,
    AT_VNI,
    BINDING,
    IN_VPN,
    MOST_VNI,
    ON_INTERFACE,
    Column,
)
from dmevpn.admin.command import Answer, Command, Context, Match
from dmevpn.admin.parameters import (
    INTERFACE,
    MAC,
    NBMA,
    PROTOCOL,
    TYPE,
    VNI,
    VPN,
    UsageError,
)
from dmevpn.errors import CommandError

__all__ = ["LISTINGS"]


# --- functions ----------------------------------------------------------------------------


def _vpn_show(context: Context, match: Match) -> Answer:
    return Answer(context.controller.vpns(match))


def _cache_show(context: Context, match: Match) -> Answer:
    return Answer(context.controller.bindings(match))


def _cache_watch(context: Context, match: Match) -> Answer:
    raise UsageError("`cache watch` never ends: call the remote method watch")


async def _cache_flush(context: Context, match: Match) -> Answer:
    return await _count("flushed", context.controller.flush(match), "no binding to flush")


async def _cache_purge(context: Context, match: Match) -> Answer:
    return await _count("purged", context.controller.purge(match), "no binding to purge")


async def _cache_resolve(context: Context, match: Match) -> Answer:
    return Answer([await context.controller.resolve(match)])


def _member_show(context: Context, match: Match) -> Answer:
    return Answer(context.controller.members(match))


def _shortcut_show(context: Context, match: Match) -> Answer:
    return Answer(context.controller.shortcuts(match))


def _registration_show(context: Context, match: Match) -> Answer:
    return Answer(context.controller.registrations(match))


def _registration_renew(context: Context, match: Match) -> Answer:
    renewed = context.controller.renew(match)
    if not renewed:
        raise CommandError("no registration to renew")
    return Answer([{"renewed": renewed}])


async def _fdb_show(context: Context, match: Match) -> Answer:
    return Answer(await context.controller.fdb(match))


def _interface_show(context: Context, match: Match) -> Answer:
    return Answer(context.controller.interfaces(match))


async def _count(done: str, number: Awaitable[int], nothing: str) -> Answer:
    counted = await number
    if not counted:
        raise CommandError(nothing)
    return Answer([{done: counted}])


# --- the table ----------------------------------------------------------------------------

_FILTERS = (VPN, MAC, PROTOCOL, NBMA, VNI, TYPE, INTERFACE)

_ASKED = MAC._replace(parse=parse_protocol_address, meaning="the MAC, IPv4 or IPv6 address")

#: Seconds that it may take to remove the bindings of a large hub, in the turns that packets leave.
_WHOLE_TABLE = 600.0

#: A VPN where packets that name none have no place.
_THE_VPN = IN_VPN._replace(null="")
_NO_SITE = "a VPN of IPv4 or IPv6 has no VNI"


def _number(name: str, meaning: str) -> Column:
    return Column(name, meaning, "number")


def _frames(name: str, meaning: str, unit: str = "") -> Column:
    return Column(name, meaning, "amount", "the switch does not know the member (yet)", unit=unit)


def _vni(name: str, meaning: str) -> Column:
    return Column(name, meaning, "number", _NO_SITE, most=MOST_VNI)


LISTINGS = (
    Command(
        "vpn show",
        "List the VPNs that this daemon serves",
        (VPN,),
        (
            IN_VPN,
            Column("roles", "what we are in it", "list", values=("spoke", "hub", "layer3")),
            _number("members", "registered VTEPs (hub) and addresses (layer3)"),
            _number("macs", "MAC addresses that the switch has learned (hub)"),
            _number("shortcuts", "addresses that are reached directly"),
            _number("pending", "resolutions under way"),
        ),
        _vpn_show,
        nothing="no VPNs",
    ),
    Command(
        "cache show",
        "List bindings: which protocol address lives where",
        _FILTERS,
        BINDING,
        _cache_show,
        nothing="no bindings",
    ),
    Command(
        "cache watch",
        "Print changes of bindings as they happen, until interrupted",
        _FILTERS,
        (
            Column(
                "event", "added, changed, or why it went: expired, purged, flushed, ...", "text"
            ),
            *BINDING,
        ),
        _cache_watch,
        streams=True,
        follow=lambda context, listener: context.controller.subscribe(listener),
    ),
    Command(
        "cache flush",
        "Forget bindings that can be asked for again (cached, negative, learned)",
        _FILTERS,
        (_number("flushed", "how many"),),
        _cache_flush,
        text="{flushed} flushed",
        changes=True,
        patience=_WHOLE_TABLE,
    ),
    Command(
        "cache purge",
        "Withdraw bindings, at a hub registrations too, as if their source had",
        _FILTERS,
        (_number("purged", "how many"),),
        _cache_purge,
        text="{purged} purged",
        changes=True,
        patience=_WHOLE_TABLE,
    ),
    Command(
        "cache resolve",
        "Ask the hub where a MAC, IPv4 or IPv6 address lives, and show the answer",
        (_ASKED, VPN._replace(meaning="the VPN to ask in")),
        BINDING,
        _cache_resolve,
        bare=_ASKED,
        required=(_ASKED,),
        changes=True,
    ),
    Command(
        "member show",
        "List the sites and other hubs registered at this hub, with their traffic",
        (VPN, MAC._replace(meaning="this station MAC only"), NBMA, VNI),
        (
            _THE_VPN,
            AT_NBMA._replace(null=""),
            AT_VNI._replace(null=""),
            Column("protocol", "station MAC that the site registered", "mac"),
            Column("expires_in", "until the registration runs out", "seconds", "it is over"),
            _frames("rx_packets", "frames received from the site"),
            _frames("rx_bytes", "their octets", "octets"),
            _frames("tx_packets", "frames sent to the site"),
            _frames("tx_bytes", "their octets", "octets"),
            _frames("flooded", "received frames that went to all sites"),
            _frames("dropped", "received frames that were dropped"),
        ),
        _member_show,
        nothing="no members",
    ),
    Command(
        "shortcut show",
        "List what sites reach directly (at a hub: the answers that are still believed)",
        (VPN, MAC._replace(meaning="towards this MAC only"), NBMA, VNI),
        (
            IN_VPN,
            Column("nbma", "underlay address of the site that sends", "ip", "ours"),
            _vni("vni", "VXLAN network identifier there"),
            Column("protocol", "protocol address or network that it sends to", "address"),
            Column("peer_nbma", "underlay address of the site where that is", "ip"),
            _vni("peer_vni", "VXLAN network identifier there"),
            Column("expires_in", "until it must be asked for again", "seconds", "never"),
        ),
        _shortcut_show,
        nothing="no shortcuts",
    ),
    Command(
        "registration show",
        "List the registrations of this spoke with its hubs",
        (VPN, NBMA._replace(meaning="the hub at this underlay address only")),
        (
            IN_VPN,
            Column("nhs", "underlay address of the hub", "ip"),
            Column(
                "state",
                "how far it is",
                "text",
                values=("idle", "registering", "registered", "refused", "down"),
            ),
            Column("expires_in", "until the hub forgets us", "seconds", "it does not know us"),
            Column("renew_in", "until we register again", "seconds", "not to be renewed"),
            Column("last_error", "why the last attempt failed", "text", "it did not"),
        ),
        _registration_show,
        nothing="no registrations",
    ),
    Command(
        "registration renew",
        "Register again now",
        (VPN, NBMA._replace(meaning="with the hub at this underlay address only")),
        (_number("renewed", "how many"),),
        _registration_renew,
        text="{renewed} renewed",
        changes=True,
    ),
    Command(
        "fdb show",
        "List what the kernel forwards by: shortcuts of a spoke, the switch of a hub",
        (VPN, MAC, NBMA, VNI, INTERFACE),
        (
            _THE_VPN,
            Column("mac", "MAC address that frames are for", "mac"),
            AT_NBMA,
            AT_VNI,
            Column(
                "state",
                "what happens to frames",
                "text",
                values=("hold", "shortcut", "flood", "learned", "static"),
            ),
            Column("used_ago", "since it last carried a frame", "seconds", "it never did"),
            ON_INTERFACE,
        ),
        _fdb_show,
        nothing="no forwarding entries",
    ),
    Command(
        "interface show",
        "List control interfaces and data interfaces",
        (INTERFACE, NBMA, VNI),
        (
            Column("interface", "name of the interface", "text"),
            Column("role", "what it is for", "text", values=("control", "spoke", "hub")),
            Column("controller", "control interface of a data interface", "text", "it is one"),
            Column(
                "vpns", "index of its VPN, or the ranges that a hub serves", "text", "all of them"
            ),
            Column("nbma", "its own underlay address", "ip", "the system chooses it"),
            Column("vni", "its own VXLAN network identifier", "number", "none", most=MOST_VNI),
            Column("mtu", "its MTU", "number", "not known", unit="octets"),
        ),
        _interface_show,
        nothing="no interfaces",
    ),
)
