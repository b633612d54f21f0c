//! QEMU held to files that are not the user's. Files of a job come to its guest by a file server, and QEMU gets all disks as
//! descriptors, so a guest that has taken over QEMU needs to open nothing but what QEMU's program itself does. Where the
//! kernel has Landlock, it can open nothing else.
//!
//! | what goes wrong | what happens |
//! | --- | --- |
//! | the kernel has no Landlock, or it is switched off | QEMU runs as before; `require` starts no VM |
//! | nobody knows what the program needs: a script, a program or its libraries at a place of the site's own | the same, and the log says so; `require` confines it all the same |
//! | a directory or device is missing | it is left out |
//! | the program wants more than is allowed | QEMU's own message, and a word on the setting |
//! | the child cannot enter the rules | QEMU is not started |
//! | the program has no filter of system calls of its own ([`Sandbox`]) | it may execute nothing but itself; where it cannot be confined it is not started |

mod landlock;

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Once;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

pub(crate) use self::landlock::Ruleset;
use self::landlock::access;
use crate::elf::{self, Kind};
use crate::error::QemuError;
use crate::sandbox::Sandbox;

/// Programs, libraries and their data. On most systems some of these are links to others; their own places count.
const SYSTEM: [&str; 9] = ["/usr", "/opt", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store"];

/// What the system says about itself, and settings of libraries.
const FACTS: [&str; 3] = ["/etc", "/proc", "/sys"];

/// Devices that QEMU opens itself; all others come to it open.
const DEVICES: [&str; 5] = ["/dev/kvm", "/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];

const CODE: u64 = access::EXECUTE | access::READ | access::LIST;
const LOOK: u64 = access::READ | access::LIST;
const CHANGE: u64 = access::READ | access::WRITE | access::TRUNCATE;
const DEVICE: u64 = access::READ | access::WRITE | access::IOCTL;

/// Where the names of servers are looked up: QEMU reads it again and again for the guest's.
const RESOLVER: &str = "/etc/resolv.conf";

/// Whether QEMU is held to files that are not the user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confine {
    /// Where the kernel can, and it is known what the program needs.
    Auto,
    /// Always, or no VM starts.
    Require,
    /// Never.
    Off,
}

impl Confine {
    /// All values as they are written.
    pub const WORDS: [(&'static str, Self); 3] = [("auto", Self::Auto), ("require", Self::Require), ("off", Self::Off)];
}

/// What the site says about it.
#[derive(Debug, Clone, Copy)]
pub struct Confinement<'a> {
    /// Whether.
    pub how: Confine,
    /// Directories that the program needs beside the system's.
    pub dirs: &'a [PathBuf],
}

/// Why QEMU is not confined.
#[derive(Debug)]
pub enum Unconfined {
    /// The site has said so.
    Off,
    /// The kernel cannot.
    Kernel(io::Error),
    /// It is not known what the program needs.
    Program(String),
}

impl fmt::Display for Unconfined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("the site has switched it off"),
            Self::Kernel(error) => match error.raw_os_error() {
                Some(libc::ENOSYS) => f.write_str("this kernel has no Landlock (Linux has it since 5.13)"),
                Some(libc::EOPNOTSUPP) => f.write_str("Landlock is switched off ('lsm=' on the kernel's command line)"),
                _ => write!(f, "Landlock: {error}"),
            },
            Self::Program(why) => f.write_str(why),
        }
    }
}

impl From<io::Error> for Unconfined {
    fn from(error: io::Error) -> Self {
        Self::Kernel(error)
    }
}

