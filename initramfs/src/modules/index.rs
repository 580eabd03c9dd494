//! What depmod(8) wrote down: `modules.dep`, `modules.alias`, `modules.softdep`,
//! `modules.builtin`; and from it, the order in which to load.

use super::alias::Aliases;
use super::{NEVER, canonical};
use anyhow::{Context, Result};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// The modules of one kernel.
#[derive(Debug, Default)]
pub(crate) struct Index {
    folder: PathBuf,
    aliases: Aliases,
    modules: HashMap<String, Module>,
    built_in: HashSet<String>,
    soft: HashMap<String, Soft>,
}

#[derive(Debug)]
struct Module {
    file: String,
    /// Names, in the order of the file: the last is to be loaded first.
    needs: Vec<String>,
}

/// Modules that go well with one, before and behind it; they may be missing.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Soft {
    before: Vec<String>,
    behind: Vec<String>,
}

/// One file to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// Module name, with underscores.
    pub(crate) name: String,
    /// Its file.
    pub(crate) file: PathBuf,
}

impl Index {
    /// Of the running kernel.
    pub(crate) fn of_this_kernel() -> Result<Self> {
        let uname = rustix::system::uname();
        Self::read(&Path::new("/lib/modules").join(&*uname.release().to_string_lossy()))
    }

    fn read(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).with_context(|| {
                format!(
                    "reading {}: the drivers of this kernel are not here",
                    path.display()
                )
            })
        };
        // Without these two, modules load just as well.
        let soft = read("modules.softdep").unwrap_or_default();
        let built_in = read("modules.builtin").unwrap_or_default();
        Ok(Self {
            folder: folder.to_owned(),
            ..Self::parse(
                &read("modules.alias")?,
                &read("modules.dep")?,
                &soft,
                &built_in,
            )
        })
    }

    fn parse(alias: &str, dep: &str, soft: &str, built_in: &str) -> Self {
        Self {
            folder: PathBuf::new(),
            aliases: Aliases::parse(alias),
            modules: dep.lines().filter_map(parse_dep).collect(),
            built_in: built_in.lines().filter_map(name_of).collect(),
            soft: soft.lines().filter_map(parse_soft).collect(),
        }
    }

    /// Whether the kernel has this module without loading anything.
    pub(crate) fn has_built_in(&self, request: &str) -> bool {
        self.built_in.contains(&canonical(request))
    }

    /// The modules that a modalias or a name asks for; none for what is built in or unknown.
    pub(crate) fn wanted_by(&self, request: &str) -> Vec<&str> {
        if self.has_built_in(request) {
            return Vec::new();
        }
        let name = canonical(request);
        match self.modules.get_key_value(&name) {
            Some((name, _)) => vec![name],
            None => self.aliases.modules(request),
        }
    }

    /// Every file to load for `name`, in order: what it needs first.
    ///
    /// # Errors
    /// When it is, or needs, a module that must never be loaded.
    pub(crate) fn steps(&self, name: &str) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        self.add(name, &mut steps, &mut HashSet::new())?;
        Ok(steps)
    }

    fn add(&self, name: &str, steps: &mut Vec<Step>, seen: &mut HashSet<String>) -> Result<()> {
        anyhow::ensure!(
            !NEVER.contains(&name),
            "{name} puts block devices together, which Haulier never does"
        );
        // Soft dependencies may go in circles.
        if !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(module) = self.modules.get(name) else {
            return Ok(());
        };
        let soft = self.soft.get(name).cloned().unwrap_or_default();
        self.add_soft(&soft.before, steps, seen);
        for needed in module.needs.iter().rev() {
            self.add(needed, steps, seen)?;
        }
        steps.push(Step {
            name: name.to_owned(),
            file: self.folder.join(&module.file),
        });
        self.add_soft(&soft.behind, steps, seen);
        Ok(())
    }

    fn add_soft(&self, requests: &[String], steps: &mut Vec<Step>, seen: &mut HashSet<String>) {
        for name in requests.iter().flat_map(|request| self.wanted_by(request)) {
            let mut more = steps.clone();
            if self.add(name, &mut more, seen).is_ok() {
                *steps = more;
            }
        }
    }
}

/// `kernel/drivers/ata/ahci.ko.xz: kernel/drivers/ata/libahci.ko.xz …`
fn parse_dep(line: &str) -> Option<(String, Module)> {
    let (file, needs) = line.split_once(':')?;
    let module = Module {
        file: file.to_owned(),
        needs: needs.split_ascii_whitespace().filter_map(name_of).collect(),
    };
    Some((name_of(file)?, module))
}

