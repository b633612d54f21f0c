//! `spank-vm image`: the catalogue from the command line.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;

use super::output::{complain, print};
use super::working_dir::from_here;
use super::{catalogue, image_build, optimise};
use image::import::disk::Disk;
use image::import::import_path;
use image::{ImportOptions, Imported, NewImage, clean_up_on_signals, import};
use proto::ExitStatus;
use qemu::HelperDisk;
use request::{ImageName, ImageRef, SaveSpec, VmMem, VmOption, VmSave};
use runner::config::Config;
use runner::helper;
use runner::notice;
use runner::{InstallOptions, Installed, image_of_disk, install_agent};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List all images: size, where they come from, whether you can use them
    List,
    /// Say whether you can use an image, by the exit code and one line
    Check {
        /// Name of the image, or path
        image: ImageRef,
        /// Say too whether a new image can be made there
        #[arg(long, value_name = VmSave::ABOUT.argument)]
        save: Option<SaveSpec>,
    },
    /// Show what is known of an image, of its disk and of its copy on this node
    Show {
        /// Name of the image, or path
        image: ImageRef,
    },
    /// Compare an image's disk, and its copies on this node, with the digest in its entry
    Verify {
        /// Name of the image, or path
        image: ImageRef,
    },
    /// Copy images to this node before a job needs them: as root for everybody, else for yourself
    Fetch {
        /// Names of the images, or paths
        #[arg(required_unless_present = "all")]
        images: Vec<ImageRef>,
        /// All images of the site
        #[arg(long, conflicts_with = "images")]
        all: bool,
    },
    /// Make an image from an archive, a directory, a container image or a disk
    ///
    /// Taken are tar archives of a root file system (also gz, xz, zst, bz2), directories, OCI layouts and archives,
    /// 'docker save' archives, sif files, and disks with ext2/3/4, xfs, btrfs, squashfs or erofs: raw, qcow2, vdi, vmdk, ova.
    /// What a file is shows by its content.
    Import {
        /// What to make it from; '-' reads an archive from standard input
        source: PathBuf,
        /// Name of the new image
        #[arg(long)]
        name: ImageName,
        /// Directory for disk and entry [default: root's is the site's, the first of 'image_dirs'; a user's the first
        /// with '~' or '%u']
        #[arg(long)]
        dir: Option<PathBuf>,
        /// One line for people
        #[arg(long, default_value = "")]
        description: String,
        /// More words for the guest kernel's command line, such as 'vsyscall=emulate'
        #[arg(long, default_value = "", allow_hyphen_values = true)]
        append: String,
        /// Replace an image of that name
        #[arg(long)]
        replace: bool,
        /// Most that the files of the image may take, with K, M, G or T
        #[arg(long, value_name = "SIZE", default_value = "64G", value_parser = size)]
        max_size: u64,
        /// Of a disk with several systems, the number of the partition with the root
        #[arg(long, value_name = "N", value_parser = optimise::partition())]
        partition: Option<u32>,
        /// Of a btrfs with several systems, the subvolume with the root
        #[arg(long, value_name = "NAME")]
        subvolume: Option<String>,
    },
    /// Put the agent into an image that boots its own kernel and init (boot = "full")
    InstallAgent {
        /// Name of an image, or a disk file (raw or qcow2) that --name makes an image of
        #[arg(value_name = "NAME|DISK")]
        target: PathBuf,
        /// Name of the new image made of a disk file
        #[arg(long)]
        name: Option<ImageName>,
        /// Directory for the new image [default: root's is the site's, the first of 'image_dirs'; a user's the first
        /// with '~' or '%u']
        #[arg(long, requires = "name")]
        dir: Option<PathBuf>,
        /// One line for people about the new image
        #[arg(long, requires = "name", default_value = "")]
        description: String,
        /// Partition that holds the root, where there are several systems
        #[arg(long, value_name = "N", value_parser = optimise::partition())]
        partition: Option<u32>,
        /// Btrfs subvolume that holds the root, where there are several systems
        #[arg(long, value_name = "NAME")]
        subvolume: Option<String>,
        /// Take a kernel that cannot mount host directories (no FUSE)
        #[arg(long)]
        without_shares: bool,
    },
    /// Make an image from another: run a script as root in a VM and save that VM
    Build(image_build::Arguments),
    /// Leave out what VMs of an image never use, and compare the start times
    ///
    /// Of an image for kit boots: kernels, modules, firmware, caches; the rest is packed anew. With boot = "full": firmware and
    /// caches, and units of systemd are masked that wait for what a VM does not have.
    Optimise(optimise::Arguments),
    /// Remove an image of yours; VMs that run from it are not harmed
    Remove {
        /// Name of the image, or path of its entry
        image: ImageRef,
    },
}

