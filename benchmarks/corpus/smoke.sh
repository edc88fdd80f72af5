#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Keep a kernel busy for a few seconds and see that it does what it must: smoke.sh [EXT4_IMAGE].
# Exit status 0 if everything read was what had been written.

set -e
box="busybox"
home=$(mktemp -d /dev/shm/smoke.XXXXXX)
trap 'umount "$home/mnt" 2>/dev/null || :; rm -rf "$home"' EXIT

fail() {
	echo "smoke: $*" >&2
	exit 1
}

files() { # files DIRECTORY: write, copy, link, rename, truncate, read back, remove
	mkdir "$1/a" "$1/a/b"
	dd if=/dev/urandom of="$1/a/one" bs=16k count=24 2>/dev/null
	cp "$1/a/one" "$1/a/b/two"
	ln "$1/a/one" "$1/a/three"
	ln -s b/two "$1/a/four"
	mv "$1/a/b" "$1/a/c"
	ln -sf c/two "$1/a/four"
	sync
	cmp "$1/a/one" "$1/a/four" || fail "$1: a copy differs"
	cmp "$1/a/three" "$1/a/c/two" || fail "$1: a link differs"
	$box truncate -s 100 "$1/a/three"
	[ "$($box stat -c %s "$1/a/one")" = 100 ] || fail "$1: truncate"
	rm -r "$1/a"
}

files "$home"
if [ -n "$1" ]; then
	mkdir "$home/mnt"
	cp "$1" "$home/image"
	mount -t ext4 -o loop "$home/image" "$home/mnt"
	files "$home/mnt"
	umount "$home/mnt"
fi

# Loopback: ICMP, UDP and TCP, both IP versions where they are there.
$box ping -c 2 -q 127.0.0.1 >/dev/null || fail "ping"
dd if=/dev/urandom of="$home/sent" bs=64k count=8 2>/dev/null
mkfifo "$home/open"
$box nc -l -p 7788 <"$home/open" >"$home/got" & # it hangs up as soon as its own input ends
listener=$!
exec 9>"$home/open"
tries=0
until $box nc 127.0.0.1 7788 <"$home/sent" 2>/dev/null; do
	tries=$((tries + 1))
	[ $tries -lt 20 ] || fail "tcp: nobody listens"
	sleep 0.2
done
wait "$listener"
exec 9>&-
cmp "$home/sent" "$home/got" || fail "tcp: data differs"

# Processes: fork, exec, pipes, signals.
count=0
while [ $count -lt 60 ]; do
	[ "$(echo $count | cat)" = $count ] || fail "pipe"
	/bin/true &
	count=$((count + 1))
done
wait
sleep 30 &
kill -TERM $!
wait $! 2>/dev/null && fail "signal"

# /proc and /sys, whatever may be read; errors of single files are theirs.
walk() { # walk FIND_ARGUMENTS: read the start of each file that is found
	find "$@" -type f -perm -400 -exec head -qc 16384 {} + >/dev/null 2>&1 || :
}
walk /proc -maxdepth 1 ! -name kmsg ! -name kcore ! -name 'kpage*' ! -name kallsyms
walk /proc/self/ /proc/1/ /proc/self/net/ -maxdepth 1 ! -name mem ! -name pagemap
walk /proc/sys
walk /sys/class/net/lo/ /sys/fs /sys/kernel/mm /sys/devices/system/cpu/cpu0
find /sys/class /sys/bus /sys/module /sys/kernel -maxdepth 2 >/dev/null 2>&1 || :
