//! A guest's memory on its way into its template's file.
//!
//! While the guest comes to rest, most of its memory is copied beside it, on a processor that has nothing to do. When the guest is
//! stopped, memory and file are compared block by block, and what has changed meanwhile is written once more. Reading both takes
//! a third of the time that making room for so many pages in the file does, and the checksum comes from the same reading.
//!
//! What can go wrong:
//! - The first copy fails, or there is no thread for it: the comparison finds more to write, and meets the same error.
//! - The guest ends, or a signal ends the task: the first copy is given up at its next block.
//! - A page that held data is empty when the guest is stopped: blocks are compared where either file has data.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::checksum::{BLOCK, Sum, blocks, read_at};
use qemu::scratch::data_extents;

/// A guest's memory, and the file that gets it.
#[derive(Debug)]
pub struct Carrier {
    memory: Arc<File>,
    target: Arc<File>,
    first: Option<JoinHandle<()>>,
    is_over: Arc<AtomicBool>,
}

impl Carrier {
    /// `target` is empty, and gets the length of `memory`. Nothing is copied yet.
    ///
    /// # Errors
    /// When a file of this length cannot be, or descriptors run out.
    pub fn new(memory: &File, target: &File) -> io::Result<Self> {
        target.set_len(memory.metadata()?.len())?;
        let (memory, target) = (Arc::new(memory.try_clone()?), Arc::new(target.try_clone()?));
        Ok(Self { memory, target, first: None, is_over: Arc::default() })
    }

    /// Begins to copy, while the guest goes on.
    pub fn begin(&mut self) {
        let (memory, target, is_over) = (Arc::clone(&self.memory), Arc::clone(&self.target), Arc::clone(&self.is_over));
        let begun = move || {
            let copied = copy(&memory, &target, &is_over);
            copied.unwrap_or_else(|error| tracing::debug!("a guest's memory is not copied beside it: {error}"));
        };
        let thread = std::thread::Builder::new().name("memory".to_owned()).spawn(begun);
        self.first = thread.inspect_err(|error| tracing::debug!("no thread copies a guest's memory: {error}")).ok();
    }

    /// Makes the file equal to the memory, which nobody changes any more, and returns its checksum.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn finish(mut self) -> io::Result<String> {
        self.end_first();
        complete(&self.memory, &self.target)
    }

    /// The first copy may go on for some ms, but not beside the last one.
    fn end_first(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(first) = self.first.take() {
            // It has nothing to tell, and a panic in it changes nothing either.
            let _ = first.join();
        }
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.end_first();
    }
}

/// Copies the blocks of `memory` that hold something, until `is_over`.
fn copy(memory: &File, target: &File, is_over: &AtomicBool) -> io::Result<()> {
    let mut block = vec![0; BLOCK as usize];
    for number in blocks(&data_extents(memory)?) {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let n = read_at(memory, &mut block, number * BLOCK)?;
        if block[..n].iter().any(|&byte| byte != 0) {
            target.write_all_at(&block[..n], number * BLOCK)?;
        }
    }
    Ok(())
}

/// Writes the blocks in which `target` differs, and returns the checksum of all.
fn complete(memory: &File, target: &File) -> io::Result<String> {
    let mut sum = Sum::of_length(memory.metadata()?.len());
    let copied = data_extents(target)?;
    let mut extents = data_extents(memory)?;
    extents.extend_from_slice(&copied);
    extents.sort_unstable_by_key(|extent| extent.start);
    // A hole is not read: that would fill it with zeros in the node's memory.
    let mut copied = blocks(&copied).peekable();
    let [mut block, mut there] = [(); 2].map(|()| vec![0; BLOCK as usize]);
    for number in blocks(&extents) {
        let n = read_at(memory, &mut block, number * BLOCK)?;
        let block = &block[..n];
        let is_same = match copied.next_if_eq(&number) {
            Some(_) => {
                let m = read_at(target, &mut there[..n], number * BLOCK)?;
                block == &there[..m]
            }
            None => block.iter().all(|&byte| byte == 0),
        };
        if !is_same {
            target.write_all_at(block, number * BLOCK)?;
        }
        sum.add_block(number, block);
    }
    Ok(sum.text())
}

#[cfg(test)]
mod tests {
    use super::super::checksum;
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    const LENGTH: u64 = 64 * BLOCK + 4096;

    fn memory() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(LENGTH).unwrap();
        for number in [0, 1, 5, 40, 63] {
            file.write_all_at(&[number as u8 + 1; 5000], number * BLOCK + 100).unwrap();
        }
        file.write_all_at(b"end", LENGTH - 3).unwrap();
        file
    }

    fn content(file: &File) -> Vec<u8> {
        let mut content = vec![0; LENGTH as usize];
        file.read_exact_at(&mut content, 0).unwrap();
        content
    }

    fn is_carried(memory: &File, target: &File, sum: &str) {
        assert!(content(memory) == content(target));
        assert_eq!(target.metadata().unwrap().len(), LENGTH);
        assert_eq!(sum, checksum::of_file(target).unwrap());
        assert_eq!(sum, checksum::of_file(memory).unwrap());
    }

    #[test]
    fn what_changes_after_the_first_copy_is_in_the_file_too() {
        let (memory, target) = (memory(), tempfile::tempfile().unwrap());
        let mut carrier = Carrier::new(&memory, &target).unwrap();
        carrier.begin();
        carrier.first.take().unwrap().join().unwrap();
        assert!(content(&memory) == content(&target));
        memory.write_all_at(b"changed", 5 * BLOCK + 200).unwrap();
        memory.write_all_at(b"new", 20 * BLOCK).unwrap();
        let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let flags = nix::fcntl::FallocateFlags::from_bits_retain(hole);
        nix::fcntl::fallocate(&memory, flags, (40 * BLOCK) as i64, BLOCK as i64).unwrap();
        let sum = carrier.finish().unwrap();
        is_carried(&memory, &target, &sum);
        assert_eq!(&content(&target)[20 * BLOCK as usize..][..3], b"new");
        assert_eq!(content(&target)[40 * BLOCK as usize + 100], 0, "a page that was given back");
    }

    #[test]
    fn without_a_first_copy_all_of_it_is_carried_at_the_end_and_holes_stay() {
        let (memory, target) = (memory(), tempfile::tempfile().unwrap());
        let sum = Carrier::new(&memory, &target).unwrap().finish().unwrap();
        is_carried(&memory, &target, &sum);
        assert!(target.metadata().unwrap().blocks() * 512 < LENGTH / 4);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error_at_the_end_and_only_there() {
        let (memory, target) = (memory(), tempfile::tempfile().unwrap());
        let mut carrier = Carrier::new(&memory, &target).unwrap();
        carrier.target = Arc::new(File::open(format!("/proc/self/fd/{}", target.as_raw_fd())).unwrap());
        carrier.begin();
        assert_eq!(carrier.finish().unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn a_first_copy_ends_when_nobody_wants_the_template_any_more() {
        let (memory, target) = (memory(), tempfile::tempfile().unwrap());
        let mut carrier = Carrier::new(&memory, &target).unwrap();
        carrier.is_over.store(true, Ordering::Relaxed);
        carrier.begin();
        let thread_has = Arc::downgrade(&carrier.target);
        drop(carrier);
        assert_eq!(thread_has.strong_count(), 0, "its thread is gone");
        assert_eq!(target.metadata().unwrap().blocks(), 0);
    }
}
