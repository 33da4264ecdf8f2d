"""Opens the admin endpoint, or says in one line why not. Layer: admin."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.python.failure import Failure

from dmevpn.admin import tls
from dmevpn.errors import DmevpnError, StartError
from dmevpn.log import Logger

__all__ = ["listen", "loopback", "stop_listening", "unix_path", "words_of"]

log = Logger()

#: Everyone may look which daemons there are; the sockets themselves have a mode of their own.
DIRECTORY_MODE = 0o755

#: Mode of a UNIX socket whose description names none. Twisted's own would be 666: for everybody.
SOCKET_MODE = "600"

#: What each keyword's endpoint may look like.
_EXAMPLES = {
    "admin": "unix:/run/dmevpn/NAME.sock:mode=600:lockfile=1",
    "metrics": "tcp:9101:interface=127.0.0.1",
    "status": "tcp:9102",
    "opennhrp-socket": "/run/opennhrp.socket",
}


#: The endpoints that listen on all addresses if nothing is said, and the loopback of their family.
_LOOPBACK = {"tcp": "127.0.0.1", "tcp6": r"\:\:1", "ssl": "127.0.0.1"}


def words_of(description: str) -> list[str]:
    """An endpoint description taken apart: arguments stand between colons, and a backslash takes
    the meaning from what follows it."""
    words = [""]
    characters = iter(description)
    for character in characters:
        if character == ":":
            words.append("")
        else:
            words[-1] += next(characters, "") if character == "\\" else character
    return words


def loopback(description: str) -> str:
    """An endpoint description that says nothing of an interface, with the loopback interface."""
    kind, *rest = words_of(description)
    if kind not in _LOOPBACK or any(word.startswith("interface=") for word in rest):
        return description
    return f"{description}:interface={_LOOPBACK[kind]}"


def private(description: str) -> str:
    """An endpoint description of a UNIX socket that says nothing of its mode, with ours."""
    kind, *rest = words_of(description)
    named = any(word.startswith("mode=") for word in rest)
    # The second argument without a name is the mode as well.
    placed = sum("=" not in word for word in rest) > 1
    return description if kind != "unix" or named or placed else f"{description}:mode={SOCKET_MODE}"


def unix_path(description: str) -> str | None:
    """The path of a ``unix:`` endpoint description; None for other endpoints."""
    words = words_of(description)
    if words[0] != "unix":
        return None
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if not equals:
            return word
        if name == "address":
            return value
    return None


def listen(
    reactor: Any, description: str, factory: IProtocolFactory, keyword: str = "admin"
) -> IListeningPort:
    """Listen on a Twisted server endpoint.

    A missing directory of a UNIX socket is made, and a socket that a killed daemon left behind
    is taken over. Only our own user may use a socket whose description says nothing of a mode.

    :param keyword: of the configuration, which the message names.
    :raises StartError: naming the endpoint, what is wrong, and the cure.
    """
    try:
        endpoint = _endpoint(reactor, description)
        path = unix_path(description)
        if path == "":
            raise ValueError("no path")
    except (DmevpnError, ValueError, TypeError, LookupError, AttributeError, OSError) as error:
        raise StartError(
            f"{keyword} {description}: no endpoint ({error});"
            f" write for example {_EXAMPLES[keyword]}"
        ) from None
    if path is None:
        return _listening(endpoint, factory, description, keyword)
    made = _make_directory(path)
    _remove_stale(path)
    lock = f"{path}.lock"
    locked = os.path.lexists(lock)
    try:
        return _listening(endpoint, factory, path, keyword)
    except StartError:
        # Twisted takes the lock before it binds, and leaves it behind when it cannot bind.
        if not locked:
            with contextlib.suppress(OSError):
                os.unlink(lock)
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(path))
        raise


def _endpoint(reactor: Any, description: str) -> Any:
    words = words_of(description)
    if words[0] == "tls":
        return tls.server_endpoint(reactor, tls.read(words, server=True))
    return serverFromString(reactor, private(description))  # type: ignore[no-untyped-call]


def _listening(
    endpoint: Any, factory: IProtocolFactory, place: str, keyword: str
) -> IListeningPort:
    # Twisted's own service would log a failure and go on without a socket; every server
    # endpoint that Twisted has listens before it returns, so the outcome is known here.
    outcome: list[Any] = []
    endpoint.listen(factory).addBoth(outcome.append)
    if not outcome:
        raise StartError(f"cannot listen on {place}: it does not open at once; choose another")
    if isinstance(outcome[0], Failure):
        error = outcome[0].value
        if isinstance(error, CannotListenError | OSError | ValueError):
            raise StartError(f"cannot listen on {place}: {_explain(error, place, keyword)}")
        outcome[0].raiseException()
    port: IListeningPort = outcome[0]
    return port


def _explain(error: BaseException, place: str, keyword: str) -> str:
    """What went wrong, and the cure."""
    if isinstance(error, CannotListenError):
        error = error.socketError
    if isinstance(error, PermissionError):
        return f"{error.strerror}; run as root, or name another place with `{keyword}`"
    if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL:
        reason = f"{error.strerror}: no device that is up has it (`ip link set lo up`?)"
        return f"{reason}; name another place with `{keyword}`"
    if isinstance(error, OSError):
        return f"{error.strerror or error}; name another place with `{keyword}`"
    if str(error) == "Cannot acquire lock":
        return f"another daemon holds {place}.lock; stop it, or remove that if there is none"
    return f"{error}; name another place with `{keyword}`"


def _make_directory(path: str) -> bool:
    """Make the directory that a socket is to be in, unless it is there; whether we did."""
    directory = os.path.dirname(path)
    if not directory or os.path.isdir(directory):
        return False
    try:
        os.mkdir(directory)
        os.chmod(directory, DIRECTORY_MODE)  # mkdir obeys the umask, which daemons set to 077
    except OSError as error:
        raise StartError(
            f"cannot make {directory}: {error.strerror}; make it by hand, or run as root"
        ) from None
    return True


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on any more.

    The lock beside it does not tell for sure: its owner's process id may be in use again.
    """
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise StartError(f"{path} is in the way and no socket; remove it, or name another place")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            log.info("{path}: removing the socket of a daemon that is gone", path=path)
            for name in (path, f"{path}.lock"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)
            return
        except BlockingIOError:  # its backlog is full, so somebody listens
            pass
        except OSError:  # no permission or a race: listening will tell
            return
    raise StartError(f"cannot listen on {path}: another daemon does; stop it first")


def stop_listening(port: Any, description: str) -> Deferred[None]:
    """Close what :func:`listen` opened; removes the socket and its lock.

    Twisted's port neither closes nor reports if someone has removed them meanwhile, so what is
    missing is put back for it to remove.
    """
    path = unix_path(description)
    if path:
        names = [path] if getattr(port, "lockFile", None) is None else [path, f"{path}.lock"]
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            for name in names:
                if not os.path.lexists(name):
                    os.symlink(str(os.getpid()), name)
    stopping: Deferred[None] = maybeDeferred(port.stopListening)
    return stopping
