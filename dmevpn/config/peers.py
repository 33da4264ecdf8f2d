"""Peers that are not like us: which daemon each is, and the VPN of what names none. Layer: core.

Words after ``map``, ``map-vni`` and ``default-vni`` say what a peer is; ``implied-vpn`` says which
VPN packets without a VPN header belong to (RFC 2735 §3).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, cast

from dmevpn.addresses import VPNID
from dmevpn.config.arguments import Host
from dmevpn.config.grammar import PEERS
from dmevpn.config.model import InterfaceConfig, PeerPlan, SpeakerPlan, Statement
from dmevpn.config.statements import Findings, every

__all__ = [
    "UNAWARE",
    "ImpliedVPNs",
    "check_families",
    "daemon",
    "implied_vpns",
    "peers",
    "takes_nat_extension",
]

#: Daemons that cannot name a VPN.
UNAWARE: Final = frozenset({"opennhrp", "frr", "cisco"})
#: Daemons whose underlay is IPv4.
_IPV4: Final = frozenset({"legacy", "legacy-big-endian", "opennhrp", "frr"})


def takes_nat_extension(plan: SpeakerPlan, peer: str) -> bool:
    """Whether a server gets the NAT Address extension with registrations.

    :param peer: what it is said to be.
    """
    return peer in UNAWARE if plan.nat_extension is None else plan.nat_extension


def daemon(*statements: Statement) -> str:
    """What statements say that a peer is, the last word holding; ``rfc`` if they say nothing."""
    said = [o.keyword for s in statements for o in s.options if o.keyword in PEERS]
    return said[-1] if said else "rfc"


@dataclass(slots=True)
class ImpliedVPNs:
    """What the ``implied-vpn`` lines of a control interface say."""

    of_peer: dict[bytes, VPNID] = field(default_factory=dict)
    of_key: dict[int, VPNID] = field(default_factory=dict)
    plain: VPNID | None = None
    """Of all others; None: none."""
    refused: bool = False
    """Whether packets of all others are dropped."""


def implied_vpns(
    found: Findings, block: InterfaceConfig, oui: bytes, transport: str
) -> ImpliedVPNs:
    """Read the ``implied-vpn`` lines of a control interface; a later one replaces an earlier.

    :param transport: ``auto``, ``raw`` or ``device``.
    """
    implied = ImpliedVPNs()
    seen: dict[object, Statement] = {}
    for statement in every(block.statements, "implied-vpn"):
        index = cast("int | None", statement.arguments[0])
        vpn = None if index is None else VPNID(oui, index)
        if not statement.options:
            implied.plain, implied.refused = vpn, vpn is None
        elif vpn is None or len(statement.options) > 1:
            message = "implied-vpn has one of N, N of-peer ADDR, N of-key K, and none"
            found.error(statement, statement.words[1], message)
            continue
        for option in statement.options:
            if option.keyword == "of-peer":
                implied.of_peer[cast(bytes, option.arguments[0])] = cast(VPNID, vpn)
            else:
                if transport == "device":
                    message = "a kernel GRE device has one key: of-key is for transport raw"
                    found.error(option, option.keyword, message)
                implied.of_key[cast(int, option.arguments[0])] = cast(VPNID, vpn)
        what = statement.words[2:]
        if what in seen:
            message = f"implied-vpn replaces that of line {seen[what].line}"
            found.warn(statement, statement.words[1], message)
        seen[what] = statement
    return implied


def peers(
    found: Findings, block: InterfaceConfig, implied: ImpliedVPNs, oui: bytes
) -> tuple[PeerPlan, ...]:
    """The peers whose addresses a control interface says something about.

    Who cannot name a VPN implies the one of the ``vpn-id`` that governs its ``map``. A peer that
    is given by a host name is known when its name is looked up.
    """
    result = {
        address: PeerPlan(address=address, vpn=vpn) for address, vpn in implied.of_peer.items()
    }
    said: dict[bytes, Statement] = {}
    governing: VPNID | None = None
    for statement in block.statements:
        if statement.keyword == "vpn-id":
            low, high = cast(tuple[int, int], statement.arguments[0])
            governing = VPNID(oui, low) if low == high else None
        name = daemon(statement)
        if statement.keyword != "map" or name == "rfc":
            continue
        address = cast(Host, statement.arguments[1]).address
        if address is None:
            continue
        earlier = said.setdefault(address, statement)
        if daemon(earlier) != name:
            message = f"line {earlier.line} says that this peer is {daemon(earlier)}"
            found.error(statement, name, message)
            continue
        plan = result.get(address, PeerPlan(address=address))
        vpn = governing if plan.vpn is None and name in UNAWARE else plan.vpn
        result[address] = replace(plan, daemon=name, vpn=vpn)
    return tuple(result.values())


def check_families(found: Findings, statements: Iterable[Statement]) -> None:
    """Note peers with IPv6 addresses that are said to be daemons without IPv6."""
    for statement in statements:
        name = daemon(statement)
        hosts = [each for each in statement.arguments if isinstance(each, Host)]
        if name in _IPV4 and any(host.address and len(host.address) == 16 for host in hosts):
            found.error(statement, name, "this daemon knows no IPv6 underlay")
