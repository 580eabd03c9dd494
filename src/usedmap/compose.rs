//! Putting together what is on the disks: partitions, what members of volume managers make of
//! them, what is in that, and so on up to the filesystems.
//!
//! Two queues drive it. Volumes wait to be looked into; members of sets (a volume group, an array)
//! wait until all that could be looked into has been, for the missing member may be inside another
//! volume. It ends when neither makes progress; sets that lack a member are copied except zeros.

use super::divide::{Division, divide};
use super::encrypted::{self, Opened};
use super::finding::{self, Finding, Refusal};
use super::identify::{self, Signature};
use super::node::{Look, Node, NodeId, Origin, Piece};
use super::patched::Patched;
use super::region::{Policy, RegionKind};
use super::sets::{Assembled, Sets, TakeError};
use crate::device::ReadAt;
use crate::error::{Error, Kind, Result};
use crate::extent::{Extent, ExtentList};
use crate::ptable::{Partition, PartitionTable};
use crate::units::{ByteOffset, SectorSize};
use crate::volume::crypt::Secrets;
use crate::volume::{Content, DiskIndex, Part, Places, SharedVolume, Slice, md};
use std::collections::VecDeque;
use std::sync::Arc;

/// Volumes in volumes in volumes: nobody builds more, hostile metadata may.
const MAX_DEPTH: usize = 12;
/// As many volumes as a large server has, many times over.
const MAX_NODES: usize = 20_000;

/// A disk as it is composed: its bytes, and the sector that its table counts in.
pub(super) struct Source<'a> {
    pub disk: &'a dyn ReadAt,
    pub sector: SectorSize,
}

/// How closely a composition looks at what volumes hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looks {
    /// Which of its bytes are in use, for a map. What cannot be read is taken as a whole.
    Used,
    /// Only what it is. What cannot be read is as if it were zero, so that a bad sector where some
    /// other filesystem would have its signature does not hide the one that is there.
    NamesOnly,
}

/// All volumes of some disks.
pub(super) struct Composition<'a> {
    sources: Vec<Source<'a>>,
    nodes: Vec<Node<'a>>,
    /// The partition table of each disk, divided by it or not.
    tables: Vec<PartitionTable>,
}

/// Which bytes are to be taken, disk by disk.
pub(super) struct Taken {
    /// For a known reason.
    pub exact: Vec<ExtentList>,
    /// For want of knowledge: zeros in them are not worth storing.
    pub nonzero: Vec<ExtentList>,
}

impl<'a> Composition<'a> {
    /// Composes disks.
    ///
    /// # Errors
    /// When a disk vanishes. What else cannot be read or understood is a finding.
    pub(super) fn of(sources: Vec<Source<'a>>, secrets: &Secrets, looks: Looks) -> Result<Self> {
        let mut tables = Vec::new();
        for source in &sources {
            let read = looks.at(source.disk, |disk| {
                PartitionTable::read(disk, source.sector)
            });
            tables.push(match read {
                // Nothing is divided then: the whole disk is taken.
                Err(error) if error.kind() == Kind::Io => {
                    PartitionTable::unreadable(source.sector, &error)
                }
                read => read?,
            });
        }
        let mut work = Work {
            composition: Self {
                sources,
                nodes: Vec::new(),
                tables,
            },
            queue: VecDeque::new(),
            sets: Sets::default(),
            secrets,
            looks,
        };
        work.run()?;
        Ok(work.composition)
    }

