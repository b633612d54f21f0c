//! Interfaces of Slurm for MPI programs, and which of them reach into VMs.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};

/// Slurm's own variable for `--mpi`.
pub const TYPE_ENV: &str = "SLURM_MPI_TYPE";

/// Values of `--mpi` that ask for no interface.
const NONE: [&str; 4] = ["none", "openmpi", "list", "help"];

/// Whether the runner passes this interface on: `pmi2`, `pmix`, or a release of pmix such as `pmix_v4`.
fn is_passed_on(kind: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    matches!(kind, "pmi2" | "pmix") || kind.strip_prefix("pmix_v").is_some_and(is_number)
}

/// Why tasks of so many VMs each do not get the interface `kind`, if they do not.
pub fn refusal(kind: &str, vms: u32) -> Option<String> {
    if !is_passed_on(kind) {
        return Some(format!(
            "--mpi={kind} with --vm-image: only pmi2 and pmix reach into VMs; use --mpi=pmi2 (MPICH, MVAPICH2) or --mpi=pmix \
             (Open MPI), or --mpi=none and mpirun within one VM (docs/parallel.md)"
        ));
    }
    (vms > 1).then(|| {
        format!(
            "--mpi={kind} with --vms-per-slot={vms}: a task has one rank, so an MPI program needs a task for each VM; use \
             --ntasks, or --mpi=none"
        )
    })
}

/// The interface that the user of srun asks for: `--mpi` on srun's own part of its command line, which ends before the command
/// `argv`, else the variable. The default of the site is no wish of the user.
pub fn asked(command_line: &[OsString], argv: &[OsString], variable: Option<OsString>) -> Option<String> {
    let command = argv.first().and_then(|command| command_line.iter().rposition(|word| word == command));
    // srun may have replaced the first word; then the rest is where it was.
    let end = command_line.len().saturating_sub(argv.len());
    let end = if command_line[end..].get(1..) == argv.get(1..) { end } else { command.unwrap_or(end) };
    let own = command_line[..end].iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>();
    let mut given = own.iter().enumerate().filter_map(|(number, word)| match word.split_once('=') {
        // Slurm takes any beginning of an option that no other one has.
        Some(("--mpi" | "--mp", value)) => Some(value.to_owned()),
        None if word == "--mpi" || word == "--mp" => own.get(number + 1).map(|value| value.clone().into_owned()),
        _ => None,
    });
    let variable = || variable.as_deref().map(OsStr::to_string_lossy).map(Cow::into_owned);
    given.next_back().or_else(variable).filter(|value| !value.is_empty() && !NONE.contains(&value.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn of(line: &str, command: &str, variable: &str) -> Option<String> {
        asked(&words(line), &words(command), Some(variable.into()))
    }

    #[test]
    fn the_option_counts_before_the_variable_and_only_before_the_command() {
        for line in ["srun --mpi=pmix -n2 ./a b", "srun -n2 --mpi pmix ./a b", "srun --mpi=none --mp=pmix ./a b"] {
            assert_eq!(of(line, "./a b", ""), Some("pmix".into()), "{line}");
        }
        assert_eq!(of("srun -l ./a --mpi=pmi2", "./a --mpi=pmi2", ""), None);
        assert_eq!(of("srun -l ./a --mpi=pmi2", "/bin/a --mpi=pmi2", ""), None, "a command that srun has found");
        assert_eq!(of("srun --mpi=pmi2 file", "file text_of_the_file", ""), Some("pmi2".into()), "--multi-prog");
        assert_eq!(of("srun ./a", "./a", "pmix_v4"), Some("pmix_v4".into()));
    }

    #[test]
    fn no_interface_is_no_wish() {
        for line in ["srun --mpi=none ./a", "srun --mpi=list ./a", "srun --mpi=openmpi ./a"] {
            assert_eq!(of(line, "./a", "pmix"), None, "{line}");
        }
        assert_eq!(of("srun ./a", "./a", ""), None);
        assert_eq!(of("srun", "", ""), None);
    }

    #[test]
    fn pmi2_and_any_release_of_pmix_reach_into_vms_and_not_into_slots_of_several() {
        for kind in ["pmi2", "pmix", "pmix_v4", "pmix_v5"] {
            assert_eq!(refusal(kind, 1), None, "{kind}");
            let refused = refusal(kind, 2).unwrap();
            assert!(
                refused.starts_with(&format!("--mpi={kind} with --vms-per-slot=2: a task has one rank")),
                "{refused}"
            );
        }
        for kind in ["cray_shasta", "pmix_v", "pmix_v4x", "pmixer", "PMIX"] {
            assert!(refusal(kind, 1).unwrap().contains("only pmi2 and pmix reach into VMs"), "{kind}");
        }
    }
}
