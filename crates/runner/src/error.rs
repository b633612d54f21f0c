//! Why a VM does not run, and whose fault that is: the user's (the request must be changed), the image's, or
//! this node's (the same request may work on another node).

use std::error::Error;
use std::fmt;
use std::io;

use nix::errno::Errno;

use image::ImageError;

use node::layout::this_node;
use node::trust::Distrust;

/// Whose fault it is. Only this decides the exit code of a slot whose command did not run or did not finish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request's: its user must change it.
    User,
    /// The request's: the guest has no such command.
    NotFound,
    /// The request's: the guest has the command and cannot execute it.
    NotExecutable,
    /// This node's: it lacks what a VM needs, and the same request may work on another node.
    Node,
    /// The image's: it is missing, damaged, or does not boot.
    Image,
    /// The guest's: it started and failed later.
    Guest,
    /// The system's: a call, a service or a file of the site failed unexpectedly, and it is unknown whether another
    /// node would work.
    System,
}

impl Fault {
    /// The word for it in the journal and in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::NotFound => "not_found",
            Self::NotExecutable => "not_executable",
            Self::Node => "node",
            Self::Image => "image",
            Self::Guest => "guest",
            Self::System => "system",
        }
    }

    /// The one with this word.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.word() == word)
    }

    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::User, Self::NotFound, Self::NotExecutable, Self::Node, Self::Image, Self::Guest, Self::System];

    /// The exit code of a task that ends for this.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::NotFound => 127,
            Self::NotExecutable => 126,
            Self::Node => EXIT_NODE_FAILED,
            Self::User | Self::Image | Self::Guest | Self::System => EXIT_VM_FAILED,
        }
    }
}

/// Exit code when the VM failed, not the command: the same as of container runtimes, above the codes that programs
/// use.
pub const EXIT_VM_FAILED: u8 = 125;

/// Exit code when this node is at fault and another may work: `EX_TEMPFAIL` of sysexits.h, which asks for a retry.
/// The plugin uses it too.
pub const EXIT_NODE_FAILED: u8 = request::EXIT_NODE_FAILED;

type Cause = Box<dyn Error + Send + Sync>;

/// An error with its blame. `{}` is what happened; `{:#}` adds the causes, as one line for the user.
#[derive(Debug)]
pub struct RunError {
    fault: Fault,
    /// Outermost last.
    words: Vec<String>,
    cause: Option<Cause>,
}

impl RunError {
    /// An error with this text.
    pub fn new(fault: Fault, words: impl Into<String>) -> Self {
        Self { fault, words: vec![words.into()], cause: None }
    }

    /// The user's fault, with this text.
    pub fn user(words: impl Into<String>) -> Self {
        Self::new(Fault::User, words)
    }

    /// This node's fault; the text says so: `this node (n3) cannot run VMs: …`.
    pub fn node(words: impl Into<String>) -> Self {
        Self::new(Fault::Node, words).with(cannot_run())
    }

    /// The error with its own text.
    fn of(fault: Fault, cause: impl Into<Cause>) -> Self {
        Self { fault, words: Vec::new(), cause: Some(cause.into()) }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// The exit code for it.
    pub fn exit_code(&self) -> u8 {
        self.fault.exit_code()
    }

    /// The same with this text before it.
    #[must_use]
    pub fn with(mut self, words: impl Into<String>) -> Self {
        self.words.push(words.into());
        self
    }

    /// The same, with this node at fault.
    #[must_use]
    fn laid_on_node(mut self) -> Self {
        self.fault = Fault::Node;
        self.with(cannot_run())
    }
}

fn cannot_run() -> String {
    format!("this node ({}) cannot run VMs", this_node())
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words.iter().rev().map(String::as_str).collect::<Vec<_>>().join(": "))?;
        let Some(cause) = &self.cause else { return Ok(()) };
        if !self.words.is_empty() {
            f.write_str(": ")?;
        }
        if f.alternate() { f.write_str(&chain(cause.as_ref())) } else { cause.fmt(f) }
    }
}

/// What an error says, and its causes after it, each once: some errors tell their cause themselves.
pub fn chain(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        let words = cause.to_string();
        // They do so without the system's number.
        if !said.ends_with(words.split(" (os error ").next().unwrap_or(&words)) {
            said = format!("{said}: {words}");
        }
        below = cause.source();
    }
    said
}

impl Error for RunError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_ref()?.source()
    }
}

impl From<io::Error> for RunError {
    fn from(error: io::Error) -> Self {
        Self::of(Fault::System, error)
    }
}

impl From<Errno> for RunError {
    fn from(error: Errno) -> Self {
        Self::of(Fault::System, error)
    }
}

/// A file on the node cannot be trusted.
impl From<Distrust> for RunError {
    fn from(error: Distrust) -> Self {
        Self::of(Fault::Node, error)
    }
}