    /// The volumes, each behind those that it is made of.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node<'a>)> {
        (0..).map(NodeId).zip(&self.nodes)
    }

    /// One of them.
    pub(super) fn node(&self, id: NodeId) -> Option<&Node<'a>> {
        self.nodes.get(id.0)
    }

    /// The partition table of a disk.
    pub(super) fn table(&self, disk: DiskIndex) -> Option<&PartitionTable> {
        self.tables.get(disk.0)
    }

    /// The disks that a volume has bytes on, ascending.
    pub(super) fn disks_of(&self, id: NodeId) -> Vec<DiskIndex> {
        let mut disks = Vec::new();
        let mut below = vec![id];
        let mut seen = vec![false; self.nodes.len()];
        while let Some(id) = below.pop() {
            match seen.get_mut(id.0) {
                Some(seen) if !*seen => *seen = true,
                _ => continue,
            }
            match self.node(id).map(|node| &node.origin) {
                Some(Origin::Disk(disk)) => disks.push(*disk),
                Some(Origin::Partition { of, .. }) => below.push(*of),
                Some(Origin::Made { of, .. }) => below.extend(of),
                None => {}
            }
        }
        disks.sort_unstable();
        disks.dedup();
        disks
    }

    /// What is to be taken of the disks.
    pub(super) fn taken(&self) -> Taken {
        let mut exact = Places::new(self.sources.len());
        let mut nonzero = Places::new(self.sources.len());
        for node in &self.nodes {
            match &node.look {
                Look::Waiting => trace_all(node, whole(node), &mut nonzero),
                Look::Found(finding) => match &finding.used {
                    None => trace_all(node, whole(node), &mut nonzero),
                    Some(used) => {
                        let end = used.covers.0.min(node.volume.size().0);
                        let inside = Extent::between(0, end);
                        let runs = inside.into_iter().flat_map(|w| used.extents.within(w));
                        trace_all(node, runs, &mut exact);
                        let tail = Extent::between(end, node.volume.size().0);
                        trace_all(node, tail, &mut nonzero);
                    }
                },
                Look::Divided(pieces) => {
                    for piece in pieces {
                        let places = match piece.policy {
                            Policy::CopyNonzero => &mut nonzero,
                            _ => &mut exact,
                        };
                        trace_all(node, [piece.extent], places);
                    }
                }
            }
        }
        Taken {
            exact: exact.finish(),
            nonzero: nonzero.finish(),
        }
    }
}

fn whole(node: &Node<'_>) -> Option<Extent> {
    Extent::new(ByteOffset(0), node.volume.size())
}

fn trace_all(node: &Node<'_>, runs: impl IntoIterator<Item = Extent>, places: &mut Places) {
    for run in runs {
        node.volume.trace(run, places);
    }
}

struct Work<'a, 's> {
    composition: Composition<'a>,
    queue: VecDeque<NodeId>,
    sets: Sets,
    secrets: &'s Secrets,
    looks: Looks,
}

impl Looks {
    /// Reads what says what a volume is.
    fn at<T>(self, volume: &dyn ReadAt, read: impl FnOnce(&dyn ReadAt) -> T) -> T {
        match self {
            Self::Used => read(volume),
            Self::NamesOnly => read(&Patched(volume)),
        }
    }
}

