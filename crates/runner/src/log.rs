//! Where messages go: the user reads stderr, the administrator the journal, a developer `-v`.

use std::env;
use std::fmt::Display;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::error::RunError;

/// Variables of Slurm that each line in the journal has as fields, so that `journalctl SLURM_JOB_ID=7` finds the lines
/// of job 7. A job could set them to something else. The journal's own field `_UID` says whose line it is.
const FIELDS: [&str; 3] = ["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID"];

/// Target of lines that are for the journal alone: the user has them on stderr already.
const JOURNAL_ONLY: &str = "spank_vm::journal";

/// Notes a failure in the journal with fields that a program can count: `F_REASON` is whose fault it is, `F_PHASE` where
/// in its life the VM was.
pub fn failure(image: &impl Display, vm: Option<usize>, error: &RunError, phase: &str) {
    let reason = error.fault().word();
    tracing::warn!(target: JOURNAL_ONLY, %image, vm, reason, phase, "{error:#}");
}

/// Sends information to the journal, if there is one, and with `verbose` everything to stderr.
pub fn init(verbose: bool) {
    let fields = FIELDS.into_iter().filter_map(|name| Some((name, env::var(name).ok()?)));
    let journal = tracing_journald::layer().ok().map(|layer| {
        let layer = layer.with_syslog_identifier("spank-vm".to_owned()).with_custom_fields(fields);
        layer.with_filter(LevelFilter::INFO)
    });
    let terminal = verbose.then(|| for_users(std::io::stderr));
    // A second call (tests) keeps the first.
    let _ = tracing_subscriber::registry().with(journal).with(terminal).try_init();
}

/// What `-v` shows.
fn for_users<S, W>(writer: W) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + 'static,
{
    fmt::layer()
        .with_writer(writer)
        .without_time()
        .with_target(false)
        .log_internal_errors(false)
        .with_filter(filter_fn(|about| about.target() != JOURNAL_ONLY && *about.level() <= Level::DEBUG))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;
    use std::io;
    use std::sync::{Arc, Mutex};
    use tracing::field::{Field, Visit};
    use tracing_subscriber::layer::Context;

    /// Collects the fields of lines, as the journal's layer does.
    #[derive(Clone, Default)]
    struct Fields(Arc<Mutex<Vec<(String, String)>>>);

    impl<S: tracing::Subscriber> Layer<S> for Fields {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            event.record(&mut self.clone());
        }
    }

    impl Visit for Fields {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            self.0.lock().unwrap().push((field.name().to_owned(), format!("{value:?}")));
        }
    }

    #[test]
    fn a_failure_has_its_image_vm_reason_and_phase_as_fields() {
        let fields = Fields::default();
        let subscriber = tracing_subscriber::registry().with(fields.clone());
        let error = RunError::new(Fault::Guest, "the guest's kernel panicked");
        tracing::subscriber::with_default(subscriber, || failure(&"tiny", Some(3), &error, "run"));
        let found = fields.0.lock().unwrap().clone();
        for (name, value) in [("image", "tiny"), ("vm", "3"), ("reason", "\"guest\""), ("phase", "\"run\"")] {
            assert!(found.contains(&(name.to_owned(), value.to_owned())), "{name} in {found:?}");
        }
        assert!(found.iter().any(|(name, text)| name == "message" && text.contains("panicked")), "{found:?}");
    }

    #[test]
    fn the_user_who_has_the_line_already_does_not_get_it_again() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let writer = {
            let written = Arc::clone(&written);
            move || Pipe(Arc::clone(&written))
        };
        let subscriber = tracing_subscriber::registry().with(for_users(writer));
        tracing::subscriber::with_default(subscriber, || {
            failure(&"tiny", None, &RunError::user("no"), "prepare");
            tracing::debug!("explained");
        });
        let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert!(written.contains("explained") && !written.contains("tiny"), "{written}");
    }

    struct Pipe(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
