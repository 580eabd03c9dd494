//! Walking a tree: every block is read from its first copy, or from another one where that is bad,
//! and checked against what its parent said of it.
//!
//! Children are read in the order in which they lie on the disks, many at a time, so that a large
//! tree takes the time of reading it, not of a seek for each of its blocks; what waits to be read is
//! bounded. Since every block has to start with the key that its parent names, and keys ascend through
//! the whole tree, no block can be met twice: hostile pointers cannot make a loop.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::block::{Block, Pointer};
use super::chunk::{ChunkMap, Device};
use super::key::Key;
use super::superblock::Superblock;
use crate::error::Kind;
use crate::units::ByteOffset;
use crate::usedmap::finding::Refusal;

/// Blocks that wait to be read, on each level.
const MAX_WAITING: usize = 1 << 15;
/// Neighbours are read together, up to this many bytes.
const MAX_READ: u64 = 1 << 20;
/// A gap between two blocks up to this many bytes is read along.
const MAX_GAP: u64 = 64 << 10;

/// The root of a tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Root {
    /// Whose blocks they are: the tree's number.
    pub owner: u64,
    pub bytenr: u64,
    pub generation: u64,
    pub level: u8,
}

/// What is done with a tree's content. Blocks and items come in any order.
pub(crate) trait Visit {
    /// A block of the tree, by its logical address.
    fn block(&mut self, bytenr: u64) -> Result<(), Refusal> {
        let _ = bytenr;
        Ok(())
    }

    /// An item.
    fn item(&mut self, key: Key, data: &[u8]) -> Result<(), Refusal>;
}

/// Reads trees.
pub(crate) struct Reader<'a> {
    pub sb: &'a Superblock,
    pub devices: &'a [Device<'a>],
    pub chunks: &'a ChunkMap,
    /// How many copies of blocks were bad where another one was good.
    pub bad_copies: u64,
}

/// A block to be read, with the place of its first copy if that is in one piece.
type Waiting = (Option<(u32, u64)>, Pointer);

impl<'a> Reader<'a> {
    pub(crate) fn new(sb: &'a Superblock, devices: &'a [Device<'a>], chunks: &'a ChunkMap) -> Self {
        Self {
            sb,
            devices,
            chunks,
            bad_copies: 0,
        }
    }

    /// The whole tree.
    pub(crate) fn walk(&mut self, root: Root, visit: &mut dyn Visit) -> Result<(), Refusal> {
        self.walk_range(root, Key::MIN, Key::MAX, visit)
    }

    /// The blocks that may have keys from `low` to `high`, with whatever else is in them.
    pub(crate) fn walk_range(
        &mut self,
        root: Root,
        low: Key,
        high: Key,
        visit: &mut dyn Visit,
    ) -> Result<(), Refusal> {
        let pointer = Pointer {
            bytenr: root.bytenr,
            generation: root.generation,
            level: root.level,
            first: None,
            below: None,
        };
        let mut walk = Walk {
            reader: self,
            owner: root.owner,
            low,
            high,
            visit,
        };
        walk.level(vec![pointer])
    }

    fn nodesize(&self) -> u64 {
        u64::try_from(self.sb.nodesize).unwrap_or(u64::MAX)
    }

    /// Where its first copy is, if that is in one piece.
    fn place(&self, pointer: &Pointer) -> Option<(u32, u64)> {
        let pieces = self.chunks.locate(pointer.bytenr, self.nodesize(), 0)?;
        match pieces.as_slice() {
            [(stripe, _)] => Some((stripe.device, stripe.physical)),
            _ => None,
        }
    }

    fn read(&self, device: u32, physical: u64, buf: &mut [u8]) -> Result<(), Refusal> {
        let device = usize::try_from(device)
            .ok()
            .and_then(|place| self.devices.get(place))
            .ok_or_else(|| Refusal::Damaged("a device is missing".into()))?;
        device
            .volume
            .read_at(ByteOffset(physical), buf)
            .map_err(|error| match error.kind() {
                Kind::Corrupt => Refusal::from(error),
                // Whatever else it says, the disk did not give it.
                _ => Refusal::Unreadable(error),
            })
    }

    /// One block, from whichever copy is good, given to `use_it`.
    fn read_any_copy(
        &mut self,
        owner: u64,
        pointer: Pointer,
        use_it: &mut dyn FnMut(&Block) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let at = pointer.bytenr;
        let mut why = Refusal::Damaged(format!("block {at} of tree {owner} is in no chunk"));
        let mut bytes = vec![0; self.sb.nodesize];
        for copy in 0.. {
            let Some(pieces) = self.chunks.locate(at, self.nodesize(), copy) else {
                break;
            };
            match self.read_pieces(&pieces, &mut bytes) {
                Ok(()) => match Block::parse(self.sb, owner, pointer, &bytes) {
                    Ok(block) => {
                        self.bad_copies = self.bad_copies.saturating_add(copy);
                        return use_it(&block);
                    }
                    Err(clause) => {
                        why = Refusal::Damaged(format!("block {at} of tree {owner} {clause}"));
                    }
                },
                Err(Refusal::Unreadable(error)) if error.kind() == Kind::Vanished => {
                    return Err(Refusal::Unreadable(error));
                }
                Err(refusal) => why = refusal,
            }
        }
        Err(why)
    }

    fn read_pieces(
        &self,
        pieces: &[(super::chunk::Stripe, u64)],
        bytes: &mut [u8],
    ) -> Result<(), Refusal> {
        let mut rest = bytes;
        for (stripe, len) in pieces {
            let len = usize::try_from(*len).unwrap_or(usize::MAX);
            let Some((piece, behind)) = rest.split_at_mut_checked(len) else {
                return Err(Refusal::Damaged("a tree block is too short".into()));
            };
            self.read(stripe.device, stripe.physical, piece)?;
            rest = behind;
        }
        Ok(())
    }
}

/// A walk on its way.
struct Walk<'r, 'a, 'v> {
    reader: &'r mut Reader<'a>,
    owner: u64,
    low: Key,
    high: Key,
    visit: &'v mut dyn Visit,
}

