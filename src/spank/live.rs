//! The command line that srun has just read for one component of a heterogeneous step.
//!
//! Slurm shows plugins one command line per srun, after the step was created: that of the component whose thread
//! comes first. The others are sent unchanged. When the options of a component are complete, its command line is in
//! srun's variables `opt` or `sropt`; where exactly depends on the release. So it is searched for: it is the one
//! array of strings that these variables point to and that equals the end of a component on srun's own command
//! line. Memory is read and written through `/proc/self/mem`, where a wrong address is an error and does not crash
//! srun.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;

/// How many bytes of a variable are searched; the longest, `opt`, is half as long.
const WINDOW: usize = 4096;

/// How much longer a command may have become when srun looked it up in `PATH`.
const MAX_DIRECTORY: usize = 4096;

const POINTER: usize = size_of::<usize>();

/// A command line in the memory of this process.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LiveArgv {
    address: usize,
    /// The words.
    pub(super) words: Vec<OsString>,
}

impl LiveArgv {
    /// Searches the variables at these addresses; `own` is the process's own command line. `None` unless there
    /// is exactly one match.
    pub(super) fn find(variables: &[usize], own: &[OsString]) -> Option<Self> {
        let memory = File::open("/proc/self/mem").ok()?;
        let mut found: Vec<Self> = Vec::new();
        for address in variables.iter().flat_map(|&start| pointers_at(&memory, start)) {
            if found.iter().any(|argv| argv.address == address) {
                continue;
            }
            if let Some(words) = words_at(&memory, address, own).filter(|words| ends_a_component(words, own)) {
                found.push(Self { address, words });
            }
        }
        let argv = found.pop()?;
        found.is_empty().then_some(argv)
    }

    /// Puts the string at address `word` in the first one's place.
    ///
    /// # Errors
    /// When the kernel does not let the process write to its own memory.
    pub(super) fn set_first(&self, word: usize) -> io::Result<()> {
        let memory = OpenOptions::new().read(true).write(true).open("/proc/self/mem")?;
        memory.write_all_at(&word.to_ne_bytes(), self.address as u64)?;
        let is_there = pointer_at(&memory, self.address) == Some(word);
        if is_there { Ok(()) } else { Err(io::Error::other("it is not there afterwards")) }
    }
}

/// Whether these words are the end of a component on the command line `own`: components are separated by
/// ":". The first word may differ, because srun may have looked it up in `PATH`.
fn ends_a_component(words: &[OsString], own: &[OsString]) -> bool {
    own.split(|word| word == ":").any(|component| command_begins(words, component).is_some())
}

/// Where on a component's part of the command line the command `words` begins, if it ends there.
pub fn command_begins(words: &[OsString], component: &[OsString]) -> Option<usize> {
    let begin = component.len().checked_sub(words.len())?;
    let (typed, arguments) = component[begin..].split_first()?;
    (arguments == &words[1..] && is_program(typed, &words[0])).then_some(begin)
}

fn is_program(typed: &OsStr, found: &OsStr) -> bool {
    let (typed, found) = (typed.as_bytes(), found.as_bytes());
    let name = typed.strip_prefix(b"./").unwrap_or(typed);
    typed == found || (found.starts_with(b"/") && found.strip_suffix(name).is_some_and(|dir| dir.ends_with(b"/")))
}

/// Values in the variable at `start` that could be pointers to an array of pointers.
fn pointers_at(memory: &File, start: usize) -> Vec<usize> {
    let mut bytes = vec![0; WINDOW];
    let length = memory.read_at(&mut bytes, start as u64).unwrap_or(0);
    let values = bytes[..length].chunks_exact(POINTER).map(as_pointer);
    values.filter(|value| value % POINTER == 0 && *value > WINDOW).collect()
}

fn as_pointer(bytes: &[u8]) -> usize {
    bytes.try_into().map_or(0, usize::from_ne_bytes)
}

fn pointer_at(memory: &File, address: usize) -> Option<usize> {
    let mut bytes = [0; POINTER];
    memory.read_exact_at(&mut bytes, address as u64).ok()?;
    Some(as_pointer(&bytes))
}

/// The strings of an array that ends with a null pointer, if it has any, and no more than the command line.
fn words_at(memory: &File, array: usize, own: &[OsString]) -> Option<Vec<OsString>> {
    let longest = own.iter().map(|word| word.len()).max()? + MAX_DIRECTORY;
    let mut words = Vec::new();
    for index in 0..=own.len() {
        match pointer_at(memory, array.checked_add(index * POINTER)?)? {
            0 if words.is_empty() => return None,
            0 => return Some(words),
            string => words.push(string_at(memory, string, longest)?),
        }
    }
    None
}

fn string_at(memory: &File, address: usize, longest: usize) -> Option<OsString> {
    let mut bytes = vec![0; longest + 1];
    // The last string before the end of a mapping is read in part.
    let length = memory.read_at(&mut bytes, u64::try_from(address).ok()?).ok()?;
    bytes.truncate(length);
    let end = bytes.iter().position(|&byte| byte == 0)?;
    bytes.truncate(end);
    Some(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    /// A variable like srun's, with the address of a command line somewhere in it.
    struct Variable {
        fields: Vec<usize>,
        _array: Vec<usize>,
        _strings: Vec<CString>,
    }

    impl Variable {
        fn with(command: &str) -> Self {
            let strings: Vec<CString> = command.split(' ').map(|word| CString::new(word).unwrap()).collect();
            let array: Vec<usize> = strings.iter().map(|word| word.as_ptr() as usize).chain([0]).collect();
            let mut fields = vec![7, 8, usize::MAX & !7, strings[0].as_ptr() as usize, 64];
            fields.push(array.as_ptr() as usize);
            fields.extend([0; 600]);
            Self { fields, _array: array, _strings: strings }
        }

        fn address(&self) -> usize {
            self.fields.as_ptr() as usize
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "/proc shows the memory of miri itself")]
    fn the_command_of_a_component_is_found_and_its_first_word_replaced() {
        let own = words("srun -n1 --vm-image=tiny ./a x : -n 1 b y z");
        for command in ["./a x", "/home/ada/a x", "b y z", "/usr/bin/b y z"] {
            let variable = Variable::with(command);
            let argv = LiveArgv::find(&[variable.address()], &own).unwrap();
            assert_eq!(argv.words, words(command));
            let other = CString::new("spank-vm-step.0").unwrap();
            argv.set_first(other.as_ptr() as usize).unwrap();
            let memory = File::open("/proc/self/mem").unwrap();
            assert_eq!(words_at(&memory, argv.address, &own).unwrap()[0], "spank-vm-step.0");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "/proc shows the memory of miri itself")]
    fn what_is_no_component_s_command_is_not_taken_for_one() {
        let own = words("srun -n1 ./a x : -n1 b y z");
        for command in ["a", "./a", "./a x :", "b", "y", "b y", "other x", "/home/ada/ba x", "spank-vm-step.0 x"] {
            assert_eq!(LiveArgv::find(&[Variable::with(command).address()], &own), None, "{command}");
        }
        assert_eq!(LiveArgv::find(&[0, 1, usize::MAX - 7], &own), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "/proc shows the memory of miri itself")]
    fn one_that_is_there_twice_is_neither() {
        let own = words("srun ./a : b");
        let (one, other) = (Variable::with("./a"), Variable::with("b"));
        assert_eq!(LiveArgv::find(&[one.address(), other.address()], &own), None);
        assert!(LiveArgv::find(&[one.address(), one.address()], &own).is_some());
    }
}
