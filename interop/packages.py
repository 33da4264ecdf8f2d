"""Debian packages for the guest alone: unpacked beside the checkout, nothing installed here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from lab.daemons import ROOT

__all__ = ["CACHE", "UNPACKED", "PackageMissing", "find", "provide"]

#: What `make interop` keeps between two runs; `make clean` removes it.
CACHE = ROOT / ".interop"
#: The packages' files; the guest has them in its root directory as if they were installed.
UNPACKED = CACHE / "root"

#: Seconds that apt-get may take to fetch; it waits for other users of its lists, too.
PATIENCE = 300.0


class PackageMissing(Exception):
    """A package is neither installed nor to be had; the text says which and why."""


def find(path: str) -> Path | None:
    """A package's file, as installed on the machine or as unpacked for the guest.

    :param path: where it lies when it is installed, such as ``/usr/bin/linux.uml``.
    """
    for place in (Path(path), UNPACKED / path.lstrip("/")):
        if place.exists():
            return place
    return None


def provide(package: str, path: str) -> Path:
    """Find a file of a package; where it is missing, fetch the package and what it depends on.

    Fetched packages are unpacked only: their daemons do not start on the machine, and no script of
    theirs runs.

    :raises PackageMissing: apt-get is missing or cannot fetch it, or the file is not in it.
    """
    found = find(path)
    if found is None:
        _fetch(package)
        found = find(path)
    if found is None:
        raise PackageMissing(f"the package {package} has no {path}")
    return found


def _fetch(package: str) -> None:
    if shutil.which("apt-get") is None:
        raise PackageMissing(f"{package} is not installed, and this machine has no apt-get")
    archives = CACHE / "archives"
    shutil.rmtree(archives, ignore_errors=True)
    (archives / "partial").mkdir(parents=True)
    words = ("apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300")
    download = (
        *words,
        *("-o", f"Dir::Cache::archives={archives}", "-o", "APT::Sandbox::User=root"),
        *("--no-install-recommends", "--download-only", "install", package),
    )
    done = _run(*download)
    if done.returncode:
        # The lists may be missing on a fresh machine, or name a version that is no longer there.
        _run(*words, "update")
        done = _run(*download)
    if done.returncode:
        said = (done.stderr.strip() or "it says nothing").splitlines()[-1]
        raise PackageMissing(f"{package} is not installed, and apt-get cannot fetch it: {said}")
    _prepare_root()
    for archive in sorted(archives.glob("*.deb")):
        _unpack(archive)
    shutil.rmtree(archives)


def _prepare_root() -> None:
    """Have links where Debian has links, or a package's /lib would hide the machine's."""
    UNPACKED.mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        link = UNPACKED / name
        if Path("/", name).is_symlink() and not link.is_symlink():
            (UNPACKED / "usr" / name).mkdir(parents=True, exist_ok=True)
            link.symlink_to(f"usr/{name}")


def _unpack(archive: Path) -> None:
    content = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE)
    assert content.stdout is not None
    with content, content.stdout as stream:
        tar = subprocess.run(
            ["tar", "--extract", "--keep-directory-symlink", "--directory", UNPACKED],
            stdin=stream,
            capture_output=True,
            text=True,
        )
    if content.returncode or tar.returncode:
        raise PackageMissing(f"{archive.name} cannot be unpacked: {tar.stderr.strip()}")


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    try:
        return subprocess.run(
            argv,
            capture_output=True,
            text=True,
            env=environment,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 1, "", f"no end within {PATIENCE:g} s")
