//! Slurm on this node, as Slurm itself reports it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::ask::{output, output_within};
use super::finding::Finding;

/// An option that srun only has when it loads the plugin. slurmstepd reads the same plugstack.conf.
const OPTION: &str = "--vm-image";

/// The oldest release that the plugin works with.
const OLDEST: (u32, u32) = (22, 5);

/// What `scontrol show config` says; it is asked once.
pub(super) type Settings = Result<String, String>;

pub(super) fn settings() -> Settings {
    output("scontrol", &["show", "config"])
}

/// The release.
pub(super) fn release() -> Finding {
    let said = match output("srun", &["--version"]) {
        Ok(said) => said,
        Err(why) => {
            let remedy = "'srun --version' must work here: Slurm's client commands, PATH, and where slurm.conf is";
            return Finding::limited(format!("the release of Slurm is not known: {why}")).remedy(remedy);
        }
    };
    let said = said.trim();
    match number(said) {
        Some(release) if release >= OLDEST => Finding::good(said),
        Some(_) => Finding::bad(format!("{said}: the plugin needs 22.05 or newer")).remedy("update Slurm"),
        None => Finding::limited(format!("srun --version says '{said}'")),
    }
}

/// Year and month in `slurm-wlm 22.05.8`.
fn number(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.split_whitespace().last()?.split('.').map(|word| word.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Whether the plugin is loaded on this node.
pub(super) fn plugin(patience: Duration) -> Finding {
    match output_within("srun", &["--help"], patience) {
        Ok(help) if help.contains(OPTION) => Finding::good(format!("srun has {OPTION}")),
        Ok(_) => Finding::bad(
            "Slurm does not load the plugin on this node: plugstack.conf needs the line 'required spank_vm.so'",
        )
        .remedy("add the line to plugstack.conf (/usr/share/spank-vm/plugstack.conf explains it)"),
        Err(why) => Finding::limited(format!("whether Slurm loads the plugin here is not known: {why}"))
            .remedy("'srun --help' must work here"),
    }
}

/// Whether slurmd has the plugin, by the files that its process has mapped.
pub(super) fn slurmd() -> Finding {
    let mapped: Vec<Result<String, std::io::Error>> =
        of_name("slurmd").iter().map(|process| fs::read_to_string(process.join("maps"))).collect();
    if mapped.is_empty() {
        return Finding::good("no slurmd runs here: jobs are only submitted from this machine");
    }
    let lines: Vec<&str> = mapped
        .iter()
        .flatten()
        .map(|maps| maps.lines().find(|line| line.contains("spank_vm.so")).unwrap_or(""))
        .collect();
    match lines.iter().find(|line| line.is_empty() || line.ends_with("(deleted)")) {
        _ if lines.len() < mapped.len() => Finding::good("slurmd runs; only root can see whether it has the plugin"),
        None => Finding::good("slurmd has the plugin"),
        Some(&"") => {
            Finding::limited("slurmd has not loaded the plugin: what a killed slurmstepd leaves is not removed")
                .remedy("restart slurmd; running jobs go on")
        }
        Some(_) => Finding::limited("slurmd has an older plugin, which was replaced since")
            .remedy("restart slurmd when it suits; running jobs go on"),
    }
}

/// The processes of that name.
fn of_name(name: &str) -> Vec<std::path::PathBuf> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    processes.filter(|process| fs::read_to_string(process.join("comm")).is_ok_and(|comm| comm.trim() == name)).collect()
}

/// Whether Slurm keeps batch scripts away from nodes without the plugin, where they would run on the host.
pub(super) fn batch(settings: &Settings) -> Finding {
    let config = match settings {
        Ok(config) => config,
        Err(why) => {
            return Finding::limited(format!("whether batch scripts are protected is not known: {why}"))
                .remedy("'scontrol show config' must work here");
        }
    };
    // `Prolog` or, from Slurm 24.05 on, `Prolog[0]`.
    let prologs = config.lines().filter(|line| line.starts_with("Prolog ") || line.starts_with("Prolog["));
    let names: Vec<&str> = prologs.filter_map(|line| Some(line.split_once('=')?.1.trim())).collect();
    match names.iter().find(|name| is_ours(name)) {
        Some(name) => Finding::good(format!("Prolog={name} keeps VM jobs off nodes that lack the plugin")),
        None => Finding::limited(
            "on a node whose plugstack.conf lacks the plugin, a batch script with --vm-image would run on the host: set \
             'Prolog=/usr/share/spank-vm/prolog' in slurm.conf",
        ),
    }
}

/// Whether a Prolog, or one of those in a directory, runs `spank-vm check --node`.
fn is_ours(prolog: &str) -> bool {
    let asks = |path: &Path| fs::read_to_string(path).is_ok_and(|text| text.contains("check --node"));
    match prolog.strip_suffix("/*") {
        Some(dir) => fs::read_dir(dir).is_ok_and(|files| files.flatten().any(|file| asks(&file.path()))),
        None => asks(prolog.as_ref()),
    }
}

/// Whether Slurm holds tasks to their memory, by its own settings.
pub(super) fn confines(settings: &Settings) -> Option<bool> {
    let value = |key: &str| {
        let line = settings.as_ref().ok()?.lines().find(|line| line.split_whitespace().next() == Some(key))?;
        Some(line.split_once('=')?.1.trim().to_lowercase())
    };
    let plugins = value("TaskPlugin")?;
    Some(plugins.contains("cgroup") && value("ConstrainRAMSpace").is_none_or(|word| word.starts_with('y')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_prolog_is_recognised_alone_and_in_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::write(path("10-other"), "exit 0\n").unwrap();
        assert!(!is_ours(&path("*")) && !is_ours(&path("10-other")) && !is_ours("(null)"));
        fs::write(path("20-vm"), include_str!("../../../../slurm-conf/prolog")).unwrap();
        assert!(is_ours(&path("*")) && is_ours(&path("20-vm")));
    }

    #[test]
    fn releases_are_read_in_every_form_and_old_ones_are_too_old() {
        assert_eq!(number("slurm-wlm 22.05.8"), Some((22, 5)));
        assert_eq!(number("slurm 26.05.0-0rc1"), Some((26, 5)));
        assert_eq!(number("slurm"), None);
        assert!(number("slurm 21.08.8").unwrap() < OLDEST);
    }

    #[test]
    fn tasks_are_confined_only_where_a_plugin_and_a_setting_say_so() {
        let said = |text: &str| confines(&Ok(text.to_owned()));
        let plugin = "TaskPlugin              = task/affinity,task/cgroup\n";
        assert_eq!(said(&format!("{plugin}ConstrainRAMSpace       = yes\n")), Some(true));
        assert_eq!(said(&format!("{plugin}ConstrainRAMSpace       = no\n")), Some(false));
        assert_eq!(said("TaskPlugin = task/affinity\n"), Some(false));
        assert_eq!((said(""), confines(&Err("down".to_owned()))), (None, None));
    }
}
