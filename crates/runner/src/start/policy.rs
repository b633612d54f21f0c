//! KVM where it works, emulation where it does not: one function decides, tries, falls back and remembers.
//!
//! `/dev/kvm` may exist, open, create a VM, and still never run a stock guest. The only proof is a guest that
//! answers:
//!
//! ```text
//! may this process use it? no ─► emulated, with one line
//!                          yes ─► known to be broken? ─► emulated, with one line
//!                                 known to work? ─► KVM; what does not come up then is not KVM's fault
//!                                 nobody knows ─► KVM, on trial ─► it answers: KVM works, remembered
//!                                                              ─► it does not: emulated ─► it answers: KVM is broken,
//!                                                                                         remembered
//!                                                                                      ─► it does not: nobody knows
//! ```

use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::kvm::{self, NoKvm};
use super::verdict::{Verdict, Verdicts};
use crate::config::{AccelChoice, Config};
use crate::error::RunError;
use crate::notice;
use qemu::Accel;

/// What tells a user whose VMs are slow that KVM is the reason.
const BROKEN: &str = "KVM does not run guests on this node although /dev/kvm can be opened; using emulation, \
                      which is slower (the administrator can set accel = 'tcg' to silence this)";

/// How long guests may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// From their start to their answer.
    pub(crate) boot: Duration,
    /// The same under KVM while nobody knows whether it runs guests.
    pub(crate) trial: Duration,
}

/// One attempt to bring guests up, and what is learnt when one answers.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    accel: Accel,
    /// KVM has been tried in vain before it.
    is_fallback: bool,
    boot: Duration,
    /// Holds while nobody knows whether KVM runs guests.
    trial: Cell<Option<Duration>>,
    answered: Cell<bool>,
    /// Whether KVM is known to run guests.
    proven: Cell<bool>,
    policy: &'a Policy,
}

impl Attempt<'_> {
    /// Who executes the guests.
    pub(crate) fn accel(&self) -> Accel {
        self.accel
    }

    /// How long a guest may take from its start to its first answer. The first answer of any guest makes it longer
    /// for the others.
    pub(crate) fn answer_within(&self) -> Duration {
        self.trial.get().unwrap_or(self.boot)
    }

    /// How long anything may take that is not about KVM: what follows a guest's answer, or another process's work.
    pub(crate) fn patience(&self) -> Duration {
        self.boot
    }

    /// Whether a guest that does not come up may be KVM's fault.
    pub(crate) fn is_on_trial(&self) -> bool {
        self.trial.get().is_some()
    }

    /// A guest has answered; says how much longer the others may take for that, if this is the first.
    pub(crate) fn answered(&self) -> Option<Duration> {
        if self.answered.replace(true) {
            return None;
        }
        let before = self.answer_within();
        self.proven.set(true);
        match self.accel {
            Accel::Kvm => self.kvm_works(),
            Accel::Tcg if self.is_fallback => self.policy.kvm_is_broken(),
            Accel::Tcg => {}
        }
        Some(self.boot.saturating_sub(before)).filter(|more| !more.is_zero())
    }

    /// A template was found that a guest of this accelerator was saved to, since the node booted.
    pub(crate) fn found_template(&self) {
        if self.accel == Accel::Kvm && !self.proven.replace(true) {
            self.kvm_works();
        }
    }

    fn kvm_works(&self) {
        self.trial.set(None);
        self.policy.verdicts.remember(Verdict::Works);
    }
}

#[cfg(test)]
impl Attempt<'static> {
    /// KVM on trial for `trial`, of guests that may take `boot` otherwise, on a node that remembers nothing.
    pub(crate) fn on_trial(trial: Duration, boot: Duration) -> Self {
        let verdicts = Verdicts::in_dir(Path::new("/dev/null/none"), Path::new("/bin/sh"));
        let policy = Policy { choice: AccelChoice::Auto, device: Ok(()), verdicts, is_test: true };
        let policy: &'static Policy = Box::leak(Box::new(policy));
        Self { trial: Cell::new(Some(trial)), ..policy.attempt(Accel::Kvm, boot, false) }
    }
}

