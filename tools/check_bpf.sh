#!/bin/sh
# Checks that the eBPF object in git is made from the source beside it (`make bpf` makes it anew).
#
# Compilers differ, so the note of `make bpf` decides: it names the source and the object by their
# hashes. Where the compiler is the one noted, the source is compiled again and must give the same octets.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root/dmevpn/dataplane/ebpf"
noted() { sed -n "s/^$1 //p" hub_switch.build; }
hash() { sha256sum "$1" | cut -d ' ' -f 1; }
die() { printf 'bpf: %s; run make bpf\n' "$*" >&2; exit 1; }

[ "$(noted source)" = "$(hash hub_switch.bpf.c)" ] || die "hub_switch.bpf.o is older than its source"
[ "$(noted object)" = "$(hash hub_switch.bpf.o)" ] || die "hub_switch.bpf.o is not the object of the note"
if [ "$(noted compiler)" = "$(clang --version | head -n 1)" ]; then
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    "$root/tools/build_bpf.sh" "$scratch"
    cmp -s "$scratch/hub_switch.bpf.o" hub_switch.bpf.o || die "hub_switch.bpf.o differs from what its source gives"
    echo "bpf: the object is what its source gives"
else
    echo "bpf: the object is made from this source (by $(noted compiler))"
fi
