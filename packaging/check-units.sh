#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Boots a systemd of this host's version in a container, with the units of this folder, and looks at
# what they promise: the daemon starts with its whole sandbox, a front-end's connection outlives the
# deaths of worker and keeper and a restart of the service, a stuck keeper is replaced, and sockets
# made by the service manager start the daemon.
#
#     packaging/check-units.sh target/debug/vhost-device-tmem
#
# Needs root, systemd-nspawn, overlayfs and python3; changes nothing on the host. Prints a line for each
# check; exit code 0 if all hold.
set -eu

program=$(realpath "${1:?the built vhost-device-tmem}")
units=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
root=$work/root
failed=0
container=

inside() {
    leader=$(pgrep -P "$container" -f systemd | head -n 1)
    nsenter -t "$leader" -m -u -i -n -p -C "$@"
}

finish() {
    [ -z "$container" ] || { inside systemctl poweroff >/dev/null 2>&1 || true; wait "$container" || true; }
    umount "$root" 2>/dev/null || true
    umount "$work" 2>/dev/null || true
    rmdir "$work"
}
trap finish EXIT

check() {
    name=$1
    shift
    if "$@" >"$work/out" 2>&1; then
        echo "ok      $name"
        grep 'answered after' "$work/out" | sed 's/^/        /' || true
    else
        echo "FAILED  $name"
        { cat "$work/out"; inside journalctl -b --no-pager -o cat -n 8 -u 'vhost-device-tmem*'; } |
            sed 's/^/        /'
        failed=1
    fi
}

mount -t tmpfs -o size=1g,mode=755 tmpfs "$work"
mkdir "$work/upper" "$work/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$root"
install -D -m 755 "$program" -t "$root/usr/libexec/virtio-tmem/"
install -D -m 644 "$units"/*.service "$units"/*.socket -t "$root/usr/lib/systemd/system/"
install -D -m 644 "$units/tmem.sysusers" "$root/usr/lib/sysusers.d/tmem.conf"
install -D -m 644 "$units/tmem.tmpfiles" "$root/usr/lib/tmpfiles.d/tmem.conf"
install -D -m 644 "$units/tmem.toml" -t "$root/etc/tmem/"
# Nothing of the host's own services, and a watchdog that does not take half a minute.
rm -rf "$root"/etc/systemd/system/*.wants
mkdir -p "$root/etc/systemd/system/vhost-device-tmem.service.d"
printf '[Service]\nWatchdogSec=3\n' >"$root/etc/systemd/system/vhost-device-tmem.service.d/test.conf"

# Asks for the device's features on one connection, before and after each command that it is told.
cat >"$root/vmm.py" <<'PYTHON'
import socket, struct, subprocess, sys, time
vmm = socket.socket(socket.AF_UNIX)
vmm.settimeout(20)
vmm.connect(sys.argv[1])
def ask():
    start = time.monotonic()
    vmm.sendall(struct.pack("<III", 1, 1, 0))
    answer = vmm.recv(64)
    assert len(answer) == 20 and struct.unpack_from("<I", answer)[0] == 1, answer
    return (time.monotonic() - start) * 1000
ask()
for command in sys.argv[2:]:
    subprocess.run(command, shell=True, check=True)
    print(f"{command}: answered after {ask():.1f} ms")
PYTHON

# The container's own filter does not know Landlock.
landlock="landlock_create_ruleset landlock_add_rule landlock_restrict_self"
systemd-nspawn -q --boot -D "$root" --register=no --keep-unit --machine="tmem-$$" \
    --private-network --console=pipe --system-call-filter="$landlock" \
    </dev/null >"$work/console" 2>&1 &
container=$!
tries=0
until inside systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded'; do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || { echo "FAILED  the container does not start"; cat "$work/console"; exit 1; }
    sleep 1
done

service=vhost-device-tmem
vmm() { inside python3 /vmm.py "$@"; }
layers() {
    log=$(inside journalctl -b --no-pager -o cat -u $service | grep 'sandbox=' | tail -n 1)
    echo "$log"
    case $log in
    *"=no "* | *", no "*) return 1 ;;
    *namespaces*landlock*seccomp*) ;;
    *) return 1 ;;
    esac
}
restarts() { [ "$(inside systemctl show -p NRestarts --value $service)" -ge "$1" ]; }
stuck() {
    # The command's own deadline is the check: three seconds, and a new keeper answers.
    vmm /run/tmem/vm0.sock "kill -STOP \$(systemctl show -p MainPID --value $service)"
}
# Every step must hold: a shell does not end a function at a failure while it is being judged.
by_socket() {
    inside systemctl stop $service &&
        inside systemctl start vhost-device-tmem-guest@vm0.socket vhost-device-tmem-admin.socket &&
        ! inside systemctl is-active -q $service &&
        vmm /run/tmem/vm0.sock &&
        inside systemctl is-active -q $service &&
        inside systemctl stop $service &&
        echo "a second time, so the socket has outlived the service" &&
        vmm /run/tmem/vm0.sock &&
        inside systemctl stop vhost-device-tmem-guest@vm0.socket vhost-device-tmem-admin.socket $service
}
own_daemon() {
    inside systemctl start vhost-device-tmem@vm7.socket &&
        vmm /run/tmem/vm7.sock &&
        inside systemctl is-active -q vhost-device-tmem@vm7.service &&
        inside systemctl stop vhost-device-tmem@vm7.socket vhost-device-tmem@vm7.service
}

keeper="systemctl show -p MainPID --value $service"
worker="pgrep -P \$($keeper)"
check "the service starts" inside systemctl start $service
check "it has every layer of the sandbox" layers
check "a connection outlives its worker" vmm /run/tmem/vm0.sock "kill -9 \$($worker)"
check "a connection outlives its keeper, three times" vmm /run/tmem/vm0.sock \
    "kill -9 \$($keeper)" "kill -9 \$($keeper)" "kill -9 \$($keeper)"
check "the service manager has started it again" restarts 3
check "a connection outlives a restart of the service" vmm /run/tmem/vm0.sock \
    "systemctl restart $service"
check "and another VMM can connect after it" vmm /run/tmem/vm0.sock
check "a stuck keeper is replaced" stuck
check "strangers cannot reach the admin API" inside sh -c \
    '! setpriv --reuid 65534 --regid 65534 --clear-groups python3 -c "
import socket
socket.socket(socket.AF_UNIX).connect(\"/run/tmem/admin.sock\")"'
check "sockets of the service manager start the daemon" by_socket
check "a guest has a daemon of its own" own_daemon
exit $failed
