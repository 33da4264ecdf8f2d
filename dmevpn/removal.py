"""Taking down what a daemon that has ended left at work. Layer: top.

``twistd dmevpn --config FILE --remove`` needs no daemon and speaks with nobody: what forwards here
is taken out of the kernel. A hub forgets a site that it does not hear after its holding time.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from dmevpn.admin.listening import unix_path
from dmevpn.config.model import HubPlan, Layer3Plan, Plan
from dmevpn.dataplane.gre_device import control_device
from dmevpn.dataplane.hub_removal import take_off
from dmevpn.dataplane.links import LinkTable
from dmevpn.dataplane.netlink import NetlinkRequests
from dmevpn.dataplane.provision import Provisioner
from dmevpn.dataplane.spoke_removal import take_down
from dmevpn.dataplane.tunnel import KernelTunnel
from dmevpn.errors import DmevpnError, StartError
from dmevpn.interfaces import Layer3Listener
from dmevpn.metrics import Metrics
from dmevpn.statelock import StateLock

__all__ = ["remove"]


def remove(reactor: Any, plan: Plan) -> list[str]:
    """Take everything of a plan out of the kernel; what could not be, in words.

    :param reactor: is not run.
    """
    running = next(filter(_answers, plan.admin), None)
    if running is not None:
        return [f"a daemon is running ({running}): dmevpnctl shutdown"]
    lock = StateLock(plan.state_dir)
    # Whose admin endpoint is no UNIX socket, or is not in this file any more, holds this.
    if refusal := _tried(lock.take):
        return [refusal]
    try:
        return [reason for step in _steps(reactor, plan) if (reason := _tried(step))]
    finally:
        lock.free()


def _answers(endpoint: str) -> bool:
    """Whether somebody listens at an admin endpoint; only of a UNIX socket we know."""
    path = unix_path(endpoint)
    if not path:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(path)
        except OSError:
            return False
    return True


def _steps(reactor: Any, plan: Plan) -> Iterator[Callable[[], None]]:
    for spoke in plan.spokes:
        yield partial(take_down, reactor, spoke)
    for layer3 in plan.layer3:
        yield partial(_remove_layer3, reactor, plan, layer3)
    for hub in plan.hubs:
        yield partial(_remove_hub, hub)


def _tried(step: Callable[[], None]) -> str:
    """Why a step could not be done; empty: it was."""
    try:
        step()
    except (DmevpnError, OSError) as error:
        return str(error)
    return ""


def _remove_hub(plan: HubPlan) -> None:
    requests = NetlinkRequests()
    with contextlib.closing(requests):
        take_off(plan.interface, LinkTable(requests).named(plan.interface))
        if plan.provision:
            with contextlib.closing(Provisioner(requests, plan.interface)) as provisioner:
                provisioner.require_net_admin()
                provisioner.remove_hub(plan)


def _remove_layer3(reactor: Any, plan: Plan, layer3: Layer3Plan) -> None:
    speaker = next(each for each in plan.speakers if each.interface == layer3.interface)
    metrics = Metrics()
    device = control_device(reactor, metrics, speaker.interface, speaker.transport)
    if device is None or layer3.vpn is not None:
        return
    try:
        device.start()
    except StartError:
        return  # it is gone, and has taken all of it along
    with contextlib.ExitStack() as started:
        started.callback(device.stop)
        tunnel = KernelTunnel(reactor, metrics, device, table=layer3.route_table, redirect=False)
        tunnel.start(Layer3Listener())
        started.callback(tunnel.stop)
