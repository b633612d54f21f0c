//! What a test changes for all others, put back however the test ends.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Runs its function when it is dropped: at the end of a test, or when the test panics.
#[must_use = "what it undoes would be undone at once"]
pub struct Undo<'a>(Option<Box<dyn FnOnce() + 'a>>);

impl std::fmt::Debug for Undo<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Undo").finish_non_exhaustive()
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let Some(undo) = self.0.take() else { return };
        if !std::thread::panicking() {
            undo();
        } else if catch_unwind(AssertUnwindSafe(undo)).is_err() {
            // A second panic would end the whole suite. The first one says what is wrong with the test.
            eprintln!("and what the test had changed could not be put back");
        }
    }
}

/// Runs `undo` when the value is dropped.
pub fn afterwards<'a>(undo: impl FnOnce() + 'a) -> Undo<'a> {
    Undo(Some(Box::new(undo)))
}

/// Gives a file another content, in one step: who reads it meanwhile finds the old or the new one. Afterwards it is
/// again as it was, or not there.
///
/// # Panics
///
/// If the file cannot be read or written.
#[track_caller]
pub fn with_text<'a>(path: &'a Path, text: &str) -> Undo<'a> {
    if path.exists() {
        let old = unchanged(path);
        replace(path, text.as_bytes());
        return old;
    }
    replace(path, text.as_bytes());
    afterwards(move || fs::remove_file(path).unwrap_or_else(|why| panic!("{}: {why}", path.display())))
}

/// Gives a file its content back afterwards, whoever changes it meanwhile.
///
/// # Panics
///
/// If it cannot be read, or written afterwards.
#[track_caller]
pub fn unchanged(path: &Path) -> Undo<'_> {
    let before = fs::read(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    afterwards(move || replace(path, &before))
}

/// Moves a file or directory out of the way, and afterwards back, over whatever was put in its place.
///
/// # Panics
///
/// If it cannot be moved.
#[track_caller]
pub fn moved_aside(path: &Path) -> Undo<'_> {
    let aside = path.with_extension("aside");
    rename(path, &aside);
    afterwards(move || rename(&aside, path))
}

/// Gives a file or directory another mode, and afterwards its own.
///
/// # Panics
///
/// If that cannot be done.
#[track_caller]
pub fn with_mode(path: &Path, mode: u32) -> Undo<'_> {
    let before = fs::metadata(path).unwrap_or_else(|why| panic!("{}: {why}", path.display())).permissions();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    afterwards(move || fs::set_permissions(path, before).unwrap())
}

/// With the mode that it had.
#[track_caller]
fn replace(path: &Path, bytes: &[u8]) {
    let new = path.with_extension("new");
    let put = || {
        if path.exists() {
            fs::copy(path, &new)?;
        }
        fs::write(&new, bytes)?;
        fs::rename(&new, path)
    };
    put().unwrap_or_else(|why| panic!("{}: {why}", path.display()));
}

#[track_caller]
fn rename(from: &Path, to: &Path) {
    fs::rename(from, to).unwrap_or_else(|why| panic!("{} to {}: {why}", from.display(), to.display()));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with a file of mode 640.
    fn place() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        (dir, file)
    }

    fn is_as_before(dir: &Path) {
        let file = dir.join("file");
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
    }

    #[test]
    fn what_a_test_changed_is_put_back_even_if_the_test_fails() {
        let (dir, file) = place();
        let other = dir.path().join("other");
        let failed = catch_unwind(|| {
            let _mode = with_mode(&file, 0o666);
            let _text = with_text(&file, "new");
            let _other = with_text(&other, "new");
            assert_eq!(fs::read_to_string(&file).unwrap(), fs::read_to_string(&other).unwrap());
            panic!("the test's own");
        });
        assert_eq!(failed.unwrap_err().downcast_ref(), Some(&"the test's own"));
        is_as_before(dir.path());
    }

    #[test]
    fn what_was_moved_aside_comes_back_over_what_took_its_place() {
        let (dir, file) = place();
        let aside = moved_aside(&file);
        assert!(!file.exists());
        fs::write(&file, "stand-in").unwrap();
        drop(aside);
        is_as_before(dir.path());
    }

    #[test]
    fn a_test_that_fails_twice_does_not_end_the_suite() {
        let (_dir, file) = place();
        let failed = catch_unwind(|| {
            let _other = with_text(&file, "new");
            fs::remove_dir_all(file.parent().unwrap()).unwrap();
            panic!("the test's own");
        });
        assert_eq!(failed.unwrap_err().downcast_ref(), Some(&"the test's own"));
    }
}
