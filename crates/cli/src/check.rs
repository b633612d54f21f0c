//! `spank-vm check`: every effective setting, and a test of everything this node needs.

mod slurm;

use std::process::Command;

use anyhow::Context;

use super::output::print;
use image::kit::Kit;
use image::{Image, ImageError};
use proto::ExitStatus;
use request::ImageName;
use runner::config::{AccelChoice, Config, Delivery, StartChoice};
use runner::delivery::Shelf;
use runner::{self, KvmTest, template::shelves};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Image to boot for the test of KVM [default: the first in the catalogue]
    #[arg(long)]
    image: Option<ImageName>,
    /// Test quickly what a VM cannot do without, and print what is missing and nothing else: for a Prolog or a health check
    #[arg(long, conflicts_with = "image")]
    node: bool,
}

/// One line of the report.
enum Finding {
    Good(String),
    /// Works, but not as well as it could; the text says what would lift it.
    Limited(String),
    Bad(String),
}

/// Prints the report; the exit code is 1 if anything is missing without which no VM starts.
pub fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<ExitStatus> {
    if arguments.node {
        return quick(config);
    }
    print(&settings(config))?;
    let findings = [
        ("plugin", slurm::plugin()),
        ("batch", slurm::batch()),
        ("qemu", qemu(config)),
        ("kit", kit(config)),
        ("images", images(config)),
        ("copies", copies(config)),
        ("scratch", scratch(config)),
        ("state", state(config)),
        ("templates", templates(config)),
        ("kvm", kvm(config, arguments.image.as_ref())),
    ];
    let mut worst = 0;
    for (name, finding) in findings {
        let (word, text) = match finding {
            Finding::Good(text) => ("ok", text),
            Finding::Limited(text) => ("limited", text),
            Finding::Bad(text) => {
                worst = 1;
                ("MISSING", text)
            }
        };
        print(&format!("{name:<9} {word:<8} {text}\n"))?;
    }
    Ok(ExitStatus::Code(worst))
}

/// What is missing on this node, in one line.
fn quick(config: &Config) -> anyhow::Result<ExitStatus> {
    let plugin = match slurm::plugin() {
        // Whoever asks wants to be sure.
        Finding::Limited(text) => Finding::Bad(text),
        finding => finding,
    };
    let findings = [plugin, qemu(config), kit(config), images(config), scratch(config), state(config)];
    let missing: Vec<String> = findings
        .into_iter()
        .filter_map(|finding| match finding {
            Finding::Bad(text) => Some(text),
            Finding::Good(_) | Finding::Limited(_) => None,
        })
        .collect();
    if missing.is_empty() {
        return Ok(ExitStatus::Code(0));
    }
    print(&format!("{}\n", missing.join("; ")))?;
    Ok(ExitStatus::Code(1))
}

fn settings(config: &Config) -> String {
    let Config {
        image_dirs,
        user_images,
        delivery,
        image_cache_dir,
        image_cache_mib,
        image_copy_timeout_s,
        kit,
        qemu,
        accel,
        machine,
        start,
        state_dir,
        template_dir,
        template_cache_mib,
        scratch_dir,
        default_memory_mib,
        memory_overhead_mib,
        max_vms_per_slot,
        boot_timeout_s,
        full_boot_timeout_s,
        silence_timeout_s,
        kvm_timeout_s,
        allow_root,
        share_home,
        shares,
    } = config;
    let shares: Vec<String> = shares.iter().map(ToString::to_string).collect();
    format!(
        "image_dirs = {image_dirs:?}\nuser_images = {user_images}\ndelivery = {:?}\n\
         image_cache_dir = {image_cache_dir:?}\nimage_cache_mib = {image_cache_mib}\n\
         image_copy_timeout_s = {image_copy_timeout_s}\nkit = {kit:?}\nqemu = {qemu:?}\naccel = {:?}\nmachine = {:?}\nstart = {:?}\n\
         state_dir = {state_dir:?}\ntemplate_dir = {template_dir:?}\ntemplate_cache_mib = {template_cache_mib}\n\
         scratch_dir = {scratch_dir:?}\ndefault_memory_mib = {default_memory_mib}\n\
         memory_overhead_mib = {memory_overhead_mib}\nmax_vms_per_slot = {max_vms_per_slot}\n\
         boot_timeout_s = {boot_timeout_s}\nfull_boot_timeout_s = {full_boot_timeout_s}\n\
         silence_timeout_s = {silence_timeout_s}\nkvm_timeout_s = {kvm_timeout_s}\nallow_root = {allow_root}\n\
         share_home = {share_home}\n\
         shares = {shares:?}\n\n",
        delivery.as_str(),
        format!("{accel:?}").to_lowercase(),
        format!("{machine:?}").to_lowercase(),
        format!("{start:?}").to_lowercase(),
    )
}

