//! What an option is.

use crate::error::RequestError;

/// An option: what it is called, what users read about it, and how its value is written.
pub trait VmOption {
    /// Name and texts.
    const ABOUT: About;

    /// What a good value means.
    type Value;

    /// Reads a value as a user writes it; an option without an argument is given as an empty text.
    ///
    /// # Errors
    /// One line that names the option, the value and what is allowed.
    fn parse(text: &str) -> Result<Self::Value, RequestError>;

    /// The text that [`VmOption::parse`] reads back as this value. In this form it is sent to the runner.
    fn text(value: &Self::Value) -> String;
}

/// What an option is called and what users read about it.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// Name in srun, sbatch and salloc, without the dashes; in the request too.
    pub name: &'static str,
    /// The word after `=` in help texts; `None` for an option that takes no value.
    pub argument: Option<&'static str>,
    /// The value is a list with commas, to which `spank-vm run` adds when the option is given again.
    pub is_list: bool,
    /// The help of srun, sbatch and salloc: begins with "[vm] ". Slurm breaks its lines.
    pub help: &'static str,
    /// The row of README.md, as Markdown.
    pub readme: &'static str,
    /// Name in `spank-vm run`, which takes [`About::name`] too.
    pub run_name: &'static str,
    /// The help of `spank-vm run`.
    pub run_help: &'static str,
}
