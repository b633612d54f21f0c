//! Limits that a kernel derives from its memory when it boots.
//!
//! A clone's kernel has booted with the little memory of its template. So what depends on that is set again when the
//! runner says how much memory the clone gets: to what the kernel of a machine of that size has. All of these are
//! limits and no reservations, so they need not wait for the memory itself.
//!
//! | limit | the kernel's rule |
//! | --- | --- |
//! | `kernel.threads-max` | memory / 128 KiB: an eighth of it for stacks of 16 KiB |
//! | `user.max_*_namespaces` | half of that |
//! | `fs.file-max` | a tenth of the memory in KiB, at least 8192 |
//! | `fs.inotify.max_user_watches`, `fs.fanotify.max_user_marks` | a hundredth of the memory / 1280, 8192 to 1048576 |
//! | `fs.epoll.max_user_watches` | a twenty-fifth of the memory / 184 |
//! | `net.ipv4.tcp_mem`, `net.ipv4.udp_mem` | a sixteenth and an eighth of the pages, with 3/4 before and 3/2 after |
//! | `net.ipv4.tcp_rmem`, `net.ipv4.tcp_wmem`, the last of three | memory / 128, at most 6 MiB and 4 MiB |
//! | `net.ipv4.tcp_max_orphans`, `net.ipv4.tcp_max_tw_buckets` | half a hash table: memory / 128 KiB, as a power of two, at most 524288 |
//! | size of a tmpfs in percent | the same percentage; half of the pages as number of its files |
//! | `transparent_hugepage` | off below 512 MiB, else as the kernel was built (here: `always`, which most are) |
//!
//! The kernel itself follows plugged memory in `vm.min_free_kbytes` (huge pages raise it), `vm.user_reserve_kbytes`,
//! `vm.admin_reserve_kbytes`, `vm.lowmem_reserve_ratio` and all that is a percentage (`vm.dirty_ratio`,
//! `vm.overcommit_ratio`). What a system has set to a value of its own stays.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;

use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::kmsg;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const PAGE: u64 = 4 * KIB;

/// The tmpfs below `/etc`: it has no path in the root.
static ETC: OnceLock<OwnedFd> = OnceLock::new();

/// Remembers the directory of a tmpfs that no path of the root leads to.
pub(super) fn remember_etc(tmpfs: OwnedFd) {
    let _ = ETC.set(tmpfs);
}

/// A kernel's rule: the values of a limit for so many bytes of memory; `None` for a number that does not depend on it.
type Rule = fn(u64) -> [Option<u64>; 3];

/// Where huge pages are switched on, and what a kernel that has the memory for them does.
const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage";
const WITH_HUGE_PAGES: [(&str, &str); 4] =
    [("defrag", "madvise"), ("khugepaged/defrag", "1"), ("use_zero_page", "1"), ("enabled", "always")];

/// Less memory than this, and a kernel does without huge pages.
const LEAST_FOR_HUGE_PAGES: u64 = 512 * MIB;

/// One number alone.
fn one(value: u64) -> [Option<u64>; 3] {
    [Some(value), None, None]
}

fn threads(bytes: u64) -> u64 {
    bytes / (128 * KIB)
}

fn marks(bytes: u64) -> [Option<u64>; 3] {
    one((bytes / 100 / 1280).clamp(8192, 1 << 20))
}

fn pages_of_net(limit: u64) -> [Option<u64>; 3] {
    let limit = limit.max(128);
    [limit / 4 * 3, limit, limit / 4 * 3 * 2].map(Some)
}

fn half_a_table(bytes: u64) -> [Option<u64>; 3] {
    one((bytes / (128 * KIB)).next_power_of_two().min(1 << 19) / 2)
}

