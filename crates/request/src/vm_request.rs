//! The request: one validated value that the plugin hands to the runner in one environment variable.
//!
//! An environment variable and not arguments, because before Slurm 23.11 a plugin can replace a
//! task's `argv[0]` but cannot make its argument list longer. The text form is
//! `key=value` pairs separated by blanks; in values a blank is `+`, and what would be misread is percent-encoded:
//! readable in a log, short, parseable without a TOML reader inside slurmstepd. An option's key is its name.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::RequestError;
use crate::network_part::NetworkPart;
use crate::options::{Asked, ImageRef, VmImage};
use crate::vm_option::VmOption;

/// Environment variable that carries a [`VmRequest`] from the plugin to the runner. The runner
/// removes it, and everything that starts with `SPANK_VM_`, before the command sees the environment.
pub const REQUEST_ENV: &str = "SPANK_VM_REQUEST";

/// What a job step asks for, syntactically valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRequest {
    /// The image.
    pub image: ImageRef,
    /// The other options.
    pub asked: Asked,
    /// Explain every phase on the step's stderr.
    pub verbose: bool,
    /// The user asked for one of Slurm's interfaces for MPI programs; it is not the site's default.
    pub wants_mpi: bool,
    /// The user's own command when the plugin had to overwrite `argv[0]`; otherwise the command
    /// follows as the runner's arguments.
    pub argv0: Option<OsString>,
    /// `argv[0]` is a batch script on the host, to be carried into the guest.
    pub batch_script: bool,
    /// Memory of the task in MiB, when Slurm manages memory.
    pub memory_mib: Option<u64>,
    /// Tasks of the step on this node, which share the limits of the step.
    pub tasks: u32,
    /// Site configuration, when it is not the default one.
    pub config: Option<PathBuf>,
    /// The job, when there is one.
    pub job: Option<JobRef>,
    /// This node's directory for copies of images, made by the plugin.
    pub image_cache_dir: Option<PathBuf>,
    /// Where the tasks of this node meet, if there are several.
    pub meeting: Option<Meeting>,
    /// The task's part of the step's own network, made by the plugin.
    pub job_network: Option<NetworkPart>,
}

/// Open descriptors by which the tasks of a step on a node find each other. The plugin makes them before slurmstepd
/// forks the tasks, which inherit them: nothing of them has a name that another user could guess or take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meeting {
    /// The tasks' end of a pair of sockets. One byte can be read there: whoever gets it founds the VM.
    pub door: i32,
    /// The other end, for the founder.
    pub hall: i32,
    /// A pipe whose other end only slurmstepd has.
    pub life: i32,
}

/// How to ask Slurm about the job. This comes from slurmstepd, because the user controls the job's environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRef {
    /// The job's number.
    pub id: u32,
    /// Slurm's configuration, if slurmstepd has it in an unusual place.
    pub slurm_conf: Option<PathBuf>,
}

/// Most bytes of the options of a request. The whole must fit into one variable (`MAX_ARG_STRLEN`, 128 KiB), together
/// with what the plugin adds on the node.
const OPTIONS_MOST: usize = 112 << 10;

impl VmRequest {
    /// Checks that the options fit into one variable.
    ///
    /// # Errors
    /// Names the longest one.
    pub fn check_length(&self) -> Result<(), RequestError> {
        let texts = self.asked.texts();
        let packed = texts.map(|(name, text)| (Packed(text.as_ref()).to_string().len(), name)).collect::<Vec<_>>();
        let all: usize = packed.iter().map(|(length, _)| length).sum();
        match packed.into_iter().max() {
            Some((length, name)) if all > OPTIONS_MOST => Err(RequestError(format!(
                "--{name}=...: {length} bytes, and all options of a step together have room for {OPTIONS_MOST}: put long \
                 values into a file in a shared directory"
            ))),
            _ => Ok(()),
        }
    }

    /// A request for one VM of `image`, with defaults for everything else.
    pub fn new(image: ImageRef) -> Self {
        Self {
            image,
            asked: Asked::default(),
            verbose: false,
            wants_mpi: false,
            argv0: None,
            batch_script: false,
            memory_mib: None,
            tasks: 1,
            config: None,
            job: None,
            image_cache_dir: None,
            meeting: None,
            job_network: None,
        }
    }
}

