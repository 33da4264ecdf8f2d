"""What may befall packets between the machines: separation, loss, and coming twice or late."""

from __future__ import annotations

import ctypes
import heapq
import random
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterable

from lab.netns import CommandFailed
from lab.topology import Lab, Machine
from lab.traffic import Capture

__all__ = ["Late", "Underlay"]

#: What a rule may say about packets.
MATCHES = {
    "NHRP": "ip protocol gre",
    "VXLAN": "udp dport 4789",
    "both": "ip protocol { gre, udp }",
}


class Underlay:
    """Rules of the bridge that joins the machines.

    :param lab: whose underlay it is.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._rules: dict[object, list[str]] = {}

    def lose(self, key: object, what: str, percent: int) -> None:
        """Lose a part of the packets, by chance.

        :param key: names it for :meth:`heal`.
        :param what: NHRP, VXLAN or both.
        """
        self._set(key, [f"{MATCHES[what]} numgen random mod 100 < {percent} drop"])

    def separate(self, key: object, ones: Iterable[Machine], others: Iterable[Machine]) -> None:
        """Let machines not hear each other."""
        others = list(others)
        rules = []
        for one in ones:
            for other in others:
                for here, there in ((one, other), (other, one)):
                    rules.append(f'iifname "to-{here.name}" oifname "to-{there.name}" drop')
        self._set(key, rules)

    def heal(self, key: object) -> None:
        """Let packets pass again."""
        self._set(key, [])

    def _set(self, key: object, rules: list[str]) -> None:
        self._rules[key] = rules
        lines = [rule for group in self._rules.values() for rule in group]
        text = "table bridge chaos {}\ndelete table bridge chaos\ntable bridge chaos {\n"
        text += "chain forward { type filter hook forward priority 0;\n"
        text += "\n".join(lines) + "\n}\n}\n"
        done = subprocess.run(
            self._lab.underlay.command("nft", "-f", "-"),
            input=text,
            capture_output=True,
            text=True,
            timeout=20,
        )
        if done.returncode:
            raise CommandFailed(f"nft: {done.stderr.strip()}")


#: Packets of IP protocol 47: linux/filter.h, an instruction is code, jt, jf, k.
_GRE_ONLY = (
    (0x28, 0, 0, 12),  # ldh [12]
    (0x15, 0, 3, 0x0800),  # IPv4?
    (0x30, 0, 0, 23),  # ldb [23]
    (0x15, 0, 1, 47),  # GRE?
    (0x06, 0, 0, 0xFFFF),
    (0x06, 0, 0, 0),
)
SO_ATTACH_FILTER = 26


class Late(threading.Thread):
    """Sends each NHRP packet on once more, up to a second late: what also passes at once comes
    twice, and what is lost at once comes out of order.

    :param seed: of its own chance, since how many packets there are depends on time.
    """

    LATEST = 1.0

    def __init__(self, lab: Lab, seed: int) -> None:
        super().__init__(name="late")
        self._chance = random.Random(seed)
        self._ending = threading.Event()
        self._captures: list[Capture] = []
        self._ports: dict[bytes, socket.socket] = {}
        self.count = 0
        """Packets that were sent on."""
        program = b"".join(struct.pack("=HBBI", *each) for each in _GRE_ONLY)
        memory = ctypes.create_string_buffer(program)
        pointer = struct.pack("@HP", len(_GRE_ONLY), ctypes.addressof(memory))
        for machine in lab.machines.values():
            port = f"to-{machine.name}"
            capture = Capture(lab.underlay, port)
            capture.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, pointer)
            self._captures.append(capture)
            (row,) = machine.namespace.ip_json("link", "show", "ul0")
            self._ports[bytes.fromhex(row["address"].replace(":", ""))] = capture.socket

    def run(self) -> None:
        """Take, wait, send."""
        waiting: list[tuple[float, bytes]] = []
        while not self._ending.is_set():
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                _, frame = heapq.heappop(waiting)
                port = self._ports.get(frame[:6])
                if port is not None:
                    self._send(port, frame)
            ready, _, _ = select.select(self._captures, [], [], 0.02)
            for capture in ready:
                try:
                    frames = capture.frames()
                except OSError:
                    continue  # The machine's link went down, which a socket is told once.
                for frame in frames:
                    due = time.monotonic() + self._chance.uniform(0, self.LATEST)
                    heapq.heappush(waiting, (due, frame))
        for capture in self._captures:
            capture.close()

    def _send(self, port: socket.socket, frame: bytes) -> None:
        try:
            port.send(frame)
            self.count += 1
        except OSError:
            pass  # The machine's link is down, too.

    def end(self) -> None:
        """Send no more; what waits is lost."""
        self._ending.set()
        self.join()
