//! What others call used.

use super::{arg, run, try_run};
use std::fs;
use std::path::Path;

/// What dumpe2fs calls used, in bytes.
pub fn used_by_dumpe2fs(image: &Path) -> u64 {
    let header = run("dumpe2fs", &["-h", arg(image)]);
    let field = |name: &str| -> u64 {
        header
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("dumpe2fs shows no {name}"))
            .trim()
            .parse()
            .unwrap()
    };
    (field("Block count:") - field("Free blocks:")) * field("Block size:")
}

/// What partclone would copy, from its ddrescue map; `None` if it refuses or dies. `program` is the
/// one for the filesystem: `partclone.extfs`.
pub fn used_by_partclone(
    program: &str,
    image: &Path,
    scratch: &Path,
) -> Option<haulier::extent::ExtentList> {
    let domain = scratch.join("domain");
    let _ = fs::remove_file(&domain);
    let output = try_run(
        program,
        &[
            "-D",
            "-s",
            arg(image),
            "-o",
            arg(&domain),
            "-L",
            "/dev/null",
        ],
    );
    if !output.status.success() {
        return None;
    }
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let text = fs::read_to_string(domain).ok()?;
    text.lines()
        .filter(|line| line.starts_with("0x"))
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.len() == 3 && fields[2] == "+")
        .map(|fields| {
            haulier::extent::Extent::new(
                haulier::units::ByteOffset(number(fields[0])),
                haulier::units::ByteLen(number(fields[1])),
            )
        })
        .collect::<Option<_>>()
}

/// The blocks that dumpe2fs lists as free.
pub fn free_by_dumpe2fs(image: &Path) -> haulier::extent::ExtentList {
    let text = run("dumpe2fs", &[arg(image)]);
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().parse().unwrap())
    };
    let block_size = field("Block size:").unwrap();
    let cluster_size = field("Cluster size:").unwrap_or(block_size);
    text.lines()
        .filter_map(|line| line.strip_prefix("  Free blocks: "))
        .flat_map(|ranges| ranges.split(", "))
        .filter(|range| !range.trim().is_empty())
        .filter_map(|range| {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            let at = |text: &str| text.trim().parse::<u64>().unwrap() * block_size;
            // With clusters a range ends with the first block of the last one.
            haulier::extent::Extent::between(at(from), at(to) + cluster_size)
        })
        .collect()
}
