//! Where messages go: the user reads stderr, the administrator the journal, a developer `-v`.

use std::env;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// Variables of Slurm that each line in the journal has as fields, so that `journalctl SLURM_JOB_ID=7` finds the lines
/// of job 7. A job could set them to something else. The journal's own field `_UID` says whose line it is.
const FIELDS: [&str; 3] = ["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID"];

/// Sends information to the journal, if there is one, and with `verbose` everything to stderr.
pub fn init(verbose: bool) {
    let fields = FIELDS.into_iter().filter_map(|name| Some((name, env::var(name).ok()?)));
    let journal = tracing_journald::layer().ok().map(|layer| {
        let layer = layer.with_syslog_identifier("spank-vm".to_owned()).with_custom_fields(fields);
        layer.with_filter(LevelFilter::INFO)
    });
    let terminal = verbose.then(|| {
        fmt::layer()
            .with_writer(std::io::stderr)
            .without_time()
            .with_target(false)
            .log_internal_errors(false)
            .with_filter(LevelFilter::DEBUG)
    });
    // A second call (tests) keeps the first.
    let _ = tracing_subscriber::registry().with(journal).with(terminal).try_init();
}
