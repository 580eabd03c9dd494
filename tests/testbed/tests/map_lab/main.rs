//! Filesystems that the kernel's own drivers filled: mapped, everything outside the map overwritten,
//! and read again by the same drivers, each file the same, the checker content.
//!
//! The drivers run in a laboratory machine, since this machine's kernel may lack them; two boots
//! serve all filesystems.

mod cases;
#[path = "../../../map_support/mod.rs"]
mod map_support;
mod sets;

use cases::{CASES, Case};
use haulier::usedmap::Policy;
use haulier_testbed::lab::Lab;
use haulier_testbed::product::scratch;
use map_support::{Noise, arg, map_of, punch, run, soiled_file, try_run};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Both boots share two processors with whatever else runs.
const LONG: Duration = Duration::from_secs(900);

/// A laboratory with the images as its disks and the functions of `guest.sh`.
fn lab(images: &[PathBuf], script: &str) -> Lab {
    let lab = Lab::new().file("lab/noise", Noise(2026).bytes(4 << 20));
    let lab = images.iter().fold(lab, |lab, image| lab.disk(image));
    lab.script(&format!("{}\n{script}", include_str!("guest.sh")))
}

/// What the laboratory told, by name: the digests of all files.
fn told(output: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut lines = output.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("== ") {
            let sums: Vec<&str> = lines.by_ref().take_while(|line| *line != "==").collect();
            assert!(sums.len() > 25, "{name} has only {} files", sums.len());
            all.insert(name.to_owned(), sums.join("\n"));
        }
    }
    all
}

fn each_disk(cases: &[Case], body: impl Fn(&Case, char) -> String) -> String {
    let disks = cases.iter().zip('a'..='z');
    disks.map(|(case, letter)| body(case, letter)).collect()
}

#[test]
fn a_filesystem_that_its_driver_filled_keeps_every_file() {
    let scratch = scratch().unwrap();
    let images: Vec<PathBuf> = CASES
        .iter()
        .map(|case| scratch.path().join(format!("{}.img", case.name)))
        .collect();
    for (case, image) in CASES.iter().zip(&images) {
        soiled_file(image, case.mib << 20, 0x5A);
        run(case.mkfs[0], &[&case.mkfs[1..], &[arg(image)]].concat());
    }
    let fill = each_disk(CASES, |case, letter| {
        format!(
            "mkdir /mnt/{letter}; mount -t {} {} /dev/vd{letter} /mnt/{letter}
             use /mnt/{letter}; told {} /mnt/{letter}; umount /mnt/{letter}\n",
            case.driver, case.options, case.name
        )
    });
    let before = told(&lab(&images, &fill).run(LONG).unwrap());
    assert_eq!(before.len(), CASES.len());

    let mut wrong = Vec::new();
    for (case, image) in CASES.iter().zip(&images) {
        if let Err(why) = map_and_punch(image) {
            wrong.push(format!("{}: {why}", case.name));
        }
        let checked = try_run(case.check[0], &[&case.check[1..], &[arg(image)]].concat());
        if !checked.status.success() {
            wrong.push(format!(
                "{}: {} says: {}{}",
                case.name,
                case.check[0],
                String::from_utf8_lossy(&checked.stdout),
                String::from_utf8_lossy(&checked.stderr)
            ));
        }
    }
    let read = each_disk(CASES, |case, letter| {
        format!(
            "mkdir /mnt/{letter}; mount -t {} -o ro /dev/vd{letter} /mnt/{letter}
             told {} /mnt/{letter}; umount /mnt/{letter}\n",
            case.driver, case.name
        )
    });
    let after = told(&lab(&images, &read).run(LONG).unwrap());
    for (name, sums) in &before {
        if after.get(name) != Some(sums) {
            wrong.push(format!("{name}: its files changed"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Maps, and overwrites everything outside; says what was taken.
fn map_and_punch(image: &Path) -> Result<(), String> {
    let map = map_of(image);
    let region = map.regions.iter().max_by_key(|region| region.length_bytes);
    let region = region.ok_or("no region")?;
    if region.policy != Policy::UsedBlocks {
        return Err(format!("is not mapped: {}", region.reason));
    }
    println!(
        "| {} | {} | {} | {} |",
        image.file_stem().unwrap_or_default().display(),
        map.disk.size_bytes,
        map.used_bytes,
        region.reason
    );
    punch(image, &map.extents);
    Ok(())
}
