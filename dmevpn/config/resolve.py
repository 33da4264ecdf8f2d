"""From what a file says to what should run: cross references, roles, defaults. Layer: core.

Which role an interface has follows from its keywords: whoever has ``controller`` is a data
interface, of a spoke with ``default-vni`` and of a hub with ``l2learnonly``; whoever is named by
a ``controller`` is a control interface; anybody else has no effect, and a warning says so.
What would be a mistake of a new file, but stands in files of OpenNHRP or the original dmevpn, is
a warning; everything else that cannot work is an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, cast

from dmevpn.addresses import DEFAULT_OUI, VPNID
from dmevpn.config.admission import admission
from dmevpn.config.conflicts import find_conflicts
from dmevpn.config.grammar import KEYWORDS, Context
from dmevpn.config.keys import authentication
from dmevpn.config.layer3 import layer3_plans, needs_device, speaks_layer3
from dmevpn.config.model import (
    DEFAULT_KEEPALIVE_MULTIPLIER,
    DEFAULT_REQUEST_RATE,
    DEFAULT_VXLAN_PORT,
    Config,
    ConfigWarning,
    HubPlan,
    InterfaceConfig,
    KeepalivePlan,
    Layer3Plan,
    Plan,
    SpeakerPlan,
    SpokePlan,
    Statement,
)
from dmevpn.config.parser import parse_all
from dmevpn.config.peers import check_families, implied_vpns, peers
from dmevpn.config.servers import check_servers, default_servers, register
from dmevpn.config.statements import Findings, every, holding_time, last, single_vpn, value
from dmevpn.config.switch import switch
from dmevpn.config.trunks import trunks
from dmevpn.config.upstream import upstream
from dmevpn.errors import ConfigError

__all__ = ["Resolution", "check", "resolve", "resolve_all"]


class Resolution(NamedTuple):
    """What a file amounts to."""

    plan: Plan | None
    """What should run; None if there are errors."""
    errors: list[ConfigError]
    """By line."""
    warnings: list[ConfigWarning]
    """By line."""

    @property
    def messages(self) -> list[str]:
        """Errors and warnings as text, by line, an error before a warning of its line."""
        found: list[ConfigError | ConfigWarning] = [*self.errors, *self.warnings]
        return [str(each) for each in sorted(found, key=lambda each: each.line)]


def _no_files(path: str) -> bytes:
    raise ValueError("files of keys cannot be read here")


def check(
    text: str, path: str, name: str, read_key: Callable[[str], bytes] = _no_files
) -> Resolution:
    """Read and resolve the text of a configuration file; never raises for what it says.

    :param text: contents of the file.
    :param path: its name as the user gave it, for errors.
    :param name: its base name without suffix, from which defaults are made.
    :param read_key: the key in a file; raises ValueError with the reason if there is none.
    """
    config, errors = parse_all(text, path)
    # What is half read would only draw errors that go away with the first ones.
    return Resolution(None, errors, []) if errors else resolve_all(config, name, read_key)


def resolve(config: Config, name: str) -> tuple[Plan, list[ConfigWarning]]:
    """Make the plan of a configuration.

    :param name: the base name of its file without suffix, from which defaults are made.
    :raises ConfigError: at the first mistake.
    """
    plan, errors, warnings = resolve_all(config, name)
    if plan is None:
        raise errors[0]
    return plan, warnings


def resolve_all(
    config: Config, name: str, read_key: Callable[[str], bytes] = _no_files
) -> Resolution:
    """As :func:`resolve`, with all mistakes instead of the first."""
    resolver = _Resolver(config, read_key)
    plan = resolver.run(name)
    errors = sorted(resolver.found.errors, key=lambda error: error.line)
    warnings = sorted(resolver.found.warnings, key=lambda warning: warning.line)
    return Resolution(None if errors else plan, errors, warnings)


def _quoted(text: str) -> str:
    """Text as an argument of a Twisted endpoint description."""
    return "".join(f"\\{c}" if c in "\\:=" else c for c in text)


class _Resolver:
    """The state of one run: what was found so far."""

    def __init__(self, config: Config, read_key: Callable[[str], bytes]) -> None:
        self._config = config
        self._read_key = read_key
        self._blocks = {block.name: block for block in config.interfaces}
        self._named = {
            str(statement.arguments[0])
            for block in config.interfaces
            for statement in every(block.statements, "controller")
        }
        self.found = Findings(config.path)

    def run(self, name: str) -> Plan:
        top = self._config.top
        self._check_repeats(top)
        self._warn_no_effect(top)
        oui = value(top, "vpn-oui", DEFAULT_OUI)
        spokes: list[SpokePlan] = []
        hubs: list[HubPlan] = []
        controls: list[InterfaceConfig] = []
        for block in self._config.interfaces:
            context = self._role(block)
            if context is None:
                continue
            self._check_block(block, context)
            if context is Context.CONTROL:
                controls.append(block)
            elif context is Context.SPOKE:
                spokes += self._spoke(block, oui)
            else:
                hubs += self._hub(block)
        layer3: list[Layer3Plan] = []
        for block in controls:
            plans, used = layer3_plans(self.found, block, oui, self._transport(block))
            layer3 += plans
            hubs, routing = upstream(self.found, block, hubs)
            spokes = register(self.found, block, spokes, used | routing)
        for spoke in spokes:
            blocks = self._blocks[spoke.interface], self._blocks[spoke.controller]
            check_servers(self.found, spoke, *blocks)
        speaking = {spoke.controller for spoke in spokes} | {hub.controller for hub in hubs}
        speaking |= {each.interface for each in layer3}
        speakers = [self._speaker(block, oui) for block in controls if block.name in speaking]
        endpoint = f"unix:/run/dmevpn/{_quoted(name)}.sock:mode=600:lockfile=1"
        plan = Plan(
            oui=oui,
            speakers=tuple(speakers),
            spokes=tuple(spokes),
            hubs=tuple(hubs),
            layer3=tuple(layer3),
            admin=tuple(str(s.arguments[0]) for s in every(top, "admin")) or (endpoint,),
            admin_allow=tuple(
                cast("tuple[str, str, str]", s.arguments) for s in every(top, "admin-allow")
            ),
            metrics=value(top, "metrics", cast("str | None", None)),
            opennhrp_script=value(top, "opennhrp-script", cast("str | None", None)),
            opennhrp_socket=value(top, "opennhrp-socket", cast("str | None", None)),
            status=value(top, "status", cast("str | None", None)),
            state_dir=value(top, "state-dir", f"/var/lib/dmevpn/{name}"),
            leave_forwarding=value(top, "leave-forwarding", False),
            log_format=value(top, "log-format", "text"),
        )
        self._check_admin(top)
        self.found.errors += find_conflicts(self._config, plan)
        if not self.found.errors:
            self._check_idle(plan, controls)
        return plan

    def _check_admin(self, top: Iterable[Statement]) -> None:
        """Note an endpoint for certificates when no certificate is named."""
        named = any(s.arguments[1] == "certificate" for s in every(top, "admin-allow"))
        for statement in every(top, "admin"):
            if str(statement.arguments[0]).startswith("tls:") and not named:
                message = "nobody could use it: write `admin-allow full certificate NAME`, too"
                self.found.error(statement, "admin", message)

    # --- what does nothing ---

    def _warn_no_effect(self, statements: Iterable[Statement]) -> None:
        """Warn about keywords and options that the grammar says do nothing yet."""
        for statement in statements:
            row = KEYWORDS[statement.keyword]
            if row.no_effect:
                self.found.warn(statement, row.name, f"{row.name} has no effect ({row.no_effect})")
                continue
            reasons = {option.name: option.no_effect for option in row.options}
            for option in statement.options:
                if reasons[option.keyword]:
                    message = f"{option.keyword} after {row.name} has no effect"
                    reason = reasons[option.keyword]
                    self.found.warn(option, option.keyword, f"{message} ({reason})")

    def _check_repeats(self, statements: Iterable[Statement]) -> None:
        """Warn about keywords of which only the last counts."""
        seen: dict[str, Statement] = {}
        for statement in statements:
            name = statement.keyword
            if name in seen and not KEYWORDS[name].repeatable:
                earlier = seen[name].line
                self.found.warn(statement, name, f"{name} replaces that of line {earlier}")
            seen[name] = statement

    def _warn_block(self, block: InterfaceConfig, reason: str) -> None:
        idle = ", ".join(dict.fromkeys(statement.keyword for statement in block.statements))
        subject = f"{idle} of this interface" if idle else "this interface"
        verb = "have" if "," in idle else "has"
        self.found.warn(block, block.name, f"{reason}: {subject} {verb} no effect")

    # --- roles ---

    def _role(self, block: InterfaceConfig) -> Context | None:
        """What an interface is; None if it is nothing, which is reported."""
        statements = block.statements
        controller = last(statements, "controller")
        spoke = last(statements, "default-vni")
        hub = last(statements, "l2learnonly")
        if controller is None:
            if block.name in self._named:
                return Context.CONTROL
            data = spoke or hub
            if data is None and speaks_layer3(block):
                return Context.CONTROL
            if data is None:
                self._warn_no_effect(statements)
                reason = "no `controller` names this interface"
                if not statements:
                    reason += ", and it does not say `transport device`"
                self._warn_block(block, reason)
            elif last(statements, "vpn-id") is None:
                self._warn_block(block, "no vpn-id")
            else:
                message = f"{data.keyword} needs the control interface: write `controller IFNAME`"
                self.found.error(data, data.keyword, message)
            return None
        if not self._check_controller(controller):
            return None
        if last(statements, "vpn-id") is None:
            self._warn_block(block, "no vpn-id")
        elif spoke and hub:
            message = (
                "default-vni makes a spoke and l2learnonly a hub: one interface cannot be both"
            )
            self.found.error(max(spoke, hub, key=lambda s: s.line), block.name, message)
        elif spoke:
            return Context.SPOKE
        elif hub:
            return Context.HUB
        else:
            self._warn_block(block, "neither default-vni (spoke) nor l2learnonly (hub)")
        return None

    def _check_controller(self, controller: Statement) -> bool:
        name = str(controller.arguments[0])
        target = self._blocks.get(name)
        if target is None:
            close = difflib.get_close_matches(name, list(self._blocks), 1, 0.6)
            hint = f"did you mean {close[0]}?" if close else f"add `interface {name}`"
            self.found.error(controller, name, f"no interface of this name is declared; {hint}")
            return False
        if last(target.statements, "controller"):
            message = "a control interface is needed, but this one has a `controller` itself"
            self.found.error(controller, name, message)
            return False
        return True

    def _check_block(self, block: InterfaceConfig, context: Context) -> None:
        """Report what is misplaced, repeated or idle in the block of a role."""
        fitting = []
        for statement in block.statements:
            row = KEYWORDS[statement.keyword]
            if context in row.contexts:
                fitting.append(statement)
                continue
            where = " or ".join(c.value for c in Context if c in row.contexts)
            message = f"{row.name} belongs to {where}; this is {context.value}"
            if row.inherited:
                self.found.warn(statement, row.name, f"{message}: no effect")
            else:
                self.found.error(statement, row.name, message)
        check_families(self.found, fitting)
        self._check_repeats(fitting)
        self._warn_no_effect(fitting)

    # --- data interfaces ---

    def _provision(self, block: InterfaceConfig) -> tuple[Statement | None, int]:
        """``provision``, if it is there, and the UDP port."""
        provision = last(block.statements, "provision")
        port = last(block.statements, "vxlan-port")
        if port and not provision:
            message = "vxlan-port has no effect without provision: the device has its own port"
            self.found.warn(port, port.keyword, message)
        return provision, value(block.statements, "vxlan-port", DEFAULT_VXLAN_PORT)

    def _spoke(self, block: InterfaceConfig, oui: bytes) -> Iterator[SpokePlan]:
        statements = block.statements
        before = len(self.found.errors)
        vpns = every(statements, "vpn-id")
        index = single_vpn(self.found, vpns[0], "a spoke's data interface")
        for further in vpns[1:]:
            message = f"a spoke's data interface has one VPN: line {vpns[0].line} says which"
            self.found.error(further, further.words[1], message)
        defaults = every(statements, "default-vni")
        vni = cast(int, defaults[0].arguments[0])
        for default in defaults[1:]:
            if default.arguments[0] != vni:
                message = f"a spoke has one VNI in a VPN: line {defaults[0].line} says {vni}"
                self.found.error(default, default.words[1], message)
        provision, port = self._provision(block)
        bridge = provision.arguments[0] if provision else None
        if provision and bridge is None:
            self.found.error(
                provision, "provision", "a spoke needs the bridge: write `provision BRIDGE`"
            )
        if index is not None and len(self.found.errors) == before:
            yield SpokePlan(
                interface=block.name,
                controller=value(statements, "controller", ""),
                vpn=VPNID(oui, index),
                vni=vni,
                servers=default_servers(self.found, defaults),
                bridge=cast("str | None", bridge),
                port=port,
            )

    def _hub(self, block: InterfaceConfig) -> Iterator[HubPlan]:
        statements = block.statements
        provision, port = self._provision(block)
        if provision and provision.arguments[0] is not None:
            message = "a hub has no bridge: write `provision` alone"
            self.found.error(provision, str(provision.arguments[0]), message)
        ranges: list[tuple[int, int]] = []
        for statement in every(statements, "vpn-id"):
            low, high = cast(tuple[int, int], statement.arguments[0])
            for first, final in ranges:
                if low <= final and first <= high:
                    message = "this hub serves the VPN already: vpn-id overlaps an earlier one"
                    self.found.error(statement, statement.words[1], message)
                    break
            else:
                ranges.append((low, high))
        yield HubPlan(
            interface=block.name,
            controller=value(statements, "controller", ""),
            vpns=tuple(sorted(ranges)),
            provision=provision is not None,
            port=port,
            admission=admission(self.found, block, ranges),
            trunks=trunks(self.found, block, ranges),
            switch=switch(self.found, block, ranges),
        )

    # --- control interfaces ---

    def _transport(self, block: InterfaceConfig) -> str:
        if block.name not in self._named and needs_device(block):
            # Rather no start than one without a way to anybody.
            return "device"
        return value(block.statements, "transport", "auto")

    def _speaker(self, block: InterfaceConfig, oui: bytes) -> SpeakerPlan:
        said = block.statements
        key = last(said, "gre-key")
        if key is not None and self._transport(block) == "device":
            message = "gre-key has no effect with transport device: the device has its own"
            self.found.warn(key, "gre-key", message)
        implied = implied_vpns(self.found, block, oui, self._transport(block))
        return SpeakerPlan(
            interface=block.name,
            transport=self._transport(block),
            nbma_address=value(said, "nbma-address", cast("bytes | None", None)),
            gre_key=value(said, "gre-key", cast("int | None", None)),
            authentication=authentication(self.found, block, self._read_key),
            holding_time=holding_time(self.found, last(said, "holding-time")),
            keepalive=_keepalive(said),
            nat_detection=value(said, "nat-detection", True),
            nat_extension=value(said, "nat-extension", cast("bool | None", None)),
            multi_binding=value(said, "multi-binding", False),
            vpn_errors=value(said, "vpn-errors", True),
            request_rate=value(said, "request-rate", DEFAULT_REQUEST_RATE),
            peers=peers(self.found, block, implied, oui),
            vpn_of_key=tuple(implied.of_key.items()),
            plain_vpn=implied.plain,
            plain=not implied.refused,
            legacy_detection=value(said, "legacy-detection", True),
        )

    # --- what only the whole shows ---

    def _check_idle(self, plan: Plan, controls: list[InterfaceConfig]) -> None:
        """Warn about what is declared for nobody, and about bridges that join VPNs."""
        speaking = {speaker.interface for speaker in plan.speakers}
        for block in controls:
            if block.name not in speaking:
                self._warn_block(block, "no data interface in effect names this interface")
        bridges: dict[str, SpokePlan] = {}
        for spoke in plan.spokes:
            if spoke.bridge is None:
                continue
            other = bridges.setdefault(spoke.bridge, spoke)
            if other is not spoke:
                provision = every(self._blocks[spoke.interface].statements, "provision")[-1]
                message = f"joins VPN {spoke.vpn.index} and VPN {other.vpn.index} into one LAN"
                self.found.warn(provision, spoke.bridge, message)
        if not plan.speakers:
            self.found.warn(None, "", "nothing to do: no data interface, no protocol-address")


def _keepalive(said: Iterable[Statement]) -> KeepalivePlan | None:
    """How the servers of a control interface are watched."""
    statement = last(said, "keepalive")
    if statement is None:
        return None
    interval, multiplier = cast("tuple[int, int | None]", statement.arguments)
    return KeepalivePlan(interval=interval, multiplier=multiplier or DEFAULT_KEEPALIVE_MULTIPLIER)
