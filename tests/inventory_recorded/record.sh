#!/bin/sh
# Records what the kernel shows of four machines that QEMU emulates, for tests/inventory_recorded.rs.
#
#   record.sh SYSROOT [NAME]      all, or the one of that name
#
# SYSROOT is an unpacked Debian kernel package with a static busybox (what `cargo xtask image` keeps
# in its cache under sysroots/). Needs qemu-system-x86, ovmf, xz, kmod (depmod), cpio. The .tree files
# hold a line for each link (L path target) and each file (F path, its bytes as hexadecimal digits).
set -eu
sysroot=$1
only=${2-}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
kernel=$(ls "$sysroot"/boot/vmlinuz-* | head -1)
release=${kernel##*/vmlinuz-}
root=$work/root
mkdir -p "$root/bin" "$root/proc" "$root/sys" "$root/dev" "$root/lib/modules/$release"
cp "$sysroot/usr/bin/busybox" "$root/bin/"
from=$sysroot/usr/lib/modules/$release
cp "$from"/modules.order "$from"/modules.builtin "$from"/modules.builtin.modinfo "$root/lib/modules/$release/"
for dir in drivers/ata drivers/scsi drivers/nvme drivers/virtio drivers/block drivers/message \
  drivers/net/ethernet/intel/e1000 drivers/net/ethernet/intel/e1000e drivers/net/ethernet/intel/igb \
  drivers/net/net_failover.ko.xz drivers/net/virtio_net.ko.xz net/core drivers/usb drivers/hid \
  drivers/cdrom drivers/i2c drivers/ptp drivers/pps drivers/dca fs/efivarfs lib crypto arch/x86/crypto; do
  [ -e "$from/kernel/$dir" ] || continue
  mkdir -p "$root/lib/modules/$release/kernel/$(dirname "$dir")"
  cp -r "$from/kernel/$dir" "$root/lib/modules/$release/kernel/$dir"
done
find "$root/lib/modules" -name '*.ko.xz' -exec xz -d {} +
depmod -b "$root" "$release"
cat > "$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in ahci ata_piix nvme megaraid_sas mptsas virtio_pci virtio_blk virtio_scsi sd_mod \
  xhci_pci usb_storage uas e1000 e1000e igb virtio_net efivarfs; do
  modprobe $module
done
# Until the last disk is found.
sleep 10
for nic in /sys/class/net/eth*; do ip link set "${nic##*/}" up; done
sleep 3
[ -d /sys/firmware/efi ] && mount -t efivarfs efivarfs /sys/firmware/efi/efivars
link() { [ -L "$1" ] && echo "L $1 $(readlink "$1")"; }
file() { [ -f "$1" ] && hex=$(cat "$1" 2>/dev/null | od -An -v -tx1 | tr -d ' \n') && echo "F $1 $hex"; }
# The directory itself and all above it, each once.
above() { dir=$1; while [ "$dir" != /sys/devices ] && [ "$dir" != / ]; do echo "$dir"; dir=${dir%/*}; done; }
{
  for block in /sys/block/*; do
    link "$block"
    dir=$(readlink -f "$block")
    echo "$dir" >>/dirs
    link "$dir/device"
    for name in size removable hidden wwid serial queue/logical_block_size \
      queue/physical_block_size queue/rotational device/vendor device/model device/serial \
      device/wwid device/type device/vpd_pg80; do file "$dir/$name"; done
    above "$dir" >>/dirs
    [ -e "$dir/device" ] && above "$(readlink -f "$dir/device")" >>/dirs
  done
  for nic in /sys/class/net/*; do
    link "$nic"
    dir=$(readlink -f "$nic")
    link "$dir/device"
    for name in type address addr_assign_type carrier speed uevent dev_port phys_port_name; do file "$dir/$name"; done
    [ -e "$dir/device" ] && above "$(readlink -f "$dir/device")" >>/dirs
  done
  for pci in /sys/bus/pci/devices/*; do link "$pci"; readlink -f "$pci" >>/dirs; done
  sort -u /dirs | while read -r dir; do
    link "$dir/driver"; link "$dir/subsystem"
    for name in idVendor; do file "$dir/$name"; done
    [ -f "$dir/idVendor" ] && file "$dir/serial"
    if [ -f "$dir/class" ]; then
      for name in vendor device class subsystem_vendor subsystem_device acpi_index index label; do
        file "$dir/$name"
      done
      # The header only: what is behind it has the machine's state.
      echo "F $dir/config $(head -c 64 "$dir/config" | od -An -v -tx1 | tr -d ' \n')"
    fi
  done
  for slot in /sys/bus/pci/slots/*; do file "$slot/address"; done
  for path in /sys/class/dmi/id/* /sys/firmware/dmi/tables/* /sys/firmware/efi/efivars/Boot* \
    /sys/firmware/efi/efivars/SecureBoot-* /sys/firmware/efi/efivars/SetupMode-* \
    /proc/cpuinfo /proc/meminfo /proc/sys/kernel/osrelease; do
    [ -L "$path" ] || file "$path"
  done
} >/record
echo END >>/record
{ echo; echo BEGIN; cat /record; } >/dev/ttyS1
sync
poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd"

for n in 0 1 2 3 4 5 6; do qemu-img create -q -f raw "$work/$n.img" "$((n + 1))G"; done
drive() { echo "-drive if=none,id=d$1,format=raw,file=$work/$1.img"; }
record() { # NAME QEMU-OPTIONS...
  name=$1
  shift
  [ -z "$only" ] || [ "$only" = "$name" ] || return 0
  rm -f "$work/out"
  timeout 300 qemu-system-x86_64 -accel tcg,thread=multi -m 1024 -smp 2,sockets=2 -nodefaults -display none \
    -serial "file:$work/$name.console" -serial "file:$work/out" -no-reboot \
    -kernel "$kernel" -initrd "$work/initrd" -append "console=ttyS0 quiet panic=-1" \
    -smbios 'type=0,vendor=Dell Inc.,version=2.19.1,date=06/04/2023' \
    -smbios 'type=1,manufacturer=Dell Inc.,product=PowerEdge R640,serial=7XK3P52,uuid=4c4c4544-0058-4b10-8033-b7c04f503532' \
    "$@"
  tail -1 "$work/out" | grep -q END || { cat "$work/$name.console"; exit 1; }
  # Firmware speaks on this line too, before.
  tr -d "\r" <"$work/out" | sed -e "1,/^BEGIN$/d" -e "/^END$/d" | sort -u >"$here/$name.tree"
}
net() { echo "-netdev user,id=n$1 -device $2,netdev=n$1,mac=b0:26:28:aa:bb:0$1"; }

# Unquoted on purpose: each holds several words.
cp /usr/share/OVMF/OVMF_VARS_4M.fd "$work/vars.fd"
record uefi -machine q35 -drive if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd \
  -drive "if=pflash,unit=1,format=raw,file=$work/vars.fd" \
  $(drive 0) -device ide-hd,bus=ide.0,drive=d0,serial=SATA0,model=SAMSUNG-MZ7LH480HAHQ,wwn=0x5002538e40a0b1c2 \
  $(drive 1) -device nvme,drive=d1,serial=NVME1,logical_block_size=4096,physical_block_size=4096 \
  $(drive 2) -device virtio-blk-pci,drive=d2,serial=VBLK2 \
  $(drive 3) -device virtio-scsi-pci,id=vs -device scsi-hd,bus=vs.0,drive=d3,serial=VSCSI3 \
  $(drive 4) -device qemu-xhci,id=usb -device usb-storage,bus=usb.0,drive=d4,serial=STICK4,removable=on \
  -device scsi-cd,bus=vs.0 $(net 1 e1000e) $(net 2 igb) $(net 3 virtio-net-pci)
record sas -machine q35 \
  $(drive 5) -device megasas,id=mega -device scsi-hd,bus=mega.0,drive=d5,serial=MEGA5 \
  $(drive 6) -device mptsas1068,id=mpt -device scsi-hd,bus=mpt.0,drive=d6,serial=MPT6,wwn=0x5000c50015ea71ac $(net 1 e1000e)
record old -machine pc -cpu qemu64 $(drive 0) -device ide-hd,bus=ide.0,drive=d0,serial=IDE0 \
  -device ide-cd,bus=ide.1 $(net 1 e1000)
# Two ports of one card in a hotplug slot, a card on the board that the firmware numbers, and a RAID
# controller in another slot. Slots are numbered by PCI Express itself: QEMU's ACPI calls them all 0.
record slots -machine q35 -global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off \
  $(drive 0) -device ide-hd,bus=ide.0,drive=d0,serial=SATA0,model=SAMSUNG-MZ7LH480HAHQ,wwn=0x5002538e40a0b1c2 \
  $(drive 1) -device nvme,drive=d1,serial=NVME1 \
  $(drive 2) -device virtio-blk-pci,drive=d2,serial=VBLK2 \
  -device pcie-root-port,id=raid,chassis=1,slot=7 \
  $(drive 5) -device megasas,id=mega,bus=raid -device scsi-hd,bus=mega.0,drive=d5,serial=MEGA5 \
  -device pcie-root-port,id=ports,chassis=2,slot=3 \
  $(net 1 e1000e),bus=ports,addr=0.0,multifunction=on $(net 2 e1000e),bus=ports,addr=0.1 \
  $(net 3 virtio-net-pci),acpi-index=1
wc -c "$here"/*.tree
