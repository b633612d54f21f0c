//! `spank-vm check`: every effective setting, and a test of everything this node needs.

mod ask;
mod caches;
mod finding;
mod host;
mod networks;
mod patience;
mod report;
mod settings;
mod slurm;
mod users;
mod vms;

use std::path::Path;

use self::finding::{Checked, Finding, State};
use self::report::Style;
use super::output::{print, print_line};
use proto::ExitStatus;
use request::ImageName;
use runner::config::Config;

/// Show every effective setting and test what this node needs to run VMs
///
/// Each requirement has one line: it is met, it is met in part (VMs run, but slower or with less protection), or it is
/// missing (no VM starts). What is not met has two more lines: what depends on it, and what to do.
///
/// Exit codes, for health checkers: 0 if VMs run here; 1 if something is missing without which none starts; 2 if the
/// command line is wrong; 3 with --strict if something is met in part. A configuration that cannot be read ends with 1
/// too.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Image to boot for the test of KVM [default: the first in the catalogue]
    #[arg(long)]
    image: Option<ImageName>,
    /// Test quickly what a VM cannot do without, and print what is missing and nothing else: for a Prolog or a health check
    #[arg(long, conflicts_with = "image")]
    node: bool,
    /// Print one JSON object: verdict, settings, and each requirement with "state" ok, limited or missing
    #[arg(long)]
    json: bool,
    /// End with 3 if a requirement is met in part only
    #[arg(long)]
    strict: bool,
    /// Judge with this user's rights where users' rights count (as root) [default: nobody]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The second process, which has given up root's rights
    #[arg(long, hide = true, requires = "user")]
    as_user: bool,
}

/// Prints the report; the exit code is 1 if anything is missing without which no VM starts.
pub fn run(config_file: Option<&Path>, config: &Config, arguments: &Arguments) -> anyhow::Result<ExitStatus> {
    if let (true, Some(user)) = (arguments.as_user, &arguments.user) {
        users::become_user(user)?;
        print(&serde_json::to_string(&users::of_process(config, user))?)?;
        return Ok(ExitStatus::Code(0));
    }
    if arguments.node {
        return quick(config_file, config, arguments);
    }
    let style = Style::of_stdout();
    let settings = settings::text(config);
    if !arguments.json {
        print(&format!("{settings}\n"))?;
    }
    let mut checks = Vec::new();
    // Each line is printed when it is known: the boot of a guest takes seconds.
    full(config_file, config, arguments, &mut |checked| {
        if !arguments.json {
            report::line(style, &checked)?;
        }
        checks.push(checked);
        Ok(())
    })?;
    let code = exit_code(&checks, arguments.strict);
    if arguments.json {
        report::json(&settings, &checks, code)?;
    }
    Ok(ExitStatus::Code(code))
}

/// Tests everything, and tells each result at once.
fn full(
    config_file: Option<&Path>,
    config: &Config,
    arguments: &Arguments,
    tell: &mut dyn FnMut(Checked) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let controller = slurm::settings();
    let image = arguments.image.as_ref();
    let user = arguments.user.as_deref();
    type Look<'a> = &'a dyn Fn() -> Finding;
    let looks: [(&str, &str, Look<'_>); 22] = [
        ("kernel", "QEMU, KVM and the runner use what Linux has had since 4.18", &host::kernel),
        ("cgroups", "a VM must not take memory and processors of other jobs", &|| host::cgroups(&controller)),
        ("clock", "guests get their time from this node", &host::clock),
        ("slurm", "the plugin uses Slurm's interface of 22.05 and newer", &slurm::release),
        ("plugin", "without it --vm-image does not exist", &slurm::plugin),
        ("slurmd", "slurmd removes what a killed slurmstepd leaves behind", &slurm::slurmd),
        ("batch", "a job that asked for a VM must not run on the host", &|| slurm::batch(&controller)),
        ("qemu", "VMs are its processes", &|| vms::qemu(config)),
        ("confined", "a guest that has taken over QEMU is its user", &|| vms::confined(config)),
        ("processor", "it is what guests believe they have", &|| vms::processor(config)),
        ("kit", "its kernel and agent start the guests", &|| vms::kit(config)),
        ("images", "a VM runs one of them", &|| vms::images(config)),
        ("copies", "an image on a file server is read once for each node", &|| caches::copies(config)),
        ("scratch", "what guests write outside shares is kept there", &|| vms::scratch(config)),
        ("state", "root notes there which VMs run", &|| caches::state(config)),
        ("templates", "VMs are cloned from them in a fraction of a boot's time", &|| caches::templates(config)),
        ("files", "shared directories are served by a process beside each VM", &host::files),
        ("users", "VMs run with their users' rights, and root's own look says nothing of them", &|| {
            users::look(config_file, config, user)
        }),
        ("network", "VMs have one only where their users ask for it (--vm-net)", &|| networks::look(config)),
        ("modules", "KVM is in modules of the kernel", &host::modules),
        ("kvm", "with it guests compute at the processor's own speed", &|| vms::kvm(config, image)),
        // After the guest that KVM was tried with: it tries the first way too.
        ("start", "small VMs start several times as fast in the best way", &|| vms::start(config)),
    ];
    for (name, about, look) in looks {
        tell(Checked { name: name.to_owned(), about: about.to_owned(), finding: look() })?;
    }
    Ok(())
}

fn exit_code(checks: &[Checked], strict: bool) -> u8 {
    match checks.iter().map(|checked| checked.finding.state).max() {
        Some(State::Missing) => 1,
        Some(State::Limited) if strict => 3,
        _ => 0,
    }
}

/// What is missing on this node, in one line.
fn quick(config_file: Option<&Path>, config: &Config, arguments: &Arguments) -> anyhow::Result<ExitStatus> {
    let mut plugin = slurm::plugin();
    // A node check must be sure: what could not be found out counts as a failure.
    if plugin.state == State::Limited {
        plugin.state = State::Missing;
    }
    let mut findings = vec![
        ("plugin", plugin),
        ("qemu", vms::qemu(config)),
        ("confined", vms::confined(config)),
        ("processor", vms::processor(config)),
        ("kit", vms::kit(config)),
        ("images", vms::images(config)),
        ("scratch", vms::scratch(config)),
        ("state", caches::state(config)),
        ("kvm", vms::demanded_kvm(config)),
    ];
    if let Some(user) = &arguments.user {
        findings.push(("users", users::look(config_file, config, Some(user))));
    }
    let checks: Vec<Checked> = findings
        .into_iter()
        .map(|(name, finding)| Checked { name: name.to_owned(), about: String::new(), finding })
        .collect();
    let code = exit_code(&checks, arguments.strict);
    if arguments.json {
        report::json(&settings::text(config), &checks, code)?;
        return Ok(ExitStatus::Code(code));
    }
    let missing = checks.iter().filter(|checked| checked.finding.state == State::Missing);
    let missing: Vec<&str> = missing.map(|checked| checked.finding.found.as_str()).collect();
    if !missing.is_empty() {
        print_line(&missing.join("; "))?;
    }
    Ok(ExitStatus::Code(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_worst_that_was_found() {
        let of = |states: &[State], strict| {
            let checked = |state: &State| Checked {
                name: String::new(),
                about: String::new(),
                finding: Finding { state: *state, found: String::new(), remedy: None },
            };
            exit_code(&states.iter().map(checked).collect::<Vec<_>>(), strict)
        };
        assert_eq!((of(&[State::Ok], true), of(&[State::Ok, State::Limited], false)), (0, 0));
        assert_eq!((of(&[State::Limited], true), of(&[State::Missing, State::Limited], true)), (3, 1));
    }
}