impl Walk<'_, '_, '_> {
    /// Blocks of one level, then all below them. Its depth is that of the tree.
    fn level(&mut self, blocks: Vec<Pointer>) -> Result<(), Refusal> {
        let mut waiting: Vec<Waiting> = blocks
            .into_iter()
            .map(|pointer| (self.reader.place(&pointer), pointer))
            .collect();
        waiting.sort_unstable_by_key(|(place, pointer)| (*place, pointer.bytenr));
        let nodesize = self.reader.nodesize();
        let mut children = Vec::new();
        let mut rest = waiting.as_slice();
        while let Some((first, _)) = rest.split_first() {
            let count = neighbours(rest, nodesize);
            let (batch, behind) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            rest = behind;
            self.batch(first.0, batch, &mut children)?;
            if children.len() > MAX_WAITING {
                self.level(std::mem::take(&mut children))?;
            }
        }
        if children.is_empty() {
            return Ok(());
        }
        drop(waiting);
        self.level(children)
    }

    /// Blocks that are read together, if there is more than one.
    fn batch(
        &mut self,
        place: Option<(u32, u64)>,
        batch: &[Waiting],
        children: &mut Vec<Pointer>,
    ) -> Result<(), Refusal> {
        let nodesize = self.reader.sb.nodesize;
        let mut bytes = Vec::new();
        let mut start = 0;
        if let (Some((device, physical)), [_, .., (Some((_, last)), _)]) = (place, batch) {
            let len = last
                .checked_sub(physical)
                .and_then(|len| usize::try_from(len).ok())
                .and_then(|len| len.checked_add(nodesize))
                .unwrap_or(0);
            bytes.resize(len, 0);
            start = physical;
            match self.reader.read(device, physical, &mut bytes) {
                Ok(()) => {}
                Err(Refusal::Unreadable(error)) if error.kind() == Kind::Vanished => {
                    return Err(Refusal::Unreadable(error));
                }
                // Perhaps only one of them: each on its own, then.
                Err(_) => bytes.clear(),
            }
        }
        for (place, pointer) in batch {
            let own = place
                .and_then(|(_, physical)| physical.checked_sub(start))
                .and_then(|at| usize::try_from(at).ok())
                .and_then(|at| bytes.get(at..))
                .and_then(|rest| rest.get(..nodesize));
            let parsed = own.map(|own| Block::parse(self.reader.sb, self.owner, *pointer, own));
            if let Some(Ok(block)) = parsed {
                take(
                    self.visit,
                    (self.low, self.high),
                    *pointer,
                    &block,
                    children,
                )?;
                continue;
            }
            let (low, high, owner) = (self.low, self.high, self.owner);
            let visit = &mut *self.visit;
            self.reader.read_any_copy(owner, *pointer, &mut |block| {
                take(visit, (low, high), *pointer, block, children)
            })?;
        }
        Ok(())
    }
}

/// How many of them lie so close together that they are read at once.
fn neighbours(waiting: &[Waiting], nodesize: u64) -> usize {
    let Some((Some((device, first)), _)) = waiting.first() else {
        return 1;
    };
    let mut end = first.saturating_add(nodesize);
    let more = waiting
        .iter()
        .skip(1)
        .take_while(|(place, _)| {
            let Some((other, at)) = place else {
                return false;
            };
            let near = other == device
                && *at >= end
                && at.saturating_sub(end) <= MAX_GAP
                && at.saturating_add(nodesize).saturating_sub(*first) <= MAX_READ;
            end = at.saturating_add(nodesize);
            near
        })
        .count();
    more.saturating_add(1)
}

/// A block's items to the visitor, its children to those that wait.
fn take(
    visit: &mut dyn Visit,
    (low, high): (Key, Key),
    pointer: Pointer,
    block: &Block,
    children: &mut Vec<Pointer>,
) -> Result<(), Refusal> {
    visit.block(pointer.bytenr)?;
    if pointer.level == 0 {
        for (key, data) in block.items() {
            visit.item(key, data)?;
        }
        return Ok(());
    }
    children.extend(block.children().filter(|child| {
        child.below.is_none_or(|below| below > low) && child.first.is_none_or(|first| first <= high)
    }));
    Ok(())
}
