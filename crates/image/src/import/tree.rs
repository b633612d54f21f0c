//! The root file system as it would be after unpacking, without unpacking: names, links and owners only.
//!
//! Entries change this tree as they would change a directory under a chroot: later ones replace earlier ones,
//! links are followed within the tree, whiteouts of a container's layer remove what lower layers had.

use std::collections::BTreeMap;

use anyhow::{bail, ensure};

use archive::{Entry, Kind, Xattr, shown};

/// Maximum number of entries of all layers together.
const ENTRIES_MAX: u64 = 4_000_000;

/// Maximum bytes of names, targets and attributes that are kept in memory.
const NAMES_MAX: u64 = 1 << 30;

/// Longest name and path that Linux can use, in bytes.
const NAME_MAX: usize = 255;
const PATH_MAX: usize = 4095;

/// Maximum number of links that one path may lead through.
const HOPS_MAX: usize = 40;

/// Prefix of a name in a container's layer that removes a name of lower layers, and the name that removes all of them.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Number of a file or directory in the tree, whatever names it has.
pub type Inode = u32;

const ROOT: Inode = 0;

/// A file or directory, with everything but its content.
#[derive(Debug)]
pub struct Node {
    /// Owner, permissions and attributes; its path is empty and its kind that of the body.
    pub entry: Entry,
    /// What it is.
    pub body: Body,
}

/// The kind of a node in the tree.
#[derive(Debug)]
pub enum Body {
    /// A directory and what is in it: for each name its number, and the layer that added the name.
    Directory(BTreeMap<Box<[u8]>, (Inode, u32)>),
    /// A file whose content comes from an entry: layer and number of that entry.
    File(u32, u64),
    /// Anything without content.
    Other,
}

/// The tree.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    layer: u32,
    whiteouts: bool,
    entries: u64,
    names: u64,
    bytes: u64,
    max_bytes: u64,
    dropped_attributes: u64,
}

impl Tree {
    /// An empty root whose files may have so many bytes together.
    pub fn new(max_bytes: u64) -> Self {
        let (layer, whiteouts, entries, names, bytes, dropped_attributes) = (0, false, 0, 0, 0, 0);
        Self { nodes: vec![directory()], layer, whiteouts, entries, names, bytes, max_bytes, dropped_attributes }
    }

    /// Starts the next layer, which lies over what was added before; in a container's layer, some names are whiteouts.
    pub fn begin_layer(&mut self, number: u32, whiteouts: bool) {
        (self.layer, self.whiteouts) = (number, whiteouts);
    }

    /// Adds an entry, number `ordinal` of its layer.
    ///
    /// # Errors
    /// No honest archive has such an entry, or a limit is exceeded.
    pub fn add(&mut self, mut entry: Entry, ordinal: u64) -> anyhow::Result<()> {
        self.count(&entry)?;
        let path = std::mem::take(&mut entry.path);
        let parts = components(&path)?;
        // Attributes of other namespaces do not exist in a squashfs.
        let before = entry.xattrs.len();
        entry.xattrs.retain(|Xattr { name, .. }| {
            [&b"user."[..], b"security.", b"trusted."].iter().any(|space| name.starts_with(space))
        });
        self.dropped_attributes += (before - entry.xattrs.len()) as u64;
        let Some((&name, parents)) = parts.split_last() else {
            if entry.kind == Kind::Directory {
                self.nodes[ROOT as usize].entry = entry;
            }
            return Ok(());
        };
        let parent = self.directory_at(parents, &path)?;
        if self.whiteouts && name.starts_with(WHITEOUT) {
            self.white_out(parent, name);
            return Ok(());
        }
        let inode = match &entry.kind {
            Kind::HardLink(target) => self.linked(target, &path)?,
            Kind::Symlink(target) if target.len() > PATH_MAX => bail!(too_long(target)),
            Kind::Directory => {
                if let Some((existing, _)) = self.child(parent, name)
                    && self.is_directory(existing)
                {
                    self.nodes[existing as usize].entry = entry;
                    existing
                } else {
                    self.push(Node { entry, body: Body::Directory(BTreeMap::new()) })
                }
            }
            Kind::File(_) => {
                let layer = self.layer;
                self.push(Node { entry, body: Body::File(layer, ordinal) })
            }
            _ => self.push(Node { entry, body: Body::Other }),
        };
        let layer = self.layer;
        self.children_mut(parent).insert(name.into(), (inode, layer));
        Ok(())
    }

