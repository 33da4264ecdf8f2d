"""``twistd dmevpn``: options, and the choice of every driver. Layer: top."""

from __future__ import annotations

import os
import random
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, TextIO

from twisted.application.service import IService
from twisted.internet import threads
from twisted.python import usage

from dmevpn import __version__
from dmevpn.admin.access import Grant
from dmevpn.admin.opennhrp_socket import OpenNHRPService
from dmevpn.admin.pb import AdminService
from dmevpn.config.model import HubPlan, Layer3Plan, Plan, SpeakerPlan, SpokePlan
from dmevpn.daemon import Daemon
from dmevpn.dataplane.ebpf.peer_filter import PeerFilter
from dmevpn.dataplane.gre_device import control_device
from dmevpn.dataplane.hub_ebpf import EBPFSwitch
from dmevpn.dataplane.hub_provision import provision_hub
from dmevpn.dataplane.no_device import NoDevice
from dmevpn.dataplane.spoke_fdb import VXLANFDB
from dmevpn.dataplane.spoke_removal import take_down
from dmevpn.dataplane.tunnel import KernelTunnel
from dmevpn.errors import StartError
from dmevpn.garbage import GarbageCollection
from dmevpn.interfaces import (
    IControlDevice,
    IController,
    IDatagramTransport,
    ILayer3Dataplane,
)
from dmevpn.log import LEVELS, Logger
from dmevpn.logfile import make_observer
from dmevpn.metrics import Metrics
from dmevpn.nhrp.request_ids import open_store
from dmevpn.privileges import check_privileges
from dmevpn.roles.configfile import ConfigFile
from dmevpn.roles.node import Drivers, Node
from dmevpn.roles.peer_table import PeerTable
from dmevpn.scripts import ScriptRunner
from dmevpn.statefile import open_state
from dmevpn.statelock import StateLock
from dmevpn.transport.hostname import resolve_host
from dmevpn.transport.limits import PeerLimits
from dmevpn.transport.packet import PacketPort
from dmevpn.transport.rawgre import RawGREPort

__all__ = ["Options", "makeService"]

log = Logger()


