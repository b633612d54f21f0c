//! `spank-vm template`: the booted guests on this node from which VMs are cloned.

use std::time::SystemTime;

use anyhow::{bail, ensure};
use clap::Subcommand;
use nix::unistd::{Uid, User};
use node::shelf::{Shelf, Stored, TemplateDir};

use super::catalogue::{for_each, that_run_here};
use super::output::{print, print_line};
use request::{ImageName, Network, VmCpus, VmMem, VmOption};
use runner::config::Config;
use runner::prebuild;
use runner::template::Template;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the templates on this node that you may see
    List,
    /// Make templates before a job needs them: as root for everybody, else for yourself
    Build {
        /// Images
        #[arg(required_unless_present = "all")]
        images: Vec<ImageName>,
        /// All images of the catalogue
        #[arg(long, conflicts_with = "images")]
        all: bool,
        /// Processors per VM: one template serves up to the next power of two
        #[arg(long, value_name = "N", value_parser = VmCpus::parse, default_value = "1")]
        vm_cpus: u32,
        /// Memory per VM: one template serves from 256 MiB to 8 GiB, others each doubling above; small VMs with KVM have one more
        #[arg(long, value_name = "SIZE", value_parser = VmMem::parse, default_value = "512")]
        vm_mem: u64,
        /// For VMs with a network (--vm-net) [default: as the site's default_network]
        #[arg(long)]
        net: bool,
    },
    /// Compare every file of your templates with its digest; what is damaged is removed
    Verify,
    /// Remove templates; VMs that run are not affected
    Remove {
        /// Images
        #[arg(required_unless_present = "all")]
        images: Vec<ImageName>,
        /// The templates of all images
        #[arg(long, conflicts_with = "images")]
        all: bool,
    },
}

/// Carries out `command`.
pub fn run(config: &Config, command: Command) -> anyhow::Result<()> {
    match command {
        Command::List => list(config),
        Command::Build { images, all, vm_cpus, vm_mem, net } => {
            match runner::useless_for_users(config)? {
                // The unit at boot says --all on every node, and this node is in order.
                Some(why) if all => return print_line(&format!("no templates made: {why}")),
                Some(why) => bail!("{why}"),
                None => {}
            }
            let catalogue = config.catalogue();
            let images = if all { that_run_here(&catalogue, catalogue.names()?)? } else { images };
            let net = net || config.default_network != Network::None;
            for_each(&images, all, "without a template", |image| {
                for made in prebuild(config, image, vm_mem, vm_cpus, net)? {
                    let took = made.template.manifest.made_in_ms as f64 / 1e3;
                    let what =
                        if made.existed { "was there already".to_owned() } else { format!("made in {took:.1} s") };
                    print(&format!("{image}: {what}; {}\n", made.template.manifest.hardware))?;
                }
                Ok(())
            })
        }
        Command::Verify => verify(config),
        Command::Remove { images, all } => {
            let mut count = 0;
            for (template, _) in own(config) {
                let named = images.iter().any(|image| image.as_str() == template.manifest.image);
                if all || named {
                    template.remove()?;
                    count += 1;
                }
            }
            ensure!(all || count > 0, "no template of yours is of such an image ('spank-vm template list' shows all)");
            print(&format!("removed {count}\n"))
        }
    }
}

fn list(config: &Config) -> anyhow::Result<()> {
    let mut text = format!("{:<10} {:<16} {:>8} {:>10}  {}\n", "OWNER", "IMAGE", "MIB", "USED", "HARDWARE");
    for shelf in Shelf::<TemplateDir>::all(&config.template_dir) {
        for Stored { name, bytes, used, .. } in shelf.list() {
            let Ok(template) = Template::look(&shelf, &name) else { continue };
            let ago = SystemTime::now().duration_since(used).unwrap_or_default().as_secs();
            let used = match ago {
                0..120 => format!("{ago} s ago"),
                120..7200 => format!("{} m ago", ago / 60),
                _ => format!("{} h ago", ago / 3600),
            };
            let (owner, manifest) = (owner(&shelf), &template.manifest);
            text +=
                &format!("{owner:<10} {:<16} {:>8} {used:>10}  {}\n", manifest.image, bytes >> 20, manifest.hardware);
        }
    }
    print(&text)
}

fn owner(shelf: &Shelf<TemplateDir>) -> String {
    if shelf.is_site() {
        return "(site)".to_owned();
    }
    let user = User::from_uid(Uid::from_raw(shelf.owner)).ok().flatten();
    user.map_or_else(|| shelf.owner.to_string(), |user| user.name)
}

/// The templates that this process may change, and the disk space each uses, in bytes.
fn own(config: &Config) -> impl Iterator<Item = (Template, u64)> {
    let me = Uid::effective();
    let mine = Shelf::<TemplateDir>::all(&config.template_dir).into_iter();
    mine.filter(move |shelf| me.is_root() || shelf.owner == me.as_raw()).flat_map(|shelf| {
        let items = shelf.list().into_iter();
        items.filter_map(move |item| Some((Template::look(&shelf, &item.name).ok()?, item.bytes)))
    })
}

fn verify(config: &Config) -> anyhow::Result<()> {
    let mut damaged = 0;
    for (template, bytes) in own(config) {
        let verdict = match template.verify() {
            Ok(()) => format!("ok, {} MiB", bytes >> 20),
            Err(error) => {
                damaged += 1;
                template.remove()?;
                format!("DAMAGED and removed: {error:#}")
            }
        };
        print_line(&format!("{}: {verdict}", template.manifest.image))?;
    }
    if damaged > 0 {
        bail!("{damaged} damaged; the next VM of the image makes a new one");
    }
    Ok(())
}
