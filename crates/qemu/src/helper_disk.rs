//! Disks of a VM without an image, by descriptor and with an explicit format.

use std::fs::File;

use serde_json::{Value, json};

/// A disk of a helper VM.
#[derive(Debug)]
pub struct HelperDisk {
    /// How the program in the guest asks for it: at most 20 letters and digits.
    pub serial: String,
    /// The file, opened for writing too if `writable`. QEMU opens no other, whatever a header says.
    pub file: File,
    /// What the file is.
    pub format: BlockFormat,
    /// Offset and length in bytes of the disk within the file; all of it when `None`.
    pub part: Option<(u64, u64)>,
    /// Whether the guest may write.
    pub writable: bool,
}

/// A disk format as QEMU names it. Always given, never guessed: a guest could write a header that guesses well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockFormat {
    /// Plain bytes.
    Raw,
    /// QEMU's own.
    Qcow2,
    /// VirtualBox's.
    Vdi,
    /// VMware's.
    Vmdk,
}

impl BlockFormat {
    /// The name of QEMU's driver.
    pub fn driver(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vdi => "vdi",
            Self::Vmdk => "vmdk",
        }
    }
}

impl HelperDisk {
    /// The block nodes from the file up; the last has the disk's serial number for a name.
    pub(crate) fn nodes(&self, filename: &str) -> Vec<Value> {
        let (serial, read_only) = (&self.serial, !self.writable);
        let mut below = format!("{serial}-file");
        let mut nodes = vec![json!({
            "driver": "file", "node-name": below, "filename": filename, "read-only": read_only, "locking": "off",
        })];
        if let Some((offset, size)) = self.part {
            let name = format!("{serial}-part");
            nodes.push(json!({
                "driver": "raw", "node-name": name, "file": below, "read-only": read_only, "offset": offset, "size": size,
            }));
            below = name;
        }
        let mut top = json!({
            "driver": self.format.driver(), "node-name": serial, "file": below, "read-only": read_only,
        });
        if matches!(self.format, BlockFormat::Qcow2 | BlockFormat::Vmdk) {
            // Whatever file the header names as the one below.
            top["backing"] = Value::Null;
        }
        nodes.push(top);
        nodes
    }
}
