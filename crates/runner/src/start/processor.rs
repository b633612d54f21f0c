//! Whether QEMU takes the processor that the site has named (`cpu_model`). It is asked only once no guest came up, since
//! each start would pay for the question.

use std::path::{Path, PathBuf};

use super::kvm;
use crate::config::{AccelChoice, Config};
use crate::error::{Blame, Fault, RunError};
use qemu::{Accel, CpuModel};

/// The processor that a site has named.
#[derive(Debug)]
pub(crate) struct Processor {
    model: CpuModel,
    qemu: PathBuf,
    choice: AccelChoice,
}

impl Processor {
    /// `None` for the node's own processor, which QEMU always takes.
    pub(crate) fn of(config: &Config, qemu: &Path) -> Option<Self> {
        let (model, qemu, choice) = (config.cpu_model.clone(), qemu.to_owned(), config.accel);
        (!model.is_default()).then_some(Self { model, qemu, choice })
    }

    /// Fails if no VM can have this processor here: that is this node's fault and never an image's.
    ///
    /// # Errors
    /// QEMU's reason.
    pub(crate) fn judge(&self) -> Result<(), RunError> {
        let mut reason = None;
        for accel in self.accels() {
            match self.model.refused_by(&self.qemu, accel).blame(Fault::Node)? {
                None => return Ok(()),
                Some(why) => reason = Some(why),
            }
        }
        // Where nothing executes guests, that is said elsewhere.
        let Some(why) = reason else { return Ok(()) };
        Err(RunError::node(format!(
            "the site's configuration has cpu_model = '{}', and QEMU says: {why} (use 'host', or a model that '-cpu help' \
             of QEMU lists)",
            self.model
        )))
    }

    fn accels(&self) -> Vec<Accel> {
        let kvm = self.choice != AccelChoice::Tcg && kvm::usable().is_ok();
        let (kvm, tcg) = (kvm.then_some(Accel::Kvm), (self.choice != AccelChoice::Kvm).then_some(Accel::Tcg));
        // Emulation takes whatever is spelt right, so it is asked first.
        tcg.into_iter().chain(kvm).collect()
    }
}

/// Why no VM can have the processor that the site has named, if that is so.
///
/// # Errors
/// When there is no QEMU, or the processor is refused.
pub fn try_processor(config: &Config) -> Result<(), RunError> {
    let qemu = config.qemu_path()?;
    Processor::of(config, &qemu).map_or(Ok(()), |processor| processor.judge())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(model: &str) -> Config {
        Config { cpu_model: model.parse().unwrap(), accel: AccelChoice::Tcg, ..Config::default() }
    }

    #[test]
    fn a_processor_that_qemu_does_not_take_is_the_nodes_fault_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let qemu = dir.path().join("qemu");
        let text = "#!/bin/sh\ncase \"$*\" in *EPYC*) echo '\"return\"' ;; *) echo 'qemu: unable to find it' >&2; exit 1 ;; esac\n";
        node::testing::program(&qemu, text).unwrap();
        let judged = |model: &str| Processor::of(&config(model), &qemu).map(|processor| processor.judge());
        assert!(judged("host").is_none());
        assert!(judged("EPYC").unwrap().is_ok());
        let error = judged("EPIC-Rom").unwrap().unwrap_err();
        let line = error.to_string();
        assert_eq!(error.exit_code(), 75);
        assert!(line.contains("cpu_model = 'EPIC-Rom', and QEMU says: unable to find it (use 'host'"), "{line}");
    }
}
