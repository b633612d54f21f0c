//! Checks what the project promises about its own sources: no circle of files, what the products link, where
//! `unsafe` is, and sizes. `ARCHITECTURE.md` and `SECURITY.md` say the same to readers.

mod circles;
mod documents;
mod links;
mod modules;
mod sizes;
mod source;
mod unsafety;
