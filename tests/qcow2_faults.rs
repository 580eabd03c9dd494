//! Whatever happens while an image is written, what is left is not taken for one.

mod qcow2_common;

use haulier::device::MemDisk;
use haulier::error::Kind;
use haulier::qcow2::{
    Compression, Encoded, Encoder, Finished, GuestCluster, Reader, Storage, Writer,
};
use haulier::units::ByteLen;
use qcow2_common::{Content, qemu_img};
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::rc::Rc;

/// What was asked of a medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Write { offset: u64, length: usize },
    Sync,
}

/// A medium in memory that breaks at a call, writing half of what it should.
#[derive(Debug, Default)]
struct Medium {
    bytes: Vec<u8>,
    calls: Vec<Call>,
    breaks_at: Option<usize>,
}

#[derive(Clone)]
struct Shared(Rc<RefCell<Medium>>);

impl Shared {
    fn breaking_at(breaks_at: Option<usize>) -> Self {
        Self(Rc::new(RefCell::new(Medium {
            breaks_at,
            ..Medium::default()
        })))
    }
}

impl Medium {
    fn call(&mut self, call: Call) -> bool {
        self.calls.push(call);
        self.breaks_at.is_some_and(|at| self.calls.len() > at)
    }
}

impl Storage for Shared {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut medium = self.0.borrow_mut();
        let broken = medium.call(Call::Write {
            offset,
            length: bytes.len(),
        });
        let length = if broken { bytes.len() / 2 } else { bytes.len() };
        // The header is smaller than half a cluster: a broken header write leaves nothing of it.
        let length = if broken && offset == 0 { 0 } else { length };
        let end = offset as usize + length;
        if medium.bytes.len() < end {
            medium.bytes.resize(end, 0);
        }
        medium.bytes[offset as usize..end].copy_from_slice(&bytes[..length]);
        if broken {
            Err(io::Error::from_raw_os_error(5))
        } else {
            Ok(())
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.0.borrow_mut().call(Call::Sync) {
            return Err(io::Error::from_raw_os_error(5));
        }
        Ok(())
    }

    fn checkpoint(&mut self, _: Vec<u8>) -> io::Result<()> {
        self.sync()
    }
}

fn write(storage: Shared, content: &Content) -> haulier::Result<Finished> {
    let mut writer = Writer::create(storage, content.size(), Compression::Zstd)?;
    let mut encoder = Encoder::new(Compression::Zstd)?;
    for (at, bytes) in content.clusters() {
        writer.append(GuestCluster(at), encoder.encode(bytes))?;
    }
    writer.finish()
}

#[test]
fn writes_go_forward_and_the_header_comes_when_all_else_is_durable() {
    let content = Content::mixed(64 << 20, 1);
    let medium = Shared::breaking_at(None);
    let finished = write(medium.clone(), &content).unwrap();
    let medium = medium.0.borrow();
    let [
        data @ ..,
        Call::Sync,
        Call::Write {
            offset: 0,
            length: 65_536,
        },
        Call::Sync,
    ] = &medium.calls[..]
    else {
        panic!("{:?}", medium.calls)
    };
    let mut end = 65_536;
    for call in data {
        let Call::Write { offset, length } = *call else {
            panic!("{call:?}")
        };
        assert_eq!(offset, end);
        end += length as u64;
        // Large, and to the border of an erase block.
        assert!(end % (4 << 20) == 0 || end == finished.file_bytes.0);
    }
    assert_eq!(end, finished.file_bytes.0);
    content.compare(&Reader::open(MemDisk(medium.bytes.clone())).unwrap());
    let image = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(image.path(), &medium.bytes).unwrap();
    qemu_img(&["check", "-q", image.path().to_str().unwrap()]);
}

#[test]
fn an_image_that_breaks_off_anywhere_is_not_taken_for_one() {
    let content = Content::mixed(40 << 20, 2);
    let medium = Shared::breaking_at(None);
    write(medium.clone(), &content).unwrap();
    let calls = medium.0.borrow().calls.len();
    assert!(calls > 5);
    for breaks_at in 0..calls {
        let medium = Shared::breaking_at(Some(breaks_at));
        let error = write(medium.clone(), &content).unwrap_err();
        assert_eq!(error.kind(), Kind::Io);
        let medium = medium.0.borrow();
        assert_eq!(
            medium.calls.len(),
            breaks_at + 1,
            "it went on after the failure"
        );
        let opened = Reader::open(MemDisk(medium.bytes.clone()));
        if breaks_at + 1 == calls {
            // All was written, but nobody promised that it is durable: an error all the same.
            assert!(opened.is_ok());
        } else {
            assert!(opened.is_err(), "call {breaks_at} of {calls}");
        }
    }
}

#[test]
fn after_a_failure_nothing_more_is_written() {
    let medium = Shared::breaking_at(Some(0));
    let mut writer = Writer::create(medium.clone(), ByteLen(1 << 30), Compression::None).unwrap();
    let plain = || Encoded::Plain(vec![7; 65_536]);
    let failed = (0..)
        .find(|at| writer.append(GuestCluster(*at), plain()).is_err())
        .unwrap();
    let error = writer
        .append(GuestCluster(failed + 1), plain())
        .unwrap_err();
    assert!(
        error.to_string().contains("after a write to it failed"),
        "{error}"
    );
    assert!(writer.finish().is_err());
    assert_eq!(medium.0.borrow().calls.len(), 1);
}

#[test]
fn a_full_medium_is_told_from_a_broken_one() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut writer = Writer::create(full, ByteLen(1 << 30), Compression::None).unwrap();
    let error = (0..100)
        .find_map(|at| {
            writer
                .append(GuestCluster(at), Encoded::Plain(vec![1; 65_536]))
                .err()
        })
        .unwrap();
    assert_eq!(error.kind(), Kind::NoSpace);
    assert_eq!(error.offset(), Some(65_536));
}

#[test]
fn clusters_out_of_order_or_of_a_wrong_size_are_refused() {
    let create = || {
        let medium = Shared::breaking_at(None);
        Writer::create(medium, ByteLen((1 << 20) + 512), Compression::Zstd).unwrap()
    };
    let plain = || Encoded::Plain(vec![7; 65_536]);
    let mut writer = create();
    writer.append(GuestCluster(3), plain()).unwrap();
    for cluster in [3, 2, 17, u64::MAX] {
        assert_eq!(
            writer
                .append(GuestCluster(cluster), plain())
                .unwrap_err()
                .kind(),
            Kind::Corrupt,
            "{cluster}"
        );
    }
    // A refusal is no failure of the medium: the image goes on.
    writer.append(GuestCluster(16), plain()).unwrap();
    writer.finish().unwrap();

    for wrong in [
        Encoded::Plain(vec![7; 512]),
        Encoded::Compressed(vec![7; 65_536]),
        Encoded::Compressed(vec![7; 8]),
    ] {
        assert!(create().append(GuestCluster(0), wrong).is_err());
    }
    for size in [0, 511, 513, (2 << 50) + 512] {
        let medium = Shared::breaking_at(None);
        let error = Writer::create(medium, ByteLen(size), Compression::Zstd)
            .err()
            .unwrap();
        assert_eq!(error.kind(), Kind::Unsupported, "{size}");
    }
}
