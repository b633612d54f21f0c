//! Disks of a VM without an image, by descriptor and with an explicit format.

use std::fs::File;

use image::DiskFormat;
use serde_json::{Value, json};

/// A disk of a helper VM.
#[derive(Debug)]
pub struct HelperDisk {
    /// How the program in the guest asks for it: at most 20 letters and digits.
    pub serial: String,
    /// The file, opened for writing too if `writable`. QEMU opens no other file, even if a header names one.
    pub file: File,
    /// What the file is.
    pub format: DiskFormat,
    /// Offset and length in bytes of the disk within the file; `None` is the whole file.
    pub part: Option<(u64, u64)>,
    /// Whether the guest may write.
    pub writable: bool,
}

impl HelperDisk {
    /// The block nodes from the file up; the name of the last one is the disk's serial number.
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
            "driver": self.format.block_driver(), "node-name": serial, "file": below, "read-only": read_only,
        });
        if self.format.may_have_a_backing_file() {
            // Ignores a backing file that the header names.
            top["backing"] = Value::Null;
        }
        nodes.push(top);
        if self.writable {
            // What the guest frees takes no space in the file any more.
            for node in &mut nodes {
                node["discard"] = "unmap".into();
            }
        }
        nodes
    }
}