class Options(usage.Options):
    """What may stand behind ``twistd dmevpn``."""

    synopsis = "[options] --config FILE"
    longdesc = (
        "Stretches layer-2 networks between sites: NHRP (RFC 2332, RFC 2735) finds where a MAC"
        " lives, VXLAN carries its frames there. FILE says whether this is a hub, a spoke or both."
        " SIGHUP reads it again. Begin with: twistd dmevpn --config hub.conf --check; then: twistd"
        " --nodaemon dmevpn --config hub.conf, and dmevpnctl --help in another terminal."
    )
    optParameters = [  # noqa: RUF012 -- the spelling of twisted.python.usage
        ["config", "c", None, "The configuration file (grammar: dmevpn.conf(5))."],
        ["state-dir", "s", None, "Where state is kept; wins over the file's state-dir."],
    ]
    optFlags = [  # noqa: RUF012
        ["check", None, "Print every error and warning of FILE and exit: 0 if it has no error."],
        ["remove", None, "Take down what an ended daemon of FILE left forwarding, and exit."],
    ]

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"dmevpn {__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """Read the file: a mistake in it ends here, before anything is touched."""
        if not self["config"]:
            raise SystemExit("dmevpn: say which file: twistd dmevpn --config FILE")
        self.config = ConfigFile(self["config"], self["state-dir"])
        plan, messages = self.config.load(waiting=True)
        if self["check"]:
            for message in messages:
                print(message)
            raise SystemExit(0 if plan is not None else 1)
        if plan is None:
            more = len(messages) - 1
            hint = f" (--check lists {more} more)" if more else ""
            raise SystemExit(f"dmevpn: {messages[0]}{hint}")
        self.plan: Plan = plan
        self.warnings = messages
        if self["remove"]:
            _remove(plan)


def _remove(plan: Plan) -> None:
    from twisted.internet import reactor

    from dmevpn.removal import remove

    problems = remove(reactor, plan)
    for problem in problems:
        print(f"dmevpn: {problem}", file=sys.stderr)
    raise SystemExit(1 if problems else 0)


def _machine_id() -> bytes:
    """What tells this machine from others, the same after a restart."""
    try:
        with open("/etc/machine-id", "rb") as file:
            return file.read().strip()
    except OSError:
        return b"%x" % uuid.getnode()


def _drivers(reactor: Any, metrics: Metrics, plan: Plan) -> Drivers:
    def aside(work: Callable[[], str], done: Callable[[str], None]) -> None:
        threads.deferToThreadPool(reactor, reactor.getThreadPool(), work).addCallback(done)

    def device(speaker: SpeakerPlan) -> IControlDevice | None:
        return control_device(reactor, metrics, speaker.interface, speaker.transport)

    def transport(speaker: SpeakerPlan, device: IControlDevice | None) -> IDatagramTransport:
        if device is not None:
            limits = PeerLimits(reactor, metrics, speaker.request_rate)
            return PacketPort(reactor, metrics, device, limits)
        limits = PeerLimits(reactor, metrics, speaker.request_rate, PeerFilter())
        further_keys = [key for key, _ in speaker.vpn_of_key]
        return RawGREPort(
            reactor, metrics, speaker.nbma_address, speaker.gre_key, further_keys, limits
        )

    def spoke_dataplane(spoke: SpokePlan, speaker: SpeakerPlan) -> VXLANFDB:
        return VXLANFDB(reactor, metrics, spoke, speaker.nbma_address)

    def hub_dataplane(hub: HubPlan, speaker: SpeakerPlan) -> EBPFSwitch:
        provision = partial(provision_hub, hub, speaker.nbma_address) if hub.provision else None
        return EBPFSwitch(reactor, metrics, hub.interface, provision=provision)

    def layer3_dataplane(
        layer3: Layer3Plan, speaker: SpeakerPlan, device: IControlDevice | None
    ) -> ILayer3Dataplane:
        # The device forwards packets of no VPN.
        if device is None or layer3.vpn is not None:
            return NoDevice(speaker.nbma_address, device)
        table, redirect = layer3.route_table, layer3.redirect
        return KernelTunnel(reactor, metrics, device, table=table, redirect=redirect)

    script = plan.opennhrp_script
    return Drivers(
        control_device=device,
        transport=transport,
        spoke_dataplane=spoke_dataplane,
        take_down=partial(take_down, reactor),
        hub_dataplane=hub_dataplane,
        layer3_dataplane=layer3_dataplane,
        resolve_host=partial(
            resolve_host, reactor, ignored=metrics.counter("host_addresses_ignored")
        ),
        request_ids=open_store(plan.state_dir or "", time.time, metrics, aside),
        state=open_state(plan.state_dir or "", metrics, aside),
        jitter=random.random,
        machine_id=_machine_id(),
        wall_clock=time.time,
        scripts=None if script is None else ScriptRunner(reactor, metrics, script),
    )


class _WaitingParent:
    """Standard error of the process that waits for its daemon to start.

    Twisted prints the first hundred octets of what went wrong there, as Python would write them,
    in two lines. The daemon has said it whole by then.
    """

    def __init__(self, stderr: TextIO) -> None:
        self._stderr = stderr

    def write(self, text: str) -> int:
        """Let everything pass but that."""
        said = text.startswith("An error has occurred: b'dmevpn.errors.StartError")
        return len(text) if said else self._stderr.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stderr, name)


def _report_in_one_line() -> None:
    """Make a refused start one line on standard error instead of a traceback.

    A refusal after twistd's own start can only be an exception (SystemExit would hang the
    daemonising parent), and twistd would print where it was raised. By then a daemon has no
    standard error any more, so we keep the one that the user sees.
    """
    previous = sys.excepthook
    terminal = os.fdopen(os.dup(2), "w", buffering=1)

    def hook(kind: type[BaseException], value: BaseException, traceback: Any) -> None:
        if issubclass(kind, StartError):
            print(f"dmevpn: {value}", file=terminal)
        else:
            previous(kind, value, traceback)

    sys.excepthook = hook
    if sys.__stderr__ is not None:
        sys.__stderr__ = _WaitingParent(sys.__stderr__)  # type: ignore[assignment,misc]


def makeService(options: Options) -> IService:
    """The service that twistd runs."""
    from twisted.internet import reactor

    # Twisted measures time by the wall clock; holding times must not follow its jumps.
    reactor.seconds = time.monotonic  # type: ignore[method-assign]
    _report_in_one_line()
    for warning in options.warnings:
        log.warn("{warning}", warning=warning)
    plan = options.plan
    metrics = Metrics()
    node = Node(plan=plan, clock=reactor, drivers=_drivers(reactor, metrics, plan), metrics=metrics)

    def operators(controller: IController) -> list[IService]:
        services: list[IService] = [
            AdminService(
                reactor,
                endpoint,
                controller,
                metrics=metrics,
                log_levels=LEVELS,
                access=[Grant(*each) for each in plan.admin_allow],
            )
            for endpoint in plan.admin
        ]
        if plan.opennhrp_socket is not None:
            services.append(
                OpenNHRPService(reactor, plan.opennhrp_socket, PeerTable(node), metrics)
            )
        if plan.metrics is not None:
            # Only who wants it pays for a web server's memory.
            from dmevpn.admin.scraping import MetricsService

            services.append(MetricsService(reactor, plan.metrics, controller, metrics))
        if plan.status is not None:
            from dmevpn.admin.statuspage import StatusService

            name = os.path.splitext(os.path.basename(options.config.path))[0]
            services.append(StatusService(reactor, plan.status, controller, metrics, name))
        return services

    observer = None
    if options.parent is not None and not options.parent.get("logger"):
        observer = make_observer(options.parent, plan.log_format, reactor, metrics)
    return Daemon(
        config=options.config,
        node=node,
        operators=operators,
        reactor=reactor,
        observer=observer,
        garbage=GarbageCollection(reactor, metrics),
        check=partial(check_privileges, plan),
        lock=StateLock(plan.state_dir),
    )
