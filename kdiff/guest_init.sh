#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Process 1 of a guest: load modules, show the host's files under a writable layer, run the lines the host sends.
# A line comes over the second serial port as "NUMBER SECONDS" and lies in the shared directory as NUMBER.line;
# its output goes to NUMBER.out there and "NUMBER STATUS" goes back. NUMBER.late says that it was killed.

export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev

fail() {
	echo "kdiff-guest: $*" >/dev/console
	poweroff -f
}

for module in $(cat /modules/order); do
	insmod "/modules/$module.ko" || fail "cannot load module $module"
done

options=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o "$options,ro,cache=loose" host /lower || fail "cannot see the host's files"
mount -t tmpfs -o size=50% over /over
mkdir /over/upper /over/work
mount -t overlay -o lowerdir=/lower,upperdir=/over/upper,workdir=/over/work root /root ||
	fail "cannot lay a writable file system over the host's files"
cd /root
mkdir -p proc sys dev run tmp var/lib/kdiff
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t devtmpfs dev dev
mkdir -p dev/pts dev/shm
mount -t devpts devpts dev/pts
mount -t tmpfs shm dev/shm
mount -t tmpfs run run
mount -t tmpfs kdiff var/lib/kdiff
share=/root/run/kdiff-guest
mkdir "$share"
mount -t 9p -o "$options,cache=none" share "$share" || fail "cannot see the shared directory"

cat /dev/kmsg >"$share/kmsg" &
ip link set lo up
hostname kdiff-guest

exec 3<>/dev/ttyS1
stty -F /dev/ttyS1 raw -echo
echo "ready $(cat /token)" >&3

while read -r number seconds <&3 && [ "$number" != off ]; do
	setsid chroot /root /bin/sh "/run/kdiff-guest/$number.line" </dev/null >"$share/$number.out" 2>&1 3>&- &
	line=$!
	setsid sh -c "sleep $seconds; touch $share/$number.late; kill -KILL -$line" 3>&- &
	watch=$!
	wait "$line"
	status=$?
	kill -KILL "-$watch" 2>/dev/null
	echo "$number $status" >&3
done
poweroff -f
