//! The open descriptors of this process.

use std::fs;
use std::os::fd::RawFd;

/// Their numbers, and that of the list itself, which is closed by now. Without /proc there are none.
pub fn open() -> Vec<RawFd> {
    let listed = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    #[test]
    fn what_is_open_is_listed() {
        let file = File::open("/dev/null").unwrap();
        assert!(super::open().contains(&file.as_raw_fd()));
    }
}
