//! What can go wrong.

use std::fmt;
use std::io;

/// Why there is no network; for the user, in one line.
#[derive(Debug)]
pub struct NetworkError {
    what: String,
    source: Option<io::Error>,
    is_users: bool,
}

impl NetworkError {
    /// With this text; the node is at fault.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None, is_users: false }
    }

    /// With this text; the request cannot be met anywhere.
    pub fn user(what: impl Into<String>) -> Self {
        Self { is_users: true, ..Self::new(what) }
    }

    /// Whether the request cannot be met anywhere.
    pub fn is_users(&self) -> bool {
        self.is_users
    }

    /// The kernel's reason, if it gave one.
    pub(crate) fn errno(&self) -> Option<i32> {
        self.source.as_ref().and_then(io::Error::raw_os_error)
    }
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{}: {source}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

impl std::error::Error for NetworkError {}

/// Says what was being done.
pub(crate) trait Doing<T> {
    /// `what` is followed by the reason.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, NetworkError>;

    /// `what` is followed by the reason; if the kernel lacks this module, also by the remedy.
    fn making(self, what: &str, module: &str) -> Result<T, NetworkError>;
}

/// What the kernel says where a module is missing and it could not load it itself: of links, and of a device's file.
const MISSING: [i32; 4] = [libc::EOPNOTSUPP, libc::ENOENT, libc::ENODEV, libc::ENXIO];

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, NetworkError> {
        self.map_err(|source| NetworkError { what: what(), source: Some(source), is_users: false })
    }

    fn making(self, what: &str, module: &str) -> Result<T, NetworkError> {
        self.map_err(|source| {
            let is_missing = source.raw_os_error().is_some_and(|errno| MISSING.contains(&errno));
            let remedy = format!(" ('modprobe {module}' loads what is missing, or says why not)");
            let what = format!("{what}{}", if is_missing { &remedy } else { "" });
            NetworkError { what, source: Some(source), is_users: false }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_module_is_named_with_its_remedy_and_other_reasons_are_the_kernel_s() {
        let said = |errno| {
            Err::<(), _>(io::Error::from_raw_os_error(errno)).making("a tunnel cannot be made", "vxlan").unwrap_err()
        };
        let missing = said(libc::EOPNOTSUPP);
        assert_eq!(
            missing.to_string(),
            "a tunnel cannot be made ('modprobe vxlan' loads what is missing, or says why not): \
             Operation not supported (os error 95)"
        );
        assert_eq!(missing.errno(), Some(libc::EOPNOTSUPP));
        assert_eq!(said(libc::EPERM).to_string(), "a tunnel cannot be made: Operation not permitted (os error 1)");
    }
}
