"""``opennhrpctl``: sends a command to the socket that ``opennhrp-socket`` names. Layer: admin."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence

from dmevpn import __version__

__all__ = ["SOCKETS", "main"]

#: Where OpenNHRP has its socket, and where a daemon may have it that is not root's.
SOCKETS = ("/run/opennhrp.socket", "/run/dmevpn/opennhrp.socket")

_OK = b"Status: ok\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the answer to a command.

    :return: 0 if it was carried out, 1 if the daemon refused, 3 if there is none; with a wrong
        option, argparse ends the program with 2.
    """
    options = _parser().parse_args(arguments)
    if options.socket is None:
        options.socket = next(filter(os.path.exists, SOCKETS), SOCKETS[0])
    command = " ".join(options.command)
    beginning = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(options.socket)
            connection.sendall(f"{command}\n".encode("utf-8", "surrogateescape"))
            connection.shutdown(socket.SHUT_WR)
            while octets := connection.recv(65536):
                beginning += octets[: len(_OK) - len(beginning)]
                sys.stdout.buffer.write(octets)
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        # Whoever reads has enough, and Python would say so again at its end.
        sys.stdout = None
        return 1
    except OSError as error:
        print(f"opennhrpctl: {options.socket}: {error.strerror or error}", file=sys.stderr)
        return 3
    return 0 if beginning == _OK else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="opennhrpctl",
        description="Controls dmevpn as OpenNHRP's program of this name controls its daemon. The"
        " configuration must say `opennhrp-socket SOCKET`.",
        epilog="Commands: [cache] show|flush|purge|lowerdown [SELECTOR VALUE]..., interface show,"
        " redirect purge [PROTO[/P]], update nbma NBMA PROTO. Selectors: protocol PROTO[/P],"
        " nbma, interface, hostname, local-protocol, local-nbma, type.",
    )
    default = " or ".join(SOCKETS)
    parser.add_argument("-a", dest="socket", help=f"the socket; default: {default}")
    parser.add_argument("--version", action="version", version=f"dmevpn {__version__}")
    parser.add_argument("command", nargs="+", help="what to do")
    return parser


if __name__ == "__main__":
    sys.exit(main())