/// `softdep NAME pre: A B post: C`
fn parse_soft(line: &str) -> Option<(String, Soft)> {
    let mut words = line.split_ascii_whitespace();
    if words.next() != Some("softdep") {
        return None;
    }
    let name = canonical(words.next()?);
    let mut soft = Soft::default();
    let mut behind = false;
    for word in words {
        match word {
            "pre:" => behind = false,
            "post:" => behind = true,
            _ if behind => soft.behind.push(word.to_owned()),
            _ => soft.before.push(word.to_owned()),
        }
    }
    Some((name, soft))
}

/// `snd_hda` of `kernel/sound/snd-hda.ko.xz`.
fn name_of(file: &str) -> Option<String> {
    let name = file.rsplit('/').next()?;
    let (name, _) = name.split_once(".ko")?;
    (!name.is_empty()).then(|| canonical(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        Index::parse(
            "alias pci:v1* ahci\nalias pci:v2* dm-raid\nalias fs-ext4 ext4\nalias crc32c crc32c_gen\n",
            "kernel/drivers/ata/ahci.ko.xz: kernel/drivers/ata/libahci.ko.xz kernel/drivers/ata/libata.ko.xz kernel/drivers/scsi/scsi-mod.ko.xz\n\
             kernel/drivers/ata/libahci.ko.xz: kernel/drivers/ata/libata.ko.xz kernel/drivers/scsi/scsi-mod.ko.xz\n\
             kernel/drivers/ata/libata.ko.xz: kernel/drivers/scsi/scsi-mod.ko.xz\n\
             kernel/drivers/scsi/scsi-mod.ko.xz:\n\
             kernel/fs/ext4/ext4.ko.xz:\n\
             kernel/lib/crc32c_gen.ko.xz:\n\
             kernel/drivers/md/dm-mod.ko.xz:\n\
             kernel/drivers/md/dm-raid.ko.xz: kernel/drivers/md/dm-mod.ko.xz\n",
            "# Soft dependencies\nsoftdep ext4 pre: crc32c missing dm-raid post: ahci\n\
             softdep ahci pre: ext4\n",
            "kernel/fs/fuse/fuse.ko\nkernel/drivers/nvme/host/nvme-core.ko\n",
        )
    }

    fn names(steps: &[Step]) -> Vec<&str> {
        steps.iter().map(|step| step.name.as_str()).collect()
    }

    #[test]
    fn what_a_module_needs_comes_first() {
        let steps = index().steps("libahci").unwrap();
        assert_eq!(names(&steps), ["scsi_mod", "libata", "libahci"]);
        assert_eq!(
            steps[0].file,
            Path::new("kernel/drivers/scsi/scsi-mod.ko.xz")
        );
    }

    #[test]
    fn names_aliases_and_built_in_modules_are_told_apart() {
        let index = index();
        assert_eq!(index.wanted_by("pci:v1d2"), ["ahci"]);
        assert_eq!(index.wanted_by("scsi-mod"), ["scsi_mod"]);
        assert_eq!(index.wanted_by("fs-ext4"), ["ext4"]);
        assert!(index.wanted_by("nvme-core").is_empty());
        assert!(index.has_built_in("nvme-core") && !index.has_built_in("ext4"));
        assert!(index.wanted_by("fs-none").is_empty());
    }

    #[test]
    fn soft_dependencies_are_followed_once_and_may_be_missing_or_refused() {
        let steps = index().steps("ext4").unwrap();
        assert_eq!(
            names(&steps),
            [
                "crc32c_gen",
                "ext4",
                "scsi_mod",
                "libata",
                "libahci",
                "ahci"
            ]
        );
    }

    #[test]
    fn what_would_assemble_volumes_is_refused_by_any_name() {
        for request in ["dm-mod", "dm-raid", "pci:v2"] {
            for name in index().wanted_by(request) {
                let error = index().steps(name).unwrap_err().to_string();
                assert!(error.contains("dm_mod"), "{error}");
            }
        }
    }

    #[test]
    fn a_folder_without_the_files_is_said_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let error = format!("{:#}", Index::read(dir.path()).unwrap_err());
        assert!(error.contains("modules.alias"), "{error}");
    }

    #[test]
    fn nonsense_is_passed_over() {
        let index = Index::parse(
            "alias\nalias x\n",
            "no colon\n.ko: \n:\n",
            "softdep\n",
            "x\n",
        );
        assert!(index.wanted_by("x").is_empty());
        assert!(index.modules.is_empty());
    }
}
