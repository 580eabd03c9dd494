//! Names of files below a folder, in all of its folders.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::{Kind, Node, Tree};
use crate::refusal::Refusal;
use std::collections::BTreeSet;

/// Folders that are looked into in all.
const MOST_FOLDERS: usize = 256;
/// Names that are kept.
const MOST_FILES: usize = 256;
/// Names of a folder that are looked at.
const MOST_NAMES: usize = 1 << 15;
/// Folders inside each other.
const DEEPEST: usize = 6;

/// Paths of the files below the folder `top` of the root whose names end in `suffix`, in whatever case:
/// `/EFI/BOOT/x.efi`. At most [`MOST_FILES`]; a damaged directory ends where it is damaged.
///
/// # Errors
/// When the root directory cannot be read.
pub(crate) fn below(tree: &dyn Tree, top: &str, suffix: &str) -> Result<Vec<String>, Refusal> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut waiting: Vec<(String, Node, usize)> = names(tree, tree.root())?
        .into_iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case(top))
        .map(|(name, node)| (format!("/{name}"), node, 1))
        .collect();
    while let Some((path, node, depth)) = waiting.pop() {
        // A folder inside itself would never end.
        if seen.len() >= MOST_FOLDERS || !seen.insert(node.number) {
            continue;
        }
        for (name, node) in names(tree, node).unwrap_or_default() {
            let path = format!("{path}/{name}");
            match tree.kind(node) {
                Ok(Kind::Directory) if depth < DEEPEST => {
                    waiting.push((path, node, depth.saturating_add(1)));
                }
                Ok(Kind::File)
                    if name.to_ascii_lowercase().ends_with(suffix) && found.len() < MOST_FILES =>
                {
                    found.push(path);
                }
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The names in a directory that a path can have.
fn names(tree: &dyn Tree, directory: Node) -> Result<Vec<(String, Node)>, Refusal> {
    let mut names = Vec::new();
    tree.entries(directory, &mut |name, node| {
        let name = String::from_utf8_lossy(name);
        let plain = !name.contains('/') && !matches!(&*name, "" | "." | "..");
        if plain && names.len() < MOST_NAMES {
            names.push((name.into_owned(), node));
        }
    })?;
    Ok(names)
}
