//! Progress of an import: a bar on a terminal, otherwise nothing.

use std::io::{self, Read};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that every part of an import may draw on.
#[derive(Debug, Clone)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Nothing is known yet. Without a terminal on stderr nothing is ever drawn.
    pub fn begin() -> Self {
        let bar = ProgressBar::no_length();
        bar.set_style(style("{spinner} {msg} {bytes}"));
        Self(bar)
    }

    /// No bar: nobody wants to see it.
    pub fn none() -> Self {
        Self(ProgressBar::hidden())
    }

    /// For a step of unknown length: the bar moves by itself.
    pub fn wait(&self, what: &'static str) {
        self.0.set_style(style("{spinner} {msg} {elapsed}"));
        self.0.set_message(what);
        self.0.enable_steady_tick(Duration::from_millis(200));
    }

    /// The next step reads so many bytes of an archive.
    pub fn read(&self, bytes: u64) {
        self.bar("reading", bytes);
    }

    /// The next step packs so many bytes.
    pub fn pack(&self, bytes: u64) {
        self.bar("packing", bytes);
    }

    fn bar(&self, what: &'static str, bytes: u64) {
        self.0.disable_steady_tick();
        self.0.set_style(style("{msg} {wide_bar} {percent}% of {total_bytes}"));
        self.0.set_message(what);
        self.0.set_position(0);
        self.0.set_length(bytes);
    }

    /// So many more bytes are done.
    pub fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// The same bytes, counted.
    pub fn counted<R: Read>(&self, content: R) -> Counted<R> {
        Counted { content, progress: self.clone() }
    }

    /// Removes the bar.
    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Content that moves the bar while it is read.
#[derive(Debug)]
pub struct Counted<R> {
    content: R,
    progress: Progress,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(buf)?;
        self.progress.add(read as u64);
        Ok(read)
    }
}
