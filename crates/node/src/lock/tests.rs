use super::*;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Signals that a test sends by hand.
struct Fake {
    ours: UnixStream,
    theirs: UnixStream,
}

impl Fake {
    fn new() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        Self { ours, theirs }
    }

    fn send(&self, signal: u8) {
        (&self.theirs).write_all(&[signal]).unwrap();
    }
}

impl Interrupt for Fake {
    fn fd(&self) -> BorrowedFd<'_> {
        self.ours.as_fd()
    }

    fn next_fatal(&self) -> Option<u8> {
        let mut signal = [0];
        (&self.ours).read_exact(&mut signal).ok().map(|()| signal[0])
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(50)
}

fn late() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn take(path: &Path) -> Lock {
    match wait(path, late(), &Fake::new(), || None::<()>).unwrap() {
        Waited::Locked(lock) => lock,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_holds_the_lock_and_the_others_wait_until_their_deadline_and_say_for_whom() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.lock");
    let held = take(&path);
    let Waited::TimedOut(why) = wait(&path, soon(), &Fake::new(), || None::<()>).unwrap() else { panic!("not held") };
    let expected = format!("process {} did not release {} within 0 s", std::process::id(), path.display());
    assert_eq!(why.to_string(), expected);
    drop(held);
    assert!(!path.exists());
    take(&path);
}

#[test]
fn a_release_wakes_a_waiter_which_looks_first() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let lock = take(&path);
    let made = dir.path().join("made");
    let builder = thread::spawn({
        let made = made.clone();
        move || {
            thread::sleep(Duration::from_millis(30));
            std::fs::write(made, "").unwrap();
            drop(lock);
        }
    });
    let waited = wait(&path, late(), &Fake::new(), || made.exists().then_some(7)).unwrap();
    builder.join().unwrap();
    assert!(matches!(waited, Waited::Found(7)));
}

#[test]
fn a_wait_whose_deadline_has_passed_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let _held = take(&path);
    let past = Instant::now() - Duration::from_secs(5);
    let mut looks = 0;
    let waited = wait(&path, past, &Fake::new(), || {
        looks += 1;
        (looks > 100).then_some(())
    });
    assert!(matches!(waited.unwrap(), Waited::TimedOut(_)), "looked {looks} times");
    assert_eq!(looks, 1);
}

#[test]
fn a_signal_is_seen_whether_it_came_before_or_during_the_wait() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let _held = take(&path);
    let early = Fake::new();
    early.send(15);
    let past = Instant::now() - Duration::from_secs(5);
    assert!(matches!(wait(&path, past, &early, || None::<()>).unwrap(), Waited::Interrupted(15)));
    let fake = Fake::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(30));
            fake.send(2);
        });
        assert!(matches!(wait(&path, late(), &fake, || None::<()>).unwrap(), Waited::Interrupted(2)));
    });
}

#[test]
fn waiters_that_leave_or_stay_do_not_keep_waking_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let _held = take(&path);
    let looks = AtomicUsize::new(0);
    thread::scope(|scope| {
        for ms in [50, 150, 600, 600, 600] {
            let (path, looks) = (&path, &looks);
            scope.spawn(move || {
                let deadline = Instant::now() + Duration::from_millis(ms);
                let waited = wait(path, deadline, &Fake::new(), || {
                    looks.fetch_add(1, Ordering::Relaxed);
                    None::<()>
                });
                assert!(matches!(waited.unwrap(), Waited::TimedOut(_)));
            });
        }
    });
    // Each looks when it begins, at its deadline, and once for each waiter that leaves before it or comes late.
    let looks = looks.load(Ordering::Relaxed);
    assert!(looks <= 5 * 8, "{looks}");
}

#[test]
fn all_waiters_get_their_turn_when_holders_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let inside = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let lock = take(&path);
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at a time");
                thread::sleep(Duration::from_millis(5));
                inside.fetch_sub(1, Ordering::SeqCst);
                drop(lock);
            });
        }
    });
    assert!(!path.exists());
}

#[test]
fn whoever_holds_it_for_a_moment_only_to_look_wakes_the_waiters_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    std::fs::write(&path, "").unwrap();
    // As a sweep does: opened for reading, locked, removed, closed.
    let sweep = File::open(&path).unwrap();
    assert!(sys::try_lock(&sweep).unwrap());
    thread::scope(|scope| {
        let waiter = scope.spawn(|| take(&path));
        thread::sleep(Duration::from_millis(50));
        std::fs::remove_file(&path).unwrap();
        drop(sweep);
        waiter.join().unwrap();
    });
}
