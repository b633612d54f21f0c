//! QEMU's monitor (QMP): JSON lines over a socket that only the runner holds.
//!
//! Commands are sent without waiting for the answers: QEMU executes them in order, and a failure
//! shows later in the VM's behaviour. So nothing ever waits for the monitor alone. The commands are
//! those of QEMU's `qapi/migration.json` and `qapi/qom.json`.
//!
//! QEMU reads its monitor byte by byte, with a turn of its main loop for each. So a clone is ordered in as few bytes as
//! possible, and what it can do without comes after that.

use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};

use node::text::short;

/// Reads of one text before the others get their turn: a guest that never stops printing must not
/// delay the runner's signals and deadlines.
pub const TURN: usize = 16;

/// Id of the device that memory is plugged through, as on QEMU's command line.
pub const MEMORY_DEVICE: &str = "plug";

/// Name of a descriptor that is sent over the monitor.
const STATE_NAME: &str = "state";

/// Longest accepted line; QEMU's own are shorter.
const LINE_MAX: usize = 64 * 1024;

/// Longest error text of QEMU that is shown, in characters.
const COMPLAINT_MAX: usize = 500;

/// How QEMU reaches the file with the state of a template's devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateUri {
    /// `file:` with a descriptor set of the command line: QEMU 8.2 and newer.
    FdSet(u32),
    /// `fd:` with a descriptor that is sent over the monitor: used by older releases, and deprecated in newer ones.
    Fd(RawFd),
}

impl StateUri {
    fn text(self) -> String {
        match self {
            Self::FdSet(set) => format!("file:/dev/fdset/{set}"),
            Self::Fd(_) => format!("fd:{STATE_NAME}"),
        }
    }
}

/// Where the memory of a PC above its old holes begins, and where its second part does.
const LOW: u64 = 1 << 20;
const HIGH: u64 = 4 << 30;

/// A smaller guest's memory lies below the hole for devices, and of a larger one's at least this much.
const LOW_END: u64 = 2 << 30;

/// Id of the questions where the guest's memory is.
const WHERE: &str = "memory";

/// A part of the guest's memory in QEMU's address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryRegion {
    /// Its first address in the guest.
    pub guest: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its first address in QEMU.
    pub host: u64,
}

/// Result of saving or loading a template's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transfer {
    /// It is complete.
    Completed,
    /// It failed; QEMU's reason.
    Failed(String),
}

/// The runner's end.
#[derive(Debug)]
pub struct Monitor {
    stream: UnixStream,
    line: Vec<u8>,
    lines: usize,
    transfer: Option<Transfer>,
    resumed: Option<Instant>,
    plugged: bool,
    complaint: Option<String>,
    disk_error: Option<DiskError>,
    shutdown: Option<Shutdown>,
    /// QEMU's addresses of [`LOW`] and [`HIGH`], as they become known.
    addresses: Vec<Option<u64>>,
}

/// Why QEMU stopped a VM whose disk it could not read or write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskError {
    /// What happened, for the user.
    pub text: String,
    /// Its files have no more room: a file system is full, a quota is used up, or a file would become too large. Users
    /// bring that about; everything else is a fault of the node.
    pub lacks_room: bool,
}

/// Why QEMU stopped its machine and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// The guest powered it off.
    PowerOff,
    /// The guest reset it: a reboot, or a kernel that panicked.
    Reset,
    /// Somebody asked QEMU to quit.
    Host,
}

