//! `spank-vm image`: the catalogue from the command line.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;

use crate::config::Config;
use crate::image::{Catalogue, ImportOptions, import};
use crate::notice;
use crate::request::ImageName;
use crate::runner::{InstallOptions, install_agent};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List all images with their descriptions
    List,
    /// Say whether an image can be used, by the exit code and one line
    Check {
        /// Name of the image
        name: ImageName,
    },
    /// Show what is known of an image
    Show {
        /// Name of the image
        name: ImageName,
    },
    /// Make an image from a tar archive of a root file system
    Import {
        /// The archive, uncompressed; '-' reads standard input
        archive: PathBuf,
        /// Name of the new image
        #[arg(long)]
        name: ImageName,
        /// Directory for disk and entry [default: the first of 'image_dirs']
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
    /// Put the agent into an image that boots its own kernel and init (boot = "full")
    InstallAgent {
        /// Name of the image, whose disk is raw or qcow2
        name: ImageName,
        /// Partition that holds the root, where there are several systems
        #[arg(long, value_name = "N")]
        partition: Option<u32>,
        /// Take a kernel that cannot mount host directories (9p)
        #[arg(long)]
        without_shares: bool,
    },
    /// Remove an image; VMs that run from it are not harmed
    Remove {
        /// Name of the image
        name: ImageName,
    },
}

/// Carries out `command`.
pub fn run(config: &Config, command: Command) -> anyhow::Result<()> {
    let catalogue = Catalogue::new(&config.image_dirs);
    match command {
        Command::List => list(&catalogue),
        Command::Check { name } => {
            catalogue.find(&name)?.open_disk()?;
            Ok(())
        }
        Command::Show { name } => {
            let image = catalogue.find(&name)?;
            let size = image.open_disk()?.metadata()?.len();
            print(&format!(
                "name = {name}\nentry = {}\ndisk_path = {}\ndisk_bytes = {size}\n{}",
                image.entry_path.display(),
                image.disk.display(),
                toml::to_string(&image.entry)?
            ))
        }
        Command::Import { archive, name, dir, description, append, replace } => {
            let dir = match dir.or_else(|| config.image_dirs.first().cloned()) {
                Some(dir) => dir,
                None => anyhow::bail!("no directory for the image: 'image_dirs' is empty and --dir was not given"),
            };
            let options = ImportOptions { name, dir, description, append, replace };
            let image = import(&mut *open(&archive)?, &options)?;
            print(&format!("image '{}' is ready: {}\n", image.name, image.disk.display()))
        }
        Command::InstallAgent { name, partition, without_shares } => {
            let image = catalogue.find(&name)?;
            let installed = install_agent(config, &image, InstallOptions { partition, without_shares })?;
            for warning in &installed.warnings {
                notice::line(&format!("warning: {warning}"));
            }
            print(&format!(
                "image '{name}' boots its own kernel {} with the agent as a service of {}: {}\n\
                 the disk without it stays for the jobs that use it: {}\n",
                installed.kernel,
                installed.init,
                installed.disk.display(),
                image.disk.display()
            ))
        }
        Command::Remove { name } => {
            let image = catalogue.find(&name)?;
            std::fs::remove_file(&image.entry_path).with_context(|| image.entry_path.display().to_string())?;
            // Only a disk that lies beside its entry came with it.
            if image.disk.parent() == image.entry_path.parent() {
                std::fs::remove_file(&image.disk).with_context(|| image.disk.display().to_string())?;
            }
            Ok(())
        }
    }
}

fn open(archive: &Path) -> anyhow::Result<Box<dyn Read>> {
    if archive == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    Ok(Box::new(File::open(archive).with_context(|| archive.display().to_string())?))
}

fn list(catalogue: &Catalogue<'_>) -> anyhow::Result<()> {
    let images = catalogue.list()?;
    if images.is_empty() {
        return print("no images yet: 'spank-vm image import' makes one\n");
    }
    let mut text = String::new();
    for image in images {
        match image {
            Ok(image) => text.push_str(&format!("{:<20} {}\n", image.name.as_str(), image.entry.description)),
            Err(error) => text.push_str(&format!("{:<20} {error}\n", "(broken)")),
        }
    }
    print(&text)
}

/// Writes to stdout; a reader that left (`| head`) is not an error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("stdout"),
    }
}