const RULES: [(&str, Rule); 19] = [
    ("kernel/threads-max", |bytes| one(threads(bytes))),
    ("user/max_user_namespaces", |bytes| one(threads(bytes) / 2)),
    ("user/max_pid_namespaces", |bytes| one(threads(bytes) / 2)),
    ("user/max_uts_namespaces", |bytes| one(threads(bytes) / 2)),
    ("user/max_ipc_namespaces", |bytes| one(threads(bytes) / 2)),
    ("user/max_net_namespaces", |bytes| one(threads(bytes) / 2)),
    ("user/max_mnt_namespaces", |bytes| one(threads(bytes) / 2)),
    ("user/max_cgroup_namespaces", |bytes| one(threads(bytes) / 2)),
    ("user/max_time_namespaces", |bytes| one(threads(bytes) / 2)),
    ("fs/file-max", |bytes| one((bytes / KIB / 10).max(8192))),
    ("fs/inotify/max_user_watches", marks),
    ("fs/fanotify/max_user_marks", marks),
    ("fs/epoll/max_user_watches", |bytes| one(bytes / 25 / 184)),
    ("net/ipv4/tcp_mem", |bytes| pages_of_net(bytes / PAGE / 16)),
    ("net/ipv4/udp_mem", |bytes| pages_of_net(bytes / PAGE / 8)),
    ("net/ipv4/tcp_rmem", |bytes| [None, None, Some((bytes / 128).clamp(131_072, 6 * MIB))]),
    ("net/ipv4/tcp_wmem", |bytes| [None, None, Some((bytes / 128).clamp(65_536, 4 * MIB))]),
    ("net/ipv4/tcp_max_orphans", half_a_table),
    ("net/ipv4/tcp_max_tw_buckets", half_a_table),
];

/// What of the template depends on its memory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Derived {
    /// Their places in the table, and their values now.
    limits: Vec<(usize, Vec<u64>)>,
    tmpfs: Vec<Tmpfs>,
    /// The kernel has switched huge pages off, for lack of memory.
    lacks_huge_pages: bool,
}

/// A tmpfs whose size was given in percent.
#[derive(Debug, PartialEq, Eq)]
struct Tmpfs {
    path: PathBuf,
    flags: MsFlags,
    percent: u64,
    /// Whether the number of its files is the kernel's choice too.
    counts_files: bool,
}

impl Derived {
    /// Looks at a system with `bytes` of memory.
    pub fn look(bytes: u64) -> Self {
        let limits = RULES.iter().enumerate().filter_map(|(place, (name, rule))| {
            let text = fs::read_to_string(sysctl(name)).ok()?;
            let values = numbers(&text)?;
            is_derived(&values, &rule(bytes)).then_some((place, values))
        });
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let hidden = ETC.get().map(|tmpfs| format!("/proc/self/fd/{}", tmpfs.as_raw_fd()).into());
        let paths = tmpfs_paths(&mounts).chain(hidden);
        let tmpfs = paths.filter_map(|path| Tmpfs::look(path, bytes)).collect();
        Self {
            limits: limits.collect(),
            tmpfs,
            lacks_huge_pages: bytes < LEAST_FOR_HUGE_PAGES && are_off_by_the_kernel(),
        }
    }

    /// Sets everything to what a system with `bytes` of memory has.
    pub fn fit(&self, bytes: u64) {
        for (place, values) in &self.limits {
            let (name, rule) = &RULES[*place];
            let fitting = values.iter().zip(rule(bytes)).map(|(value, ruled)| ruled.unwrap_or(*value).to_string());
            let text = fitting.collect::<Vec<_>>().join(" ");
            if let Err(error) = fs::write(sysctl(name), text) {
                kmsg::note(&format!("{name}: {error}"));
            }
        }
        if self.lacks_huge_pages && bytes >= LEAST_FOR_HUGE_PAGES {
            for (name, value) in WITH_HUGE_PAGES {
                if let Err(error) = fs::write(format!("{HUGE_PAGES}/{name}"), value) {
                    kmsg::note(&format!("{HUGE_PAGES}/{name}: {error}"));
                }
            }
        }
        for tmpfs in &self.tmpfs {
            if let Err(errno) = tmpfs.fit(bytes) {
                kmsg::note(&format!("size of {}: {}", tmpfs.path.display(), errno.desc()));
            }
        }
    }
}

