"""``python -m lab.blast``: a flood, as many packets a second as wanted or as the machine can.

It is run in the hub's namespace, and has the kernel take prepared packets for received by one of
the hub's devices, as if a network card had them (BPF_PROG_TEST_RUN with live frames, from Linux
5.18): so nothing is spent on sending, and what the kernel does with a packet is what it does with
one from a card. That work is done in the sender's name: its priority is this process's.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import socket
import struct
import time
from pathlib import Path

from dmevpn.addresses import parse_ip
from dmevpn.dataplane.ebpf.libbpf import Object, Program, TestRunOptions, shared_library
from lab.hostile import FRAMES, KINDS, MEMBERS, VNI, Sender, make
from lab.traffic import mac_octets

__all__ = ["main"]

ETH_P_IP = 0x0800
#: Where the packets seem to come from on the cable.
_NEXT_HOP = b"\x06\0\0\0\0\x01"
#: Packets that different ones are made of, and octets of the longest; see blast.bpf.c.
PACKETS = 8192
OCTETS = 2044
_PACKET = struct.Struct(f"=I{OCTETS}s")
_TURN = struct.Struct("=QQ")
_NUMBER = struct.Struct("=I")

#: linux/bpf.h, linux/sched.h
BPF_XDP = 37
TEST_XDP_LIVE_FRAMES = 2
CLONE_NEWNET = 0x40000000
_XDP_CONTEXT = struct.Struct("=6I")
#: Packets of one system call at most, how often a second there is one at least, and packets that
#: the kernel handles in a row.
BURST = 512
BURSTS = 50
BATCH = 64


class _Card:
    """Delivers packets by a device of the namespace that we are in."""

    def __init__(self, device: str, frames: list[bytes]) -> None:
        maps, programs = Object(str(Path(__file__).parent / "blast.bpf.o"), "/sys/fs/bpf").load()
        for number, frame in enumerate(frames):
            maps["packets"].update(_NUMBER.pack(number), _PACKET.pack(len(frame), frame))
        maps["turns"].update(bytes(4), _TURN.pack(0, len(frames)))
        self._program: Program = programs["blast"]
        self._room = ctypes.create_string_buffer(OCTETS)
        context = _XDP_CONTEXT.pack(0, OCTETS, 0, socket.if_nametoindex(device), 0, 0)
        self._context = ctypes.create_string_buffer(context, len(context))
        self._options = TestRunOptions(
            sz=ctypes.sizeof(TestRunOptions),
            data_in=ctypes.addressof(self._room),
            data_size_in=OCTETS,
            ctx_in=ctypes.addressof(self._context),
            ctx_size_in=len(context),
            flags=TEST_XDP_LIVE_FRAMES,
            batch_size=BATCH,
        )
        self._run = shared_library().bpf_prog_test_run_opts
        self._attach_elsewhere()

    def _attach_elsewhere(self) -> None:
        """Have the program in use by a device that never sees a packet, for as long as we live.

        Else each run would make the kernel write and discard the code by which it calls XDP
        programs, which takes milliseconds.
        """
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        libc = ctypes.CDLL(None, use_errno=True)
        assert not libc.unshare(CLONE_NEWNET), os.strerror(ctypes.get_errno())
        self._elsewhere = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        loopback = socket.if_nametoindex("lo")
        self._link = shared_library().bpf_link_create(self._program.fd, loopback, BPF_XDP, None)
        assert not libc.setns(home, CLONE_NEWNET), os.strerror(ctypes.get_errno())
        os.close(home)
        if self._link < 0:
            raise OSError(-self._link, os.strerror(-self._link))

    def deliver(self, count: int = BURST) -> int:
        """The next packets; how many.

        :raises OSError: if the kernel refuses.
        """
        self._options.repeat = count
        error = self._run(self._program.fd, ctypes.byref(self._options))
        if error:
            raise OSError(-error, os.strerror(-error))
        return count


def main() -> None:
    """Deliver a flood; say in the end how many packets a second it was."""
    parser = argparse.ArgumentParser(prog="python -m lab.blast")
    parser.add_argument("kind", choices=(*KINDS, *MEMBERS, *FRAMES))
    parser.add_argument("source", help="underlay address of the site that floods")
    parser.add_argument("hub")
    parser.add_argument("--device", default="ul0", help="that the hub has them by")
    parser.add_argument("--mac", required=True, help="of that device")
    parser.add_argument("--rate", type=int, default=0, help="packets a second; 0: all that go")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--secret", default="")
    parser.add_argument("--nice", type=int, default=0)
    options = parser.parse_args()
    os.nice(options.nice)
    sender = Sender(parse_ip(options.source), VNI, b"\x06" * 6, options.secret)
    link = mac_octets(options.mac) + _NEXT_HOP + ETH_P_IP.to_bytes(2, "big")
    packets = make(options.kind, sender, parse_ip(options.hub), PACKETS)
    card = _Card(options.device, [link + packet for packet in packets])
    print("ready", flush=True)
    print(_pour(card, options.rate, options.seconds), flush=True)


def _pour(card: _Card, rate: int, seconds: float) -> int:
    """Packets a second that were delivered."""
    burst = max(1, min(BURST, rate // BURSTS)) if rate else BURST
    begin = time.perf_counter()
    end = begin + seconds
    sent = 0
    while (now := time.perf_counter()) < end:
        ahead = sent - (now - begin) * rate if rate else 0.0
        if ahead > 0:
            time.sleep(ahead / rate)
        else:
            sent += card.deliver(burst)
    return int(sent / (time.perf_counter() - begin))


if __name__ == "__main__":
    main()
