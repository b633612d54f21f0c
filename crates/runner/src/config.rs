//! The site's configuration: one TOML file, every key optional, unknown keys refused.

mod former;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

use crate::error::{Blame, Context, Fault, RunError, ensure};
use image::{Catalogue, Person, check_pattern};
use network::NetworkError;
use network::plan::{Range4, Range6};
use node::layout;
use qemu::{Confine, Confinement, CpuModel, program};
use request::{Asked, MAX_VMS_PER_SLOT, Network, Scope, ShareSpec, VmNet, VmOption};

/// Where the configuration is looked for unless the plugin or `--config` names another file.
pub const DEFAULT_PATH: &str = layout::DEFAULT_CONFIG;

/// Addresses that no site routes: shared ones of providers (RFC 6598), and unique local ones.
const JOB_NETWORK: &str = "100.80.0.0/16";
const JOB_NETWORK_V6: &str = "fd76:6d6e:6574::/64";

/// More than anybody waits for, and no sum or product of it is too large for a clock.
const MOST_SECONDS: u64 = 1_000_000_000;

/// More than any node has, and in bytes no number is too large for it: 2^60.
const MOST_MIB: u64 = 1 << 40;

/// How guests are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccelChoice {
    /// KVM if it really runs a guest, else emulation, with a warning if /dev/kvm looked usable.
    Auto,
    /// KVM or an error.
    Kvm,
    /// QEMU's software emulation.
    Tcg,
}

impl AccelChoice {
    /// All values as they are written.
    pub const WORDS: [(&'static str, Self); 3] = [("auto", Self::Auto), ("kvm", Self::Kvm), ("tcg", Self::Tcg)];
}

/// Which virtual hardware guests get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MachineChoice {
    /// QEMU's minimal machine for small guests with KVM, a PC for all others.
    Auto,
    /// QEMU's minimal machine. Under emulation about one boot in ten finds no stable clock to calibrate with, and hangs.
    Microvm,
    /// An ordinary PC with PCI Express.
    Q35,
}

impl MachineChoice {
    /// All values as they are written.
    pub const WORDS: [(&'static str, Self); 3] = [("auto", Self::Auto), ("microvm", Self::Microvm), ("q35", Self::Q35)];
}

/// Where VMs read their image from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// From a copy on the node, if the image's own place is not a disk of the node already.
    Auto,
    /// From a copy on the node.
    Cache,
    /// From where the image is.
    InPlace,
}

impl Delivery {
    /// The value as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cache => "cache",
            Self::InPlace => "in-place",
        }
    }
}

/// How VMs start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartChoice {
    /// As clones of a template, which the first VM of an image on a node makes.
    Clone,
    /// Each boots.
    Boot,
}

fn share_specs<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<ShareSpec>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

fn network<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Network, D::Error> {
    let text = String::deserialize(deserializer)?;
    VmNet::parse(&text).map_err(|_| {
        let words: Vec<&str> = Network::WORDS.iter().map(|(word, _)| *word).collect();
        serde::de::Error::custom(format!("'{text}' is no network: {} are", words.join(", ")))
    })
}

fn range<'de, D: serde::Deserializer<'de>, R: FromStr<Err = NetworkError>>(deserializer: D) -> Result<R, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn networks<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Network>, D::Error> {
    #[derive(Deserialize)]
    struct One(#[serde(deserialize_with = "network")] Network);
    Ok(Vec::<One>::deserialize(deserializer)?.into_iter().map(|One(network)| network).collect())
}

fn cpu_model<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<CpuModel, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|error| serde::de::Error::custom(format!("cpu_model: {error}")))
}

fn confine<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Confine, D::Error> {
    let text = String::deserialize(deserializer)?;
    let found = Confine::WORDS.into_iter().find(|(word, _)| *word == text);
    let needed = || serde::de::Error::custom(format!("confine_qemu '{text}': 'auto', 'require' or 'off' is needed"));
    found.map(|(_, confine)| confine).ok_or_else(needed)
}

fn scope<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Scope, D::Error> {
    let text = String::deserialize(deserializer)?;
    let found = Scope::WORDS.iter().find(|(word, _)| *word == text);
    found
        .map(|(_, scope)| *scope)
        .ok_or_else(|| serde::de::Error::custom(format!("vm_scope '{text}': 'slot' or 'node' is needed")))
}

