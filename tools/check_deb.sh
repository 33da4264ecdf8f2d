#!/bin/sh
# Installs, tries, removes and purges the package in a fresh Debian: `make deb-check`. Needs root.
# tools/check_deb.sh PACKAGE [ROOT]: ROOT is a fresh root made before by debootstrap, which is copied.
set -eu
package=$1
die() { printf 'deb-check: %s\n' "$*" >&2; exit 1; }
say() { printf 'deb-check: %s\n' "$*"; }
[ "$(id -u)" = 0 ] || die "a chroot needs root"
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")

work=$(mktemp -d)
root=$work/root
daemon=
cleanup() {
    [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
    umount "$root/proc" 2>/dev/null || true
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

if [ -n "${2:-}" ]; then
    cp -a "$2" "$root"
else
    command -v debootstrap >/dev/null || die "install this first: apt-get install debootstrap"
    say "making a fresh $suite (some minutes)"
    debootstrap --variant=minbase "$suite" "$root" http://deb.debian.org/debian >"$work/log" 2>&1 ||
        { tail -n 15 "$work/log" >&2; die "debootstrap failed (its last lines are above)"; }
fi
mount -t proc proc "$root/proc"
in_root() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
apt() {
    in_root apt-get -q -y --no-install-recommends "$@" >"$work/log" 2>&1 ||
        { tail -n 15 "$work/log" >&2; die "apt-get $* failed (its last lines are above)"; }
}
# What is there, without apt's and dpkg's own notes.
listing() {
    (cd "$root" && find . -xdev \( -path ./proc -o -path ./var/cache -o -path ./var/lib/apt -o -path ./var/lib/dpkg \
        -o -path ./var/log -o -path ./tmp -o -path ./run/adduser \) -prune -o -printf '%p %M %u %g\n' | grep -v '/__pycache__' | sort)
    sed 's/:.*//' "$root/etc/passwd" "$root/etc/group"
}

cp "$package" "$root/package.deb"
apt update
apt install python3 libbpf1 adduser procps systemd
listing >"$work/before"

say "installing $(basename "$package")"
apt install /package.deb
for path in /usr/bin/dmevpnctl /usr/bin/opennhrpctl /usr/share/man/man8/opennhrpctl.8.gz /usr/lib/dmevpn/bin/twistd /usr/lib/systemd/system/dmevpn@.service \
    /usr/share/man/man8/dmevpn.8.gz /usr/share/man/man5/dmevpn.conf.5.gz /usr/share/man/man8/dmevpnctl.8.gz \
    /usr/share/bash-completion/completions/dmevpnctl /usr/share/doc/dmevpn/examples/hub.conf /etc/dmevpn; do
    [ -e "$root$path" ] || die "$path is missing"
done
[ "$(in_root stat -c '%U:%G %a' /etc/dmevpn)" = "root:dmevpn 750" ] || die "/etc/dmevpn is open to others"
in_root getent passwd dmevpn | grep -q ':/nonexistent:/usr/sbin/nologin$' || die "no system user dmevpn"
grep -rIl "$(dirname "$(mktemp -u)")/tmp\.\|/build/\|$work" "$root/usr/lib/dmevpn" --include='*.cfg' --include='*.json' \
    --include=twistd --include=dmevpnctl --include=opennhrpctl && die "a file names the place where the package was made"
if command -v systemd-analyze >/dev/null; then
    cp "$root/usr/lib/systemd/system/dmevpn@.service" "$root/usr/lib/systemd/system/dmevpn@x.service"
    systemd-analyze verify --man=no --root="$root" dmevpn@x.service 2>&1 | grep dmevpn && die "systemd objects to the unit"
    rm "$root/usr/lib/systemd/system/dmevpn@x.service"
fi

say "running it"
in_root dmevpnctl --version
in_root opennhrpctl --version
in_root /usr/lib/dmevpn/bin/twistd dmevpn --config /usr/share/doc/dmevpn/examples/hub.conf --check
in_root sh -c 'echo "metrics tcp:9199:interface=127.0.0.1 log-format json" >/etc/dmevpn/try.conf
    install -d -o dmevpn /run/dmevpn /var/lib/dmevpn'
chroot --userspec=dmevpn:dmevpn "$root" /usr/bin/env -i PATH=/usr/bin:/bin \
    /usr/lib/dmevpn/bin/twistd --nodaemon --pidfile= --umask=077 dmevpn --config /etc/dmevpn/try.conf >"$work/log" 2>&1 &
daemon=$!
tries=0
until in_root dmevpnctl version 2>/dev/null; do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || { cat "$work/log" >&2; die "the daemon does not answer (its log is above)"; }
    sleep 0.5
done
in_root python3 -c 'import urllib.request as u; text = u.urlopen("http://127.0.0.1:9199/metrics").read()
assert b"dmevpn_build_info{" in text, text' || die "no metrics"
kill "$daemon"
wait "$daemon" 2>/dev/null || true
daemon=
grep -q 'Unable to write to plugin cache' "$work/log" && die "the cache of plugins is out of date"

say "removing and purging it"
apt remove dmevpn
[ -e "$root/etc/dmevpn/try.conf" ] || die "removal took the configuration"
[ ! -e "$root/usr/lib/dmevpn" ] || die "removal left $(find "$root/usr/lib/dmevpn" | head -n 3)"
apt purge dmevpn
listing >"$work/after"
diff "$work/before" "$work/after" || die "the purge left or took something (above)"
say "ok"
