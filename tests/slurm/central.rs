//! A central file system for images that counts how much each process reads.
//!
//! A real one, in user space (FUSE), without a page cache: every byte that any process reads comes through here.
//! A change in the directory behind it is visible at once, like a change by another client of a central file system.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen, Request,
    SessionACL,
};

/// Bytes that were read of one file, by process.
pub type Reads = BTreeMap<u32, u64>;

type Ledger = Arc<Mutex<BTreeMap<String, Reads>>>;

/// The file system, mounted until it is dropped.
pub struct Central {
    /// Where it is mounted.
    pub dir: PathBuf,
    /// The directory behind it.
    pub behind: PathBuf,
    ledger: Ledger,
    delay_ms: Arc<AtomicU64>,
    _session: BackgroundSession,
}

impl Central {
    /// Mounts one below `place`.
    pub fn mount(place: &Path) -> Self {
        let (dir, behind) = (place.join("central"), place.join("behind"));
        for made in [&dir, &behind] {
            fs::create_dir(made).unwrap();
        }
        let (ledger, delay_ms) = (Ledger::default(), Arc::new(AtomicU64::new(0)));
        let server = Server {
            behind: behind.clone(),
            ledger: Arc::clone(&ledger),
            delay_ms: Arc::clone(&delay_ms),
            open: Mutex::default(),
        };
        let mut config = Config::default();
        config.mount_options =
            vec![MountOption::FSName("central".into()), MountOption::RO, MountOption::DefaultPermissions];
        config.acl = SessionACL::All;
        config.n_threads = Some(8);
        let session = fuser::spawn_mount(server, &dir, &config).expect("FUSE");
        Self { dir, behind, ledger, delay_ms, _session: session }
    }

    /// Makes every read of up to 128 KiB take this long.
    pub fn slow_down(&self, delay: Duration) {
        self.delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    /// What was read of a file since the last call.
    pub fn reads(&self, name: &str) -> Reads {
        self.ledger.lock().unwrap().remove(name).unwrap_or_default()
    }
}

struct Server {
    behind: PathBuf,
    ledger: Ledger,
    delay_ms: Arc<AtomicU64>,
    /// Open files by their handles, with their names.
    open: Mutex<BTreeMap<u64, (String, Arc<File>)>>,
}

/// Nothing is remembered by the kernel.
const NO_TIME: Duration = Duration::ZERO;

impl Server {
    fn path_of(&self, ino: u64) -> Option<PathBuf> {
        if ino == INodeNo::ROOT.0 {
            return Some(self.behind.clone());
        }
        let files = fs::read_dir(&self.behind).ok()?.flatten();
        files.map(|file| file.path()).find(|path| fs::metadata(path).is_ok_and(|meta| meta.ino() == ino))
    }
}

fn attributes(path: &Path, ino: Option<u64>) -> Option<FileAttr> {
    let meta = fs::metadata(path).ok()?;
    let time = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.max(0) as u64);
    Some(FileAttr {
        ino: INodeNo(ino.unwrap_or(meta.ino())),
        size: meta.len(),
        blocks: meta.blocks(),
        atime: time(meta.atime()),
        mtime: time(meta.mtime()),
        ctime: time(meta.ctime()),
        crtime: time(meta.ctime()),
        kind: if meta.is_dir() { FileType::Directory } else { FileType::RegularFile },
        perm: (meta.mode() & 0o7777) as u16,
        nlink: 1,
        uid: meta.uid(),
        gid: meta.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match attributes(&self.behind.join(name), None) {
            Some(attributes) => reply.entry(&NO_TIME, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.path_of(ino.0).and_then(|path| attributes(&path, Some(ino.0))) {
            Some(attributes) => reply.attr(&NO_TIME, &attributes),
            None => reply.error(Errno::ESTALE),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let opened = self.path_of(ino.0).and_then(|path| {
            let name = path.file_name()?.to_str()?.to_owned();
            Some((name, Arc::new(File::open(path).ok()?)))
        });
        let Some(opened) = opened else { return reply.error(Errno::ESTALE) };
        let mut open = self.open.lock().unwrap();
        let handle = open.keys().last().map_or(1, |last| last + 1);
        open.insert(handle, opened);
        // direct_io: each read comes here.
        reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let opened = self.open.lock().unwrap().get(&handle.0).cloned();
        let Some((name, file)) = opened else { return reply.error(Errno::EBADF) };
        std::thread::sleep(Duration::from_millis(self.delay_ms.load(Ordering::Relaxed)));
        let mut bytes = vec![0; size as usize];
        match file.read_at(&mut bytes, offset) {
            Ok(n) => {
                let mut ledger = self.ledger.lock().unwrap();
                if n > 0 {
                    *ledger.entry(name).or_default().entry(request.pid()).or_default() += n as u64;
                }
                drop(ledger);
                reply.data(&bytes[..n]);
            }
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let files = fs::read_dir(&self.behind).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            files.filter_map(|file| Some((file.file_name(), file.metadata().ok()?.ino()))).collect();
        names.sort();
        for (number, (name, ino)) in names.into_iter().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(ino), number as u64 + 1, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }
}
