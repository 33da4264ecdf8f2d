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
from tests import metric_labels

DIRECTORY = Path(__file__).resolve().parent.parent / "etc" / "prometheus"
ALERTS = DIRECTORY / "dmevpn-alerts.yml"
KNOWN = {*METRICS, "dmevpn_process_cpu_seconds_total", "dmevpn_process_resident_memory_bytes"}
RULES = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((DIRECTORY / "dmevpn-dashboard.json").read_text())


def unknown(expression: str) -> set[str]:
    """Metrics that an expression asks for and nobody tells."""
    names = {name.removesuffix("_bucket") for name in re.findall(r"dmevpn_\w+", expression)}
    return names - KNOWN


#: What Prometheus adds to every sample.
_ADDED = {"instance", "job"}
EXPRESSIONS = [
    *(pytest.param(rule["expr"], str(rule["annotations"]), id=rule["alert"]) for rule in RULES),
    *(
        pytest.param(
            target["expr"],
            target.get("legendFormat", ""),
            id=f"{panel['title']} {target.get('refId', '')}",
        )
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    ),
]


@pytest.fixture(scope="module")
def labels() -> dict[str, set[str]]:
    """Label names by metric."""
    return metric_labels.labels()


@pytest.mark.parametrize(("expression", "said"), EXPRESSIONS)
def test_labels(expression: str, said: str, labels: dict[str, set[str]]) -> None:
    """What is asked of a metric, what is added up by, and what is said of it are labels that it
    has: Prometheus would find nothing, or leave a gap, and not complain."""
    known = set(_ADDED)
    for name, _, matchers in re.findall(r"(dmevpn_\w+)(\{([^}]*)\})?", expression):
        own = labels.get(name, set()) | _ADDED
        assert own > _ADDED or not matchers or name.startswith("dmevpn_process"), name
        asked = set(re.findall(r"(\w+)\s*[=!]~?\s*\"", matchers))
        assert asked <= own, f"{name} has no {asked - own}"
        known |= own
    groups = re.findall(r"by \(([^)]*)\)", expression)
    for group in groups:
        assert set(re.split(r",\s*", group)) <= known, group
    # Only what is added up by is left of the labels.
    left = set(re.split(r",\s*", groups[0])) if groups else known
    assert set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", said)) <= left


def test_dashboard_is_one() -> None:
    """What Grafana's own model of a dashboard wants: as far as that can be said without it."""
    assert DASHBOARD["schemaVersion"] >= 36 and DASHBOARD["uid"] and "id" not in DASHBOARD
    variables = {each["name"] for each in DASHBOARD["templating"]["list"]}
    for panel in DASHBOARD["panels"]:
        assert panel["type"] in ("stat", "timeseries", "row", "table", "gauge", "bargauge")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert set(panel["gridPos"]) == {"x", "y", "w", "h"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references))
        for target in panel["targets"]:
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert used <= variables
        assert panel["fieldConfig"]["defaults"] is not None
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            [(metric, label)] = re.findall(
                r"label_values\((\w+), (\w+)\)", variable["query"]["query"]
            )
            assert metric in METRICS
            assert label in _ADDED | metric_labels.labels()[metric]


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
def test_promtool(tmp_path: Path) -> None:
    """Prometheus itself accepts the rules, and what the dashboard asks for."""
    asked = [
        re.sub(r"\$(instance|vpn)", ".*", target["expr"].replace("$__rate_interval", "5m"))
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    ]
    rules = [{"record": f"asked_{number}", "expr": expr} for number, expr in enumerate(asked)]
    panels = tmp_path / "panels.yml"
    panels.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    for path in (ALERTS, panels):
        done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