impl Tmpfs {
    fn look(path: PathBuf, bytes: u64) -> Option<Self> {
        let found = statvfs(&path).ok()?;
        let percent = percent_of(found.blocks() * found.fragment_size(), bytes)?;
        let half_of_pages = bytes / PAGE / 2;
        let counts_files = found.files().abs_diff(half_of_pages) <= half_of_pages / 4;
        let flags = [
            (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
            (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
            (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
            (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
            (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        ];
        let kept = flags.into_iter().filter(|(is, _)| found.flags().contains(*is)).map(|(_, flag)| flag);
        Some(Self { path, flags: kept.collect(), percent, counts_files })
    }

    fn fit(&self, bytes: u64) -> nix::Result<()> {
        let mut options = format!("size={}k", bytes / KIB / 100 * self.percent);
        if self.counts_files {
            options.push_str(&format!(",nr_inodes={}", bytes / PAGE / 2));
        }
        let options = CString::new(options).unwrap_or_default();
        mount(None::<&str>, &self.path, None::<&str>, MsFlags::MS_REMOUNT | self.flags, Some(options.as_c_str()))
    }
}

/// Whether huge pages are off, and nobody has asked for that on the kernel's command line.
fn are_off_by_the_kernel() -> bool {
    let is_off = fs::read_to_string(format!("{HUGE_PAGES}/enabled")).is_ok_and(|text| text.contains("[never]"));
    let is_asked_for = fs::read_to_string("/proc/cmdline").is_ok_and(|text| text.contains("transparent_hugepage="));
    is_off && !is_asked_for
}

fn sysctl(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}

fn numbers(text: &str) -> Option<Vec<u64>> {
    text.split_whitespace().map(|word| word.parse().ok()).collect()
}

/// Whether these values are about the rule's: what the kernel counts as memory when it boots is a little less than what
/// it has later. Other values are the system's own decision.
fn is_derived(values: &[u64], ruled: &[Option<u64>; 3]) -> bool {
    let pairs = values.iter().zip(ruled);
    !values.is_empty()
        && pairs
            .filter_map(|(value, ruled)| Some((value, (*ruled)?)))
            .all(|(value, ruled)| (ruled / 2..=ruled.saturating_mul(2)).contains(value))
}

/// The whole percentage that a size of a tmpfs is, if it is one that people choose.
fn percent_of(size: u64, memory: u64) -> Option<u64> {
    let permille = size * 1000 / memory.max(1);
    [5, 10, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90]
        .into_iter()
        .find(|percent| permille.abs_diff(percent * 10) <= percent / 4)
}

/// Where file systems of type tmpfs are mounted.
fn tmpfs_paths(mounts: &str) -> impl Iterator<Item = PathBuf> {
    mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (path, kind) = (words.next()?, words.next()?);
        // A path with an escaped blank is nobody's tmpfs.
        (kind == "tmpfs" && !path.contains('\\')).then(|| path.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_this_machine_follow_the_rules() {
        let bytes = nix::sys::sysinfo::sysinfo().unwrap().ram_total();
        let found = Derived::look(bytes);
        let names: Vec<_> = found.limits.iter().map(|(place, _)| RULES[*place].0).collect();
        // Others may be set by the machine's owner.
        assert!(names.contains(&"kernel/threads-max") || names.contains(&"net/ipv4/udp_mem"), "{names:?}");
    }

    #[test]
    fn values_that_somebody_chose_stay() {
        let rule = [Some(1000), None, None];
        assert!(is_derived(&[760], &rule) && is_derived(&[1990], &rule));
        assert!(
            !is_derived(&[9_223_372_036_854_775_807], &rule) && !is_derived(&[100], &rule) && !is_derived(&[], &rule)
        );
        let last = [None, None, Some(2_000_000)];
        assert!(is_derived(&[4096, 131_072, 1_900_000], &last) && !is_derived(&[4096, 131_072, 16_777_216], &last));
    }

    #[test]
    fn two_gigabytes_have_the_limits_that_a_kernel_gives_them() {
        let of = |name: &str| RULES.iter().find(|(other, _)| *other == name).unwrap().1(2 << 30);
        assert_eq!(of("kernel/threads-max"), one(16_384));
        assert_eq!(of("user/max_user_namespaces"), one(8192));
        assert_eq!(of("fs/file-max"), one(209_715));
        assert_eq!(of("net/ipv4/tcp_rmem")[2], Some(6 * MIB));
        assert_eq!(of("net/ipv4/udp_mem"), [49_152, 65_536, 98_304].map(Some));
        assert_eq!(of("net/ipv4/tcp_max_orphans"), one(8192));
    }

    #[test]
    fn sizes_in_percent_are_told_from_others() {
        let memory = 240 * MIB;
        assert_eq!(percent_of(memory / 2, memory), Some(50));
        assert_eq!(percent_of(memory / 2 - MIB, memory), Some(50));
        assert_eq!(percent_of(memory / 5, memory), Some(20));
        assert_eq!(percent_of(5 * MIB, memory), None);
        assert_eq!(percent_of(100 * MIB, memory), None);
        let mounts = "tmpfs /run tmpfs rw,nosuid 0 0\n/dev/vda / ext4 rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n";
        assert_eq!(tmpfs_paths(mounts).collect::<Vec<_>>(), ["/run", "/dev/shm"].map(PathBuf::from));
    }
}