impl Monitor {
    /// Takes a nonblocking socket whose other end QEMU got as its monitor.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            line: Vec::new(),
            lines: 0,
            transfer: None,
            resumed: None,
            plugged: false,
            complaint: None,
            disk_error: None,
            shutdown: None,
            addresses: Vec::new(),
        }
    }

    /// Prepares a QEMU with `-incoming defer` for [`Monitor::load`]. After [`Monitor::negotiate`].
    pub fn prepare_load(&mut self, state: StateUri) {
        self.leave_out_memory();
        self.hand_over(state);
    }

    /// Makes it read its VM from `state` and run it.
    pub fn load(&mut self, state: StateUri) {
        self.order(&json!({"execute": "migrate-incoming", "arguments": {"uri": state.text()}}));
    }

    /// Starts the protocol, before everything else.
    pub fn negotiate(&mut self) {
        self.order(&json!({"execute": "qmp_capabilities"}));
    }

    /// Memory in shared files is no part of a state. Whether QEMU has saved or loaded one it tells by the command line's
    /// wish (`migration.x-events`).
    fn leave_out_memory(&mut self) {
        let capabilities = [json!({"capability": "x-ignore-shared", "state": true})];
        self.order(&json!({"execute": "migrate-set-capabilities", "arguments": {"capabilities": capabilities}}));
    }

    /// Stops the running guest and writes its devices to `state`; its memory is in a shared file already
    /// and is left out. The guest is stopped first, because QEMU 10.0 aborts under emulation if a guest
    /// writes to plugged memory while it is saved.
    pub fn save(&mut self, state: StateUri) {
        self.leave_out_memory();
        self.order(&json!({"execute": "stop"}));
        self.hand_over(state);
        self.order(&json!({"execute": "migrate", "arguments": {"uri": state.text()}}));
    }

    /// Asks where the first `bytes` of the guest's memory are; [`Monitor::memory`] has the answer. For a protocol that was
    /// started.
    pub fn locate_memory(&mut self, bytes: u64) {
        for address in [LOW].into_iter().chain((bytes > LOW_END).then_some(HIGH)) {
            let line = format!("gpa2hva {address:#x}");
            self.order(&json!({"execute": "human-monitor-command", "arguments": {"command-line": line}, "id": WHERE}));
        }
    }

    /// Where the first `bytes` of the guest's memory are, those of before anything is plugged. `None` until QEMU has
    /// answered, empty if it does not say.
    pub fn memory(&self, bytes: u64) -> Option<Vec<MemoryRegion>> {
        let (low, high) = match *self.addresses.as_slice() {
            [low] if bytes <= LOW_END => (low, None),
            [low, high] => (low, high),
            _ => return None,
        };
        let Some(low) = low else { return Some(Vec::new()) };
        let first = MemoryRegion { guest: LOW, bytes: bytes.min(LOW_END).saturating_sub(LOW), host: low };
        // Both are parts of one mapping.
        let second = high.and_then(|host| {
            let below = host.checked_sub(low.checked_sub(LOW)?).filter(|&below| below >= LOW_END)?;
            let bytes = bytes.checked_sub(below).filter(|&bytes| bytes > 0)?;
            Some(MemoryRegion { guest: HIGH, bytes, host })
        });
        Some([first].into_iter().chain(second).collect())
    }

    /// Gives memory to the guest through [`MEMORY_DEVICE`], up to this many bytes in total.
    pub fn plug(&mut self, bytes: u64) {
        self.order(&json!({"execute": "qom-set", "arguments": {
            "path": format!("/machine/peripheral/{MEMORY_DEVICE}"), "property": "requested-size", "value": bytes}}));
    }

    /// Sends the descriptor if QEMU has not inherited it.
    fn hand_over(&mut self, state: StateUri) {
        let StateUri::Fd(fd) = state else { return };
        let line = format!("{}\n", json!({"execute": "getfd", "arguments": {"fdname": STATE_NAME}}));
        let message = [IoSlice::new(line.as_bytes())];
        let fds = [fd];
        let rights = [ControlMessage::ScmRights(&fds)];
        let sent = sendmsg::<()>(self.stream.as_raw_fd(), &message, &rights, MsgFlags::empty(), None);
        if sent != Ok(line.len()) {
            tracing::debug!("descriptor to QEMU: {sent:?}");
        }
    }

    /// The few short commands in the life of a VM always fit into the socket.
    fn order(&mut self, order: &Value) {
        let line = format!("{order}\n");
        match self.stream.write(line.as_bytes()) {
            Ok(n) if n == line.len() => {}
            // QEMU is gone; that is noticed through the channel.
            outcome => tracing::debug!("order to QEMU: {outcome:?}"),
        }
    }

    /// Reads QEMU's messages.
    pub fn read(&mut self) {
        let mut buf = [0; 4096];
        for _ in 0..TURN {
            let Ok(n @ 1..) = self.stream.read(&mut buf) else { return };
            self.line.extend_from_slice(&buf[..n]);
            while let Some(end) = self.line.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.line.drain(..=end).collect();
                self.understand(&line);
            }
            if self.line.len() > LINE_MAX {
                self.line.clear();
            }
        }
    }

    fn understand(&mut self, line: &[u8]) {
        self.lines += 1;
        let Ok(message) = serde_json::from_slice::<Value>(line) else { return };
        if message["id"] == WHERE {
            // `Host virtual address for 0x100000 (ram) is 0x7f…`. Another text, or an error: it is not known.
            let address = message["return"].as_str().and_then(|text| text.trim().rsplit_once(" is 0x"));
            self.addresses.push(address.and_then(|(_, hex)| u64::from_str_radix(hex, 16).ok()));
            return;
        }
        if let Some(why) = message["error"]["desc"].as_str() {
            let why = short(why, COMPLAINT_MAX);
            tracing::debug!("QEMU's monitor: {why}");
            self.complaint.get_or_insert(why);
        }
        match (message["event"].as_str(), message["data"]["status"].as_str()) {
            (Some("MEMORY_DEVICE_SIZE_CHANGE"), _) => self.plugged = true,
            (Some("BLOCK_IO_ERROR"), _) => {
                self.disk_error.get_or_insert_with(|| disk_error(&message["data"]));
            }
            (Some("SHUTDOWN"), _) => {
                self.shutdown = match message["data"]["reason"].as_str() {
                    Some("guest-shutdown") => Some(Shutdown::PowerOff),
                    Some("guest-reset" | "guest-panic") => Some(Shutdown::Reset),
                    Some("host-signal" | "host-qmp-quit" | "host-ui") => Some(Shutdown::Host),
                    _ => None,
                };
            }
            (Some("RESUME"), _) => self.resumed = Some(Instant::now()),
            (Some("MIGRATION"), Some("completed")) => self.transfer = Some(Transfer::Completed),
            (Some("MIGRATION"), Some("failed")) => {
                self.transfer = Some(Transfer::Failed("QEMU could not write its state".to_owned()));
            }
            _ => {}
        }
    }

    /// How many lines QEMU has said. The first one greets, from within its start; any other it says when it is ready.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// How saving or loading ended, if it has. A command that QEMU refused counts as a failure.
    pub fn transfer(&self) -> Option<Transfer> {
        self.transfer.clone().or_else(|| self.complaint.clone().map(Transfer::Failed))
    }

    /// Whether the guest has taken any memory that was plugged.
    pub fn has_plugged(&self) -> bool {
        self.plugged
    }

    /// Why the VM was stopped, if one of its disks cannot be read or written; for the user.
    pub fn disk_error(&self) -> Option<DiskError> {
        self.disk_error.clone()
    }

    /// Why the machine was stopped, if QEMU said so before it ended.
    pub fn shutdown(&self) -> Option<Shutdown> {
        self.shutdown
    }

    /// When the guest's processors began to run after loading.
    pub fn resumed(&self) -> Option<Instant> {
        self.resumed
    }
}

