#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Boots the disk of `cargo xtask image` under QEMU with a virtio-tmem device.
#
# Usage: qemu.sh FOLDER SOCKET [more QEMU arguments]
#   FOLDER  what `cargo xtask image` printed: holds disk.qcow2, vmlinuz and initrd.img
#   SOCKET  the guest's socket of a running vhost-device-tmem; QEMU connects at its start, so the
#           daemon must listen first
# Variables: QEMU (at least 10.2; qemu-system-x86_64), ACCEL (kvm; without a KVM: tcg), MEMORY (1G)
set -eu
folder=${1:?folder with the image}
socket=${2:?socket of the daemon}
shift 2
memory=${MEMORY:-1G}

# The guest's memory is one shared memfd, because the daemon reads and writes pages in it. Without
# share=on the device is there and every request reads zeros.
set -- \
    -object "memory-backend-memfd,id=mem0,size=$memory,share=on" \
    -machine q35,memory-backend=mem0 -m "$memory" "$@"

# The device: virtio id 13 is one that QEMU has a name for. num_vqs is 4 (control, event, balloon,
# report) and two for each of the daemon's queue pairs; config_size is that of the specification. No
# reconnect-ms on the socket: QEMU's generic device refuses to start with it.
set -- \
    -chardev "socket,id=tmem0,path=$socket" \
    -device vhost-user-test-device-pci,chardev=tmem0,virtio-id=13,num_vqs=8,vq_size=256,config_size=64 \
    "$@"

# snapshot=on leaves the disk in the cache as it is. To keep changes, make an overlay first:
#   qemu-img create -f qcow2 -b FOLDER/disk.qcow2 -F qcow2 mine.qcow2
# To boot by firmware instead, drop -kernel, -initrd and -append and add OVMF as pflash.
exec "${QEMU:-qemu-system-x86_64}" \
    -accel "${ACCEL:-kvm}" -cpu max -smp 2 \
    -drive "file=$folder/disk.qcow2,if=virtio,snapshot=on" \
    -kernel "$folder/vmlinuz" -initrd "$folder/initrd.img" \
    -append "root=LABEL=tmem-root rw console=ttyS0" \
    -nodefaults -no-reboot -display none -serial mon:stdio \
    "$@"
