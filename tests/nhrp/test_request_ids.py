"""Request identifiers: no run of the daemon uses one that an earlier run has used."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from zope.interface.verify import verifyObject

from dmevpn.interfaces import IRequestIDStore
from dmevpn.metrics import Metrics
from dmevpn.nhrp.request_ids import (
    BLOCK,
    FileRequestIDStore,
    RequestIDs,
    TimeRequestIDStore,
    open_store,
)
from tests.nhrp.neighbours import IDStore

NOW = 1_700_000_000.0
BY_TIME = TimeRequestIDStore(lambda: NOW).reserve(0)


class Disk:
    """Writes when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], str], Callable[[str], None]]] = []

    def __call__(self, work: Callable[[], str], done: Callable[[str], None]) -> None:
        self.waiting.append((work, done))

    def write(self) -> None:
        """Do what waits so far."""
        waiting, self.waiting = self.waiting, []
        for work, done in waiting:
            done(work())


def at_once(work: Callable[[], str], done: Callable[[str], None]) -> None:
    """A disk that never lets anybody wait."""
    done(work())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "request-ids"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "request-ids.copy"


def store(path: Path, now: float = NOW, aside: object = at_once) -> FileRequestIDStore:
    """The store of a run that begins at a time."""
    return FileRequestIDStore(str(path), lambda: now, Metrics(), aside)  # type: ignore[arg-type]


def run(path: Path, count: int = 10, now: float = NOW) -> set[int]:
    """The identifiers of a run that ends in a crash."""
    ids = RequestIDs(store(path, now))
    return {ids.next() for _ in range(count)}


# --- handing out ----------------------------------------------------------------------------


def test_they_rise_and_are_reserved_in_blocks() -> None:
    """Each request has the next number; the store is asked once a block, for the one after."""
    store = IDStore(2**32 - 3)
    ids = RequestIDs(store)
    assert [ids.next() for _ in range(5)] == [2**32 - 3, 2**32 - 2, 2**32 - 1, 0, 1]
    assert len(store.reserved) == 2
    for _ in range(BLOCK):
        ids.next()
    assert len(store.reserved) == 3


def test_prepared_once() -> None:
    """A start reserves what the first requests take; a second start takes no more."""
    store = IDStore()
    ids = RequestIDs(store)
    ids.prepare()
    ids.prepare()
    assert len(store.reserved) == 2
    assert ids.next() == 1000


def test_no_request_waits_for_the_disk(path: Path) -> None:
    """What is used has been written before, and what is being written is not waited for."""
    disk = Disk()
    ids = RequestIDs(store(path, aside=disk))
    ids.prepare()
    for _ in range(3):
        used = [ids.next() for _ in range(BLOCK)]
        assert len(disk.waiting) == 1, "one write a block"
        # A crash now: the next run begins behind all of them.
        assert store(path).reserve(1) > used[-1]
        disk.write()


def test_a_slow_disk_is_counted(path: Path, metrics: Metrics) -> None:
    """Requests go on, and what they took is written as soon as the disk is ready."""
    disk = Disk()
    ids = RequestIDs(FileRequestIDStore(str(path), lambda: NOW, metrics, disk))
    used = [ids.next() for _ in range(3 * BLOCK)]
    assert metrics.value("request_id_saves_late") == 2
    assert len(disk.waiting) == 1
    while disk.waiting:
        disk.write()
    assert store(path).reserve(1) > used[-1]
    assert len(set(used)) == len(used)


def test_by_time_they_rise_over_a_restart() -> None:
    """A daemon without files that restarts after a second uses higher numbers than before."""
    before = TimeRequestIDStore(lambda: NOW)
    assert verifyObject(IRequestIDStore, before)
    first = RequestIDs(before)
    used = [first.next() for _ in range(64)]
    assert RequestIDs(TimeRequestIDStore(lambda: NOW + 1)).next() > used[-1]


# --- the files ------------------------------------------------------------------------------


def test_interface(path: Path) -> None:
    """The store is what requests ask for."""
    assert verifyObject(IRequestIDStore, store(path))


