# In the guest: makes an array of every sort, fills it and leaves its members in /out/md.
P=${PATTERN:?the program made of pattern.rs}
tag=1
mk() { # name member_sizes(MiB, comma) mdadm-args...
  local name=$1 sizes=$2; shift 2
  local d=/out/md/$name; mkdir -p $d; local devs=() i=0
  for s in ${sizes//,/ }; do truncate -s ${s}M $d/m$i; devs+=($(losetup -f --show $d/m$i)); i=$((i+1)); done
  if ! mdadm --create /dev/md77 --run --force --homehost=lab --name=$name "$@" ${devs[@]:0:${RAIDN:-99}} >$d/create.log 2>&1 </dev/null; then echo "FAIL $name: $(tail -1 $d/create.log)"; for x in ${devs[@]}; do losetup -d $x; done; return; fi
  DEVS=("${devs[@]}")
  [ -n "$NOSYNC" ] || mdadm --wait /dev/md77 >/dev/null 2>&1
  $P /dev/md77 $tag > $d/pat.log
  blockdev --getsize64 /dev/md77 > $d/size; echo $tag > $d/tag
  cat /proc/mdstat > $d/mdstat; mdadm -D /dev/md77 > $d/detail
  [ -n "$HOOK" ] && $HOOK $d
  mdadm --stop /dev/md77 >/dev/null 2>&1 || { sleep 1; mdadm --stop /dev/md77; }
  for x in ${devs[@]}; do losetup -d $x; done
  echo "OK $name $(cat $d/size)"; tag=$((tag+1))
}
echo 100000 > /proc/sys/dev/raid/speed_limit_min; echo 2000000 > /proc/sys/dev/raid/speed_limit_max
for v in 0.90 1.0 1.1 1.2; do
  mk linear_$v 8,12,10 -e $v -l linear -n 3
  mk raid0_$v 8,8,8 -e $v -l 0 -c 64 -n 3
  mk raid1_$v 8,8 -e $v -l 1 -n 2 --bitmap=none
  mk raid5_$v 8,8,8 -e $v -l 5 -c 64 -n 3
done
mk raid0_zones 8,12,10,12 -e 1.2 -l 0 -c 64 -n 4 --layout=original
mk raid0_zones_alt 8,12,10,12 -e 1.2 -l 0 -c 64 -n 4 --layout=alternate
mk raid0_zones_none 8,12,10,12 -e 1.2 -l 0 -c 64 -n 4 --layout=dangerous
mk raid0_zones_090 8,12,10,12 -e 0.90 -l 0 -c 64 -n 4
mk raid1_bitmap 8,8,8 -e 1.2 -l 1 -n 3 --bitmap=internal
mk raid4 8,8,8,8 -e 1.2 -l 4 -c 64 -n 4
for l in left-asymmetric right-asymmetric left-symmetric right-symmetric parity-first parity-last ddf-zero-restart ddf-N-restart ddf-N-continue; do
  mk raid5_$l 8,8,8,8 -e 1.2 -l 5 -c 64 -n 4 --layout=$l
done
for l in left-asymmetric right-asymmetric left-symmetric right-symmetric parity-first parity-last ddf-zero-restart ddf-N-restart ddf-N-continue left-symmetric-6 right-asymmetric-6 left-asymmetric-6 right-symmetric-6 parity-first-6; do
  mk raid6_$l 8,8,8,8,8 -e 1.2 -l 6 -c 64 -n 5 --layout=$l
done
for l in n2 n3 f2 f3 o2 o3; do for n in 3 4 5; do
  s=8; for ((k=1;k<n;k++)); do s=$s,8; done
  mk raid10_${l}_$n $s -e 1.2 -l 10 -c 64 -n $n --layout=$l
done; done
mk raid10_n2_2 8,8 -e 1.2 -l 10 -c 64 -n 2 --layout=n2
mk raid10_bitmap 8,8,8,8 -e 1.2 -l 10 -c 64 -n 4 --layout=f2 --bitmap=internal
mk raid5_bitmap 8,8,8 -e 1.2 -l 5 -c 64 -n 3 --bitmap=internal
mk raid5_spare 8,8,8,8 -e 1.2 -l 5 -c 64 -n 3 -x 1
mk raid1_spare 8,8,8 -e 1.2 -l 1 -n 2 -x 1
mk raid5_ppl 8,8,8 -e 1.2 -l 5 -c 64 -n 3 --consistency-policy=ppl
stale() { mdadm /dev/md77 --fail ${DEVS[1]} >/dev/null; $P /dev/md77 $((tag+100)) 1048576 2097152; sync; }
HOOK=stale mk raid1_stale 8,8 -e 1.2 -l 1 -n 2 --bitmap=none
HOOK=stale mk raid1_stale_090 8,8 -e 0.90 -l 1 -n 2 --bitmap=none
HOOK=stale mk raid5_stale 8,8,8 -e 1.2 -l 5 -c 64 -n 3 --bitmap=none
HOOK=stale mk raid10_stale 8,8,8,8 -e 1.2 -l 10 -c 64 -n 4 --bitmap=none
# taken while running: dirty
copy() { sync; mkdir -p $1/live; cp $1/m* $1/live/; }
HOOK=copy mk raid1_live 8,8 -e 1.2 -l 1 -n 2 --bitmap=none
HOOK=copy mk raid5_live 8,8,8 -e 1.2 -l 5 -c 64 -n 3
HOOK=copy mk raid1_live_090 8,8 -e 0.90 -l 1 -n 2
# a resync that has not finished
# in the middle of a change: copied while it lasts
echo 500 > /proc/sys/dev/raid/speed_limit_min; echo 500 > /proc/sys/dev/raid/speed_limit_max
HOOK=copy NOSYNC=1 mk raid5_building 8,8,8 -e 1.2 -l 5 -c 64 -n 3
HOOK=copy NOSYNC=1 mk raid6_building 8,8,8,8 -e 1.2 -l 6 -c 64 -n 4
reshape() { mdadm /dev/md77 --add ${DEVS[3]}; mdadm --grow /dev/md77 -n 4 --backup-file=/run/bk; sleep 1; copy $1; }
replace() { mdadm /dev/md77 --add ${DEVS[3]}; mdadm /dev/md77 --replace ${DEVS[0]} --with ${DEVS[3]}; sleep 1; copy $1; }
rebuild() { mdadm /dev/md77 --fail ${DEVS[0]}; mdadm /dev/md77 --remove ${DEVS[0]}; mdadm /dev/md77 --add ${DEVS[3]}; sleep 1; copy $1; }
RAIDN=3 HOOK=reshape mk raid5_reshape 8,8,8,8 -e 1.2 -l 5 -c 64 -n 3
RAIDN=3 HOOK=replace mk raid5_replace 8,8,8,8 -e 1.2 -l 5 -c 64 -n 3
RAIDN=3 HOOK=rebuild mk raid5_rebuild 8,8,8,8 -e 1.2 -l 5 -c 64 -n 3
sync
