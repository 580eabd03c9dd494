//! Unified kernel images: programs of UEFI that carry a kernel, its initramfs and its command line in sections
//! of their own (the UAPI group's specification "UKI"; `ukify`, `dracut --uefi`).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::initramfs;
use super::reading::{assignments, plain};
use crate::files::Content;
use crate::refusal::Refusal;
use object::LittleEndian;
use object::pe::{IMAGE_DIRECTORY_ENTRY_SECURITY, ImageDosHeader, ImageNtHeaders64};
use object::read::pe::ImageNtHeaders;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes at the beginning that have all headers: the stub's are below 4 KiB.
const HEADERS: u64 = 64 << 10;
/// Bytes of a text section that are read: a kernel takes a command line of 2048 characters.
const LARGEST_TEXT: u64 = 64 << 10;

/// A part of a file, in bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    start: u64,
    len: u64,
}

/// What such an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unified {
    /// As `uname -r` says (`.uname`); images of old dracuts do not tell.
    pub(crate) release: Option<String>,
    /// What a menu shows: `PRETTY_NAME` of `.osrel`.
    pub(crate) title: Option<String>,
    /// The kernel's command line (`.cmdline`), on one line.
    pub(crate) options: String,
    /// Whether it has a signature, of whomever.
    pub(crate) is_signed: bool,
    /// Where its initramfs lies (`.initrd`).
    initramfs: Option<Part>,
}

impl Unified {
    /// Reads an image's headers and texts.
    ///
    /// # Errors
    /// Why it is none, for people.
    pub(crate) fn read(image: &dyn Content) -> Result<Self, String> {
        let head = bytes(
            image,
            Part {
                start: 0,
                len: image.size().min(HEADERS),
            },
        )?;
        let broken = |why: object::Error| format!("it is no program of UEFI: {why}");
        let head = head.as_slice();
        let mut offset = u64::from(
            ImageDosHeader::parse(head)
                .map_err(broken)?
                .nt_headers_offset(),
        );
        let (headers, directories) = ImageNtHeaders64::parse(head, &mut offset).map_err(broken)?;
        let sections = headers.sections(head, offset).map_err(broken)?;
        let certificates = directories.get(IMAGE_DIRECTORY_ENTRY_SECURITY);
        let mut found = Self {
            release: None,
            title: None,
            options: String::new(),
            is_signed: certificates.is_some_and(|found| found.size.get(LittleEndian) > 0),
            initramfs: None,
        };
        let mut has_kernel = false;
        for section in sections.iter() {
            // What is behind it holds for other profiles, none of which is the first.
            if section.raw_name() == b".profile" && has_kernel {
                break;
            }
            let (start, len) = section.pe_file_range();
            let part = Part {
                start: start.into(),
                len: len.into(),
            };
            match section.raw_name() {
                b".linux" => has_kernel = true,
                b".initrd" => found.initramfs = Some(part),
                b".uname" => found.release = plain(&text(image, part)?),
                b".cmdline" => {
                    let all = text(image, part)?;
                    let words: Vec<&str> = all.split_whitespace().collect();
                    found.options = words.join(" ");
                }
                b".osrel" => {
                    let all = text(image, part)?;
                    let mut values = assignments(&all);
                    let name = values.find(|(key, _)| *key == "PRETTY_NAME");
                    found.title = name.and_then(|(_, value)| plain(&value));
                }
                _ => {}
            }
        }
        if has_kernel {
            Ok(found)
        } else {
            Err("it has no kernel in it".into())
        }
    }

    /// The drivers in its initramfs; none where it has no initramfs.
    ///
    /// # Errors
    /// Why they are not known, for people.
    pub(crate) fn drivers(&self, image: &dyn Content) -> Result<Vec<String>, String> {
        match self.initramfs {
            Some(part) => initramfs::drivers(&Inside { image, part }),
            None => Ok(Vec::new()),
        }
    }
}

/// The bytes of a part.
fn bytes(image: &dyn Content, part: Part) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; usize::try_from(part.len).unwrap_or(0)];
    Inside { image, part }
        .read(0, &mut bytes)
        .map_err(|why| why.to_string())?;
    Ok(bytes)
}

/// A section with text, up to the zeros that it is filled up with.
fn text(image: &dyn Content, part: Part) -> Result<String, String> {
    let len = part.len.min(LARGEST_TEXT);
    let bytes = bytes(image, Part { len, ..part })?;
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// A part of a file as a file.
struct Inside<'a> {
    image: &'a dyn Content,
    part: Part,
}

impl Content for Inside<'_> {
    fn size(&self) -> u64 {
        self.part.len
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), Refusal> {
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let end = at.checked_add(len).filter(|&end| end <= self.part.len);
        let start = self.part.start.checked_add(at);
        let behind = end.and_then(|end| self.part.start.checked_add(end));
        match (start, behind) {
            (Some(start), Some(behind)) if behind <= self.image.size() => {
                self.image.read(start, buf)
            }
            _ => Err(Refusal::Damaged(
                "a section of the image ends behind the image".into(),
            )),
        }
    }
}

/// What a kernel of the system starts with, in a file of this machine: that of an initramfs, or of a unified
/// kernel image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Started {
    /// Drivers in the initramfs.
    pub(crate) drivers: Vec<String>,
    /// What the image says, where it is one.
    pub(crate) unified: Option<Unified>,
}

