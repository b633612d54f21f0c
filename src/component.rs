//! Heterogeneous steps and jobs: several components, each with options and a command of its own.
//!
//! Slurm keeps one value per option and client. The components are read one after the other, each ends with
//! `slurm_spank_init_post_opt`, and in the end every node, of any component, gets the values that were given last. So
//! the plugin in srun notes what each component asked for, and sends the list in a variable. For a component that
//! asked for a VM, its command is replaced with a word that contains the component's number. The node recognises it
//! by this word, and a command line cannot get lost. A component that asked for none keeps its command, which is
//! compared with the list.
//!
//! A job's components share the variables by which sbatch and salloc pass options on to the steps within. They
//! must ask for the same.

use super::error::Error;
use super::variables::COMPONENTS_ENV;
use super::version;
use crate::spank::{Context, Host, SpankError, command_begins};
use request::{Encoded, IMAGE, OPTIONS, STEP_PROGRAM, VmRequest, decode};
use std::ffi::{OsStr, OsString};

/// In the list of components: this one asked for no VM.
const ON_HOST: &str = "host";

/// The first Slurm whose srun writes the name of a copied file (`--bcast`) over the command after the plugin has hidden
/// it: 23.02.
const LATE_BCAST: u32 = 0x0017_0200;

/// What one component asked for.
#[derive(Debug)]
pub struct Component {
    /// Per option the value, if there is one.
    given: [Option<OsString>; OPTIONS.len()],
    /// What they ask for; `None` is the bare host.
    vms: Option<VmRequest>,
    /// The first word of its command, if it was looked for and found.
    command: Option<OsString>,
    /// Whether the command was replaced with [`marker`].
    hidden: bool,
    /// `--bcast`.
    copies: bool,
}

impl Component {
    /// A component with these values of options, which ask for these VMs.
    pub fn new(given: [Option<OsString>; OPTIONS.len()], vms: Option<VmRequest>) -> Self {
        Self { given, vms, command: None, hidden: false, copies: false }
    }

    /// Whether it must not run on the bare host.
    pub fn wants_vm(&self) -> bool {
        self.vms.is_some()
    }

    /// How many VMs each of its tasks has; 1 if it asks for none.
    pub fn vms_per_slot(&self) -> u32 {
        self.vms.as_ref().map_or(1, |vms| vms.asked.vms())
    }

    /// Whether its command was replaced with a marker.
    pub fn is_hidden(&self) -> bool {
        self.hidden
    }

    /// How its image was asked for, as a user writes it.
    fn image_option(&self) -> String {
        self.given[IMAGE]
            .as_ref()
            .map_or_else(|| "no --vm-image".to_owned(), |value| format!("--vm-image={}", value.display()))
    }
}

/// The word in the place of a component's command.
fn marker(index: usize) -> String {
    format!("{STEP_PROGRAM}.{index}")
}

/// The component that a word stands for.
pub fn marked(word: &OsStr) -> Option<usize> {
    word.to_str()?.strip_prefix(STEP_PROGRAM)?.strip_prefix('.')?.parse().ok()
}

/// A client has read all options of a component: hides its command where necessary, and checks all components
/// known so far.
///
/// # Errors
/// When this component and the earlier ones do not fit together.
pub fn add(components: &mut Vec<Component>, mut component: Component, host: &mut dyn Host) -> Result<(), Error> {
    if host.context() == Context::Srun {
        hide(&mut component, components.len(), host)?;
        components.push(component);
        return announce(components, host);
    }
    components.push(component);
    of_one_job(components)
}

/// Replaces the component's command with its marker if there may be other components. This is the last moment at
/// which srun still takes the change.
fn hide(component: &mut Component, index: usize, host: &mut dyn Host) -> Result<(), Error> {
    let own = host.command_line();
    let several = own.iter().any(|word| word == ":" || word.as_encoded_bytes().starts_with(b"--he"));
    let may_copy = host.own_env("SLURM_BCAST").is_some() || own.iter().any(|word| is_bcast(word));
    let matters = several || (may_copy && component.vms.is_some());
    if !matters {
        return Ok(());
    }
    let command = host.component_command();
    component.copies = may_copy && copies(command.as_deref(), &own, host);
    component.command = command.and_then(|words| words.into_iter().next());
    if component.vms.is_none() {
        return Ok(());
    }
    if component.copies && version::release() >= LATE_BCAST {
        return Err(Error::Bcast);
    }
    if several && !component.copies && component.command.is_some() {
        host.hide_component_command(marker(index).as_ref())?;
        component.hidden = true;
    }
    Ok(())
}

fn is_bcast(word: &OsStr) -> bool {
    word.as_encoded_bytes().starts_with(b"--bc")
}

