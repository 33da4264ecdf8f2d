"""Keywords about the file as a whole. Layer: core."""

from __future__ import annotations

from dmevpn.addresses import DEFAULT_OUI
from dmevpn.config import arguments as a
from dmevpn.config.keyword import Argument, Keyword, Reload
from dmevpn.config.keywords.shared import TOP, YES_NO

__all__ = ["TOP_KEYWORDS"]

#: In the order of the documentation.
TOP_KEYWORDS = (
    Keyword(
        name="interface",
        help="Opens the block of an interface: what follows is about it, up to the next"
        " `interface`. A name that comes again goes on with its block.",
        contexts=TOP,
        arguments=(Argument(name="NAME", convert=a.device_name, example="nhrp", free=True),),
        repeatable=True,
        inherited=True,
    ),
    Keyword(
        name="admin",
        help="Where `dmevpnctl` finds the daemon: a Twisted server endpoint, or"
        " `tls:PORT:interface=ADDR:key=FILE:certificate=FILE:ca=FILE`. Default:"
        " `unix:/run/dmevpn/NAME.sock:mode=600:lockfile=1`, NAME being that of the file. A UNIX"
        " socket has mode 600 unless `mode=` says another, here as with `metrics` and `status`.",
        contexts=TOP,
        arguments=(
            Argument(
                name="ENDPOINT",
                convert=a.endpoint,
                example="unix:/run/dmevpn/hub.sock:mode=600",
                free=True,
            ),
        ),
        repeatable=True,
        reload=Reload.DAEMON,
    ),
    Keyword(
        name="admin-allow",
        help="What operators may do: `full` is everything, `read-only` is to look. On UNIX sockets"
        " a user or a group of the machine; root and the daemon's own user may do everything."
        " Without such a line the mode of the socket decides. Over TLS the DNS name or address in"
        " a certificate. See [security.md](security.md).",
        contexts=TOP,
        arguments=(
            Argument(
                name="full|read-only",
                convert=a.one_of("full", "read-only"),
                example="read-only",
            ),
            Argument(
                name="user|group|certificate",
                convert=a.one_of("user", "group", "certificate"),
                example="group",
            ),
            Argument(name="NAME", convert=a.text, example="adm", free=True),
        ),
        repeatable=True,
        reload=Reload.DAEMON,
    ),
    Keyword(
        name="metrics",
        help="Serve metrics as Prometheus text over HTTP, at `/metrics` of a Twisted server"
        " endpoint. Anybody who reaches it may read them. Off by default.",
        contexts=TOP,
        arguments=(
            Argument(
                name="ENDPOINT",
                convert=a.endpoint,
                example="tcp:9101:interface=127.0.0.1",
                free=True,
            ),
        ),
        reload=Reload.DAEMON,
    ),
    Keyword(
        name="status",
        help="Serve a status page for browsers at a Twisted server endpoint: a live map and tables,"
        " to be looked at only. Anybody who reaches it may. `tcp:9102` listens on the loopback"
        " interface unless `interface=` says another. Off by default.",
        contexts=TOP,
        arguments=(Argument(name="ENDPOINT", convert=a.endpoint, example="tcp:9102", free=True),),
        reload=Reload.DAEMON,
    ),
    Keyword(
        name="log-format",
        help="The form of the log's lines: `text`, or `json` with an object in each. Where the log"
        " goes is twistd's option `--logfile`. Default: text.",
        contexts=TOP,
        arguments=(Argument(name="text|json", convert=a.log_format, example="json"),),
        reload=Reload.DAEMON,
    ),
    Keyword(
        name="opennhrp-script",
        help="A program that is run when interfaces, peers, servers and routes of IPv4 and IPv6"
        " come and go, with the words and the environment that OpenNHRP gives its script. See"
        " [from-opennhrp.md](from-opennhrp.md).",
        contexts=TOP,
        arguments=(
            Argument(
                name="PATH",
                convert=a.absolute_path,
                example="/etc/opennhrp/opennhrp-script",
                free=True,
            ),
        ),
        reload=Reload.DAEMON,
    ),
    Keyword(
        name="opennhrp-socket",
        help="Where `opennhrpctl` and its like find the daemon: a UNIX socket that speaks as"
        " OpenNHRP's does, for its owner only. Off by default.",
        contexts=TOP,
        arguments=(
            Argument(
                name="PATH", convert=a.absolute_path, example="/run/opennhrp.socket", free=True
            ),
        ),
        reload=Reload.DAEMON,
    ),
    Keyword(
        name="state-dir",
        help="Where state that must survive a restart is kept. Default: `/var/lib/dmevpn/NAME`."
        " The option `--state-dir` wins over it.",
        contexts=TOP,
        arguments=(
            Argument(name="PATH", convert=a.text, example="/var/lib/dmevpn/hub", free=True),
        ),
        reload=Reload.DAEMON,
    ),
    Keyword(
        name="leave-forwarding",
        help="`yes`: a stop of the daemon leaves devices, entries, switch and registrations as they"
        " are, so that frames are forwarded while there is none, and its successor goes on with"
        " them; `dmevpnctl shutdown`, or `twistd dmevpn --config FILE --remove` when the daemon has"
        " ended, takes them down. `no`: a stop leaves nothing. Default: no.",
        contexts=TOP,
        arguments=(YES_NO,),
        reload=Reload.AT_ONCE,
    ),
    Keyword(
        name="vpn-oui",
        help=f"The OUI of VPN identifiers (RFC 2685), the same at all sites. Default:"
        f" {DEFAULT_OUI.hex('-')}.",
        contexts=TOP,
        arguments=(Argument(name="XX-XX-XX", convert=a.oui, example="02-00-00"),),
        reload=Reload.SPEAKER,
    ),
)
