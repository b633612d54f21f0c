//! Changes the boot menu, which nobody sees: no waiting, and kernel messages go to the serial console.

use std::fs;
use std::io;

/// Where distributions keep the menu: GRUB of Debian and of RHEL; GRUB 1 of both.
const MENUS: [&str; 4] = ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/grub/menu.lst", "/boot/grub/grub.conf"];

/// Directory with one file per kernel; a menu beside it reads them.
const ENTRIES: &str = "/boot/loader/entries";

const CONSOLE: &str = "console=ttyS0";

/// Changes every menu that exists.
pub(super) fn adapt() -> io::Result<()> {
    let entries = fs::read_dir(ENTRIES).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in MENUS.iter().map(Into::into).chain(entries) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let adapted = adapted(&text);
        if adapted != text {
            // In place, so that owner, mode and label stay; the disk is a copy that nobody uses yet.
            fs::write(&path, adapted)?;
        }
    }
    Ok(())
}

fn adapted(text: &str) -> String {
    text.split_inclusive('\n').map(adapt_line).collect()
}

fn adapt_line(line: &str) -> String {
    let content = line.trim_end();
    let mut words = content.split_whitespace();
    let first = words.next().unwrap_or_default();
    let second = words.next().unwrap_or_default();
    let loads_kernel = matches!(first, "linux" | "linux16" | "linuxefi" | "kernel" | "options") && !second.is_empty();
    if loads_kernel && !content.contains(CONSOLE) {
        return format!("{content} {CONSOLE}\n");
    }
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let indent = &content[..content.len() - content.trim_start().len()];
    match (first, second.strip_prefix("timeout=")) {
        ("set", Some(seconds)) if is_number(seconds) => format!("{indent}set timeout=0\n"),
        ("timeout", None) if is_number(second) => format!("{indent}timeout 0\n"),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_menu_waits_no_more_and_its_kernels_talk() {
        let text = "if x ; then\n  set timeout=30\n  set timeout_style=menu\nfi\nmenuentry 'a' {\n\
                    \tlinux /boot/vmlinuz-6 root=/dev/sda1 ro quiet\n\tinitrd /boot/initrd\n}\n\
                    \tlinux /v console=ttyS0,115200\n";
        let expected = "if x ; then\n  set timeout=0\n  set timeout_style=menu\nfi\nmenuentry 'a' {\n\
                        \tlinux /boot/vmlinuz-6 root=/dev/sda1 ro quiet console=ttyS0\n\tinitrd /boot/initrd\n}\n\
                        \tlinux /v console=ttyS0,115200\n";
        assert_eq!(adapted(text), expected);
        assert_eq!(adapted(expected), expected);
        let old = "default 0\ntimeout 5\nkernel /vmlinuz-2.6 ro root=LABEL=/\n";
        assert_eq!(adapted(old), "default 0\ntimeout 0\nkernel /vmlinuz-2.6 ro root=LABEL=/ console=ttyS0\n");
    }
}
