//! Volumes that lie on disks indirectly (logical volumes, arrays, decrypted containers and what
//! they are divided into), in the words of `haulier map --json`.

use super::compose::Composition;
use super::finding::Finding;
use super::node::{Look, Node, NodeId, Origin, Piece};
use super::region::{Policy, RegionKind, State};
use crate::device::ReadAt;
use serde::{Deserialize, Serialize};

/// A volume that was made of others, with the decision on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeVolume {
    /// As people know it: `vg0/root`, `md0`, `md0 partition 1`.
    pub name: String,
    /// How it lies on its members: `linear`, `RAID 5 of 3`, `decrypted in memory`.
    pub layout: String,
    /// What it is made of: `/dev/sda partition 2`, or the name of another volume.
    pub members: Vec<String>,
    /// Its size.
    pub size_bytes: u64,
    /// What is in it.
    pub kind: RegionKind,
    /// What the content calls itself: `ext4`, `ntfs`.
    pub filesystem: Option<String>,
    /// The filesystem's label.
    pub label: Option<String>,
    /// The filesystem's UUID.
    pub uuid: Option<String>,
    /// The filesystem's state, where it was looked at.
    pub state: Option<State>,
    /// What a capture does with it.
    pub policy: Policy,
    /// Why, for a person.
    pub reason: String,
    /// How many of its own bytes are in use; each may be stored several times on the disks.
    pub used_bytes: u64,
}

/// The name of a volume for people.
pub(super) fn name_of(composition: &Composition<'_>, id: NodeId, disk_names: &[String]) -> String {
    match composition.node(id).map(|node| &node.origin) {
        Some(Origin::Disk(disk)) => disk_names.get(disk.0).cloned().unwrap_or_default(),
        Some(Origin::Partition { of, number, .. }) => {
            format!(
                "{} partition {number}",
                name_of(composition, *of, disk_names)
            )
        }
        Some(Origin::Made { name, .. }) => name.clone(),
        None => String::new(),
    }
}

/// Whether a volume lies on its disk only by way of others.
pub(super) fn is_made(composition: &Composition<'_>, node: &Node<'_>) -> bool {
    match &node.origin {
        Origin::Disk(_) => false,
        Origin::Made { .. } => true,
        Origin::Partition { of, .. } => composition
            .node(*of)
            .is_some_and(|parent| is_made(composition, parent)),
    }
}

/// What is said of a volume that [`is_made`].
pub(super) fn describe(
    composition: &Composition<'_>,
    id: NodeId,
    node: &Node<'_>,
    disk_names: &[String],
) -> MadeVolume {
    let size = node.volume.size().0;
    let (layout, members) = match &node.origin {
        Origin::Made { layout, of, .. } => (layout.clone(), of.clone()),
        Origin::Partition { of, .. } => ("partition".into(), vec![*of]),
        Origin::Disk(_) => (String::new(), Vec::new()),
    };
    let mut volume = MadeVolume {
        name: name_of(composition, id, disk_names),
        layout,
        members: members
            .into_iter()
            .map(|member| name_of(composition, member, disk_names))
            .collect(),
        size_bytes: size,
        kind: RegionKind::Unknown,
        filesystem: None,
        label: None,
        uuid: None,
        state: None,
        policy: Policy::CopyNonzero,
        reason: String::new(),
        used_bytes: size,
    };
    match &node.look {
        Look::Waiting => {}
        Look::Found(finding) => volume.found(finding),
        Look::Divided(pieces) => volume.divided(pieces),
    }
    volume
}

impl MadeVolume {
    fn found(&mut self, finding: &Finding) {
        self.kind = finding.kind;
        self.filesystem.clone_from(&finding.filesystem);
        self.label.clone_from(&finding.label);
        self.uuid.clone_from(&finding.uuid);
        self.state = finding.state;
        self.reason.clone_from(&finding.reason);
        if let Some(used) = &finding.used {
            let covers = used.covers.0.min(self.size_bytes);
            let behind = self.size_bytes.saturating_sub(covers);
            self.policy = Policy::UsedBlocks;
            self.used_bytes = used.extents.total().0.saturating_add(behind);
        }
    }

    fn divided(&mut self, pieces: &[Piece]) {
        self.kind = RegionKind::PartitionTable;
        self.policy = Policy::UsedBlocks;
        self.reason =
            "divided by a partition table: its partitions are volumes of their own".into();
        self.used_bytes = pieces.iter().map(|piece| piece.extent.len().0).sum();
    }
}
