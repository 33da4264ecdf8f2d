"""README's commands, as a newcomer would type them, in a machine of their own."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

from lab.daemons import ROOT

__all__ = ["blocks", "run"]

#: Nothing of the machine but its programs is seen: namespaces have their names for themselves, and
#: with the shell everything that it has started ends.
_WALLS = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_MACHINE = """
set -e
mount --make-rprivate /
cp -a /etc {scratch}/etc
mount --bind {scratch}/etc /etc
for directory in /run /var/log /var/lib; do mount -t tmpfs tmpfs "$directory"; done
cd {checkout}
set -eux
"""


def blocks(section: str) -> str:
    """The code blocks of a section of README, in their order, as a shell script."""
    text = (ROOT / "README.md").read_text()
    _, found, rest = text.partition(f"\n## {section}\n")
    assert found, f"README has no section {section!r}"
    body = re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    # A block follows an empty line; that of a numbered item is indented by the item's text, too.
    found_blocks = re.findall(r"(?<=\n\n)(?: {4,}\S.*\n(?:\n(?= {4}))?)+", f"\n{body}")
    return "".join(textwrap.dedent(block) for block in found_blocks)


def run(script: str, scratch: Path) -> str:
    """What a shell says while it runs a script; each command that fails ends it.

    :param scratch: an empty directory.
    """
    programs = Path(sys.executable).parent
    machine = _MACHINE.format(scratch=shlex.quote(str(scratch)), checkout=shlex.quote(str(ROOT)))
    done = subprocess.run(
        [*_WALLS, "sh", "-c", machine + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=120,
        env={"PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(scratch)},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
