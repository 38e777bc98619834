#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The first process of a test guest: mounts what programs expect, runs the scenario with the words
# of the kernel command line as its arguments, says how it ended, and switches the machine off.
export PATH=/usr/sbin:/usr/bin HOME=/root TERM=linux LC_ALL=C
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t debugfs debug /sys/kernel/debug
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs run /run
mkdir -p /dev/shm && mount -t tmpfs -o mode=1777 shm /dev/shm
hostname guest
ip link set lo up
echo "guest: up after $(cut -d' ' -f1 /proc/uptime) s, $(awk '/MemAvailable/ {print $2}' /proc/meminfo) KiB available"
/scenario $(cat /proc/cmdline)
echo "guest: scenario ended with status $?"
sync
poweroff -f
