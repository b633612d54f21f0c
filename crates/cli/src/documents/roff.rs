//! A manual page: what the pages need of man(7).

use std::fmt::Write;

/// A page that is being written.
pub struct Page(String);

impl Page {
    /// A page with its first line and its name section.
    pub fn new(name: &str, section: u8, about: &str) -> Self {
        let version = concat!("spank-vm ", env!("CARGO_PKG_VERSION"));
        let mut page = Self(format!(".TH {} {section} \"\" \"{version}\" spank-vm\n", name.to_uppercase()));
        page.section("NAME");
        page.line(&format!("{} \\- {}", escaped(name), escaped(about)));
        page
    }

    /// Begins a section.
    pub fn section(&mut self, title: &str) {
        self.macro_line("SH", &escaped(&title.to_uppercase()));
    }

    /// Begins a part of a section.
    pub fn subsection(&mut self, title: &str) {
        self.macro_line("SS", &escaped(title));
    }

    /// Paragraphs, with an empty line between them. Words in backquotes become bold.
    pub fn text(&mut self, text: &str) {
        for paragraph in text.split("\n\n") {
            self.0.push_str(".PP\n");
            self.line(&bold_in(paragraph));
        }
    }

    /// A word or option, and what it means below it.
    pub fn item(&mut self, term: &str, text: &str) {
        self.0.push_str(".TP\n");
        self.line(&format!("\\fB{}\\fR", escaped(term)));
        self.line(&bold_in(text));
    }

    /// Lines that stay as they are.
    pub fn lines(&mut self, text: &str) {
        self.0.push_str(".PP\n.RS 4\n.nf\n");
        for line in text.lines() {
            let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
            let _ = writeln!(self.0, "{guard}{}", escaped(line));
        }
        self.0.push_str(".fi\n.RE\n");
    }

    /// The page's text.
    pub fn into_text(self) -> String {
        self.0
    }

    /// Lines of text; none can be taken for an order to the formatter. An indented one begins on the page too.
    fn line(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if line.starts_with(' ') {
                self.0.push_str(".br\n");
            }
            let line = line.trim_start();
            let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
            let _ = writeln!(self.0, "{guard}{line}");
        }
    }

    fn macro_line(&mut self, name: &str, text: &str) {
        let _ = writeln!(self.0, ".{name} \"{}\"", text.replace('"', "\\(dq"));
    }
}

/// `text` with the characters that mean something to the formatter written otherwise. A hyphen would become a
/// typographic one, which nobody can paste into a shell.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('…', "...");
    text.replace('–', "\\(en").replace('×', "\\(mu")
}

/// The same, with words in backquotes in bold.
fn bold_in(text: &str) -> String {
    let parts = text.split('`').enumerate();
    parts.map(|(at, part)| if at % 2 == 1 { format!("\\fB{}\\fR", escaped(part)) } else { escaped(part) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_an_order_to_the_formatter() {
        let mut page = Page::new("x", 1, "a page");
        page.text(".so /etc/passwd\n'br and a \\fB and `--bold` words");
        let text = page.into_text();
        assert!(text.contains("\n\\&.so /etc/passwd\n\\&'br and a \\efB and \\fB\\-\\-bold\\fR words\n"), "{text}");
    }
}
