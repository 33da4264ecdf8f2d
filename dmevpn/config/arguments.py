"""What the words after a keyword may be: one converter per kind of argument. Layer: core.

A converter takes one word and returns its value, or raises :class:`ValueError` whose text says
what is expected; the parser adds file, line and word. Nothing here looks anything up: a host
name stays a name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import NamedTuple

from dmevpn.addresses import VNI_MAX, is_station_mac, parse_mac, parse_oui, parse_prefix

__all__ = [
    "ALGORITHMS",
    "ANY_VPN",
    "VPN_MAX",
    "Convert",
    "Host",
    "KeyFile",
    "absolute_path",
    "algorithm",
    "check_key",
    "device_name",
    "endpoint",
    "host",
    "ip_address",
    "ip_network",
    "ip_prefix",
    "key",
    "log_format",
    "looks_like_address",
    "looks_like_mac",
    "mac_network",
    "multicast",
    "nbma_network",
    "network",
    "number",
    "one_of",
    "oui",
    "prefix",
    "seconds_or_no",
    "secret",
    "signed_with",
    "spi",
    "station_mac",
    "text",
    "transport",
    "vni",
    "vni_range",
    "vpn_or_none",
    "vpn_range",
    "yes_or_no",
]

#: Takes a word, returns its value or raises ValueError.
Convert = Callable[[str], object]

#: Largest index of a VPN identifier: 32 bits (RFC 2685 §4). Zero is never used.
VPN_MAX = 2**32 - 1
#: What keys are for.
ALGORITHMS = ("hmac-sha-256", "hmac-md5")
#: What ``vpn-id any`` means.
ANY_VPN = (1, VPN_MAX)
#: Octets of a device name that the kernel takes (IFNAMSIZ less the terminator).
DEVICE_NAME_MAX = 15
#: Octets of a plaintext secret; more would eat into the packet, and nobody's peer takes more.
SECRET_MAX = 64
#: Octets of a key. Whoever has recorded packets can try keys as fast as he likes, so fewer could
#: be guessed; more than the hash has make it no stronger.
KEY_MIN, KEY_MAX = 16, 128
#: Octets of a host name (RFC 1035 §2.3.4).
HOST_NAME_MAX = 253

_HOST_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


class Host(NamedTuple):
    """Somebody on the underlay."""

    text: str
    """As written."""
    address: bytes | None
    """Its address; None if ``text`` is a host name."""


class KeyFile(NamedTuple):
    """Where a key is."""

    path: str
    """From the root."""


def number(low: int, high: int, what: str = "a number") -> Callable[[str], int]:
    """A converter for decimal numbers from ``low`` to ``high``."""
    digits = len(str(high))

    def convert(word: str) -> int:
        # The length is checked first: Python refuses to convert thousands of digits.
        plain = word.isascii() and word.isdigit() and len(word.lstrip("0")) <= digits
        if not plain or not low <= int(word.lstrip("0") or "0") <= high:
            raise ValueError(f"{what} from {low} to {high} is expected")
        return int(word.lstrip("0") or "0")

    return convert


#: A VXLAN network identifier.
vni = number(1, VNI_MAX, "a VNI")
_any_spi = number(1, 0xFFFF, "an SPI")
_spi = number(2, 0xFFFF, "an SPI")
_seconds = number(1, 3600, "no, or a number of seconds")
_vpn_index = number(1, VPN_MAX, "a VPN number")


def yes_or_no(word: str) -> bool:
    """A switch."""
    if word not in ("yes", "no"):
        raise ValueError("yes or no is expected")
    return word == "yes"


def one_of(*words: str) -> Callable[[str], str]:
    """A converter for one of some words."""

    def convert(word: str) -> str:
        if word not in words:
            raise ValueError(f"{', '.join(words[:-1])} or {words[-1]} is expected")
        return word

    return convert


def log_format(word: str) -> str:
    """The form of the log."""
    if word not in ("text", "json"):
        raise ValueError("text or json is expected")
    return word


def transport(word: str) -> str:
    """How NHRP is carried; whether a kernel GRE device exists is not for a parser to find out."""
    if word not in ("auto", "raw", "device"):
        raise ValueError("auto, raw or device is expected")
    return word


def vpn_range(word: str) -> tuple[int, int]:
    """``N``, ``N-M`` or ``any``: VPN indices, both ends included."""
    if word == "any":
        return ANY_VPN
    first, hyphen, last = word.partition("-")
    low = _vpn_index(first)
    high = _vpn_index(last) if hyphen else low
    if high < low:
        raise ValueError(f"the range is reversed: write {high}-{low}")
    return low, high


def vni_range(word: str) -> tuple[int, int]:
    """``N`` or ``N-M``: VNIs, both ends included."""
    first, hyphen, last = word.partition("-")
    low = vni(first)
    high = vni(last) if hyphen else low
    if high < low:
        raise ValueError(f"the range is reversed: write {high}-{low}")
    return low, high


def vpn_or_none(word: str) -> int | None:
    """The index of a VPN; None for ``none``."""
    return None if word == "none" else _vpn_index(word)


def device_name(word: str) -> str:
    """A name that Linux gives to network devices (dev_valid_name in net/core/dev.c)."""
    # "%" is a template to the kernel: the device would get another name than the one asked for.
    if word in (".", "..") or any(c in "/:%" for c in word) or not word.isprintable():
        raise ValueError("no network device can have this name")
    if len(word.encode()) > DEVICE_NAME_MAX:
        raise ValueError(f"the name of a device has at most {DEVICE_NAME_MAX} octets")
    return word


def station_mac(word: str) -> bytes:
    """The MAC address of one station."""
    try:
        mac = parse_mac(word)
    except ValueError:
        raise ValueError("a MAC address such as 02:00:00:00:00:01 is expected") from None
    if not is_station_mac(mac):
        raise ValueError("a group address or all zeros cannot name one station")
    return mac


def looks_like_mac(word: str) -> bool:
    """Whether a word is meant to be a MAC address, well-formed or not."""
    return word.count(":") + word.count("-") >= 2


def ip_address(word: str) -> bytes:
    """An address that one host of the underlay can have."""
    try:
        address = ipaddress.ip_address(word)
    except ValueError:
        raise ValueError("an IPv4 or IPv6 address is expected") from None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            raise ValueError(f"write it as the IPv4 address {address.ipv4_mapped}")
        if address.is_link_local or address.scope_id:
            # NHRP has no room for the interface that such an address is valid on.
            raise ValueError("a link-local address means nothing at other sites")
    if address.is_multicast or address.is_unspecified or address.packed == b"\xff" * 4:
        raise ValueError("the address of one host is expected")
    return address.packed


def host(word: str) -> Host:
    """An underlay address or a host name; what looks like an address must be one."""
    if ":" in word or "/" in word or not word.strip("0123456789."):
        return Host(word, ip_address(word))
    labels = word.removesuffix(".").split(".")
    named = len(word) <= HOST_NAME_MAX and all(_HOST_LABEL.fullmatch(label) for label in labels)
    if not named or labels[-1].isdigit():
        raise ValueError("an address or a host name is expected")
    return Host(word, None)


def prefix(word: str) -> tuple[bytes, int]:
    """A protocol address (IPv4, IPv6 or MAC), with ``/BITS`` or whole."""
    try:
        return parse_prefix(word)
    except ValueError:
        raise ValueError("an address or ADDRESS/BITS is expected") from None


def ip_prefix(word: str) -> tuple[bytes, int]:
    """An IPv4 or IPv6 address of our own with the prefix length of its network."""
    address, bits = prefix(word)
    if len(address) == 6 or "/" not in word:
        raise ValueError("an IPv4 or IPv6 address with its prefix length is expected")
    return address, bits


def network(word: str) -> tuple[bytes, int]:
    """A network: no bit is set behind the prefix."""
    address, bits = prefix(word)
    width = 8 * len(address)
    if int.from_bytes(address, "big") & ((1 << (width - bits)) - 1):
        raise ValueError(f"a network is expected: bits behind /{bits} are set")
    return address, bits


def ip_network(word: str) -> tuple[bytes, int]:
    """A network of IPv4 or IPv6 addresses, or one address."""
    address, bits = network(word)
    if len(address) == 6:
        raise ValueError("an IPv4 or IPv6 network is expected")
    return address, bits


def nbma_network(word: str) -> tuple[bytes, int] | None:
    """A network of the underlay, or one address; None for ``any``."""
    return None if word == "any" else ip_network(word)


def mac_network(word: str) -> tuple[bytes, int]:
    """MACs: one, those with a prefix, or ``any``."""
    if word == "any":
        return bytes(6), 0
    address, bits = network(word)
    if len(address) != 6:
        raise ValueError("a MAC address, MAC/BITS or any is expected")
    return address, bits


def looks_like_address(word: str) -> bool:
    """Whether a word is meant to be an IPv4 or IPv6 address, well-formed or not."""
    return ":" in word or word[:1].isdigit()


def seconds_or_no(word: str) -> int:
    """Seconds between 1 and 3600; 0 for ``no``."""
    return 0 if word == "no" else _seconds(word)


def multicast(word: str) -> str | bytes:
    """``dynamic``, ``nhs`` or the address of a peer."""
    if word in ("dynamic", "nhs"):
        return word
    try:
        return prefix(word)[0]
    except ValueError:
        raise ValueError("dynamic, nhs or an address is expected") from None


def oui(word: str) -> bytes:
    """An OUI."""
    try:
        return parse_oui(word)
    except ValueError:
        raise ValueError(
            "three pairs of hexadecimal digits such as 02-00-00 are expected"
        ) from None


def endpoint(word: str) -> str:
    """The description of a Twisted server endpoint; who opens it checks the rest."""
    kind, colon, rest = word.partition(":")
    if not (kind.isidentifier() and colon and rest):
        raise ValueError("a server endpoint such as unix:/run/dmevpn/hub.sock is expected")
    return word


def secret(word: str) -> bytes:
    """A secret, as the octets in the file."""
    octets = word.encode("utf-8", "surrogateescape")
    if len(octets) > SECRET_MAX:
        raise ValueError(f"at most {SECRET_MAX} octets are possible")
    return octets


def spi(word: str) -> int:
    """The index of a key (RFC 2332 §5.3.4)."""
    if word == "1":
        raise ValueError("SPI 1 is the cleartext secret: a number from 2 to 65535 is expected")
    return _spi(word)


def signed_with(word: str) -> int:
    """The index of a key, or 1 for the cleartext secret."""
    return _any_spi(word)


def algorithm(word: str) -> str:
    """What a key is for."""
    if word not in ALGORITHMS:
        raise ValueError(f"{' or '.join(ALGORITHMS)} is expected")
    return word


def key(word: str) -> bytes | KeyFile:
    """A key, as the octets in the file, or where it is."""
    if word.startswith("file:"):
        path = word.removeprefix("file:")
        if not path.startswith("/") or "\0" in path:
            raise ValueError("the path from the root is expected, such as file:/etc/dmevpn/key")
        return KeyFile(path)
    return check_key(word.encode("utf-8", "surrogateescape"))


def check_key(octets: bytes) -> bytes:
    """A key, if it is long enough.

    :raises ValueError: if it is not, or too long.
    """
    if not KEY_MIN <= len(octets) <= KEY_MAX:
        raise ValueError(f"a key has {KEY_MIN} to {KEY_MAX} octets")
    return octets


def absolute_path(word: str) -> str:
    """The path of a file from the root directory on."""
    if not word.startswith("/") or "\0" in word:
        raise ValueError("a path from the root directory is expected")
    return word


def text(word: str) -> str:
    """Any word."""
    return word
