//! Where the repository and its build products are.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the testkit lies in the repository")
}

/// What the Makefile built under this name: `target/NAME`, or the path in the variable `SPANK_VM_NAME`.
pub fn built(name: &str) -> PathBuf {
    from_variable(name, env::var_os(variable(name)))
}

/// A path for something that a test or a measurement writes: `target/NAME`.
pub fn output(name: &str) -> PathBuf {
    repository().join("target").join(name)
}

/// The script `testkit/cluster/cluster`.
pub fn cluster_script() -> PathBuf {
    repository().join("testkit/cluster/cluster")
}

fn variable(name: &str) -> String {
    format!("SPANK_VM_{}", name.to_uppercase().replace('-', "_"))
}

fn from_variable(name: &str, value: Option<OsString>) -> PathBuf {
    value.filter(|value| !value.is_empty()).map_or_else(|| output(name), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_elsewhere_is_named_by_a_variable() {
        assert_eq!(variable("images-full"), "SPANK_VM_IMAGES_FULL");
        assert_eq!(from_variable("kit", Some("/srv/kit".into())), Path::new("/srv/kit"));
        for nothing in [None, Some(OsString::new())] {
            assert_eq!(from_variable("kit", nothing), repository().join("target/kit"));
        }
    }

    #[test]
    fn the_repository_has_the_cluster_s_script() {
        assert!(cluster_script().is_file());
    }
}
