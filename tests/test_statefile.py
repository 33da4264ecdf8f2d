"""What a daemon writes down for its successor: as a file, and what can become of a file."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogLevel

from dmevpn.metrics import Metrics
from dmevpn.statefile import SIZE_LIMIT, MemoryStateStore, StateFile, pack
from tests.dataplane.test_provision import texts_of

STATE = {"answers": {"vx0": {"1": "a,b"}}, "at": 1.5}


class Aside:
    """Work that was put aside, done when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], str], Callable[[str], None]]] = []

    def __call__(self, work: Callable[[], str], done: Callable[[str], None]) -> None:
        self.waiting.append((work, done))

    def work(self) -> int:
        """Do all of it; how much there was."""
        done = 0
        while self.waiting:
            work, tell = self.waiting.pop(0)
            tell(work())
            done += 1
        return done


@pytest.fixture
def aside() -> Aside:
    return Aside()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(path: Path, aside: Aside) -> StateFile:
    return StateFile(str(path), Metrics(), aside, "boot")


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_contract(kind: str, store: StateFile, aside: Aside) -> None:
    """What was saved last is loaded, until it is forgotten."""
    kept: Any = store if kind == "file" else MemoryStateStore("boot")
    assert kept.boot == "boot"
    assert kept.load() is None
    kept.save_now(STATE)
    assert kept.load() == STATE
    kept.save({"at": 2})
    kept.save({"at": 3})
    aside.work()
    assert kept.load() == {"at": 3}
    assert kept.forget()
    assert kept.forget()
    assert kept.load() is None


def test_written_aside_and_for_us_alone(store: StateFile, path: Path, aside: Aside) -> None:
    """Nothing waits for the disk; of what comes meanwhile only the last is written; mode 0600."""
    for number in range(5):
        store.save({"at": number})
    assert not path.exists()
    assert aside.work() == 2
    assert store.load() == {"at": 4}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["state"]


def test_the_last_word(store: StateFile, aside: Aside) -> None:
    """What was put aside before a save that waits does not come after it."""
    store.save({"at": 1})
    assert store.save_now({"at": 2})
    aside.work()
    assert store.load() == {"at": 2}
    store.save({"at": 3})
    aside.work()
    assert store.load() == {"at": 3}


def test_a_save_while_another_is_under_way(
    store: StateFile, aside: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for that one, which would write into its file otherwise."""
    begun, go_on = threading.Event(), threading.Event()
    real = os.open

    def slow(*arguments: Any) -> int:
        descriptor = real(*arguments)
        if not begun.is_set():
            begun.set()
            go_on.wait()
        return descriptor

    store.save({"at": "a" * 100})
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", slow)
        under_way = threading.Thread(target=aside.work)
        under_way.start()
        begun.wait()
        last = threading.Thread(target=store.save_now, args=[{"at": 2}])
        last.start()
        last.join(0.2)
        go_on.set()
        under_way.join()
        last.join()
    assert store.load() == {"at": 2}


def test_what_a_kill_left_beside_it(store: StateFile, tmp_path: Path) -> None:
    """Files of runs that were killed while they wrote do not gather."""
    for number in range(3):
        (tmp_path / f"state.new.{number}").write_bytes(b"half")
    (tmp_path / "state.newer").write_bytes(b"somebody else's")
    store.save_now(STATE)
    assert store.load() == STATE
    assert sorted(os.listdir(tmp_path)) == ["state", "state.newer"]
    store.save_now({"at": 2})
    assert store.load() == {"at": 2}


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"", "no state of ours"),
        (b"\xff" * 100, "no state of ours"),
        (b"something else\n", "no state of ours"),
        (pack(STATE)[:-5], "spoilt or cut short"),
        (pack(STATE).replace(b"a,b", b"a,c"), "spoilt or cut short"),
        (pack(STATE).replace(b"state 1", b"state 2"), "state of version 2, this daemon reads 1"),
        (pack([1]), "no state of ours"),
        (pack("[" * 10).replace(b'"', b" "), "spoilt or cut short"),
        (bytes(SIZE_LIMIT + 1), "too large"),
    ],
)
def test_useless_files(store: StateFile, path: Path, octets: bytes, reason: str) -> None:
    """One line of the log says what is wrong, and the next save is as any other."""
    path.write_bytes(octets)
    with texts_of(LogLevel.warn) as texts:
        assert store.load() is None
    assert texts == [f"{path}: {reason}: going on without what an earlier run knew"]
    store.save_now(STATE)
    assert store.load() == STATE


def test_other_things_in_its_place(store: StateFile, path: Path) -> None:
    """A directory, a pipe or a link to nowhere stops nothing; a pipe and a link are replaced."""
    path.mkdir()
    with texts_of(LogLevel.warn) as texts:
        assert store.load() is None
        store.save_now(STATE)
    assert len(texts) == 2
    path.rmdir()
    os.mkfifo(path)
    assert store.load() is None
    store.save_now(STATE)
    assert store.load() == STATE
    path.unlink()
    path.symlink_to("nowhere")
    store.save_now(STATE)
    assert not path.is_symlink()


def test_a_full_disk(
    store: StateFile, path: Path, aside: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written before stays whole; it is said once, and once when it goes on."""
    store.save_now(STATE)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with texts_of(LogLevel.warn) as warnings, texts_of(LogLevel.info) as infos:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            for number in range(3):
                store.save({"at": number})
                aside.work()
        assert store.load() == STATE
        assert os.listdir(path.parent) == ["state"]
        store.save_now({"at": 9})
    assert warnings == [f"{path}: not saved: No space left on device"]
    assert infos == [f"{path}: saved again"]
    assert store.load() == {"at": 9}