    fn count(&mut self, entry: &Entry) -> anyhow::Result<()> {
        let target = match &entry.kind {
            Kind::Symlink(target) | Kind::HardLink(target) => target.len(),
            _ => 0,
        };
        let attributes: usize = entry.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len() + 48).sum();
        self.entries += 1;
        self.names += (entry.path.len() + target + attributes + 200) as u64;
        self.bytes = self.bytes.saturating_add(entry.kind.size());
        ensure!(self.entries <= ENTRIES_MAX, "the archive has more than {ENTRIES_MAX} entries");
        ensure!(
            self.names <= NAMES_MAX,
            "the names and attributes of the archive take more than {} MiB",
            NAMES_MAX >> 20
        );
        ensure!(
            self.bytes <= self.max_bytes,
            "the files of the archive take more than {} MiB; --max-size allows more",
            self.max_bytes >> 20
        );
        Ok(())
    }

    /// Bytes of files that may still come.
    pub fn bytes_left(&self) -> u64 {
        self.max_bytes - self.bytes
    }

    /// The directory with that path, made where it is missing. Links are followed, never out of the tree.
    fn directory_at(&mut self, parts: &[&[u8]], shown_path: &[u8]) -> anyhow::Result<Inode> {
        let mut way = vec![ROOT];
        let mut todo: Vec<Vec<u8>> = parts.iter().rev().map(|part| part.to_vec()).collect();
        let mut hops = 0;
        while let Some(part) = todo.pop() {
            if stays_or_rises(&mut way, &part) {
                continue;
            }
            let here = way.last().copied().unwrap_or(ROOT);
            let next = match self.child(here, &part) {
                Some((inode, _)) => inode,
                None => {
                    ensure!(part.len() <= NAME_MAX, too_long(shown_path));
                    let inode = self.push(directory());
                    let layer = self.layer;
                    self.names += 200 + part.len() as u64;
                    self.children_mut(here).insert(part.into(), (inode, layer));
                    inode
                }
            };
            match &self.nodes[next as usize] {
                Node { body: Body::Directory(_), .. } => {
                    ensure!(way.len() < PATH_MAX / 2, too_long(shown_path));
                    way.push(next);
                }
                Node { entry: Entry { kind: Kind::Symlink(target), .. }, .. } => {
                    hops += 1;
                    ensure!(
                        hops <= HOPS_MAX,
                        "the archive has '{}' below links that lead in a circle",
                        shown(shown_path)
                    );
                    if target.starts_with(b"/") {
                        way.truncate(1);
                    }
                    todo.extend(target.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
                }
                _ => bail!("the archive has '{}' below what is no directory", shown(shown_path)),
            }
        }
        Ok(way.last().copied().unwrap_or(ROOT))
    }

    /// The node that a hard link means.
    fn linked(&mut self, target: &[u8], path: &[u8]) -> anyhow::Result<Inode> {
        let found = self.find(target, false)?;
        match found {
            Some(inode) if !self.is_directory(inode) => Ok(inode),
            _ => {
                bail!("the archive has '{}' as a hard link to '{}', which is no file of it", shown(path), shown(target))
            }
        }
    }

    /// The node with that path. Links in its directories are followed, and the last name too if `follow`.
    pub fn find(&self, path: &[u8], follow: bool) -> anyhow::Result<Option<Inode>> {
        let mut way = vec![ROOT];
        let mut todo: Vec<Vec<u8>> = components(path)?.iter().rev().map(|part| part.to_vec()).collect();
        let mut hops = 0;
        while let Some(part) = todo.pop() {
            if stays_or_rises(&mut way, &part) {
                continue;
            }
            let here = way.last().copied().unwrap_or(ROOT);
            let Some((next, _)) = self.child(here, &part) else { return Ok(None) };
            match &self.nodes[next as usize].entry.kind {
                Kind::Symlink(target) if !todo.is_empty() || follow => {
                    hops += 1;
                    if hops > HOPS_MAX {
                        return Ok(None);
                    }
                    if target.starts_with(b"/") {
                        way.truncate(1);
                    }
                    todo.extend(target.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
                }
                _ => way.push(next),
            }
        }
        Ok(way.last().copied())
    }

    /// Removes names that lower layers added.
    fn white_out(&mut self, parent: Inode, name: &[u8]) {
        if name == OPAQUE {
            self.keep_own(parent);
            return;
        }
        let victim = &name[WHITEOUT.len()..];
        match self.child(parent, victim) {
            Some((inode, _)) if self.is_directory(inode) && self.keep_own(inode) => {}
            Some((_, layer)) if layer < self.layer => {
                self.children_mut(parent).remove(victim);
            }
            _ => {}
        }
    }

    /// Removes from a directory what this layer did not put there. Returns whether anything is left.
    fn keep_own(&mut self, directory: Inode) -> bool {
        let children: Vec<(Box<[u8]>, Inode, u32)> = match &self.nodes[directory as usize].body {
            Body::Directory(children) => {
                children.iter().map(|(name, &(inode, layer))| (name.clone(), inode, layer)).collect()
            }
            _ => return false,
        };
        let mut left = false;
        for (name, inode, layer) in children {
            let has_own = self.is_directory(inode) && self.keep_own(inode);
            if layer == self.layer || has_own {
                left = true;
            } else {
                self.children_mut(directory).remove(&name);
            }
        }
        left
    }

    /// Whether there is a file of that name at the top.
    pub fn has_file(&self, name: &[u8]) -> bool {
        self.child(ROOT, name).is_some_and(|(inode, _)| matches!(self.nodes[inode as usize].body, Body::File(..)))
    }

    /// The names at the top.
    pub fn names_at_top(&self) -> impl Iterator<Item = &[u8]> {
        self.children(ROOT).keys().map(|name| &**name)
    }

    /// Checks that this can be the root of a system at all.
    ///
    /// # Errors
    /// Says what it looks like instead.
    pub fn must_be_a_root(&self) -> anyhow::Result<()> {
        let names: Vec<&[u8]> = self.names_at_top().collect();
        ensure!(!names.is_empty(), "there are no files in it");
        if [&b"bin"[..], b"usr", b"etc", b"sbin"].iter().any(|name| names.contains(name)) || self.has_program() {
            return Ok(());
        }
        match names[..] {
            [only] if self.child(ROOT, only).is_some_and(|(inode, _)| self.is_directory(inode)) => {
                bail!("it is no root file system: everything lies in '{}'; pack what is in there instead", shown(only))
            }
            _ => bail!("it is no root file system: it has neither bin nor usr nor etc, but '{}'", shown(names[0])),
        }
    }

    /// An image with a single program may have that program in any place.
    fn has_program(&self) -> bool {
        let is_program = |&(inode, _): &(Inode, u32)| {
            let Node { entry, body } = &self.nodes[inode as usize];
            matches!(body, Body::File(..)) && entry.mode & 0o111 != 0
        };
        self.children(ROOT).values().any(is_program)
    }

    /// What was left out, in words.
    pub fn notes(&self) -> Option<String> {
        (self.dropped_attributes > 0).then(|| {
            format!("{} access control lists were left out: a squashfs cannot have them", self.dropped_attributes)
        })
    }

    /// The root directory's own entry.
    pub fn root(&self) -> &Entry {
        &self.nodes[ROOT as usize].entry
    }

    /// The node with that number.
    pub fn node(&self, inode: Inode) -> &Node {
        &self.nodes[inode as usize]
    }

    /// Calls `visit` for every name of every node but the root; a directory comes before what is in it.
    ///
    /// # Errors
    /// A path that is too long.
    pub fn walk(&self, mut visit: impl FnMut(Inode, &Node, &[u8])) -> anyhow::Result<()> {
        self.walk_below(ROOT, &mut Vec::new(), &mut visit)
    }

    fn walk_below(
        &self,
        directory: Inode,
        path: &mut Vec<u8>,
        visit: &mut impl FnMut(Inode, &Node, &[u8]),
    ) -> anyhow::Result<()> {
        for (name, &(inode, _)) in self.children(directory) {
            let before = path.len();
            if before > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            ensure!(path.len() <= PATH_MAX, too_long(path));
            let node = self.node(inode);
            visit(inode, node, path);
            if let Body::Directory(_) = node.body {
                self.walk_below(inode, path, visit)?;
            }
            path.truncate(before);
        }
        Ok(())
    }

    fn push(&mut self, node: Node) -> Inode {
        self.nodes.push(node);
        (self.nodes.len() - 1) as Inode
    }

    fn is_directory(&self, inode: Inode) -> bool {
        matches!(self.nodes[inode as usize].body, Body::Directory(_))
    }

    fn child(&self, directory: Inode, name: &[u8]) -> Option<(Inode, u32)> {
        self.children(directory).get(name).copied()
    }

    fn children(&self, directory: Inode) -> &BTreeMap<Box<[u8]>, (Inode, u32)> {
        static NONE: BTreeMap<Box<[u8]>, (Inode, u32)> = BTreeMap::new();
        match &self.nodes[directory as usize].body {
            Body::Directory(children) => children,
            _ => &NONE,
        }
    }

    fn children_mut(&mut self, directory: Inode) -> &mut BTreeMap<Box<[u8]>, (Inode, u32)> {
        match &mut self.nodes[directory as usize].body {
            Body::Directory(children) => children,
            _ => unreachable!("only directories are asked"),
        }
    }
}

/// A directory that no entry described.
fn directory() -> Node {
    let entry =
        Entry { path: Vec::new(), kind: Kind::Directory, mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: Vec::new() };
    Node { entry, body: Body::Directory(BTreeMap::new()) }
}

/// The parts of a path in an archive. A slash at its start makes no difference; a path that leads out of the archive is
/// an error.
fn components(path: &[u8]) -> anyhow::Result<Vec<&[u8]>> {
    ensure!(!path.contains(&0), "the archive has a name with a zero byte: '{}'", shown(path));
    let parts: Vec<&[u8]> = path.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    ensure!(!parts.contains(&&b".."[..]), "the archive has '{}', which leads out of it", shown(path));
    ensure!(parts.iter().all(|part| part.len() <= NAME_MAX) && path.len() <= PATH_MAX, too_long(path));
    Ok(parts)
}

/// Whether a component of a link's target stays where it is or goes up one directory, never above the root.
fn stays_or_rises(way: &mut Vec<u32>, part: &[u8]) -> bool {
    if part == b".." && way.len() > 1 {
        way.pop();
    }
    matches!(part, b"" | b"." | b"..")
}

fn too_long(path: &[u8]) -> String {
    format!("the archive has a name that is longer than Linux allows: '{}…'", shown(&path[..path.len().min(40)]))
}
