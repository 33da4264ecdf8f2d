#!/bin/sh
# Compiles the eBPF programs, by default over the objects that are kept in git, each with a note of
# what it was made from. An argument names another directory for the objects; then no note is written.
set -eu
cd "$(dirname "$0")/.."
target=${1:-}

for source in dmevpn/dataplane/ebpf/*.bpf.c lab/*.bpf.c; do
    (
        cd "$(dirname "$source")"
        name=$(basename "$source" .bpf.c)
        object=$name.bpf.o
        # The same octets wherever the checkout lies: the type information names the source file.
        # The architecture's own directory holds <asm/types.h> on Debian and Ubuntu.
        clang -O2 -g -target bpf -mcpu=v3 -Wall -Werror -fdebug-compilation-dir=. \
            -I"/usr/include/$(uname -m)-linux-gnu" -c "$name.bpf.c" -o "${target:-.}/$object"
        llvm-strip -g "${target:-.}/$object"

        [ -z "$target" ] || exit 0
        {
            echo "source $(sha256sum "$name.bpf.c" | cut -d ' ' -f 1)"
            echo "object $(sha256sum "$object" | cut -d ' ' -f 1)"
            echo "compiler $(clang --version | head -n 1)"
        } >"$name.build"
    )
done
