"""The next hop servers of a spoke, from ``default-vni``, ``map-vni`` and ``map``. Layer: core.

``default-vni`` names where frames flood to, ``map-vni`` where to register, ``map`` translates the
protocol address of the latter. What names one address is one server.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import replace
from typing import cast

from dmevpn.addresses import format_address
from dmevpn.config.arguments import Host
from dmevpn.config.model import InterfaceConfig, NHSPlan, SpokePlan, Statement
from dmevpn.config.peers import daemon
from dmevpn.config.statements import Findings, every, has_option, last, single_vpn

__all__ = ["check_servers", "default_servers", "register"]


def default_servers(found: Findings, defaults: Iterable[Statement]) -> tuple[NHSPlan, ...]:
    """The servers that ``default-vni`` lines name, in their order."""
    servers: tuple[NHSPlan, ...] = ()
    for default in defaults:
        host = cast(Host, default.arguments[1])
        server = _server(host, default, register=has_option(default, "register"), flood=True)
        known = len(servers)
        servers = _with(servers, server)
        if len(servers) == known:
            found.warn(default, host.text, "an earlier default-vni of this interface named this")
    return servers


def register(
    found: Findings,
    block: InterfaceConfig,
    spokes: Iterable[SpokePlan],
    elsewhere: Container[Statement] = (),
) -> list[SpokePlan]:
    """The spokes, with what the ``map-vni`` lines of a control interface add to them.

    :param block: of the control interface.
    :param elsewhere: its ``map`` and ``vpn-id`` lines that have another effect.
    """
    result = list(spokes)
    maps = {_protocol(each): each for each in every(block.statements, "map")}
    used: set[bytes | None] = set()
    for statement, index in _map_vnis(found, block, elsewhere):
        nhs, mac = cast("tuple[Host, bytes | None]", statement.arguments[1:])
        mapped = maps.get(nhs.address)
        used.add(nhs.address)
        if not has_option(statement, "register"):
            found.warn(statement, "map-vni", "map-vni has no effect without register")
            continue
        place = _find(found, block, statement, result, index)
        if place is None:
            continue
        spoke = result[place]
        if mapped is not None:
            host = cast(Host, mapped.arguments[1])
            server = _server(host, mapped, statement, register=True, flood=False)
        else:
            if _may_be_protocol(nhs, spoke):
                nhs = _neighbour(found, block, statement, nhs)
            server = _server(nhs, statement, register=True, flood=False)
        if mac is not None and spoke.station is not None and spoke.station != mac:
            message = f"the station MAC of VPN {index} stays {format_address(spoke.station)}"
            found.warn(statement, statement.words[3], message)
        result[place] = replace(
            spoke, servers=_with(spoke.servers, server), station=spoke.station or mac
        )
    for address, each in maps.items():
        says_what = daemon(each) != "rfc" and cast(Host, each.arguments[1]).address is not None
        if address not in used and each not in elsewhere and not says_what:
            message = "map has no effect: no map-vni of this interface names its address"
            found.warn(each, each.words[1], message)
    return result


def check_servers(
    found: Findings, spoke: SpokePlan, block: InterfaceConfig, control: InterfaceConfig
) -> None:
    """Note servers that are not of one address family with us, and a spoke without registration.

    :param block: of the spoke's data interface.
    :param control: of its control interface.
    """
    default = every(block.statements, "default-vni")[0]
    own = last(control.statements, "nbma-address")
    families = {len(server.address): server.host for server in spoke.servers if server.address}
    if len(families) > 1:
        names = " and ".join(families.values())
        message = f"the servers of a VPN are all IPv4 or all IPv6, unlike {names}"
        found.error(default, default.keyword, message)
    elif own and families and len(cast(bytes, own.arguments[0])) not in families:
        message = f"not of the address family of the server {next(iter(families.values()))}"
        found.error(own, own.words[1], message)
    if not any(server.register for server in spoke.servers):
        message = (
            f"VPN {spoke.vpn.index} registers nowhere, so nothing reaches it:"
            " add register to default-vni"
        )
        found.warn(default, default.keyword, message)


def _protocol(statement: Statement) -> bytes | None:
    return cast(tuple[bytes, int], statement.arguments[0])[0]


def _server(host: Host, *statements: Statement, register: bool, flood: bool) -> NHSPlan:
    return NHSPlan(
        host=host.text,
        address=host.address,
        register=register,
        flood=flood,
        unique=not any(has_option(statement, "no-unique") for statement in statements),
        peer=daemon(*statements),
    )


def _with(servers: tuple[NHSPlan, ...], server: NHSPlan) -> tuple[NHSPlan, ...]:
    """Servers with one more, merged with the one of the same address or name."""
    for place, known in enumerate(servers):
        same_name = known.host.lower() == server.host.lower()
        if same_name if server.address is None else known.address == server.address:
            merged = replace(
                known,
                register=known.register or server.register,
                flood=known.flood or server.flood,
                unique=known.unique and server.unique,
                peer=known.peer if server.peer == "rfc" else server.peer,
            )
            return (*servers[:place], merged, *servers[place + 1 :])
    return (*servers, server)


def _map_vnis(
    found: Findings, block: InterfaceConfig, elsewhere: Container[Statement]
) -> Iterator[tuple[Statement, int]]:
    """Each ``map-vni`` with the index of the VPN that governs it."""
    vpns = every(block.statements, "vpn-id")
    governing = vpns[0] if len(vpns) == 1 else None
    governs: set[Statement] = set()
    for statement in block.statements:
        if statement.keyword == "vpn-id":
            governing = statement
        if statement.keyword != "map-vni":
            continue
        if not vpns:
            message = "map-vni has no effect without vpn-id: write `vpn-id N` before it"
            found.warn(statement, "map-vni", message)
        elif governing is None:
            message = "of several vpn-id on an interface, one must stand before map-vni"
            found.error(statement, "map-vni", message)
        else:
            governs.add(governing)
            index = single_vpn(found, governing, "a map-vni")
            if index is not None:
                yield statement, index
    for vpn in vpns:
        if vpn not in governs and vpn not in elsewhere:
            message = (
                "vpn-id has no effect: on a control interface it is for map-vni and"
                " protocol-address"
            )
            found.warn(vpn, vpn.words[1], message)


def _find(
    found: Findings,
    block: InterfaceConfig,
    statement: Statement,
    spokes: list[SpokePlan],
    index: int,
) -> int | None:
    """The place of the spoke that a ``map-vni`` registers; None if there is none (noted)."""
    vni = statement.arguments[0]
    for place, spoke in enumerate(spokes):
        if spoke.controller == block.name and spoke.vpn.index == index:
            if spoke.vni == vni:
                return place
            message = f"map-vni has no effect: {spoke.interface} has VNI {spoke.vni} in VPN {index}"
            found.warn(statement, statement.words[1], message)
            return None
    if not found.errors:  # else it may be there, and wrong
        message = f"map-vni has no effect: no data interface with VPN {index} and VNI {vni}"
        found.warn(statement, "map-vni", message)
    return None


def _may_be_protocol(nhs: Host, spoke: SpokePlan) -> bool:
    """Whether an NHS without a ``map`` is given by an address that is none of a hub's."""
    flooded = [server.address for server in spoke.servers if server.flood]
    return nhs.address is not None and None not in flooded and nhs.address not in flooded


def _neighbour(found: Findings, block: InterfaceConfig, statement: Statement, nhs: Host) -> Host:
    """An NHS that a kernel GRE device may know as a neighbour; without one it is what it says."""
    given = last(block.statements, "transport")
    transport = "auto" if given is None else given.arguments[0]
    if transport != "device":
        message = (
            "taken for an underlay address; if it is a protocol address, write"
            f" `map {nhs.text} NBMA`"
        )
        if transport == "auto":
            message += ", or `transport device` if the kernel knows it as a neighbour"
        found.warn(statement, nhs.text, message)
    return Host(nhs.text, None) if transport != "raw" else nhs
