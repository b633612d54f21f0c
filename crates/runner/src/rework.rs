//! Work on the disk of an image that boots its own kernel, by the agent's programs in a helper VM.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

use super::error::{Context, RunError};
use super::helper;
use crate::config::Config;
use image::DiskFormat;
use node::text::short;
use qemu::HelperDisk;

/// The disk's name in the helper.
pub(crate) const SERIAL: &str = "target";

/// Longest answer that is read; more is dropped.
const ANSWER_MAX: u64 = 16 * 1024;

/// Most characters of a value.
const VALUE_MOST: usize = 100;

/// The report of the program in the helper.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Answer {
    pairs: Vec<(String, String)>,
    /// The helper's warnings.
    pub(crate) warnings: Vec<String>,
}

impl Answer {
    /// Lines of `key=value`; they are cut to a limit, because an untrusted disk could make them long.
    pub(crate) fn parse(text: &str) -> Self {
        let clean = |value: &str| short(value, VALUE_MOST);
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Self { pairs: pairs.map(|(key, value)| (clean(key), clean(value))).collect(), warnings: Vec::new() }
    }

    /// The first value of the key, or nothing.
    pub(crate) fn value(&self, key: &str) -> &str {
        self.all(key).next().unwrap_or_default()
    }

    /// All values of the key.
    pub(crate) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.pairs.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_true(&self, key: &str) -> bool {
        self.value(key) == "true"
    }
}

/// Runs the agent's program with these arguments in a helper VM that may write to the disk, if it is open for writing.
pub(crate) fn ask(config: &Config, disk: File, format: DiskFormat, arguments: &[&str]) -> Result<Answer, RunError> {
    ask_about(
        config,
        HelperDisk { serial: SERIAL.to_owned(), file: disk, format, part: None, writable: true },
        arguments,
    )
}

/// The same for a disk that the caller describes.
pub(crate) fn ask_about(config: &Config, disk: HelperDisk, arguments: &[&str]) -> Result<Answer, RunError> {
    let (told, stdout) = std::io::pipe().context("a pipe")?;
    // Read by a thread, because the helper's relay only writes; it ends with the pipe.
    let listener = std::thread::spawn(move || listen(told));
    let finished = helper::run(config, vec![disk], arguments, stdout.as_fd());
    drop(stdout);
    let text = listener.join().unwrap_or_default();
    let warnings = finished?.warnings()?;
    Ok(Answer { warnings, ..Answer::parse(&text) })
}

/// The answer, read to its end.
fn listen(mut told: impl Read) -> String {
    let mut text = Vec::new();
    let _ = told.by_ref().take(ANSWER_MAX).read_to_end(&mut text);
    // Never let the writer wait.
    let _ = std::io::copy(&mut told, &mut std::io::sink());
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_bytes_that_are_no_text_is_read_all_the_same() {
        let long =
            [b"kernel=\xff6.1\ninit=systemd\xe2\x80\xae\n".as_slice(), &[0xc3; 2 * ANSWER_MAX as usize]].concat();
        let answer = Answer::parse(&listen(&*long));
        assert_eq!((answer.value("kernel"), answer.value("init")), ("\u{fffd}6.1", "systemd"));
    }

    #[test]
    fn an_answer_is_believed_as_far_as_it_is_words() {
        let answer = Answer::parse("kernel=6.1.0\x1b[2J\ninit=systemd\nnonsense\nshares=true\nmemory_hotplug=yes\n");
        assert_eq!(answer.value("kernel"), "6.1.0[2J");
        assert!(answer.is_true("shares") && !answer.is_true("memory_hotplug") && !answer.is_true("other"));
    }
}
