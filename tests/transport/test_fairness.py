"""Whose turn it is when more packets wait than can be delivered."""

from __future__ import annotations

import pytest

from dmevpn.transport import fairness
from dmevpn.transport.fairness import OVERHEAD, FairQueue

A, B, C = b"aaaa", b"bbbb", b"cccc"


def taken(queue: FairQueue[str]) -> list[str]:
    """All that waits, in its order."""
    return queue.take(len(queue) + 1)


def test_turns() -> None:
    """One that has sent much waits behind itself; the packets of each stay in order."""
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "a4"):
        queue.put(A, item, 200, known=True)
    for item in ("b1", "b2"):
        queue.put(B, item, 200, known=True)
    assert taken(queue) == ["a1", "b1", "a2", "b2", "a3", "a4"]
    assert queue.octets == 0 and not queue


def test_large_packets() -> None:
    """Who asks for much with each packet has fewer turns: it is octets that are shared alike."""
    queue: FairQueue[str] = FairQueue()
    for _ in range(3):
        queue.put(A, "a", 1800, known=True)
    for _ in range(30):
        queue.put(B, "b", 180, known=True)
    order = "".join(taken(queue))
    assert order.count("a") == 3 and order.count("b") == 30
    first, second, third = [number for number, each in enumerate(order) if each == "a"]
    assert first >= 7 and second - first >= 7 and third - second >= 7


def test_given_back() -> None:
    """What was taken too early comes first again, in the order in which it was taken."""
    queue: FairQueue[str] = FairQueue()
    for source, item in ((A, "a1"), (A, "a2"), (A, "a3"), (B, "b1")):
        queue.put(source, item, 100, known=True)
    first, *others = queue.take(3)
    assert (first, others) == ("a1", ["b1", "a2"])
    for item in reversed(others):
        queue.give_back({"a": A, "b": B}[item[0]], item, 100, known=True)
    assert len(queue) == 3 and queue.octets == 3 * (100 + OVERHEAD)
    assert taken(queue) == ["b1", "a2", "a3"]


def test_known_peers_first() -> None:
    """Strangers wait until no known peer does, whenever they came."""
    queue: FairQueue[str] = FairQueue()
    queue.put(C, "c1", 100, known=False)
    queue.put(C, "c2", 100, known=False)
    queue.put(A, "a1", 100, known=True)
    assert queue.take(2) == ["a1", "c1"]
    queue.put(B, "b1", 100, known=True)
    assert taken(queue) == ["b1", "c2"]
    assert not queue.take(1)


def test_so_many_strangers_at_a_time() -> None:
    """What strangers want takes longer: a known peer is not to wait for many of them."""
    queue: FairQueue[str] = FairQueue()
    for number in range(4):
        queue.put(C, f"c{number}", 100, known=False)
    queue.put(A, "a1", 100, known=True)
    assert queue.take(10, 2) == ["a1", "c0", "c1"]
    assert queue.take(1, 2) == ["c2"]
    assert queue.take(10, 0) == []
    assert len(queue) == 1


def test_room_of_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """One source can have so much waiting, and no more."""
    monkeypatch.setattr(fairness, "SOURCE_ROOM", 10 * OVERHEAD)
    queue: FairQueue[int] = FairQueue()
    assert [queue.put(A, number, 0, known=True) for number in range(12)] == [True] * 10 + [
        False
    ] * 2
    assert queue.put(B, 0, 0, known=True)
    assert len(queue) == 11 and queue.octets == 11 * OVERHEAD


@pytest.mark.parametrize("known", [True, False])
def test_room_of_all(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all is full, who has less than its share may still add; twice the room is the end."""
    monkeypatch.setattr(fairness, "ROOM", 20 * OVERHEAD)
    queue: FairQueue[int] = FairQueue()
    assert all(queue.put(A, number, 0, known=known) for number in range(15))
    assert all(queue.put(B, number, 0, known=known) for number in range(5))
    assert not queue.put(A, 99, 0, known=known), "it has three quarters of all"
    assert queue.put(C, 0, 0, known=known), "it has nothing"
    # A thousand forged sources with a packet each.
    added = sum(queue.put(b"%4d" % n, n, 0, known=known) for n in range(1000))
    assert queue.octets == 40 * OVERHEAD and added == 19
    assert queue.put(b"else", 0, 0, known=not known), "the other sort has room of its own"
    queue.clear()
    assert queue.octets == len(queue) == 0
