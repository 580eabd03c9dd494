//! The ioctls that no safe crate offers. The only module with `unsafe` code.
//!
//! Numbers from `linux/fs.h`, `linux/blkpg.h`, `scsi/sg.h`, `linux/nvme_ioctl.h`, `linux/sockios.h`.

#![allow(unsafe_code)]

use rustix::fd::AsFd;
use rustix::io::Result;
use rustix::ioctl::{self, Getter, Ioctl, IoctlOutput, NoArg, Opcode, Setter, opcode};
use std::ffi::{c_int, c_uint, c_ushort, c_void};

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

/// `SG_IO` of scsi/sg.h, from before the numbers had a structure.
const SG_IO: Opcode = 0x2285;
/// `NVME_IOCTL_ADMIN_CMD`
const NVME_ADMIN: Opcode = opcode::read_write::<NvmeCommand>(b'N', 0x41);
/// `SIOCETHTOOL`
const SIOCETHTOOL: Opcode = 0x8946;

/// What an ATA disk may be asked. None of these changes anything on it: that is why the commands are
/// listed here, and nobody can send others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtaQuestion {
    /// IDENTIFY DEVICE (ACS-4, 7.13).
    Identify,
    /// SMART READ DATA (ATA8-ACS, 7.53.6).
    SmartData,
    /// SMART RETURN STATUS (ATA8-ACS, 7.53.8): the answer is in the registers.
    SmartStatus,
    /// READ NATIVE MAX ADDRESS EXT (ATA8-ACS, 7.33): the answer is in the registers.
    NativeMax,
    /// DEVICE CONFIGURATION IDENTIFY (ATA8-ACS, 7.10.3).
    DcoIdentify,
}

impl AtaQuestion {
    /// ATA PASS-THROUGH (16) (SAT-3, 12.2.3). PIO-in of one block, or no data and the registers back.
    fn cdb(self) -> [u8; 16] {
        let (feature, count, middle, high, device, command, extended) = match self {
            Self::Identify => (0, 1, 0, 0, 0, 0xEC, false),
            Self::SmartData => (0xD0, 1, 0x4F, 0xC2, 0, 0xB0, false),
            Self::SmartStatus => (0xDA, 0, 0x4F, 0xC2, 0, 0xB0, false),
            Self::NativeMax => (0, 0, 0, 0, 0x40, 0x27, true),
            Self::DcoIdentify => (0xC2, 1, 0, 0, 0, 0xB1, false),
        };
        let (protocol, flags) = if self.has_data() {
            (4 << 1, 0x0E)
        } else {
            (3 << 1, 0x20)
        };
        let protocol = protocol | u8::from(extended);
        [
            0x85, protocol, flags, 0, feature, 0, count, 0, 0, 0, middle, 0, high, device, command,
            0,
        ]
    }

