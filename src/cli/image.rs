//! `spank-vm image`: the catalogue from the command line.

use std::env::consts::ARCH;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;

use super::build;
use crate::config::Config;
use crate::image::{ImportOptions, Links, NewImage, import};
use crate::proto::ExitStatus;
use crate::request::{ImageName, ImageRef, SaveSpec};

use super::catalogue;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List all images: size, where they come from, whether you can use them
    List,
    /// Say whether you can use an image, by the exit code and one line
    Check {
        /// Name of the image, or path
        image: ImageRef,
        /// Say too whether a new image can be made there
        #[arg(long, value_name = "NAME|/PATH[,replace]")]
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
    /// Make an image from a tar archive of a root file system
    Import {
        /// The archive, uncompressed; '-' reads standard input
        archive: PathBuf,
        /// Name of the new image
        #[arg(long)]
        name: ImageName,
        /// Directory for disk and entry [default: root's is the site's, the first of 'image_dirs'; a user's the first with '~' or '%u']
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
    },
    /// Make an image from another: run a script as root in a VM and save that VM
    Build(build::Arguments),
    /// Remove an image of yours; VMs that run from it are not harmed
    Remove {
        /// Name of the image, or path of its entry
        image: ImageRef,
    },
}

/// Carries out `command`.
pub fn run(config: &Config, command: Command) -> anyhow::Result<ExitStatus> {
    if let Command::Build(arguments) = command {
        return Ok(build::run(config, arguments));
    }
    manage(config, command).map(|()| ExitStatus::Code(0))
}

fn manage(config: &Config, command: Command) -> anyhow::Result<()> {
    match command {
        // It has exit codes of its own.
        Command::Build(_) => Ok(()),
        Command::List => catalogue::list(config),
        Command::Check { image, save } => {
            catalogue::check(config, &from_here(image)?)?;
            if let Some(save) = save {
                NewImage::find(&save, config.catalogue().dir_for_new()).with_context(|| format!("--vm-save={save}"))?;
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
        Command::Import { archive, name, dir, description, append, replace } => {
            let dir = match dir.or_else(|| config.catalogue().dir_for_new().map(Path::to_owned)) {
                Some(dir) => dir,
                None => anyhow::bail!("no directory for your image among 'image_dirs', and --dir was not given"),
            };
            let options = ImportOptions {
                name,
                dir,
                description,
                append,
                replace,
                links: Links::default(),
                arch: ARCH.to_owned(),
            };
            let image = import(&mut *open(&archive)?, &options)?;
            print(&format!("image '{}' is ready: {}\n", image.name, image.disk.display()))
        }
    }
}

/// A relative path starts in the working directory.
pub(super) fn from_here(image: ImageRef) -> anyhow::Result<ImageRef> {
    match image.relative_path() {
        Some(_) => Ok(image.seen_from(&std::env::current_dir().context("the working directory")?)),
        None => Ok(image),
    }
}

fn open(archive: &Path) -> anyhow::Result<Box<dyn Read>> {
    if archive == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    Ok(Box::new(File::open(archive).with_context(|| archive.display().to_string())?))
}

/// Writes to stdout; a reader that left (`| head`) is not an error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("stdout"),
    }
}
