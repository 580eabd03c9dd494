#!/bin/sh
# Makes the seeds of the corpus again: tests/fuzz/recipes/make.sh SQUEEZE CORPUS
# SQUEEZE is the program of that name (cargo build --manifest-path tests/fuzz/Cargo.toml), CORPUS
# the folder to write to. Needs e2fsprogs, util-linux, btrfs-progs, xfsprogs, dosfstools and ntfs-3g. What a fuzzer has found is not made here:
# such files are named by what they showed.
set -eu
squeeze=$(realpath "$1")
corpus=$(realpath "$2")
PATH=$PATH:/usr/sbin:/sbin
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
mkdir tree
for n in 1 2 3 4 5 6 7 8 9; do head -c "${n}000" /dev/zero > "tree/f$n"; done

keep() { # TARGET NAME [SECTOR]
    mkdir -p "$corpus/$1"
    "$squeeze" disk.img "$corpus/$1/$2" "${3:-512}"
    rm -f disk.img
}
ext() { # NAME SIZE mke2fs-arguments...
    name=$1 size=$2
    shift 2
    truncate -s "$size" disk.img
    mke2fs -q -F -F -d tree "$@" disk.img
    keep ext "$name"
}
journal() { # NAME mke2fs-features open first-block
    b=$4
    truncate -s 16M disk.img
    mke2fs -q -F -F -b 1024 -N 64 -J size=1 -t ext4 -O "$2" disk.img
    head -c 4096 /dev/zero | tr '\0' 'x' > four
    {
        echo "$3"
        echo "journal_write -b $b,$((b + 1)),$((b + 2)),$((b + 3)) four"
        echo "journal_write -r $((b + 1)),$((b + 2))"
        echo "journal_write -b $((b + 2)) four"
        echo "journal_close"
    } > commands
    debugfs -w -f commands disk.img > /dev/null 2>&1
    keep ext_journal "$1"
}

ext ext4 8M -t ext4 -b 1024 -N 64 -J size=1
ext ext2 4M -t ext2 -b 1024 -N 64
ext bigalloc 16M -t ext4 -b 1024 -N 64 -O bigalloc,^has_journal,^resize_inode -C 8192
ext meta_bg 16M -t ext4 -b 1024 -N 64 -O meta_bg,^has_journal,^resize_inode
ext no_checksums 8M -t ext4 -b 1024 -N 64 -O ^metadata_csum,^64bit,^has_journal
ext uninit_bg 16M -t ext4 -b 1024 -g 2048 -N 64 -O ^metadata_csum,uninit_bg,^has_journal
ext mmp 8M -t ext4 -b 1024 -N 64 -O mmp,^has_journal
ext sparse_super2 32M -t ext4 -b 1024 -N 64 -O sparse_super2,^has_journal,^resize_inode
journal v3 metadata_csum,64bit "journal_open -c -v 3" 15000
# Which are blocks of the journal itself.
journal writes_to_itself metadata_csum,64bit "journal_open -c -v 3" 9000
journal v2 metadata_csum,64bit "journal_open -c -v 2" 15000
# The sum of debugfs is not right: a damaged one.
journal v1 ^metadata_csum,64bit "journal_open -c" 15000
journal none ^metadata_csum,^64bit journal_open 15000
truncate -s 16M disk.img
mke2fs -q -F -F -b 1024 -N 64 -J size=1 -t ext3 disk.img
debugfs -w -R "feature needs_recovery" disk.img > /dev/null 2>&1
keep ext_journal indirect

truncate -s 1M disk.img
mkswap -q disk.img
keep swap swap

truncate -s 16M disk.img
printf 'label: gpt\n2048,2048,L\n4096,4096,S\n10240,,L\n' | sfdisk -q disk.img
keep disk gpt
truncate -s 16M disk.img
printf 'label: dos\n2048,2048,83\n4096,4096,82\n10240,20000,5\n12288,2048,83\n16384,2048,83\n' | sfdisk -q disk.img
keep disk mbr_logical
truncate -s 16M disk.img
printf 'label: gpt\n2048,2048,L\n' | sfdisk -q disk.img
keep disk gpt_of_512_read_as_4096 4096

truncate -s 128M disk.img
mkfs.btrfs -q -m single -d single -n 4096 disk.img
keep btrfs single
truncate -s 320M disk.img
mkfs.xfs -q disk.img
keep xfs v5
truncate -s 320M disk.img
mkfs.xfs -q -m crc=0 disk.img
keep xfs v4
truncate -s 4M disk.img
mkfs.vfat -F 12 disk.img > /dev/null
keep fat fat12
truncate -s 20M disk.img
mkfs.vfat -F 16 disk.img > /dev/null
keep fat fat16
truncate -s 40M disk.img
mkfs.vfat -F 32 -s 1 disk.img > /dev/null
keep fat fat32
truncate -s 1100K disk.img
mkntfs -q -F -Q disk.img > /dev/null 2>&1
keep ntfs small
