//! What a clone of a template is started with.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::source;
use crate::delivery::Disk;
use crate::error::{Context, RunError};
use crate::template::Template;
use qemu::{Confinement, Files, Host, QemuProcess, Shape, Start, TemplateFds, Written, scratch};

/// A template, opened for one clone.
#[derive(Debug)]
pub(super) struct Cloning<'a> {
    template: &'a Template,
    shape: Shape,
    fds: TemplateFds,
    /// Kept until QEMU has it.
    state: File,
}

impl<'a> Cloning<'a> {
    /// Opens it, and makes the clone's private disk in `scratch_dir`. With the files that QEMU gets.
    ///
    /// # Errors
    /// When descriptors run out, or the disk cannot be made.
    pub(super) fn open(
        (shape, template): (Shape, &'a Template),
        disk: &Disk,
        scratch_dir: &Path,
    ) -> Result<(Self, Files), RunError> {
        let image = disk.file().try_clone().context("the image's disk")?;
        let opened = template.files().context("the template's files")?;
        let (ram, state) = (opened.ram.as_raw_fd(), opened.state.as_raw_fd());
        let fds = TemplateFds { ram, state, abilities: template.abilities() };
        let scratch = scratch::create(template.scratch(), scratch_dir).map_err(source::blame_disk)?;
        let state = opened.state.try_clone()?;
        let files = Files { image: Some(image), scratch: Some(scratch), template: Some(opened), ..Files::default() };
        Ok((Self { template, shape, fds, state }, files))
    }

    /// How QEMU starts.
    pub(super) fn start(&self) -> Start {
        Start::Clone(self.shape, self.fds)
    }

    /// What a QEMU of such a clone must know about this process and the VM's file server.
    pub(super) fn host<'b>(&self, file_server: Option<u32>, confinement: Confinement<'b>) -> Host<'b> {
        Host { file_server, small_pages: self.shape.pluggable_mib == 0, ..source::host(confinement) }
    }

    /// Has QEMU load the state, after a copy of the pages that are known to be written; `locate` is how much of the guest's memory
    /// is to be found.
    pub(super) fn load(&self, process: &mut QemuProcess, written: Option<Written>, locate: Option<u64>) {
        process.load(self.fds.abilities.state_uri(&self.state), written, locate);
    }

    /// The template.
    pub(super) fn template(&self) -> &'a Template {
        self.template
    }

    /// Its class of VMs.
    pub(super) fn shape(&self) -> Shape {
        self.shape
    }
}
