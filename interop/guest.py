"""A user-mode-linux guest with Debian's kernel: ``python -m interop.guest COMMAND...``.

The guest sees the machine's files, read-only underneath: what it writes is gone with it. Its kernel
is an ordinary process, so it needs neither a virtual machine monitor nor modules of the machine's
kernel; network namespaces and veth devices inside it are all its network. The command runs as root
in the caller's directory and environment; what it prints comes out as it is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TextIO

from interop import packages

__all__ = ["SKIPPED", "Guest", "GuestTimeout", "Unavailable", "last_words", "main", "writer"]

#: Exit status of a test that could not be run (the convention of automake).
SKIPPED = 77
#: Exit status of a command that took too long, as coreutils' ``timeout`` has it.
TIMED_OUT = 124

#: Seconds until the command runs: 2 on an idle machine, twentyfold on a busy one.
BOOT_PATIENCE = 60.0

#: Seconds between two looks at whether the guest has started or ended.
TICK = 0.1

#: Octets that the guest may be ahead of us; the most that Linux gives everybody.
PIPE_SIZE = 1 << 20

#: Pieces of the guest's console that are kept for the day it does not start.
CONSOLE = 40

INIT = Path(__file__).with_name("init.sh")


class Unavailable(Exception):
    """No guest can run here; the text says why."""


class GuestTimeout(Exception):
    """The command did not end in time; the guest was turned off."""


class Guest:
    """What it takes to run commands in a guest.

    :param memory: what the guest may use, in MiB; what it writes to files counts, too.
    :raises Unavailable: the machine lacks something, and no package brings it.
    """

    def __init__(self, *, memory: int = 768) -> None:
        if os.geteuid():
            raise Unavailable("only root can share all of the machine's files with a guest")
        try:
            self._kernel = packages.provide("user-mode-linux", "/usr/bin/linux.uml")
        except packages.PackageMissing as error:
            raise Unavailable(str(error)) from None
        release = subprocess.run(
            [self._kernel, "--version"], capture_output=True, text=True, timeout=BOOT_PATIENCE
        ).stdout.strip()
        modules = packages.find(f"/usr/lib/uml/modules/{release}")
        if modules is None:
            raise Unavailable(f"the user-mode-linux kernel {release!r} has no modules")
        self._modules = modules
        self._memory = memory
        #: The guest kernel's version, such as 6.1.176.
        self.release = release

    def run(
        self,
        command: Sequence[str],
        *,
        timeout: float,
        out: Callable[[bytes], None],
        err: Callable[[bytes], None],
        keep: Path | None = None,
    ) -> int:
        """Start the guest, run a command in it, and return the command's exit status.

        :param timeout: seconds for the command.
        :param out: is called with what it writes to standard output, as it comes.
        :param err: the same for standard error.
        :param keep: a directory of the machine where the guest may leave files; its /run/keep.
        :raises Unavailable: the guest did not come so far as to start the command.
        :raises GuestTimeout: the command took longer.
        """
        # A polite end is an exception, so that the guest's directory is removed.
        previous = signal.signal(signal.SIGTERM, _end)
        try:
            return self._run(command, timeout, out, err, keep)
        finally:
            signal.signal(signal.SIGTERM, previous)

    def _run(
        self,
        command: Sequence[str],
        timeout: float,
        out: Callable[[bytes], None],
        err: Callable[[bytes], None],
        keep: Path | None,
    ) -> int:
        with tempfile.TemporaryDirectory(prefix="dmevpn-guest-", dir="/tmp") as name:
            shared = Path(name)
            self._fill(shared, command, keep)
            console: deque[bytes] = deque(maxlen=CONSOLE)
            with self._started(shared) as (process, lines):
                sinks = dict(zip(lines, (console.append, out, err), strict=True))
                _relay(process, sinks, shared / "started", timeout)
            if (shared / "status").exists():
                return int((shared / "status").read_text())
            if (shared / "started").exists():
                raise GuestTimeout(f"the command did not end within {timeout:g} s")
            raise Unavailable(f"user-mode-linux does not start here: {last_words(console)}")

    def _fill(self, shared: Path, command: Sequence[str], keep: Path | None) -> None:
        """Lay out what the guest's process 1 looks for; ``init.sh`` says what that is."""
        shutil.copy(INIT, shared / "init")
        packages.UNPACKED.mkdir(parents=True, exist_ok=True)
        (shared / "packages").symlink_to(packages.UNPACKED)
        (shared / "modules").symlink_to(self._modules)
        if keep is not None:
            (shared / "keep").symlink_to(keep.resolve())
        names = [name for name in os.environ if name.isidentifier()]
        (shared / "command").write_text(
            "".join(f"export {name}={shlex.quote(os.environ[name])}\n" for name in names)
            + f"cd {shlex.quote(os.getcwd())}\nexec {shlex.join(command)}\n"
        )

    @contextlib.contextmanager
    def _started(self, shared: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
        """The guest for the duration of a ``with``, with its console and serial lines to read."""
        pipes = [os.pipe() for _ in range(3)]
        for _, writer in pipes:
            # A serial line of user-mode-linux may wait for ever once its pipe was full.
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        console, *serial = (writer for _, writer in pipes)
        try:
            process = subprocess.Popen(
                # A guest is several processes of the machine; in a PID namespace none of them
                # outlives this one, however it ends.
                ["setpriv", "--pdeathsig", "KILL"]
                + ["unshare", "--pid", "--fork", "--kill-child", str(self._kernel)]
                + [f"mem={self._memory}M", "rootfstype=hostfs", "rootflags=/", "ro"]
                + [f"init={shared}/init", f"uml_dir={shared}/", "con=null", "con0=null,fd:1"]
                + [f"ssl{number}=null,fd:{writer}" for number, writer in enumerate(serial)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=serial,
                # An interrupt at the terminal is for us, who then turn the guest off.
                start_new_session=True,
            )
        finally:
            for _, writer in pipes:
                os.close(writer)
        try:
            yield process, [reader for reader, _ in pipes]
        finally:
            process.kill()
            process.wait()
            for reader, _ in pipes:
                os.close(reader)


def _end(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)


def last_words(console: Iterable[bytes]) -> str:
    """What a kernel that stopped said last; the trace behind a panic is not for users."""
    text = b"".join(console).decode(errors="replace")
    before, panic, _ = text.partition("Kernel panic")
    lines = [line.strip() for line in before.splitlines() if line.strip()]
    return "; ".join(lines[-3:]) + (" (kernel panic)" if panic else "")


def _relay(
    process: subprocess.Popen[bytes],
    sinks: dict[int, Callable[[bytes], None]],
    started: Path,
    timeout: float,
) -> None:
    """Hand on what the guest writes until it is off, does not start, or the time is over."""
    deadline = time.monotonic() + BOOT_PATIENCE
    running = False
    with selectors.DefaultSelector() as selector:
        for reader, sink in sinks.items():
            selector.register(reader, selectors.EVENT_READ, sink)
        while selector.get_map() and time.monotonic() < deadline:
            ready = selector.select(timeout=TICK)
            for key, _ in ready:
                if text := os.read(key.fd, 65536):
                    key.data(text)
                else:
                    selector.unregister(key.fd)
            if not ready and process.poll() is not None:
                return
            if not running and started.exists():
                running = True
                deadline = time.monotonic() + timeout


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command in the guest as the command line asks.

    :returns: the command's exit status, :data:`SKIPPED` or :data:`TIMED_OUT`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m interop.guest",
        description="Run a command as root in a user-mode-linux guest that sees the files of this"
        " machine and changes none. The exit status is the command's,"
        f" {SKIPPED} if no guest can run here and {TIMED_OUT} if the time is over.",
    )
    parser.add_argument("--timeout", type=float, default=600, help="seconds for the command (600)")
    parser.add_argument("--memory", type=int, default=768, help="MiB for the guest (768)")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND...")
    options = parser.parse_args(arguments)
    if not options.command:
        parser.error("name a command")
    try:
        return Guest(memory=options.memory).run(
            options.command,
            timeout=options.timeout,
            out=writer(sys.stdout),
            err=writer(sys.stderr),
        )
    except Unavailable as reason:
        print(f"guest: skipped: {reason}", file=sys.stderr)
        return SKIPPED
    except GuestTimeout as reason:
        print(f"guest: {reason}", file=sys.stderr)
        return TIMED_OUT
    except BrokenPipeError:
        return 128 + signal.SIGPIPE


def writer(stream: TextIO) -> Callable[[bytes], None]:
    """What hands on the guest's octets to a standard stream, at once."""

    def write(text: bytes) -> None:
        stream.buffer.write(text)
        stream.flush()

    return write


if __name__ == "__main__":
    sys.exit(main())
