"""Taking down the switch of a hub whose daemon has ended. Layer: edge."""

from __future__ import annotations

import os

from dmevpn.dataplane.ebpf import layout, libbpf
from dmevpn.dataplane.ebpf.pins import PIN_ROOT, PROGRAM_PIN, PinDirectory
from dmevpn.dataplane.hub_device import Attachment
from dmevpn.dataplane.links import Link

__all__ = ["take_off"]


def take_off(interface: str, link: Link | None, pin_root: str = PIN_ROOT) -> None:
    """Remove the switch that a daemon which has ended left on a device, and its pins.

    In the network namespace of the device.

    :param link: the device; None if it is gone.
    :raises StartError: if a daemon is serving it.
    :raises DataplaneError: if the kernel refuses.
    """
    if not os.path.isdir(pin_root):
        return
    pins = PinDirectory(pin_root, interface)
    pins.open(trusting=True)
    try:
        programs = [name for name in pins.names() if name.startswith(PROGRAM_PIN)]
        if link is not None and programs:
            numbers = {libbpf.pinned_program_id(pins.at(name)) for name in programs}
            kept = libbpf.pinned_value(pins.at("keepsakes"), layout.NUMBER.pack(0))
            made_clsact = kept is not None and bool(layout.KEEPSAKE.unpack(kept)[1])
            attachment = Attachment(interface, link.ifindex, made_clsact=made_clsact)
            try:
                attachment.remove(numbers)
            finally:
                attachment.close()
        pins.remove()
    finally:
        pins.close()
