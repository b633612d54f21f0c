//! Guests that the emulated processor of a node VM has lost: see docs/lab.md.

/// What is said of a guest that reset itself without a word: by its step, and by its template's making.
const RESET: &str = "could not report a fault of its own (a triple fault)";

/// The same within the guest's first moments, when QEMU does not answer yet and cannot say how the guest ended.
const RESET_AT_ONCE: &str = "the guest stopped by itself; its console is empty";

/// Whether a failure was told as the loss of a guest that said nothing. Linux says why it panics, and an init why it powers off, so those
/// are none.
#[must_use]
pub fn guest_was_lost(told: &str) -> bool {
    [RESET, RESET_AT_ONCE].iter().any(|words| told.contains(words))
}

/// The guests that were lost in a run of a suite, and how many may be.
#[derive(Debug)]
pub struct Losses {
    most: usize,
    cases: Vec<String>,
}

impl Losses {
    /// None yet, of at most `most`.
    #[must_use]
    pub const fn at_most(most: usize) -> Self {
        Self { most, cases: Vec::new() }
    }

    /// Counts a failure of `case` that was told so, and says whether the case may run once more: it lost a guest, and no more
    /// were lost than may be.
    pub fn excuse(&mut self, case: &str, told: &str) -> bool {
        if !guest_was_lost(told) {
            return false;
        }
        self.cases.push(case.to_owned());
        self.cases.len() <= self.most
    }

    /// One line of all that were lost, if any were.
    #[must_use]
    pub fn summary(&self) -> Option<String> {
        let (lost, most) = (self.cases.len(), self.most);
        (lost > 0).then(|| {
            format!("guests lost by the emulated processor: {lost}, at most {most} may be: {}", self.cases.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: &str = "vm: error: this node (node1) cannot run VMs with KVM: the guest rebooted, which ends a VM, before the command \
        ended: a program in it asked for that, or its kernel could not report a fault of its own (a triple fault)\nsrun: error: \
        node1: task 0: Exited with exit code 75\n";
    const NOTED: &str = "vm: warning: image 'tiny' starts slowly on node1, without a template: making it failed a short while ago: the \
        guest stopped by itself; its console is empty\n";

    #[test]
    fn a_reset_without_a_word_is_a_loss_in_a_step_in_making_a_template_and_in_a_note_of_that() {
        for told in [STEP, NOTED, "making it failed: the guest stopped by itself; its console is empty"] {
            assert!(guest_was_lost(told), "{told}");
        }
    }

    #[test]
    fn a_guest_that_said_why_it_ended_and_every_other_failure_is_ours() {
        for told in [
            "the guest's kernel panicked: \"VFS: Unable to mount root fs\"",
            "the guest stopped by itself; the last line on its console: \"reboot: System halted\"",
            "the guest powered itself off before the command ended",
            "the guest has not answered for 30 s; its console is empty",
            "QEMU failed with code 1; QEMU said: \"out of memory\"",
            "assertion `left == right` failed: stdout: \nstderr: \n\n  left: 75\n right: 0",
            "left behind on node1: 4242",
            "",
        ] {
            assert!(!guest_was_lost(told), "{told}");
        }
    }

    #[test]
    fn losses_are_excused_up_to_the_bound_and_all_are_counted() {
        let mut losses = Losses::at_most(2);
        assert_eq!(losses.summary(), None);
        assert!(!losses.excuse("ours", "left behind"));
        assert!(losses.excuse("one", STEP));
        assert!(losses.excuse("two", NOTED));
        assert!(!losses.excuse("three", STEP));
        let said = losses.summary().unwrap();
        assert!(said.contains(": 3, at most 2 ") && said.ends_with(": one, two, three"), "{said}");
    }
}