/// What came of [`Policy::start`].
#[derive(Debug)]
pub(crate) struct Started<T> {
    /// Of the last attempt.
    pub(crate) outcome: T,
    /// What that was executed by.
    pub(crate) accel: Accel,
    /// Whether a guest has answered in it, or did so before, so that its accelerator is beyond doubt.
    pub(crate) proven: bool,
}

/// What the site wants, what this process may, and what the node knows.
#[derive(Debug)]
pub(crate) struct Policy {
    choice: AccelChoice,
    device: Result<(), NoKvm>,
    verdicts: Verdicts,
    /// The node is being tested: what is known does not count, and nobody is told.
    is_test: bool,
}

impl Policy {
    /// For VMs that this process starts with this QEMU.
    pub(crate) fn of(config: &Config, qemu: &Path) -> Self {
        let device = if config.accel == AccelChoice::Tcg { Ok(()) } else { kvm::usable() };
        Self { choice: config.accel, device, verdicts: Verdicts::of(config, qemu), is_test: false }
    }

    /// The same for a test of KVM that forgets what is known.
    pub(crate) fn for_test(config: &Config, qemu: &Path) -> Self {
        Self { choice: AccelChoice::Auto, is_test: true, ..Self::of(config, qemu) }
    }

    /// Brings guests up by `attempt`, and by emulation once more if that `failed` because of KVM for all that is
    /// known. An error of `attempt` is one that no accelerator would mend.
    ///
    /// # Errors
    /// That of `attempt`; or KVM is demanded and cannot be used.
    pub(crate) fn start<T>(
        &self,
        timeouts: Timeouts,
        mut attempt: impl FnMut(&Attempt<'_>) -> Result<T, RunError>,
        failed: impl Fn(&T) -> bool,
    ) -> Result<Started<T>, RunError> {
        let mut run = |one: Attempt<'_>| {
            let outcome = attempt(&one)?;
            Ok(Started { outcome, accel: one.accel, proven: one.proven.get() })
        };
        let emulated = || self.attempt(Accel::Tcg, timeouts.boot, true);
        let known = self.known();
        let works = known == Some(Verdict::Works);
        match (self.choice, &self.device) {
            (AccelChoice::Tcg, _) => run(emulated()),
            (AccelChoice::Kvm, Err(why)) => Err(RunError::node(format!("accel = 'kvm', but {why}"))),
            (AccelChoice::Auto, Err(why)) => {
                self.tell(&format!("emulated: {why}"));
                run(emulated())
            }
            (AccelChoice::Auto, Ok(())) if known == Some(Verdict::Broken) => {
                self.tell(BROKEN);
                run(emulated())
            }
            (AccelChoice::Auto, Ok(())) if !works => {
                let trial = Cell::new(Some(timeouts.trial));
                let tried = run(Attempt { trial, ..self.attempt(Accel::Kvm, timeouts.boot, false) })?;
                match tried.proven || !failed(&tried.outcome) {
                    true => Ok(tried),
                    // A neighbour's guest may have been faster than ours.
                    false if self.known() == Some(Verdict::Works) => run(self.attempt(Accel::Kvm, timeouts.boot, true)),
                    false => run(Attempt { is_fallback: true, ..self.attempt(Accel::Tcg, timeouts.boot, false) }),
                }
            }
            (AccelChoice::Auto | AccelChoice::Kvm, Ok(())) => run(self.attempt(Accel::Kvm, timeouts.boot, works)),
        }
    }

