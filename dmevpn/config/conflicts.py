"""What no two parts of a plan may share: VPNs, VNIs on a port, ports, device names. Layer: core.

The kernel would refuse some of these with an error that names neither keyword nor line, and
accept others that then mix networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from dmevpn.addresses import VPNID, format_address
from dmevpn.config.arguments import DEVICE_NAME_MAX
from dmevpn.config.model import Config, HubPlan, Plan, SpeakerPlan, SpokePlan
from dmevpn.config.parser import shown
from dmevpn.config.statements import last
from dmevpn.errors import ConfigError

__all__ = ["find_conflicts"]


def find_conflicts(config: Config, plan: Plan) -> list[ConfigError]:
    """The conflicts between the parts of a plan.

    :param config: what the plan was made of, for the places of errors.
    """
    conflicts = _Conflicts(config, plan)
    return [
        *conflicts.vpns(),
        *conflicts.spoke_planes(),
        *conflicts.hub_ports(),
        *conflicts.names(),
        *conflicts.sockets(),
        *conflicts.trunks(),
    ]


class _Conflicts:
    def __init__(self, config: Config, plan: Plan) -> None:
        self._path = config.path
        self._blocks = {block.name: block for block in config.interfaces}
        self._plan = plan
        self._spokes = [spoke for spoke in plan.spokes if spoke.bridge is not None]
        self._hubs = [hub for hub in plan.hubs if hub.provision]

    def _error(self, interface: str, message: str, *keywords: str) -> ConfigError:
        """An error at the first of the keywords that the interface has, else at its name."""
        block = self._blocks[interface]
        for keyword in keywords:
            if statement := last(block.statements, keyword):
                word = statement.words[:2][-1]
                return ConfigError(self._path, statement.line, shown(word), message)
        return ConfigError(self._path, block.line, block.name, message)

    def vpns(self) -> Iterator[ConfigError]:
        """A VPN has one spoke and one hub at most."""
        # There may be thousands of spokes, so they are not compared two by two.
        spokes: dict[VPNID, SpokePlan] = {}
        for spoke in self._plan.spokes:
            known = spokes.setdefault(spoke.vpn, spoke)
            if known is not spoke:
                message = f"{known.interface} is the spoke of VPN {spoke.vpn.index} already"
                yield self._error(spoke.interface, message, "vpn-id")
        for c, d in combinations(self._plan.hubs, 2):
            if any(x <= q and p <= y for p, q in c.vpns for x, y in d.vpns):
                message = f"{c.interface} is the hub of one of these VPNs already"
                yield self._error(d.interface, message, "vpn-id")

    def spoke_planes(self) -> Iterator[ConfigError]:
        """The kernel tells received frames apart by UDP port and VNI (vxlan_vni_in_use)."""
        for spoke in self._spokes:
            if spoke.port == 1:
                message = "a spoke takes the port below as well: 2 is the lowest possible"
                yield self._error(spoke.interface, message, "vxlan-port")
        by_vni: dict[int, list[SpokePlan]] = {}
        for b in self._spokes:
            same = by_vni.setdefault(b.vni, [])
            for a in same:
                if abs(a.port - b.port) <= 1:
                    message = (
                        f"{a.interface} has VNI {a.vni} on port {a.port} already: two VPNs need"
                        " different VNIs or ports two apart (a spoke takes the port below as well)"
                    )
                    yield self._error(b.interface, message, "vxlan-port", "default-vni")
            same.append(b)

    def hub_ports(self) -> Iterator[ConfigError]:
        """An external vxlan device has its UDP port to itself."""
        for a, b in combinations(self._hubs, 2):
            if a.port == b.port:
                message = f"UDP port {a.port} belongs to {a.interface}: choose another vxlan-port"
                yield self._error(b.interface, message, "vxlan-port")
        for hub in self._hubs:
            for spoke in self._spokes:
                if hub.port in (spoke.port, spoke.port - 1):
                    yield self._shared_port(hub, spoke)

    def _shared_port(self, hub: HubPlan, spoke: SpokePlan) -> ConfigError:
        message = (
            f"UDP port {hub.port} belongs to the hub's {hub.interface}, and a spoke takes its own"
            " and the port below: choose another vxlan-port"
        )
        return self._error(spoke.interface, message, "vxlan-port")

    def names(self) -> Iterator[ConfigError]:
        """Devices that we make are different from each other and from those of the file."""
        for spoke in self._spokes:
            shortcut = f"{spoke.interface}-s"
            if len(shortcut.encode()) > DEVICE_NAME_MAX:
                message = (
                    f"the name is too long: the shortcut plane is {shortcut}, and a device's name"
                    f" has at most {DEVICE_NAME_MAX} octets"
                )
                yield self._error(spoke.interface, message)
            if shortcut in self._blocks:
                message = f"{spoke.interface} makes a device {shortcut}, which is declared as well"
                yield self._error(shortcut, message)
        shortcuts = {f"{spoke.interface}-s" for spoke in self._spokes}
        for spoke in self._spokes:
            if spoke.bridge in self._blocks and self._is_ours(str(spoke.bridge)):
                message = f"the bridge {spoke.bridge} cannot be a control or data interface as well"
                yield self._error(spoke.interface, message, "provision")
            elif spoke.bridge in shortcuts:
                message = f"{spoke.bridge} is the name of a shortcut plane: choose another bridge"
                yield self._error(spoke.interface, message, "provision")

    def _is_ours(self, name: str) -> bool:
        """Whether an interface of the file has a role (``br-test`` of old files has none)."""
        roles = [(spoke.interface, spoke.controller) for spoke in self._plan.spokes]
        roles += [(hub.interface, hub.controller) for hub in self._plan.hubs]
        return any(name in role for role in roles)

    def sockets(self) -> Iterator[ConfigError]:
        """Raw sockets with one address and key would both get, and answer, every packet."""
        by_socket = [each for each in self._plan.speakers if each.transport != "device"]
        for a, b in combinations(by_socket, 2):
            same_address = a.nbma_address == b.nbma_address or not (
                a.nbma_address and b.nbma_address
            )
            if same_address and _keys(a) & _keys(b):
                message = (
                    f"every packet would reach {a.interface} as well: give each control interface"
                    " its own gre-key or nbma-address, or `transport device`"
                )
                yield self._error(b.interface, message, "gre-key", "nbma-address")

    def trunks(self) -> Iterator[ConfigError]:
        """A hub is no other hub."""
        own = {each.interface: each.nbma_address for each in self._plan.speakers}
        for hub in self._plan.hubs:
            for trunk in hub.trunks:
                if trunk.address == own.get(hub.controller):
                    address = format_address(trunk.address)
                    message = (
                        f"{address} is the nbma-address of {hub.controller}: name other hubs only"
                    )
                    yield self._error(hub.interface, message, "other-hub")


def _keys(speaker: SpeakerPlan) -> set[int | None]:
    """The GRE keys whose packets a control interface takes; None: without a key."""
    return {speaker.gre_key, *(key for key, _ in speaker.vpn_of_key)}
