//! spank-vm.toml(5): the settings, from the sample configuration, which has each with its default.

use super::roff::Page;

const SAMPLE: &str = include_str!("../../../../slurm-conf/spank-vm.toml");

/// A setting: its line in the sample and what is written above it.
struct Setting {
    line: &'static str,
    about: Vec<&'static str>,
}

/// The page.
pub fn page() -> String {
    let mut page = Page::new("spank-vm.toml", 5, "the configuration of spank-vm");
    page.section("Description");
    page.text(
        "`/etc/slurm/spank-vm.toml` has the settings of a site, the same on every node. Without the file all have \
         their defaults. Another file is named by config= in plugstack.conf and by `spank-vm --config`.",
    );
    page.text(
        "Every key may be left out. A key that does not exist is an error with its line. `spank-vm check` prints every \
         value in effect and tests the node with them. Below, each key has its default.",
    );
    page.section("Settings");
    for Setting { line, about } in settings() {
        page.item(line, &joined(&about));
    }
    page.section("See also");
    page.text("`spank-vm`(1), `spank_vm`(8)");
    page.into_text()
}

/// The settings in their order.
fn settings() -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut about = Vec::new();
    for line in SAMPLE.lines() {
        match line.strip_prefix('#') {
            Some(text) => about.push(text.strip_prefix(' ').unwrap_or(text)),
            None if line.is_empty() => about.clear(),
            None => settings.push(Setting { line, about: std::mem::take(&mut about) }),
        }
    }
    settings
}

/// The lines as paragraphs: one that is indented begins on a line of its own, as in the sample.
fn joined(lines: &[&str]) -> String {
    let mut text = String::new();
    let mut in_list = false;
    for line in lines {
        let goes_on = line.starts_with("      ");
        let begins = !goes_on && (in_list || line.starts_with("  "));
        in_list = line.starts_with("  ");
        if !text.is_empty() {
            text.push_str(if begins { "\n " } else { " " });
        }
        text.push_str(line.trim());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_an_explanation_and_its_default() {
        let settings = settings();
        let table: toml::Table = SAMPLE.parse().unwrap();
        assert_eq!(settings.len(), table.len());
        for Setting { line, about } in &settings {
            let (key, _) = line.split_once(" = ").unwrap();
            assert!(table.contains_key(key) && !about.is_empty(), "{line}");
        }
        let page = page().replace("\\-", "-");
        assert!(page.contains("\n\\fBboot_timeout_s = 60\\fR\nSeconds from the start of QEMU"), "{page}");
    }
}
