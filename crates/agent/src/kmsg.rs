//! Lines in the guest kernel's log, and so on its console.

use std::io::Write;

/// Reaches the console even with `loglevel=1`: the last words before the VM is given up.
pub(super) fn emergency(text: &str) {
    write_line('0', text);
}

/// Kept in the log; seen on the console only by whoever asks the kernel for it.
pub(super) fn note(text: &str) {
    write_line('6', text);
}

fn write_line(level: char, text: &str) {
    // Without /dev/kmsg there is nobody left to tell.
    if let Ok(mut kmsg) = std::fs::OpenOptions::new().write(true).open("/dev/kmsg") {
        // One write is one record; a newline inside would start another.
        let _ = kmsg.write_all(format!("<{level}>spank-vm: {}\n", text.replace('\n', " ")).as_bytes());
    }
}
