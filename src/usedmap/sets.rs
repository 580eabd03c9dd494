//! Sets: volumes that mean something only together. A member says which set it belongs to; when all
//! members that can be found have been, the set makes new volumes of them, or, for btrfs, its map.

use super::btrfs;
use super::finding::{Filesystem, Finding, Refusal};
use super::identify::{self, Signature};
use super::node::{Node, NodeId};
use super::region::{RegionKind, State};
use crate::device::ReadAt;
use crate::error::{Kind, Result};
use crate::volume::{Assembly, Made, SharedVolume, lvm, md};
use std::sync::Arc;

/// The members that wait for each other.
#[derive(Default)]
pub(super) struct Sets {
    sets: Vec<Set>,
}

struct Set {
    key: String,
    members: Vec<Waiting>,
    /// How many members it had when it was last tried, and what was missing then.
    tried: Option<(usize, Refusal)>,
    /// Put together; who comes now comes too late.
    done: bool,
}

struct Waiting {
    id: NodeId,
    member: Member,
}

/// What one member says.
#[derive(Clone)]
enum Member {
    Md(md::Member),
    Lvm(lvm::Member),
    Btrfs(btrfs::Member),
}

/// A set put together.
pub(super) struct Assembled<'a> {
    /// Its members.
    pub members: Vec<NodeId>,
    /// What is found in each of them.
    pub findings: Vec<Finding>,
    /// What they make together.
    pub volumes: Vec<Made<'a>>,
}

impl Member {
    /// Reads what a volume with these signatures says, if one of them is a member's.
    fn read(
        volume: &dyn ReadAt,
        signatures: &[Signature],
    ) -> Option<(&'static str, Result<Self, Refusal>)> {
        // An array's superblock at its member's end leaves what is in a mirror to be seen at the
        // start, so md goes before all others.
        let named = |name: &str| signatures.iter().find(|signature| signature.name == name);
        if let Some(md) = named(identify::MD) {
            return Some((md.name, md::member(volume).map(Self::Md)));
        }
        match signatures {
            [only] if only.name == identify::LVM2 => {
                Some((only.name, lvm::member(volume).map(Self::Lvm)))
            }
            // One that does not lie on several devices is a filesystem like any other, and so is
            // one whose superblock is in doubt.
            [only] if only.name == identify::BTRFS => {
                let member = btrfs::member(volume).ok().filter(|m| m.num_devices > 1)?;
                Some((only.name, Ok(Self::Btrfs(member))))
            }
            _ => None,
        }
    }

    fn signature(&self) -> &'static str {
        match self {
            Self::Md(_) => identify::MD,
            Self::Lvm(_) => identify::LVM2,
            Self::Btrfs(_) => identify::BTRFS,
        }
    }

    fn key(&self) -> String {
        match self {
            Self::Md(member) => format!("md {}", member.set()),
            Self::Lvm(member) => format!("lvm {}", member.set()),
            Self::Btrfs(member) => format!("btrfs {}", member.fsid),
        }
    }

    fn set_name(&self) -> String {
        match self {
            Self::Md(member) => member.set_name(),
            Self::Lvm(member) => member.set_name(),
            Self::Btrfs(member) => member
                .label
                .clone()
                .unwrap_or_else(|| member.fsid.hyphenated().to_string()),
        }
    }

    fn uuid(&self) -> String {
        match self {
            Self::Md(member) => member.uuid(),
            Self::Lvm(member) => member.uuid(),
            Self::Btrfs(member) => member.fsid.hyphenated().to_string(),
        }
    }

    fn finding(&self, reason: impl Into<String>) -> Finding {
        let kind = match self {
            Self::Btrfs(_) => RegionKind::Filesystem,
            Self::Md(_) | Self::Lvm(_) => RegionKind::VolumeManager,
        };
        Finding {
            kind,
            filesystem: Some(self.signature().into()),
            label: Some(self.set_name()),
            uuid: Some(self.uuid()),
            ..Finding::unknown(reason)
        }
    }
}

impl Sets {
    /// Takes a volume in if it is a member of a set, or says why it cannot be one: then what it
    /// holds is decided by its other signatures.
    pub(super) fn take_member(
        &mut self,
        id: NodeId,
        volume: &dyn ReadAt,
        signatures: &[Signature],
    ) -> Result<Option<Finding>, TakeError> {
        let Some((name, member)) = Member::read(volume, signatures) else {
            return Err(TakeError::NotAMember);
        };
        let member = match member {
            Ok(member) => member,
            // What is left over of an array, and something newer beside it.
            Err(_) if signatures.len() > 1 => return Err(TakeError::NotAMember),
            Err(refusal) => {
                let finding = Finding {
                    kind: RegionKind::VolumeManager,
                    filesystem: Some(name.into()),
                    ..Finding::unknown("")
                };
                let finding = finding.refused(refusal, volume.size(), None)?;
                return Ok(Some(finding));
            }
        };
        if let Member::Md(md) = &member
            && md.may_be_stale()
        {
            let reason = "a member of an array without copies or parity whose superblock is at \
                          its end: it could be left over from one that was given up, so \
                          everything is copied except zeros";
            return Ok(Some(member.finding(reason)));
        }
        let key = member.key();
        let set = self.sets.iter_mut().find(|set| set.key == key);
        let waiting = Waiting { id, member };
        match set {
            Some(set) if set.done => {
                let reason = format!(
                    "a member of {} that was found after it had been put together: copied except \
                     zeros",
                    waiting.member.set_name()
                );
                return Ok(Some(waiting.member.finding(reason)));
            }
            Some(set) => set.members.push(waiting),
            None => self.sets.push(Set {
                key,
                members: vec![waiting],
                tried: None,
                done: false,
            }),
        }
        Ok(None)
    }

