//! Writes lines to the guest kernel's log, and so to its console.

use std::io::Write;

/// Shown on the console even with `loglevel=1`: the last message before the VM fails.
pub(super) fn emergency(text: &str) {
    write_line('0', text);
}

/// Kept in the log; shown on the console only if the kernel's log level asks for it.
pub(super) fn note(text: &str) {
    write_line('6', text);
}

fn write_line(level: char, text: &str) {
    // Without /dev/kmsg there is no other place for the message.
    if let Ok(mut kmsg) = std::fs::OpenOptions::new().write(true).open("/dev/kmsg") {
        // One write is one record; a newline inside would start another.
        let _ = kmsg.write_all(format!("<{level}>spank-vm: {}\n", text.replace('\n', " ")).as_bytes());
    }
}
