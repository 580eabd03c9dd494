//! A file system in memory, in the order in which it is written.

use std::collections::BTreeMap;

/// One thing in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A folder, mode 0755.
    Folder,
    /// A file with its permission bits and contents.
    File(u32, Vec<u8>),
    /// A symbolic link and where it leads.
    Link(String),
}

/// Files by path (no slash at the start); a folder sorts before what is in it.
#[derive(Debug, Default)]
pub struct Tree(BTreeMap<String, Node>);

impl Tree {
    /// Adds a folder, and those above it.
    pub fn folder(&mut self, path: &str) {
        self.put(path, Node::Folder);
    }

    /// Adds a file that is read, mode 0644.
    pub fn file(&mut self, path: &str, data: Vec<u8>) {
        self.put(path, Node::File(0o644, data));
    }

    /// Adds a file that is run, mode 0755.
    pub fn program(&mut self, path: &str, data: Vec<u8>) {
        self.put(path, Node::File(0o755, data));
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.put(path, Node::Link(target.to_owned()));
    }

    /// Everything, sorted by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(path, node)| (path.as_str(), node))
    }

    fn put(&mut self, path: &str, node: Node) {
        let mut above = path;
        while let Some((folder, _)) = above.rsplit_once('/') {
            self.0.entry(folder.to_owned()).or_insert(Node::Folder);
            above = folder;
        }
        self.0.insert(path.to_owned(), node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_what_is_in_them() {
        let mut tree = Tree::default();
        tree.file("usr/lib/a", Vec::new());
        tree.file("init", Vec::new());
        tree.link("usr-link", "usr");
        let paths: Vec<_> = tree.iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["init", "usr", "usr-link", "usr/lib", "usr/lib/a"]);
    }
}