    fn attempt(&self, accel: Accel, boot: Duration, proven: bool) -> Attempt<'_> {
        let (trial, answered, proven) = (Cell::new(None), Cell::new(false), Cell::new(proven));
        Attempt { accel, is_fallback: false, boot, trial, answered, proven, policy: self }
    }

    fn known(&self) -> Option<Verdict> {
        if self.is_test { None } else { self.verdicts.recall() }
    }

    fn kvm_is_broken(&self) {
        self.verdicts.remember(Verdict::Broken);
        self.tell(BROKEN);
    }

    /// Tells the user why the VMs are slow: once for the tasks of a step on this node.
    fn tell(&self, why: &str) {
        static TOLD: AtomicBool = AtomicBool::new(false);
        let is_first_task = std::env::var("SLURM_LOCALID").map_or(true, |number| number == "0");
        if is_first_task && !self.is_test && !TOLD.swap(true, Ordering::Relaxed) {
            notice::line(&format!("warning: {why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;
    use std::cell::RefCell;

    const TIMEOUTS: Timeouts = Timeouts { boot: Duration::from_secs(60), trial: Duration::from_secs(10) };

    /// A node for which slots are started, and what they tried: accelerator and time for an answer.
    struct Node {
        dir: tempfile::TempDir,
        choice: AccelChoice,
        device: Result<(), NoKvm>,
        tried: RefCell<Vec<(Accel, u64)>>,
    }

    impl Node {
        fn new(choice: AccelChoice) -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self { dir, choice, device: Ok(()), tried: RefCell::default() }
        }

        fn policy(&self) -> Policy {
            let verdicts = Verdicts::in_dir(self.dir.path(), Path::new("/bin/sh"));
            Policy { choice: self.choice, device: self.device.clone(), verdicts, is_test: false }
        }

        /// Starts a slot whose guest answers under `these`; says whether it did.
        fn start(&self, these: &[Accel]) -> Result<Started<bool>, RunError> {
            self.start_by(|attempt| {
                let comes_up = these.contains(&attempt.accel());
                if comes_up {
                    attempt.answered();
                }
                Ok(comes_up)
            })
        }

        fn start_by(&self, by: impl Fn(&Attempt<'_>) -> Result<bool, RunError>) -> Result<Started<bool>, RunError> {
            let attempt = |attempt: &Attempt<'_>| {
                self.tried.borrow_mut().push((attempt.accel(), attempt.answer_within().as_secs()));
                by(attempt)
            };
            self.policy().start(TIMEOUTS, attempt, |came_up| !came_up)
        }

        fn tried(&self) -> Vec<(Accel, u64)> {
            self.tried.take()
        }

        fn known(&self) -> Option<Verdict> {
            self.policy().verdicts.recall()
        }
    }

    use Accel::{Kvm, Tcg};

    #[test]
    fn a_guest_that_answers_under_kvm_proves_it_and_later_ones_have_the_whole_time() {
        let node = Node::new(AccelChoice::Auto);
        assert!(node.start(&[Kvm, Tcg]).unwrap().outcome);
        assert_eq!(node.known(), Some(Verdict::Works));
        node.start(&[Kvm, Tcg]).unwrap();
        assert_eq!(node.tried(), [(Kvm, 10), (Kvm, 60)]);
        // An image that does not come up is no longer KVM's fault.
        let started = node.start(&[]).unwrap();
        assert_eq!((started.outcome, started.proven), (false, true));
        assert_eq!(node.tried(), [(Kvm, 60)]);
    }

    #[test]
    fn kvm_is_broken_only_if_the_same_boot_succeeds_emulated() {
        let node = Node::new(AccelChoice::Auto);
        assert!(!node.start(&[]).unwrap().outcome);
        assert_eq!(node.tried(), [(Kvm, 10), (Tcg, 60)]);
        assert_eq!(node.known(), None, "an image that does not boot says nothing of KVM");
        assert!(node.start(&[Tcg]).unwrap().outcome);
        assert_eq!((node.tried(), node.known()), (vec![(Kvm, 10), (Tcg, 60)], Some(Verdict::Broken)));
        node.start(&[Tcg]).unwrap();
        assert_eq!(node.tried(), [(Tcg, 60)]);
    }

    #[test]
    fn kvm_is_known_to_be_broken_while_the_emulated_command_still_runs() {
        let node = Node::new(AccelChoice::Auto);
        node.start_by(|attempt| {
            if attempt.accel() == Tcg {
                attempt.answered();
                assert_eq!(node.known(), Some(Verdict::Broken));
            }
            Ok(attempt.accel() == Tcg)
        })
        .unwrap();
    }

    #[test]
    fn the_trial_is_over_for_all_guests_when_the_first_has_answered() {
        let node = Node::new(AccelChoice::Auto);
        node.start_by(|attempt| {
            assert!(attempt.is_on_trial());
            assert_eq!(attempt.answered(), Some(TIMEOUTS.boot - TIMEOUTS.trial));
            assert_eq!(attempt.answered(), None);
            assert_eq!((attempt.answer_within(), attempt.patience()), (TIMEOUTS.boot, TIMEOUTS.boot));
            // What fails from here on is not tried again.
            Ok(false)
        })
        .unwrap();
        assert_eq!(node.tried(), [(Kvm, 10)]);
        assert_eq!(node.known(), Some(Verdict::Works));
    }

    #[test]
    fn a_template_of_kvm_is_proof() {
        let node = Node::new(AccelChoice::Auto);
        let started = node.start_by(|attempt| {
            attempt.found_template();
            assert!(!attempt.is_on_trial());
            Ok(false)
        });
        assert!(started.unwrap().proven);
        assert_eq!((node.tried(), node.known()), (vec![(Kvm, 10)], Some(Verdict::Works)));
        let emulated = Node::new(AccelChoice::Tcg);
        emulated.start_by(|attempt| (attempt.found_template(), Ok(true)).1).unwrap();
        assert_eq!(emulated.known(), None);
    }

    #[test]
    fn a_neighbour_s_guest_that_answered_meanwhile_gives_ours_the_whole_time() {
        let node = Node::new(AccelChoice::Auto);
        node.start_by(|attempt| {
            if attempt.is_on_trial() {
                node.policy().verdicts.remember(Verdict::Works);
                return Ok(false);
            }
            attempt.answered();
            Ok(true)
        })
        .unwrap();
        assert_eq!((node.tried(), node.known()), (vec![(Kvm, 10), (Kvm, 60)], Some(Verdict::Works)));
    }

    #[test]
    fn what_no_accelerator_would_mend_is_not_tried_twice() {
        let node = Node::new(AccelChoice::Auto);
        node.start_by(|_| Err(RunError::node("no room"))).unwrap_err();
        assert_eq!((node.tried(), node.known()), (vec![(Kvm, 10)], None));
    }

    #[test]
    fn a_user_who_may_not_use_kvm_is_emulated_and_nothing_is_remembered() {
        let device = Err(NoKvm::NotNested);
        let node = Node { device: device.clone(), ..Node::new(AccelChoice::Auto) };
        assert!(node.start(&[Tcg]).unwrap().outcome);
        assert_eq!((node.tried(), node.known()), (vec![(Tcg, 60)], None));
        let strict = Node { device, ..Node::new(AccelChoice::Kvm) };
        let error = strict.start(&[Tcg]).unwrap_err();
        assert_eq!((error.fault(), strict.tried()), (Fault::Node, vec![]));
        let line = error.to_string();
        assert!(line.contains(&format!("accel = 'kvm', but {}", NoKvm::NotNested)), "{line}");
    }

    #[test]
    fn a_site_that_demands_kvm_or_emulation_gets_it_whatever_is_known() {
        let (kvm, tcg) = (Node::new(AccelChoice::Kvm), Node::new(AccelChoice::Tcg));
        kvm.policy().verdicts.remember(Verdict::Broken);
        let started = kvm.start(&[Tcg]).unwrap();
        assert_eq!((started.outcome, started.proven, kvm.tried()), (false, false, vec![(Kvm, 60)]));
        kvm.start(&[Kvm]).unwrap();
        assert!(kvm.start(&[]).unwrap().proven);
        assert_eq!(kvm.known(), Some(Verdict::Works));
        tcg.start(&[]).unwrap();
        assert_eq!(tcg.tried(), [(Tcg, 60)]);
    }

    #[test]
    fn a_test_of_the_node_forgets_what_is_known() {
        let node = Node::new(AccelChoice::Auto);
        node.policy().verdicts.remember(Verdict::Broken);
        let test = Policy { is_test: true, ..node.policy() };
        let answer = |attempt: &Attempt<'_>| {
            attempt.answered();
            Ok(())
        };
        let started = test.start(TIMEOUTS, answer, |()| false).unwrap();
        assert_eq!((started.accel, node.known()), (Kvm, Some(Verdict::Works)));
    }
}
