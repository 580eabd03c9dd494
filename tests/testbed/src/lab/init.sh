#!/bin/sh
# PID 1 of the laboratory. Whatever happens, the machine goes off: the host sees by the missing
# status that the script did not end by itself.
export PATH=/usr/sbin:/usr/bin:/busybox HOME=/root LC_ALL=C
# No udev runs here: nobody would answer libdevmapper, LVM and cryptsetup if they waited for it.
export DM_DISABLE_UDEV=1
stop() {
    echo "lab: $*" >/dev/console
    /usr/bin/busybox sync
    /usr/bin/busybox poweroff -f
}
/usr/bin/busybox --install -s /busybox
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /run/lock /dev/shm /dev/lab
exec </dev/null >/dev/console 2>&1
[ -d /proc/self ] || stop "the folders of the kernel are not mounted"
for module in virtio_blk $(cat /lab/modules); do
    modprobe "$module" || stop "cannot load the module $module"
done
# The disks by their order; the kernel's own names are the same, which is checked here.
letters=$(cat /lab/disks)
for letter in $letters; do
    serial=$(cat "/sys/block/vd$letter/serial") || stop "there is no disk vd$letter"
    [ "$serial" = "lab-$letter" ] || stop "vd$letter is the disk $serial"
done
# The ports to the host, which the kernel numbers as it finds them, a moment after their bus.
port() {
    for turn in 1 2 3 4 5 6 7 8 9; do
        for port in /sys/class/virtio-ports/*; do
            if [ "$(cat "$port/name" 2>/dev/null)" = "$1" ]; then
                echo "/dev/${port##*/}"
                return
            fi
        done
        sleep 1
    done
    return 1
}
output=$(port output) && status=$(port status) || stop "the ports to the host are missing"
echo "lab: begins"
cd /tmp
sh -eu /lab/script >"$output" 2>&1
code=$?
echo "lab: the script ended with $code"
# What the script left mounted is written out before the power goes.
sync
echo "ended with $code" >"$status"
stop "off"
