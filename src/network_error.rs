//! Why a step has no network of its own.

use node::text::reason;
use std::fmt;
use std::io;

/// Why there is none.
#[derive(Debug)]
pub enum NetworkError {
    /// The request cannot be met anywhere.
    User(String),
    /// This node lacks something.
    Node(String),
    /// The option came too late for it to be made.
    Late,
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(why) => f.write_str(why),
            Self::Node(why) => write!(f, "--vm-net=job: {why}"),
            Self::Late => {
                f.write_str("--vm-net=job did not arrive before the step's tasks were started; nothing was run")
            }
        }
    }
}

impl From<io::Error> for NetworkError {
    fn from(error: io::Error) -> Self {
        Self::Node(reason(&error))
    }
}

impl std::error::Error for NetworkError {}
