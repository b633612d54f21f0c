//! What each request does. A function gets the share, the number of the node that the request is about, its
//! arguments and the reply to fill; an error takes the reply's place.

pub(crate) mod absent;
pub(crate) mod attributes;
pub(crate) mod data;
pub(crate) mod directory;
pub(crate) mod entry;
pub(crate) mod ioctl;
pub(crate) mod locking;
pub(crate) mod missing;
pub(crate) mod names;
pub(crate) mod open;
pub(crate) mod umask;
pub(crate) mod walk;
pub(crate) mod xattr;