/// Whether srun copies the command to the nodes. Words of the command itself are not options of srun.
fn copies(command: Option<&[OsString]>, own: &[OsString], host: &dyn Host) -> bool {
    let options = own.split(|word| word == ":").map(|component| {
        let end = command.and_then(|command| command_begins(command, component));
        // This is another component, which is checked on its own.
        if command.is_some() && end.is_none() { &[] } else { &component[..end.unwrap_or(component.len())] }
    });
    host.own_env("SLURM_BCAST").is_some() || options.flatten().any(|word| is_bcast(word))
}

/// Checks the components of a step that are known so far, and makes the list of them.
fn announce(components: &[Component], host: &mut dyn Host) -> Result<(), Error> {
    let Some(other) = components.iter().find(|component| component.vms.is_some()) else { return Ok(()) };
    if components.len() > 1 {
        for (index, component) in components.iter().enumerate() {
            if component.given[IMAGE].is_none() {
                return Err(Error::SilentComponent { index, image: other.image_option() });
            }
            if component.copies {
                return Err(Error::Bcast);
            }
            if component.command.is_none() || (component.vms.is_some() && !component.hidden) {
                return Err(Error::OpenComponent(index));
            }
        }
    }
    if components.iter().any(|component| component.hidden) {
        host.set_own_env(COMPONENTS_ENV, list(components).as_ref());
    }
    Ok(())
}

fn of_one_job(components: &[Component]) -> Result<(), Error> {
    let [first, .., last] = components else { return Ok(()) };
    if first.vms == last.vms {
        return Ok(());
    }
    let option = (0..OPTIONS.len()).find(|&option| first.given[option] != last.given[option]).unwrap_or(IMAGE);
    let shown = |component: &Component| match (&component.given[option], option) {
        (_, IMAGE) => component.image_option(),
        (Some(value), _) => format!("--{}={}", OPTIONS[option].about.name, value.display()),
        (None, _) => format!("no --{}", OPTIONS[option].about.name),
    };
    Err(Error::ComponentsDiffer { first: shown(first), index: components.len() - 1, other: shown(last) })
}

/// What the nodes read. Per component: its request with the hidden command, or its command and that it has no
/// request.
fn list(components: &[Component]) -> String {
    let texts = components.iter().map(|component| {
        let command = component.command.clone();
        match &component.vms {
            Some(vms) => VmRequest { argv0: command, ..vms.clone() }.to_string(),
            None => format!("{ON_HOST} {}", Encoded(&command.unwrap_or_default())),
        }
    });
    texts.collect::<Vec<_>>().join(";")
}

/// srun is about to send the step and shows the command line of one component: checks that it has not changed.
///
/// # Errors
/// When srun did not take the marker.
pub fn verify(components: &[Component], argv: &[OsString]) -> Result<(), Error> {
    let Some(word) = argv.first() else { return Ok(()) };
    let is_hidden = |index: usize| components.get(index).is_some_and(|component| component.hidden);
    let is_bare =
        || components.iter().any(|component| component.vms.is_none() && component.command.as_ref() == Some(word));
    if marked(word).is_some_and(is_hidden) || is_bare() { Ok(()) } else { Err(Error::OpenComponent(0)) }
}

/// What a component asked for, as it arrived on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A VM, with the component's hidden command as `argv0`.
    Vms(Box<VmRequest>),
    /// The bare host.
    Host,
    /// Something that did not arrive.
    Lost,
}

/// On a node: what this task's component asked for. `None` in a step that is not heterogeneous.
///
/// # Errors
/// When Slurm does not tell.
pub fn of_task(host: &dyn Host) -> Result<Option<Decision>, SpankError> {
    let Some(list) = host.job_env(COMPONENTS_ENV)?.filter(|list| !list.is_empty()) else { return Ok(None) };
    let argv = host.argv()?;
    Ok(Some(list.to_str().zip(argv.first()).map_or(Decision::Lost, |(list, word)| asked(list, word))))
}

fn asked(list: &str, word: &OsStr) -> Decision {
    let mut components = list.split(';');
    match marked(word) {
        Some(index) => match components.nth(index).and_then(|text| text.parse::<VmRequest>().ok()) {
            Some(request) if request.argv0.is_some() => Decision::Vms(Box::new(request)),
            _ => Decision::Lost,
        },
        None => {
            let on_host = |text: &str| decode(text.strip_prefix(ON_HOST)?.strip_prefix(' ')?);
            if components.any(|text| on_host(text).is_some_and(|command| command == word)) {
                Decision::Host
            } else {
                Decision::Lost
            }
        }
    }
}

#[cfg(test)]
mod tests;
