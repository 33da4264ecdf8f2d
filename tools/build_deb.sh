#!/bin/sh
# Builds the Debian package of this tree into dist/: `make deb`. The tree itself is not written to.
set -eu
cd "$(dirname "$0")/.."
die() { printf 'deb: %s\n' "$*" >&2; exit 1; }

command -v dpkg-buildpackage >/dev/null && command -v dh >/dev/null && /usr/bin/python3 -c 'import ensurepip' ||
    die "install these first: apt-get install dpkg-dev debhelper python3-venv"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir "$work/tree" dist 2>/dev/null || [ -d dist ]
tar -c --exclude=./.git --exclude=./.venv --exclude=./dist --exclude=./build --exclude='*.egg-info' \
    --exclude=__pycache__ --exclude='./.*_cache' --exclude=./.hypothesis . | tar -x -C "$work/tree"
if ! (cd "$work/tree" && dpkg-buildpackage -b -us -uc) >"$work/log" 2>&1; then
    tail -n 30 "$work/log" >&2
    die "dpkg-buildpackage failed (its last lines are above)"
fi
for package in "$work"/dmevpn_*.deb; do
    cp "$package" dist/
    echo "deb: dist/$(basename "$package")"
done
