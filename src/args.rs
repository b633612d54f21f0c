//! Arguments of the plugin's line in plugstack.conf.

use node::layout;
use request::STEP_PROGRAM;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// Where the plugin finds its programs and directories on the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    /// Directory of the programs.
    pub libexec: PathBuf,
    /// Site configuration, when it is not the default one. The plugin never reads it.
    pub config: Option<PathBuf>,
    /// Parent of the tasks' private directories.
    pub state_dir: PathBuf,
    /// Root's directory for templates.
    pub template_dir: PathBuf,
    /// Root's directory for copies of images; `%n` in it is the node's name.
    pub image_cache_dir: PathBuf,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            libexec: layout::DEFAULT_LIBEXEC.into(),
            config: None,
            state_dir: layout::DEFAULT_STATE_DIR.into(),
            template_dir: layout::DEFAULT_TEMPLATE_DIR.into(),
            image_cache_dir: layout::DEFAULT_IMAGE_CACHE_DIR.into(),
        }
    }
}

impl Args {
    /// Reads `key=value` words.
    ///
    /// # Errors
    /// For a key that is not known and for a value that is not an absolute path.
    pub fn parse(words: &[OsString]) -> Result<Self, ArgsError> {
        let mut args = Self::default();
        for word in words {
            let refused = || ArgsError(word.to_string_lossy().into_owned());
            let (key, path) = word.to_str().and_then(|word| word.split_once('=')).ok_or_else(refused)?;
            if !path.starts_with('/') {
                return Err(refused());
            }
            match key {
                "libexec" => args.libexec = path.into(),
                "config" => args.config = Some(path.into()),
                "state_dir" => args.state_dir = path.into(),
                "template_dir" => args.template_dir = path.into(),
                "image_cache_dir" => args.image_cache_dir = path.into(),
                _ => return Err(refused()),
            }
        }
        Ok(args)
    }

    /// The program that a task of a VM step executes.
    pub fn step_program(&self) -> PathBuf {
        self.libexec.join(STEP_PROGRAM)
    }

    /// The command line.
    pub fn command_line(&self) -> PathBuf {
        self.libexec.join("spank-vm")
    }
}

/// A word in plugstack.conf that the plugin does not understand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgsError(String);

impl fmt::Display for ArgsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "plugstack.conf: wrong argument '{}' of spank_vm.so; it takes libexec=DIR, config=FILE, state_dir=DIR, \
             template_dir=DIR and image_cache_dir=DIR with absolute paths",
            self.0
        )
    }
}

impl std::error::Error for ArgsError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Args, ArgsError> {
        Args::parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn without_arguments_everything_is_at_its_usual_place() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.step_program(), PathBuf::from("/usr/libexec/spank-vm/spank-vm-step"));
        assert_eq!(args.state_dir, PathBuf::from("/run/spank-vm"));
        assert_eq!(args.config, None);
    }

    #[test]
    fn each_place_can_be_moved() {
        let args =
            parse(&["libexec=/a", "config=/b=c", "state_dir=/d/", "template_dir=/t", "image_cache_dir=/i/%n"]).unwrap();
        let (config, state_dir) = (Some("/b=c".into()), "/d/".into());
        let (template_dir, image_cache_dir) = ("/t".into(), "/i/%n".into());
        assert_eq!(args, Args { libexec: "/a".into(), config, state_dir, template_dir, image_cache_dir });
    }

    #[test]
    fn a_wrong_argument_is_named_together_with_the_right_ones() {
        for bad in ["libexce=/a", "libexec", "libexec=", "libexec=a", "=", ""] {
            let error = parse(&[bad]).unwrap_err().to_string();
            assert!(error.contains(&format!("'{bad}'")) && error.contains("state_dir=DIR"), "{error}");
        }
    }
}
