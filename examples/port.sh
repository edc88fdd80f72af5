#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Usage: port.sh PORT answers|silent
# Listen on a TCP port of this machine and connect to it: exit 0 if it answers, or if it stays silent, as asked.
# Silent means that nothing comes back; a port that refuses is neither.

port=$1
expected=$2

busybox nc -l -p "$port" -e echo "hello from port $port" &
listener=$!
trap 'kill $listener 2>/dev/null' EXIT

listening=$(printf ':%04X 0+:0000 0A ' "$port")
until grep -Eq "$listening" /proc/net/tcp /proc/net/tcp6; do
	kill -0 $listener || exit 2
	sleep 0.1
done

answer=$(busybox nc -w 3 127.0.0.1 "$port" </dev/null 2>&1)
case $answer in
"hello from port $port") found=answers ;;
*"timed out"*) found=silent ;;
*) found="neither: $answer" ;;
esac
echo "port $port $found"
[ "$found" = "$expected" ]
