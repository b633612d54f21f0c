//! A test of this suite.

use testkit::Cluster;

/// A test: a sentence and a function of the cluster.
pub type Case = (&'static str, fn(&Cluster));
