#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Puts the clean cache in front of a disk, in a guest that was booted from the disk of
# `cargo xtask image` and has a second one.
#
# Usage: clean-cache.sh DISK [words for the target, such as: copies 64]
#   DISK  a block device that nobody has open, such as /dev/vdb. From now on it is used by the name
#         that this prints, and by no other: what is written to it past the cache would not be seen.
#
# Give the guest the second disk with, for QEMU and after what qemu.sh is given:
#   -drive file=data.raw,if=virtio,format=raw,cache=none
# and the daemon more DRAM than it grants to guests: the rest is what caches live in.
set -eu
disk=${1:?the disk to be cached}
shift
name=cached-$(basename "$disk")

# Device mapper asks for the module by the target's name.
dmsetup create "$name" --table "0 $(blockdev --getsz "$disk") tmem-cache $disk $*"
echo "/dev/mapper/$name"

# "attached" is followed by counters, as docs/clean-cache.md explains them. "alone" means that there is no
# virtio-tmem device yet; the target looks for one every two seconds.
dmsetup status "$name"

# Then, for instance:
#   mount -o noatime /dev/mapper/cached-vdb /mnt
#   fio --name=mix --directory=/mnt --size=512M --rw=randrw --rwmixread=90 --bssplit=4k/60:32k/30:128k/10 \
#       --verify=crc32c --time_based --runtime=60
#   dmsetup status cached-vdb
#   dmsetup message cached-vdb 0 drop        # forget what is cached
#   umount /mnt && dmsetup remove cached-vdb
