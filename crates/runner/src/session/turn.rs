//! A clone's turn to come up, where many share a processor.
//!
//! An emulated guest's kernel has a tick of the clock every few ms of everybody's time, not of its own. Each costs some 30 µs of
//! translated code, so guests that come up all at once count the ticks of the others' time too: a third more processor time for
//! each of 64. So a few come up at a time. A QEMU whose guest has not been loaded has no ticks.

use super::vm::Vm;

impl Vm {
    /// Whether it is a clone that has not been told to load its guest.
    pub fn is_held(&self) -> bool {
        !self.is_over() && self.process.is_held()
    }

    /// Its turn has come.
    pub fn go(&mut self) {
        self.process.go();
    }
}
