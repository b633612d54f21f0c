//! What the house promises of itself, read from its sources: no circle of files, what the products link, where
//! `unsafe` is, and sizes. `ARCHITECTURE.md` and `SECURITY.md` say the same to people.

mod circles;
mod documents;
mod links;
mod modules;
mod sizes;
mod source;
mod unsafety;
