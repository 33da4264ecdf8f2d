"""What a column of a row is: its meaning for people, and its type for JSON. Layer: admin.

A column without a kind, or with one that is not here, is found by the tests and by ``make docs``,
which make a JSON schema of every command.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from dmevpn.admin.parameters import BINDING_TYPES
from dmevpn.errors import DmevpnError

__all__ = [
    "ADDRESSES",
    "AT_NBMA",
    "AT_VNI",
    "BINDING",
    "FLAGS",
    "IN_VPN",
    "KINDS",
    "MOST_VNI",
    "MOST_VPN",
    "ON_INTERFACE",
    "Column",
    "Kind",
    "column_schema",
    "column_type",
]

#: What may be said of a binding.
FLAGS: Final = ("unique", "used", "up", "nat")
#: The largest index of a VPN, and the largest VXLAN network identifier.
MOST_VPN, MOST_VNI = 0xFFFFFFFF, 0xFFFFFF

_MAC = {"type": "string", "pattern": "^([0-9a-f]{2}:){5}[0-9a-f]{2}$"}
_IPV4 = {"type": "string", "format": "ipv4"}
_IPV6 = {"type": "string", "format": "ipv6"}
_NETWORK = {"type": "string", "pattern": "^[0-9a-f.:]+/[0-9]{1,3}$"}
_COUNT = {"type": "integer", "minimum": 0}


class Kind(NamedTuple):
    """How JSON has the values of a column; text output is in :mod:`dmevpn.admin.render`."""

    said: str
    """In the documentation."""
    schema: dict[str, Any]
    """In JSON Schema, where the column has no ``values`` of its own."""
    unit: str = ""


KINDS: Final = {
    "text": Kind("string", {"type": "string"}),
    "mac": Kind("MAC", _MAC),
    "ip": Kind("IPv4 or IPv6", {"anyOf": [_IPV4, _IPV6]}),
    "address": Kind("MAC, IPv4, IPv6 or network", {"anyOf": [_MAC, _IPV4, _IPV6, _NETWORK]}),
    "number": Kind("integer", _COUNT),
    "amount": Kind("integer", _COUNT),
    "seconds": Kind("integer", _COUNT, "seconds"),
    "time": Kind("integer", _COUNT, "seconds since 1970, UTC"),
    "value": Kind("number", {"type": "number"}),
    "list": Kind("array of strings", {"type": "array", "items": {"type": "string"}}),
    "labels": Kind(
        "object of strings", {"type": "object", "additionalProperties": {"type": "string"}}
    ),
}

#: Kinds whose values are sorted by their octets.
ADDRESSES: Final = ("mac", "ip", "address")


class Column(NamedTuple):
    """One field of a row."""

    name: str
    meaning: str
    kind: str = ""
    """One of :data:`KINDS`. Text output shows ``amount`` as 12.3M, ``seconds`` as 1h 58m, ``time``
    as local time; JSON has them as they are."""
    null: str = ""
    """What it means if the value is null; empty: it never is."""
    values: tuple[str, ...] = ()
    """All that there may be, of ``text`` or within a ``list``; empty: anything."""
    most: int | None = None
    """The largest number that there may be."""
    unit: str = ""
    """Of a number, where the kind has none."""

    @property
    def about(self) -> str:
        """Meaning, unit, values and what null stands for, in one line."""
        among = "any of" if self.kind == "list" else "one of"
        unit = self.unit or _kind(self).unit
        meaning = self.meaning if unit in self.meaning else f"{self.meaning} ({unit})"
        parts = [meaning, f"{among} {' '.join(self.values)}" if self.values else ""]
        if self.null:
            parts.append(f"null: {self.null}")
        return "; ".join(part for part in parts if part)


def _kind(column: Column) -> Kind:
    try:
        return KINDS[column.kind]
    except KeyError:
        wrong = f"the unknown kind {column.kind!r}" if column.kind else "no kind"
        raise DmevpnError(
            f"column {column.name!r} ({column.meaning}) has {wrong}; it takes one of"
            f" {', '.join(KINDS)}, and `null` says what null means if it may be null"
        ) from None


def column_type(column: Column) -> str:
    """The type of a column, in words.

    :raises DmevpnError: if it has none.
    """
    kind = _kind(column)
    unit = column.unit or kind.unit
    return kind.said + (f", {unit}" if unit else "") + (", or null" if column.null else "")


def column_schema(column: Column) -> dict[str, Any]:
    """The type of a column, in JSON Schema.

    :raises DmevpnError: if it has none.
    """
    kind = _kind(column)
    schema = dict(kind.schema)
    if column.values and column.kind == "list":
        schema["items"] = {"enum": list(column.values)}
        schema["uniqueItems"] = True
    elif column.values:
        schema = {"enum": list(column.values)}
    if column.most is not None:
        schema["maximum"] = column.most
    if column.null:
        schema = {"anyOf": [schema, {"type": "null"}]}
    schema["description"] = column.about
    if column.unit or kind.unit:
        schema["unit"] = column.unit or kind.unit
    return schema


# --- columns of several commands ----------------------------------------------------------------

IN_VPN: Final = Column(
    "vpn", "index of the VPN", "number", "packets that name no VPN", most=MOST_VPN
)
_NOWHERE = "it is not known where, or it is not needed"
AT_NBMA: Final = Column("nbma", "underlay address that frames for it are sent to", "ip", _NOWHERE)
AT_VNI: Final = Column(
    "vni", "VXLAN network identifier at that address", "number", _NOWHERE, most=MOST_VNI
)
ON_INTERFACE: Final = Column("interface", "data interface of the VPN", "text")

#: Of ``cache show``, and what follows ``event`` in ``cache watch``.
BINDING: Final = (
    IN_VPN,
    Column("protocol", "protocol address or network that is bound", "address"),
    Column("type", "how it is known", "text", values=BINDING_TYPES),
    AT_NBMA,
    AT_VNI,
    Column("expires_in", "until it runs out", "seconds", "never"),
    Column("flags", "what else is to be said", "list", values=FLAGS),
    ON_INTERFACE,
)
