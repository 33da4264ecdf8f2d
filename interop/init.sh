#!/bin/sh
# The guest's process 1: makes a root of its own over the machine's, runs one command, turns off.
#
# Everything the guest needs to know is in the directory this script lies in, which the machine
# shares with it: `modules` (a link to the kernel's modules), `packages` (a link to unpacked Debian
# packages that the machine itself has not installed), `command`, and sometimes `keep` (a link to a
# directory of the machine that the guest may write to, as /run/keep). What the guest leaves there:
# `started`, and the command's exit status in `status`.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
here=${0%/*}

mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir /run/changes /run/work /run/packages /run/root
insmod "$here/modules/kernel/fs/overlayfs/overlay.ko"
# A file system of its own, since an overlay takes no directory together with its parent.
mount -t hostfs -o "$(readlink -f "$here/packages")" hostfs /run/packages
# The machine's files are read-only underneath; what the guest writes goes to its memory.
mount -t overlay overlay -o lowerdir=/run/packages:/,upperdir=/run/changes,workdir=/run/work /run/root
modules=$(readlink -f "$here/modules")
cd /run/root
for kind in proc sysfs:sys devtmpfs:dev tmpfs:run tmpfs:tmp; do
    mkdir -p "${kind#*:}"
done
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t devtmpfs devtmpfs dev
mkdir -p dev/pts dev/shm lib/modules "lib/modules/$(uname -r)"
mount -t devpts devpts dev/pts
mount -t tmpfs tmpfs dev/shm
mount -t bpf bpf sys/fs/bpf
mount --bind "$modules" "lib/modules/$(uname -r)"
mount -t tmpfs tmpfs run
mkdir run/machine run/shared
mount -t hostfs -o "$here" hostfs run/shared
pivot_root . run/machine
if [ -e run/shared/keep ]; then
    mkdir run/keep
    mount -t hostfs -o "$(readlink -f "$here/keep")" hostfs run/keep
fi
umount -l /run/machine
rmdir /run/machine

# Debian's own kernel has it built in, and everybody expects it.
modprobe ipv6
echo guest >/proc/sys/kernel/hostname
ip link set lo up
# The lines are raw and without echo before the command may write the first octet.
stty -F /dev/ttyS0 raw -echo
stty -F /dev/ttyS1 raw -echo
: >/run/shared/started
status=0
setsid -w sh /run/shared/command </dev/null >/dev/ttyS0 2>/dev/ttyS1 || status=$?
# Changing a setting waits until what was written has left.
stty -F /dev/ttyS0 cooked
stty -F /dev/ttyS1 cooked
echo "$status" >/run/shared/status
sync
echo o >/proc/sysrq-trigger
# The trigger returns at once, and process 1 must not end.
sleep 60
