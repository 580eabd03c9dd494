//! Stick images for the tests, made and judged by sgdisk; and a disk whose power is cut.

use super::table::{Geometry, Medium};
use crate::units::SectorSize;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

pub(super) const MIB: u64 = 1 << 20;
/// As large as the product's image.
const IMAGE_SIZE: u64 = 98 * MIB;
const SECTOR: usize = 512;

/// Runs a program that must succeed and returns what it said.
pub(super) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .unwrap_or_else(|e| panic!("the program {program} is needed for this test: {e}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// A file that holds what a stick does.
#[derive(Debug)]
pub(super) struct StickImage {
    dir: tempfile::TempDir,
    size: u64,
}

impl StickImage {
    /// The 98 MiB image with ESP and BIOS boot partition, copied to a stick of `size` bytes. All
    /// such are twins; sgdisk makes the first of them.
    pub(super) fn new(size: u64) -> Self {
        static TEMPLATE: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
        let (start, end) = TEMPLATE.get_or_init(|| {
            let image = Self::empty(IMAGE_SIZE);
            image.sgdisk(&[
                "--clear",
                "--set-alignment=1",
                "--new=1:2048:198655",
                "--typecode=1:ef00",
                "--change-name=1:haulier-esp",
                "--new=2:34:2047",
                "--typecode=2:ef02",
            ]);
            let end = image.bytes(IMAGE_SIZE - 33 * 512, 33 * SECTOR);
            (image.bytes(0, 34 * SECTOR), end)
        });
        let image = Self::empty(size);
        image.patch(0, start);
        image.patch(IMAGE_SIZE - 33 * 512, end);
        image
    }

    /// No twin of the others any more.
    pub(super) fn with_other_guids(self) -> Self {
        self.sgdisk(&["--randomize-guids"]);
        self
    }

    fn empty(size: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = Self { dir, size };
        File::create(image.path()).unwrap().set_len(size).unwrap();
        image
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("stick.img")
    }

    pub(super) fn open(&self) -> File {
        let mut options = OpenOptions::new();
        options.read(true).write(true).open(self.path()).unwrap()
    }

    pub(super) fn geometry(&self) -> Geometry {
        Geometry::new(SectorSize::B512, self.size).unwrap()
    }

    pub(super) fn sgdisk(&self, arguments: &[&str]) -> String {
        let path = self.path();
        let mut all = arguments.to_vec();
        all.push(path.to_str().unwrap());
        run("sgdisk", &all)
    }

    /// sgdisk finds nothing to complain of. It exits with 0 either way.
    pub(super) fn verify(&self) {
        let said = self.sgdisk(&["--verify"]);
        assert!(said.contains("No problems found"), "{said}");
        assert!(!said.to_lowercase().contains("warning"), "{said}");
    }

    pub(super) fn patch(&self, at: u64, bytes: &[u8]) {
        self.open().write_all_at(bytes, at).unwrap();
    }

    pub(super) fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.open().read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    pub(super) fn contents(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }
}

/// What becomes of sectors written since the last sync when the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    Nothing,
    All,
    /// The drive wrote its cache back in an order of its own.
    EveryOther,
    AllButTheLast,
}

/// A disk in memory that fails after a number of sectors, as a stick that is pulled.
#[derive(Debug)]
pub(super) struct PowerCut<'a> {
    base: &'a [u8],
    written: Vec<(u64, Vec<u8>)>,
    synced: usize,
    cut: usize,
    loss: Loss,
    position: u64,
}

impl<'a> PowerCut<'a> {
    pub(super) const LOSSES: [Loss; 4] = [
        Loss::Nothing,
        Loss::All,
        Loss::EveryOther,
        Loss::AllButTheLast,
    ];

    pub(super) fn never(base: &'a [u8]) -> Self {
        Self::after(base, usize::MAX, Loss::Nothing)
    }

    pub(super) fn after(base: &'a [u8], cut: usize, loss: Loss) -> Self {
        Self {
            base,
            written: Vec::new(),
            synced: 0,
            cut,
            loss,
            position: 0,
        }
    }

    pub(super) fn sectors_written(&self) -> usize {
        self.written.len()
    }

    /// The power is back: what of it survived?
    pub(super) fn restored(self) -> Self {
        let last = self.written.len().saturating_sub(1);
        let survives = |index: usize| {
            index < self.synced
                || match self.loss {
                    Loss::Nothing => true,
                    Loss::All => false,
                    Loss::EveryOther => index.is_multiple_of(2),
                    Loss::AllButTheLast => index == last,
                }
        };
        let mut disk = Self::never(self.base);
        disk.written = (self.written.iter().enumerate())
            .filter(|(index, _)| survives(*index))
            .map(|(_, sector)| sector.clone())
            .collect();
        disk
    }
}

impl Read for PowerCut<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let at = usize::try_from(self.position).unwrap();
        let len = buf.len().min(self.base.len() - at);
        buf[..len].copy_from_slice(&self.base[at..at + len]);
        for (start, sector) in &self.written {
            let start = usize::try_from(*start).unwrap();
            let (from, to) = (start.max(at), (start + SECTOR).min(at + len));
            if from < to {
                buf[from - at..to - at].copy_from_slice(&sector[from - start..to - start]);
            }
        }
        self.position += len as u64;
        Ok(len)
    }
}

impl Write for PowerCut<'_> {
    /// Whole sectors only, as the table is written.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        assert_eq!((self.position % 512, buf.len() % SECTOR), (0, 0));
        for sector in buf.chunks(SECTOR) {
            if self.written.len() == self.cut {
                return Err(io::Error::other("the power is cut"));
            }
            self.written.push((self.position, sector.to_vec()));
            self.position += 512;
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for PowerCut<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::End(by) => (self.base.len() as u64).checked_add_signed(by).unwrap(),
            SeekFrom::Current(by) => self.position.checked_add_signed(by).unwrap(),
        };
        Ok(self.position)
    }
}

impl Medium for PowerCut<'_> {
    fn sync(&mut self) -> io::Result<()> {
        self.synced = self.written.len();
        Ok(())
    }
}
