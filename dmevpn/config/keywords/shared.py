"""What several keywords have in common: places, arguments, options. Layer: core."""

from __future__ import annotations

from dmevpn.config import arguments as a
from dmevpn.config.keyword import Argument, Context, Option

__all__ = [
    "ANY",
    "CONTROL",
    "DATA",
    "HOLDING_TIME",
    "HUB",
    "PEERS",
    "PEER_OPTIONS",
    "PERMIT_SPI",
    "SPOKE",
    "TARGET_HOLDING_TIME",
    "TOP",
    "VNI",
    "YES_NO",
]

#: Where keywords may stand.
TOP = frozenset({Context.TOP})
CONTROL = frozenset({Context.CONTROL})
SPOKE = frozenset({Context.SPOKE})
HUB = frozenset({Context.HUB})
DATA = SPOKE | HUB
ANY = CONTROL | DATA

_PEERS = (
    Option(
        name="legacy",
        help="The peer is the original dmevpn: a C daemon with VPN headers of its own.",
    ),
    Option(name="legacy-big-endian", help="The same, on a big-endian host."),
    Option(name="opennhrp", help="The peer is OpenNHRP."),
    Option(name="frr", help="The peer is FRR's nhrpd."),
    Option(name="cisco", help="The peer is a Cisco router."),
)
#: What a peer can be said to be, besides ours.
PEERS = tuple(option.name for option in _PEERS)

_REGISTER = Option(name="register", help="Register with this server.")
_NO_UNIQUE = Option(
    name="no-unique",
    help="Register so that another station may take the address over.",
)
PEER_OPTIONS = (_REGISTER, _NO_UNIQUE, *_PEERS)

PERMIT_SPI = Option(
    name="spi",
    help="The key that must have signed the registration.",
    arguments=(Argument(name="SPI", convert=a.signed_with, example="256"),),
)
HOLDING_TIME = Argument(
    name="S", convert=a.number(0, 2**32 - 1, "a number of seconds"), example="7200"
)
TARGET_HOLDING_TIME = Option(
    name="holding-time",
    help="Seconds that an answer about this target is to last.",
    arguments=(HOLDING_TIME,),
)
VNI = Argument(name="VNI", convert=a.vni, example="100")
YES_NO = Argument(name="yes|no", convert=a.yes_or_no, example="yes")
