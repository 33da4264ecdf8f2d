"""When the tables of a spoke are read whole: a piece in each turn of the reactor. Layer: edge."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from dmevpn.dataplane.netlink import NetlinkRequests
from dmevpn.dataplane.pending import Later
from dmevpn.dataplane.spoke_reading import Reading
from dmevpn.dataplane.spoke_table import EntryTable
from dmevpn.errors import DataplaneError

__all__ = ["READ_PAUSE", "READ_STEP", "Readings"]

#: Datagrams of a dump read in one turn of the reactor: some 400 entries, 2 to 4 ms.
READ_STEP = 1
#: Seconds between readings that notifications ask for, so that a storm of them costs two a second.
READ_PAUSE = 0.5


class Readings:
    """One reading at a time; who asks meanwhile shares it.

    :ivar latest: the last one that was read to its end.
    :param dumps: a socket that is used for nothing else.
    :param finished: called with each reading at its end.
    :param failed: called with the reason for one that could not be read to its end.
    """

    def __init__(
        self,
        clock: IReactorTime,
        table: EntryTable,
        dumps: NetlinkRequests,
        later: Later,
        *,
        finished: Callable[[Reading], None],
        failed: Callable[[DataplaneError], None],
    ) -> None:
        self.latest: Reading | None = None
        self._clock = clock
        self._table = table
        self._dumps = dumps
        self._later = later
        self._finished = finished
        self._failed = failed
        self._current: Reading | None = None
        self._is_stale = False
        """Whether it is about devices that are no longer ours."""
        self._again = False
        """Whether something happened that it may have been too early to see."""
        self._waiting: list[Deferred[dict[bytes, float]]] = []
        self._next = 0.0

    @property
    def by_hand(self) -> int:
        """How many entries for stations the latest found that were made by hand."""
        return 0 if self.latest is None else self.latest.by_hand

    def ages(self) -> Deferred[dict[bytes, float]]:
        """Read, and hand on how long ago each shortcut was used."""
        waiting: Deferred[dict[bytes, float]] = Deferred()
        self._waiting.append(waiting)
        self.begin()
        return waiting

    def soon(self) -> None:
        """Read, but not more often than once per READ_PAUSE."""
        self._later("read", max(0.0, self._next - self._clock.seconds()), self._anew)

    def begin(self) -> None:
        """Read now, unless that is going on."""
        if self._current is None:
            self._current = self._table.begin_reading(self._dumps)
            self._later("advance", 0, self._advance)

    def begin_elsewhere(self) -> None:
        """The devices are others now. A dump that has begun is read to its end all the same."""
        self._is_stale = self._current is not None
        self.begin()

    def close(self) -> None:
        """Let nobody wait any longer."""
        self._tell({})

    def _anew(self) -> None:
        self._again = self._current is not None
        self.begin()

    def _advance(self) -> None:
        reading = self._current
        assert reading is not None
        try:
            if not reading.advance(READ_STEP):
                self._later("advance", 0, self._advance)
                return
        except DataplaneError as error:
            self._end({})
            self._failed(error)
            return
        if self._is_stale:
            self._is_stale = False
            self._current = None
            self.begin()
            return
        self.latest = reading
        self._finished(reading)
        table = self._table
        self._end(
            {mac: age for mac, age in table.ages.items() if table.wanted.get(mac) is not None}
        )

    def _end(self, ages: dict[bytes, float]) -> None:
        self._current = None
        self._next = self._clock.seconds() + READ_PAUSE
        if self._again:
            self._again = False
            self.soon()
        self._tell(ages)

    def _tell(self, ages: dict[bytes, float]) -> None:
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(ages)
