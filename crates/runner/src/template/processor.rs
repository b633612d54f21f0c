//! What `-cpu host` means on this node.
//!
//! A template's guest found out about its processor when it booted: its kernel and programs go on with instructions,
//! workarounds and sizes of saved registers that a clone must have too. A node's boot, which is part of every key, does not
//! tell silicon apart for sure: a nested host moves to another machine while it runs, and microcode that is loaded
//! late takes features away.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::Path;

/// Lines of `/proc/cpuinfo` that say what a processor is. The others tell one from its neighbour (`apicid`) or change
/// by themselves (`cpu MHz`).
const FIELDS: [&str; 11] = [
    "vendor_id",
    "cpu family",
    "model",
    "model name",
    "stepping",
    "microcode",
    "cpuid level",
    "flags",
    "vmx flags",
    "bugs",
    "address sizes",
];

/// Parameters of KVM's modules that change which processor a guest sees: whether it may have guests of its own, and
/// what those would get. Everybody may read them, so that the site's key is the same for all.
const PARAMETERS: [&str; 9] = [
    "kvm/enable_pmu",
    "kvm_amd/avic",
    "kvm_amd/nested",
    "kvm_amd/npt",
    "kvm_amd/vgif",
    "kvm_intel/enable_apicv",
    "kvm_intel/ept",
    "kvm_intel/nested",
    "kvm_intel/unrestricted_guest",
];

/// The node's processor and what KVM passes on of it, as text to compare.
///
/// # Errors
/// When the system does not tell.
pub(super) fn identity() -> io::Result<String> {
    let read = |parameter: &str| {
        let (module, name) = parameter.split_once('/')?;
        fs::read_to_string(Path::new("/sys/module").join(module).join("parameters").join(name)).ok()
    };
    describe(BufReader::new(File::open("/proc/cpuinfo")?), read)
}

fn describe(cpuinfo: impl BufRead, parameter: impl Fn(&str) -> Option<String>) -> io::Result<String> {
    let mut text = String::new();
    let mut add = |name: &str, value: &str| text.extend([name, "=", value.trim(), "\n"]);
    // The first processor stands for all: the kernel lists features only that every one of them has.
    for line in cpuinfo.lines() {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        if FIELDS.contains(&name.trim()) {
            add(name.trim(), value);
        }
    }
    for name in PARAMETERS {
        if let Some(value) = parameter(name) {
            add(name, &value);
        }
    }
    match text.contains("flags=") {
        true => Ok(text),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "/proc/cpuinfo tells no processor's flags")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPYC: &str = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\nstepping\t: 1\n\
                        microcode\t: 0xa0011d5\ncpu MHz\t\t: 2596.120\nflags\t\t: fpu svm avx2\napicid\t\t: 0\n\n\
                        processor\t: 1\nflags\t\t: fpu\n";
    const XEON: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 106\nstepping\t: 6\n\
                        microcode\t: 0xd0003a5\ncpu MHz\t\t: 800.000\nflags\t\t: fpu vmx avx512f\n\
                        vmx flags\t: vnmi ept\napicid\t\t: 0\n\n";

    fn of(cpuinfo: &str, nested: Option<(&str, &str)>) -> String {
        let parameter = |name: &str| {
            nested.filter(|(module, _)| name == format!("{module}/nested")).map(|(_, value)| value.to_owned())
        };
        describe(cpuinfo.as_bytes(), parameter).unwrap()
    }

    #[test]
    fn another_processor_microcode_or_nesting_is_another() {
        let epyc = of(EPYC, Some(("kvm_amd", "1\n")));
        let others = [
            of(XEON, Some(("kvm_intel", "Y\n"))),
            of(EPYC, Some(("kvm_amd", "0\n"))),
            of(EPYC, None),
            of(&EPYC.replacen("fpu svm avx2", "fpu avx2", 1), Some(("kvm_amd", "1\n"))),
            of(&EPYC.replace("stepping\t: 1", "stepping\t: 2"), Some(("kvm_amd", "1\n"))),
            of(&EPYC.replace("0xa0011d5", "0xa0011d6"), Some(("kvm_amd", "1\n"))),
        ];
        for other in others {
            assert_ne!(other, epyc);
        }
        assert_ne!(of(XEON, None), of(&XEON.replace("vnmi ept", "vnmi"), None));
    }

    #[test]
    fn what_changes_from_moment_to_moment_and_from_core_to_core_does_not_count() {
        let later = EPYC.replace("2596.120", "3400.000").replace("apicid\t\t: 0", "apicid\t\t: 6");
        assert_eq!(of(&later, None), of(EPYC, None));
    }

    #[test]
    fn a_processor_that_is_not_told_is_an_error_and_this_one_is() {
        assert!(describe("processor : 0\n".as_bytes(), |_| None).is_err());
        assert!(identity().unwrap().contains("vendor_id="), "{:?}", identity());
    }
}
