//! A test of this suite.

pub use testkit::suite::PlainCase as Case;
