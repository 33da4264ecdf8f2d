"""Alert rules and the dashboard ask only for metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dmevpn.admin.metric_table import METRICS

DIRECTORY = Path(__file__).resolve().parent.parent / "etc" / "prometheus"
ALERTS = DIRECTORY / "dmevpn-alerts.yml"
KNOWN = {*METRICS, "dmevpn_process_cpu_seconds_total", "dmevpn_process_resident_memory_bytes"}
RULES = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((DIRECTORY / "dmevpn-dashboard.json").read_text())


def unknown(expression: str) -> set[str]:
    """Metrics that an expression asks for and nobody tells."""
    names = {name.removesuffix("_bucket") for name in re.findall(r"dmevpn_\w+", expression)}
    return names - KNOWN


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alert(rule: dict[str, Any]) -> None:
    """An alert can fire, says how bad it is, whom it concerns, and what to do."""
    assert unknown(rule["expr"]) == set()
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description"}
    assert "$labels." in rule["annotations"]["summary"]


def test_names() -> None:
    """A second alert of the same name would hide the first."""
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda panel: panel["title"])
def test_panel(panel: dict[str, Any]) -> None:
    """A panel shows something, and says what."""
    assert panel["targets"] and panel["description"]
    for target in panel["targets"]:
        assert unknown(target["expr"]) == set()
        assert target["expr"].count("(") == target["expr"].count(")")


def test_panels_do_not_overlap() -> None:
    """Each panel has its place on a grid of 24 columns."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (prometheus) is not here")
def test_promtool() -> None:
    """Prometheus itself accepts the rules."""
    done = subprocess.run(["promtool", "check", "rules", ALERTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