fn qemu(config: &Config) -> Finding {
    let version = config.qemu_path().map_err(anyhow::Error::from).and_then(|path| {
        let output = Command::new(&path).arg("--version").output().context(path.display().to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
        anyhow::ensure!(output.status.success(), "{} --version fails", path.display());
        Ok(format!("{}: {text}", path.display()))
    });
    version.map_or_else(|error| Finding::Bad(format!("{error:#}")), Finding::Good)
}

fn kit(config: &Config) -> Finding {
    match Kit::load(&config.kit) {
        Ok(kit) => Finding::Good(format!("{}: kernel {}", config.kit.display(), kit.kernel_release())),
        Err(error) => Finding::Bad(format!("{error:#}")),
    }
}

fn images(config: &Config) -> Finding {
    let catalogue = config.catalogue();
    let images = match catalogue.list() {
        Ok(images) => images,
        Err(error) => return Finding::Bad(error.to_string()),
    };
    let usable = images.into_iter().map(|image| image.and_then(|image| usable(&image).map(|()| image.name)));
    let (good, bad): (Vec<_>, Vec<_>) = usable.partition(Result::is_ok);
    let usable: Vec<String> = good.into_iter().flatten().map(|name| name.to_string()).collect();
    let dirs = catalogue.dirs().iter().filter(|dir| dir.path.is_dir());
    let dirs: Vec<String> = dirs.map(|dir| format!("{} ({})", dir.path.display(), dir.owner.as_str())).collect();
    let names = format!("{} in {}", usable.join(" "), dirs.join(", "));
    match bad.into_iter().find_map(Result::err) {
        Some(error) => Finding::Limited(format!("{names}; {error}")),
        None if usable.is_empty() => Finding::Bad("no images: 'spank-vm image import' makes one".to_owned()),
        None => Finding::Good(names),
    }
}

fn usable(image: &Image) -> Result<(), ImageError> {
    image.check_disk(&image.open_disk()?).map(drop)
}

/// Where copies of images are kept on this node.
fn copies(config: &Config) -> Finding {
    use std::os::unix::fs::MetadataExt;
    if config.delivery == Delivery::InPlace {
        return Finding::Good("delivery = 'in-place': VMs read images where they are".to_owned());
    }
    let dir = config.image_cache_dir();
    match std::fs::symlink_metadata(&dir) {
        Ok(meta) if meta.is_dir() && meta.uid() == 0 && meta.mode() & 0o022 == 0 => {
            let shelf = Shelf::for_process(&dir);
            let copies = shelf.list();
            let mib = copies.iter().map(|copy| copy.bytes).sum::<u64>() >> 20;
            let whose = if shelf.is_site() { "of the site" } else { "of this user" };
            let free =
                nix::sys::statvfs::statvfs(&dir).map_or(0, |at| at.blocks_available() * at.fragment_size()) >> 20;
            let text = format!("{}: {} {whose} with {mib} MiB, {free} MiB are free", dir.display(), copies.len());
            if free < 1024 {
                return Finding::Limited(format!("{text}: images that do not fit are read in place"));
            }
            Finding::Good(text)
        }
        Ok(_) => Finding::Limited(format!(
            "{} must be a directory that only root can write; VMs read images in place until then",
            dir.display()
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Finding::Good(format!("{}: made by the first VM step", dir.display()))
        }
        Err(error) => Finding::Limited(format!("{}: {error}; VMs read images in place", dir.display())),
    }
}

fn scratch(config: &Config) -> Finding {
    let try_in = |kit| runner::try_scratch(&kit, config).map_err(anyhow::Error::from);
    let tried = Kit::load(&config.kit).map_err(anyhow::Error::from).and_then(try_in);
    match tried {
        Ok(()) => Finding::Good(config.scratch_dir.display().to_string()),
        Err(error) => Finding::Bad(format!("{error:#}")),
    }
}

fn state(config: &Config) -> Finding {
    use std::os::unix::fs::MetadataExt;
    let dir = config.state_dir.display();
    match std::fs::symlink_metadata(&config.state_dir) {
        Ok(meta) if meta.is_dir() && meta.uid() == 0 && meta.mode() & 0o022 == 0 => Finding::Good(dir.to_string()),
        Ok(_) => Finding::Bad(format!("{dir} must be a directory that only root can write")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Finding::Good(format!("{dir}: made by the first VM step"))
        }
        Err(error) => Finding::Bad(format!("{dir}: {error}")),
    }
}

fn templates(config: &Config) -> Finding {
    use std::os::unix::fs::MetadataExt;
    if config.start == StartChoice::Boot {
        return Finding::Limited("start = 'boot': every VM boots".to_owned());
    }
    let dir = config.template_dir.display();
    match std::fs::symlink_metadata(&config.template_dir) {
        Ok(meta) if meta.is_dir() && meta.uid() == 0 && meta.mode() & 0o022 == 0 => {
            let all: Vec<u64> = shelves(&config.template_dir)
                .iter()
                .flat_map(|shelf| shelf.list())
                .map(|(_, bytes, _)| bytes)
                .collect();
            let mib = all.iter().sum::<u64>() >> 20;
            Finding::Good(format!("{dir}: {} with {mib} MiB that this user can see", all.len()))
        }
        Ok(_) => Finding::Limited(format!("{dir} must be a directory that only root can write; VMs boot until then")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Finding::Good(format!("{dir}: made by the first VM step"))
        }
        Err(error) => Finding::Limited(format!("{dir}: {error}; VMs boot")),
    }
}

fn kvm(config: &Config, image: Option<&ImageName>) -> Finding {
    if config.accel == AccelChoice::Tcg {
        return Finding::Limited("accel = 'tcg': guests are emulated, 10 to 50 times slower than with KVM".to_owned());
    }
    let name = match image.cloned().map(Ok).or_else(|| first_image(config)) {
        Some(Ok(name)) => name,
        Some(Err(error)) => return Finding::Limited(format!("not tried: {error}")),
        None => return Finding::Limited("not tried: there is no image to boot".to_owned()),
    };
    match runner::try_kvm(config, &name) {
        Ok(KvmTest::Runs(took)) => {
            let booted = format!("image '{name}' booted in {:.2} s", took.as_secs_f64());
            match runner::limits_of_users() {
                None => Finding::Good(booted),
                Some(limits) => Finding::Limited(format!("{booted}, but {limits}")),
            }
        }
        Ok(KvmTest::Broken) => Finding::Limited(format!(
            "/dev/kvm does not run guests, they are emulated: image '{name}' did not come up with KVM, and did without"
        )),
        Ok(KvmTest::Unusable(why)) => Finding::Limited(format!("guests are emulated: {why}")),
        Ok(KvmTest::Unknown) => {
            Finding::Limited(format!("nothing is known of it: image '{name}' comes up neither with KVM nor without"))
        }
        Err(error) => Finding::Limited(format!("not tried: {error:#}")),
    }
}

fn first_image(config: &Config) -> Option<Result<ImageName, image::ImageError>> {
    match config.catalogue().names() {
        Ok(names) => names.into_iter().next().map(Ok),
        Err(error) => Some(Err(error)),
    }
}
