//! The description of a task, as it is collected message by message.

use std::ffi::CString;
use std::net::SocketAddrV4;

use nix::libc;

use super::accounts::Account;
use super::error::AgentError;

/// Search path of a command whose environment has none: glibc's own (`_CS_PATH`).
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// Who the command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub uid: u32,
    pub gid: u32,
    pub umask: u32,
    pub groups: Vec<u32>,
}

/// A resource limit; `u64::MAX` is infinity, as it is for the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ResourceLimit {
    pub resource: u8,
    pub soft: u64,
    pub hard: u64,
}

/// How the command's processes compete with others in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Priority {
    pub nice: i8,
    /// Class and level as the kernel's `ioprio_get` tells them.
    pub io: u16,
}

/// A terminal's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TerminalSize {
    pub rows: u16,
    pub cols: u16,
}

/// Where the command finds its server, and how many of its processes may at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listen {
    pub address: SocketAddrV4,
    pub connections: u8,
}

/// All that is known about the task before it starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct TaskSpec {
    pub account: Account,
    pub credentials: Option<Credentials>,
    pub cwd: Vec<u8>,
    pub args: Vec<Vec<u8>>,
    pub env: Vec<Vec<u8>>,
    pub limits: Vec<ResourceLimit>,
    pub priority: Option<Priority>,
    /// The processors it may use, a bit for each; all of the session's if empty.
    pub cpus: Vec<u8>,
    pub terminal: Option<TerminalSize>,
    /// One pipe for both outputs.
    pub merge_stderr: bool,
    /// Numbers of descriptors that become sockets, in the order of their streams.
    pub sockets: Vec<u32>,
    /// The streams after those are its connections.
    pub listener: Option<Listen>,
}

impl TaskSpec {
    /// Streams that it has besides the standard ones.
    pub fn streams(&self) -> usize {
        self.sockets.len() + self.listener.map_or(0, |listener| usize::from(listener.connections))
    }
}

/// A task in a form that needs no further allocation, so that a child may use it between fork and exec.
#[derive(Debug)]
pub(super) struct PreparedTask {
    pub credentials: Credentials,
    pub cwd: CString,
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    /// Files to try, in this order.
    pub candidates: Vec<CString>,
    pub limits: Vec<ResourceLimit>,
    pub priority: Option<Priority>,
    /// In the words that the kernel reads.
    pub cpus: Vec<libc::c_ulong>,
}

impl TaskSpec {
    /// Checks that the description is complete.
    ///
    /// # Errors
    /// A sentence about what is missing or cannot be passed to a program.
    pub fn prepare(&self) -> Result<PreparedTask, AgentError> {
        let unfit = |why: &str| AgentError::Unfit(why.to_owned());
        let command = self.args.first().ok_or(unfit("the task has no command"))?;
        let credentials = self.credentials.clone().ok_or(unfit("the task has no user"))?;
        let cwd = if self.cwd.is_empty() { b"/".as_slice() } else { &self.cwd };
        Ok(PreparedTask {
            credentials,
            cwd: c_string(cwd, "working directory")?,
            args: c_strings(&self.args, "argument")?,
            env: c_strings(&self.env, "environment variable")?,
            candidates: c_strings(&candidates(command, self.variable(b"PATH")), "argument")?,
            limits: self.limits.clone(),
            priority: self.priority,
            cpus: words(&self.cpus),
        })
    }

    /// The value of a variable in the task's environment.
    fn variable(&self, name: &[u8]) -> Option<&[u8]> {
        self.env.iter().find_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="))
    }
}

/// The files that `command` may mean, in the order in which execvp tries them.
fn candidates(command: &[u8], path: Option<&[u8]>) -> Vec<Vec<u8>> {
    if command.is_empty() || command.contains(&b'/') {
        return vec![command.to_vec()];
    }
    let directories = path.unwrap_or(DEFAULT_PATH).split(|&byte| byte == b':');
    directories
        .map(|directory| match directory {
            // An empty entry is the working directory.
            [] => command.to_vec(),
            [.., b'/'] => [directory, command].concat(),
            _ => [directory, b"/", command].concat(),
        })
        .collect()
}

/// A mask of bytes in the kernel's words.
fn words(mask: &[u8]) -> Vec<libc::c_ulong> {
    let word = |bytes: &[u8]| {
        let mut whole = [0; size_of::<libc::c_ulong>()];
        whole[..bytes.len()].copy_from_slice(bytes);
        libc::c_ulong::from_le_bytes(whole)
    };
    mask.chunks(size_of::<libc::c_ulong>()).map(word).collect()
}

fn c_string(bytes: &[u8], what: &str) -> Result<CString, AgentError> {
    CString::new(bytes).map_err(|_| AgentError::Unfit(format!("a NUL byte in the task's {what}")))
}

fn c_strings(list: &[Vec<u8>], what: &str) -> Result<Vec<CString>, AgentError> {
    list.iter().map(|bytes| c_string(bytes, what)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn searched(command: &str, path: Option<&str>) -> Vec<String> {
        let found = candidates(command.as_bytes(), path.map(str::as_bytes));
        found.into_iter().map(|path| String::from_utf8(path).unwrap()).collect()
    }

    #[test]
    fn a_plain_name_is_searched_along_the_tasks_own_path() {
        assert_eq!(searched("ls", Some("/a:/b/::/c")), ["/a/ls", "/b/ls", "ls", "/c/ls"]);
        assert_eq!(searched("ls", None), ["/bin/ls", "/usr/bin/ls"]);
        assert_eq!(searched("ls", Some("")), ["ls"]);
    }

    #[test]
    fn a_name_with_a_slash_and_an_empty_name_are_taken_as_they_are() {
        assert_eq!(searched("./ls", Some("/a")), ["./ls"]);
        assert_eq!(searched("", Some("/a")), [""]);
    }

    fn complete() -> TaskSpec {
        TaskSpec {
            credentials: Some(Credentials { uid: 1, gid: 1, umask: 0o22, groups: vec![] }),
            args: vec![b"env".to_vec()],
            env: vec![b"XPATH=/x".to_vec(), b"PATH=/p".to_vec(), b"PATH=/q".to_vec()],
            ..TaskSpec::default()
        }
    }

    #[test]
    fn a_complete_task_is_prepared_with_the_first_path_of_its_environment() {
        let task = complete().prepare().unwrap();
        assert_eq!(task.candidates, [c"/p/env".to_owned()]);
        assert_eq!(task.cwd, c"/".to_owned());
        assert_eq!(task.env.len(), 3);
    }

    #[test]
    fn what_is_missing_or_impossible_is_named() {
        let cases = [
            (TaskSpec { args: vec![], ..complete() }, "no command"),
            (TaskSpec { credentials: None, ..complete() }, "no user"),
            (TaskSpec { args: vec![b"a\0b".to_vec()], ..complete() }, "NUL byte in the task's argument"),
            (TaskSpec { env: vec![b"A=\0".to_vec()], ..complete() }, "environment variable"),
        ];
        for (task, why) in cases {
            let error = task.prepare().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
