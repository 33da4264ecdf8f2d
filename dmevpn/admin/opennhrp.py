"""Answers the commands of ``opennhrpctl`` in OpenNHRP's words. Layer: admin.

A command is a line, the answer is text: a ``Status``, then entries of ``Field: value`` lines, each
with an empty line behind it. What the command begins with tells which it is, in capitals or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from dmevpn.addresses import format_address, parse_prefix
from dmevpn.interfaces import InterfaceEntry, IPeerTable, PeerEntry

__all__ = ["COMMANDS", "answer"]

_OK = "Status: ok\n"
_Selector = Callable[[PeerEntry], bool]


class _Failure(Exception):
    """A command that cannot be carried out; its text is the answer."""

    def __init__(self, reason: str, keyword: str | None = None, argument: str = "") -> None:
        near = "" if keyword is None else f"Near-Keyword: '{keyword}'\n"
        what = f"Argument: '{argument}'\n" if argument else ""
        super().__init__(f"Status: failed\nReason: {reason}\n{near}{what}")


def answer(table: IPeerTable, line: str) -> Iterator[str]:
    """Carry out a command, and say how it went, piece by piece.

    Each piece takes little time; many may be empty.
    """
    lower = line.lower()
    for name, carry_out in COMMANDS.items():
        if lower.startswith(name):
            try:
                yield from carry_out(table, line[len(name) :].split())
            except _Failure as failure:
                yield str(failure)
            return
    yield "Status: error\nReason: unrecognized command\n"


# --- commands -----------------------------------------------------------------------------------


def _show(table: IPeerTable, words: list[str]) -> Iterator[str]:
    wanted = _selector(table, words)
    yield f"{_OK}\n"
    for entry in table.entries():
        yield _peer(entry) if wanted(entry) else ""


def _flush(table: IPeerTable, words: list[str]) -> Iterator[str]:
    return _counted(table.flush(_selector(table, words)))


def _purge(table: IPeerTable, words: list[str]) -> Iterator[str]:
    return _counted(table.purge(_selector(table, words), "user-request"))


def _lower_down(table: IPeerTable, words: list[str]) -> Iterator[str]:
    return _counted(table.purge(_selector(table, words), "lower-down"))


def _interface_show(table: IPeerTable, words: list[str]) -> Iterator[str]:
    yield f"{_OK}\n"
    yield from map(_interface, table.interfaces())


def _route_show(table: IPeerTable, words: list[str]) -> Iterator[str]:
    raise _Failure("not-supported", "route")


def _redirect_purge(table: IPeerTable, words: list[str]) -> Iterator[str]:
    protocol, bits = _address(words[0], words[0]) if words else (b"", 0)
    yield _affected(table.forget_redirects(protocol, bits))


def _update_nbma(table: IPeerTable, words: list[str]) -> Iterator[str]:
    addresses: list[bytes] = []
    near = ""
    try:
        for near in words[:2]:
            addresses.append(parse_prefix(near)[0])
        nbma, protocol = addresses
    except ValueError:
        raise _Failure("syntax-error", near) from None
    yield _affected(table.name_server(nbma, protocol))


#: By what a command begins with; the first that fits is meant.
COMMANDS: dict[str, Callable[[IPeerTable, list[str]], Iterator[str]]] = {
    "route show": _route_show,
    "show": _show,
    "cache show": _show,
    "flush": _flush,
    "cache flush": _flush,
    "purge": _purge,
    "cache purge": _purge,
    "lowerdown": _lower_down,
    "cache lowerdown": _lower_down,
    "interface show": _interface_show,
    "redirect purge": _redirect_purge,
    "update nbma": _update_nbma,
}


# --- selectors ----------------------------------------------------------------------------------


def _address(word: str, keyword: str) -> tuple[bytes, int]:
    try:
        return parse_prefix(word)
    except ValueError:
        raise _Failure("invalid-address", keyword) from None


def _selector(table: IPeerTable, words: list[str]) -> _Selector:
    """What pairs of a keyword and its argument select: entries that all of them do."""
    tests: dict[str, _Selector] = {}
    for keyword, argument in zip(words[::2], words[1::2], strict=False):
        name, test = _test(table, keyword, argument)
        if name in tests:
            raise _Failure("conflicting-keyword", keyword)
        tests[name] = test
    if len(words) % 2:
        raise _Failure("missing-argument", words[-1])
    return lambda entry: all(test(entry) for test in tests.values())


def _test(table: IPeerTable, keyword: str, argument: str) -> tuple[str, _Selector]:
    """What a keyword with its argument is about, and its test."""
    if keyword in ("interface", "iface", "dev"):
        return "interface", _of_interface(
            [each for each in table.interfaces() if each.name == argument], keyword, argument
        )
    if keyword in ("host", "hostname"):
        return "hostname", lambda entry: entry.hostname == argument
    if keyword == "type":
        return "type", lambda entry: entry.kind == argument
    address, bits = _address(argument, keyword)
    if keyword == "protocol":
        return "protocol", lambda entry: _covers(address, bits, entry)
    if keyword == "nbma":
        return "nbma", lambda entry: entry.nbma == address
    if keyword == "local-protocol":
        own = [e for e in table.interfaces() if address in [each for each, _ in e.protocols]]
        return "interface", _of_interface(own, keyword, argument)
    if keyword == "local-nbma":
        own = [each for each in table.interfaces() if each.nbma == address]
        return "interface", _of_interface(own, keyword, argument)
    raise _Failure("syntax-error", keyword)


def _of_interface(found: Iterable[InterfaceEntry], keyword: str, argument: str) -> _Selector:
    names = {each.name for each in found}
    if not names:
        raise _Failure("interface-not-found", keyword, argument)
    return lambda entry: entry.interface in names


def _covers(address: bytes, bits: int, entry: PeerEntry) -> bool:
    """Whether an entry is the address itself, or lies in the network."""
    if len(entry.protocol) != len(address):
        return False
    width = 8 * len(address)
    if entry.bits < bits:
        return bits == width and entry.protocol == address
    shift = width - bits
    return int.from_bytes(entry.protocol, "big") >> shift == int.from_bytes(address, "big") >> shift


# --- entries ------------------------------------------------------------------------------------


def _counted(steps: Iterator[bool]) -> Iterator[str]:
    """Take steps, and say how many were of consequence."""
    count = 0
    for affected in steps:
        count += affected
        yield ""
    yield _affected(count)


def _affected(count: int) -> str:
    return f"{_OK}Entries-Affected: {count}\n"


def _fields(fields: Iterable[tuple[str, object]]) -> str:
    """An entry of those fields that have a value."""
    lines = [f"{name}: {value}\n" for name, value in fields if value not in ("", None)]
    return "".join(lines) + "\n"


def _optional(address: bytes) -> str:
    return format_address(address) if address else ""


def _peer(entry: PeerEntry) -> str:
    left = entry.expires_in
    return _fields(
        [
            ("Interface", entry.interface),
            ("VPN", entry.vpn),
            ("Type", entry.kind),
            ("Protocol-Address", f"{format_address(entry.protocol)}/{entry.bits}"),
            ("Next-hop-Address", _optional(entry.next_hop)),
            ("NBMA-Address", _optional(entry.nbma)),
            ("Hostname", entry.hostname),
            ("NBMA-NAT-OA-Address", _optional(entry.claimed)),
            ("Flags", " ".join(entry.flags)),
            ("Expires-In", "" if left is None else f"{left // 60}:{left % 60:02}"),
        ]
    )


def _interface(entry: InterfaceEntry) -> str:
    return _fields(
        [
            ("Interface", entry.name),
            ("Index", entry.ifindex),
            *(
                ("Protocol-Address", f"{format_address(address)}/{bits}")
                for address, bits in entry.protocols
            ),
            ("Flags", " ".join(entry.flags)),
            ("Holding-Time", entry.holding_time),
            ("Route-Table", entry.route_table),
            ("GRE-Key", entry.gre_key),
            ("MTU", entry.mtu),
            ("NBMA-Address", _optional(entry.nbma)),
            ("NBMA-NAT-OA", _optional(entry.seen_as)),
        ]
    )
