"""Runs a program as a systemd unit would confine it, without systemd.

User, capabilities, system calls, address families, namespaces and executable memory are as the unit
says; all but one directory is read-only. :func:`confine` makes the command line; run as a program
this module sets the filter of system calls, and becomes what follows.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lab.netns import run

__all__ = ["USER", "Unit", "confine"]

#: Who runs it here, in place of the unit's own user.
USER = "nobody"

ROOT = Path(__file__).resolve().parent.parent
_ALLOW = 0x7FFF0000  # SCMP_ACT_ALLOW
_REFUSE = 0x00050000 | errno.EPERM  # SCMP_ACT_ERRNO
_EQUAL, _GREATER, _MASKED = 4, 6, 7  # enum scmp_compare
_FAMILIES = 46  # AF_MAX
_WRITE, _EXECUTE = 2, 4  # PROT_*
#: CLONE_NEW*: cgroup, uts, ipc, user, pid, net, ns.
_NAMESPACES = (1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30, 1 << 17)

Rule = tuple[str, list[tuple[int, int, int, int]]]


class Unit:
    """What a unit file says in its section ``[Service]``."""

    def __init__(self, path: Path) -> None:
        self._lines: dict[str, list[str]] = {}
        for line in path.read_text().splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                self._lines.setdefault(key, []).append(value)

    def words(self, key: str) -> list[str]:
        """All words of a setting."""
        return " ".join(self._lines.get(key, [])).split()

    def enabled(self, key: str) -> bool:
        """Whether a switch is on."""
        return self.words(key)[-1:] == ["yes"]

    def calls(self) -> list[str]:
        """The system calls that ``SystemCallFilter`` leaves."""
        left = set(_expand("@default"))
        for line in self._lines["SystemCallFilter"]:
            names = {call for word in line.lstrip("~").split() for call in _expand(word)}
            left = left - names if line.startswith("~") else left | names
        return sorted(left | set(_expand("@default")))

    def rules(self) -> list[Rule]:
        """What is refused by the arguments of a system call: argument, comparison, two numbers."""
        families = {int(getattr(socket, name)) for name in self.words("RestrictAddressFamilies")}
        refused: list[Rule] = [("socket", [(0, _GREATER, _FAMILIES, 0)])]
        for family in set(range(_FAMILIES + 1)) - families:
            refused.append(("socket", [(0, _EQUAL, family, 0)]))
        if self.enabled("MemoryDenyWriteExecute"):
            both = _WRITE | _EXECUTE
            refused.append(("mmap", [(2, _MASKED, both, both)]))
            for call in ("mprotect", "pkey_mprotect"):
                refused.append((call, [(2, _MASKED, _EXECUTE, _EXECUTE)]))
        if self.enabled("RestrictNamespaces"):
            for flag in _NAMESPACES:
                refused += [(call, [(0, _MASKED, flag, flag)]) for call in ("clone", "unshare")]
            refused.append(("setns", []))
        return refused


def _expand(word: str) -> list[str]:
    """The system calls of a group, or the one that is named."""
    if not word.startswith("@"):
        return [word]
    found = []
    for line in run("systemd-analyze", "syscall-filter", word).stdout.splitlines()[1:]:
        if line.strip() and not line.strip().startswith("#"):
            found += _expand(line.strip())
    return found


def _closed(path: Path) -> Path | None:
    """The outermost directory on the way to a path that only some may pass."""
    for each in reversed(path.parents):
        if not each.stat().st_mode & stat.S_IXOTH:
            return each
    return None


def _reachable(directory: Path) -> list[str]:
    """Shell lines that let everybody get to our interpreter and checkout, wherever they are."""
    closed = {path: _closed(path) for path in (Path(sys.base_prefix), ROOT)}
    hidden = {path: place for path, place in closed.items() if place is not None}
    lines = []
    for number, path in enumerate(hidden):
        lines += [
            f"mkdir -p '{directory}/{number}'",
            f"mount --bind '{path}' '{directory}/{number}'",
        ]
    lines += [f"mount -t tmpfs -o mode=755 none '{place}'" for place in set(hidden.values())]
    for number, path in enumerate(hidden):
        lines += [f"mkdir -p '{path}'", f"mount --bind '{directory}/{number}' '{path}'"]
    return lines


def confine(unit: Unit, directory: Path, argv: Iterable[str]) -> list[str]:
    """The command line that runs a program as a unit confines it.

    It has a mount namespace of its own, with a bpffs that the user may pin in, as the unit makes.

    :param directory: the only one that can be written to; made the user's.
    """
    policy = directory / "policy.json"
    policy.write_text(json.dumps({"calls": unit.calls(), "rules": unit.rules()}))
    run("chown", "-R", USER, str(directory))
    capabilities, ambient = (
        ",".join(f"+{name.lower().removeprefix('cap_')}" for name in unit.words(key))
        for key in ("CapabilityBoundingSet", "AmbientCapabilities")
    )
    private = [
        *_reachable(directory),
        "mount -t bpf -o mode=711 bpf /sys/fs/bpf",
        f"install -d -o {USER} /sys/fs/bpf/dmevpn",
        f"mount --bind '{directory}' '{directory}'",
        "mount --bind / /",
        "mount -o remount,bind,ro /",
        f"cd '{directory}'",
        'exec "$@"',
    ]
    privileges = [
        *("setpriv", f"--reuid={USER}", "--regid=nogroup", "--clear-groups"),
        *(f"--inh-caps=-all,{ambient}", f"--ambient-caps=-all,{ambient}"),
        *(f"--bounding-set=-all,{capabilities}", "--no-new-privs"),
    ]
    launch = [sys.executable, str(ROOT / "lab" / "confined.py"), str(policy), *argv]
    return ["unshare", "--mount", "sh", "-ec", "\n".join(private), "sh", *privileges, *launch]


class _Comparison(ctypes.Structure):
    """``struct scmp_arg_cmp``."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("one", ctypes.c_uint64),
        ("two", ctypes.c_uint64),
    )


def _library() -> Any:
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    library.seccomp_rule_add_array.argtypes = [
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint),
        ctypes.POINTER(_Comparison),
    ]
    return library


def _load(default: int, action: int, rules: Iterable[Rule]) -> None:
    library = _library()
    context = library.seccomp_init(default)
    for name, comparisons in rules:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            continue  # of another architecture
        array = (_Comparison * len(comparisons))(*(_Comparison(*each) for each in comparisons))
        result = library.seccomp_rule_add_array(context, action, number, len(comparisons), array)
        if result:
            raise OSError(-result, f"{name}: {os.strerror(-result)}")
    result = library.seccomp_load(context)
    if result:
        raise OSError(-result, os.strerror(-result))


def main() -> None:
    """Set the filters, and become the program."""
    policy = json.loads(Path(sys.argv[1]).read_text())
    _load(_ALLOW, _REFUSE, [(name, list(map(tuple, rule))) for name, rule in policy["rules"]])
    _load(_REFUSE, _ALLOW, [(name, []) for name in policy["calls"]])
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
