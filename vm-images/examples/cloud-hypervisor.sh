#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Boots the disk of `cargo xtask image` under cloud-hypervisor with a virtio-tmem device.
#
# Usage: cloud-hypervisor.sh FOLDER SOCKET DISK
#   FOLDER  what `cargo xtask image` printed: holds vmlinuz and initrd.img
#   SOCKET  the guest's socket of a running vhost-device-tmem, which must listen already
#   DISK    a raw copy of the image's disk, which the guest writes to:
#             qemu-img convert -O raw FOLDER/disk.qcow2 DISK
# Needs a KVM that works and cloud-hypervisor 53 or newer; 52 calls the key virtio_id.
set -eu
folder=${1:?folder with the image}
socket=${2:?socket of the daemon}
disk=${3:?raw copy of the disk}

# shared=on makes the guest's memory a memfd that the daemon can map. queue_sizes names every
# queue: control, event, balloon and report, then a get and a put queue for each of two pairs. Each queue
# has an interrupt of its own here, so this monitor is the one to measure latency with.
exec "${CLOUD_HYPERVISOR:-cloud-hypervisor}" \
    --cpus boot=2 \
    --memory "size=${MEMORY:-1G},shared=on" \
    --generic-vhost-user \
    "device_type=13,socket=$socket,queue_sizes=[64,64,64,64,256,256,256,256]" \
    --disk "path=$disk,image_type=raw" \
    --kernel "$folder/vmlinuz" --initramfs "$folder/initrd.img" \
    --cmdline "root=LABEL=tmem-root rw console=ttyS0" \
    --serial tty --console off
