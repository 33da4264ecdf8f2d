"""An address translation between machines of the memory network and the rest of it."""

from __future__ import annotations

from dmevpn.transport.memory import MemoryNetwork

__all__ = ["translate"]


def translate(network: MemoryNetwork, outside: bytes, *inside: bytes) -> None:
    """Hide machines behind one address, as a router does with source NAT.

    GRE has no ports: what comes back from a peer goes to the machine that spoke to it last.
    """
    speakers: dict[bytes, bytes] = {}
    transmit = network.transmit

    def translated(source: bytes, destination: bytes, packet: bytes) -> None:
        if source in inside and destination not in inside:
            speakers[destination] = source
            source = outside
        if destination == outside and source not in inside:
            destination = speakers.get(source, outside)
        transmit(source, destination, packet)

    network.transmit = translated  # type: ignore[method-assign]
