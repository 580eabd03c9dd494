//! Who owns the bytes that were lost: collected while a filesystem is walked, in bounded memory, and
//! put into words once the names are known.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::loss::What;
use super::names::Names;
use crate::extent::{Extent, ExtentList};
use crate::units::{ByteLen, ByteOffset};
use std::collections::BTreeSet;
use std::ops::Range;

/// Pieces that are told apart in one filesystem: a disk that has lost more is not described file by
/// file.
const MAX_PIECES: usize = 1 << 18;
/// Files that are looked for because what describes them was lost.
const MAX_DESCRIBED: u64 = 1 << 16;
/// Names in one entry of the report.
const MAX_LISTED: usize = 64;
/// Bytes of paths in what is said of one filesystem.
const MAX_TEXT: usize = 64 << 20;

/// Who owns a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// A file's content.
    Content {
        inode: u64,
        /// The byte of the file that the piece starts with.
        offset: u64,
        /// How many bytes of the file are lost with it: fewer than the piece at the file's end, more
        /// where they are compressed.
        bytes: u64,
        /// On NTFS, a stream beside the content, as harmless text.
        stream: Option<String>,
    },
    /// A directory's names.
    Directory(u64),
    /// What describes one file: its map, its attributes.
    About { inode: u64, what: &'static str },
    /// What describes many: a piece of a table of inodes.
    Inodes { which: String, inodes: Range<u64> },
    /// No file.
    Nobody(What),
}

/// See the module.
pub(super) struct Claims<'a> {
    lost: &'a ExtentList,
    pieces: Vec<(Extent, Owner)>,
    described: u64,
    /// Whether there were more than are kept.
    overflowed: bool,
}

impl<'a> Claims<'a> {
    pub(super) fn new(lost: &'a ExtentList) -> Self {
        Self {
            lost,
            pieces: Vec::new(),
            described: 0,
            overflowed: false,
        }
    }

    /// Whether anything of it was lost.
    pub(super) fn touches(&self, extent: Extent) -> bool {
        self.lost.within(extent).next().is_some()
    }

    /// Says who owns the lost parts of an extent.
    pub(super) fn claim(&mut self, extent: Option<Extent>, owner: impl Fn(Extent) -> Owner) {
        let Some(extent) = extent else { return };
        for part in self.lost.within(extent) {
            if self.pieces.len() >= MAX_PIECES {
                self.overflowed = true;
                return;
            }
            let mut owner = owner(part);
            if let Owner::Inodes { inodes, .. } = &mut owner {
                let room = MAX_DESCRIBED.saturating_sub(self.described);
                inodes.end = inodes.end.min(inodes.start.saturating_add(room));
                let count = inodes.end.saturating_sub(inodes.start);
                self.described = self.described.saturating_add(count);
            }
            self.pieces.push((part, owner));
        }
    }

    /// Says that nobody owns an extent.
    pub(super) fn nobody(&mut self, extent: Option<Extent>, what: &What) {
        self.claim(extent, |_| Owner::Nobody(what.clone()));
    }

    /// A file's content in an extent that starts at byte `offset` of the file, which has `size`.
    pub(super) fn content(&mut self, extent: Option<Extent>, inode: u64, offset: u64, size: u64) {
        let Some(whole) = extent else { return };
        self.claim(extent, |part| {
            let skip = part.start().0.saturating_sub(whole.start().0);
            let offset = offset.saturating_add(skip);
            let bytes = size.saturating_sub(offset).min(part.len().0);
            if bytes == 0 {
                return Owner::Nobody(What::outside("behind the end of a file"));
            }
            Owner::Content {
                inode,
                offset,
                bytes,
                stream: None,
            }
        });
    }

    /// What nobody has claimed yet.
    pub(super) fn unclaimed(&self) -> ExtentList {
        let mut claimed: Vec<Extent> = self.pieces.iter().map(|(piece, _)| *piece).collect();
        claimed.sort_unstable();
        self.lost.subtract(&claimed.into_iter().collect())
    }

