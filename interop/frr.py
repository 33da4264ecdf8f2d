"""FRR's zebra and nhrpd on one machine, run and asked the way their users do."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from lab.netns import Namespace, run
from lab.wait import eventually

__all__ = ["FRR", "NHRPD", "prepare", "read_table", "version"]

DAEMONS = Path("/usr/lib/frr")
#: What a machine without FRR lacks.
NHRPD = DAEMONS / "nhrpd"

#: What installing the package would have made; the daemons refuse to start without.
_ACCOUNTS = {
    Path("/etc/group"): "frr:x:901:\nfrrvty:x:902:frr\n",
    Path("/etc/passwd"): "frr:x:901:901:FRR:/nonexistent:/usr/sbin/nologin\n",
}


def prepare() -> None:
    """Make the user and groups of the package, which in the guest is unpacked but not installed."""
    for path, lines in _ACCOUNTS.items():
        known = {line.partition(":")[0] for line in path.read_text().splitlines()}
        with path.open("a") as stream:
            for line in lines.splitlines(keepends=True):
                if line.partition(":")[0] not in known:
                    stream.write(line)


def version() -> str:
    """FRR's version, such as 8.4.4."""
    return run(str(NHRPD), "--version").stdout.split()[2]


def read_table(text: str) -> list[dict[str, Any]]:
    """The rows of what vtysh prints for a command that ends in ``json``.

    FRR 8.4 prints the head of the text table before the object, and a message if there is nothing.
    """
    start = text.find("{")
    table: list[dict[str, Any]] = [] if start < 0 else json.loads(text[start:])["table"]
    return table


class FRR:
    """zebra and nhrpd in a namespace; a directory of its own name keeps them from the others.

    :param namespace: where they run.
    :param config: of nhrpd, in its own language.
    """

    def __init__(self, namespace: Namespace, config: str) -> None:
        self.name = namespace.name
        self._namespace = namespace
        self._config = config
        self._directory = Path("/run/frr", self.name)
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start both, and wait until nhrpd answers."""
        self._directory.mkdir(parents=True)
        (self._directory / "nhrpd.conf").write_text(self._config)
        (self._directory / "zebra.conf").touch()
        # They drop root's rights before they read or write any of it.
        run("chown", "-R", "frr:frr", str(self._directory))
        # vtysh says on every call that it misses its own file.
        Path("/etc/frr", self.name).mkdir(parents=True, exist_ok=True)
        Path("/etc/frr", self.name, "vtysh.conf").touch()
        self._start("zebra")
        eventually(f"zebra of {self.name}", (self._directory / "zserv.api").exists)
        self._start("nhrpd")
        eventually(f"nhrpd of {self.name}", self._answers, interval=0.2)

    def _start(self, daemon: str) -> None:
        words = [str(DAEMONS / daemon), "-N", self.name, "-P", "0"]
        words += ["-f", str(self._directory / f"{daemon}.conf")]
        words += ["--log", f"file:{self._directory / daemon}.log", "--log-level", "debugging"]
        with (self._directory / f"{daemon}.out").open("wb") as said:
            self._processes.append(
                subprocess.Popen(
                    self._namespace.command(*words),
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                )
            )

    def _answers(self) -> bool:
        ended = [process.args for process in self._processes if process.poll() is not None]
        assert not ended, f"{self.name} ended: {ended}:\n{self.log[-2000:]}"
        return self._vtysh("show ip nhrp cache", check=False).returncode == 0

    def _vtysh(self, command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self._namespace.run("vtysh", "-N", self.name, "-c", command, check=check)

    def rows(self, what: str) -> list[dict[str, Any]]:
        """The table that ``show ip nhrp WHAT json`` prints."""
        return read_table(self._vtysh(f"show ip nhrp {what} json").stdout)

    def binding(self, protocol: str, kind: str) -> dict[str, Any] | None:
        """The cache entry of a protocol address.

        :param kind: FRR's type: ``dynamic`` (registered, or resolved), ``nhs``, ``local``.
        """
        for row in self.rows("cache"):
            if (row["protocol"], row["type"]) == (protocol, kind):
                return row
        return None

    def shortcut(self, prefix: str) -> dict[str, Any] | None:
        """The shortcut to a network."""
        for row in self.rows("shortcut"):
            if row["prefix"] == prefix:
                return row
        return None

    @property
    def log(self) -> str:
        """What nhrpd has said, but for its calls for an IPsec daemon, which nobody here needs."""
        paths = [self._directory / f"nhrpd.{end}" for end in ("log", "out")]
        said = "".join(path.read_text(errors="replace") for path in paths if path.exists())
        lines = said.splitlines(keepends=True)
        return "".join(line for line in lines if "vici_reconnect" not in line)

    def stop(self) -> None:
        """End both, and remove what they leave, so that another can take the name."""
        while self._processes:
            process = self._processes.pop()
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                # nhrpd tells its peers nothing anyway; it may only be slow to take its leave.
                process.kill()
                process.wait()
        run("rm", "-rf", str(self._directory))
