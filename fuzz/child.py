"""The fuzzed process: one target under libFuzzer, by way of atheris.

``python -m fuzz.child TARGET BOARD FINDINGS PACKETS [libFuzzer's arguments]``
"""

from __future__ import annotations

import gc
import hashlib
import os
import sys
import time
import traceback
from pathlib import Path

import atheris

# What is a stand-in for the kernel or only counts has no places worth finding, and costs time.
with atheris.instrument_imports(
    include=["dmevpn"],
    exclude=[
        "dmevpn.dataplane.memory_device",
        "dmevpn.dataplane.memory_hub",
        "dmevpn.dataplane.memory_layer3",
        "dmevpn.dataplane.memory_spoke",
        "dmevpn.log",
        "dmevpn.metrics",
        "dmevpn.transport.memory",
    ],
):
    from fuzz.targets import TARGETS

from fuzz.findings import Finding
from fuzz.stats import Board, Stats

#: Processor time that no input may take, in seconds.
LONGEST = 5.0
#: Inputs between two countings of memory blocks, and after which the first one is made.
_COUNTING = 4_096


def main() -> None:
    """Run until there is a finding, or enough packets, or the parent says so."""
    name, board_path, findings, packets = sys.argv[1:5]
    target = TARGETS[name]()
    board = Board(Path(board_path))
    stats = board.read()
    enough = int(packets)

    def found(data: bytes) -> None:
        history = target.history()
        digest = hashlib.sha1(history, usedforsecurity=False).hexdigest()
        path = Path(findings) / f"{name}-{digest}"
        path.write_bytes(history)
        traceback.print_exc()
        print(f"\nfound: {path}", file=sys.stderr)
        print(f"again: make fuzz ARGS='--target {name} --reproduce {path}'", file=sys.stderr)
        sys.stderr.flush()
        board.write(stats)
        os._exit(77)

    def one(data: bytes) -> None:
        nonlocal stats
        began = time.process_time_ns()
        try:
            packets = target.run(data)
            took = time.process_time_ns() - began
            if took > LONGEST * 1e9:
                raise Finding(f"one input took {took / 1e9:.1f} s")
        except BaseException:
            found(data)
        inputs = stats.inputs + 1
        before, blocks = stats.blocks_before, stats.blocks
        if inputs % _COUNTING == 0:
            target.renew()
            gc.collect()
            blocks = sys.getallocatedblocks()
            before = before or blocks
        stats = Stats(inputs, stats.packets + packets, max(stats.longest_ns, took), before, blocks)
        if inputs % 64 == 0:
            board.write(stats)
            if enough and stats.packets >= enough:
                os._exit(0)

    atheris.Setup([sys.argv[0], *sys.argv[5:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
