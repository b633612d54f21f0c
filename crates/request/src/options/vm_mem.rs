//! `--vm-mem`: memory of a VM.

use crate::error::RequestError;
use crate::values::shown;
use crate::vm_option::{About, VmOption};

/// The least memory of a VM in MiB: less does not boot.
pub const MIN_MEM_MIB: u64 = 128;

/// `--vm-mem`.
#[derive(Debug)]
pub struct VmMem;

impl VmOption for VmMem {
    const ABOUT: About = About {
        name: "vm-mem",
        argument: Some("SIZE"),
        is_list: false,
        help: "[vm] guest memory of each virtual machine, in MiB or with K, M, G, T (default, and 0: the task's share)",
        readme: "guest memory of each VM, in MiB or with K, M, G, T; default, and 0: the task's share",
        run_name: "vm-mem",
        run_help: "Guest memory of each VM, in MiB or with K, M, G, T; 0 is the default",
    };

    /// MiB; 0 is all that the task has, as with `--mem` of Slurm.
    type Value = u64;

    /// Reads MiB, or a number with K, M, G or T as `--mem` of Slurm takes it.
    fn parse(text: &str) -> Result<u64, RequestError> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let kib_per_unit = match &text[digits.len()..] {
            "K" | "k" => Some(1),
            "" | "M" | "m" => Some(1 << 10),
            "G" | "g" => Some(1 << 20),
            "T" | "t" => Some(1 << 30),
            _ => None,
        };
        let number = if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse::<u64>().ok() } else { None };
        let mib = number.zip(kib_per_unit).and_then(|(number, kib)| number.checked_mul(kib)).map(|kib| kib >> 10);
        let wrong = |why: String| RequestError(format!("--vm-mem='{}': {why}", shown(text)));
        match mib {
            Some(mib) if mib >= MIN_MEM_MIB || number == Some(0) => Ok(mib),
            Some(_) => {
                Err(wrong(format!("a VM needs at least {MIN_MEM_MIB} MiB of memory (0 is all that the task has)")))
            }
            None => Err(wrong("a size is needed, in MiB or with K, M, G or T behind it".to_owned())),
        }
    }

    fn text(value: &u64) -> String {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_slurm_reads_them() {
        for (text, mib) in
            [("300", 300), ("300M", 300), ("262144K", 256), ("2g", 2048), ("1T", 1 << 20), ("0", 0), ("0G", 0)]
        {
            assert_eq!(VmMem::parse(text), Ok(mib), "{text}");
        }
        for bad in ["", "1K", "64M", "127", "abc", "1.5G", "1GB", "-1", "99999999999999999999", "9999999999999T", "G"] {
            let error = VmMem::parse(bad).unwrap_err().to_string();
            assert!(error.contains(&format!("--vm-mem='{bad}'")), "{error}");
        }
    }

    #[test]
    fn the_largest_size_survives_its_text_form() {
        let most = u64::MAX >> 10;
        assert_eq!(VmMem::parse(&VmMem::text(&most)), Ok(most));
    }
}
