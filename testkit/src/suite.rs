//! The `main` of a suite that runs on a private cluster.
//!
//! One cluster is started for all cases and checked for leftovers after the last. Names on the command line choose
//! cases as they do for any Rust test; if they choose none, no cluster is started. The cases that took longest are
//! printed at the end, and the times of all are written to `target/test-times/SUITE.tsv`.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Conclusion, Failed, Trial};

use crate::cluster::Cluster;
use crate::place::output;

/// Which cases to run: `1` for the long ones, `all` for both. Without it the short ones run.
const LENGTH: &str = "SPANK_VM_LONG";

/// Cases that are printed with their times.
const SLOWEST: usize = 5;

/// Cases by how long they take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Those that take seconds.
    Short,
    /// Those that take minutes.
    Long,
}

/// What a suite is. Its value is what the cases share beside the cluster.
pub trait Suite: Sized + Send + Sync + 'static {
    /// One test.
    type Case: Copy + Send + 'static;

    /// Its name, as cargo knows it.
    const NAME: &'static str;

    /// How many cases run at a time unless `--test-threads` says otherwise. With one, leftovers are looked for
    /// after each case; with more, after the last.
    const THREADS: usize;

    /// All cases of that length.
    fn cases(length: Length) -> Vec<Self::Case>;

    /// What the case is called.
    fn title(case: &Self::Case) -> String;

    /// Prepares a cluster that was just started.
    ///
    /// # Errors
    ///
    /// Why no case can run.
    fn prepare(cluster: &Cluster) -> Result<Self, String>;

    /// Runs a case. It may panic instead of returning an error.
    ///
    /// # Errors
    ///
    /// What is wrong.
    fn run(&self, cluster: &Cluster, case: Self::Case) -> Result<(), String>;

    /// Undoes what [`Self::prepare`] did.
    fn restore(&self, _cluster: &Cluster) {}

    /// Writes its report, after all cases of that length have run; `failed` of them failed.
    fn report(&self, _length: Length, _failed: u64) {}
}

/// A test of a [`Plain`] suite: a sentence, and a function of the cluster that panics if it is not true.
pub type PlainCase = (&'static str, fn(&Cluster));

/// What a suite is whose cases share nothing besides the cluster and run one after the other.
pub trait Cases: Send + Sync + 'static {
    /// As [`Suite::NAME`].
    const NAME: &'static str;

    /// As [`Suite::cases`].
    fn cases(length: Length) -> Vec<PlainCase>;
}

/// The suite of these cases.
#[derive(Debug)]
pub struct Plain<C>(PhantomData<C>);

impl<C: Cases> Suite for Plain<C> {
    type Case = PlainCase;
    const NAME: &'static str = C::NAME;
    const THREADS: usize = 1;

    fn cases(length: Length) -> Vec<PlainCase> {
        C::cases(length)
    }

    fn title((name, _): &PlainCase) -> String {
        (*name).to_owned()
    }

    fn prepare(_: &Cluster) -> Result<Self, String> {
        Ok(Self(PhantomData))
    }

    fn run(&self, cluster: &Cluster, (_, case): PlainCase) -> Result<(), String> {
        case(cluster);
        Ok(())
    }
}

/// Runs the cases that the command line chooses, on a cluster of their own.
pub fn main<S: Suite>() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(S::THREADS);
    let lengths = lengths(env::var(LENGTH).ok().as_deref());
    let cases: Vec<S::Case> = lengths.iter().flat_map(|length| S::cases(*length)).collect();
    let names: Vec<Trial> = cases.iter().map(|case| Trial::test(S::title(case), || Ok(()))).collect();
    if arguments.list || names.iter().all(|name| arguments.is_filtered_out(name)) {
        return libtest_mimic::run(&arguments, names).exit_code();
    }
    match on_a_cluster::<S>(&arguments, &lengths, cases) {
        Ok(conclusion) => conclusion.exit_code(),
        Err(why) => {
            eprintln!("{}: {why}", S::NAME);
            ExitCode::FAILURE
        }
    }
}

