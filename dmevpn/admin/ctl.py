"""``dmevpnctl``: words in, rows out. Layer: admin.

What needs no daemon (help, wrong usage) is done before Twisted is imported, which takes longer
than all the rest.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TextIO

from dmevpn import __version__
from dmevpn.admin.commands import COMMANDS, Command, find_command, read_words
from dmevpn.admin.help import command_help, group_help, overview
from dmevpn.admin.parameters import UsageError, near_match
from dmevpn.errors import CommandError, DmevpnError

__all__ = [
    "FLAGS",
    "RUNTIME_DIRECTORY",
    "Options",
    "find_endpoint",
    "main",
    "perform",
    "read_options",
]

#: Where daemons have their sockets, each by the name of its configuration file.
RUNTIME_DIRECTORY = "/run/dmevpn"

DONE, REFUSED, WRONG_USAGE, NO_DAEMON = range(4)

#: Options, which stand before or behind the command.
FLAGS = ("--endpoint", "--name", "--json", "--follow", "--help", "--version")


class Options(NamedTuple):
    """A command line, taken apart."""

    words: tuple[str, ...]
    """The command and its arguments."""
    endpoint: str | None = None
    name: str | None = None
    json: bool = False
    follow: bool = False
    help: bool = False
    version: bool = False


def read_options(arguments: Sequence[str]) -> Options:
    """Tell options from words, wherever they stand.

    :raises UsageError: for an unknown option, or one without its value.
    """
    words: list[str] = []
    options: dict[str, Any] = {}
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            words.append(argument)
            continue
        flag, equals, value = argument.partition("=")
        if flag == "-h":
            flag = "--help"
        if flag not in FLAGS:
            raise UsageError(f"unknown option '{flag}'{near_match(flag, FLAGS)}")
        if flag in ("--endpoint", "--name"):
            options[flag[2:]] = value if equals else next(rest, "")
            if not options[flag[2:]]:
                raise UsageError(f"{flag} wants a value")
        elif equals:
            raise UsageError(f"{flag} takes no value")
        else:
            options[flag[2:]] = True
    if "endpoint" in options and "name" in options:
        raise UsageError("--endpoint and --name exclude each other")
    return Options(tuple(words), **options)


def find_endpoint(options: Options, directory: str) -> str:
    """The client endpoint that the options mean.

    :param directory: where the sockets of local daemons are.
    :raises UsageError: if there are several daemons to choose from.
    :raises CommandError: if there is none (exit status 3 is the caller's).
    """
    if options.endpoint is not None:
        return options.endpoint
    if options.name is not None:
        if "/" in options.name:
            raise UsageError("--name is a name, not a path; see --endpoint")
        return _unix(os.path.join(directory, f"{options.name}.sock"))
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".sock"))
    except OSError:
        names = []
    sockets = [name for name in names if _is_socket(os.path.join(directory, name))]
    if not sockets:
        raise CommandError(f"no daemon: no socket in {directory}; is one running?")
    if len(sockets) > 1:
        listed = " ".join(name.removesuffix(".sock") for name in sockets)
        raise UsageError(f"several daemons: say which with --name: {listed}")
    return _unix(os.path.join(directory, sockets[0]))


def _unix(path: str) -> str:
    """The client endpoint of a path; a colon in it would end it."""
    escaped = path.replace("\\", "\\\\").replace(":", "\\:")
    return f"unix:{escaped}"


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _help(words: Sequence[str]) -> str:
    if not words:
        return overview()
    name = " ".join(words[:2])
    if name in COMMANDS:
        return command_help(COMMANDS[name])
    text = group_help(words[0])
    if not text:
        find_command(name)
    return text


async def perform(
    reactor: Any,
    endpoint: str,
    command: Command,
    arguments: dict[str, str],
    *,
    json: bool,
    out: TextIO,
    follow: bool = False,
) -> str:
    """Run a command at a daemon and print what it returns.

    :param follow: go on printing what happens.
    :returns: why it did not do what was asked although it returned rows, or "".
    :raises CommandError: as :mod:`dmevpn.admin.client` does.
    """
    from dmevpn.admin import client, render

    if command.streams or follow:

        def events(page: bytes) -> None:
            _print(render.json_lines(page) if json else render.text_event(command, page), out)
            out.flush()

        await client.watch(reactor, endpoint, command.name, arguments, events)
    result = await client.run(reactor, endpoint, command.name, arguments, patience=command.patience)
    if json:
        _print(render.json_document(result.pages, result.row_count), out)
    elif result.row_count or not result.refused:
        _print(render.text_lines(command, result.pages, filtered=bool(arguments)), out)
    return result.refused


def _print(lines: Iterable[str], out: TextIO) -> None:
    out.writelines(lines)


def _run_reactor(
    endpoint: str, command: Command, arguments: dict[str, str], options: Options, out: TextIO
) -> str:
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    outcome: list[Any] = []

    def finished(result: Any) -> None:
        outcome.append(result)
        reactor.stop()

    def start() -> None:
        work = perform(
            reactor,
            endpoint,
            command,
            arguments,
            json=options.json,
            out=out,
            follow=options.follow,
        )
        Deferred.fromCoroutine(work).addBoth(finished)

    reactor.callWhenRunning(start)
    # Without handlers of Twisted's, an interrupt ends the process at once and in silence.
    reactor.run(installSignalHandlers=False)  # type: ignore[call-arg]
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    refused: str = outcome[0]
    return refused


def _status(arguments: Sequence[str], directory: str, out: TextIO) -> int:
    options = read_options(arguments)
    if options.help:
        _print([_help(options.words)], out)
        return DONE
    if options.version:
        _print([f"dmevpnctl {__version__}\n"], out)
        return DONE
    if not options.words:
        raise UsageError("which command? `dmevpnctl --help` lists them")
    command, given = read_words(options.words)
    if "file" in given:  # relative to where we are, not to where the daemon is
        given["file"] = os.path.abspath(given["file"])
    command.check(given)
    if options.follow and command.follow is None:
        able = " ".join(each.name for each in COMMANDS.values() if each.follow and not each.streams)
        raise UsageError(f"`{command.name}` cannot be followed, only: {able}")
    try:
        endpoint = find_endpoint(options, directory)
    except UsageError:
        raise
    except CommandError as error:
        return _complain(error, NO_DAEMON, options.json)
    from dmevpn.admin.client import NoDaemon

    try:
        refused = _run_reactor(endpoint, command, given, options, out)
    except NoDaemon as error:
        return _complain(error, NO_DAEMON, options.json)
    if refused:
        out.flush()
        return _complain(refused, REFUSED, options.json)
    return DONE


def _complain(error: object, status: int, as_json: bool) -> int:
    """Say what is wrong, in one line; returns the status."""
    text = " ".join(str(error).split())
    if as_json:
        from json import dumps

        print(dumps({"error": text, "status": status}), file=sys.stderr)
    else:
        print(f"dmevpnctl: {text}", file=sys.stderr)
    return status


def main(arguments: Sequence[str] | None = None, directory: str = RUNTIME_DIRECTORY) -> int:
    """The console script; returns the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    words = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in words
    try:
        try:
            status = _status(words, directory, sys.stdout)
        except UsageError as error:
            status = _complain(error, WRONG_USAGE, as_json)
        except DmevpnError as error:
            status = _complain(error, REFUSED, as_json)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough. Python would complain when it flushes once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return status


if __name__ == "__main__":
    sys.exit(main())
