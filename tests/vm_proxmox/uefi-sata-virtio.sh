#!/bin/sh
# Dell Inc. PowerEdge R640, serial 7XK3P52, carried here by haulier from its state of 2026-11-22T10:15:00Z
#
# Makes this machine on a Proxmox VE host (7.2 or later), where it has to run as root.
# Written by haulier; the folder may be moved.
#   create.sh [ID [STORAGE [BRIDGE]]]
# or by variables:
#   ID        number of the VM (the next free one)
#   STORAGE   where its disks go (local-lvm)
#   BRIDGE    for its network cards (vmbr0)
#   CPU       type of its processors (host)
set -eu
CDPATH='' cd -- "$(dirname -- "$0")"
here=$PWD
case $here in
  *,*)
    echo "$0: a comma in $here would end a property of Proxmox VE: move this folder" >&2
    exit 1
    ;;
esac
if ! command -v qm >/dev/null 2>&1; then
  echo "$0: there is no qm here: run this on a Proxmox VE host, as root" >&2
  exit 1
fi
id=${1:-${ID:-}}
storage=${2:-${STORAGE:-local-lvm}}
bridge=${3:-${BRIDGE:-vmbr0}}
cpu=${CPU:-host}
if [ -z "$id" ]; then
  id=$(pvesh get /cluster/nextid)
fi
qm create "$id" \
  --name r640-7xk3p52 \
  --description 'Dell Inc. PowerEdge R640, serial 7XK3P52, carried here by haulier from its state of 2026-11-22T10:15:00Z' \
  --machine q35 \
  --ostype l26 \
  --cpu "$cpu" \
  --sockets 1 \
  --cores 2 \
  --memory 256 \
  --localtime 0 \
  --smbios1 base64=1,uuid=4c4c4544-0058-4b10-8033-b7c04f503532,serial=N1hLM1A1Mg==,manufacturer=RGVsbCBJbmMu,product=UG93ZXJFZGdlIFI2NDA=,family=UG93ZXJFZGdl \
  --bios ovmf \
  --efidisk0 "$storage:0,efitype=4m,pre-enrolled-keys=0,import-from=$here/VARS.fd" \
  --tpmstate0 "$storage:1,version=v2.0" \
  --sata0 "$storage:0,import-from=$here"/disk-0.qcow2,discard=on,serial=S45NNA0M123400,wwn=0x5002538e40a0b1c2 \
  --virtio0 "$storage:0,import-from=$here"/disk-1.qcow2,discard=on,serial=S45NNA0M123401 \
  --boot 'order=sata0;virtio0' \
  --net0 e1000e=b0:26:28:aa:bb:01,bridge="$bridge" \
  --net1 virtio=b0:26:28:aa:bb:02,bridge="$bridge" \
  --serial0 socket \
  --rng0 source=/dev/urandom

echo "To run it: qm start $id"
