//! The documents say what is true: commands and options exist, links lead somewhere, tables are those of the lists that
//! they are made from.

mod commands;
mod documents;
mod links;
mod messages;
mod tables;
