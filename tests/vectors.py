"""The protocol vectors of tests/data: packets with what every octet of them means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

__all__ = ["NHRP", "VECTORS", "Field", "Vector"]


class Field(NamedTuple):
    """A few octets and their meaning."""

    group: str
    name: str
    octets: bytes


class Vector(NamedTuple):
    """One vector, see the file for what the keys mean."""

    id: str
    title: str
    layer: str
    wellformed: bool
    octets: bytes
    fields: tuple[Field, ...]
    counter: str | None
    code: int | None
    offset: int

    def __str__(self) -> str:
        return f"{self.id} {self.title}"


def _load() -> dict[str, Vector]:
    text = (Path(__file__).parent / "data" / "protocol_vectors.json").read_text()
    vectors = {}
    for entry in json.loads(text)["vectors"]:
        octets = bytes.fromhex(entry["hex"])
        fields = tuple(
            Field(each["group"], each["name"], octets[each["offset"] :][: each["size"]])
            for each in entry["fields"]
        )
        reaction = entry["reaction"]
        vectors[entry["id"]] = Vector(
            entry["id"],
            entry["title"],
            entry["layer"],
            entry["wellformed"],
            octets,
            fields,
            reaction.get("counter"),
            reaction.get("code"),
            reaction.get("offset", 0),
        )
    return vectors


#: All of them, by their name.
VECTORS = _load()

#: Those that are GRE payloads.
NHRP = [vector for vector in VECTORS.values() if vector.layer == "nhrp"]
