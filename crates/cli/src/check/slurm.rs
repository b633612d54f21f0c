//! What Slurm on this node knows of the plugin, as Slurm itself reports it.

use std::process::Command;

use super::finding::Finding;

/// An option that srun only has when it loads the plugin. slurmstepd reads the same plugstack.conf.
const OPTION: &str = "--vm-image";

/// Whether the plugin is loaded on this node.
pub(super) fn plugin() -> Finding {
    match output("srun", &["--help"]) {
        Ok(help) if help.contains(OPTION) => Finding::Good(format!("srun has {OPTION}")),
        Ok(_) => Finding::Bad(
            "Slurm does not load the plugin on this node: plugstack.conf needs the line 'required spank_vm.so'"
                .to_owned(),
        ),
        Err(why) => Finding::Limited(format!("whether Slurm loads the plugin here is not known: {why}")),
    }
}

/// Whether Slurm keeps batch scripts away from nodes without the plugin, where they would run on the host.
pub(super) fn batch() -> Finding {
    let config = match output("scontrol", &["show", "config"]) {
        Ok(config) => config,
        Err(why) => return Finding::Limited(format!("whether batch scripts are protected is not known: {why}")),
    };
    // `Prolog` or, from Slurm 24.05 on, `Prolog[0]`.
    let prologs = config.lines().filter(|line| line.starts_with("Prolog ") || line.starts_with("Prolog["));
    let names: Vec<&str> = prologs.filter_map(|line| Some(line.split_once('=')?.1.trim())).collect();
    match names.iter().find(|name| is_ours(name)) {
        Some(name) => Finding::Good(format!("Prolog={name} keeps VM jobs off nodes that lack the plugin")),
        None => Finding::Limited(
            "on a node whose plugstack.conf lacks the plugin, a batch script with --vm-image would run on the host: set \
             'Prolog=/usr/share/spank-vm/prolog' in slurm.conf"
                .to_owned(),
        ),
    }
}

/// Whether a Prolog, or one of those in a directory, runs `spank-vm check --node`.
fn is_ours(prolog: &str) -> bool {
    let asks = |path: &std::path::Path| std::fs::read_to_string(path).is_ok_and(|text| text.contains("check --node"));
    match prolog.strip_suffix("/*") {
        Some(dir) => std::fs::read_dir(dir).is_ok_and(|files| files.flatten().any(|file| asks(&file.path()))),
        None => asks(prolog.as_ref()),
    }
}

fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{program} {}: {}", arguments.join(" "), said.lines().next().unwrap_or("it failed")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_prolog_is_recognised_alone_and_in_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("10-other"), "exit 0\n").unwrap();
        assert!(!is_ours(&path("*")) && !is_ours(&path("10-other")) && !is_ours("(null)"));
        std::fs::write(path("20-vm"), include_str!("../../../../slurm-conf/prolog")).unwrap();
        assert!(is_ours(&path("*")) && is_ours(&path("20-vm")));
    }

    #[test]
    fn a_program_that_fails_or_is_missing_is_named() {
        assert!(output("/nonexistent/srun", &[]).unwrap_err().starts_with("/nonexistent/srun: "));
        assert_eq!(output("sh", &["-c", "echo no >&2; exit 1"]).unwrap_err(), "sh -c echo no >&2; exit 1: no");
    }
}
