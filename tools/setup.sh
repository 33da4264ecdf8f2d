#!/bin/sh
# Makes a machine ready for `make demo` (argument: demo), for `make chaos` (chaos), for the tests and
# checks (test), for `make fuzz` (fuzz), or for `make page-test` (page).
#
# Debian packages are installed only where something is missing, Python packages go into .venv, and a
# second run finds everything in place and needs no network. What no package can cure is refused in
# one line. Every path here is relative to the checkout, whose own path may contain spaces.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

case "${1:-}" in
    demo | chaos) extras= enough='demo test fuzz' ;;
    test | page) extras='[test,dev]' enough='test fuzz' ;;
    fuzz) extras='[test,dev,fuzz]' enough=fuzz ;;
    *) die "usage: tools/setup.sh demo|chaos|test|fuzz|page" ;;
esac

[ "$(uname -s)" = Linux ] || die "dmevpn drives the Linux kernel's vxlan devices; this is $(uname -s)"
[ "$(id -u)" = 0 ] || die "network namespaces need root: run this as root, or with sudo"
# A root shell made by plain `su` has no sbin directories, where ip and bridge live.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM

# run WHAT COMMAND...: quiet while it works, the end of its output when it does not.
run() {
    what=$1
    shift
    "$@" >"$log" 2>&1 </dev/null || { tail -n 15 "$log" >&2; die "$what failed (its last lines are above)"; }
}

usable_python() { # the first interpreter that is new enough and can make a virtual environment
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
            "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

has() { command -v "$1" >/dev/null 2>&1; }
has_libbpf() { # by loading it, as the daemon does; without Python yet, by the linker's cache
    "${python:-false}" -c 'import ctypes; ctypes.CDLL("libbpf.so.1")' 2>/dev/null ||
        ldconfig -p 2>/dev/null | grep -q 'libbpf\.so\.1 '
}

# --- Debian packages ---------------------------------------------------------------------------

python=$(usable_python)
missing=
need() { missing="$missing $1"; }
[ -n "$python" ] || need "python3 python3-venv"
has ip && has bridge || need iproute2
has nsenter || need util-linux
has ping || need iputils-ping
has_libbpf || need libbpf1
if [ "$1" = chaos ]; then
    has cc || has clang || need clang
    has nft || need nftables
fi
if [ "$1" = test ]; then
    has tshark || need tshark
    has clang || need clang
    has llvm-strip || need llvm
    [ -e /usr/include/bpf/bpf_helpers.h ] || need libbpf-dev
    has nft || need nftables
    has mandoc || need mandoc
    # What a systemd unit takes from a daemon is taken from it in a test.
    has systemd-analyze || need systemd
    ldconfig -p | grep -q 'libseccomp\.so\.2 ' || need libseccomp2
fi
if [ "$1" = page ]; then
    has chromium || need chromium
fi
if [ -n "$missing" ]; then
    has apt-get || die "install these first (this machine has no apt-get):$missing"
    say "installing Debian packages:$missing"
    export DEBIAN_FRONTEND=noninteractive
    run "apt-get update" apt-get -q -o DPkg::Lock::Timeout=300 update
    # shellcheck disable=SC2086 # one word per package
    run "apt-get install$missing" apt-get -q -y -o DPkg::Lock::Timeout=300 \
        --no-install-recommends install $missing
    [ -n "$python" ] || python=$(usable_python)
fi
[ -n "$python" ] || die "Python 3.11 or newer is needed; this machine has $(python3 -V 2>&1)"

# --- the kernel --------------------------------------------------------------------------------

probe=dmprobe-$$
closed="this kernel or container allows no network namespaces"
ip netns add "$probe" 2>"$log" || die "$closed: $(head -n 1 "$log")"
if ! ip -n "$probe" link set lo up 2>"$log"; then
    ip netns del "$probe"
    die "$closed: $(head -n 1 "$log")"
fi
kernel() { ip -n "$probe" link add "$@" 2>"$log"; }
refusal=
kernel vx0 type vxlan external dstport 4789 || refusal=vxlan
kernel br0 type bridge || refusal="${refusal:+$refusal and }bridge"
kernel ve0 type veth peer name ve1 || refusal="${refusal:+$refusal and }veth"
ip netns del "$probe"
[ -z "$refusal" ] || die "this kernel ($(uname -r)) has no $refusal devices: $(head -n 1 "$log")"

# --- Python packages ---------------------------------------------------------------------------

# Stamps say what .venv was made from and what is in it. Its programs name the path of the checkout
# and an interpreter, so one that was moved, or that lost its interpreter, is made anew; a changed
# setup.cfg only installs what it asks for now.
wanted=$(cat setup.cfg pyproject.toml | sha256sum | cut -d ' ' -f 1)
holds() { [ "$(cat ".venv/.dmevpn-$1" 2>/dev/null)" = "$2" ]; }
usable_venv() {
    holds place "$PWD" && .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}
if usable_venv; then
    for stamp in $enough; do
        if holds "$stamp" "$wanted"; then exit 0; fi
    done
else
    say "making the virtual environment .venv with $("$python" -V)"
    run "making .venv" "$python" -m venv --clear .venv
    printf '%s\n' "$PWD" >.venv/.dmevpn-place
fi
rm -f .venv/.dmevpn-demo .venv/.dmevpn-test .venv/.dmevpn-fuzz
say "installing Python packages into .venv (the first time this takes a minute)"
# Without compat mode setuptools hides our part of twisted.plugins, and twistd would not know us.
run "pip install" .venv/bin/python -m pip install --disable-pip-version-check \
    --editable ".$extras" --config-settings editable_mode=compat
run "the check of the installation" .venv/bin/python -c 'import dmevpn, pyroute2, twisted'
printf '%s\n' "$wanted" >".venv/.dmevpn-${enough%% *}"
say "ready"
