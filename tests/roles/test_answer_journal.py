"""The journal of a hub's answers: what is written is read again, whatever happens to its files."""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path as FilePath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogLevel

from dmevpn import statefile
from dmevpn.addresses import VTEP, Path
from dmevpn.metrics import Metrics
from dmevpn.roles.answer_journal import Answer, AnswerJournal, read_part
from dmevpn.statefile import MemoryStateStore, StateFile
from tests.dataplane.test_provision import texts_of

V4 = Answer(b"\2aaaaa", (VTEP(b"\x0a\0\0\2", 100),), b"\2bbbbb", Path(b"1234", b"5678"), 300.5)
V6 = Answer(
    b"\x20\x01" + bytes(15),
    (VTEP(b"v" * 16, None), VTEP(b"w" * 16, (1 << 24) - 1)),
    b"s" * 16,
    Path(b"p" * 16, b"", 0xFFFFFFFF),
    7.25,
)
OTHERS = [V4._replace(key=bytes([2, 0, 0, 0, 0, number])) for number in range(20)]


def store(path: FilePath, boot: str = "boot") -> StateFile:
    return StateFile(str(path / "state"), Metrics(), lambda work, done: done(work()), boot)


def give(journal: AnswerJournal, *answers: Answer, vpn: int = 1) -> None:
    """Have a turn's answers written."""
    record = journal.recorder("vx0", vpn)
    for answer in answers:
        record(*answer)
    journal.write()


def begun(kept: StateFile | MemoryStateStore) -> AnswerJournal:
    """The journal of a first run."""
    journal = AnswerJournal(kept)
    assert journal.resume(None, "") == (False, [])
    return journal


def after(kept: StateFile | MemoryStateStore, first: int | None = 1, boot: str = "boot") -> object:
    """What the next run finds: whether it is all, and the answers."""
    whole, answers = AnswerJournal(kept).resume(first, boot)
    return whole, [answer for _, _, answer in answers]


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_what_is_written_is_read(tmp_path: FilePath, kind: str) -> None:
    """Of every form, in its order, with its VPN; and the next run goes on where it was."""
    kept: StateFile | MemoryStateStore
    kept = store(tmp_path) if kind == "file" else MemoryStateStore("boot")
    journal = begun(kept)
    give(journal, V4, V6)
    give(journal, V4, vpn=70_000)
    following = AnswerJournal(kept)
    found = [("vx0", 1, V4), ("vx0", 1, V6), ("vx0", 70_000, V4)]
    assert following.resume(1, "boot") == (True, found)
    assert following.number == 1
    give(following, V6, vpn=2)
    assert AnswerJournal(kept).resume(1, "boot") == (True, [*found, ("vx0", 2, V6)])


def test_nothing_is_made_for_nothing(tmp_path: FilePath) -> None:
    """Without answers there is no file, and no part begins; a file is for us alone."""
    journal = begun(store(tmp_path))
    for _ in range(3):
        journal.write()
        journal.begin()
    assert journal.number == 1
    assert os.listdir(tmp_path) == []
    give(journal, V4)
    (name,) = os.listdir(tmp_path)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_parts_take_turns(tmp_path: FilePath) -> None:
    """Two at a time; what was gathered says from which on they are read."""
    kept = store(tmp_path)
    journal = begun(kept)
    for number, answer in enumerate(OTHERS[:4], 1):
        assert journal.number == number
        give(journal, answer)
        journal.begin()
    assert len(os.listdir(tmp_path)) == 2
    assert after(kept, 3) == (True, OTHERS[2:4])
    assert after(kept, 4) == (True, OTHERS[3:4])
    assert after(kept, 5) == (True, [])
    assert after(kept, 2) == (False, OTHERS[2:4]), "the second is gone"
    assert after(kept, None) == (False, OTHERS[2:4])
    assert after(kept, 3, boot="another") == (False, OTHERS[2:4])


def test_another_boot(tmp_path: FilePath) -> None:
    """What was not made sure of may be gone, so what is there is not relied upon."""
    journal = begun(store(tmp_path))
    give(journal, V4)
    assert after(store(tmp_path, "next"), 1) == (False, [])
    assert after(store(tmp_path, ""), 1, boot="") == (False, [])
    os.unlink(tmp_path / "state.answers.1")
    assert after(store(tmp_path, "next"), 1) == (True, []), "nothing was answered"


def test_torn(tmp_path: FilePath) -> None:
    """Cut short anywhere, a part has its whole batches; nothing is missing, since what is cut was
    not sent. What follows is read again."""
    journal = begun(store(tmp_path))
    file = tmp_path / "state.answers.1"
    sizes = []
    for number in range(0, 6, 2):
        give(journal, *OTHERS[number : number + 2])
        sizes.append(file.stat().st_size)
    octets = file.read_bytes()
    for length in range(octets.index(b"\n") + 1, len(octets) + 1):
        file.write_bytes(octets[:length])
        batches = sum(size <= length for size in sizes)
        following = AnswerJournal(store(tmp_path))
        whole, found = following.resume(1, "boot")
        assert (whole, [each for _, _, each in found]) == (True, OTHERS[: 2 * batches])
        give(following, V6)
        assert after(store(tmp_path)) == (True, [*OTHERS[: 2 * batches], V6])


