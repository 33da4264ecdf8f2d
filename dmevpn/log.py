"""Loggers whose level can be changed while the daemon runs. Layer: base.

What is below the level costs one comparison: no event is made. That matters on paths that say
something at debug level for each packet.
"""

from __future__ import annotations

from typing import Any

import twisted.logger
from twisted.logger import LogLevel, LogLevelFilterPredicate

__all__ = ["LEVELS", "Logger"]

#: What is logged from which level on, for each namespace (``log level`` of dmevpnctl sets it).
LEVELS = LogLevelFilterPredicate(defaultLogLevel=LogLevel.info)


class Logger(twisted.logger.Logger):
    """Twisted's logger, silent below its namespace's level in :data:`LEVELS`."""

    def emit(self, level: Any, format: str | None = None, **kwargs: object) -> None:
        """Make an event of it, unless its level is too low."""
        if level >= LEVELS.logLevelForNamespace(self.namespace):
            super().emit(level, format, **kwargs)
