"""The import rule: which layer of dmevpn may import what, checked by reading every module."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: Standard library modules that would put I/O, time or chance into the core (they are passed in).
IMPURE = frozenset({"asyncio", "random", "select", "socket", "subprocess", "threading", "time"})


@dataclass(frozen=True)
class Layer:
    """What a layer may import; names stand for themselves and everything below them."""

    modules: tuple[str, ...]
    own: tuple[str, ...]
    foreign: tuple[str, ...] = ()
    forbidden: frozenset[str] = frozenset()
    """Of the standard library."""


BASE = ("addresses", "errors", "interfaces", "metrics", "sockfilter", "log", "journal")
WIRE = tuple(
    f"nhrp.{name}"
    for name in (
        "constants",
        "encapsulation",
        "extensions",
        "header",
        "packet",
        "packet_types",
        "records",
        "wire",
    )
)

#: The first row that names a module (or a package above it) governs it.
LAYERS = (
    Layer(modules=BASE, own=BASE, foreign=("zope.interface", "twisted.logger")),
    Layer(modules=WIRE, own=(*BASE, "nhrp"), forbidden=IMPURE),
    Layer(
        modules=("nhrp",),
        own=(*BASE, "nhrp"),
        foreign=("zope.interface", "twisted.internet.interfaces", "sortedcontainers"),
        forbidden=IMPURE,
    ),
    Layer(modules=("config",), own=(*BASE, "config"), forbidden=IMPURE),
    Layer(
        modules=("transport",),
        own=(*BASE, "transport"),
        foreign=("zope.interface", "twisted", "pyroute2"),
    ),
    Layer(
        modules=("dataplane",),
        own=(*BASE, "config.model", "dataplane"),
        foreign=("zope.interface", "twisted", "pyroute2"),
    ),
    Layer(
        modules=("roles",),
        own=(*BASE, "nhrp", "config", "roles"),
        foreign=("zope.interface", "twisted"),
    ),
    Layer(
        modules=("admin",),
        own=(*BASE, "admin"),
        foreign=(
            "zope.interface",
            "twisted",
            "prometheus_client",
            "OpenSSL",
            "service_identity",
        ),
    ),
    Layer(
        modules=(
            "tap",
            "daemon",
            "garbage",
            "logfile",
            "privileges",
            "removal",
            "scripts",
            "statefile",
            "statelock",
            "systemd",
        ),
        own=("",),
        foreign=("zope.interface", "twisted"),
    ),
)

#: Who may reach memory and the C library directly.
CTYPES = ("dataplane.ebpf", "sockfilter")
#: Who may import the reactor; everybody else is given a clock or a reactor.
REACTOR = ("tap", "admin.ctl")


def within(name: str, packages: tuple[str, ...]) -> bool:
    """Whether ``name`` is one of them or below one; the package "" has everything below it."""
    return any(not it or name == it or name.startswith(f"{it}.") for it in packages)


def module_name(path: Path) -> str:
    """The module of a file, seen from dmevpn: ``nhrp.wire``; "" is the package itself."""
    parts = path.relative_to(ROOT / "dmevpn").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(source: str) -> set[str]:
    """The full names that a module imports, wherever in it; of ``from`` imports both parts."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def violations(module: str, source: str) -> list[str]:
    """What a module imports and must not."""
    layer = next((layer for layer in LAYERS if within(module, layer.modules)), None)
    if layer is None:
        return [f"{module} is in no layer"]
    wrong = []
    for name in sorted(imports(source)):
        top, _, below = name.partition(".")
        if top == "dmevpn":
            # `from dmevpn import __version__` is everybody's.
            allowed = within(below, layer.own) or below == "__version__"
        elif top == "ctypes":
            allowed = within(module, CTYPES)
        elif top in sys.stdlib_module_names:
            allowed = top not in layer.forbidden
        elif within(name, ("twisted.internet.reactor",)):
            allowed = module in REACTOR
        else:
            allowed = within(name, layer.foreign)
        if not allowed:
            wrong.append(f"{module} imports {name}")
    return wrong


MODULES = sorted(path for path in (ROOT / "dmevpn").rglob("*.py") if module_name(path))


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_run_one_way(path: Path) -> None:
    """A module imports only what its layer may."""
    assert violations(module_name(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("addresses", "import twisted"),
        ("nhrp.cache", "from dmevpn.config import model"),
        ("nhrp.cache", "from twisted.internet.defer import Deferred"),
        ("nhrp.wire", "from twisted.logger import Logger"),
        ("nhrp.requests", "import time"),
        ("config.parser", "from dmevpn.nhrp import packet"),
        ("transport.rawgre", "from dmevpn.dataplane import links"),
        ("dataplane.netlink", "import ctypes"),
        ("roles.node", "from dmevpn.transport.rawgre import RawGREPort"),
        ("roles.node", "def f():\n from twisted.internet import reactor"),
        ("admin.pb", "from dmevpn.roles import node"),
        ("elsewhere", "import os"),
    ],
)
def test_the_rule_bites(module: str, source: str) -> None:
    """An import against the rule is found."""
    assert violations(module, source)
