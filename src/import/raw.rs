//! A folder with the disks byte for byte, for anything that none of the other targets is. Only what is
//! not zero takes space.

use super::changes::Keep;
use super::grown::{Growth, MIB, Whole};
use super::{Capture, Options, OutDir, VARS, changes};
use crate::device::ReadAt;
use crate::error::{Error, Result};
use crate::ptable::Larger;
use crate::qcow2::is_zero;
use crate::report::{Progress, Report};
use crate::say;
use crate::store::Merged;
use crate::units::ByteLen;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What is looked at for being zero: the block of most filesystems.
const BLOCK: usize = 4096;

pub(super) fn import(capture: &Capture<'_>, options: &Options, report: &dyn Report) -> Result<()> {
    let mut plan = capture.plan.clone();
    let growth = Growth::plan(capture, &mut plan, options.pad.then_some(MIB), report)?;
    let vars = plan.varstore()?;
    let bytes = capture
        .manifest
        .disks
        .iter()
        .fold(super::SMALL_FILES, |sum, record| {
            sum.saturating_add(record.extents.total().0)
        });
    let dir = OutDir::begin(&options.folder(&plan), bytes)?;
    capture.say_notes(report);
    for (index, record) in capture.manifest.disks.iter().enumerate() {
        let disk = Whole::of(capture, index)?;
        let name = Path::new(&record.file).with_extension("raw");
        report.begin(
            &format!("writing {}", name.display()),
            record.extents.total(),
        );
        let result = write(&disk, growth.of(index), &dir.partial.join(&name), report);
        report.end();
        result?;
        say!(report, "{} is written and is what was read", name.display());
    }
    changes::apply(capture, &mut plan, &dir, Keep::Into("raw"), options, report)?;
    if let Some(vars) = vars {
        dir.write(VARS, &vars, 0o644)?;
    }
    let whole = dir.commit()?;
    say!(report, "The disks are in {}", whole.display());
    Ok(())
}

/// Writes a disk into a sparse file; each chunk is compared with its digest on the way.
pub(super) fn write(
    disk: &Merged,
    larger: Option<&Larger>,
    path: &Path,
    report: &dyn Report,
) -> Result<()> {
    let writing = |e: std::io::Error| Error::io(format!("writing {}", path.display()), e);
    let file = File::create_new(path).map_err(writing)?;
    let size = larger.map_or(disk.size(), |larger| larger.size);
    file.set_len(size.0).map_err(writing)?;
    let total = u64::try_from(disk.chunks().len()).unwrap_or(0);
    let total = ByteLen(total.saturating_mul(disk.chunk_bytes()));
    let (mut done, mut written) = (0_u64, 0_u64);
    let mut bytes = Vec::new();
    for (index, _) in disk.chunks().iter() {
        let range = disk.range(index).ok_or_else(|| {
            Error::corrupt(format!("chunk {index} lies behind the end of the disk"))
        })?;
        bytes.resize(usize::try_from(range.len().0).unwrap_or(0), 0);
        disk.read_chunk(index, &mut bytes)?;
        let mut at = range.start().0;
        for block in bytes.chunks(BLOCK) {
            let length = u64::try_from(block.len()).unwrap_or(0);
            if !is_zero(block) {
                file.write_all_at(block, at).map_err(writing)?;
                written = written.saturating_add(length);
            }
            at = at.saturating_add(length);
        }
        done = done.saturating_add(disk.chunk_bytes());
        report.progress(Progress {
            done: ByteLen(done),
            total,
            written: ByteLen(written),
        });
    }
    for (at, sector) in larger.iter().flat_map(|larger| &larger.sectors) {
        file.write_all_at(sector, at.0).map_err(writing)?;
    }
    file.sync_all().map_err(writing)
}
