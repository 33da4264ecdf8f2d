#!/bin/sh
# Checks that the eBPF objects in git are made from the sources beside them (`make bpf` makes them anew).
#
# Compilers differ, so the notes of `make bpf` decide: they name source and object by their hashes.
# Where the compiler is the one noted, the sources are compiled again and must give the same octets.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
noted() { sed -n "s/^$1 //p" "$name.build"; }
hash() { sha256sum "$1" | cut -d ' ' -f 1; }
die() { printf 'bpf: %s; run make bpf\n' "$*" >&2; exit 1; }

for source in dmevpn/dataplane/ebpf/*.bpf.c lab/*.bpf.c; do
    name=${source%.bpf.c}
    object=$name.bpf.o
    anew=$scratch/$(basename "$object")
    [ "$(noted source)" = "$(hash "$source")" ] || die "$object is older than its source"
    [ "$(noted object)" = "$(hash "$object")" ] || die "$object is not the object of the note"
    if [ "$(noted compiler)" = "$(clang --version | head -n 1)" ]; then
        [ -e "$anew" ] || tools/build_bpf.sh "$scratch"
        cmp -s "$anew" "$object" || die "$object differs from what its source gives"
        echo "bpf: $object is what its source gives"
    else
        echo "bpf: $object is made from this source (by $(noted compiler))"
    fi
done
