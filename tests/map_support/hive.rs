//! Registry hives that `hivexregedit` fills.

use super::{arg, run};
use std::fs;
use std::path::Path;

/// A hive with nothing but a root key, for `hivexregedit` to start from: a base block, one bin, in it
/// the root (`nk`), its security (`sk`) and what is free.
fn empty_hive() -> Vec<u8> {
    fn put(bytes: &mut [u8], at: usize, with: &[u8]) {
        bytes[at..at + with.len()].copy_from_slice(with);
    }
    let number = |n: u32| n.to_le_bytes();
    let mut hive = vec![0; 0x2000];
    put(&mut hive, 0, b"regf");
    for (at, value) in [
        (4, 1),
        (8, 1),
        (0x14, 1),
        (0x18, 3),
        (0x20, 1),
        (0x24, 0x20),
        (0x28, 0x1000),
        (0x2C, 1),
    ] {
        put(&mut hive, at, &number(value));
    }
    put(&mut hive, 0x1000, b"hbin");
    put(&mut hive, 0x1008, &number(0x1000));
    let (root, security, free) = (0x1020, 0x1080, 0x10C0);
    put(&mut hive, root, &(-0x60_i32).to_le_bytes());
    put(&mut hive, root + 4, b"nk");
    // Root of a hive, its name in one byte a letter.
    put(&mut hive, root + 6, &0x2C_u16.to_le_bytes());
    for at in [0x10, 0x1C, 0x20, 0x28, 0x30] {
        put(&mut hive, root + 4 + at, &number(u32::MAX));
    }
    put(&mut hive, root + 4 + 0x2C, &number(0x80));
    put(&mut hive, root + 4 + 0x48, &4_u16.to_le_bytes());
    put(&mut hive, root + 4 + 0x4C, b"ROOT");
    put(&mut hive, security, &(-0x40_i32).to_le_bytes());
    put(&mut hive, security + 4, b"sk");
    put(&mut hive, security + 8, &number(0x80));
    put(&mut hive, security + 12, &number(0x80));
    put(&mut hive, security + 16, &number(1));
    put(&mut hive, security + 20, &number(20));
    put(&mut hive, security + 24, &[1, 0, 4, 0x80]);
    put(&mut hive, free, &number(0x2000 - 0x10C0));
    let sum = hive[..508].chunks_exact(4).fold(0, |sum, word| {
        sum ^ u32::from_le_bytes(word.try_into().unwrap())
    });
    put(&mut hive, 508, &number(sum));
    hive
}

/// A hive with what a `.reg` file says.
pub fn hive(path: &Path, prefix: &str, text: &str) {
    fs::write(path, empty_hive()).unwrap();
    let file = path.with_extension("reg");
    fs::write(
        &file,
        format!("Windows Registry Editor Version 5.00\n\n{text}"),
    )
    .unwrap();
    run(
        "hivexregedit",
        &["--merge", "--prefix", prefix, arg(path), arg(&file)],
    );
}