def test_they_rise_even_if_the_clock_stands_still(path: Path) -> None:
    """After a crash no number is used again, however many were used before it."""
    first = store(path)
    begin = first.reserve(100_000)
    assert first.reserve(BLOCK) == begin + 100_000
    assert store(path).reserve(BLOCK) == begin + 100_000 + BLOCK


@pytest.mark.parametrize("back", [1, 86400, 10 * 365 * 86400, NOW])
def test_a_clock_that_goes_backwards(path: Path, back: float) -> None:
    """The files say where to go on, also when the clock is set right again."""
    runs = [run(path, now=now) for now in (NOW, NOW - back, NOW - back, NOW, NOW + 1)]
    assert len(set().union(*runs)) == sum(map(len, runs))


def test_time_counts_when_it_is_ahead(path: Path) -> None:
    """Files from a backup do not bring numbers back."""
    store(path).reserve(BLOCK)
    later = store(path, NOW + 86400).reserve(BLOCK)
    assert later == TimeRequestIDStore(lambda: NOW + 86400).reserve(0)


def test_ahead_is_meant_modulo_two_to_the_32(path: Path) -> None:
    """When the numbers begin anew, the files' small ones are the later ones."""
    now = (2**32 - 10) / 64
    assert store(path, now).reserve(15) == 2**32 - 10
    assert store(path, now).reserve(BLOCK) == 5


def test_every_torn_write(path: Path, copy: Path) -> None:
    """Whichever file a crash cuts short at whichever octet, with or without the rest of the old
    record behind: no number comes back."""
    run(path)
    old = path.read_bytes()
    assert copy.read_bytes() == old
    used = run(path)
    new = path.read_bytes()
    assert new != old and copy.read_bytes() == new
    for cut in range(len(new) + 1):
        for torn in (new[:cut], new[:cut] + old[cut:]):
            # The first is being written: nothing of the new block was handed out.
            path.write_bytes(torn)
            copy.write_bytes(old)
            assert store(path).reserve(1) >= min(used)
            # The second is being written, the first is done.
            path.write_bytes(new)
            copy.write_bytes(torn)
            assert store(path).reserve(1) > max(used)


FOREIGN = [b"", b"\x00\xff", b"12 13", b"-1", b"4294967296", b"9" * 1000, b"9999999999 00000000\n"]


@pytest.mark.parametrize("content", FOREIGN)
@pytest.mark.parametrize("which", ["path", "copy"])
def test_a_foreign_file_in_the_place_of_one(
    path: Path, copy: Path, which: str, content: bytes
) -> None:
    """The other one knows, and both are ours again."""
    used = run(path, 3 * BLOCK)
    (path if which == "path" else copy).write_bytes(content)
    assert run(path).isdisjoint(used)
    assert path.read_bytes() == copy.read_bytes() != b""


@pytest.mark.parametrize("content", FOREIGN)
def test_foreign_files_in_both_places(path: Path, copy: Path, content: bytes) -> None:
    """The daemon starts, by the time."""
    path.write_bytes(content)
    copy.write_bytes(content)
    assert store(path).reserve(BLOCK) == BY_TIME
    assert store(path).reserve(BLOCK) == BY_TIME + BLOCK


@pytest.mark.parametrize("which", ["path", "copy"])
def test_what_is_no_file(path: Path, copy: Path, which: str) -> None:
    """A directory or a pipe in the place of one file stops nothing, and nobody waits for it."""
    place = path if which == "path" else copy
    used = run(path)
    for make in (os.mkdir, os.mkfifo):
        place.unlink()
        make(place)
        again = run(path)
        assert again.isdisjoint(used)
        used |= again
        place.rmdir() if place.is_dir() else place.unlink()
        used |= run(path)


