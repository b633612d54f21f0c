//! What tests, benches and fuzz targets share.

#![forbid(unsafe_code)]

pub mod fuzzing;
pub mod lab;
