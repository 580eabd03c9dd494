//! Which names of disks by their place mean something else in the VM.

use super::super::disks::{Disks, is_own};
use super::super::mounts::place_name;
use super::Wanted;
use crate::inventory::{Machine, System};
use crate::vm::{VmPlan, printable};

impl Wanted {
    pub(super) fn places(&mut self, machine: &Machine, plan: &VmPlan, system: &System) {
        let line = system.command_line.as_ref();
        let fstab = system.fstab.iter().flatten();
        let root_entry = fstab.clone().find(|entry| entry.file == "/");
        let crypttab = system.crypttab.iter().flatten();
        // What is made anew at each start has nothing on it to go by, and on another disk it would be made over
        // what lies there.
        let fleeting = crypttab.clone().filter(|entry| {
            let random = |key: &String| key.ends_with("random");
            let anew = |option: &String| ["swap", "tmp"].iter().any(|o| option.starts_with(o));
            entry.key.as_ref().is_some_and(random) || entry.options.iter().any(anew)
        });
        self.fleeting = fleeting.map(|entry| entry.spec.clone()).collect();
        let names: Vec<&str> = self
            .root_name
            .iter()
            .chain(&self.resume_name)
            .map(String::as_str)
            .chain(fstab.map(|entry| entry.spec.as_str()))
            .chain(crypttab.map(|entry| entry.spec.as_str()))
            .collect();
        let disks = Disks {
            plan,
            names: names.iter().filter_map(|name| place_name(name)).collect(),
            anchors: [
                line.and_then(|line| line.root.as_deref()),
                root_entry.map(|entry| entry.spec.as_str()),
            ]
            .into_iter()
            .flatten()
            .filter_map(place_name)
            .collect(),
            root: match &*system.root.disks {
                [name] => plan.disks.iter().position(|disk| disk.source_name == *name),
                _ => None,
            },
            all: machine.disks.iter().filter(|disk| is_own(disk)).count() <= plan.disks.len(),
        };
        let mut unknown: Vec<String> = Vec::new();
        let (mut places, mut stay) = (Vec::new(), Vec::new());
        for name in &names {
            let Some(place) = place_name(name) else {
                continue;
            };
            let Some(index) = disks.index(&place) else {
                unknown.push(printable(name));
                continue;
            };
            let list = if disks.stays(&place, index) {
                &mut stay
            } else {
                &mut places
            };
            if !list.iter().any(|(known, _)| known == name) {
                list.push(((*name).to_owned(), index));
            }
        }
        // Other words of the kernel's command line (`cryptdevice=/dev/sda2:x`) are not changed.
        let words = line.map_or("", |line| line.text.as_str());
        for word in words.split(|c: char| c.is_whitespace() || "=,\"'".contains(c)) {
            let device = word.split(':').next().unwrap_or_default();
            let is_known = |list: &[(String, usize)]| list.iter().any(|(known, _)| known == device);
            if place_name(device).is_some() && !is_known(&stay) && !is_known(&places) {
                unknown.push(printable(device));
            }
        }
        unknown.sort();
        unknown.dedup();
        self.unknown_places = !unknown.is_empty();
        self.notes.extend(unknown.iter().map(|name| {
            format!(
                "the installed system names a disk {name}, and which one that was is not known: in the VM it \
                 may be another"
            )
        }));
        (self.places, self.stay) = (places, stay);
    }
}
