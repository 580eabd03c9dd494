//! What holds captures: a directory, or a stick (its block device or an image of it) whose data
//! partition nobody has mounted.

use super::ext4::Ext4Files;
use super::files::{CaptureFiles, DirFiles, FileReader};
use crate::device::{ReadAt, Window};
use crate::error::{Error, Kind, Result};
use crate::ptable::PartitionTable;
use crate::units::SectorSize;
use std::path::Path;
use std::sync::Arc;

/// The GPT name of the data partition.
pub const DATA_PARTITION: &str = "haulier-data";

/// The label of its filesystem.
pub const DATA_LABEL: &str = "HAULIER";

/// Opens a directory, or a stick or an image of one; `STICK:/machine/capture` is a directory on a
/// stick.
///
/// # Errors
/// When it is none of them.
pub fn open(path: &Path) -> Result<Box<dyn CaptureFiles>> {
    let opening = |e| Error::io(format!("opening {}", path.display()), e);
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => {
            return match split(path) {
                Some((stick, within)) if stick.exists() => {
                    let mut files = open(stick)?;
                    for part in within.split('/').filter(|part| !part.is_empty()) {
                        files = files.dir(part)?;
                    }
                    Ok(files)
                }
                _ => Err(opening(error)),
            };
        }
    };
    if metadata.is_dir() {
        // So that its name says where it is, however it was given.
        let path = std::fs::canonicalize(path).map_err(opening)?;
        return Ok(Box::new(DirFiles::new(path)));
    }
    let file = FileReader::open(path)?;
    let partition = data_partition(file)?;
    Ok(Box::new(Ext4Files::open(
        partition,
        path.display().to_string(),
    )?))
}

/// `STICK:/machine/capture` as `STICK` and `/machine/capture`.
fn split(path: &Path) -> Option<(&Path, &str)> {
    let (stick, within) = path.to_str()?.rsplit_once(":/")?;
    Some((Path::new(stick), within))
}

/// The data partition of a stick, or the whole of what is already its filesystem.
fn data_partition(stick: FileReader) -> Result<Arc<dyn ReadAt>> {
    let name = stick.name();
    let mut notes = Vec::new();
    for sector in stick.sector_sizes() {
        let table = PartitionTable::read(&stick, sector)?;
        let mut data = table
            .partitions
            .iter()
            .filter(|partition| partition.name.as_deref() == Some(DATA_PARTITION));
        match (data.next(), data.next()) {
            (Some(partition), None) => {
                return Ok(Arc::new(Window::new(
                    stick,
                    partition.start,
                    partition.len,
                )?));
            }
            (Some(_), Some(_)) => {
                return Err(Error::refused(format!(
                    "{name} has two partitions named {DATA_PARTITION}"
                ))
                .advise("Only one can be the data partition of a stick: rename the other"));
            }
            (None, _) => notes.extend(table.notes),
        }
        if !table.partitions.is_empty() {
            let damage = if notes.is_empty() {
                String::new()
            } else {
                format!(" ({})", notes.join("; "))
            };
            return Err(Error::new(
                Kind::Refused,
                format!("{name} has no partition named {DATA_PARTITION}{damage}"),
            )
            .advise(
                "It is no Haulier stick, or one that was never used: the partition is made when \
                 the first server boots from it",
            ));
        }
    }
    Ok(Arc::new(stick))
}

impl FileReader {
    /// The sector sizes that its partition table may count in.
    fn sector_sizes(&self) -> Vec<SectorSize> {
        match rustix::fs::ioctl_blksszget(self.file()) {
            Ok(bytes) => SectorSize::new(bytes).into_iter().collect(),
            // An image does not know what it is an image of.
            Err(_) => vec![SectorSize::B512, SectorSize::B4096],
        }
    }
}
