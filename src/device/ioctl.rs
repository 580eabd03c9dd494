//! The ioctls that no safe crate offers. The only module with `unsafe` code.
//!
//! Numbers from `linux/fs.h` and `linux/blkpg.h`.

#![allow(unsafe_code)]

use rustix::fd::AsFd;
use rustix::io::Result;
use rustix::ioctl::{self, Getter, NoArg, Opcode, Setter, opcode};
use std::ffi::c_int;

const BLKROSET: Opcode = opcode::none(0x12, 93);
const BLKROGET: Opcode = opcode::none(0x12, 94);
const BLKRRPART: Opcode = opcode::none(0x12, 95);
const BLKFLSBUF: Opcode = opcode::none(0x12, 97);
const BLKPG: Opcode = opcode::none(0x12, 105);
const BLKGETSIZE64: Opcode = opcode::read::<usize>(0x12, 114);

/// Sets or clears the kernel's read-only flag of a whole disk and so of its partitions.
pub fn set_read_only(device: impl AsFd, read_only: bool) -> Result<()> {
    let value = c_int::from(read_only);
    // SAFETY: BLKROSET reads one `int` through its argument and writes nothing.
    unsafe { ioctl::ioctl(device, Setter::<BLKROSET, c_int>::new(value)) }
}

/// Whether the kernel refuses writes to this block device.
pub fn is_read_only(device: impl AsFd) -> Result<bool> {
    // SAFETY: BLKROGET writes one `int` through its argument.
    unsafe { ioctl::ioctl(device, Getter::<BLKROGET, c_int>::new()) }.map(|value| value != 0)
}

/// The size of a block device in bytes.
pub fn size_bytes(device: impl AsFd) -> Result<u64> {
    // SAFETY: BLKGETSIZE64 writes one `u64` through its argument (`size_t` is only in the number).
    unsafe { ioctl::ioctl(device, Getter::<BLKGETSIZE64, u64>::new()) }
}

/// Asks the kernel to read the partition table again; fails with `EBUSY` while one is in use.
pub fn reread_partitions(device: impl AsFd) -> Result<()> {
    // SAFETY: BLKRRPART takes no argument.
    unsafe { ioctl::ioctl(device, NoArg::<BLKRRPART>::new()) }
}

/// Drops the buffer cache of a block device after writing back what is dirty in it.
pub fn flush_buffers(device: impl AsFd) -> Result<()> {
    // SAFETY: BLKFLSBUF takes no argument that it looks at.
    unsafe { ioctl::ioctl(device, NoArg::<BLKFLSBUF>::new()) }
}

/// `struct blkpg_partition`.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    pno: c_int,
    devname: [u8; 64],
    volname: [u8; 64],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct BlkpgArg {
    op: c_int,
    flags: c_int,
    datalen: c_int,
    data: *mut BlkpgPartition,
}

/// Tells the kernel of partition `number` (`start` and `length` in bytes) while others of the disk
/// are in use, which [`reread_partitions`] cannot.
pub fn add_partition(device: impl AsFd, number: c_int, start: i64, length: i64) -> Result<()> {
    const BLKPG_ADD_PARTITION: c_int = 1;
    let mut partition = BlkpgPartition {
        start,
        length,
        pno: number,
        devname: [0; 64],
        volname: [0; 64],
    };
    let arg = BlkpgArg {
        op: BLKPG_ADD_PARTITION,
        flags: 0,
        datalen: c_int::try_from(size_of::<BlkpgPartition>()).unwrap_or(c_int::MAX),
        data: &raw mut partition,
    };
    // SAFETY: BLKPG reads a `blkpg_ioctl_arg` and the `blkpg_partition` that it points to; both
    // live until the call returns and have the layout of linux/blkpg.h.
    unsafe { ioctl::ioctl(device, Setter::<BLKPG, BlkpgArg>::new(arg)) }
}