def test_spoilt(tmp_path: FilePath) -> None:
    """Whatever octet is another one, what is read is true, and known not to be all."""
    journal = begun(store(tmp_path))
    give(journal, *OTHERS[:2])
    give(journal, *OTHERS[2:4])
    file = tmp_path / "state.answers.1"
    octets = file.read_bytes()
    for place in range(len(octets)):
        file.write_bytes(octets[:place] + bytes([octets[place] ^ 0x81]) + octets[place + 1 :])
        whole, found = after(store(tmp_path))  # type: ignore[misc]
        assert found in ([], OTHERS[:2])
        if place < octets.index(b"\n"):
            assert not whole


@given(st.binary(max_size=200))
def test_foreign(octets: bytes) -> None:
    """Anything else is refused in words, or has no answers."""
    with pytest.raises(ValueError):
        read_part(octets)
    head = b"dmevpn-answers 1 3 boot\n"
    assert read_part(head + octets).answers == []


def row(many: int, where: bytes, key: int = 0) -> bytes:
    """A row with a key of zeros, and nothing else."""
    numbers = struct.pack("!7Biqd", many, len(where), key, 0, 0, 0, 0, 0, 0, 0)
    return numbers + where + bytes(key)


@pytest.mark.parametrize(
    "rows",
    [b"\0" * 8, row(1, b"vx0/1"), row(0, b"vx0"), row(0, b"\xff/1"), row(0, b"vx0/1", 6)[:-1]],
    ids=["short", "another VTEP", "no VPN", "no name", "cut"],
)
def test_batches_that_are_not_ours(rows: bytes) -> None:
    """With a checksum that fits."""
    batch = struct.pack("!II", len(rows), zlib.crc32(rows)) + rows
    part = read_part(b"dmevpn-answers 1 3 boot\n" + batch)
    assert (part.answers, part.whole) == ([], False)


def test_other_things_in_its_place(tmp_path: FilePath) -> None:
    """A directory or a pipe stops nothing; it is said once, and what was saved is given up, since
    nobody would know that something is missing."""
    for make in (os.mkdir, os.mkfifo):
        kept = store(tmp_path)
        kept.save_now({"journal": 1})
        make(tmp_path / "state.answers.1")
        with texts_of(LogLevel.warn) as texts:
            journal = AnswerJournal(kept)
            journal.resume(1, "boot")
            journal._last, journal.number = 1, 1
            give(journal, V4)
            give(journal, V4)
        assert len(texts) == 1
        assert journal.number is None
        assert kept.load() is None
        (os.rmdir if make is os.mkdir else os.unlink)(tmp_path / "state.answers.1")


def no_space(descriptor: int, octets: bytes) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("write", [no_space, lambda descriptor, octets: len(octets) - 1])
def test_a_full_disk(
    tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch, write: Callable[[int, bytes], int]
) -> None:
    """It is known that something is missing, said once, and the next part is as any other."""
    kept = store(tmp_path)
    journal = begun(kept)
    give(journal, V4)
    with texts_of(LogLevel.warn) as texts:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            give(journal, V6)
            give(journal, V6)
        assert texts == [
            f"{tmp_path}/state: answers are not written down: "
            + ("No space left on device" if write is no_space else "no space is left")
        ]
    assert journal.number is None
    assert after(kept) == (False, [])
    journal.begin()
    give(journal, V6)
    journal.begin()
    give(journal, V4)
    assert after(kept, 2) == (True, [V6, V4])


def test_a_part_is_bounded(tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many octets nothing is written before what is known has been gathered again."""
    monkeypatch.setattr(statefile, "PART_LIMIT", 1000)
    kept = store(tmp_path)
    journal = begun(kept)
    with texts_of(LogLevel.warn) as texts:
        for _ in range(100):
            give(journal, V4)
    assert len(texts) == 1
    assert kept._failed.value == 1
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) == 0
    journal.begin()
    give(journal, V4)
    assert after(kept, 2)[0] is False, "the one before is not there any more"  # type: ignore[index]
    (tmp_path / "state.answers.0").write_bytes(bytes(1001))
    assert after(kept, 2) == (False, [])


def test_ended_in_order(tmp_path: FilePath) -> None:
    """No part is left; the next run begins its own."""
    kept = store(tmp_path)
    journal = begun(kept)
    give(journal, V4)
    following = journal.next_number
    journal.close()
    assert os.listdir(tmp_path) == []
    successor = AnswerJournal(kept)
    assert successor.resume(following, "boot") == (True, [])
    assert successor.number == following == 2
    give(successor, V6)
    assert after(kept, 2) == (True, [V6])


def test_given_up(tmp_path: FilePath) -> None:
    """What stands in a part that others are missing from is no use."""
    kept = store(tmp_path)
    journal = begun(kept)
    journal.abandon()
    assert os.listdir(tmp_path) == []
    journal.begin()
    give(journal, V4)
    journal.abandon()
    assert after(kept, 2) == (False, [])
