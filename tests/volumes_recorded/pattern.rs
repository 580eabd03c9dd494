//! `pattern DEVICE TAG [START LENGTH]`: fills a device with 64-bit words, each of them its number on
//! the device plus one, and the tag in the upper 16 bits. Compiled by hand: `rustc -O pattern.rs`.

use std::io::{Seek, SeekFrom, Write};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |index: usize| args.get(index).map(|text| text.parse::<u64>().unwrap());
    let tag = number(2).unwrap();
    let mut device = std::fs::OpenOptions::new().write(true).open(&args[1]).unwrap();
    let mut at = number(3).unwrap_or(0);
    let end = at + number(4).unwrap_or(u64::MAX / 2);
    device.seek(SeekFrom::Start(at)).unwrap();
    while at < end {
        let stop = end.min(at + (1 << 20));
        let bytes: Vec<u8> = (at / 8..stop / 8)
            .flat_map(|word| (word + 1 | tag << 48).to_le_bytes())
            .collect();
        match device.write(&bytes) {
            Ok(0) | Err(_) => break,
            Ok(len) => {
                at += len as u64;
                device.seek(SeekFrom::Start(at)).unwrap();
            }
        }
    }
    device.sync_all().unwrap();
}
