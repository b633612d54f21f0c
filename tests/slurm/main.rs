//! The real-Slurm suite: one cluster of four nodes for all tests, everything run as an ordinary user.
//!
//! Tests run one after the other: each ends with a look at what is left on the machine, which must
//! be nothing. `cargo test --test slurm -- NAME` runs those whose name contains NAME.

mod batch;
mod blame;
mod case;
mod catalogue;
mod central;
mod confinement;
mod delivery;
mod devices;
mod documents;
mod fail_closed;
mod failures;
mod fullboot;
mod gallery;
mod hostile;
mod identity;
mod images;
mod inherited;
mod mpi;
mod networks;
mod options;
mod paths;
mod person;
mod resources;
mod rhel;
mod save;
mod scope;
mod shapes;
mod slots;
mod small_disk;
mod streams;
mod templates;
mod terminal;
mod tools;
mod ways;

use std::process::ExitCode;

use testkit::suite::{self, Cases, Length, Plain};

use case::Case;

const CASES: &[&[Case]] = &[
    identity::CASES,
    person::CASES,
    mpi::CASES,
    networks::CASES,
    streams::CASES,
    terminal::CASES,
    slots::CASES,
    scope::CASES,
    save::CASES,
    options::CASES,
    paths::CASES,
    catalogue::CASES,
    delivery::CASES,
    devices::CASES,
    batch::CASES,
    templates::CASES,
    fullboot::CASES,
    failures::CASES,
    fail_closed::CASES,
    ways::CASES,
    blame::CASES,
    inherited::CASES,
    resources::CASES,
    rhel::CASES,
    hostile::CASES,
    confinement::CASES,
    tools::CASES,
    images::CASES,
    documents::CASES,
    gallery::CASES,
];

const LONG_CASES: &[&[Case]] = &[
    scope::LONG_CASES,
    save::LONG_CASES,
    blame::LONG_CASES,
    person::LONG_CASES,
    shapes::LONG_CASES,
    networks::LONG_CASES,
    images::LONG_CASES,
    fullboot::LONG_CASES,
    documents::LONG_CASES,
    gallery::LONG_CASES,
    mpi::LONG_CASES,
];

fn main() -> ExitCode {
    suite::main::<Plain<RealSlurm>>()
}

struct RealSlurm;

impl Cases for RealSlurm {
    const NAME: &'static str = "slurm";

    fn cases(length: Length) -> Vec<Case> {
        match length {
            Length::Short => CASES.concat(),
            Length::Long => LONG_CASES.concat(),
        }
    }
}