impl From<ImageError> for RunError {
    fn from(error: ImageError) -> Self {
        match error {
            // An image of another name would not be found either.
            ImageError::Directory { .. } => Self::of(Fault::Node, error),
            ImageError::Entry { .. } | ImageError::Disk { .. } | ImageError::Unfit { .. } => {
                Self::of(Fault::Image, error)
            }
            ImageError::Unknown { .. }
            | ImageError::File { .. }
            | ImageError::PathForbidden { .. }
            | ImageError::Refused { .. } => Self::of(Fault::User, error),
        }
    }
}

/// Blame for errors that carry none.
pub trait Blame<T>: Sized {
    /// Blames `fault`, with the error's own text.
    ///
    /// # Errors
    /// The same, with its blame.
    fn blame(self, fault: Fault) -> Result<T, RunError>;

    /// Blames this node, and says so in the text.
    ///
    /// # Errors
    /// The same, with its blame.
    fn blame_node(self) -> Result<T, RunError> {
        self.blame(Fault::Node).map_err(RunError::laid_on_node)
    }
}

impl<T, E: Into<Cause>> Blame<T> for Result<T, E> {
    fn blame(self, fault: Fault) -> Result<T, RunError> {
        self.map_err(|error| RunError::of(fault, error))
    }
}

/// Adds text to errors whose blame is known.
pub trait Context<T>: Sized {
    /// Says before the error what was being done.
    ///
    /// # Errors
    /// The same, with these words.
    fn with_context<W: Into<String>>(self, words: impl FnOnce() -> W) -> Result<T, RunError>;

    /// Says before the error what was being done.
    ///
    /// # Errors
    /// The same, with these words.
    fn context(self, words: &str) -> Result<T, RunError> {
        self.with_context(|| words)
    }
}

impl<T, E: Into<RunError>> Context<T> for Result<T, E> {
    fn with_context<W: Into<String>>(self, words: impl FnOnce() -> W) -> Result<T, RunError> {
        self.map_err(|error| error.into().with(words()))
    }
}

/// Returns an error with this blame and this text unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $fault:expr, $($words:tt)+) => {
        if !$condition {
            return Err($crate::error::RunError::new($fault, format!($($words)+)).into());
        }
    };
}
pub(crate) use ensure;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blame_stays_below_other_words_and_says_where() {
        let error = Err::<(), _>(io::Error::other("no QEMU")).blame_node().context("a slot").unwrap_err();
        assert_eq!((error.fault(), error.exit_code()), (Fault::Node, 75));
        assert_eq!(error.to_string(), format!("a slot: this node ({}) cannot run VMs: no QEMU", this_node()));
        assert_eq!(RunError::node("no QEMU").with("a slot").to_string(), error.to_string());
    }

    #[test]
    fn the_whole_chain_is_said_once_here_and_by_whoever_prints_causes() {
        let cause = anyhow::Error::from(io::Error::other("gone")).context("the disk");
        let error = Err::<(), _>(cause).blame(Fault::Image).context("image 'x'").unwrap_err();
        assert_eq!(format!("{error:#}"), "image 'x': the disk: gone");
        assert_eq!(format!("{:#}", anyhow::Error::from(error)), "image 'x': the disk: gone");
    }

    #[test]
    fn a_cause_that_tells_its_own_is_not_told_twice() {
        let missing = node::dir::check_owned(std::path::Path::new("/nonexistent/shelf"), 0);
        let error = missing.blame(Fault::Node).unwrap_err().with("no template");
        let line = format!("{error:#}");
        assert_eq!(line.matches("No such file or directory").count(), 1, "{line}");
        let missing = node::dir::check_owned(std::path::Path::new("/nonexistent/shelf"), 0).unwrap_err();
        let line = chain(anyhow::Error::from(missing).context("image 'x'").as_ref());
        assert_eq!(line, "image 'x': /nonexistent/shelf: No such file or directory");
    }

    #[test]
    fn an_image_that_cannot_be_had_is_its_users_its_makers_or_the_nodes_fault() {
        let source = || io::Error::other("no");
        let (path, name) = (|| "/x".into(), || "x".parse().unwrap());
        let fault = |error: ImageError| RunError::from(error).fault();
        assert_eq!(fault(ImageError::Directory { dir: path(), source: source() }), Fault::Node);
        assert_eq!(fault(ImageError::Unknown { name: "x".into(), suggestion: None, closed: None }), Fault::User);
        assert_eq!(fault(ImageError::Disk { name: name(), disk: path(), source: source() }), Fault::Image);
    }

    #[test]
    fn what_a_shell_says_of_a_command_is_said_of_the_guests() {
        let codes = [Fault::NotFound, Fault::NotExecutable, Fault::User, Fault::Image, Fault::Guest, Fault::Node];
        assert_eq!(codes.map(Fault::exit_code), [127, 126, 125, 125, 125, 75]);
    }
}
