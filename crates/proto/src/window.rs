//! Credit accounting of one data stream. See the module documentation for the rule.

use super::{ProtoError, WINDOW};

/// The sender's side: how many bytes may still be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendWindow {
    credit: u32,
}

impl Default for SendWindow {
    fn default() -> Self {
        Self { credit: WINDOW }
    }
}

impl SendWindow {
    /// Bytes that may be sent now.
    pub fn available(&self) -> usize {
        self.credit as usize
    }

    /// Notes that `bytes` were sent.
    ///
    /// # Panics
    /// If more than [`SendWindow::available`] are spent: a bug on this side.
    pub fn spend(&mut self, bytes: usize) {
        self.credit = self.credit.checked_sub(bytes as u32).expect("sent more than the window");
    }

    /// Adds credit that the peer returned. A peer must not return more than was spent.
    ///
    /// # Errors
    /// [`ProtoError::Malformed`] when the credit would exceed [`WINDOW`].
    pub fn refill(&mut self, bytes: u32) -> Result<(), ProtoError> {
        match self.credit.checked_add(bytes) {
            Some(credit) if credit <= WINDOW => {
                self.credit = credit;
                Ok(())
            }
            _ => Err(ProtoError::Malformed { message: "WINDOW", why: "more credit than was spent" }),
        }
    }
}

/// The receiver's side: how much the peer may still send, and when to return credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecvWindow {
    /// Bytes the peer may still send.
    open: u32,
    /// Bytes passed on whose credit was not yet returned.
    owed: u32,
}

impl Default for RecvWindow {
    fn default() -> Self {
        Self { open: WINDOW, owed: 0 }
    }
}

impl RecvWindow {
    /// Notes that `bytes` arrived on `stream`.
    ///
    /// # Errors
    /// [`ProtoError::WindowExceeded`] when the peer ignored the window.
    pub fn receive(&mut self, stream: u8, bytes: usize) -> Result<(), ProtoError> {
        self.open = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| self.open.checked_sub(bytes))
            .ok_or(ProtoError::WindowExceeded { stream })?;
        Ok(())
    }

    /// Notes that `bytes` were passed on, and returns how much credit to send back now. That is nothing until a quarter
    /// of the window has gathered, so that not every small write costs a frame.
    pub fn consume(&mut self, bytes: usize) -> Option<u32> {
        self.owed += bytes as u32;
        (self.owed >= WINDOW / 4).then(|| {
            self.open += self.owed;
            std::mem::take(&mut self.owed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_can_never_exceed_what_the_receiver_granted() {
        let (mut send, mut recv) = (SendWindow::default(), RecvWindow::default());
        let mut queued = 0usize;
        for step in 0..10_000usize {
            let n = send.available().min(step % 7919);
            send.spend(n);
            recv.receive(1, n).unwrap();
            queued += n;
            let passed = queued.min(step % 5003);
            queued -= passed;
            if let Some(credit) = recv.consume(passed) {
                send.refill(credit).unwrap();
            }
            assert!(queued <= WINDOW as usize);
        }
    }

    #[test]
    fn overspending_and_overgranting_are_errors() {
        let mut recv = RecvWindow::default();
        recv.receive(2, WINDOW as usize).unwrap();
        assert_eq!(recv.receive(2, 1), Err(ProtoError::WindowExceeded { stream: 2 }));
        assert!(SendWindow::default().refill(1).is_err());
    }
}
