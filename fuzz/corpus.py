"""The inputs that are kept: a text file a target, one input in hexadecimal a line."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz.targets import TARGETS, Target

__all__ = ["keep", "kept", "minimised", "pour"]

_HERE = Path(__file__).resolve().parent / "corpus"
_PACKAGE = str(Path(__file__).resolve().parent.parent / "dmevpn")

#: A minimised corpus has no more inputs than this, so that a test can run it; what adds most
#: stays.
MOST = 400
#: Longest input that is kept, in octets.
LONGEST = 4096


def kept(name: str) -> list[bytes]:
    """The kept inputs of a target."""
    path = _HERE / f"{name}.hex"
    return [bytes.fromhex(line) for line in path.read_text().split()] if path.exists() else []


def keep(name: str, inputs: Iterable[bytes]) -> None:
    """Keep these inputs and no others."""
    _HERE.mkdir(exist_ok=True)
    lines = sorted({each.hex() for each in inputs}, key=lambda line: (len(line), line))
    (_HERE / f"{name}.hex").write_text("".join([f"{line}\n" for line in lines]))


def pour(inputs: Iterable[bytes], directory: Path) -> None:
    """Write inputs to a directory in the fuzzer's way, by the hash of their octets."""
    directory.mkdir(parents=True, exist_ok=True)
    for each in inputs:
        (directory / hashlib.sha1(each, usedforsecurity=False).hexdigest()).write_bytes(each)


def minimised(name: str, inputs: Iterable[bytes]) -> list[bytes]:
    """As few and short inputs as pass the same places of the code.

    Each meets a new node, so that it is worth the same wherever it is run.
    """
    target = TARGETS[name]()
    candidates = sorted({each for each in inputs if len(each) <= LONGEST}, key=len)
    places = {each: _places(target, each) for each in candidates}
    chosen: list[bytes] = []
    missing: set[object] = set().union(*places.values())
    while missing and len(chosen) < MOST:
        best = max(candidates, key=lambda each: len(places[each] & missing))
        chosen.append(best)
        missing -= places[best]
    return chosen


def _places(target: Target, data: bytes) -> set[object]:
    """The steps from line to line of our package that an input takes."""
    found: set[object] = set()

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(_PACKAGE):
            return None
        last = [0]

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            found.add((code, last[0], frame.f_lineno))
            last[0] = frame.f_lineno
            return line

        return line

    target.renew()
    sys.settrace(enter)
    try:
        target.run(data)
    finally:
        sys.settrace(None)
    return found
