//! What counts is what users may do: the same requirements, judged with a user's rights.
//!
//! Root may read and open everything, so its own look says nothing of its users. A second process gives up root's
//! rights, looks again and prints what it found as JSON.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::unistd::{Uid, User, initgroups, setgid, setuid};

use super::ask::{NoAnswer, answer};
use super::finding::{Checked, Finding, State};
use super::{caches, vms};
use runner::config::{AccelChoice, Config};
use runner::error::chain;

/// The user without any rights of its own, if no other is named.
const NOBODY: &str = "nobody";

/// How long the second process may take. A file server that does not answer holds it up.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What a user of this node can do, in one finding.
pub(super) fn look(config_file: Option<&Path>, config: &Config, named: Option<&str>, patience: Duration) -> Finding {
    let process = Uid::effective();
    if !process.is_root() {
        let name = User::from_uid(process).ok().flatten().map_or_else(|| process.to_string(), |user| user.name);
        return judge(&name, &of_process(config, NOBODY), true);
    }
    let name = named.unwrap_or(NOBODY);
    match as_user(config_file, name, patience) {
        Ok(found) => judge(name, &found, named.is_some()),
        Err(error) => Finding::limited(format!("what user '{name}' may do is not known: {}", chain(error.as_ref()))),
    }
}

/// One finding of many. If no user was `named`, a group may still give the site's users what this one lacks.
fn judge(name: &str, found: &[Checked], named: bool) -> Finding {
    let worst = found.iter().map(|checked| checked.finding.state).max().unwrap_or(State::Ok);
    let texts: Vec<String> = found
        .iter()
        .filter(|checked| checked.finding.state != State::Ok)
        .map(|Checked { name, finding, .. }| format!("{name}: {}", finding.found))
        .collect();
    let all: Vec<&str> = found.iter().map(|checked| checked.name.as_str()).collect();
    match worst {
        State::Ok => Finding::good(format!("'{name}' can use {}", all.join(", "))),
        State::Missing if named => Finding::bad(format!("for '{name}' {}", texts.join("; "))),
        _ => Finding::limited(format!("for '{name}' {}", texts.join("; "))).remedy(if named {
            "correct permissions of what is named"
        } else {
            "correct permissions, or name one of the site's users with --user if a group has them"
        }),
    }
}

/// What the second process found.
fn as_user(config_file: Option<&Path>, name: &str, patience: Duration) -> anyhow::Result<Vec<Checked>> {
    let mut command = Command::new("/proc/self/exe");
    if let Some(file) = config_file {
        // The other process starts in another directory.
        command.arg("--config").arg(std::path::absolute(file)?);
    }
    command.args(["check", "--user", name, "--as-user", "--json"]).current_dir("/");
    match answer(&mut command, patience) {
        Ok(said) => serde_json::from_str(&said).context("the answer of a second process"),
        Err(NoAnswer::NotStarted(error)) => Err(error).context("a second process"),
        Err(NoAnswer::Late) => bail!("no answer within {} s; does a file server hang?", patience.as_secs()),
        Err(NoAnswer::Failed(said)) => bail!("{}", said.trim().trim_start_matches("spank-vm: ")),
    }
}

/// Gives up root's rights for those of the user, for good.
pub(super) fn become_user(name: &str) -> anyhow::Result<()> {
    let user = User::from_name(name)?.with_context(|| format!("there is no user '{name}'"))?;
    ensure!(!user.uid.is_root(), "'{name}' has all rights: name an ordinary user");
    let c_name = std::ffi::CString::new(name)?;
    initgroups(&c_name, user.gid)?;
    setgid(user.gid)?;
    setuid(user.uid)?;
    Ok(())
}

/// The requirements in which users' rights count, judged with those of this process, which is that user's. What images
/// nobody may use says nothing; what a user of the site may use does.
pub(super) fn of_process(config: &Config, user: &str) -> Vec<Checked> {
    let mut found = vec![
        ("qemu", vms::qemu(config)),
        ("kit", vms::kit(config)),
        ("scratch", vms::scratch(config)),
        ("state", caches::state(config)),
    ];
    if user != NOBODY {
        found.push(("images", vms::images(config)));
    }
    if config.accel != AccelChoice::Tcg {
        found.push(("/dev/kvm", device(config.accel)));
    }
    let checked = |(name, finding): (&str, Finding)| Checked { name: name.to_owned(), about: String::new(), finding };
    found.into_iter().map(checked).collect()
}

/// Whether this process may open the device. Without it VMs are emulated, or do not start where the site demands KVM.
fn device(accel: AccelChoice) -> Finding {
    match runner::kvm_refusal() {
        None => Finding::good("opens"),
        Some(why) if accel == AccelChoice::Kvm => Finding::bad(format!("no VM starts (accel = 'kvm'): {why}")),
        Some(why) => Finding::limited(format!("its VMs are emulated: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(state: State) -> Vec<Checked> {
        let finding = |state| Finding { state, found: "no".into(), remedy: None, stalled: false };
        let checked = |name: &str, state| Checked { name: name.into(), about: String::new(), finding: finding(state) };
        vec![checked("qemu", State::Ok), checked("scratch", state)]
    }

    #[test]
    fn what_nobody_lacks_is_no_failure_and_what_a_named_user_lacks_is_one() {
        assert_eq!(judge("nobody", &found(State::Missing), false).state, State::Limited);
        let ada = judge("ada", &found(State::Missing), true);
        assert_eq!((ada.state, ada.found.as_str()), (State::Missing, "for 'ada' scratch: no"));
        assert_eq!(judge("ada", &found(State::Ok), true).found, "'ada' can use qemu, scratch");
    }

    #[test]
    fn root_and_unknown_users_are_no_users_to_judge_by() {
        assert!(become_user("no-such-user").unwrap_err().to_string().contains("no user"));
        assert!(become_user("root").unwrap_err().to_string().contains("ordinary user"));
    }
}
