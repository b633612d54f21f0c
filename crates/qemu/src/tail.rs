//! The end of a stream of text that is only looked at when something goes wrong.

use node::text::short;

/// Keeps the last bytes of what was pushed.
#[derive(Debug, Default)]
pub struct Tail {
    bytes: Vec<u8>,
}

/// The beginning of Linux's panic message.
const PANIC: &str = "Kernel panic";

/// The beginnings of QEMU's sentences when KVM cannot run a guest any more. Registers follow.
const KVM_FAILURES: [&str; 3] = ["KVM: entry failed", "KVM internal error", "KVM: unknown exit"];

/// Most characters of a line.
const LINE_MOST: usize = 200;

/// Bytes kept.
const KEPT: usize = 16 * 1024;

impl Tail {
    /// Appends `bytes`, dropping the oldest beyond 16 KiB.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > 2 * KEPT {
            self.bytes.drain(..self.bytes.len() - KEPT);
        }
    }

    /// The line that most likely says what happened: the last kernel panic, else the last line that
    /// has text. Control characters are removed, because the text comes from the guest.
    pub fn telling_line(&self) -> Option<String> {
        let lines = self.lines();
        let panic = lines.iter().rfind(|line| line.contains(PANIC) || line.contains("spank-vm-agent:"));
        panic.or(lines.last()).cloned()
    }

    /// The kernel's reason for its panic, if it panicked.
    pub fn panic(&self) -> Option<String> {
        let lines = self.lines();
        // The trace after it ends with the same words.
        let line = lines.iter().find(|line| line.contains(PANIC) && !line.contains("end Kernel panic"))?;
        let reason = line.split_once(PANIC).map(|(_, after)| after.trim_start_matches(" - "))?;
        Some(reason.trim_start_matches("not syncing: ").to_owned())
    }

    /// What QEMU says before it stops a VM whose guest KVM cannot run on: its sentence, and where the guest was, if the
    /// registers have been printed already.
    pub fn kvm_failure(&self) -> Option<String> {
        let lines = self.lines();
        let at = lines.iter().position(|line| KVM_FAILURES.iter().any(|words| line.starts_with(words)))?;
        let place = lines[at..].iter().flat_map(|line| line.split(' ')).find(|word| word.starts_with("RIP="));
        Some(place.map_or_else(|| lines[at].clone(), |place| format!("{}, {place}", lines[at])))
    }

    /// The lines that have text.
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.bytes);
        let clean = |line: &str| short(&without_orders(line), LINE_MOST).trim().to_owned();
        text.lines().map(clean).filter(|line| !line.is_empty()).collect()
    }
}

/// The text without control sequences for terminals: firmware and boot loaders use them to place each word.
fn without_orders(line: &str) -> String {
    let mut parts = line.split("\x1b[");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // Parameters, then one letter.
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, ';' | '?' | '=' | ' '));
        text.extend(rest.chars().skip(1));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_boot_loader_draws_is_read_as_text() {
        let mut tail = Tail::default();
        tail.push(b"\x1b[01;01H\x1b[0m\x1b[2J  Booting `D\x1b[01;12Hebian'\x1b[?25h\r\n\x1b[");
        assert_eq!(tail.telling_line().unwrap(), "Booting `Debian'");
        tail.push("\u{202e}turned\u{2028}round\n".as_bytes());
        assert_eq!(tail.telling_line().unwrap(), "turnedround");
    }

    #[test]
    fn the_sentence_about_kvm_is_found_before_the_registers_and_with_the_place() {
        let mut tail = Tail::default();
        tail.push(b"qemu-system-x86_64: warning: something\n");
        assert_eq!(tail.kvm_failure(), None);
        tail.push(b"KVM: entry failed, hardware error 0xffffffff\n");
        assert_eq!(tail.kvm_failure().unwrap(), "KVM: entry failed, hardware error 0xffffffff");
        tail.push(b"RAX=0000000000000007 RBX=0000555555918760\nRIP=ffffffff81c00080 RFL=00000002 [-------] CPL=0\nCode=ff e7\n");
        assert_eq!(tail.kvm_failure().unwrap(), "KVM: entry failed, hardware error 0xffffffff, RIP=ffffffff81c00080");
    }

    #[test]
    fn a_panic_is_preferred_to_the_noise_after_it() {
        let mut tail = Tail::default();
        assert_eq!(tail.telling_line(), None);
        tail.push(b"[ 1.0] Kernel panic - not syncing: VFS\r\n[ 1.1] Rebooting\x1b[0m..\r\n\r\n");
        assert_eq!(tail.telling_line().unwrap(), "[ 1.0] Kernel panic - not syncing: VFS");
        assert_eq!(tail.panic().unwrap(), "VFS");
        for _ in 0..10_000 {
            tail.push(b"a line\x07 of noise\n");
        }
        assert_eq!(tail.telling_line().unwrap(), "a line of noise");
        assert_eq!(tail.panic(), None);
        assert!(tail.bytes.len() <= 2 * KEPT);
    }
}