/// QEMU's event `BLOCK_IO_ERROR` (`qapi/block-core.json`).
fn disk_error(data: &Value) -> DiskError {
    let reason = data["reason"].as_str().unwrap_or("input/output error");
    let is_write = data["operation"].as_str() == Some("write");
    // The private disk of a full boot is a layer over the image's and has its name; but nothing else is ever written.
    let place = match data["node-name"].as_str() {
        Some("scratch") => "the VM's private disk in 'scratch_dir'",
        _ if is_write => "the VM's private disk in 'scratch_dir'",
        _ => "the image's disk",
    };
    let is_full = data["nospace"].as_bool() == Some(true);
    let text = match is_write {
        _ if is_full => format!("no space is left for {place}; the VM was ended"),
        true => format!("{place} cannot be written: {reason}; the VM was ended"),
        false => format!("{place} cannot be read: {reason}; the VM was ended"),
    };
    // QEMU's words are those of strerror.
    let limits = ["No space left on device", "Disk quota exceeded", "File too large"];
    DiskError { text, lacks_room: is_full || limits.contains(&reason) }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitor() -> (Monitor, UnixStream) {
        let (ours, qemus) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Monitor::new(ours), qemus)
    }

    #[test]
    fn a_clone_is_ordered_in_three_lines_of_json() {
        let (mut monitor, qemu) = monitor();
        monitor.negotiate();
        monitor.prepare_load(StateUri::FdSet(2));
        monitor.load(StateUri::FdSet(2));
        drop(monitor);
        let text = std::io::read_to_string(qemu).unwrap();
        let orders: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(orders[0], json!({"execute": "qmp_capabilities"}));
        assert_eq!(orders[1]["arguments"]["capabilities"][0], json!({"capability": "x-ignore-shared", "state": true}));
        assert_eq!(orders[2]["arguments"]["uri"], "file:/dev/fdset/2");
    }

    #[test]
    fn answers_are_understood_in_any_portions() {
        let (mut monitor, mut qemu) = monitor();
        let said = concat!(
            "{\"QMP\": {}}\r\n{\"return\": {}}\r\n",
            "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"completed\"}}\r\n",
            "garbage\n{\"event\": \"RESUME\"}\r\n"
        );
        for byte in said.as_bytes() {
            assert_eq!(monitor.resumed(), None);
            qemu.write_all(&[*byte]).unwrap();
            monitor.read();
        }
        assert_eq!(monitor.transfer(), Some(Transfer::Completed));
        assert!(monitor.resumed().is_some());
    }

    #[test]
    fn a_disk_that_is_full_or_unreadable_is_told_in_a_sentence() {
        let (mut monitor, mut qemu) = monitor();
        assert_eq!(monitor.disk_error(), None);
        let full = json!({"event": "BLOCK_IO_ERROR", "data": {"node-name": "scratch", "operation": "write",
            "action": "stop", "nospace": true, "reason": "No space left on device"}});
        qemu.write_all(format!("{full}\n").as_bytes()).unwrap();
        monitor.read();
        let told = "no space is left for the VM's private disk in 'scratch_dir'; the VM was ended".to_owned();
        assert_eq!(monitor.disk_error().unwrap(), DiskError { text: told.clone(), lacks_room: true });
        let full_boot =
            json!({"node-name": "root", "operation": "write", "nospace": true, "reason": "No space left on device"});
        assert_eq!(disk_error(&full_boot).text, told);
        let gone = json!({"node-name": "root", "operation": "read", "nospace": false, "reason": "Stale file handle"});
        let told = "the image's disk cannot be read: Stale file handle; the VM was ended".to_owned();
        assert_eq!(disk_error(&gone), DiskError { text: told, lacks_room: false });
        for (reason, lacks_room) in
            [("Disk quota exceeded", true), ("File too large", true), ("Input/output error", false)]
        {
            let event = json!({"node-name": "scratch", "operation": "write", "nospace": false, "reason": reason});
            assert_eq!(disk_error(&event).lacks_room, lacks_room, "{reason}");
        }
    }

    #[test]
    fn the_guest_s_memory_is_where_qemu_says() {
        let told = |answers: &[&str], bytes| {
            let (mut monitor, mut qemu) = monitor();
            for answer in answers {
                assert_eq!(monitor.memory(bytes), None);
                qemu.write_all(format!("{}\n", json!({"return": answer, "id": "memory"})).as_bytes()).unwrap();
                monitor.read();
            }
            monitor.memory(bytes).unwrap()
        };
        let low = "Host virtual address for 0x100000 (ram) is 0x7f0000100000\r\n";
        let none = "No memory is mapped at address 0x100000000\r\n";
        let first = |bytes| MemoryRegion { guest: 1 << 20, bytes, host: 0x7f00_0010_0000 };
        assert_eq!(told(&[low], 254 << 20), [first(253 << 20)]);
        assert_eq!(told(&[none], 254 << 20), []);
        assert_eq!(told(&[low, none], 3 << 30), [first((2 << 30) - (1 << 20))]);
        let high = "Host virtual address for 0x100000000 (ram) is 0x7f0080000000\r\n";
        let second = MemoryRegion { guest: 4 << 30, bytes: 1 << 30, host: 0x7f00_8000_0000 };
        assert_eq!(told(&[low, high], 3 << 30), [first((2 << 30) - (1 << 20)), second]);
        // What was plugged is another mapping.
        for plugged in ["0x7e0000000000", "0x7f1000000000"] {
            let plugged = format!("Host virtual address for 0x100000000 (plug-ram) is {plugged}\r\n");
            assert_eq!(told(&[low, &plugged], 3 << 30), [first((2 << 30) - (1 << 20))]);
        }
    }

    #[test]
    fn the_reason_of_a_machine_s_end_is_known() {
        for (reason, expected) in
            [("guest-shutdown", Some(Shutdown::PowerOff)), ("guest-reset", Some(Shutdown::Reset)), ("new-one", None)]
        {
            let (mut monitor, mut qemu) = monitor();
            let event = json!({"event": "SHUTDOWN", "data": {"guest": true, "reason": reason}});
            qemu.write_all(format!("{event}\n").as_bytes()).unwrap();
            monitor.read();
            assert_eq!(monitor.shutdown(), expected, "{reason}");
        }
    }

    #[test]
    fn a_refused_order_is_a_failed_transfer() {
        let (mut monitor, mut qemu) = monitor();
        assert_eq!(monitor.transfer(), None);
        qemu.write_all(b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such thing\"}}\n").unwrap();
        monitor.read();
        assert_eq!(monitor.transfer(), Some(Transfer::Failed("no such thing".to_owned())));
    }
}
