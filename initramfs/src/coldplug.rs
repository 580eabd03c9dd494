//! The devices that were there before anyone listened: each tells in `modalias` which driver it
//! wants.

use crate::modules::Loader;
use std::path::{Path, PathBuf};

/// Requests the driver of every device below `root`.
pub(crate) fn request_all(root: &Path, loader: &Loader) {
    for alias in aliases(root) {
        loader.request(&alias);
    }
}

/// Every modalias below `root`, each once, in the order of the tree.
fn aliases(root: &Path) -> Vec<String> {
    let mut aliases = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        if let Ok(text) = std::fs::read_to_string(folder.join("modalias")) {
            let alias = text.trim_end().to_owned();
            if !alias.is_empty() && !aliases.contains(&alias) {
                aliases.push(alias);
            }
        }
        folders.extend(subfolders(&folder));
    }
    aliases
}

/// Not through links: sysfs is full of circles.
fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let mut subfolders: Vec<_> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    subfolders.sort_by(|a, b| b.cmp(a));
    subfolders
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_tree_is_walked_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("pci0/0000:00:01.0/usb1")).unwrap();
        fs::create_dir_all(root.join("virtual")).unwrap();
        fs::write(root.join("pci0/0000:00:01.0/modalias"), "pci:v1\n").unwrap();
        fs::write(root.join("pci0/0000:00:01.0/usb1/modalias"), "usb:v2\n").unwrap();
        fs::write(root.join("virtual/modalias"), "pci:v1\n").unwrap();
        std::os::unix::fs::symlink(root, root.join("pci0/0000:00:01.0/subsystem")).unwrap();
        assert_eq!(aliases(root), ["pci:v1", "usb:v2"]);
        assert!(aliases(&root.join("none")).is_empty());
    }
}
