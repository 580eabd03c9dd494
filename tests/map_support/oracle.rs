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
