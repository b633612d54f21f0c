//! `spank-vm check`: every effective setting, and a test of everything this node needs.

mod ask;
mod caches;
mod finding;
mod host;
mod networks;
mod node;
mod patience;
mod report;
mod settings;
mod slurm;
mod users;
mod vms;

use std::path::Path;

use self::ask::PATIENCE;
use self::finding::{Checked, Finding, exit_code};
use self::node::NodeCheck;
use self::report::Style;
use super::output::print;
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
    /// With --node, how many seconds an answer may take. What stalls is named and fails no node, unless it is Slurm
    #[arg(long, value_name = "SECONDS", default_value_t = NODE_PATIENCE_S, requires = "node")]
    within: u8,
    /// The second process, which has given up root's rights
    #[arg(long, hide = true, requires = "user")]
    as_user: bool,
    /// The second process, which may be held up
    #[arg(long, hide = true, requires = "node")]
    look: bool,
}

/// Less than the 20 s that the Prolog gives the whole check.
const NODE_PATIENCE_S: u8 = 15;

/// Prints the report; the exit code is 1 if anything is missing without which no VM starts.
pub fn run(config_file: Option<&Path>, config: &Config, arguments: &Arguments) -> anyhow::Result<ExitStatus> {
    if let (true, Some(user)) = (arguments.as_user, &arguments.user) {
        users::become_user(user)?;
        print(&serde_json::to_string(&users::of_process(config, user))?)?;
        return Ok(ExitStatus::Code(0));
    }
    let user = arguments.user.as_deref();
    let node = NodeCheck { config_file, config, user, within_s: arguments.within };
    if arguments.look {
        node.look_and_print()?;
        return Ok(ExitStatus::Code(0));
    }
    if arguments.node {
        return node.run(arguments.strict, arguments.json);
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
        ("plugin", "without it --vm-image does not exist", &|| slurm::plugin(PATIENCE)),
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
            users::look(config_file, config, user, users::PATIENCE)
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
