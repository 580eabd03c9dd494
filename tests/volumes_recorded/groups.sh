# In the guest: makes volume groups, fills their volumes and leaves their members in /out/lvm.
P=${PATTERN:?the program made of pattern.rs}
O=/out/lvm; mkdir -p $O
export LVM_SUPPRESS_FD_WARNINGS=1
mkdir -p /run/lvm /run/lock/lvm; rm -rf /etc/lvm; mkdir -p /etc/lvm
cat > /etc/lvm/lvm.conf <<'X'
devices { scan="/dev" obtain_device_list_from_udev=0 use_devicesfile=0 filter=["a|/dev/loop|","r|.*|"] external_device_info_source="none" }
activation { udev_sync=0 udev_rules=0 verify_udev_operations=0 raid_region_size=512 monitoring=0 auto_set_activation_skip=0 }
global { use_lvmpolld=0 thin_check_executable="" event_activation=0 locking_dir="/run/lock/lvm" }
backup { backup=0 archive=0 }
X
tag=1
vg() { # name sizes...
  VG=$1; D=$O/$VG; mkdir -p $D; DEVS=(); local i=0; shift
  for s in "$@"; do truncate -s ${s}M $D/m$i; DEVS+=($(losetup -f --show $D/m$i)); i=$((i+1)); done
}
done_vg() { sync; vgcfgbackup -f $D/text $VG >/dev/null 2>&1; lvs -a --segments -o+seg_pe_ranges,seg_size,stripes $VG > $D/lvs 2>&1; sync; vgchange -an $VG >/dev/null 2>&1 || echo "cannot deactivate $VG"; for x in ${DEVS[@]}; do losetup -d $x; done; echo "VG $VG $(cat $D/tags | tr '\n' ' ')"; }
lv() { # name args
  local n=$1; shift
  if ! lvcreate -y -Wn -Zn -n $n "$@" $VG > $D/$n.log 2>&1 </dev/null; then echo "FAIL $VG/$n: $(tail -2 $D/$n.log)"; return 1; fi
  pat $n
}
pat() { lvchange -ay $VG/$1 2>/dev/null; $P /dev/mapper/$VG-$1 $tag $2 $3 > /dev/null; echo "$1 $tag $(blockdev --getsize64 /dev/mapper/$VG-$1)" >> $D/tags; tag=$((tag+1)); }
# linear, striped
vg plain 40 40 40 40
pvcreate -q -y ${DEVS[@]} >/dev/null; vgcreate -q -s 1M plain ${DEVS[@]} >/dev/null
lv a -L 5M; lv b -L 30M -i 3 -I 64k; lv c -L 12M -i 2 -I 16k; lv d -L 37M; lvremove -q -y plain/a >/dev/null; sed -i '/^a /d' $D/tags; lv e -L 20M
lvextend -q -y -L+9M plain/d >/dev/null 2>&1 || echo FAIL extend; sed -i '/^d /d' $D/tags; pat d
done_vg
# mda copies, old mirror
vg mir 40 40 40
pvcreate -q -y --pvmetadatacopies 2 ${DEVS[@]} >/dev/null; vgcreate -q -s 1M mir ${DEVS[@]} >/dev/null
lv m --type mirror -m1 -L 8M --mirrorlog core --nosync; lv mm --type mirror -m1 -L 8M --mirrorlog disk --nosync; lv lin -L 5M
done_vg
vg raids 64 64 64 64 64
pvcreate -q -y ${DEVS[@]} >/dev/null; vgcreate -q -s 1M raids ${DEVS[@]} >/dev/null
lv r0 --type raid0 -i 3 -I 32k -L 6M; lv r0m --type raid0_meta -i 2 -L 4M; lv r1 --type raid1 -m1 -L 6M --nosync; lv r4 --type raid4 -i 2 -L 6M; lv r5 --type raid5 -i 3 -I 16k -L 6M; lv r5la --type raid5_la -i 3 -L 6M; lv r5n --type raid5_n -i 2 -L 4M; lv r6 --type raid6 -i 3 -L 6M; lv r6n --type raid6_n_6 -i 3 -L 6M;lv r6nr --type raid6_nr -i 3 -L 6M; lv r10 --type raid10 -i 2 -m1 -L 6M
sleep 3; lvs -a raids >> $D/sync
done_vg
# thin
vg thin 60 60
pvcreate -q -y ${DEVS[@]} >/dev/null; vgcreate -q -s 1M thin ${DEVS[@]} >/dev/null
lvcreate -q -y --type thin-pool -L 64M -c 64k -n pool thin >/dev/null 2>$D/pool.err || cat $D/pool.err
for n in t1 t2 t3; do lvcreate -q -y -V 40M --thinpool thin/pool -n $n >/dev/null 2>&1 || echo FAIL thin $n; done
pat t1 0 8388608; $P /dev/mapper/thin-t2 50 1048576 4194304 >/dev/null; $P /dev/mapper/thin-t1 1 20971520 4194304 >/dev/null
lvcreate -q -y -kn -s thin/t1 -n s1 >/dev/null 2>&1 || echo FAIL snap
$P /dev/mapper/thin-t1 60 2097152 1048576 >/dev/null; $P /dev/mapper/thin-t3 61 0 6291456 > /dev/null
blkdiscard -o 0 -l 3145728 /dev/mapper/thin-t3
lvremove -q -y thin/t2 >/dev/null
for n in t1 t3 s1; do lvchange -ay -K thin/$n; cp --sparse=always /dev/mapper/thin-$n $D/content-$n; done
lvs -a thin >$D/lvs1 2>&1
sync; vgchange -an thin >/dev/null 2>&1; vgchange -ay -K thin >/dev/null; dmsetup message thin-pool-tpool 0 reserve_metadata_snap >/dev/null 2>&1
echo > $D/tags
done_vg
# external origin
vg ext 60
pvcreate -q -y ${DEVS[@]} >/dev/null; vgcreate -q -s 1M ext ${DEVS[@]} >/dev/null
lvcreate -q -y --type thin-pool -L 24M -c 64k -n pool ext >/dev/null 2>&1; lv orig -L 8M
lvchange -an ext/orig; lvchange -pr ext/orig >/dev/null; lvcreate -q -y -s --thinpool ext/pool -n ex ext/orig > $D/ex.log 2>&1 || cat $D/ex.log
lvchange -ay -K ext/ex; $P /dev/mapper/ext-ex 77 1048576 1048576 >/dev/null; cp /dev/mapper/ext-ex $D/content-ex
done_vg
# old snapshots
vg snap 60
pvcreate -q -y ${DEVS[@]} >/dev/null; vgcreate -q -s 1M snap ${DEVS[@]} >/dev/null
lv o -L 16M; lvcreate -q -y -s -L 8M -c 8k -n sn snap/o >/dev/null 2>&1 || echo FAIL sn
$P /dev/mapper/snap-o 90 1048576 1048576 > /dev/null; $P /dev/mapper/snap-sn 91 4194304 524288 >/dev/null; $P /dev/mapper/snap-o 92 4194304 262144 >/dev/null
lvcreate -q -y -s -L 4M -c 4k -n sm snap/o >/dev/null 2>&1;  $P /dev/mapper/snap-o 93 12582912 262144 >/dev/null
lvcreate -q -y -s -L 1M -c 4k -n sinv snap/o >/dev/null 2>&1;  $P /dev/mapper/snap-o 94 8388608 2097152 >/dev/null
for n in o sn sm; do cp /dev/mapper/snap-$n $D/content-$n; done; lvs -a snap >$D/lvs1 2>&1
echo > $D/tags
done_vg
vg cache 100
pvcreate -q -y ${DEVS[@]} >/dev/null; vgcreate -q -s 1M cache ${DEVS[@]} >/dev/null
lv big -L 20M; lvcreate -q -y -L 12M -n cp cache >/dev/null 2>&1; lvconvert -q -y --type cache --cachepool cache/cp cache/big > $D/c.log 2>&1 || cat $D/c.log
lv wb -L 12M; lvcreate -q -y -an -L 12M -n wc cache >/dev/null 2>&1; lvchange -an cache/wb; lvconvert -q -y --type writecache --cachevol wc cache/wb > $D/w.log 2>&1 || cat $D/w.log
done_vg
# two metadata copies and one without, many changes: the ring wraps
vg wrap 20 20 20
pvcreate -q -y --metadatasize 16k ${DEVS[0]} >/dev/null; pvcreate -q -y --pvmetadatacopies 0 ${DEVS[1]} >/dev/null; pvcreate -q -y --bootloaderareasize 1m ${DEVS[2]} >/dev/null; vgcreate -q -s 512k wrap ${DEVS[@]} >/dev/null
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do lvcreate -q -y -an -Wn -Zn -l 1 -n w$i wrap >/dev/null 2>&1; done
for i in 1 3 5 7 9 11; do lvremove -q -y wrap/w$i >/dev/null 2>&1; done
lv www -L 10M
done_vg
sync; echo lvm done
