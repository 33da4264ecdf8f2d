"""Real daemons with an operator's script, and a control program that knows OpenNHRP's words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab.wait import eventually
from tests.system.network import Network

pytestmark = pytest.mark.system

SCRIPT = """#!/bin/sh
echo "$1 $NHRP_TYPE $NHRP_DESTADDR $NHRP_DESTNBMA" >>'{0}/events'
[ "$1 $NHRP_DESTADDR" != "peer-register 10.255.255.3" ]
"""


def test_a_hub_with_a_script(tmp_path: Path) -> None:
    """It hears of one spoke, refuses another, and everything goes in the end."""
    script, socket, events = (tmp_path / name for name in ("script", "socket", "events"))
    script.write_text(SCRIPT.format(tmp_path))
    script.chmod(0o755)

    def control(*words: str) -> str:
        command = [sys.executable, "-m", "dmevpn.admin.opennhrpctl", "-a", str(socket), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout

    with Network() as network:
        network.add_daemon(
            "hub",
            1,
            f"""opennhrp-script {script} opennhrp-socket {socket}
            interface nhrp transport raw protocol-address 10.255.255.1/24""",
        )
        for number in (2, 3):
            network.add_daemon(
                f"spoke{number}",
                number,
                f"""interface nhrp transport raw protocol-address 10.255.255.{number}/24
                map 10.255.255.1/24 {network.hub_address} register""",
            )
        spoke = network.daemons["spoke3"].ctl
        eventually(
            "refusal",
            lambda: [row["state"] for row in spoke.rows("registration", "show")] == ["refused"],
        )
        eventually("registration", lambda: "Type: dynamic" in control("show"))
        assert control("show", "type", "dynamic", "nbma", "10.0.0.2").startswith(
            "Status: ok\n\nInterface: nhrp\nType: dynamic\nProtocol-Address: 10.255.255.2/32\n"
            "NBMA-Address: 10.0.0.2\nFlags: unique"
        )
        assert control("purge", "protocol", "10.255.255.3").endswith("Entries-Affected: 0\n")
        network.daemons["hub"].stop()
    heard = events.read_text().splitlines()
    assert heard[0] == "interface-up INTERFACE  "
    for event in ("peer-register", "peer-up", "peer-down"):
        assert f"{event} dynamic 10.255.255.2 10.0.0.2" in heard
    assert "peer-register dynamic 10.255.255.3 10.0.0.3" in heard
    assert "peer-up dynamic 10.255.255.3 10.0.0.3" not in heard
    assert not socket.exists()
