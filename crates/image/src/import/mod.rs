//! Making an image from what a group has: an archive, a directory, a container image, a virtual disk.
//!
//! ```text
//! file or directory ─► source (what is it?) ─┬─ tar, OCI, docker save ─► layers ─────────────┐
//!                                            ├─ directory ─► export ─► spool ─► layer ───────┤
//!                                            └─ disk ─► helper VM: export ─► spool ─► layer ─┤
//!   catalogue ◄─ enter (atomic) ◄─ squashfs ◄─ pack ◄────────── tree (who wins, and where) ◄─┘
//! ```
//!
//! What must always be true:
//! - Nothing of an archive is unpacked on the host, and no disk is mounted or guessed at there. Names, links and
//!   devices of an archive are values in a tree of ours until the guest's kernel sees them in a file system.
//! - Everything is read twice. The first reading finds all names, sizes and winners, so that a refusal comes
//!   before anything is written; the second reading copies the content.
//! - The size of the result, the number of its files and the memory for their names have limits.
//! - However an import ends, there is a whole image or nothing.

mod arch;
pub mod disk;
mod enter;
mod error;
mod layer;
mod oci;
mod options;
mod pack;
mod plan;
mod progress;
mod source;
mod spool;
mod tree;

use std::fs::File;
use std::io::{BufWriter, Read};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use nix::unistd::{getegid, geteuid};

use self::disk::Disk;
pub use self::error::ImportError;
use self::layer::Layer;
use self::plan::Plan;
use self::progress::Progress;
use self::source::Source;
use self::spool::Spool;
use self::tree::Tree;
use super::catalogue::Image;
use archive::{Entry, Export, Kind, Reader};

pub use self::arch::runs_here;
pub use self::options::ImportOptions;
pub use self::pack::packer_exists;

/// Default limit for the bytes of all files.
pub const DEFAULT_MAX_BYTES: u64 = 64 << 30;

/// Bytes collected before they are written.
const BUFFER: usize = 256 * 1024;

/// The result of an import.
#[derive(Debug)]
pub struct Imported {
    /// The image.
    pub image: Image,
    /// What the user should know about it, one sentence each.
    pub notes: Vec<String>,
}

/// Exports the root that a disk holds: reads the disk, writes a tar with at most so many bytes of files to the file,
/// and returns warnings. The runner's helper VM does this; this module only knows the function.
pub type ExportDisk<'a> = &'a mut dyn FnMut(Disk, u64, File) -> anyhow::Result<Vec<String>>;

/// Packs the tar archive that `archive` yields, compressed or not, into a squashfs image and enters it in the
/// catalogue.
///
/// # Errors
/// When the name is taken, the archive is damaged or holds no root, `sqfstar` is missing, or the directory cannot be
/// written. Nothing is left behind then.
pub fn import(archive: &mut dyn Read, options: &ImportOptions) -> Result<Imported, ImportError> {
    Ok(import_archive(archive, options)?)
}

fn import_archive(archive: &mut dyn Read, options: &ImportOptions) -> anyhow::Result<Imported> {
    enter::name_must_be_free(options)?;
    let progress = Progress::begin();
    let mut import = || {
        let spool = Spool::new(&options.dir)?.filled(archive, &progress).context("reading the archive")?;
        match Source::recognise_file(spool.file()?, "the archive")? {
            Source::Tar(layer) => import_tar(layer, options, &progress),
            _ => bail!("a disk cannot be read from a pipe: give the name of its file"),
        }
    };
    let imported = import();
    progress.end();
    imported
}

/// Makes an image from the file or directory `path`, whatever it is.
///
/// # Errors
/// As [`import`], and when it is nothing that can be imported; the text says what it is and what can be done.
pub fn import_path(path: &Path, options: &ImportOptions, export_disk: ExportDisk<'_>) -> anyhow::Result<Imported> {
    enter::name_must_be_free(options)?;
    let progress = Progress::begin();
    let imported = Source::recognise(path).and_then(|source| match source {
        Source::Tar(layer) => import_tar(layer, options, &progress),
        Source::OciLayout(dir) => import_layers(oci::of_directory(&dir)?, options, &progress, Vec::new()),
        Source::Directory(dir) => {
            let tree = Export { root: dir, owner: owner(), limit: options.max_bytes, ..Export::default() };
            let spool = Spool::new(&options.dir)?;
            progress.wait("collecting files");
            tree.write(BufWriter::with_capacity(BUFFER, spool.file()?))?;
            import_layers(vec![Layer::plain(spool.file()?)?], options, &progress, Vec::new())
        }
        Source::Disk(disk) => {
            let spool = Spool::new(&options.dir)?;
            progress.wait("reading the disk in a helper VM");
            let export = || {
                disk.must_be_whole()?;
                export_disk(disk, options.max_bytes, spool.file()?)
            };
            let notes = export().with_context(|| path.display().to_string())?;
            import_layers(vec![Layer::plain(spool.file()?)?], options, &progress, notes)
        }
    });
    progress.end();
    imported
}

