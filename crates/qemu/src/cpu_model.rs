//! Which processor a guest sees.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::ask::ask;
use crate::error::QemuError;
use crate::machine::Accel;

/// The word for the node's own processor.
const HOST: &str = "host";

/// Longest text: room for a model and every feature that QEMU knows.
const MOST_BYTES: usize = 1000;

/// A processor as `-cpu` takes it: a model of QEMU's, and features after commas. `host` is what the node has: all that
/// KVM passes on, or, emulated, all that QEMU can do well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuModel(String);

impl CpuModel {
    /// The argument of `-cpu`.
    pub(crate) fn option(&self, accel: Accel) -> String {
        let (name, features) = self.0.split_at(self.0.find(',').unwrap_or(self.0.len()));
        let name = match (name, accel) {
            // The counters are the node's: who may read them is the site's matter (perf_event_paranoid), which root in a
            // guest would decide for itself. What the site writes after the comma comes later and wins.
            (HOST, Accel::Kvm) => "host,pmu=off",
            // A guest that believes in fast string instructions copies and clears byte by byte, and an emulated byte costs as
            // much as eight of them.
            (HOST, Accel::Tcg) => "max,erms=off,fsrm=off",
            (model, _) => model,
        };
        format!("{name}{features}")
    }

    /// Whether it is the node's own processor as it is, which QEMU always takes.
    pub fn is_default(&self) -> bool {
        self.0 == HOST
    }

    /// Why this QEMU does not take it, in QEMU's words; `None` if it does. No guest is executed.
    ///
    /// # Errors
    /// When QEMU cannot be started or does not answer.
    pub fn refused_by(&self, qemu: &Path, accel: Accel) -> Result<Option<String>, QemuError> {
        let model = self.option(accel);
        // The machine makes the processor, and would start it without -S.
        let words = ["-machine", "q35", "-m", "16M", "-S", "-accel", accel.option(), "-cpu", &model];
        let answer = ask(qemu, "its processors", &words, &[])?;
        // Its greeting alone may come before it has tried to make the processor.
        if answer.lines.contains("\"return\"") {
            return Ok(None);
        }
        let last = answer.complaints.lines().rev().find(|line| !line.contains("warning:"));
        let last = last.unwrap_or("QEMU ends without a word");
        Ok(Some(last.split_once(": ").map_or(last, |(_program, words)| words).to_owned()))
    }
}

impl Default for CpuModel {
    fn default() -> Self {
        Self(HOST.to_owned())
    }
}

impl FromStr for CpuModel {
    type Err = QemuError;

    fn from_str(text: &str) -> Result<Self, QemuError> {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.,+=".contains(&byte);
        let fits = text.len() <= MOST_BYTES
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text.bytes().all(is_known);
        match fits {
            true => Ok(Self(text.to_owned())),
            false => Err(QemuError::new(format!(
                "'{}' is no processor: 'host', or a model that '-cpu help' of QEMU lists, with features after commas \
                 (letters, digits and -_.,+= only, {MOST_BYTES} characters at most)",
                text.escape_default()
            ))),
        }
    }
}

impl fmt::Display for CpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_what_the_node_has_and_any_other_model_is_the_same_everywhere() {
        let of = |text: &str, accel| text.parse::<CpuModel>().unwrap().option(accel);
        assert_eq!(CpuModel::default().option(Accel::Kvm), "host,pmu=off");
        assert_eq!(CpuModel::default().option(Accel::Tcg), "max,erms=off,fsrm=off");
        assert_eq!(of("host,pmu=on", Accel::Kvm), "host,pmu=off,pmu=on");
        assert_eq!(of("host,avx512f=off", Accel::Tcg), "max,erms=off,fsrm=off,avx512f=off");
        for accel in [Accel::Kvm, Accel::Tcg] {
            assert_eq!(of("EPYC-Rome-v2,+avx2,svm=off", accel), "EPYC-Rome-v2,+avx2,svm=off");
            assert_eq!(of("hostile", accel), "hostile");
        }
    }

    #[test]
    fn qemu_says_in_its_own_words_what_it_does_not_take() {
        let dir = tempfile::tempdir().unwrap();
        let refusing = dir.path().join("qemu");
        let text = "#!/bin/sh\ncase \"$*\" in *' -cpu good'*) echo '{\"return\": {}}' ;; *)\n\
                    echo '{\"QMP\": {}}'; echo 'qemu: warning: TCG has no such thing' >&2; echo \"qemu: unable to find CPU model 'x'\" >&2; exit 1 ;; esac\n";
        node::testing::program(&refusing, text).unwrap();
        let refused = |model: &str| model.parse::<CpuModel>().unwrap().refused_by(&refusing, Accel::Tcg).unwrap();
        assert_eq!(refused("x").as_deref(), Some("unable to find CPU model 'x'"));
        assert_eq!(refused("good"), None);
        let missing = CpuModel::default().refused_by(&dir.path().join("none"), Accel::Tcg).unwrap_err();
        assert!(missing.to_string().ends_with("/none and its processors"), "{missing}");
    }

    #[test]
    fn what_is_no_model_is_refused_in_one_line_that_names_it() {
        let long = "x".repeat(1001);
        for bad in ["", "-cpu", ",pmu=on", "host pmu", "host\n", "h\u{f6}st", "a/b", "a;b", "a\0", long.as_str()] {
            let error = bad.parse::<CpuModel>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("'{}' is no", bad.escape_default())), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
