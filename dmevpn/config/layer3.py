"""The IPv4 and IPv6 side of a control interface: addresses, maps, targets. Layer: core.

With ``transport raw`` a family has a protocol address or does nothing. A kernel GRE device has
addresses of its own, which only a running daemon sees, so there every line may have an effect.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Set
from dataclasses import dataclass, field
from typing import Final, cast

from dmevpn.addresses import VPNID, format_address
from dmevpn.config.arguments import Host
from dmevpn.config.model import (
    MAIN_TABLE,
    InterfaceConfig,
    Layer3Plan,
    MapPlan,
    ProtocolPermitPlan,
    Statement,
    TargetPlan,
)
from dmevpn.config.peers import daemon
from dmevpn.config.statements import (
    Findings,
    every,
    has_option,
    holding_time,
    last,
    single_vpn,
    value,
)

__all__ = ["layer3_plans", "needs_device", "speaks_layer3"]

#: Keywords that are about one VPN: that of the ``vpn-id`` before them.
_OF_A_VPN: Final = (
    *("protocol-address", "map", "dynamic-map", "shortcut-target"),
    "permit-protocol",
)
#: Keywords that are about all VPNs of the interface.
_OF_ALL: Final = ("shortcut", "redirect", "route-table")

#: Keywords that tell a block of OpenNHRP's, which is about a GRE device. A server's has no ``map``.
_OF_OPENNHRP: Final = frozenset(
    {*_OF_A_VPN, *_OF_ALL, "cisco-authentication", "holding-time", "multicast", "non-caching"}
)

_FAMILIES: Final = {4: "IPv4", 16: "IPv6"}


@dataclass
class _Instance:
    """The statements about one VPN."""

    vpn: VPNID | None
    governors: set[Statement] = field(default_factory=set)
    """The ``vpn-id`` lines that say so."""
    statements: list[Statement] = field(default_factory=list)


def speaks_layer3(block: InterfaceConfig) -> bool:
    """Whether an interface that no ``controller`` names is a control interface all the same."""
    keywords = {statement.keyword for statement in block.statements}
    if value(block.statements, "transport", "auto") == "auto":
        return not keywords.isdisjoint(_OF_OPENNHRP)
    return "protocol-address" in keywords or needs_device(block)


def needs_device(block: InterfaceConfig) -> bool:
    """Whether such an interface is of no use without a kernel GRE device."""
    transport = value(block.statements, "transport", "auto")
    return transport == "device" or (
        transport == "auto" and last(block.statements, "protocol-address") is None
    )


def layer3_plans(
    found: Findings, block: InterfaceConfig, oui: bytes, transport: str
) -> tuple[list[Layer3Plan], Set[Statement]]:
    """What a control interface does for IPv4 and IPv6.

    :param block: of the control interface.
    :param transport: ``auto``, ``raw`` or ``device``.
    :return: a plan for each VPN, and the statements (``vpn-id`` too) that have an effect there.
    """
    everywhere = [each for each in block.statements if each.keyword in _OF_ALL]
    plans: list[Layer3Plan] = []
    used: set[Statement] = set()
    for instance in _instances(found, block, oui):
        addresses = _addresses(found, instance)
        on_device = instance.vpn is None and transport != "raw"
        if not addresses and not (
            on_device and (instance.statements or everywhere or transport == "device")
        ):
            _warn_idle(found, instance.statements, transport)
            continue
        families = frozenset(_FAMILIES if on_device else (len(each) for each, _ in addresses))
        plans.append(
            Layer3Plan(
                interface=block.name,
                vpn=instance.vpn,
                addresses=addresses,
                maps=_maps(instance, families, used),
                targets=_targets(found, instance, families),
                permits=_permits(instance),
                shortcut=last(everywhere, "shortcut") is not None,
                redirect=last(everywhere, "redirect") is not None,
                route_table=value(everywhere, "route-table", MAIN_TABLE),
            )
        )
        used |= instance.governors
    if not plans:
        _warn_idle(found, everywhere, transport)
    return plans, used


def _instances(found: Findings, block: InterfaceConfig, oui: bytes) -> Iterable[_Instance]:
    """The VPNs that the block has lines about; the default routing instance first."""
    instances: dict[int | None, _Instance] = {None: _Instance(None)}
    governor: Statement | None = None
    for statement in block.statements:
        if statement.keyword == "vpn-id":
            governor = statement
        if statement.keyword not in _OF_A_VPN or _is_about_macs(statement):
            continue
        index = None
        if governor is not None:
            index = single_vpn(found, governor, f"a {statement.keyword}")
            if index is None:
                continue
        instance = instances.get(index)
        if instance is None:
            instance = instances[index] = _Instance(VPNID(oui, cast(int, index)))
        if governor is not None:
            instance.governors.add(governor)
        if len(cast(tuple[bytes, int], statement.arguments[0])[0]) in _FAMILIES:
            instance.statements.append(statement)
    return instances.values()


def _is_about_macs(statement: Statement) -> bool:
    """Whether a ``map`` is a hub's, see :mod:`dmevpn.config.upstream`."""
    if statement.keyword != "map":
        return False
    protocol, _ = cast(tuple[bytes, int], statement.arguments[0])
    return len(protocol) not in _FAMILIES


