//! What the plugin asks of the runner: one validated value, carried in one environment variable.
//!
//! An environment variable and not arguments, because before Slurm 23.11 a plugin can replace a
//! task's `argv[0]` but cannot make its argument list longer. The text form is
//! `key=value` pairs separated by blanks, values percent-encoded: readable in a log, parseable
//! without a TOML reader inside slurmstepd.

#![forbid(unsafe_code)]

mod image;
mod save;
mod share;
mod variables;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

pub use self::image::{ImageName, ImageRef};
pub use self::save::SaveSpec;
pub use self::share::{ShareSpec, parse_mounts};
pub use self::variables::{EnvEntry, parse_variables};

/// Environment variable that carries a [`VmRequest`] from the plugin to the runner. The runner
/// removes it, and everything that starts with `SPANK_VM_`, before the command sees the environment.
pub const REQUEST_ENV: &str = "SPANK_VM_REQUEST";

/// Name under which the program is started as a task. It doubles as the word that srun sends in
/// place of the user's command, so that a node without the plugin finds nothing to execute.
pub const STEP_PROGRAM: &str = "spank-vm-step";

/// Exit code of a step that failed because of its node: `EX_TEMPFAIL` of sysexits.h.
pub const EXIT_NODE_FAILED: u8 = 75;

/// Most VMs that one slot may be overloaded with, whatever the site allows.
pub const MAX_VMS_PER_SLOT: u32 = 64;

/// Most processors of a VM.
pub const MAX_CPUS: u32 = 256;

/// A job step's wish for virtual machines, syntactically valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRequest {
    /// The image.
    pub image: ImageRef,
    /// VMs started for this task.
    pub vms_per_slot: u32,
    /// Guest memory per VM in MiB, when the user asked for it.
    pub vm_memory_mib: Option<u64>,
    /// Processors per VM, when the user asked for them.
    pub vm_cpus: Option<u32>,
    /// Shares that the user asked for.
    pub mounts: Vec<ShareSpec>,
    /// The command runs as root inside the guest.
    pub as_root: bool,
    /// Variables that the command gets in any case.
    pub variables: Vec<EnvEntry>,
    /// Keep the first VM's disk as an image.
    pub save: Option<SaveSpec>,
    /// Every line of output is preceded by its VM's number.
    pub label: bool,
    /// Explain every phase on the step's stderr.
    pub verbose: bool,
    /// The user's own command when the plugin had to overwrite `argv[0]`; otherwise the command
    /// follows as the runner's arguments.
    pub argv0: Option<OsString>,
    /// `argv[0]` is a batch script on the host, to be carried into the guest.
    pub batch_script: bool,
    /// Memory of the task in MiB, when Slurm manages memory.
    pub memory_mib: Option<u64>,
    /// Tasks of the step on this node, which share what is enforced for the step.
    pub tasks: u32,
    /// Site configuration, when it is not the default one.
    pub config: Option<PathBuf>,
    /// The job, when there is one.
    pub job: Option<JobRef>,
    /// This node's directory for copies of images, made by the plugin.
    pub image_cache_dir: Option<PathBuf>,
}

/// How to ask Slurm for the job: told by slurmstepd, not by the job's environment, which is the user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRef {
    /// The job's number.
    pub id: u32,
    /// Slurm's configuration, where slurmstepd has one that is not at its usual place.
    pub slurm_conf: Option<PathBuf>,
}

impl VmRequest {
    /// A request for one VM of `image`, everything else left to the defaults.
    pub fn new(image: ImageRef) -> Self {
        Self {
            image,
            vms_per_slot: 1,
            vm_memory_mib: None,
            vm_cpus: None,
            mounts: Vec::new(),
            as_root: false,
            variables: Vec::new(),
            save: None,
            label: false,
            verbose: false,
            argv0: None,
            batch_script: false,
            memory_mib: None,
            tasks: 1,
            config: None,
            job: None,
            image_cache_dir: None,
        }
    }
}

/// Why a value of an option or a request is refused. The text names the value and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestError(String);

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RequestError {}

/// Reads the value of `--vm-mem`: MiB, or a number with K, M, G or T as `--mem` of Slurm takes it.
///
/// # Errors
/// When it is no such size, or not even one MiB.
pub fn parse_memory(text: &str) -> Result<u64, RequestError> {
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
    mib.filter(|&mib| mib > 0).ok_or_else(|| {
        RequestError(format!("--vm-mem='{}': a size is needed, in MiB or with K, M, G or T behind it", shown(text)))
    })
}

