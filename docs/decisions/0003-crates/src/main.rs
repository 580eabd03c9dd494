//! Shows, with the crates as they are published, why three crates are not in the product.
//! `./run` runs all three; each prints what it saw.

use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("mbrman") => mbrman_writes_4_gib_off(),
        Some("gpt") => gpt_renumbers(),
        Some("qcow2-rs") => qcow2_rs_calls_a_short_write_a_success(),
        _ => eprintln!("usage: crates-repro mbrman|gpt|qcow2-rs"),
    }
}

/// A disk of zeros that remembers where it was written.
struct Recorder {
    at: u64,
    size: u64,
    mbr: Vec<u8>,
    writes: Vec<u64>,
}

impl Read for Recorder {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        buf.fill(0);
        if self.at == 0 {
            buf[..512].copy_from_slice(&self.mbr);
        }
        self.at += buf.len() as u64;
        Ok(buf.len())
    }
}
impl Write for Recorder {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        // Its fields are written one by one: the sector is what matters.
        let sector = self.at / 512 * 512;
        if self.writes.last() != Some(&sector) {
            self.writes.push(sector);
        }
        self.at += buf.len() as u64;
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
impl Seek for Recorder {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::Current(by) => self.at.wrapping_add_signed(by),
            SeekFrom::End(by) => self.size.wrapping_add_signed(by),
        };
        Ok(self.at)
    }
}

fn mbrman_writes_4_gib_off() {
    // An extended partition at 5 GiB of a 12 GiB disk.
    let extended_lba = 5 * 1024 * 1024 * 2;
    let mut disk = Recorder { at: 0, size: 12 << 30, mbr: vec![0; 512], writes: Vec::new() };
    let mut mbr = mbrman::MBR::new_from(&mut disk, 512, [1, 2, 3, 4]).unwrap();
    mbr[1] = mbrman::MBRPartitionEntry {
        boot: mbrman::BOOT_INACTIVE,
        first_chs: mbrman::CHS::empty(),
        sys: 0x0f,
        last_chs: mbrman::CHS::empty(),
        starting_lba: extended_lba,
        sectors: 1 << 20,
    };
    mbr.push(0x83, extended_lba + 2048, 4096).unwrap();
    let result = mbr.write_into(&mut disk);
    let right = u64::from(extended_lba) * 512;
    println!("write_into says {result:?}");
    println!("the EBR belongs at byte {right}; bytes written at: {:?}", disk.writes);
    if !disk.writes.contains(&right) && disk.writes.contains(&(right - (1 << 32))) {
        println!("=> written exactly 4 GiB off, and called a success");
    }
}

fn gpt_renumbers() {
    let mut bytes = Cursor::new(vec![0_u8; 64 << 20]);
    let mut disk = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(gpt::disk::LogicalBlockSize::Lb512)
        .create_from_device(&mut bytes, None)
        .unwrap();
    for name in ["one", "two", "three"] {
        disk.add_partition(name, 1 << 20, gpt::partition_types::LINUX_FS, 0, None).unwrap();
    }
    disk.remove_partition(2);
    disk.write_inplace().unwrap();
    let before: Vec<_> = disk.partitions().iter().map(|(n, p)| (*n, p.name.clone())).collect();
    drop(disk);
    let disk = gpt::GptConfig::new().writable(false).open_from_device(&mut bytes).unwrap();
    let after: Vec<_> = disk.partitions().iter().map(|(n, p)| (*n, p.name.clone())).collect();
    println!("slots given: {before:?}\nslots on disk: {after:?}");
    if before != after {
        println!("=> partition 3 became partition 2: fstab and boot loader of the owner are wrong");
    }
}

/// Run under `ulimit -f` with SIGXFSZ ignored: the file cannot grow over the limit, as on a full
/// stick.
fn qcow2_rs_calls_a_short_write_a_success() {
    use qcow2_rs::dev::Qcow2DevParams;
    use qcow2_rs::helpers::Qcow2IoBuf;
    const SIZE: u64 = 4 << 20;
    let path = Path::new("short.qcow2");
    let mut head = vec![0_u8; 512 << 10];
    qcow2_rs::meta::Qcow2Header::format_qcow2(&mut head, SIZE, 16, 4, 512).unwrap();
    std::fs::write(path, &head).unwrap();
    let params = Qcow2DevParams::new(9, None, None, false, false);
    let result = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let dev = qcow2_rs::utils::qcow2_setup_dev_sync(path, &params)?;
        dev.qcow2_prep_io().await?;
        let mut buf = Qcow2IoBuf::<u8>::new(64 << 10);
        for byte in &mut buf[..] {
            *byte = 0xA5;
        }
        for cluster in 0..SIZE >> 16 {
            dev.write_at(&buf, cluster << 16).await?;
        }
        dev.flush_meta().await
    });
    println!("write_at and flush_meta say {result:?}");
}