impl<'a> Work<'a, '_> {
    fn run(&mut self) -> Result<()> {
        for (index, source) in self.composition.sources.iter().enumerate() {
            let disk = DiskIndex(index);
            let slice = Extent::new(ByteOffset(0), source.disk.size())
                .and_then(|extent| Slice::new(source.disk, disk, extent));
            let Some(slice) = slice else { continue };
            self.queue.push_back(NodeId(self.composition.nodes.len()));
            self.composition.nodes.push(Node {
                volume: Arc::new(slice),
                origin: Origin::Disk(disk),
                look: Look::Waiting,
                depth: 0,
            });
        }
        loop {
            while let Some(id) = self.queue.pop_front() {
                self.examine(id)?;
            }
            let assembled = self.sets.assemble(&self.composition.nodes)?;
            if assembled.is_empty() {
                break;
            }
            for set in assembled {
                self.put_together(set);
            }
        }
        for (id, finding) in std::mem::take(&mut self.sets).leave(&self.composition.nodes)? {
            self.found(id, finding);
        }
        Ok(())
    }

    /// Looks into one volume.
    fn examine(&mut self, id: NodeId) -> Result<()> {
        let Some(node) = self.composition.node(id) else {
            return Ok(());
        };
        let (volume, depth) = (Arc::clone(&node.volume), node.depth);
        if depth > MAX_DEPTH {
            let why = Refusal::Unsupported("too many volumes within volumes".into());
            self.found(id, Finding::unknown("").refused(why, volume.size(), None)?);
            return Ok(());
        }
        let signatures = match self.looks.at(&*volume, identify::identify) {
            Ok(signatures) => signatures,
            Err(error) if error.kind() == Kind::Vanished => return Err(error),
            Err(error) => return self.unreadable(id, error),
        };
        if let Some(table) = self.table_of(id)? {
            return self.divide_or_own(id, table, &signatures);
        }
        self.look(id, &signatures)
    }

    fn unreadable(&mut self, id: NodeId, error: Error) -> Result<()> {
        let Some(node) = self.composition.node(id) else {
            return Ok(());
        };
        let finding =
            Finding::unknown("").refused(Refusal::Unreadable(error), node.volume.size(), None)?;
        self.found(id, finding);
        Ok(())
    }

    /// The partition table of a volume that may have one. A disk's sectors are a table's even if it
    /// is empty; what looks like an empty table elsewhere is boot code.
    fn table_of(&self, id: NodeId) -> Result<Option<PartitionTable>> {
        let Some(node) = self.composition.node(id) else {
            return Ok(None);
        };
        match &node.origin {
            Origin::Disk(disk) => Ok(self
                .composition
                .table(*disk)
                .filter(|table| !table.metadata.is_empty())
                .cloned()),
            Origin::Partition { .. } => Ok(None),
            Origin::Made { .. } => {
                let disks = self.composition.disks_of(id);
                let sector = disks
                    .first()
                    .and_then(|disk| self.composition.sources.get(disk.0))
                    .map_or(SectorSize::B512, |source| source.sector);
                let table = self
                    .looks
                    .at(&*node.volume, |volume| PartitionTable::read(volume, sector));
                match table {
                    Ok(table) => Ok(Some(table).filter(|table| !table.partitions.is_empty())),
                    Err(error) if error.kind() == Kind::Vanished => Err(error),
                    // The same sector is unreadable for whoever looks at it next.
                    Err(_) => Ok(None),
                }
            }
        }
    }

    /// A volume with a partition table: divided by it, unless a volume manager owns it as a whole.
    fn divide_or_own(
        &mut self,
        id: NodeId,
        table: PartitionTable,
        signatures: &[Signature],
    ) -> Result<()> {
        let Some(node) = self.composition.node(id) else {
            return Ok(());
        };
        let (volume, depth) = (Arc::clone(&node.volume), node.depth);
        if let Some(owner) = signatures.iter().find(|s| s.owns_whole_disk()) {
            let partitions = table.partitions.iter().filter_map(Partition::extent);
            if owner.name != identify::MD {
                self.found(id, finding::of_unknown_inside(owner));
                return Ok(());
            }
            // The table that is seen on one member describes what all of them make together.
            if !md::is_of_a_partition(&*volume, partitions) {
                return self.look(id, std::slice::from_ref(owner));
            }
        }
        let Division {
            partitions,
            mut pieces,
        } = divide(&table, volume.size());
        for partition in partitions {
            let Some(extent) = partition.extent() else {
                continue;
            };
            let Some(part) = Part::new(Arc::clone(&volume), extent) else {
                // The table's reader lets none through; should one come, what is there is kept.
                pieces.push(Piece {
                    extent,
                    kind: RegionKind::Unknown,
                    partition: Some(partition.number),
                    filesystem: None,
                    policy: Policy::CopyNonzero,
                    reason: "it does not lie inside what is divided: copied except zeros".into(),
                });
                continue;
            };
            let node = Node {
                volume: Arc::new(part),
                origin: Origin::Partition {
                    of: id,
                    number: partition.number,
                    extent,
                },
                look: Look::Waiting,
                depth: depth.saturating_add(1),
            };
            if let Err(reason) = self.add(node, true) {
                pieces.push(Piece {
                    extent,
                    kind: RegionKind::Unknown,
                    partition: Some(partition.number),
                    filesystem: None,
                    policy: Policy::CopyNonzero,
                    reason,
                });
            }
        }
        if let Some(node) = self.composition.nodes.get_mut(id.0) {
            node.look = Look::Divided(pieces);
        }
        Ok(())
    }

    /// A volume without a partition table.
    fn look(&mut self, id: NodeId, signatures: &[Signature]) -> Result<()> {
        let Some(node) = self.composition.node(id) else {
            return Ok(());
        };
        let volume = Arc::clone(&node.volume);
        match self.sets.take_member(id, &*volume, signatures) {
            // It waits for the others.
            Ok(None) => return Ok(()),
            Ok(Some(finding)) => {
                self.found(id, finding);
                return Ok(());
            }
            Err(TakeError::Gone(error)) => return Err(error),
            Err(TakeError::NotAMember) => {}
        }
        if let [only] = signatures
            && only.kind == RegionKind::Encrypted
        {
            let opened = encrypted::open(&volume, only, self.secrets)?;
            self.opened(id, opened);
            return Ok(());
        }
        let finding = match self.looks {
            Looks::Used => finding::of_signatures(&*volume, signatures)?,
            Looks::NamesOnly => finding::of_names(signatures),
        };
        self.found(id, finding);
        Ok(())
    }

    fn opened(&mut self, id: NodeId, opened: Opened<'a>) {
        if let Some((name, plain)) = opened.plain {
            self.made(
                vec![id],
                name,
                "decrypted in memory".into(),
                plain,
                Content::Look,
            );
        }
        self.found(id, opened.finding);
    }

    fn put_together(&mut self, set: Assembled<'a>) {
        for (id, finding) in set.members.iter().zip(set.findings) {
            self.found(*id, finding);
        }
        for made in set.volumes {
            self.made(
                set.members.clone(),
                made.name,
                made.layout,
                made.volume,
                made.content,
            );
        }
    }

    /// Adds a volume that was made of members.
    fn made(
        &mut self,
        of: Vec<NodeId>,
        name: String,
        layout: String,
        volume: SharedVolume<'a>,
        content: Content,
    ) {
        let below = of.iter().filter_map(|id| self.composition.node(*id));
        let depth = below.map(|node| node.depth).max().unwrap_or(0);
        let size = volume.size();
        let look = match content {
            Content::Look => Look::Waiting,
            Content::Whole(reason) => Look::Found(Finding::unknown(reason)),
            Content::Exactly(extents, reason) => {
                Look::Found(Finding::unknown("").exactly(extents, size, reason))
            }
        };
        let waits = matches!(look, Look::Waiting);
        let node = Node {
            volume,
            origin: Origin::Made { of, name, layout },
            look,
            depth: depth.saturating_add(1),
        };
        // Beyond the bound it still becomes a node, which is taken as a whole.
        let _ = self.add(node, waits);
    }

    /// Adds a volume; beyond a bound partitions are refused with the reason, and what was made of
    /// members is added without being looked into.
    fn add(&mut self, mut node: Node<'a>, waits: bool) -> Result<(), String> {
        let many = self.composition.nodes.len() >= MAX_NODES;
        let reason = "there are too many volumes to look into: copied except zeros";
        if many && matches!(node.origin, Origin::Partition { .. }) {
            return Err(reason.into());
        }
        if many && waits {
            node.look = Look::Found(Finding::unknown(reason));
        } else if waits {
            self.queue.push_back(NodeId(self.composition.nodes.len()));
        }
        self.composition.nodes.push(node);
        Ok(())
    }

    fn found(&mut self, id: NodeId, finding: Finding) {
        if let Some(node) = self.composition.nodes.get_mut(id.0) {
            node.look = Look::Found(finding);
        }
    }
}