/// Reads the value of an option that takes none on the command line; as an environment default it
/// has one.
///
/// # Errors
/// Names the option and the value.
pub fn parse_switch(option: &str, text: &str) -> Result<bool, RequestError> {
    match text {
        "" | "1" | "yes" => Ok(true),
        "0" | "no" => Ok(false),
        _ => Err(RequestError(format!("{option}='{}': '1' or '0' is needed", shown(text)))),
    }
}

/// Reads the value of `--vm-cpus`.
///
/// # Errors
/// When `text` is not a whole number from 1 to [`MAX_CPUS`].
pub fn parse_cpus(text: &str) -> Result<u32, RequestError> {
    parse_number("--vm-cpus", text, MAX_CPUS)
}

/// Reads the value of `--vms-per-slot`.
///
/// # Errors
/// When `text` is not a whole number from 1 to [`MAX_VMS_PER_SLOT`].
pub fn parse_vms_per_slot(text: &str) -> Result<u32, RequestError> {
    parse_number("--vms-per-slot", text, MAX_VMS_PER_SLOT)
}

fn parse_number(option: &str, text: &str, most: u32) -> Result<u32, RequestError> {
    // Digits only: "+4" and " 4" are typing errors.
    let number = if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None };
    number
        .filter(|n| (1..=most).contains(n))
        .ok_or_else(|| RequestError(format!("{option}='{}': a whole number from 1 to {most} is needed", shown(text))))
}

/// A value as it is repeated in a message: short, and without control characters.
fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_default).collect()
}

impl fmt::Display for VmRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "image={} vms={}", Encoded(self.image.as_str().as_ref()), self.vms_per_slot)?;
        if let Some(mib) = self.vm_memory_mib {
            write!(f, " vmmem={mib}")?;
        }
        if let Some(cpus) = self.vm_cpus {
            write!(f, " vmcpus={cpus}")?;
        }
        if !self.mounts.is_empty() {
            let mounts: Vec<String> = self.mounts.iter().map(ToString::to_string).collect();
            write!(f, " mount={}", Encoded(mounts.join(",").as_ref()))?;
        }
        if self.as_root {
            f.write_str(" root=1")?;
        }
        if !self.variables.is_empty() {
            write!(f, " env={}", Encoded(variables::variables_text(&self.variables).as_ref()))?;
        }
        if let Some(save) = &self.save {
            write!(f, " save={}", Encoded(save.to_string().as_ref()))?;
        }
        if self.label {
            f.write_str(" label=1")?;
        }
        if self.verbose {
            f.write_str(" verbose=1")?;
        }
        if let Some(argv0) = &self.argv0 {
            write!(f, " argv0={}", Encoded(argv0))?;
        }
        if self.batch_script {
            f.write_str(" script=1")?;
        }
        if let Some(mib) = self.memory_mib {
            write!(f, " mem={mib}")?;
        }
        if self.tasks != 1 {
            write!(f, " tasks={}", self.tasks)?;
        }
        if let Some(path) = &self.config {
            write!(f, " config={}", Encoded(path.as_os_str()))?;
        }
        if let Some(job) = &self.job {
            write!(f, " job={}", job.id)?;
            if let Some(path) = &job.slurm_conf {
                write!(f, " slurmconf={}", Encoded(path.as_os_str()))?;
            }
        }
        if let Some(path) = &self.image_cache_dir {
            write!(f, " imagecache={}", Encoded(path.as_os_str()))?;
        }
        Ok(())
    }
}

impl FromStr for VmRequest {
    type Err = RequestError;

