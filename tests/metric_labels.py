"""Which labels each metric has, as daemons in memory tell and as the source says."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import succeed

from dmevpn.admin.exposition import exposition
from dmevpn.roles.configfile import ConfigFile
from dmevpn.roles.controller import Controller
from tests.world import World, mac

__all__ = ["labels"]

_PACKAGE = Path(__file__).resolve().parent.parent / "dmevpn"
_MAKERS = {"counter": "_total", "gauge": "", "histogram": ""}


#: Of those that a driver of the kernel's makes by a helper, and of those told with frames dropped.
_BY_HELPERS = {
    "dmevpn_fdb_misses_lost_total": {"vpn"},
    "dmevpn_fdb_changes_lost_total": {"vpn"},
    "dmevpn_fdb_repairs_total": {"vpn"},
    "dmevpn_switch_drops_total": {"interface", "reason"},
}


def labels() -> dict[str, set[str]]:
    """Label names of each metric, by the name that Prometheus sees."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for name, names in (*_of_the_source(), *_of_daemons(), *_BY_HELPERS.items()):
        found[name] |= names
    return found


def _of_the_source() -> list[tuple[str, set[str]]]:
    """Of what is counted under a name that stands in the source."""
    found = []
    for path in _PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            maker, arguments = call.func.attr, call.args
            if maker in _MAKERS and arguments and isinstance(arguments[0], ast.Constant):
                name = f"dmevpn_{arguments[0].value}{_MAKERS[maker]}"
                found.append((name, {each.arg for each in call.keywords if each.arg}))
            elif maker == "dropped":
                found.append(("dmevpn_drops_total", {"reason"}))
    return found


def _of_daemons() -> list[tuple[str, set[str]]]:
    """Of what a hub and a spoke tell."""
    world = World()
    world.start_hub()
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    world.exchange(one, mac(1), two, mac(2))
    found = []
    for machine in world.machines.values():
        assert machine.node is not None
        controller = Controller(machine.node, ConfigFile("x"), lambda: succeed({}))
        text = b"".join(exposition(controller)).decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.append((sample.name, set(sample.labels)))
                found.append((sample.name.removesuffix("_bucket"), set(sample.labels)))
    return found