fn scopes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Scope>, D::Error> {
    #[derive(Deserialize)]
    struct One(#[serde(deserialize_with = "scope")] Scope);
    Ok(Vec::<One>::deserialize(deserializer)?.into_iter().map(|One(scope)| scope).collect())
}

/// Every setting of a site with its default. `slurm-conf/spank-vm.toml` explains them line by line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directories with image entries; the first that has a name wins. `~`, `%u` and `%g` in them are the user's
    /// home, name and groups.
    pub image_dirs: Vec<PathBuf>,
    /// Users may bring images of their own: paths, and the directories with `~` or `%u`.
    pub user_images: bool,
    /// Where VMs read their image from.
    pub delivery: Delivery,
    /// Root-owned directory on this node's disk for copies of images; `%n` in it is the node's name.
    pub image_cache_dir: PathBuf,
    /// Most MiB that the copies of one user, or of the site, may take of it.
    pub image_cache_mib: u64,
    /// Seconds that a job waits for the copy of its image before it reads the image in place.
    pub image_copy_timeout_s: u64,
    /// The boot kit's directory.
    pub kit: PathBuf,
    /// The QEMU binary; a name without a slash is looked for in `/usr/bin`, `/usr/local/bin` and `/usr/libexec`.
    pub qemu: PathBuf,
    /// Whether QEMU is held to files that are not its user's.
    #[serde(deserialize_with = "confine")]
    pub confine_qemu: Confine,
    /// Directories that QEMU needs then, besides the system's.
    pub qemu_dirs: Vec<PathBuf>,
    /// How guests are executed.
    pub accel: AccelChoice,
    /// The processor that guests see.
    #[serde(deserialize_with = "cpu_model")]
    pub cpu_model: CpuModel,
    /// Which virtual hardware guests get.
    pub machine: MachineChoice,
    /// Largest guest memory in MiB for which `machine` = auto takes QEMU's minimal machine; 0 for none.
    pub microvm_memory_mib: u64,
    /// Root-owned directory for the state of running VMs and for what is known about the node.
    pub state_dir: PathBuf,
    /// How VMs start.
    pub start: StartChoice,
    /// Root-owned directory on this node's disk for templates.
    pub template_dir: PathBuf,
    /// Most MiB that the templates of one user, or of the site, may take of it.
    pub template_cache_mib: u64,
    /// Where the VMs' private disks live, as files without a name.
    pub scratch_dir: PathBuf,
    /// Guest memory in MiB per VM where Slurm sets no limit.
    pub default_memory_mib: u64,
    /// Memory in MiB that QEMU itself needs beside the guest's, per VM.
    pub memory_overhead_mib: u64,
    /// And for each GiB of the guest's, in MiB: page tables above all.
    pub memory_overhead_per_gib_mib: u64,
    /// Highest `--vms-per-slot`.
    pub max_vms_per_slot: u32,
    /// What has a VM where a user does not say it with `--vm-scope`.
    #[serde(deserialize_with = "scope")]
    pub vm_scope: Scope,
    /// The values of `--vm-scope` that users may give.
    #[serde(deserialize_with = "scopes")]
    pub vm_scopes: Vec<Scope>,
    /// Seconds from the start of QEMU until the agent must have answered.
    pub boot_timeout_s: u64,
    /// The same for images that boot their own kernel and init.
    pub full_boot_timeout_s: u64,
    /// Seconds without an answer of a guest while its command runs, after which the VM is ended; 0 is never.
    pub silence_timeout_s: u64,
    /// Seconds after which a boot under KVM counts as broken when `accel` is `auto`.
    pub kvm_timeout_s: u64,
    /// Whether root's own jobs get VMs.
    pub allow_root: bool,
    /// Share the user's home directory.
    pub share_home: bool,
    /// The network of VMs whose users ask for none.
    #[serde(deserialize_with = "network")]
    pub default_network: Network,
    /// The networks that users may ask for.
    #[serde(deserialize_with = "networks")]
    pub allowed_networks: Vec<Network>,
    /// IPv4 addresses of VMs in a network of their step.
    #[serde(deserialize_with = "range")]
    pub job_network: Range4,
    /// Their IPv6 addresses.
    #[serde(deserialize_with = "range")]
    pub job_network_v6: Range6,
    /// UDP port of the tunnels between the nodes of such a network.
    pub job_network_port: u16,
    /// More shares for every guest.
    #[serde(deserialize_with = "share_specs")]
    pub shares: Vec<ShareSpec>,
    /// Lines of the file that mean nothing any more, and what they are; for the administrator.
    #[serde(skip)]
    pub leftovers: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            image_dirs: vec![
                "/var/lib/spank-vm/images".into(),
                "/usr/share/spank-vm/images".into(),
                "~/.local/share/spank-vm/images".into(),
            ],
            user_images: true,
            delivery: Delivery::Auto,
            image_cache_dir: layout::DEFAULT_IMAGE_CACHE_DIR.into(),
            image_cache_mib: 20480,
            image_copy_timeout_s: 600,
            kit: "/var/lib/spank-vm/kit".into(),
            qemu: program::NAME.into(),
            confine_qemu: Confine::Auto,
            qemu_dirs: Vec::new(),
            accel: AccelChoice::Auto,
            cpu_model: CpuModel::default(),
            machine: MachineChoice::Auto,
            microvm_memory_mib: 512,
            state_dir: layout::DEFAULT_STATE_DIR.into(),
            start: StartChoice::Clone,
            template_dir: layout::DEFAULT_TEMPLATE_DIR.into(),
            template_cache_mib: 4096,
            scratch_dir: "/var/tmp".into(),
            default_memory_mib: 512,
            memory_overhead_mib: 128,
            memory_overhead_per_gib_mib: 5,
            max_vms_per_slot: MAX_VMS_PER_SLOT,
            vm_scope: Scope::Slot,
            vm_scopes: vec![Scope::Slot, Scope::Node],
            boot_timeout_s: 60,
            full_boot_timeout_s: 240,
            silence_timeout_s: 0,
            kvm_timeout_s: 10,
            allow_root: false,
            share_home: true,
            default_network: Network::None,
            allowed_networks: vec![Network::User, Network::Job],
            job_network: JOB_NETWORK.parse().expect("a range"),
            job_network_v6: JOB_NETWORK_V6.parse().expect("a range"),
            job_network_port: 4789,
            shares: Vec::new(),
            leftovers: Vec::new(),
        }
    }
}

