//! What is not this node's fault: file servers that do not answer or do not trust root.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use image::ImageError;

/// How long the directories of images may take. Both looks of a Prolog fit into the time that Slurm gives it.
const PATIENCE: Duration = Duration::from_secs(6);

/// The result of `look`, unless it hangs: then the thread is left to itself, and ends with this process.
pub(super) fn in_time<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    within(PATIENCE, look)
}

fn within<T: Send + 'static>(time: Duration, look: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        // Nobody may be listening any more.
        let _ = send.send(look());
    });
    receive.recv_timeout(time).map_err(|_| format!("no answer within {} s; VM steps wait for it too", time.as_secs()))
}

/// Whether an error is about a file server and root, and says nothing of what users can read here: NFS gives root no
/// rights (root_squash), or its server has gone for a while.
pub(super) fn is_the_servers(error: &ImageError) -> bool {
    let ImageError::Directory { source, .. } = error else { return false };
    source.kind() == io::ErrorKind::PermissionDenied
        || matches!(source.raw_os_error(), Some(libc::ESTALE | libc::ETIMEDOUT | libc::EHOSTDOWN | libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_told_and_what_answers_is_passed_on() {
        assert_eq!(within(Duration::from_secs(60), || 7), Ok(7));
        let hangs = within(Duration::from_millis(1), || std::thread::sleep(Duration::from_secs(3600)));
        assert!(hangs.unwrap_err().contains("no answer"));
    }

    #[test]
    fn a_directory_that_root_may_not_read_is_no_failure_and_a_missing_one_is() {
        let of = |number| ImageError::Directory { dir: "/sw".into(), source: io::Error::from_raw_os_error(number) };
        assert!([libc::EACCES, libc::EPERM, libc::ESTALE].into_iter().all(|number| is_the_servers(&of(number))));
        assert!(!is_the_servers(&of(libc::ENOTDIR)));
    }
}
