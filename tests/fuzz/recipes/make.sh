#!/bin/bash
# Makes the seeds of the corpus again: tests/fuzz/recipes/make.sh SQUEEZE CORPUS [TARGET...]
# SQUEEZE is the program of that name (cargo build --manifest-path tests/fuzz/Cargo.toml), CORPUS
# the folder to write to. Needs root (loop devices, mounts), the packages of `cargo xtask setup`, and
# python3-cryptography. Seeds named damaged_* are sound ones with one field changed on purpose, which
# stands here. What a fuzzer has found is not made here: such files are named found_*.
set -eu
here=$(dirname "$(realpath "$0")")
squeeze=$(realpath "$1")
corpus=$(realpath "$2")
shift 2
only=" $* "
PATH=$PATH:/usr/sbin:/sbin
scratch=$(mktemp -d)
trap 'cleanup' EXIT
loops=()
cleanup() {
    umount "$scratch/mnt" 2> /dev/null || true
    for loop in "${loops[@]}"; do losetup -d "$loop" 2> /dev/null || true; done
    rm -rf "$scratch"
}
cd "$scratch"
mkdir tree
for n in 1 2 3 4 5 6 7 8 9; do head -c "${n}000" /dev/zero > "tree/f$n"; done

keep() { # TARGET NAME [SECTOR]
    mkdir -p "$corpus/$1"
    "$squeeze" "${3:-512}" "$corpus/$1/$2" disk.img
    rm -f disk.img
}
keep_all() { # TARGET NAME IMAGE...
    local file=$corpus/$1/$2
    mkdir -p "$corpus/$1"
    shift 2
    "$squeeze" 512 "$file" "$@"
}
image() { python3 "$here/image.py" "$@"; }
# damaged TARGET NAME OFFSET HEX [OFFSET HEX...]: of disk.img, which stays.
damaged() {
    local target=$1 name=damaged_$2
    shift 2
    cp --sparse=always disk.img broken.img
    while [ $# -gt 0 ]; do
        image patch broken.img "$1" "$2"
        shift 2
    done
    keep_all "$target" "$name" broken.img
    rm broken.img
}
wanted() { [ "$only" = "  " ] || [[ $only == *" $1 "* ]]; }
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

if wanted ext; then
    ext ext4 8M -t ext4 -b 1024 -N 64 -J size=1
    ext ext2 4M -t ext2 -b 1024 -N 64
    ext bigalloc 16M -t ext4 -b 1024 -N 64 -O bigalloc,^has_journal,^resize_inode -C 8192
    ext meta_bg 16M -t ext4 -b 1024 -N 64 -O meta_bg,^has_journal,^resize_inode
    ext no_checksums 8M -t ext4 -b 1024 -N 64 -O ^metadata_csum,^64bit,^has_journal
    ext uninit_bg 8M -t ext4 -b 1024 -g 2048 -N 64 -O ^metadata_csum,uninit_bg,^has_journal
    ext mmp 8M -t ext4 -b 1024 -N 64 -O mmp,^has_journal
    ext sparse_super2 32M -t ext4 -b 1024 -N 64 -O sparse_super2,^has_journal,^resize_inode

    truncate -s 4M disk.img
    mke2fs -q -F -F -t ext2 -b 1024 -N 64 disk.img
    # s_blocks_count, s_first_data_block, s_log_block_size, s_blocks_per_group, s_inodes_per_group
    damaged ext blocks 0x404 ffffffff
    damaged ext first_block 0x414 ffffffff
    damaged ext block_size 0x418 06000000
    damaged ext group_of_one_block 0x420 01000000
    damaged ext no_inodes 0x428 00000000
    # bg_block_bitmap of the first group: the superblock itself, and far away
    damaged ext bitmap_on_superblock 0x800 01000000
    damaged ext bitmap_far 0x800 ffffffff
    rm disk.img
fi
if wanted ext_journal; then
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
fi
if wanted swap; then
    truncate -s 1M disk.img
    mkswap -q disk.img
    keep swap swap


    truncate -s 1M disk.img
    mkswap -q disk.img
    # last_page, nr_badpages
    damaged swap last_page 0x404 ffffffff
    damaged swap bad_pages 0x408 ffffffff
    rm disk.img
fi
if wanted disk; then
    truncate -s 16M disk.img
    printf 'label: gpt\n2048,2048,L\n4096,4096,S\n10240,,L\n' | sfdisk -q disk.img
    keep disk gpt
    truncate -s 16M disk.img
    printf 'label: dos\n2048,2048,83\n4096,4096,82\n10240,20000,5\n12288,2048,83\n16384,2048,83\n' | sfdisk -q disk.img
    keep disk mbr_logical
    truncate -s 16M disk.img
    printf 'label: gpt\n2048,2048,L\n' | sfdisk -q disk.img
    keep disk gpt_of_512_read_as_4096 4096


    truncate -s 16M disk.img
    printf 'label: dos\n2048,2048,83\n4096,20000,5\n6144,2048,83\n' | sfdisk -q disk.img
    # The link of the first extended boot record: to itself.
    damaged disk ebr_to_itself 0x2001ce 00000000050000000000000000480000
    rm disk.img
    truncate -s 16M disk.img
    printf 'label: gpt\n2048,2048,L\n4096,4096,S\n' | sfdisk -q disk.img
    # NumberOfPartitionEntries; an entry that ends before it starts, one that ends behind the disk
    damaged disk gpt_entries 0x250 ffffffff
    damaged disk gpt_backwards 0x420 ffff000000000000
    damaged disk gpt_behind_the_end 0x428 ffffffffffffff7f
    rm disk.img
fi
if wanted btrfs; then
    btrfs() { # NAME DISKS mkfs-arguments...
        local name=$1 count=$2 images=() size=300M n
        [ "$count$3$4" != 1-msingle ] || size=128M
        shift 2
        for ((n = 0; n < count; n++)); do
            images+=("d$n")
            truncate -s "$size" "d$n"
        done
        mkfs.btrfs -q -n 4096 "$@" "${images[@]}"
        keep_all btrfs "$name" "${images[@]}"
        mv d0 disk.img
        rm -f "${images[@]}"
    }
    btrfs single 1 -m single -d single
    # The copy of the superblock is gone. num_devices, sys_chunk_array_size, the level of the root, its place, the chunk tree's place
    image blank disk.img 0x4000000 0x4001000
    damaged btrfs devices 0x10088 ffffffffffffffff
    damaged btrfs chunk_array 0x100a0 00080000
    damaged btrfs level 0x100c6 08
    damaged btrfs root 0x10050 ffffffffffffff7f
    damaged btrfs sector_size 0x10090 00000000
    btrfs dup 1 -m dup -d dup
    btrfs mixed 1 -M -m single -d single
    btrfs no_free_space_tree 1 -m single -d single -R ^free-space-tree
    btrfs sha256 1 -m single -d single --csum sha256
    btrfs raid1 2 -m raid1 -d raid1
    btrfs raid0 2 -m raid0 -d raid0
    btrfs concatenated 2 -m single -d single
    btrfs raid10 4 -m raid10 -d raid10
    btrfs raid5 3 -m raid5 -d raid5
    rm -f disk.img
    # A log tree: what was synced of a file shortly before the power went.
    truncate -s 128M disk.img
    mkfs.btrfs -q -n 4096 -m single -d single disk.img
    mkdir -p mnt
    mount -o loop disk.img mnt
    touch mnt/one
    sync -f mnt
    head -c 9000 /dev/zero > mnt/two
    sync mnt/two
    cp --sparse=always disk.img cut.img
    umount mnt
    keep_all btrfs log_tree cut.img
    rm disk.img cut.img
fi
if wanted xfs; then
    truncate -s 320M disk.img
    mkfs.xfs -q disk.img
    keep xfs v5
    truncate -s 320M disk.img
    mkfs.xfs -q -m crc=0 disk.img
    # sb_agcount, sb_agblocks, sb_blocksize, sb_logstart
    damaged xfs groups 0x58 7fffffff
    damaged xfs group_size 0x54 00000001
    damaged xfs block_size 0x04 80000000
    damaged xfs log_start 0x30 7fffffffffffffff
    # agf_flcount; the root of the tree of free space
    damaged xfs free_list 0x230 ffffffff
    damaged xfs root 0x210 ffffffff
    keep xfs v4
    # Not shut down: a log to replay. The first one made, deleted and shared files.
    xfs() { # NAME mkfs-arguments...
        local name=$1
        shift
        truncate -s 320M disk.img
        mkfs.xfs -q "$@" disk.img
        mkdir -p mnt
        mount -o loop disk.img mnt
        for n in 1 2 3 4 5 6 7 8; do truncate -s 100K "mnt/$n"; xfs_io -c "falloc 0 ${n}0000" "mnt/$n"; done
        rm mnt/2 mnt/4
        cp --reflink=always mnt/6 mnt/shared 2> /dev/null || true
        xfs_io -x -c 'shutdown -f' mnt
        umount mnt
        image xfs disk.img
        keep xfs "$name"
    }
    xfs dirty
    xfs dirty_bare -m reflink=0,rmapbt=0,finobt=0 -i sparse=0
fi
if wanted fat; then
    truncate -s 4M disk.img
    mkfs.vfat -F 12 disk.img > /dev/null
    keep fat fat12
    truncate -s 20M disk.img
    mkfs.vfat -F 16 disk.img > /dev/null
    # BPB_RsvdSecCnt, BPB_RootEntCnt, BPB_FATSz16
    damaged fat reserved 0x0e ffff
    damaged fat root_entries 0x11 ffff
    damaged fat table 0x16 ffff
    keep fat fat16
    truncate -s 40M disk.img
    mkfs.vfat -F 32 -s 1 disk.img > /dev/null
    # BPB_FATSz32, BPB_TotSec32, BPB_FSInfo, BPB_BkBootSec
    damaged fat table_32 0x24 ffffffff
    damaged fat sectors_32 0x20 ffffffff
    damaged fat info_and_copy 0x30 ffffffff
    keep fat fat32
fi
if wanted ntfs; then
    truncate -s 1100K disk.img
    mkntfs -q -F -Q disk.img > /dev/null 2>&1
    image ntfs disk.img
    # Clusters a record, MFT at the end of the world, sectors
    damaged ntfs record_size 0x40 7f
    damaged ntfs mft_far 0x30 ffffffffffffff7f
    damaged ntfs sectors 0x28 ffffffffffffff7f
    cp disk.img sound.img
    keep ntfs small
    mv sound.img disk.img
    image ntfs_holes disk.img
    keep ntfs damaged_table_with_holes
    # A table of files in several pieces: it grew into the gaps that others left.
    truncate -s 3M disk.img
    mkntfs -q -F -Q disk.img > /dev/null 2>&1
    mkdir -p mnt
    ntfs-3g disk.img mnt
    python3 - <<'END' || true
import os
files = [os.open(f"mnt/{name}", os.O_CREAT | os.O_WRONLY) for name in "ab"]
while True:
    for file in files:
        os.write(file, bytes(4096))
        os.fsync(file)
END
    rm -f mnt/a
    for ((n = 0; n < 70; n++)); do echo > "mnt/f$n" || break; done
    umount mnt
    image ntfs disk.img
    keep ntfs fragmented_mft
fi
if wanted exfat; then
    truncate -s 8M disk.img
    mkfs.exfat disk.img > /dev/null
    # ClusterCount, FirstClusterOfRootDirectory, BytesPerSectorShift, FatLength
    damaged exfat clusters 0x5c ffffffff
    damaged exfat root 0x60 ffffffff
    damaged exfat shifts 0x6c 0c0d
    damaged exfat table 0x54 ffffffff
    keep exfat small
    truncate -s 8M disk.img
    mkfs.exfat -c 512 -L fuzz disk.img > /dev/null
    # The chain of the bitmap (cluster 2) and of the root (which has 1 cluster): to themselves.
    at=$(($(od -An -tu4 -j80 -N4 disk.img) * 512))
    root=$(od -An -tu4 -j96 -N4 disk.img)
    damaged exfat bitmap_to_itself $((at + 8)) 02000000
    damaged exfat root_to_itself $((at + root * 4)) "$(printf '%08x' "$root" | sed -E 's/(..)(..)(..)(..)/\4\3\2\1/')"
    cp --sparse=always disk.img sound.img
    keep exfat clusters_of_512
    mv sound.img disk.img
    image exfat_loop disk.img
    keep exfat damaged_letters_without_end
fi
if wanted f2fs; then
    truncate -s 64M disk.img
    mkfs.f2fs -q -f disk.img
    # Both copies of the superblock: cp_payload, segment_count_main, segment_count_sit
    damaged f2fs payload 0xa80 ffffff00 0x1a80 ffffff00
    damaged f2fs main 0x444 ffffffff 0x1444 ffffffff
    damaged f2fs sit 0x438 ffffffff 0x1438 ffffffff
    # The first checkpoint: cur_node_segno, sit_ver_bitmap_bytesize, cp_pack_total_block_count
    damaged f2fs segment 0x200024 ffffffff
    damaged f2fs bitmap_size 0x20009c ffffffff
    damaged f2fs pack 0x200088 ff010000
    keep f2fs plain
    truncate -s 64M disk.img
    mkfs.f2fs -q -f -l fuzz -O extra_attr,inode_checksum,sb_checksum,compression disk.img
    keep f2fs features
fi
if wanted hfsplus; then
    truncate -s 4M disk.img
    mkfs.hfsplus -v fuzz disk.img > /dev/null
    # blockSize, totalBlocks, the allocation file's first extent
    damaged hfsplus block_size 0x428 80000000
    damaged hfsplus blocks 0x42c ffffffff
    damaged hfsplus extent 0x480 fffffff0ffffffff
    keep hfsplus plain
    truncate -s 16M disk.img
    mkfs.hfsplus -J 512k -v fuzz disk.img > /dev/null
    # journalInfoBlock
    damaged hfsplus journal 0x40c ffffffff
    keep hfsplus journalled
fi
if wanted apfs; then
    truncate -s 512M disk.img
    mkapfs -L fuzz disk.img
    # nx_block_size, nx_block_count, nx_xp_desc_blocks, nx_spaceman_oid, nx_xp_desc_base
    damaged apfs block_size 0x24 00000100
    damaged apfs blocks 0x28 ffffffffffffff00
    damaged apfs descriptors 0x68 ffffff7f
    damaged apfs spaceman 0x98 ffffffffffffffff
    damaged apfs descriptor_base 0x70 ffffffffffffff7f
    keep apfs plain
fi
if wanted reiserfs; then
    truncate -s 40M disk.img
    mkreiserfs -q -f -f -s 513 -l fuzz disk.img > /dev/null 2>&1
    # s_block_count, s_blocksize, s_bmap_nr, the journal's first block and size
    damaged reiserfs blocks 0x10000 ffffffff
    damaged reiserfs block_size 0x1002c 0000
    damaged reiserfs bitmaps 0x10046 ffff
    damaged reiserfs journal 0x1000c ffffffff 0x10014 ffffffff
    keep reiserfs plain
fi
if wanted jfs; then
    truncate -s 16M disk.img
    mkfs.jfs -q -L fuzz disk.img > /dev/null
    # Of the log only its superblock is read.
    image blank disk.img 0xf03000 0x1000000
    # s_size, s_bsize, s_logpxd
    damaged jfs size 0x8008 ffffffffffffff7f
    damaged jfs block_size 0x8010 00000000
    damaged jfs log 0x8048 ffffffffffffff7f
    keep jfs plain
fi
truncate -s 1M ext2.img
mke2fs -q -F -t ext2 -b 1024 -N 16 -L inside ext2.img
if wanted lvm; then
    attach() {
        loops=()
        for one in "$@"; do loops+=("$(losetup -f --show "$one")"); done
    }
    detach() {
        losetup -d "${loops[@]}"
        loops=()
    }
    # LVM with these disks only, and never with a driver.
    lvm_() {
        local command=$1 filter
        shift
        filter=$(printf '"a|^%s$|",' "${loops[@]}")
        LVM_SUPPRESS_FD_WARNINGS=1 lvm "$command" --driverloaded n --config "devices { filter=[$filter\"r|.*|\"]
            obtain_device_list_from_udev=0 use_devicesfile=0 } global { locking_dir=\"$scratch\" event_activation=0 }
            backup { backup=0 archive=0 } activation { udev_sync=0 udev_rules=0 }" "$@" > /dev/null
    }
    truncate -s 8M a b c
    attach a b c
    lvm_ pvcreate -q -y --metadatasize 128k "${loops[@]}"
    lvm_ vgcreate -q -y -s 512k fuzz "${loops[@]}"
    lvm_ lvcreate -q -y -an -Wn -Zn -L 2M -n linear fuzz
    lvm_ lvcreate -q -y -an -Wn -Zn -L 3M -i 3 -I 16k -n striped fuzz
    detach
    # The linear volume is the first one of the first disk.
    dd if=ext2.img of=a bs=1M seek=1 conv=notrunc,sparse status=none
    for one in a b c; do
        image blank "$one" 0x1200 0x1400
    done
    keep_all lvm linear_and_striped a b c
    keep_all lvm damaged_a_disk_is_missing a b
    for one in a b c; do cp --sparse=always "$one" "$one.sound"; done
    changed() { # NAME OLD NEW
        for one in a b c; do
            cp --sparse=always "$one.sound" "$one"
            image text "$one" "$2" "$3"
            image seal "$one"
        done
        keep_all lvm "damaged_$1" a b c
    }
    changed start_far 'start_extent = 0' 'start_extent = 9'
    changed stripes 'stripe_count = 3' 'stripe_count = 9'
    changed no_extents 'extent_count = ' 'extent_count =-'
    changed extent_size 'extent_size = 1024' 'extent_size = 0000'
    changed brackets 'logical_volumes {' 'logical_volumes ['
    changed stripe_size 'stripe_size = 32' 'stripe_size = 00'
    changed pe_start 'pe_start = 2048' 'pe_start = 9999'
    for one in a b c; do
        mv "$one.sound" "$one"
        image lvm_tower "$one"
        image seal "$one"
    done
    keep_all lvm damaged_tower a b c
    rm a b c
    for one in plain mir thin ext snap cache raids; do
        python3 "$here/recorded.py" "$one" members
        keep_all lvm "$one" members/*
        rm -r members
    done
    # What the text says of the snapshot is right, what its metadata says is not.
    python3 "$here/recorded.py" snap members
    # Of one snapshot: the chunk size
    image patch members/0 0x110000c ffffff7f
    keep_all lvm damaged_snapshot_chunk members/*
    rm -r members
fi
if wanted md; then
    for one in raid1_0.90 raid1_1.0 raid1_1.1 raid1_bitmap raid0_1.2 raid4 raid5_1.2 raid5_0.90 raid5_spare \
        raid5_rebuild raid5_reshape raid5_ppl raid5_stale raid6_left-symmetric raid6_left-symmetric-6 raid10_f3_5 raid10_o2_3 raid10_n2_3; do
        python3 "$here/recorded.py" "$one" members
        keep_all md "$one" members/*
        rm -r members
    done
    python3 "$here/recorded.py" raid1_1.2 members ext2.img
    keep_all md raid1_1.2_of_ext2 members/*
    keep_all md damaged_a_disk_is_missing members/0
    rm -r members
    python3 "$here/recorded.py" raid5_1.2 members
    for one in members/*; do cp --sparse=always "$one" "$one.sound"; done
    wrong() { # NAME OFFSET HEX
        for one in members/?; do
            cp --sparse=always "$one.sound" "$one"
            image patch "$one" "$2" "$3"
            image seal "$one"
        done
        keep_all md "damaged_$1" members/?
    }
    # level, layout, size, chunksize, raid_disks, data_offset, data_size, max_dev
    wrong level 0x1048 ffffff7f
    wrong layout 0x104c ffffffff
    wrong size 0x1050 ffffffffffffffff
    wrong chunk 0x1058 ffffff7f
    wrong no_chunk 0x1058 00000000
    wrong disks 0x105c ffffffff
    wrong one_disk 0x105c 01000000
    wrong data_offset 0x1080 ffffffffffffff7f
    wrong data_size 0x1088 ffffffffffffffff
    wrong max_dev 0x10dc 00070000
    rm -r members
fi
if wanted luks; then
    luks() { # NAME DATA-OFFSET KEEP-SLOT-UNTIL SIZE cryptsetup-arguments...
        local name=$1 until=$3
        at=$2
        truncate -s "$4" disk.img
        shift 4
        printf fuzz | cryptsetup luksFormat -q --key-size 128 --use-urandom "$@" disk.img - 2> /dev/null
        rm -f key
        printf fuzz | cryptsetup luksDump -q --dump-volume-key --volume-key-file key --key-file - disk.img > /dev/null
        # Slots that are not in use are random.
        [ "$at" != luks1 ] || at=$(($(od -An -tu4 --endian=big -j104 -N4 disk.img) * 512))
        image blank disk.img "$until" "$at"
    }
    luks luks1 luks1 0x11000 4M --type luks1 --cipher aes-cbc-plain64 --hash sha256 --pbkdf-force-iterations 1000
    image encrypt disk.img $at key ext2.img
    cp disk.img sound.img
    image blank disk.img 0x1000 0x400000
    # payloadOffset, keyBytes; of the first slot: iterations, keyMaterialOffset, stripes
    damaged luks luks1_payload 0x68 ffffffff
    damaged luks luks1_key_bytes 0x6c ffffffff
    damaged luks luks1_iterations 0xd4 00000000
    damaged luks luks1_area 0xf8 ffffffff
    damaged luks luks1_stripes 0xfc ffffffff
    mv sound.img disk.img
    keep luks luks1
    luks luks2 0x50000 0x18000 2M --type luks2 --cipher aes-cbc-plain64 --luks2-keyslots-size 256k --luks2-metadata-size 16k \
        --offset 640 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --label fuzz
    image encrypt disk.img 0x50000 key ext2.img
    cp disk.img sound.img
    image blank disk.img 0x8000 0x60000
    cp disk.img barren.img
    # Both headers: hdr_size; the second alone: newer than the first; the JSON not closed
    damaged luks luks2_size 0x8 ffffffffffffffff 0x4008 ffffffffffffffff
    damaged luks luks2_newer 0x4010 ffffffffffffffff
    damaged luks luks2_json 0x1000 5b5b5b5b5b5b5b5b 0x5000 5b5b5b5b5b5b5b5b
    mv sound.img disk.img
    keep luks luks2
    mv barren.img sound.img
    for change in 'stripes":4000:stripes":9999' '"offset":"32768":"offset":"99999"' '"sector_size":512:"sector_size":000' \
        'key_size":16:key_size":99'; do
        IFS=: read -r -a parts <<< "$change"
        half=$((${#parts[@]} / 2))
        old=$(IFS=:; echo "${parts[*]:0:half}")
        new=$(IFS=:; echo "${parts[*]:half}")
        cp sound.img broken.img
        image text broken.img "$old" "$new"
        image seal broken.img
        keep_all luks "damaged_luks2_$(echo "$old" | tr -cd 'a-z_')" broken.img
    done
    luks argon2 0x50000 0x8000 2M --type luks2 --cipher aes-cbc-essiv:sha256 --luks2-keyslots-size 256k --luks2-metadata-size 16k \
        --offset 640 --pbkdf argon2id --pbkdf-force-iterations 4 --pbkdf-memory 32 --pbkdf-parallel 1 --sector-size 4096
    keep luks argon2_without_its_area
fi
if wanted bitlocker; then
    # Made by Windows; what is inside was left out of them by cryptsetup's people or is left out here.
    tar xJf "$here/../../bitlocker_images/bitlk-images.tar.xz" --sparse \
        bitlk-images/bitlk-{clearkey-aes-cbc-128,togo-aes-xts-128,aes-xts-128-4k,aes-xts-128-eow}.img
    for one in clearkey-aes-cbc-128 togo-aes-xts-128 aes-xts-128-4k aes-xts-128-eow; do
        mv "bitlk-images/bitlk-$one.img" disk.img
        chmod 600 disk.img
        if [ $one = clearkey-aes-cbc-128 ]; then
            cp --sparse=always disk.img clear.img
        fi
        keep bitlocker $one
    done
    mv clear.img disk.img
    block=$(od -An -td8 -j176 -N8 disk.img | tr -d ' ')
    # Of the first block: its size, the data set's size, the boot sectors' number and place, the first entry's size; of the
    # boot sector: the places of the blocks
    # And of all three blocks the states: as if everything were encrypted. It opens by itself, for the fuzzer at least.
    states=()
    for at in 176 184 192; do
        states+=("$(($(od -An -td8 -j$at -N8 disk.img) + 0xc))" 04000400)
    done
    damaged bitlocker state "${states[@]}"
    damaged bitlocker size $((block + 8)) ffff
    damaged bitlocker data_set $((block + 0x40)) ffffffff
    damaged bitlocker header_sectors $((block + 0x1c)) ffffffff
    damaged bitlocker header_at $((block + 0x38)) ffffffffffffff7f
    damaged bitlocker entry_size $((block + 0x70)) 0000
    damaged bitlocker blocks 176 ffffffffffffff7fffffffffffffff7fffffffffffffff7f
    damaged bitlocker one_block 176 "$(printf '0000000000000000%.0s' 1 2 3)"
    rm disk.img
fi