impl Config {
    /// Parses the text of a configuration file.
    ///
    /// # Errors
    /// One line, with the number of the file's line.
    pub fn parse(text: &str) -> Result<Self, RunError> {
        let (text, leftovers) = former::set_aside(text)?;
        let config: Self = toml::from_str(&text)
            .map_err(|error| RunError::new(Fault::System, image::mistake::in_toml(&error, &text)))?;
        let config = Self { leftovers, ..config };
        config.validate()?;
        Ok(config)
    }

    /// Loads `path`, or the site's default file, or the built-in defaults when there is none.
    ///
    /// # Errors
    /// A file that was named must exist; any file that exists must be readable and valid.
    pub fn load(path: Option<&Path>) -> Result<Self, RunError> {
        let named = path.is_some();
        let path = path.unwrap_or(Path::new(DEFAULT_PATH));
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).with_context(|| format!("configuration {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("configuration {} cannot be read", path.display())),
        }
    }

    fn validate(&self) -> Result<(), RunError> {
        let at_least_one = [
            ("default_memory_mib", self.default_memory_mib),
            ("boot_timeout_s", self.boot_timeout_s),
            ("full_boot_timeout_s", self.full_boot_timeout_s),
            ("kvm_timeout_s", self.kvm_timeout_s),
            ("image_copy_timeout_s", self.image_copy_timeout_s),
            ("max_vms_per_slot", self.max_vms_per_slot.into()),
        ];
        for (key, value) in at_least_one {
            ensure!(value > 0, Fault::System, "{key} = 0: must be at least 1");
        }
        let at_most = [
            ("boot_timeout_s", self.boot_timeout_s, MOST_SECONDS),
            ("full_boot_timeout_s", self.full_boot_timeout_s, MOST_SECONDS),
            ("silence_timeout_s", self.silence_timeout_s, MOST_SECONDS),
            ("kvm_timeout_s", self.kvm_timeout_s, MOST_SECONDS),
            ("image_copy_timeout_s", self.image_copy_timeout_s, MOST_SECONDS),
            ("default_memory_mib", self.default_memory_mib, MOST_MIB),
            ("memory_overhead_mib", self.memory_overhead_mib, MOST_MIB),
            ("memory_overhead_per_gib_mib", self.memory_overhead_per_gib_mib, MOST_MIB),
            ("microvm_memory_mib", self.microvm_memory_mib, MOST_MIB),
            ("image_cache_mib", self.image_cache_mib, MOST_MIB),
            ("template_cache_mib", self.template_cache_mib, MOST_MIB),
        ];
        for (key, value, most) in at_most {
            ensure!(value <= most, Fault::System, "{key} = {value}: at most {most}");
        }
        ensure!(
            self.max_vms_per_slot <= MAX_VMS_PER_SLOT,
            Fault::System,
            "max_vms_per_slot = {}: at most {MAX_VMS_PER_SLOT}",
            self.max_vms_per_slot
        );
        ensure!(
            self.vm_scopes.contains(&self.vm_scope),
            Fault::System,
            "vm_scope = \"{}\": it is not among vm_scopes, which are allowed",
            self.vm_scope.word()
        );
        ensure!(
            self.default_network == Network::None || self.allowed_networks.contains(&self.default_network),
            Fault::System,
            "default_network = {:?}: not in 'allowed_networks'",
            self.default_network.as_str()
        );
        // Root's hook makes it before anybody reads this file.
        ensure!(
            self.default_network != Network::Job,
            Fault::System,
            "default_network = \"job\": 'none' or 'user' is needed; SPANK_VM_NET=job in the users' environment is a default too"
        );
        ensure!(self.job_network_port > 0, Fault::System, "job_network_port = 0: a UDP port is needed");
        self.confinement().check().blame(Fault::System)?;
        for dir in &self.image_dirs {
            check_pattern(dir).blame(Fault::System)?;
        }
        ensure!(
            self.image_cache_dir.is_absolute(),
            Fault::System,
            "image_cache_dir = {:?}: an absolute path is needed",
            self.image_cache_dir
        );
        Ok(())
    }