impl fmt::Display for VmRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", VmImage::ABOUT.name, Packed(VmImage::text(&self.image).as_ref()))?;
        for (name, text) in self.asked.texts() {
            write!(f, " {name}={}", Packed(text.as_ref()))?;
        }
        if self.verbose {
            f.write_str(" verbose=1")?;
        }
        if self.wants_mpi {
            f.write_str(" mpi=1")?;
        }
        if let Some(argv0) = &self.argv0 {
            write!(f, " argv0={}", Packed(argv0))?;
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
            write!(f, " config={}", Packed(path.as_os_str()))?;
        }
        if let Some(job) = &self.job {
            write!(f, " job={}", job.id)?;
            if let Some(path) = &job.slurm_conf {
                write!(f, " slurmconf={}", Packed(path.as_os_str()))?;
            }
        }
        if let Some(path) = &self.image_cache_dir {
            write!(f, " imagecache={}", Packed(path.as_os_str()))?;
        }
        if let Some(Meeting { door, hall, life }) = self.meeting {
            write!(f, " meeting={door},{hall},{life}")?;
        }
        if let Some(network) = &self.job_network {
            write!(f, " network={network}")?;
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
            let decoded = || decode(&value.replace('+', "%20")).ok_or_else(|| wrong("bad percent encoding"));
            match key {
                "verbose" => request.verbose = value == "1",
                "mpi" => request.wants_mpi = value == "1",
                "argv0" => request.argv0 = Some(decoded()?),
                "script" => request.batch_script = value == "1",
                "mem" => request.memory_mib = Some(value.parse().map_err(|_| wrong("mem is not a number"))?),
                "tasks" => request.tasks = value.parse().map_err(|_| wrong("tasks is not a number"))?,
                "config" => request.config = Some(decoded()?.into()),
                "job" => job = Some(value.parse().map_err(|_| wrong("job is not a number"))?),
                "slurmconf" => slurm_conf = Some(decoded()?.into()),
                "network" => {
                    request.job_network = Some(value.parse().map_err(|()| wrong("network is none"))?);
                }
                "imagecache" => request.image_cache_dir = Some(decoded()?.into()),
                "meeting" => request.meeting = Some(meeting(value).ok_or_else(|| wrong("bad descriptors"))?),
                _ if key == VmImage::ABOUT.name => image = Some(VmImage::parse(&text(decoded()?)?)?),
                _ => match request.asked.set(key, &text(decoded()?)?) {
                    Some(result) => result?,
                    None => return Err(wrong("unknown key: plugin and runner are of different versions")),
                },
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

fn meeting(text: &str) -> Option<Meeting> {
    let mut numbers = text.split(',').map(|number| number.parse().ok().filter(|&number| number > 2));
    let mut next = || numbers.next().flatten();
    Some(Meeting { door: next()?, hall: next()?, life: next()? })
}

/// Shows a value so that blanks, control characters, `;`, `+` and `%` are not in it. Text of any language stays as long as it
/// is: one variable takes 128 KiB.
struct Packed<'a>(&'a OsStr);

impl fmt::Display for Packed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_text = self.0.to_str().is_some();
        let mut bytes = Vec::with_capacity(self.0.len());
        for &byte in self.0.as_bytes() {
            match byte {
                b' ' => bytes.push(b'+'),
                b'+' | b'%' | b';' | 0..=31 | 127 => bytes.extend(format!("%{byte:02x}").into_bytes()),
                128.. if !is_text => bytes.extend(format!("%{byte:02x}").into_bytes()),
                _ => bytes.push(byte),
            }
        }
        f.write_str(&String::from_utf8_lossy(&bytes))
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

    fn given(request: &mut VmRequest, name: &str, text: &str) {
        request.asked.set(name, text).unwrap().unwrap();
    }

    #[test]
    fn a_request_survives_its_text_form() {
        let mut request = VmRequest::new("debian12".parse().unwrap());
        assert_eq!(request.to_string().parse(), Ok(request.clone()));
        for (name, text) in [
            ("vms-per-slot", "64"),
            ("vm-mem", "300"),
            ("vm-cpus", "2"),
            ("vm-mount", "/sw:ro,/data 1:/mnt/%"),
            ("vm-root", ""),
            ("vm-env", "A=x y\\,%,B"),
            ("vm-save", "/proj/x y/new,replace"),
            ("vm-label", "0"),
            ("vm-scope", "node"),
        ] {
            given(&mut request, name, text);
            assert_eq!(request.to_string().parse(), Ok(request.clone()), "{name}");
        }
        request.argv0 = Some(OsString::from_vec((1..=255).collect()));
        request.batch_script = true;
        request.verbose = true;
        request.wants_mpi = true;
        request.memory_mib = Some(4096);
        request.tasks = 3;
        request.config = Some("/etc/slurm dir/x=y %.toml".into());
        request.job = Some(JobRef { id: 7, slurm_conf: None });
        assert_eq!(request.to_string().parse(), Ok(request.clone()));
        request.job = Some(JobRef { id: 7, slurm_conf: Some("/etc/slurm dir/slurm.conf".into()) });
        request.image_cache_dir = Some("/var/cache/images of n1".into());
        request.meeting = Some(Meeting { door: 3, hall: 40, life: 500 });
        request.image = "/home/ada/my disk,=%.qcow2".parse().unwrap();
        assert_eq!(request.to_string().parse(), Ok(request));
    }

    #[test]
    fn its_text_form_can_be_read_in_a_log() {
        let mut request = VmRequest::new("debian12".parse().unwrap());
        given(&mut request, "vm-root", "");
        given(&mut request, "vms-per-slot", "4");
        assert_eq!(request.to_string(), "vm-image=debian12 vms-per-slot=4 vm-root=1");
    }

    #[test]
    fn long_values_of_any_language_fit_into_one_variable() {
        let mut request = VmRequest::new("debian12".parse().unwrap());
        for part in ["\u{e9}", "\u{4f60}", "a b ", "=/:{}\"'"] {
            given(&mut request, "vm-env", &format!("A={}", part.repeat(45_000 / part.len())));
            request.check_length().unwrap();
            let text = request.to_string();
            assert!(text.len() < 46_000, "{part}: {}", text.len());
            assert_eq!(text.parse(), Ok(request.clone()), "{part}");
        }
        given(&mut request, "vm-env", &format!("A={}", "\n".repeat(45_000)));
        let error = request.check_length().unwrap_err().to_string();
        assert!(error.contains("--vm-env=...: 135002 bytes") && error.contains("file"), "{error}");
    }

    #[test]
    fn a_damaged_request_is_an_error() {
        for bad in [
            "",
            "vm-image=a tasks",
            "vms-per-slot=1",
            "vm-image=../a",
            "vm-image=a%0a/b",
            "vm-image=a vms-per-slot=0",
            "vm-image=a vm-root=maybe",
            "vm-image=a job=x",
            "vm-image=a colour=red",
            "vm-image=a meeting=3,4",
            "vm-image=a meeting=0,1,2",
            "vm-image=a argv0=%g0",
            "vm-image=a argv0=%1",
        ] {
            assert!(bad.parse::<VmRequest>().is_err(), "{bad}");
        }
    }
}
