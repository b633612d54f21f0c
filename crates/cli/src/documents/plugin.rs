//! spank_vm(8): the plugin's options, its line in plugstack.conf, and its exit codes.

use super::roff::Page;
use request::{OPTIONS, OptionRow};
use runner::error::{EXIT_NODE_FAILED, EXIT_VM_FAILED};

/// Explains the line, and is installed.
const PLUGSTACK: &str = include_str!("../../../../slurm-conf/plugstack.conf");

/// The page.
pub fn page() -> String {
    let mut page = Page::new("spank_vm", 8, "Slurm plugin that runs job steps in virtual machines");
    page.section("Synopsis");
    page.lines(
        "required spank_vm.so [libexec=DIR] [config=FILE] [state_dir=DIR] [template_dir=DIR] [image_cache_dir=DIR]",
    );
    page.section("Description");
    page.text(
        "With this line in plugstack.conf, srun, sbatch and salloc have the options below. A step that uses `--vm-image` \
         runs in a virtual machine; all others are not touched.",
    );
    page.section("Options");
    for option in &OPTIONS {
        page.item(&term(option), &text(option));
    }
    page.section("Exit status");
    page.text(&format!(
        "The command's own. 127: the image has no such command. 126: it cannot be executed. {EXIT_VM_FAILED}: the VM \
         failed, and one line on standard error says why. {EXIT_NODE_FAILED}: the node is at fault, and another may do; \
         `RequeueExit={EXIT_NODE_FAILED}` in slurm.conf puts such batch jobs back into the queue."
    ));
    page.section("plugstack.conf");
    page.lines(&explained());
    page.section("See also");
    page.text("Pages for users and administrators: /usr/share/doc/spank-vm/docs/README.md");
    page.text("`spank-vm`(1), `spank-vm.toml`(5), `plugstack.conf`(5), `srun`(1), `sbatch`(1)");
    page.into_text()
}

fn term(OptionRow { about, .. }: &OptionRow) -> String {
    let argument = about.argument.map(|words| format!("={words}")).unwrap_or_default();
    format!("--{}{argument}", about.name)
}

/// What the table of README.md says of it.
fn text(option: &OptionRow) -> String {
    let value = if option.about.argument.is_some() { "" } else { "=1" };
    // In the table a vertical bar and a backslash are written with a backslash before them.
    let meaning = without_links(&option.about.readme.replace("\\|", "|"));
    format!("{meaning}. Environment default: `{}{value}`.", option.default_variable())
}

/// Links of Markdown, `[words](file)`, by their words: those that are names of files are below the package's documents.
fn without_links(text: &str) -> String {
    let mut parts = text.split('[');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once("](").and_then(|(words, rest)| Some((words, rest.split_once(')')?.1))) {
            Some((words, rest)) => plain.extend([words, rest]),
            None => plain.extend(["[", part]),
        }
    }
    plain
}

/// The comment without its marks.
fn explained() -> String {
    PLUGSTACK
        .lines()
        .map(|line| line.strip_prefix("# ").or(line.strip_prefix('#')).unwrap_or(line).to_owned() + "\n")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_option_of_srun_with_its_variable() {
        let page = page().replace("\\-", "-");
        for option in &OPTIONS {
            assert!(page.contains(&format!("\n\\fB{}\\fR\n", term(option))), "{}", option.about.name);
            assert!(page.contains(&option.default_variable()), "{}", option.about.name);
        }
        assert!(page.contains("image_cache_dir=/var/cache/spank-vm/images"));
        assert!(!page.contains("]("), "a link of Markdown: {page}");
    }

    #[test]
    fn a_link_becomes_its_words_and_a_bracket_stays_one() {
        assert_eq!(without_links("a step ([parallel jobs](docs/parallel.md)) of N"), "a step (parallel jobs) of N");
        assert_eq!(without_links("[a](b) [,replace]"), "a [,replace]");
    }
}
