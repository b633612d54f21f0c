//! What is tried and remembered for guests that answer under KVM, emulated, under both or not at all.

use super::*;
use crate::error::Fault;
use std::cell::RefCell;

const TIMEOUTS: Timeouts = Timeouts { boot: Duration::from_secs(60), trial: Duration::from_secs(10) };

/// A node on which slots are started, and what they tried: accelerator and time for an answer.
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
        Policy { choice: self.choice, device: self.device.clone(), verdicts, processor: None, is_test: false }
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
    // If an image does not answer now, that is no longer KVM's fault.
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
        // A failure from here on is not retried.
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
fn a_processor_that_qemu_does_not_take_is_neither_the_images_fault_nor_kvms() {
    let node = Node::new(AccelChoice::Tcg);
    let config = Config { accel: AccelChoice::Tcg, cpu_model: "EPIC".parse().unwrap(), ..Config::default() };
    // It refuses whatever it is started with.
    let processor = Processor::of(&config, Path::new("/bin/false"));
    let policy = Policy { processor, ..node.policy() };
    let start = |comes_up: bool| policy.start(TIMEOUTS, |_| Ok(comes_up), |came_up| !came_up);
    assert!(start(true).is_ok(), "nobody asks when a guest came up");
    let error = start(false).unwrap_err();
    assert_eq!((error.fault(), node.known()), (Fault::Node, None));
    assert!(error.to_string().contains("cpu_model = 'EPIC'"), "{error}");
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
