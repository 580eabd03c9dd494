//! The numbers that disks are chosen by at the appliance. In: the machine's list of disks, which may
//! be captured, what is typed. Out: the paths of the chosen ones.

use crate::inventory::Machine;
use std::path::PathBuf;

/// The source disks with the numbers that the machine's list on the screen gives them. A disk with
/// several paths is one of them, by the path that is listed.
pub(super) fn numbered(machine: &Machine, sources: Vec<PathBuf>) -> Vec<(usize, PathBuf)> {
    let listed: Vec<PathBuf> = machine.disks.iter().map(|disk| disk.device()).collect();
    let mut next = listed.len();
    sources
        .into_iter()
        .filter(|path| machine.first_path_of(path).is_none())
        .map(|path| {
            let number = listed
                .iter()
                .position(|other| *other == path)
                .unwrap_or_else(|| {
                    next = next.saturating_add(1);
                    next.saturating_sub(1)
                });
            (number, path)
        })
        .collect()
}

/// The disks of a line like `0 2`; `None` unless every word is the number of a source disk.
pub(super) fn chosen(line: &str, all: &[(usize, PathBuf)]) -> Option<Vec<PathBuf>> {
    line.split([' ', ','])
        .filter(|word| !word.is_empty())
        .map(|word| {
            let wanted = word.parse::<usize>().ok()?;
            all.iter()
                .find(|(number, _)| *number == wanted)
                .map(|(_, path)| path.clone())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_choose_disks_as_the_screen_lists_them_and_anything_else_does_not() {
        // The stick is number 1 of the machine's list.
        let all = [
            (0, PathBuf::from("/dev/sda")),
            (2, PathBuf::from("/dev/sdc")),
        ];
        assert_eq!(chosen("2", &all), Some(vec![all[1].1.clone()]));
        assert_eq!(
            chosen("2, 0", &all),
            Some(vec![all[1].1.clone(), all[0].1.clone()])
        );
        assert_eq!(chosen("1", &all), None);
        assert_eq!(chosen("sda", &all), None);
    }

    #[test]
    fn a_disk_with_two_paths_is_offered_once() {
        let json = r#"{"version":2,"name":"san","disks":[{"name":"sda","paths":["sda","sdc"]},
            {"name":"sdb"}]}"#;
        let machine = Machine::from_json(json.as_bytes()).unwrap();
        let sources = ["/dev/sda", "/dev/sdb", "/dev/sdc", "/dev/sdd"].map(PathBuf::from);
        // sdd came after the machine was looked at.
        assert_eq!(
            numbered(&machine, sources.to_vec()),
            [
                (0, "/dev/sda".into()),
                (1, "/dev/sdb".into()),
                (2, "/dev/sdd".into())
            ]
        );
    }
}