    /// What has a VM, by what the user asks for and this site prefers.
    ///
    /// # Errors
    /// The site does not allow it, or options contradict each other.
    pub fn scope(&self, asked: &Asked) -> Result<Scope, RunError> {
        asked.check().blame(Fault::User)?;
        let scope = asked.scope(self.vm_scope);
        let allowed = self.vm_scopes.iter().map(|scope| scope.word()).collect::<Vec<_>>().join(", ");
        let is_allowed = self.vm_scopes.contains(&scope);
        ensure!(is_allowed, Fault::User, "--vm-scope={}: this site allows {allowed} ('vm_scopes')", scope.word());
        Ok(scope)
    }

    /// What QEMU's process can open.
    pub fn confinement(&self) -> Confinement<'_> {
        Confinement { how: self.confine_qemu, dirs: &self.qemu_dirs }
    }

    /// The directory for copies of images on this node.
    pub fn image_cache_dir(&self) -> PathBuf {
        layout::on_node(&self.image_cache_dir, &layout::this_node())
    }

    /// The catalogue as the user of this process sees it.
    pub fn catalogue(&self) -> Catalogue {
        Catalogue::of(&self.image_dirs, Person::of_process(), self.user_images)
    }

    /// The QEMU binary's path.
    ///
    /// # Errors
    /// When it does not exist; the text says how to get it.
    pub fn qemu_path(&self) -> Result<PathBuf, RunError> {
        program::find(&self.qemu).ok_or_else(|| {
            let qemu = self.qemu.display();
            let why = format!("no QEMU at '{qemu}': install qemu-system-x86 or set 'qemu' in the configuration");
            RunError::new(Fault::Node, why)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let error = format!("{:#}", Config::parse("kit = '/k'\nimage_dir = ['/x']\n").unwrap_err());
        assert_eq!(error, "line 2: there is no key 'image_dir'; did you mean 'image_dirs'?");
    }

    #[test]
    fn values_out_of_range_name_the_key() {
        for text in [
            "boot_timeout_s = 0",
            "max_vms_per_slot = 65",
            "max_vms_per_slot = 0",
            "vm_scope = 'task'",
            "vm_scopes = ['node']",
            "accel = 'xen'",
            "cpu_model = 'a b'",
            "confine_qemu = 'yes'",
            "qemu_dirs = ['/']",
        ] {
            let error = format!("{:#}", Config::parse(text).unwrap_err());
            let named = error.contains(text.split(' ').next().unwrap()) || error.contains("xen");
            assert!(named, "{error}");
        }
    }

    #[test]
    fn no_number_is_too_large_for_the_arithmetic() {
        for key in [
            "boot_timeout_s",
            "full_boot_timeout_s",
            "silence_timeout_s",
            "kvm_timeout_s",
            "image_copy_timeout_s",
            "default_memory_mib",
            "memory_overhead_mib",
            "memory_overhead_per_gib_mib",
            "microvm_memory_mib",
            "image_cache_mib",
            "template_cache_mib",
        ] {
            let error = Config::parse(&format!("{key} = {}", i64::MAX)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{key} = {}: at most 10", i64::MAX)), "{error}");
        }
    }

    #[test]
    fn the_sample_configuration_is_valid_and_shows_the_defaults() {
        let sample = include_str!("../../../slurm-conf/spank-vm.toml");
        assert_eq!(Config::parse(sample).unwrap(), Config::default());
    }
}
