//! What the layers add up to, in the order in which it is written.

use std::collections::{BTreeSet, HashMap};

use super::tree::{Body, Inode, Node, Tree};
use archive::{Entry, Kind};

/// Everything that goes into the image.
#[derive(Debug, Default)]
pub struct Plan {
    /// In the order of the tree: a directory before what is in it.
    plain: Vec<Entry>,
    /// Files by layer and number of the entry that has their content.
    files: HashMap<(u32, u64), PlannedFile>,
    layers: BTreeSet<u32>,
    bytes: u64,
}

/// A file whose content is still to come.
#[derive(Debug)]
pub struct PlannedFile {
    /// Its number in the tree.
    pub inode: Inode,
    /// Whether it may be executed.
    pub executable: bool,
    /// The entry, under its first name.
    pub entry: Entry,
    /// Its other names.
    pub links: Vec<Vec<u8>>,
}

impl Plan {
    /// Which parts of the tree are to be written, and where their content comes from.
    ///
    /// # Errors
    /// A path that is too long.
    pub fn of(tree: &Tree) -> anyhow::Result<Self> {
        let mut plan = Self::default();
        tree.walk(|inode, node, path| plan.add(inode, node, path))?;
        Ok(plan)
    }

    fn add(&mut self, inode: Inode, node: &Node, path: &[u8]) {
        let entry = Entry { path: path.to_vec(), ..node.entry.clone() };
        let Body::File(layer, ordinal) = node.body else {
            self.plain.push(entry);
            return;
        };
        if let Some(file) = self.files.get_mut(&(layer, ordinal)) {
            file.links.push(path.to_vec());
            return;
        }
        self.bytes += node.entry.kind.size();
        self.layers.insert(layer);
        let executable = entry.mode & 0o111 != 0;
        self.files.insert((layer, ordinal), PlannedFile { inode, executable, entry, links: Vec::new() });
    }

    /// Bytes of content of all files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Directories, links, devices and pipes.
    pub fn without_content(&self) -> &[Entry] {
        &self.plain
    }

    /// Whether any content of the layer is needed.
    pub fn wants_layer(&self, layer: u32) -> bool {
        self.layers.contains(&layer)
    }

    /// The file whose content this entry has, if it is needed.
    pub fn file(&self, layer: u32, ordinal: u64) -> Option<&PlannedFile> {
        self.files.get(&(layer, ordinal))
    }
}

impl PlannedFile {
    /// The entries after the first one: the same file under other names.
    pub fn other_names(&self) -> impl Iterator<Item = Entry> + '_ {
        self.links.iter().map(|name| Entry {
            path: name.clone(),
            kind: Kind::HardLink(self.entry.path.clone()),
            xattrs: Vec::new(),
            ..self.entry.clone()
        })
    }
}