/// Carries out `command`.
pub fn run(config: &Config, command: Command) -> anyhow::Result<ExitStatus> {
    if let Command::Build(arguments) = command {
        return Ok(image_build::run(config, arguments));
    }
    manage(config, command).map(|()| ExitStatus::Code(0))
}

fn manage(config: &Config, command: Command) -> anyhow::Result<()> {
    match command {
        // It has exit codes of its own.
        Command::Build(_) => Ok(()),
        Command::Optimise(arguments) => optimise::run(config, &arguments),
        Command::List => catalogue::list(config),
        Command::Check { image, save } => {
            catalogue::check(config, &from_here(image)?)?;
            if let Some(save) = save {
                NewImage::find(&save, &config.catalogue()).with_context(|| format!("--vm-save={save}"))?;
            }
            Ok(())
        }
        Command::Show { image } => catalogue::show(config, &from_here(image)?),
        Command::Verify { image } => catalogue::verify(config, &from_here(image)?),
        Command::Fetch { images, all } => {
            let images = images.into_iter().map(from_here).collect::<anyhow::Result<Vec<_>>>()?;
            catalogue::fetch_all(config, &images, all)
        }
        Command::Remove { image } => catalogue::remove(config, &from_here(image)?),
        Command::Import { source, name, dir, description, append, replace, max_size, partition, subvolume } => {
            let dir = image_dir(config, dir)?;
            let (inherits, arch) = (None, None);
            let options =
                ImportOptions { name, dir, description, append, replace, inherits, arch, max_bytes: max_size };
            import_source(config, &source, &options, &Place { partition, subvolume })
        }
        Command::InstallAgent { target, name, dir, description, partition, subvolume, without_shares } => {
            let image = match name {
                Some(name) => image_of_disk(&target, name, &image_dir(config, dir)?, description)?,
                None => config.catalogue().resolve(&catalogued(&target)?.into())?,
            };
            let installed = install_agent(config, &image, InstallOptions { partition, subvolume, without_shares })?;
            for warning in &installed.warnings {
                notice::line(&format!("warning: {warning}"));
            }
            let Installed { kernel, init, disk, .. } = installed;
            let (name, disk, old) = (&image.name, disk.display(), image.disk.display());
            print(&format!(
                "image '{name}' boots its own kernel {kernel}, with the agent as a service of {init}: {disk}\n\
                 the disk without the agent is still there: {old}\n"
            ))
        }
    }
}

/// Where on a disk the root is, if the user says so.
struct Place {
    partition: Option<u32>,
    subvolume: Option<String>,
}

/// Where a new image goes.
fn image_dir(config: &Config, wanted: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let dir = wanted.or_else(|| config.catalogue().dir_for_new().map(Path::to_owned));
    dir.context("no directory for your image among 'image_dirs', and --dir was not given")
}

/// The name of an image in the catalogue; a file needs `--name`.
fn catalogued(target: &Path) -> anyhow::Result<ImageName> {
    let name = target.to_str().unwrap_or_default();
    if name.contains('/') {
        anyhow::bail!("{name} is in no catalogue yet: --name gives the image that is made of it a name");
    }
    Ok(name.parse()?)
}

fn import_source(config: &Config, source: &Path, options: &ImportOptions, place: &Place) -> anyhow::Result<()> {
    clean_up_on_signals()?;
    let imported = if source == Path::new("-") {
        import(&mut io::stdin().lock(), options)?
    } else {
        import_path(source, options, &mut |disk, max_bytes, out| export_disk(config, &disk, place, max_bytes, out))?
    };
    for note in &imported.notes {
        complain(&format!("note: {note}"));
    }
    let Imported { image, .. } = imported;
    print(&format!("image '{}' is ready: {}\n", image.name, image.disk.display()))
}

/// Reads a disk where it can do no harm: in a VM of the boot kit.
fn export_disk(config: &Config, disk: &Disk, place: &Place, max_bytes: u64, out: File) -> anyhow::Result<Vec<String>> {
    let (file, part) = disk.open()?;
    let disk = HelperDisk { serial: "source".to_owned(), file, format: disk.format, part, writable: false };
    let (limit, number) = (max_bytes.to_string(), place.partition.unwrap_or(0).to_string());
    let mut arguments = vec!["disk", "export", "source", "--limit", &limit, "--partition", &number];
    if let Some(name) = &place.subvolume {
        arguments.extend(["--subvolume", name]);
    }
    Ok(helper::run(config, vec![disk], &arguments, out.as_fd())?.warnings()?)
}

/// Reads a size in bytes as Slurm writes sizes: in MiB or with a unit.
fn size(text: &str) -> Result<u64, String> {
    let mib = VmMem::parse(text).map_err(|_| "a size is needed, in MiB or with K, M, G or T behind it".to_owned())?;
    mib.checked_mul(1 << 20).ok_or_else(|| "that is too much".to_owned())
}