    /// Puts together every set that can be; none if nothing has changed since the last time.
    ///
    /// # Errors
    /// Only when a disk is gone.
    pub(super) fn assemble<'a>(&mut self, nodes: &[Node<'a>]) -> Result<Vec<Assembled<'a>>> {
        let mut assembled = Vec::new();
        for set in self.sets.iter_mut().filter(|set| !set.done) {
            let count = set.members.len();
            if set.tried.as_ref().is_some_and(|(tried, _)| *tried == count) {
                continue;
            }
            match set.put_together(nodes) {
                Ok(all) => {
                    set.done = true;
                    assembled.push(all);
                }
                Err(Refusal::Unreadable(error)) if error.kind() == Kind::Vanished => {
                    return Err(error);
                }
                Err(refusal) => set.tried = Some((count, refusal)),
            }
        }
        Ok(assembled)
    }

    /// What is found in the members of sets that could not be put together.
    pub(super) fn leave(self, nodes: &[Node<'_>]) -> Result<Vec<(NodeId, Finding)>> {
        let mut findings = Vec::new();
        for set in self.sets.into_iter().filter(|set| !set.done) {
            let Some((_, refusal)) = set.tried else {
                continue;
            };
            let why = refusal.to_string();
            for waiting in set.members {
                let Some(node) = nodes.get(waiting.id.0) else {
                    continue;
                };
                let finding = waiting.member.finding("").refused(
                    refusal.same_kind(why.clone()),
                    node.volume.size(),
                    None,
                )?;
                findings.push((waiting.id, finding));
            }
        }
        Ok(findings)
    }
}

/// Why a volume was not taken into a set.
pub(super) enum TakeError {
    /// It is not a member of any.
    NotAMember,
    /// Its disk is gone.
    Gone(crate::error::Error),
}

impl From<crate::error::Error> for TakeError {
    fn from(error: crate::error::Error) -> Self {
        Self::Gone(error)
    }
}

impl Set {
    fn put_together<'a>(&self, nodes: &[Node<'a>]) -> Result<Assembled<'a>, Refusal> {
        let volume = |id: NodeId| nodes.get(id.0).map(|node| Arc::clone(&node.volume));
        let mut all_md: Vec<(md::Member, SharedVolume<'a>)> = Vec::new();
        let mut all_lvm: Vec<(lvm::Member, SharedVolume<'a>)> = Vec::new();
        let mut all_btrfs: Vec<(u64, SharedVolume<'a>)> = Vec::new();
        for waiting in &self.members {
            let Some(volume) = volume(waiting.id) else {
                continue;
            };
            match &waiting.member {
                Member::Md(member) => all_md.push((member.clone(), volume)),
                Member::Lvm(member) => all_lvm.push((member.clone(), volume)),
                Member::Btrfs(member) => {
                    all_btrfs.push((member.num_devices, Arc::clone(&volume)));
                }
            }
        }
        if !all_btrfs.is_empty() {
            return self.btrfs(&all_btrfs);
        }
        let assembly = if all_lvm.is_empty() {
            md::assemble(all_md)?
        } else {
            lvm::assemble(all_lvm)?
        };
        Ok(self.findings(assembly, nodes))
    }

    /// btrfs does without volumes of its own: it maps all its devices at once.
    fn btrfs<'a>(&self, all: &[(u64, SharedVolume<'a>)]) -> Result<Assembled<'a>, Refusal> {
        let devices: Vec<&dyn ReadAt> = all
            .iter()
            .map(|(_, volume)| volume as &dyn ReadAt)
            .collect();
        let mut answers = btrfs::look_all(&devices);
        let found = u64::try_from(all.len()).unwrap_or(u64::MAX);
        let wanted = all.iter().map(|(wanted, _)| *wanted).max().unwrap_or(0);
        if found < wanted
            && let Some(Filesystem {
                verdict: Err(refusal),
                ..
            }) = answers.pop()
        {
            // The others may still come.
            return Err(refusal);
        }
        let signature = Signature {
            name: identify::BTRFS,
            kind: RegionKind::Filesystem,
        };
        let findings = answers
            .into_iter()
            .zip(all)
            .map(|(answer, (_, volume))| Finding::read(&signature, answer, volume.size()))
            .collect::<Result<_>>()
            .map_err(Refusal::Unreadable)?;
        Ok(Assembled {
            members: self.members.iter().map(|waiting| waiting.id).collect(),
            findings,
            volumes: Vec::new(),
        })
    }

    fn findings<'a>(&self, assembly: Assembly<'a>, nodes: &[Node<'a>]) -> Assembled<'a> {
        let mut metadata = assembly.metadata.into_iter();
        let findings = self.members.iter().map(|waiting| {
            let mut finding = waiting.member.finding("");
            finding.label = Some(assembly.name.clone());
            match (metadata.next(), nodes.get(waiting.id.0)) {
                (Some(extents), Some(node)) => {
                    finding.state = Some(State::Clean);
                    finding.exactly(extents, node.volume.size(), assembly.reason.clone())
                }
                // Nothing was said of it: it is taken as a whole.
                _ => Finding {
                    reason: assembly.reason.clone(),
                    ..finding
                },
            }
        });
        Assembled {
            findings: findings.collect(),
            members: self.members.iter().map(|waiting| waiting.id).collect(),
            volumes: assembly.volumes,
        }
    }
}