    /// Whether there was too much to tell apart.
    pub(super) fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// The files whose names are asked for.
    pub(super) fn wanted(&self) -> BTreeSet<u64> {
        let mut wanted = BTreeSet::new();
        for (_, owner) in &self.pieces {
            match owner {
                Owner::Content { inode, .. }
                | Owner::Directory(inode)
                | Owner::About { inode, .. } => {
                    wanted.insert(*inode);
                }
                Owner::Inodes { inodes, .. } => wanted.extend(inodes.clone()),
                Owner::Nobody(_) => {}
            }
        }
        wanted
    }

    /// In words, in the order of the volume.
    pub(super) fn into_words(self, names: &Names) -> Vec<(Extent, What)> {
        let mut text = 0_usize;
        let mut words: Vec<(Extent, What)> = self
            .pieces
            .into_iter()
            .map(|(piece, owner)| {
                if text > MAX_TEXT {
                    return (piece, What::too_much());
                }
                let what = owner.into_words(names);
                text = text.saturating_add(what.text_bytes());
                (piece, what)
            })
            .collect();
        words.sort();
        words.dedup();
        merged(words)
    }
}

impl Owner {
    fn into_words(self, names: &Names) -> What {
        let nameless = |what: &str, inode: u64| {
            What::unknown(format!(
                "{what} {} {inode}, whose name could not be found",
                names.noun()
            ))
        };
        match self {
            Self::Content {
                inode,
                offset,
                bytes,
                stream,
            } => match names.path(inode) {
                None => nameless("content of", inode),
                Some(mut path) => {
                    if let Some(stream) = stream {
                        path.push(':');
                        path.push_str(&stream);
                    }
                    What::File {
                        path,
                        inode,
                        offset_in_file: offset,
                        bytes,
                    }
                }
            },
            Self::Directory(inode) => match names.path(inode) {
                Some(path) => What::Directory { path, inode },
                None => nameless("names in the directory", inode),
            },
            Self::About { inode, what } => What::Metadata {
                which: format!("{what} of {} {inode}", names.noun()),
                files: names.path(inode).into_iter().collect(),
            },
            Self::Inodes { which, inodes } => What::Metadata {
                which,
                files: inodes
                    .filter_map(|inode| names.path(inode))
                    .take(MAX_LISTED)
                    .collect(),
            },
            Self::Nobody(what) => what,
        }
    }
}

/// Neighbours that say the same become one; so do pieces of a file that follow each other in both.
fn merged(words: Vec<(Extent, What)>) -> Vec<(Extent, What)> {
    let mut merged: Vec<(Extent, What)> = Vec::with_capacity(words.len());
    for (piece, what) in words {
        if let Some((last, said)) = merged.last_mut()
            && last.end() == piece.start().0
            && let Some(both) = Extent::new(
                ByteOffset(last.start().0),
                ByteLen(last.len().0.saturating_add(piece.len().0)),
            )
            && said.goes_on(last.len().0, &what)
        {
            *last = both;
            continue;
        }
        merged.push((piece, what));
    }
    merged
}

impl What {
    /// Takes `next`, which lies `len` bytes behind the start of this, into itself if it only goes on.
    fn goes_on(&mut self, len: u64, next: &Self) -> bool {
        match (self, next) {
            (
                Self::File {
                    path,
                    inode,
                    offset_in_file,
                    bytes,
                },
                Self::File {
                    path: next_path,
                    inode: next_inode,
                    offset_in_file: next_offset,
                    bytes: next_bytes,
                },
            ) => {
                let goes_on = inode == next_inode
                    && path == next_path
                    && *bytes == len
                    && offset_in_file.checked_add(len) == Some(*next_offset);
                if goes_on {
                    *bytes = bytes.saturating_add(*next_bytes);
                }
                goes_on
            }
            (said, next) => said == next,
        }
    }
}