impl Confinement<'_> {
    /// The release of Landlock that will confine this program.
    ///
    /// # Errors
    /// Why it will not be.
    pub fn look(self, qemu: &Path) -> Result<u32, Unconfined> {
        if self.how == Confine::Off {
            return Err(Unconfined::Off);
        }
        let abi = landlock::abi()?;
        if self.how == Confine::Auto {
            self.knows_needs_of(&real(qemu)?).map_err(Unconfined::Program)?;
        }
        Ok(abi)
    }

    /// Whether all directories can be ones that QEMU needs.
    ///
    /// # Errors
    /// The first that cannot.
    pub fn check(self) -> Result<(), QemuError> {
        let needless = |dir: &&PathBuf| !dir.is_absolute() || dir.components().count() < 2;
        match self.dirs.iter().find(needless) {
            Some(dir) => {
                Err(QemuError::new(format!("qemu_dirs: {dir:?}: the absolute path of a directory below / is needed")))
            }
            None => Ok(()),
        }
    }

    /// Why a program has no sandbox here, if it has none of its own and would not be confined.
    pub(crate) fn lacks_sandbox(self, qemu: &Path) -> Option<String> {
        let why = (Sandbox::of(qemu) == Sandbox::Ours).then(|| self.look(qemu).err())??;
        Some(without_sandbox(qemu, &why))
    }

    /// The rules for a QEMU with these arguments, which opens `reopened` by their descriptors once more. `None`: it is not confined.
    ///
    /// # Errors
    /// When it must be and cannot be.
    pub(crate) fn rules(
        self,
        (qemu, sandbox): (&Path, Sandbox),
        args: &[OsString],
        reopened: &[&File],
    ) -> Result<Option<Ruleset>, QemuError> {
        static TOLD: Once = Once::new();
        let why = match self.make((qemu, sandbox), args, reopened) {
            Ok(ruleset) => return Ok(Some(ruleset)),
            Err(why) => why,
        };
        match self.how {
            _ if sandbox == Sandbox::Ours => return Err(QemuError::new(without_sandbox(qemu, &why))),
            Confine::Off => {}
            Confine::Auto => TOLD.call_once(|| tracing::info!("QEMU can open files of its user: {why}")),
            Confine::Require => {
                return Err(QemuError::new(format!(
                    "QEMU cannot be confined, and the site demands it (confine_qemu = \"require\"): {why}"
                )));
            }
        }
        Ok(None)
    }

    fn make(
        self,
        (qemu, sandbox): (&Path, Sandbox),
        args: &[OsString],
        reopened: &[&File],
    ) -> Result<Ruleset, Unconfined> {
        let abi = self.look(qemu)?;
        let after = |option: &'static str| args.windows(2).filter(move |pair| pair[0] == option).map(|pair| &pair[1]);
        let has_user_network = after("-netdev").any(|netdev| netdev.as_bytes().starts_with(b"user"));
        let ruleset = Ruleset::new(abi, !has_user_network)?;
        let program = real(qemu)?;
        let own = own_tree(&program);
        let code = SYSTEM.map(|dir| (Path::new(dir), libc::O_NOFOLLOW));
        let rights = match sandbox {
            Sandbox::Own => CODE,
            Sandbox::Ours => LOOK,
        };
        for (dir, follow) in code.into_iter().chain(self.dirs.iter().chain(&own).map(|dir| (dir.as_path(), 0))) {
            below(&ruleset, dir, follow, rights)?;
        }
        if sandbox == Sandbox::Ours {
            // Its filter must allow exec, so nothing else may be executed.
            let loader = elf::needs(&program, &File::open(&program)?)?.loader;
            for file in [Some(program), loader].into_iter().flatten() {
                one(&ruleset, &file, access::EXECUTE | access::READ)?;
            }
        }
        for dir in FACTS {
            below(&ruleset, Path::new(dir), 0, LOOK)?;
        }
        for device in DEVICES {
            one(&ruleset, Path::new(device), DEVICE)?;
        }
        for file in after("-kernel").chain(after("-initrd")) {
            one(&ruleset, Path::new(file), access::READ)?;
        }
        if has_user_network && let Ok(file) = real(Path::new(RESOLVER)) {
            // Replaced by its service when the node's network changes.
            match file.parent().filter(|dir| dir.starts_with("/run")) {
                Some(dir) => below(&ruleset, dir, 0, LOOK)?,
                None => one(&ruleset, &file, access::READ)?,
            }
        }
        for file in reopened {
            let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL).map_err(io::Error::from)?);
            let rights = if flags & OFlag::O_ACCMODE == OFlag::O_RDONLY { access::READ } else { CHANGE };
            match ruleset.allow(file.as_fd(), rights) {
                // Memory only, which nothing forbids.
                Err(error) if error.raw_os_error() == Some(libc::EBADFD) => {}
                other => other?,
            }
        }
        Ok(ruleset)
    }

    /// Whether everything that the program needs will be allowed; if not, or if that cannot be known, why.
    fn knows_needs_of(self, program: &Path) -> Result<(), String> {
        let shown = program.display();
        if !self.covers(program) {
            return Err(format!("{shown} is in no directory of the system's"));
        }
        let unreadable = |error: io::Error| format!("{shown}: {error}");
        let opened = File::open(program).map_err(unreadable)?;
        match elf::kind(&opened).map_err(unreadable)? {
            Kind::Elf => {}
            Kind::Script => return Err(format!("{shown} is a script, which may need anything")),
            Kind::Other => return Err(format!("{shown} is no program that is understood")),
        }
        if program.starts_with("/usr") && !program.starts_with("/usr/local") {
            // The system's own needs nothing of the site's.
            return Ok(());
        }
        let needs = elf::needs(program, &opened).map_err(unreadable)?;
        let places = needs.loader.iter().chain(&needs.dirs);
        // What is not there cannot be needed.
        match places.filter_map(|place| real(place).ok()).find(|place| !self.covers(place)) {
            Some(place) => Err(format!("{shown} has libraries in {}", place.display())),
            None => Ok(()),
        }
    }

    fn covers(self, path: &Path) -> bool {
        let of_site = self.dirs.iter().filter_map(|dir| real(dir).ok());
        of_site.chain(SYSTEM.map(PathBuf::from)).any(|dir| path.starts_with(dir))
    }
}

