//! A task whose command could start, but the guest does not know the time well enough ([`crate::clock`]).

use proto::{ProtoError, ToGuest};

use super::collecting::Collecting;

/// A task after its START.
#[derive(Debug)]
pub(super) struct Ready {
    pub collected: Collecting,
    /// What the runner has said to the command since then.
    pub later: Vec<ToGuest<'static>>,
}

impl Ready {
    /// For a task that was described.
    pub fn new(collected: Collecting) -> Self {
        Self { collected, later: Vec::new() }
    }

    /// Keeps what the runner may say before it knows that the command runs.
    pub fn keep(&mut self, message: ToGuest<'_>) -> Result<(), ProtoError> {
        self.later.push(match message {
            ToGuest::Signal(signo) => ToGuest::Signal(signo),
            ToGuest::Eof(stream) => ToGuest::Eof(stream),
            ToGuest::Resize { rows, cols } => ToGuest::Resize { rows, cols },
            _ => return Err(ProtoError::OutOfOrder("message before STARTED")),
        });
        Ok(())
    }
}
