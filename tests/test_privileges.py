"""Which capabilities a plan needs, and what is said when some are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmevpn import privileges
from dmevpn.config.model import HubPlan, Plan, SpeakerPlan
from dmevpn.config.resolve import check
from dmevpn.errors import StartError
from dmevpn.privileges import check_privileges, effective, missing

NET_ADMIN, NET_RAW, SYS_ADMIN, BPF = 1 << 12, 1 << 13, 1 << 21, 1 << 39
SPEAKER = SpeakerPlan(interface="nhrp")
HUB = Plan(speakers=(SPEAKER,), hubs=(HubPlan(interface="vx0", controller="nhrp", vpns=((1, 1),)),))
SPOKE = check(
    "interface nhrp\ninterface vx1\ncontroller nhrp\nvpn-id 1\n"
    "default-vni 100 10.0.0.1 register\nprovision br1\n",
    "spoke.conf",
    "spoke",
).plan


@pytest.mark.parametrize(
    ("plan", "held", "lacking"),
    [
        (HUB, NET_ADMIN | NET_RAW | BPF, ""),
        (HUB, NET_ADMIN | NET_RAW | SYS_ADMIN, ""),
        (HUB, NET_ADMIN | NET_RAW, "CAP_BPF"),
        (HUB, NET_RAW | BPF, "CAP_NET_ADMIN"),
        (HUB, 0, "CAP_NET_ADMIN CAP_NET_RAW CAP_BPF"),
        (SPOKE, NET_ADMIN | NET_RAW, ""),
        (SPOKE, NET_ADMIN, "CAP_NET_RAW"),
        (Plan(speakers=(SPEAKER,)), NET_RAW, ""),
        (Plan(), 0, ""),
    ],
)
def test_missing(plan: Plan, held: int, lacking: str) -> None:
    """A spoke needs no CAP_BPF; nobody needs CAP_SYS_ADMIN or CAP_PERFMON."""
    assert " ".join(missing(plan, held)) == lacking


def test_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is missing is named at once, with the cure."""
    status = tmp_path / "status"
    status.write_text("Name:\ttwistd\nCapEff:\t0000000000001000\n")
    monkeypatch.setattr(privileges, "_STATUS", status)
    assert effective() == NET_ADMIN
    with pytest.raises(StartError) as caught:
        check_privileges(HUB)
    assert str(caught.value) == (
        "no permission for what the file asks: CAP_NET_RAW (GRE sockets), CAP_BPF (the hub's"
        " switch) missing; run as root or grant them (systemd: AmbientCapabilities=CAP_NET_RAW"
        " CAP_BPF)"
    )


def test_a_kernel_that_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word about it we try, and hear at first use."""
    monkeypatch.setattr(privileges, "_STATUS", tmp_path / "nowhere")
    check_privileges(HUB)
