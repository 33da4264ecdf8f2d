"""What the codec costs by itself."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.load import client
from benchmarks.report import Progress, Report
from dmevpn.nhrp.constants import CIECode
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.packet import decode_payload
from dmevpn.nhrp.records import CIE, encode_vni
from dmevpn.transport import gre

__all__ = ["run"]

REPETITIONS = 7
CALLS = 5000


def microseconds(call: Callable[[], object]) -> list[float]:
    """CPU microseconds per call, one figure per repetition."""
    figures = []
    for repetition in range(REPETITIONS + 1):
        begin = time.process_time()
        for _ in range(CALLS):
            call()
        if repetition:  # the first one warms up
            figures.append((time.process_time() - begin) / CALLS * 1e6)
    return figures


def run(report: Report, progress: Progress) -> None:
    """Encode and decode the packets that a hub sees most."""
    progress.say("codec")
    asking = client(1)
    request = asking.requester.registration(1)
    answer = request.reply((CIE(code=CIECode.SUCCESS, prefix_length=255, holding_time=7200),))
    question = asking.requester.resolution(client(2).station, 1)
    found = CIE(nbma=asking.nbma, subaddress=encode_vni(7), protocol=asking.station, mtu=1450)
    reply = question.reply((found,))
    for name, packet in (
        ("Registration Request", request),
        ("Registration Reply", answer),
        ("Resolution Request", question),
        ("Resolution Reply", reply),
    ):
        octets = packet.encode(Form.RFC, asking.vpn_id)
        report.add(
            "Codec (RFC form, without GRE)",
            f"decode a {name}, {len(octets)} octets",
            microseconds(lambda octets=octets: decode_payload(octets)),  # type: ignore[misc]
            "us",
        )
        report.add(
            "Codec (RFC form, without GRE)",
            f"encode a {name}",
            microseconds(
                lambda packet=packet: packet.encode(Form.RFC, asking.vpn_id)  # type: ignore[misc]
            ),
            "us",
        )
    data = gre.encode(request.encode(Form.RFC, asking.vpn_id), None)
    keys = frozenset({None})
    report.add(
        "Codec (RFC form, without GRE)",
        "decode a GRE header",
        microseconds(lambda: gre.decode(data, keys)),
        "us",
    )