fn on_a_cluster<S: Suite>(
    arguments: &Arguments,
    lengths: &[Length],
    cases: Vec<S::Case>,
) -> Result<Conclusion, String> {
    let begin = Instant::now();
    let cluster = Arc::new(Cluster::start().map_err(|why| format!("the test cluster does not start: {why}"))?);
    let suite = Arc::new(S::prepare(&cluster)?);
    let times = Arc::new(Times { start: begin.elapsed(), of_cases: Mutex::default() });
    let sweep_each = arguments.test_threads == Some(1);
    let trials = cases.into_iter().map(|case| {
        let (cluster, suite, times) = (Arc::clone(&cluster), Arc::clone(&suite), Arc::clone(&times));
        let title = S::title(&case);
        Trial::test(title.clone(), move || {
            let _running = Running { title, begin: Instant::now(), times: &times };
            if !sweep_each {
                return Ok(suite.run(&cluster, case)?);
            }
            let whole = || suite.run(&cluster, case).and_then(|()| cluster.nothing_is_left());
            let outcome = catch_unwind(AssertUnwindSafe(whole));
            if !matches!(outcome, Ok(Ok(()))) {
                cluster.forget_jobs();
            }
            outcome.unwrap_or_else(|panic| resume_unwind(panic)).map_err(Failed::from)
        })
    });
    let conclusion = libtest_mimic::run(arguments, trials.collect());
    suite.restore(&cluster);
    let left = if sweep_each { Ok(()) } else { cluster.nothing_is_left() };
    let stopped = cluster.stop();
    times.print(S::NAME, begin.elapsed());
    left.and(stopped).map_err(|why| format!("after the last case: {why}"))?;
    // A run of a few chosen cases is no report.
    if let ([length], 0) = (lengths, conclusion.num_filtered_out) {
        suite.report(*length, conclusion.num_failed);
    }
    Ok(conclusion)
}

fn lengths(variable: Option<&str>) -> Vec<Length> {
    match variable {
        None | Some("") => vec![Length::Short],
        Some("all") => vec![Length::Short, Length::Long],
        Some(_) => vec![Length::Long],
    }
}

/// How long the cases took.
#[derive(Debug)]
struct Times {
    start: Duration,
    of_cases: Mutex<Vec<(String, Duration)>>,
}

/// Measures a case from its start to its end, however it ends.
#[derive(Debug)]
struct Running<'a> {
    title: String,
    begin: Instant,
    times: &'a Times,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let took = (std::mem::take(&mut self.title), self.begin.elapsed());
        self.times.of_cases.lock().unwrap_or_else(PoisonError::into_inner).push(took);
    }
}

impl Times {
    fn print(&self, suite: &str, all: Duration) {
        let mut times = self.of_cases.lock().unwrap_or_else(PoisonError::into_inner).clone();
        times.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        println!(
            "{suite}: {:.0} s, of them {:.0} s until the first case; the slowest:",
            all.as_secs_f64(),
            self.start.as_secs_f64()
        );
        let mut table = String::new();
        for (number, (title, time)) in times.iter().enumerate() {
            let seconds = time.as_secs_f64();
            if number < SLOWEST {
                println!("{seconds:7.1} s  {title}");
            }
            let _ = writeln!(table, "{seconds:.1}\t{title}");
        }
        let dir = output("test-times");
        let written = fs::create_dir_all(&dir).and_then(|()| fs::write(dir.join(format!("{suite}.tsv")), table));
        if let Err(why) = written {
            eprintln!("{}: {why}", dir.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_cases_run_only_where_they_are_asked_for() {
        assert_eq!(lengths(None), [Length::Short]);
        assert_eq!(lengths(Some("1")), [Length::Long]);
        assert_eq!(lengths(Some("all")), [Length::Short, Length::Long]);
    }
}
