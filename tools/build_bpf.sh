#!/bin/sh
# Compiles the hub's eBPF switch, by default over the object that is kept in git, with a note of what
# it was made from. An argument names another directory for the object, and then no note is written.
set -eu
cd "$(dirname "$0")/../dmevpn/dataplane/ebpf"
source=hub_switch.bpf.c
object=hub_switch.bpf.o
target=${1:-.}

# The same octets wherever the checkout lies: the type information names the source file.
# The architecture's own directory holds <asm/types.h> on Debian and Ubuntu.
clang -O2 -g -target bpf -mcpu=v3 -Wall -Werror -fdebug-compilation-dir=. \
    -I"/usr/include/$(uname -m)-linux-gnu" -c "$source" -o "$target/$object"
llvm-strip -g "$target/$object"

[ "$target" = . ] || exit 0
{
    echo "source $(sha256sum "$source" | cut -d ' ' -f 1)"
    echo "object $(sha256sum "$object" | cut -d ' ' -f 1)"
    echo "compiler $(clang --version | head -n 1)"
} >hub_switch.build