def test_nothing_can_be_saved(tmp_path: Path, metrics: Metrics) -> None:
    """Requests go out all the same, and it is counted; once the disk is back, they are saved."""
    place = tmp_path / "away" / "request-ids"
    ids = RequestIDs(FileRequestIDStore(str(place), lambda: NOW, metrics, at_once))
    used = [ids.next() for _ in range(2 * BLOCK)]
    assert metrics.value("request_id_saves_failed") == 3
    place.parent.mkdir()
    used += [ids.next() for _ in range(BLOCK)]
    assert metrics.value("request_id_saves_failed") == 3
    assert store(place).reserve(1) > used[-1]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for three pages."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12k", "dmevpn-test", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def fill(place: Path) -> None:
    """Leave no room."""
    with contextlib.suppress(OSError), open(place / "filler", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_a_disk_that_fills_up(full_disk: Path) -> None:
    """The files need no more room than they have."""
    used = run(full_disk / "request-ids")
    fill(full_disk)
    with pytest.raises(OSError, match="No space left"):
        (full_disk / "more").write_bytes(b"x")
    for _ in range(3):
        again = run(full_disk / "request-ids", 2 * BLOCK)
        assert again.isdisjoint(used)
        used |= again


def test_a_disk_that_was_always_full(full_disk: Path, metrics: Metrics) -> None:
    """The daemon starts, and says that nothing is saved; the time makes the numbers rise."""
    fill(full_disk)
    path = full_disk / "request-ids"
    ids = RequestIDs(FileRequestIDStore(str(path), lambda: NOW, metrics, at_once))
    assert ids.next() == BY_TIME
    assert metrics.value("request_id_saves_failed") == 2
    assert RequestIDs(store(path, NOW + 1)).next() == BY_TIME + 64


def test_the_directory_is_made(tmp_path: Path, metrics: Metrics) -> None:
    """State goes where `state-dir` says, which need not be there yet."""
    place = tmp_path / "state" / "of" / "hub"
    first = open_store(str(place), lambda: NOW, metrics, at_once).reserve(BLOCK)
    assert sorted(os.listdir(place)) == ["request-ids", "request-ids.copy"]
    assert open_store(str(place), lambda: NOW, metrics, at_once).reserve(1) == first + BLOCK


@pytest.mark.parametrize("directory", ["", "file", "file/below"])
def test_a_directory_that_cannot_be(tmp_path: Path, metrics: Metrics, directory: str) -> None:
    """It is no obstacle."""
    (tmp_path / "file").write_text("")
    place = str(tmp_path / directory) if directory else ""
    assert open_store(place, lambda: NOW, metrics, at_once).reserve(1) == BY_TIME


# --- crashes --------------------------------------------------------------------------------


class Thread:
    """A real disk, which keeps up with whoever waits for it once a block."""

    def __init__(self) -> None:
        self.idle = threading.Event()
        self.idle.set()

    def __call__(self, work: Callable[[], str], done: Callable[[str], None]) -> None:
        self.idle.clear()
        threading.Thread(target=self._run, args=(work, done), daemon=True).start()

    def _run(self, work: Callable[[], str], done: Callable[[str], None]) -> None:
        done(work())
        self.idle.set()


def use(path: Path, pipe: int) -> None:
    """Use identifiers without end; say the first of each thousand before the others are used."""
    disk = Thread()
    ids = RequestIDs(store(path, aside=disk))
    while True:
        first = ids.next()
        os.write(pipe, b"%d\n" % first)
        for _ in range(999):
            ids.next()
        if (first // 1000) % 8 == 0:
            disk.idle.wait()


def crash(path: Path, patience: float) -> list[int]:
    """Fork a run, kill it after some seconds, and return what it used, a thousand each."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            use(path, writing)
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = [pipe.readline()]
        killer = threading.Timer(patience, os.kill, (child, signal.SIGKILL))
        killer.start()
        said += pipe.readlines()
        killer.join()
    os.waitpid(child, 0)
    return [int(line) for line in said if line.endswith(b"\n")]


def test_killed_at_any_point(path: Path) -> None:
    """However a run ends, the next one uses none of its numbers; the clock stands still."""
    chance = random.Random(1)
    end = 0
    for _ in range(25):
        used = crash(path, chance.uniform(0, 0.03))
        assert used == sorted(used) and used[0] >= end
        end = used[-1] + 1000
