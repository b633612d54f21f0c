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

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::kvm::{self, NoKvm};
use super::processor::Processor;
use super::verdict::{Verdict, Verdicts};
use crate::config::{AccelChoice, Config};
use crate::error::RunError;
use crate::notice;
use node::layout::this_node;
use qemu::Accel;
use request::ImageRef;

/// Tells a user with slow VMs that KVM is the reason.
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

/// One attempt to start guests, and what an answer shows.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    accel: Accel,
    /// KVM was tried before it without success.
    is_fallback: bool,
    boot: Duration,
    /// Holds while nobody knows whether KVM runs guests.
    trial: Cell<Option<Duration>>,
    /// Holds while a guest is started in a way that nobody knows to work.
    way_trial: Cell<Option<Duration>>,
    answered: Cell<bool>,
    /// Whether KVM is known to run guests.
    proven: Cell<bool>,
    /// To be done when a guest answers.
    then: RefCell<Vec<OnAnswer>>,
    /// Why this guest boots where a clone was possible, to be told when it answers: one that never does has another line.
    slow: RefCell<Option<String>>,
    policy: &'a Policy,
}

/// What an answer decides beside the question of KVM.
struct OnAnswer(Box<dyn FnOnce()>);

impl fmt::Debug for OnAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnAnswer")
    }
}

impl Attempt<'_> {
    /// Who executes the guests.
    pub(crate) fn accel(&self) -> Accel {
        self.accel
    }

    /// How long a guest may take from its start to its first answer. The first answer of any guest makes it longer
    /// for the others.
    pub(crate) fn answer_within(&self) -> Duration {
        [self.trial.get(), self.way_trial.get()].into_iter().flatten().fold(self.boot, Duration::min)
    }

    /// From now on guests start in a way that is on trial for this time, or that is known to work.
    pub(crate) fn try_way(&self, within: Option<Duration>) {
        self.way_trial.set(within);
        // What an answer by another way has shown is no concern of this one.
        self.answered.set(false);
    }

    /// Whether another way or accelerator is tried if a guest does not answer.
    pub(crate) fn is_on_trial(&self) -> bool {
        self.trial.get().or(self.way_trial.get()).is_some()
    }

    /// How long everything else may take: what follows a guest's answer, or another process's work.
    pub(crate) fn patience(&self) -> Duration {
        self.boot
    }

    /// A guest has answered; returns how much more time the others get, if this is the first.
    pub(crate) fn answered(&self) -> Option<Duration> {
        if self.answered.replace(true) {
            return None;
        }
        self.then.take().into_iter().for_each(|OnAnswer(then)| then());
        if let Some(text) = self.slow.take() {
            static TOLD: AtomicBool = AtomicBool::new(false);
            self.policy.tell_once(&TOLD, &text);
        }
        let before = self.answer_within();
        self.way_trial.set(None);
        self.proven.set(true);
        match self.accel {
            Accel::Kvm => self.kvm_works(),
            Accel::Tcg if self.is_fallback => self.policy.kvm_is_broken(),
            Accel::Tcg => {}
        }
        Some(self.boot.saturating_sub(before)).filter(|more| !more.is_zero())
    }

    /// Has this done when a guest answers, if any does.
    pub(crate) fn when_one_answers(&self, then: Box<dyn FnOnce()>) {
        self.then.borrow_mut().push(OnAnswer(then));
    }

    /// A template was found that a guest under this accelerator was saved to since the node booted.
    pub(crate) fn found_template(&self) {
        if self.accel == Accel::Kvm && !self.proven.replace(true) {
            self.kvm_works();
        }
    }

    /// The user is to be told, once a guest has answered, that VMs boot where clones of a template were possible.
    pub(crate) fn is_slow(&self, image: &ImageRef, why: &str) {
        let text = format!("image '{image}' starts slowly on {}, without a template: {why}", this_node());
        self.slow.replace(Some(text));
    }

    fn kvm_works(&self) {
        self.trial.set(None);
        self.policy.verdicts.remember(Verdict::Works);
    }
}

#[cfg(test)]
impl Attempt<'static> {
    /// KVM on trial for the time `trial`, for guests that normally may take `boot`, on a node without a verdict.
    pub(crate) fn on_trial(trial: Duration, boot: Duration) -> Self {
        let verdicts = Verdicts::in_dir(Path::new("/dev/null/none"), Path::new("/bin/sh"));
        let policy = Policy { choice: AccelChoice::Auto, device: Ok(()), verdicts, processor: None, is_test: true };
        let policy: &'static Policy = Box::leak(Box::new(policy));
        Self { trial: Cell::new(Some(trial)), ..policy.attempt(Accel::Kvm, boot, false) }
    }
}

