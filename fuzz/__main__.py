"""``make fuzz``: runs the targets one after the other and says what came of it.

The working corpus is in ``build/fuzz`` and every run goes on from it. ``--minimise`` makes the
corpus in git of it, which the test suite runs through the targets too.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from fuzz.corpus import keep, kept, minimised, pour
from fuzz.stats import Board, Stats
from fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "fuzz"
FINDINGS = WORK / "findings"

#: Seconds between two lines of progress.
PROGRESS = 10.0
#: Seconds that one input may take before libFuzzer calls it a hang, and memory that all may take.
HANG = 25
MEMORY_MB = 1024
#: Longest input that is tried, in octets: a dozen packets.
LONGEST = 2048
#: Interpreter memory blocks by which a target may have grown at the end. The codec keeps what it
#: has read before, at most 4096 VPN headers, 512 CIEs and 512 lists of extensions; what leaks with
#: every input is far beyond that after a few minutes.
GROWTH = 60_000

_PULSE = re.compile(rb"cov: (\d+) ft: (\d+) corp: (\d+)/\S+ .*?rss: (\d+)Mb")


class Pulse(NamedTuple):
    """What libFuzzer last said of itself."""

    coverage: int = 0
    features: int = 0
    corpus: int = 0
    memory_mb: int = 0


class Run:
    """One target being fuzzed in a process of its own.

    :param packets: after which it ends; 0: never.
    """

    def __init__(self, name: str, directory: str, packets: int) -> None:
        self.name = name
        self.first: Pulse | None = None
        self.last = Pulse()
        self.began = time.monotonic()
        board = Path(directory) / f"{name}.board"
        words = Path(directory) / f"{name}.dict"
        words.write_text("".join([_dictionary_line(each) for each in TARGETS[name]().tokens]))
        self.log = Path(directory) / f"{name}.log"
        self.board = Board(board)
        corpus = WORK / name
        pour(kept(name) or TARGETS[name]().seeds(), corpus)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "fuzz.child", name, str(board), str(FINDINGS)),
                    *(str(packets), f"-max_len={LONGEST}", f"-timeout={HANG}"),
                    *(f"-rss_limit_mb={MEMORY_MB}", f"-artifact_prefix={FINDINGS}/{name}-"),
                    *(f"-dict={words}", "-print_pcs=0", "-reload=0", str(corpus)),
                ],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def stats(self) -> Stats:
        """Its numbers now."""
        return self.board.read()

    @property
    def seconds(self) -> float:
        """How long it has run, once it has begun."""
        return time.monotonic() - self.began if self.first else 0.0

    def poll(self) -> int | None:
        """Look at what it says; its exit status once it has ended."""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 8192))
            pulses = [Pulse(*map(int, each)) for each in _PULSE.findall(log.read())]
        if pulses:
            if self.first is None:
                # What came before was instrumenting the code, which may take a while.
                self.first = pulses[0]
                self.began = time.monotonic()
            self.last = pulses[-1]
        return self._process.poll()

    def stop(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def progress(self) -> str:
        """Where it stands, in a line."""
        stats, last = self.stats, self.last
        return (
            f"fuzz: {self.name}: {self.seconds:.0f} s, {stats.packets:,} packets in "
            f"{stats.inputs:,} inputs ({stats.packets / (self.seconds or 1):,.0f}/s), "
            f"coverage {last.coverage}, corpus {last.corpus}, {last.memory_mb} MB"
        )

    def summary(self) -> str:
        """What came of it, in a few lines."""
        stats, first, last = self.stats, self.first or Pulse(), self.last
        return (
            f"fuzz: {self.name}: {stats.packets:,} packets in {stats.inputs:,} inputs, "
            f"{self.seconds:.0f} s, {stats.packets / (self.seconds or 1):,.0f} packets/s\n"
            f"    coverage {first.coverage} -> {last.coverage}, "
            f"corpus {first.corpus} -> {last.corpus} inputs\n"
            f"    memory {first.memory_mb} -> {last.memory_mb} MB, interpreter blocks "
            f"{stats.blocks_before:,} -> {stats.blocks:,}\n"
            f"    longest input {stats.longest_ns / 1e6:.1f} ms"
        )


def _dictionary_line(octets: bytes) -> str:
    return '"' + "".join([f"\\x{octet:02x}" for octet in octets]) + '"\n'


def _fuzz(name: str, directory: str, seconds: float, packets: int) -> bool:
    """Fuzz one target; whether nothing was found."""
    run = Run(name, directory, packets)
    status = None
    due = time.monotonic() + PROGRESS
    try:
        while (status := run.poll()) is None and run.seconds < seconds:
            if time.monotonic() >= due:
                due += PROGRESS
                print(run.progress(), flush=True)
            time.sleep(0.2)
        run.stop()
    except KeyboardInterrupt:
        run.stop()
        print(run.summary(), flush=True)
        raise
    run.poll()
    print(run.summary(), flush=True)
    if status:
        said = run.log.read_text(errors="replace")
        sys.stdout.write(said[max(0, said.rfind("Traceback"), len(said) - 6000) :])
        print(f"fuzz: {name}: ended with status {status}; see {FINDINGS}", flush=True)
        return False
    stats = run.stats
    if stats.blocks > stats.blocks_before + GROWTH:
        print(f"fuzz: {name}: its memory grows", flush=True)
        return False
    return True


def _reproduce(name: str, path: Path) -> None:
    """Run one file through a target, traceback and all."""
    target = TARGETS[name]()
    packets = target.run(path.read_bytes())
    print(f"fuzz: {name}: {packets} packets of {path} did no harm")


def _minimise(names: list[str]) -> None:
    for name in names:
        working = WORK / name
        inputs = [each.read_bytes() for each in working.iterdir()] if working.is_dir() else []
        inputs += kept(name)
        few = minimised(name, inputs)
        keep(name, few)
        size = sum([len(each) for each in few])
        print(f"fuzz: {name}: {len(few)} of {len(inputs)} inputs kept, {size} octets", flush=True)


def main() -> int:
    """Read the arguments and do what they say; the exit status."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="repeatable")
    parser.add_argument("--seconds", type=float, help="altogether; default 60, or no limit")
    parser.add_argument("--runs", type=int, default=0, help="packets altogether")
    parser.add_argument("--reproduce", type=Path, metavar="FILE", help="run one finding again")
    parser.add_argument("--minimise", action="store_true", help="make the corpus in git anew")
    arguments = parser.parse_args()
    names: list[str] = arguments.target or list(TARGETS)
    if arguments.reproduce:
        _reproduce(names[0], arguments.reproduce)
        return 0
    if arguments.minimise:
        _minimise(names)
        return 0
    FINDINGS.mkdir(parents=True, exist_ok=True)
    # A run in the background is ended by this one, and its child with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seconds = arguments.seconds or (float("inf") if arguments.runs else 60.0)
    share, packets = seconds / len(names), -(-arguments.runs // len(names))
    os.environ["PYTHONHASHSEED"] = "0"
    with TemporaryDirectory() as directory:
        try:
            results = [_fuzz(name, directory, share, packets) for name in names]
        except KeyboardInterrupt:
            return 130
    if all(results):
        print("fuzz: ok")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