/// The disk in a file, for callers that use it as it is.
///
/// # Errors
/// It is no disk, or one that cannot be used; the text says why and what can be done.
pub fn open_disk(path: &Path) -> anyhow::Result<Disk> {
    match Source::recognise(path)? {
        Source::Disk(disk) => disk.must_be_whole().map(|()| disk).with_context(|| path.display().to_string()),
        _ => bail!("{} is no disk: a full boot needs one with a boot loader and a kernel", path.display()),
    }
}

/// If an ordinary user imports, the user's files get root as owner: in the image they are the system's files. If root
/// imports, files keep their owners.
fn owner() -> Option<(u32, u32)> {
    let (uid, gid) = (geteuid(), getegid());
    (!uid.is_root()).then_some((uid.as_raw(), gid.as_raw()))
}

/// A tar may be a root file system, or hold a container image or a virtual appliance: the names in it show which.
fn import_tar(layer: Layer, options: &ImportOptions, progress: &Progress) -> anyhow::Result<Imported> {
    let mut tree = Tree::new(options.max_bytes);
    read_names(&layer, 0, false, &mut tree, progress)?;
    let is_oci = tree.has_file(b"index.json") && tree.has_file(b"oci-layout");
    // A root may have a file of that name too.
    if is_oci || (tree.has_file(b"manifest.json") && tree.must_be_a_root().is_err()) {
        let layers = oci::of_archive(layer.uncompressed(&options.dir, options.max_bytes)?)?;
        return import_layers(layers, options, progress, Vec::new());
    }
    if tree.names_at_top().any(|name| name.ends_with(b".ovf")) {
        bail!(
            "a virtual appliance must not be compressed and must be a file with a name: unpack it, or import its disk"
        );
    }
    finish(vec![layer], tree, options, progress, Vec::new())
}

/// Puts the layers of a container image on top of each other, the lowest first.
fn import_layers(
    layers: Vec<Layer>,
    options: &ImportOptions,
    progress: &Progress,
    notes: Vec<String>,
) -> anyhow::Result<Imported> {
    let mut tree = Tree::new(options.max_bytes);
    let is_container = layers.len() > 1 || layers.first().is_some_and(Layer::is_of_container);
    for (number, layer) in layers.iter().enumerate() {
        read_names(layer, number as u32, is_container, &mut tree, progress)
            .with_context(|| format!("{} of {}", layer.name(), layers.len()))?;
    }
    finish(layers, tree, options, progress, notes)
}

/// The first reading: what an archive does to the tree.
fn read_names(layer: &Layer, number: u32, whiteouts: bool, tree: &mut Tree, progress: &Progress) -> anyhow::Result<()> {
    layer.verify()?;
    progress.read(layer.bytes());
    let mut reader = Reader::new(layer.open(progress)?);
    tree.begin_layer(number, whiteouts);
    let mut ordinal = 0;
    while let Some(entry) = next(&mut reader)? {
        tree.add(entry, ordinal)?;
        ordinal += 1;
    }
    reader.into_inner().finish(tree.bytes_left().saturating_add(1 << 20))
}

/// The second reading: the content of what is left in the tree, into a file system.
fn finish(
    layers: Vec<Layer>,
    tree: Tree,
    options: &ImportOptions,
    progress: &Progress,
    mut notes: Vec<String>,
) -> anyhow::Result<Imported> {
    tree.must_be_a_root()?;
    notes.extend(tree.notes());
    let plan = Plan::of(&tree)?;
    progress.pack(plan.bytes());
    let staged = enter::begin(options)?;
    let mut arch = arch::Seen::of(&tree);
    let mut packer = pack::Packer::start(&staged.path(), tree.root())?;
    let packed = (|| {
        for entry in plan.without_content() {
            packer.entry(entry)?;
        }
        for (number, layer) in layers.iter().enumerate() {
            if !plan.wants_layer(number as u32) {
                continue;
            }
            let mut reader = Reader::new(layer.open(&Progress::none())?);
            let mut ordinal = 0;
            while next(&mut reader)?.is_some() {
                if let Some(file) = plan.file(number as u32, ordinal) {
                    let content = arch.watch(file.inode, file.executable, progress.counted(reader.content()));
                    packer.file(file, content)?;
                }
                ordinal += 1;
            }
        }
        anyhow::Ok(())
    })();
    packer.finish(packed)?;
    let arch = options.arch.clone().unwrap_or_else(|| {
        let (arch, note) = arch.conclude();
        notes.extend(note);
        arch
    });
    let image = enter::publish(staged, options, arch)?;
    Ok(Imported { image, notes })
}

fn next<R: archive::Skip>(reader: &mut Reader<R>) -> anyhow::Result<Option<Entry>> {
    let entry = reader.next_entry()?;
    if let Some(Entry { kind: Kind::File(size), .. }) = &entry {
        ensure!(*size <= i64::MAX as u64, "the archive has a file of {size} bytes");
    }
    Ok(entry)
}

#[cfg(test)]
mod tests;