/// Result of [`Policy::start`].
#[derive(Debug)]
pub(crate) struct Started<T> {
    /// The result of the last attempt.
    pub(crate) outcome: T,
    /// The accelerator of the last attempt.
    pub(crate) accel: Accel,
    /// Whether a guest has answered in it or before, so that its accelerator is proven.
    pub(crate) proven: bool,
}

/// What the site wants, what this process may do, and what the node knows.
#[derive(Debug)]
pub(crate) struct Policy {
    choice: AccelChoice,
    device: Result<(), NoKvm>,
    verdicts: Verdicts,
    /// The processor that the site has named.
    processor: Option<Processor>,
    /// The node is being tested: the stored verdict is ignored, and no user is told.
    is_test: bool,
}

impl Policy {
    /// For VMs that this process starts with this QEMU.
    pub(crate) fn of(config: &Config, qemu: &Path) -> Self {
        let device = if config.accel == AccelChoice::Tcg { Ok(()) } else { kvm::usable() };
        let processor = Processor::of(config, qemu);
        Self { choice: config.accel, device, verdicts: Verdicts::of(config, qemu), processor, is_test: false }
    }

    /// The same for a test of KVM that ignores the stored verdict.
    pub(crate) fn for_test(config: &Config, qemu: &Path) -> Self {
        Self { choice: AccelChoice::Auto, is_test: true, ..Self::of(config, qemu) }
    }

    /// Starts guests by `attempt`. If that `failed` and KVM may be the reason, it falls back to emulation once.
    /// An error of `attempt` is one that no other accelerator could avoid.
    ///
    /// # Errors
    /// The error of `attempt`; or KVM is required and cannot be used; or no VM can have the processor that the site
    /// has named.
    pub(crate) fn start<T>(
        &self,
        timeouts: Timeouts,
        attempt: impl FnMut(&Attempt<'_>) -> Result<T, RunError>,
        failed: impl Fn(&T) -> bool,
    ) -> Result<Started<T>, RunError> {
        let started = self.try_all(timeouts, attempt, &failed)?;
        if let (true, Some(processor)) = (failed(&started.outcome), &self.processor) {
            processor.judge()?;
        }
        Ok(started)
    }

    fn try_all<T>(
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
            (AccelChoice::Kvm, Err(why)) => Err(why.under_a_site_that_demands_kvm()),
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
                    // Another slot's guest may have answered before ours.
                    false if self.known() == Some(Verdict::Works) => run(self.attempt(Accel::Kvm, timeouts.boot, true)),
                    false => run(Attempt { is_fallback: true, ..self.attempt(Accel::Tcg, timeouts.boot, false) }),
                }
            }
            (AccelChoice::Auto | AccelChoice::Kvm, Ok(())) => run(self.attempt(Accel::Kvm, timeouts.boot, works)),
        }
    }

    /// Who executes the first guest that is tried.
    pub(crate) fn first_accel(&self) -> Accel {
        match (self.choice, &self.device, self.known()) {
            (AccelChoice::Tcg, ..) | (_, Err(_), _) | (AccelChoice::Auto, _, Some(Verdict::Broken)) => Accel::Tcg,
            _ => Accel::Kvm,
        }
    }

    fn attempt(&self, accel: Accel, boot: Duration, proven: bool) -> Attempt<'_> {
        let (trial, answered, proven) = (Cell::new(None), Cell::new(false), Cell::new(proven));
        Attempt {
            accel,
            is_fallback: false,
            boot,
            trial,
            way_trial: Cell::default(),
            answered,
            proven,
            then: RefCell::default(),
            slow: RefCell::default(),
            policy: self,
        }
    }

    fn known(&self) -> Option<Verdict> {
        if self.is_test { None } else { self.verdicts.recall() }
    }

    fn kvm_is_broken(&self) {
        self.verdicts.remember(Verdict::Broken);
        self.tell(BROKEN);
    }

    /// Tells the user why the VMs are slow.
    fn tell(&self, why: &str) {
        static TOLD: AtomicBool = AtomicBool::new(false);
        self.tell_once(&TOLD, why);
    }

    /// Once per step on this node.
    fn tell_once(&self, told: &AtomicBool, why: &str) {
        let is_first_task = std::env::var("SLURM_LOCALID").map_or(true, |number| number == "0");
        if is_first_task && !self.is_test && !told.swap(true, Ordering::Relaxed) {
            notice::line(&format!("warning: {why}"));
        }
    }
}
