//! spank-vm(1): the commands, from the definition of the command line.

use clap::{Arg, Command};

use super::roff::Page;
use runner::error::{EXIT_NODE_FAILED, EXIT_VM_FAILED};

/// The page.
pub fn page(program: &Command) -> String {
    let mut page = Page::new("spank-vm", 1, "images, boot kit and virtual machines of Slurm job steps");
    page.section("Synopsis");
    page.text("`spank-vm` [`--config` FILE] COMMAND [OPTIONS]");
    page.section("Description");
    page.text(&about(program));
    page.text("The options of srun, sbatch and salloc are in spank_vm(8), the settings of a site in spank-vm.toml(5).");
    options(&mut page, program.get_arguments().filter(|arg| is_own(arg)));
    page.section("Commands");
    commands(&mut page, "spank-vm", program);
    page.section("Exit status");
    page.text("0 if all is well and 1 if not, with one line that says why; 2 if a command line is wrong.");
    page.text(&format!(
        "`spank-vm run` ends as its command: 127 if the image has no such command, 126 if it cannot be executed, \
         {EXIT_VM_FAILED} if the VM failed, {EXIT_NODE_FAILED} if this node is at fault."
    ));
    page.text("`spank-vm check` has codes for health checkers: see its part above.");
    page.section("Files");
    page.item("/etc/slurm/spank-vm.toml", "The site's configuration.");
    page.item("/var/lib/spank-vm", "The boot kit and the site's images.");
    page.item("/var/cache/spank-vm", "Templates, copies of images, downloaded kernels.");
    page.item("/run/spank-vm", "One directory for each task with VMs that runs on this node.");
    page.section("See also");
    page.text("`spank-vm.toml`(5), `spank_vm`(8), `srun`(1), `plugstack.conf`(5)");
    page.into_text()
}

/// Each command that does something, with its options.
fn commands(page: &mut Page, name: &str, parent: &Command) {
    for command in parent.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        let name = format!("{name} {}", command.get_name());
        if command.has_subcommands() {
            commands(page, &name, command);
            continue;
        }
        let usage = command.clone().bin_name(&name).render_usage().to_string();
        page.subsection(usage.trim_start_matches("Usage:").trim().lines().next().unwrap_or(&name));
        page.text(&about(command));
        options(page, command.get_arguments().filter(|arg| is_own(arg) && !arg.is_global_set()));
    }
}

fn about(command: &Command) -> String {
    let about = command.get_long_about().or_else(|| command.get_about());
    let text = about.map(ToString::to_string).unwrap_or_default();
    if text.ends_with('.') { text } else { format!("{text}.") }
}

/// Whether an argument belongs to this command and not to all of them.
fn is_own(arg: &Arg) -> bool {
    !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str())
}

fn options<'a>(page: &mut Page, arguments: impl Iterator<Item = &'a Arg>) {
    for arg in arguments {
        let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
        let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let takes_value = arg.get_action().takes_values();
        let default = if takes_value && !defaults.is_empty() {
            format!(" [default: {}]", defaults.join(" "))
        } else {
            String::new()
        };
        page.item(&arg.to_string(), &format!("{help}{default}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// What a page of man(7) shows.
    fn shown(page: &str) -> String {
        page.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\&", "")
    }

    /// Looks for everything that `--help` says, command by command.
    fn compare(page: &str, command: &mut Command) {
        let help = command.render_help().to_string();
        for arg in command.get_arguments().filter(|arg| is_own(arg) && !arg.is_global_set()) {
            let (name, about) = (arg.to_string(), arg.get_help().map(ToString::to_string).unwrap_or_default());
            assert!(page.contains(&format!("\n{name}\n{about}")), "{name}: {about}");
            assert!(help.contains(name.split(' ').next().unwrap()), "{help}");
        }
        let visible = command.get_subcommands_mut().filter(|command| !command.is_hide_set());
        visible.filter(|command| command.get_name() != "help").for_each(|command| compare(page, command));
    }

    #[test]
    fn the_page_has_every_command_and_option_in_the_words_of_its_help() {
        let mut program = crate::Arguments::command();
        program.build();
        let page = shown(&page(&program));
        compare(&page, &mut program);
        for command in ["spank-vm run ", "spank-vm image import ", "spank-vm kit build ", "spank-vm check "] {
            assert!(page.contains(&format!("\n.SS \"{command}")), "{command}");
        }
        assert!(!page.contains("spank-vm documents") && !page.contains(".SS \"spank-vm help"), "{page}");
    }
}