    fn from_str(source: &str) -> Result<Self, RequestError> {
        let wrong = |what: &str| RequestError(format!("{REQUEST_ENV}: {what}"));
        let text = |value: OsString| value.into_string().map_err(|_| wrong("a value is not UTF-8"));
        let mut image = None;
        let mut request = Self::new(ImageRef::Path(PathBuf::new()));
        let (mut job, mut slurm_conf) = (None, None);
        for pair in source.split(' ') {
            let (key, value) = pair.split_once('=').ok_or_else(|| wrong("not a list of key=value"))?;
            let decoded = || decode(value).ok_or_else(|| wrong("bad percent encoding"));
            match key {
                "image" => image = Some(text(decoded()?)?.parse()?),
                "vms" => request.vms_per_slot = parse_vms_per_slot(value)?,
                "vmmem" => request.vm_memory_mib = Some(parse_memory(value)?),
                "vmcpus" => request.vm_cpus = Some(parse_cpus(value)?),
                "mount" => request.mounts = parse_mounts(&text(decoded()?)?)?,
                "root" => request.as_root = value == "1",
                "env" => request.variables = parse_variables(&text(decoded()?)?)?,
                "save" => request.save = Some(text(decoded()?)?.parse()?),
                "label" => request.label = value == "1",
                "verbose" => request.verbose = value == "1",
                "argv0" => request.argv0 = Some(decoded()?),
                "script" => request.batch_script = value == "1",
                "mem" => request.memory_mib = Some(value.parse().map_err(|_| wrong("mem is not a number"))?),
                "tasks" => request.tasks = value.parse().map_err(|_| wrong("tasks is not a number"))?,
                "config" => request.config = Some(decoded()?.into()),
                "job" => job = Some(value.parse().map_err(|_| wrong("job is not a number"))?),
                "slurmconf" => slurm_conf = Some(decoded()?.into()),
                "imagecache" => request.image_cache_dir = Some(decoded()?.into()),
                _ => return Err(wrong("unknown key: plugin and runner are of different versions")),
            }
        }
        request.image = image.ok_or_else(|| wrong("no image"))?;
        if request.image.relative_path().is_some() {
            return Err(wrong("the image's path is not absolute"));
        }
        request.job = job.map(|id| JobRef { id, slurm_conf });
        Ok(request)
    }
}

/// Shows bytes with everything but unreserved characters and `/` percent-encoded.
#[derive(Debug, Clone, Copy)]
pub struct Encoded<'a>(pub &'a OsStr);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0.as_bytes() {
            if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
                write!(f, "{}", byte as char)?;
            } else {
                write!(f, "%{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// The bytes that [`Encoded`] showed; `None` for text that it does not write.
pub fn decode(text: &str) -> Option<OsString> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    Some(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_its_text_form() {
        let mut request = VmRequest::new("debian12".parse().unwrap());
        assert_eq!(request.to_string().parse(), Ok(request.clone()));
        request.vms_per_slot = 64;
        request.argv0 = Some(OsString::from_vec((1..=255).collect()));
        request.batch_script = true;
        request.vm_memory_mib = Some(300);
        request.vm_cpus = Some(2);
        request.mounts = parse_mounts("/sw:ro,/data 1:/mnt/%").unwrap();
        request.as_root = true;
        request.variables = parse_variables("A=x y\\,%,B").unwrap();
        request.save = Some("/proj/x y/new,replace".parse().unwrap());
        request.label = true;
        request.verbose = true;
        request.memory_mib = Some(4096);
        request.tasks = 3;
        request.config = Some("/etc/slurm dir/x=y %.toml".into());
        request.job = Some(JobRef { id: 7, slurm_conf: None });
        assert_eq!(request.to_string().parse(), Ok(request.clone()));
        request.job = Some(JobRef { id: 7, slurm_conf: Some("/etc/slurm dir/slurm.conf".into()) });
        request.image_cache_dir = Some("/var/cache/images of n1".into());
        request.image = "/home/ada/my disk,=%.qcow2".parse().unwrap();
        assert_eq!(request.to_string().parse(), Ok(request));
    }

    #[test]
    fn vms_per_slot_is_a_number_from_1_to_64_and_the_error_names_the_value() {
        assert_eq!(parse_vms_per_slot("1"), Ok(1));
        assert_eq!(parse_vms_per_slot("64"), Ok(64));
        for bad in ["0", "65", "-1", "+4", "4 ", "", "abc", "1e1", "99999999999999999999"] {
            let error = parse_vms_per_slot(bad).unwrap_err().to_string();
            assert!(error.contains(&format!("'{bad}'")), "{error}");
        }
    }

    #[test]
    fn sizes_are_read_as_slurm_reads_them() {
        for (text, mib) in [("300", 300), ("300M", 300), ("2048K", 2), ("2g", 2048), ("1T", 1 << 20)] {
            assert_eq!(parse_memory(text), Ok(mib), "{text}");
        }
        for bad in ["", "0", "1K", "abc", "1.5G", "1GB", "-1", "99999999999999999999", "9999999999999T", "G"] {
            let error = parse_memory(bad).unwrap_err().to_string();
            assert!(error.contains(&format!("--vm-mem='{bad}'")), "{error}");
        }
    }

    #[test]
    fn a_damaged_request_is_an_error() {
        for bad in [
            "",
            "image=a vms",
            "vms=1",
            "image=../a",
            "image=a%0a/b",
            "image=a job=x",
            "image=a colour=red",
            "image=a argv0=%g0",
            "image=a argv0=%1",
        ] {
            assert!(bad.parse::<VmRequest>().is_err(), "{bad}");
        }
    }
}
