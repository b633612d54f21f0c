//! Where messages go: the user reads stderr, the administrator the journal, a developer `-v`.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// Sends information to the journal, if there is one, and with `verbose` everything to stderr.
pub fn init(verbose: bool) {
    let journal = tracing_journald::layer()
        .ok()
        .map(|layer| layer.with_syslog_identifier("spank-vm".to_owned()).with_filter(LevelFilter::INFO));
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
