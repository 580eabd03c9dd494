//! The log of a disk's writes that QEMU's filter `blklogwrites` keeps, and what the disk can hold
//! when the power goes at a given point of it.
//!
//! The format is that of the kernel's dm-log-writes
//! (Documentation/admin-guide/device-mapper/log-writes.rst; `drivers/md/dm-log-writes.c`), in
//! sectors of 512 bytes here, little-endian:
//!
//! | offset | superblock (first sector) | entry (a sector; a write's data follows it) |
//! | ---: | --- | --- |
//! | 0x00 | u64 magic `0x6A736677736872` | u64 first sector |
//! | 0x08 | u64 version, 1 | u64 sectors |
//! | 0x10 | u64 entries | u64 flags: 1 flush, 2 FUA, 4 discard, 8 mark |
//! | 0x18 | u32 sector size | u64 length of a mark's text |
//!
//! QEMU logs a request when it has completed and before the machine hears of it
//! (`block/blklogwrites.c`), so everything before a flush in the log was complete when that flush
//! came back: the disk must keep it. What follows the last flush it may keep, lose, or keep in part.

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: u64 = 0x006A_7366_7773_6872;
const SECTOR: u64 = 512;

const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// What one request did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// Bytes of the disk.
    start: u64,
    /// Bytes.
    len: u64,
    flags: u64,
    /// Where its data is in the log, in bytes.
    data_at: u64,
}

/// What becomes of the requests behind the last flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// All of them have reached the disk: what killing QEMU leaves.
    KeepsAll,
    /// The disk's cache is lost.
    LosesAll,
    /// Each one by chance.
    LosesSome,
    /// Each one by chance, and some of those that are kept only in part, sector by sector.
    Tears,
}

impl Cut {
    /// The order in which a campaign takes them.
    pub(crate) const ALL: [Self; 4] =
        [Self::KeepsAll, Self::LosesSome, Self::Tears, Self::LosesAll];
}

/// A log.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    entries: Vec<Entry>,
}

