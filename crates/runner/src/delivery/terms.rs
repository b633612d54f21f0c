//! The terms on which copies are made.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::config::{Config, Delivery};
use crate::signals::Signals;

/// The site's choice, the limits, and the person to tell.
#[derive(Debug)]
pub struct CopyTerms<'a> {
    /// Where to read from.
    pub delivery: Delivery,
    /// This node's directory for copies.
    pub cache_dir: PathBuf,
    /// Most bytes that the copies of one owner may take of it.
    pub most_bytes: u64,
    /// How long to wait for a copy.
    pub patience: Duration,
    /// Signals of this process.
    pub signals: &'a Signals,
    /// When to tell a waiting person, if there is one.
    pub notice_at: Option<Instant>,
}

impl<'a> CopyTerms<'a> {
    /// As the site has configured.
    pub fn of(config: &Config, signals: &'a Signals, notice_at: Option<Instant>) -> Self {
        Self {
            delivery: config.delivery,
            cache_dir: config.image_cache_dir(),
            most_bytes: config.image_cache_mib << 20,
            patience: Duration::from_secs(config.image_copy_timeout_s),
            signals,
            notice_at,
        }
    }
}
