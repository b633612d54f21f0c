//! What is kept on a node: the one owner of its directories, of who makes the files in them, and of who removes them.
//!
//! | what | where | whose | mode | made by | removed by |
//! | --- | --- | --- | --- | --- | --- |
//! | state directory | [`layout::DEFAULT_STATE_DIR`] | root | 0755 | the plugin, with its parents | nobody |
//! | a task ([`task_dir`], [`status`]) | `STATE/JOB.STEP.TASK/status.toml` | root | 0755, 0644 | the plugin before the task | the plugin after it, [`sweep`] |
//! | what a runner does ([`progress`]) | nowhere: `/proc/PID/fd`, in memory | the user | | the runner | the end of the process |
//! | cache of templates | [`layout::DEFAULT_TEMPLATE_DIR`] | root | 0755 | the plugin, `template build`; with parents | nobody |
//! | cache of copies of images | [`layout::DEFAULT_IMAGE_CACHE_DIR`], `%n` is the node's name | root | 0755 | the plugin, `image fetch`; with parents | nobody |
//! | users' shelves | `CACHE/users` | root | 0755 | the plugin | nobody |
//! | a user's shelf ([`shelf`]) | `CACHE/users/UID` | the user | 0700 | the plugin: only root can | [`sweep`], when it is empty and long unused |
//! | the site's shelf | `CACHE/site` | root | 0755 templates, 0711 copies | root's tools | nobody |
//! | a template | `SHELF/BOOT-KEY/` with its files | the shelf's owner | 0700 and 0600; the site's as its image's disk can be read | the runner | its limit, the next boot, [`sweep`] |
//! | a copy | `SHELF/SHA256` | the shelf's owner | 0600; the site's as the image's disk can be read | the runner | its limit, [`sweep`] |
//! | a draft | `SHELF/.ITEM.PID`, `.ITEM.PID.old` while it is removed | the shelf's owner | 0700, 0600 | the runner | the runner, [`sweep`] |
//! | a maker's lock ([`lock`]) | `SHELF/ITEM.lock`, with the holder's number in it | the shelf's owner | 0600 | the runner | its holder, [`sweep`] |
//! | note of a failure | `SHELF/ITEM.failed` | the shelf's owner | 0600 | the runner | after ten minutes, [`sweep`] |
//! | trash ([`trash`]) | `CACHE/.swept` | root | 0700 | [`sweep`] | [`sweep`] |
//!
//! Modes are exact with any umask. If a directory above lets nobody pass, one line says so.
//!
//! How much caches take ([`space`]): the items of one owner at most `template_cache_mib` or `image_cache_mib`; all
//! shelves of a cache together at most a quarter of a file system that others use too, or all of one of their own; and
//! a twentieth of the file system, at most 4 GiB, stays free. A user's runner can only check its own shelf and the free
//! space. Root's sweep sees all shelves and removes the least recently used items. In the node's memory (tmpfs) users'
//! shelves stay empty, because that memory would be charged to their jobs.
//!
//! The lowest crate: it knows nothing about QEMU, images, or the content of a template. The plugin links it, so it
//! depends on libc alone.

// println! and eprintln! panic if the reader has closed the pipe.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod child;
pub mod descriptors;
pub mod dir;
pub mod layout;
pub mod life;
pub mod lock;
pub mod mounts;
pub mod pass;
pub mod process;
pub mod progress;
pub mod shelf;
pub mod space;
pub mod status;
pub mod sweep;
mod sys;
pub mod task_dir;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;
mod trash;
pub mod trust;

pub use sys::{has_acl, try_lock};