impl Log {
    /// Reads the entries, up to the last flush that the superblock knows of.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let doing = || format!("reading the write log {}", path.display());
        let file = File::open(path).with_context(doing)?;
        let length = file.metadata()?.len();
        let sector = |at: u64| -> Result<[u64; 4]> {
            let mut bytes = [0; 32];
            file.read_exact_at(&mut bytes, at).with_context(doing)?;
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
                *word = u64::from_le_bytes(bytes.try_into()?);
            }
            Ok(words)
        };
        let [magic, version, count, size] = sector(0)?;
        ensure!(
            (magic, version, size & 0xFFFF_FFFF) == (MAGIC, 1, SECTOR),
            "{} is no write log in sectors of {SECTOR} bytes",
            path.display()
        );
        let mut entries = Vec::new();
        let mut at = SECTOR;
        while (entries.len() as u64) < count && at + SECTOR <= length {
            let [first, sectors, flags, mark] = sector(at)?;
            // A request that was being logged when QEMU was killed: the log ends before it.
            if (first, sectors, flags, mark) == (0, 0, 0, 0) {
                break;
            }
            let entry = Entry {
                start: first * SECTOR,
                len: sectors * SECTOR,
                flags,
                data_at: at + SECTOR,
            };
            at += SECTOR;
            if flags & (FLUSH | DISCARD) == 0 {
                at += entry.len;
            }
            if at > length {
                break;
            }
            entries.push(entry);
        }
        ensure!(
            entries.iter().any(|entry| entry.flags & FLUSH != 0),
            "{} holds no flush: the machine did not use the disk's cache",
            path.display()
        );
        Ok(Self { file, entries })
    }

    /// How many requests.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Flushes among them.
    pub(crate) fn flushes(&self) -> usize {
        let is_flush = |entry: &&Entry| entry.flags & FLUSH != 0;
        self.entries.iter().filter(is_flush).count()
    }

    /// The number of the request that follows the last flush among the first `cut`.
    pub(crate) fn durable(&self, cut: usize) -> usize {
        let last = self.entries[..cut]
            .iter()
            .rposition(|entry| entry.flags & FLUSH != 0);
        last.map_or(0, |at| at + 1)
    }

    /// Does to `disk` what the requests `from..to` did.
    pub(crate) fn apply(&self, disk: &File, from: usize, to: usize) -> Result<()> {
        self.entries[from..to]
            .iter()
            .try_for_each(|entry| self.apply_one(disk, entry, |_| true))
    }

    /// Does to `disk`, which holds everything before `from`, what the power cut leaves of
    /// `from..to`.
    pub(crate) fn cut(
        &self,
        disk: &File,
        from: usize,
        to: usize,
        cut: Cut,
        rng: &mut Rng,
    ) -> Result<()> {
        for entry in &self.entries[from..to] {
            let kept = match cut {
                Cut::KeepsAll => true,
                Cut::LosesAll => false,
                Cut::LosesSome | Cut::Tears => rng.bool(),
            };
            let torn = cut == Cut::Tears && rng.bool();
            if kept || entry.flags & FUA != 0 {
                let whole = !torn || entry.flags & FUA != 0;
                self.apply_one(disk, entry, |_| whole || rng.bool())?;
            }
        }
        Ok(())
    }

    /// Applies one request, those of its sectors that `kept` says.
    fn apply_one(
        &self,
        disk: &File,
        entry: &Entry,
        mut kept: impl FnMut(u64) -> bool,
    ) -> Result<()> {
        if entry.flags & FLUSH != 0 {
            return Ok(());
        }
        // A discarded block reads as zeros from these disks.
        let mut data = vec![0; usize::try_from(entry.len)?];
        if entry.flags & DISCARD == 0 {
            self.file
                .read_exact_at(&mut data, entry.data_at)
                .context("reading a write log")?;
        }
        let size = usize::try_from(SECTOR)?;
        let mut start = None;
        let sectors = data.len() / size;
        for number in 0..=sectors {
            let keep = number < sectors && kept(number as u64);
            match (start, keep) {
                (None, true) => start = Some(number),
                (Some(from), false) => {
                    disk.write_all_at(
                        &data[from * size..number * size],
                        entry.start + from as u64 * SECTOR,
                    )?;
                    start = None;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of: A (sector 1), flush, B (sectors 2 and 3), discard of sector 1.
    fn log(folder: &Path) -> Log {
        let path = folder.join("log");
        let mut bytes = Vec::new();
        let mut sector = |words: [u64; 4], data: &[u8]| {
            let start = bytes.len();
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            bytes.resize(start + 512, 0);
            bytes.extend_from_slice(data);
        };
        sector([MAGIC, 1, 4, 512], &[]);
        sector([1, 1, 0, 0], &[b'A'; 512]);
        sector([0, 0, FLUSH, 0], &[]);
        sector([2, 2, 0, 0], &[b'B'; 1024]);
        sector([1, 1, DISCARD, 0], &[]);
        std::fs::write(&path, bytes).unwrap();
        Log::open(&path).unwrap()
    }

    fn letters(disk: &File) -> String {
        (0..4)
            .map(|sector| {
                let mut byte = [0];
                disk.read_exact_at(&mut byte, sector * 512).unwrap();
                char::from(if byte[0] == 0 { b'-' } else { byte[0] })
            })
            .collect()
    }

    #[test]
    fn what_was_flushed_stays_and_the_rest_is_kept_or_lost() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path());
        assert_eq!((log.len(), log.flushes()), (4, 1));
        assert_eq!((log.durable(1), log.durable(2), log.durable(4)), (0, 2, 2));
        let mut rng = Rng::with_seed(1);
        let mut seen = std::collections::BTreeSet::new();
        for turn in 0..64 {
            for cut in Cut::ALL {
                let disk = tempfile::tempfile().unwrap();
                disk.set_len(2048).unwrap();
                log.apply(&disk, 0, 2).unwrap();
                log.cut(&disk, 2, 4, cut, &mut rng).unwrap();
                let found = letters(&disk);
                match cut {
                    Cut::KeepsAll => assert_eq!(found, "--BB", "{turn}"),
                    Cut::LosesAll => assert_eq!(found, "-A--", "{turn}"),
                    Cut::LosesSome => assert!(found.ends_with("BB") || found.ends_with("--")),
                    Cut::Tears => {
                        seen.insert(found);
                    }
                }
            }
        }
        assert!(
            seen.contains("-AB-") && seen.contains("-A-B") && seen.contains("--BB"),
            "{seen:?}"
        );
    }

    #[test]
    fn a_request_that_was_being_logged_ends_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        drop(log(folder.path()));
        let file = File::options().write(true).open(&path).unwrap();
        // The header of B.
        file.write_all_at(&[0; 512], 512 * 4).unwrap();
        assert_eq!(Log::open(&path).unwrap().len(), 2);
    }
}