impl Started {
    /// Looks into a file; `is_unified` as it is called.
    ///
    /// # Errors
    /// Why it cannot be read, for people.
    pub(crate) fn read(path: &Path, is_unified: bool) -> Result<Self, String> {
        let file = Local::open(path).map_err(|why| format!("reading {}: {why}", path.display()))?;
        if !is_unified {
            return Ok(Self {
                drivers: initramfs::drivers(&file)?,
                unified: None,
            });
        }
        let unified = Unified::read(&file)?;
        Ok(Self {
            drivers: unified.drivers(&file)?,
            unified: Some(unified),
        })
    }
}

/// A file of this machine.
struct Local {
    file: File,
    size: u64,
}

impl Local {
    fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }
}

impl Content for Local {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), Refusal> {
        self.file
            .read_exact_at(buf, at)
            .map_err(|why| Refusal::Damaged(why.to_string()))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

    use super::super::cpio::tests::newc;
    use super::*;
    use proptest::prelude::*;

    /// A PE32+ file with these sections (Microsoft's "PE Format"), with or without a certificate.
    pub(crate) fn made(sections: &[(&str, &[u8])], is_signed: bool) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[..2].copy_from_slice(b"MZ");
        head[0x3c] = 64;
        head.extend(b"PE\0\0\x64\x86");
        head.extend(u16::try_from(sections.len()).unwrap().to_le_bytes());
        head.extend([0; 12]);
        head.extend([240, 0, 0x22, 0]);
        let mut optional = vec![0; 240];
        optional[..2].copy_from_slice(&[0x0b, 2]);
        optional[108] = 16;
        for at in [112 + 4 * 8, 112 + 4 * 8 + 4] {
            optional[at] = u8::from(is_signed);
        }
        head.extend(optional);
        let mut at = 4096;
        let mut body = Vec::new();
        for (name, content) in sections {
            let mut named = name.as_bytes().to_vec();
            named.resize(8, 0);
            head.extend(named);
            let len = u32::try_from(content.len()).unwrap();
            for field in [len, at, len.next_multiple_of(512), at, 0, 0, 0, 0x4000_0040] {
                head.extend(field.to_le_bytes());
            }
            body.extend_from_slice(content);
            body.resize(body.len().next_multiple_of(512), 0);
            at = 4096 + u32::try_from(body.len()).unwrap();
        }
        head.resize(4096, 0);
        head.extend(body);
        head
    }

    /// One with an initramfs that has these modules.
    pub(crate) fn image(options: &str, modules: &[&str], is_signed: bool) -> Vec<u8> {
        let paths: Vec<String> = modules
            .iter()
            .map(|name| format!("lib/modules/6.12.57/kernel/drivers/block/{name}.ko"))
            .collect();
        let files: Vec<(&str, &[u8])> = paths.iter().map(|path| (&**path, &b"x"[..])).collect();
        let initramfs = newc(&files);
        made(
            &[
                (".cmdline", options.as_bytes()),
                (".uname", b"6.12.57\0"),
                (".initrd", &initramfs),
                (".linux", b"MZ"),
            ],
            is_signed,
        )
    }

    struct Bytes(Vec<u8>);

    impl Content for Bytes {
        fn size(&self) -> u64 {
            self.0.len().try_into().unwrap()
        }

        fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), Refusal> {
            let at = usize::try_from(at).unwrap();
            buf.copy_from_slice(&self.0[at..][..buf.len()]);
            Ok(())
        }
    }

    #[test]
    fn sections_are_read_and_those_of_other_profiles_are_not() {
        let bytes = made(
            &[
                (".osrel", b"ID=x\nPRETTY_NAME=\"Arch Linux\"\n"),
                (".cmdline", b"root=UUID=6f0a\n rw\n\0\0"),
                (".linux", b"MZ"),
                (".profile", b"ID=rescue\n"),
                (".cmdline", b"single"),
            ],
            true,
        );
        let unified = Unified::read(&Bytes(bytes)).unwrap();
        assert_eq!(unified.title.as_deref(), Some("Arch Linux"));
        assert_eq!(unified.options, "root=UUID=6f0a rw");
        assert_eq!(unified.release, None);
        assert!(unified.is_signed);
        let bytes = Bytes(image("ro", &["virtio_blk"], false));
        let unified = Unified::read(&bytes).unwrap();
        assert_eq!(unified.release.as_deref(), Some("6.12.57"));
        assert!(!unified.is_signed);
        assert_eq!(unified.drivers(&bytes).unwrap(), ["virtio_blk"]);
    }

    #[test]
    fn what_is_none_is_refused_with_a_reason() {
        let loader = made(&[(".text", b"x")], false);
        let mut cut = image("ro", &["virtio_blk"], false);
        cut.truncate(4096 + 100);
        for (bytes, why) in [
            (b"MZ".to_vec(), "program of UEFI"),
            (Vec::new(), "program of UEFI"),
            (loader, "no kernel"),
            (cut, "behind the image"),
        ] {
            let error = Unified::read(&Bytes(bytes)).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_damage_makes_it_crash(at in 0_usize..1024, with in proptest::collection::vec(any::<u8>(), 1..40)) {
            let mut bytes = image("root=/dev/sda2", &["virtio_blk"], false);
            bytes[at..][..with.len()].copy_from_slice(&with);
            let bytes = Bytes(bytes);
            if let Ok(unified) = Unified::read(&bytes) {
                let _ = unified.drivers(&bytes);
            }
        }
    }
}