def _addresses(found: Findings, instance: _Instance) -> tuple[tuple[bytes, int], ...]:
    addresses: dict[int, tuple[bytes, int]] = {}
    for statement in every(instance.statements, "protocol-address"):
        address, bits = cast(tuple[bytes, int], statement.arguments[0])
        known = addresses.setdefault(len(address), (address, bits))
        if known != (address, bits):
            message = (
                f"the {_FAMILIES[len(address)]} protocol address of this interface"
                f" is {format_address(known[0])} already"
            )
            found.error(statement, statement.words[1], message)
    return tuple(addresses.values())


def _maps(
    instance: _Instance, families: Container[int], used: set[Statement]
) -> tuple[MapPlan, ...]:
    maps = []
    for statement in instance.statements:
        dynamic = statement.keyword == "dynamic-map"
        if statement.keyword != "map" and not dynamic:
            continue
        (protocol, bits), host = cast("tuple[tuple[bytes, int], Host]", statement.arguments)
        if len(protocol) not in families:
            continue
        used.add(statement)
        maps.append(
            MapPlan(
                protocol=protocol,
                prefix_length=bits,
                host=host.text,
                address=host.address,
                dynamic=dynamic,
                register=dynamic or has_option(statement, "register"),
                unique=not has_option(statement, "no-unique"),
                peer=daemon(statement),
            )
        )
    return tuple(maps)


def _targets(
    found: Findings, instance: _Instance, families: Container[int]
) -> tuple[TargetPlan, ...]:
    targets = []
    for statement in every(instance.statements, "shortcut-target"):
        protocol, bits = cast(tuple[bytes, int], statement.arguments[0])
        if len(protocol) not in families:
            message = "shortcut-target has no effect: this interface has no address of its family"
            found.warn(statement, statement.words[1], message)
            continue
        seconds = holding_time(found, last(statement.options, "holding-time"))
        network = int.from_bytes(protocol, "big") >> (8 * len(protocol) - bits)
        first = (network << (8 * len(protocol) - bits)).to_bytes(len(protocol), "big")
        targets.append(TargetPlan(protocol=first, prefix_length=bits, holding_time=seconds))
    return tuple(targets)


def _permits(instance: _Instance) -> tuple[ProtocolPermitPlan, ...]:
    permits = []
    for statement in every(instance.statements, "permit-protocol"):
        (protocol, bits), nbma = cast(
            "tuple[tuple[bytes, int], tuple[bytes, int] | None]", statement.arguments
        )
        spi = next((each.arguments[0] for each in statement.options), None)
        permits.append(
            ProtocolPermitPlan(
                protocol=protocol, prefix_length=bits, nbma=nbma, spi=cast("int | None", spi)
            )
        )
    return tuple(permits)


def _warn_idle(found: Findings, statements: Iterable[Statement], transport: str) -> None:
    """Warn about lines that wait for an address; a ``map`` may still serve a ``map-vni``."""
    where = "with transport raw it needs" if transport == "raw" else "here it needs"
    for statement in statements:
        if statement.keyword != "map":
            message = f"{statement.keyword} has no effect: {where} a protocol-address"
            found.warn(statement, statement.keyword, message)