    fn has_data(self) -> bool {
        !matches!(self, Self::SmartStatus | Self::NativeMax)
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtaAnswer {
    /// One block, zero where the question has no data.
    pub data: [u8; 512],
    /// The SCSI sense data, which hold the registers.
    pub sense: [u8; 32],
    /// The SCSI status: 0 good, 2 check condition.
    pub status: u8,
}

/// `struct sg_io_hdr`.
#[repr(C)]
struct SgIo {
    interface_id: c_int,
    dxfer_direction: c_int,
    cmd_len: u8,
    mx_sb_len: u8,
    iovec_count: c_ushort,
    dxfer_len: c_uint,
    dxferp: *mut u8,
    cmdp: *mut u8,
    sbp: *mut u8,
    timeout: c_uint,
    flags: c_uint,
    pack_id: c_int,
    usr_ptr: *mut c_void,
    status: u8,
    masked_status: u8,
    msg_status: u8,
    sb_len_wr: u8,
    host_status: c_ushort,
    driver_status: c_ushort,
    resid: c_int,
    duration: c_uint,
    info: c_uint,
}

/// Asks an ATA disk, by the kernel's own translation or that of a SAS adapter. Waits at most 5 s.
pub fn ask_ata(device: impl AsFd, question: AtaQuestion) -> Result<AtaAnswer> {
    const FROM_DEVICE: c_int = -3;
    const NO_DATA: c_int = -1;
    let mut answer = AtaAnswer {
        data: [0; 512],
        sense: [0; 32],
        status: 0,
    };
    let mut cdb = question.cdb();
    let has_data = question.has_data();
    let mut request = SgIo {
        interface_id: c_int::from(b'S'),
        dxfer_direction: if has_data { FROM_DEVICE } else { NO_DATA },
        cmd_len: 16,
        mx_sb_len: 32,
        iovec_count: 0,
        dxfer_len: if has_data { 512 } else { 0 },
        dxferp: answer.data.as_mut_ptr(),
        cmdp: cdb.as_mut_ptr(),
        sbp: answer.sense.as_mut_ptr(),
        timeout: 5000,
        flags: 0,
        pack_id: 0,
        usr_ptr: std::ptr::null_mut(),
        status: 0,
        masked_status: 0,
        msg_status: 0,
        sb_len_wr: 0,
        host_status: 0,
        driver_status: 0,
        resid: 0,
        duration: 0,
        info: 0,
    };
    // SAFETY: SG_IO reads and writes one `sg_io_hdr` of this layout (scsi/sg.h); the buffers that it
    // points to have the lengths given and live until the call returns.
    unsafe { ioctl::ioctl(device, ioctl::Updater::<SG_IO, SgIo>::new(&mut request)) }?;
    if request.host_status != 0 {
        return Err(rustix::io::Errno::IO);
    }
    answer.status = request.status;
    Ok(answer)
}

/// `struct nvme_passthru_cmd`.
#[repr(C)]
#[derive(Default)]
struct NvmeCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    result: u32,
}

/// The command whose status is the return value of the ioctl.
struct NvmeAdmin(NvmeCommand);

// SAFETY: NVME_IOCTL_ADMIN_CMD reads and writes one `nvme_passthru_cmd`, which `as_ptr` points to.
unsafe impl Ioctl for NvmeAdmin {
    type Output = c_int;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        NVME_ADMIN
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> Result<c_int> {
        Ok(out)
    }
}

/// The SMART log of an NVMe disk: Get Log Page, page 02h, of the whole controller (NVM Express Base
/// Specification 2.0, 5.16.1.3). An error of the controller is `EIO`.
pub fn nvme_smart_log(device: impl AsFd) -> Result<[u8; 512]> {
    let mut log = [0_u8; 512];
    let command = NvmeAdmin(NvmeCommand {
        opcode: 0x02,
        nsid: u32::MAX,
        // The kernel writes there, behind the compiler's back but for this.
        addr: u64::try_from(log.as_mut_ptr().expose_provenance()).unwrap_or_default(),
        data_len: 512,
        // The number of dwords less one, and the page.
        cdw10: (127 << 16) | 0x02,
        timeout_ms: 5000,
        ..NvmeCommand::default()
    });
    // SAFETY: the command has the layout of linux/nvme_ioctl.h; its `addr` is a buffer of `data_len`
    // bytes that lives until the call returns.
    match unsafe { ioctl::ioctl(device, command) }? {
        0 => Ok(log),
        _ => Err(rustix::io::Errno::IO),
    }
}

/// `struct ethtool_perm_addr` of linux/ethtool.h with room for the longest address.
#[repr(C)]
struct PermanentAddress {
    cmd: u32,
    size: u32,
    data: [u8; 32],
}

/// `struct ifreq` of linux/if.h: a name, and a union whose largest member has 24 bytes.
#[repr(C)]
struct Ifreq {
    name: [u8; 16],
    data: *mut PermanentAddress,
    rest: [u8; 16],
}

/// The address that is burnt into the network card `name`, through any socket. Six bytes on Ethernet.
pub fn permanent_address(socket: impl AsFd, name: &str) -> Result<Vec<u8>> {
    const ETHTOOL_GPERMADDR: u32 = 0x20;
    let mut address = PermanentAddress {
        cmd: ETHTOOL_GPERMADDR,
        size: 32,
        data: [0; 32],
    };
    let mut request = Ifreq {
        name: [0; 16],
        data: &raw mut address,
        rest: [0; 16],
    };
    // The last byte stays NUL.
    if name.is_empty() || name.len() > 15 {
        return Err(rustix::io::Errno::NODEV);
    }
    for (to, from) in request.name.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: SIOCETHTOOL reads one `ifreq` and writes at most `size` bytes into the buffer behind it;
    // both live until the call returns.
    unsafe {
        ioctl::ioctl(
            socket,
            ioctl::Updater::<SIOCETHTOOL, Ifreq>::new(&mut request),
        )
    }?;
    let length = usize::try_from(address.size).unwrap_or(0).min(32);
    Ok(address.data[..length].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<SgIo>(), 88);
        assert_eq!(size_of::<NvmeCommand>(), 72);
        assert_eq!(size_of::<Ifreq>(), 40);
        assert_eq!(size_of::<PermanentAddress>(), 40);
        // From `printf("%#lx", NVME_IOCTL_ADMIN_CMD)` with linux/nvme_ioctl.h.
        assert_eq!(NVME_ADMIN, 0xc048_4e41);
    }

    #[test]
    fn the_loopback_card_has_no_address_of_its_own() {
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::DGRAM,
            None,
        )
        .unwrap();
        let address = permanent_address(&socket, "lo").unwrap();
        assert!(address.iter().all(|byte| *byte == 0), "{address:?}");
        assert!(permanent_address(&socket, "no-such-card-0").is_err());
        assert!(permanent_address(&socket, "a-name-that-is-too-long").is_err());
    }
}
