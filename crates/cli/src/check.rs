//! `spank-vm check`: every effective setting, and a test of everything this node needs.

mod caches;
mod finding;
mod patience;
mod slurm;

use std::process::Command;

use anyhow::Context;

use self::finding::Finding;
use super::output::{print, print_line};
use image::kit::Kit;
use image::{Image, ImageError};
use proto::ExitStatus;
use request::ImageName;
use runner::config::{AccelChoice, Config};
use runner::error::{Fault, RunError};
use runner::{self, KvmTest};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Image to boot for the test of KVM [default: the first in the catalogue]
    #[arg(long)]
    image: Option<ImageName>,
    /// Test quickly what a VM cannot do without, and print what is missing and nothing else: for a Prolog or a health check
    #[arg(long, conflicts_with = "image")]
    node: bool,
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
        ("processor", processor(config)),
        ("kit", kit(config)),
        ("images", images(config)),
        ("copies", caches::copies(config)),
        ("scratch", scratch(config)),
        ("state", caches::state(config)),
        ("templates", caches::templates(config)),
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
        print_line(&format!("{name:<9} {word:<8} {text}"))?;
    }
    Ok(ExitStatus::Code(worst))
}

/// What is missing on this node, in one line.
fn quick(config: &Config) -> anyhow::Result<ExitStatus> {
    let plugin = match slurm::plugin() {
        // A node check must be sure: what could not be found out counts as a failure.
        Finding::Limited(text) => Finding::Bad(text),
        finding => finding,
    };
    let findings =
        [plugin, qemu(config), processor(config), kit(config), images(config), scratch(config), caches::state(config)];
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
    print_line(&missing.join("; "))?;
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
        cpu_model,
        machine,
        start,
        state_dir,
        template_dir,
        template_cache_mib,
        scratch_dir,
        default_memory_mib,
        memory_overhead_mib,
        memory_overhead_per_gib_mib,
        max_vms_per_slot,
        boot_timeout_s,
        full_boot_timeout_s,
        silence_timeout_s,
        kvm_timeout_s,
        allow_root,
        share_home,
        file_transport,
        shares,
    } = config;
    let shares: Vec<String> = shares.iter().map(ToString::to_string).collect();
    format!(
        "image_dirs = {image_dirs:?}\nuser_images = {user_images}\ndelivery = {:?}\n\
         image_cache_dir = {image_cache_dir:?}\nimage_cache_mib = {image_cache_mib}\n\
         image_copy_timeout_s = {image_copy_timeout_s}\nkit = {kit:?}\nqemu = {qemu:?}\naccel = {:?}\n\
         cpu_model = \"{cpu_model}\"\nmachine = {:?}\nstart = {:?}\n\
         state_dir = {state_dir:?}\ntemplate_dir = {template_dir:?}\ntemplate_cache_mib = {template_cache_mib}\n\
         scratch_dir = {scratch_dir:?}\ndefault_memory_mib = {default_memory_mib}\n\
         memory_overhead_mib = {memory_overhead_mib}\n\
         memory_overhead_per_gib_mib = {memory_overhead_per_gib_mib}\nmax_vms_per_slot = {max_vms_per_slot}\n\
         boot_timeout_s = {boot_timeout_s}\nfull_boot_timeout_s = {full_boot_timeout_s}\n\
         silence_timeout_s = {silence_timeout_s}\nkvm_timeout_s = {kvm_timeout_s}\nallow_root = {allow_root}\n\
         share_home = {share_home}\nfile_transport = {:?}\n\
         shares = {shares:?}\n\n",
        delivery.as_str(),
        format!("{accel:?}").to_lowercase(),
        format!("{machine:?}").to_lowercase(),
        format!("{start:?}").to_lowercase(),
        file_transport.as_str(),
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

/// That of the site's configuration; without a QEMU there is nothing to say of it.
fn processor(config: &Config) -> Finding {
    let model = &config.cpu_model;
    match config.qemu_path().map(|_| runner::try_processor(config)) {
        Ok(Err(error)) => Finding::Bad(format!("{error:#}")),
        Ok(Ok(())) if model.is_default() => Finding::Good("what the node has".to_owned()),
        Ok(Ok(())) => Finding::Good(format!("cpu_model = '{model}'")),
        Err(_) => Finding::Limited("not tried: there is no QEMU".to_owned()),
    }
}

fn kit(config: &Config) -> Finding {
    match Kit::load(&config.kit) {
        Ok(kit) => Finding::Good(format!("{}: kernel {}", config.kit.display(), kit.kernel_release())),
        Err(error) => Finding::Bad(format!("{error:#}")),
    }
}

fn images(config: &Config) -> Finding {
    let config = config.clone();
    patience::in_time(move || look_at_images(&config))
        .unwrap_or_else(|why| Finding::Limited(format!("the directories of images: {why}")))
}

fn look_at_images(config: &Config) -> Finding {
    let catalogue = config.catalogue();
    let images = match catalogue.list() {
        Ok(images) => images,
        Err(error) if patience::is_the_servers(&error) => return Finding::Limited(error.to_string()),
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

fn scratch(config: &Config) -> Finding {
    let try_in = |kit| runner::try_scratch(&kit, config).map_err(anyhow::Error::from);
    let tried = Kit::load(&config.kit).map_err(anyhow::Error::from).and_then(try_in);
    match tried {
        Ok(()) => Finding::Good(config.scratch_dir.display().to_string()),
        // It is full, which users bring about.
        Err(error) if error.downcast_ref().is_some_and(|error: &RunError| error.fault() == Fault::User) => {
            Finding::Limited(format!("{error:#}"))
        }
        Err(error) => Finding::Bad(format!("{error:#}")),
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