fn without_sandbox(qemu: &Path, why: &Unconfined) -> String {
    format!(
        "{} has no sandbox (it is built without seccomp), and is not confined, which one needs: {why}",
        qemu.display()
    )
}

fn real(path: &Path) -> io::Result<PathBuf> {
    path.canonicalize()
}

/// Where a program that is installed by itself has what belongs to it.
fn own_tree(program: &Path) -> Vec<PathBuf> {
    let Some(dir) = program.parent().filter(|dir| !SYSTEM.iter().any(|system| dir.starts_with(system))) else {
        return Vec::new();
    };
    let is_one_of_several = ["bin", "sbin", "libexec"].iter().any(|name| dir.ends_with(name));
    let prefix = dir.parent().filter(|_| is_one_of_several);
    let beside =
        prefix.into_iter().flat_map(|prefix| ["lib", "lib64", "libexec", "share"].map(|name| prefix.join(name)));
    [dir.to_owned()].into_iter().chain(beside).collect()
}

fn below(ruleset: &Ruleset, dir: &Path, flags: i32, rights: u64) -> io::Result<()> {
    allow(ruleset, dir, flags | libc::O_DIRECTORY, rights)
}

fn one(ruleset: &Ruleset, file: &Path, rights: u64) -> io::Result<()> {
    allow(ruleset, file, 0, rights)
}

/// Allows it if it is there. Nothing is opened but its place.
fn allow(ruleset: &Ruleset, path: &Path, flags: i32, rights: u64) -> io::Result<()> {
    match OpenOptions::new().read(true).custom_flags(libc::O_PATH | flags).open(path) {
        Ok(place) => ruleset.allow(place.as_fd(), rights),
        Err(error) => match error.raw_os_error() {
            // QEMU could not open it either.
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EACCES) => Ok(()),
            _ => Err(error),
        },
    }
}
