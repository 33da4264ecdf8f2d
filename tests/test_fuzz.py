"""The corpus of the fuzzer: whatever once led to a new place of the code does no harm today."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.logger import globalLogPublisher

from fuzz.corpus import kept
from fuzz.findings import Log
from fuzz.steps import Act, Step, as_sent, join, split
from fuzz.targets import TARGETS, Target
from tests.vectors import VECTORS


class Observer(Log):
    """The fuzzer's observer beside pytest's."""

    def begin(self) -> None:
        """Be told what is logged."""
        globalLogPublisher.addObserver(self)


@pytest.fixture
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """A target that shares the log with the test suite."""
    log = Observer()
    monkeypatch.setattr("fuzz.nodes.Log", lambda: log)
    yield TARGETS[request.param]()
    globalLogPublisher.removeObserver(log)


@pytest.mark.parametrize("target", sorted(TARGETS), indirect=True)
def test_corpus(target: Target) -> None:
    """Every input that is kept ends in a named counter or a message, whatever came before it."""
    inputs = kept(target.name)
    assert inputs
    assert sum([target.run(each) for each in inputs]) >= len(inputs)
    assert sum([target.run(each) for each in target.seeds()])


def test_steps_are_read_as_written() -> None:
    """A finding is shown again by the file that was written of it."""
    steps = [Step(b"abc", 3, 5, Act.FRAME, True, False, True), Step(b""), Step(b"x", 1, 7)]
    assert list(split(join(steps))) == steps
    assert list(split(join(steps)[:-1]))[:2] == steps[:2]


@pytest.mark.parametrize("name", ["V02", "P01", "L01"])
def test_a_step_can_put_a_packet_right(name: str) -> None:
    """Size and checksum are those of a sound packet, unless the step wants them wrong."""
    sound = VECTORS[name].octets
    start = {"V": 0, "P": 24, "L": 32}[name[0]]
    broken = sound[: start + 10] + b"\0\0\0\0" + sound[start + 14 :]
    assert as_sent(Step(broken), b"") == bytes.fromhex("00002001") + sound
    assert as_sent(Step(broken, keep_size=True, keep_checksum=True), b"")[4:] == broken
    assert as_sent(Step(broken, raw=True), b"") == broken


def test_a_step_can_answer() -> None:
    """A reply made by the fuzzer is about the node's own request."""
    request, reply = VECTORS["V01"].octets, VECTORS["V04"].octets
    other = reply[:24] + bytes(8) + reply[32:]
    packet = as_sent(Step(other, act=Act.ANSWER), request)[4:]
    assert packet[24:40] == request[24:40]
    assert packet[40:] == reply[40:]
