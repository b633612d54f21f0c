//! In slurmstepd: the task of a VM step becomes `spank-vm-step`.
//!
//! The plugin rewrites the command line and leaves the start to slurmstepd, so that TaskProlog, CPU
//! binding, limits and the task's cgroup apply to the virtual machine as to any command. A plain
//! execve in the hook would skip them.

#![forbid(unsafe_code)]

use super::error::Error;
use super::options::{IMAGE, TABLE};
use super::{COMMAND_ENV, MULTI_PROG_ENV, Plugin, VERBOSE_ENV, state_dir, template_dir};
use crate::request::{REQUEST_ENV, STEP_PROGRAM};
use crate::spank::{Host, Level, SpankError, Step, is_executable};
use std::ffi::OsString;
use std::path::Path;

/// As root: makes the task's private directory. What goes wrong is said in [`task_init`].
pub fn task_init_privileged(plugin: &mut Plugin, host: &mut dyn Host) {
    match make_state_dir(plugin, host) {
        Ok(()) => {}
        Err(error) => plugin.parked = Some(error),
    }
}

fn make_state_dir(plugin: &mut Plugin, host: &mut dyn Host) -> Result<(), Error> {
    let step = host.step()?;
    adopt_lost_options(plugin, host, step)?;
    if plugin.wish.vms()?.is_none() || step == Step::Extern {
        return Ok(());
    }
    let path = state_dir::path(&plugin.args()?.state_dir, host.job_id()?, step, host.task_id()?);
    let owner = host.owner()?;
    state_dir::create(&path, owner).map_err(|source| Error::StateDir { path: path.clone(), source })?;
    plugin.state_dir = Some(path);
    // Without it every VM boots: slower, not wrong.
    if let Err(error) = template_dir::ensure(&plugin.args()?.template_dir, owner) {
        host.log(Level::Admin, &format!("no directory for templates: {error}"));
    }
    Ok(())
}

/// As the user, last before execve: turns the task into the step program.
///
/// # Errors
/// Everything that keeps a VM step from starting, including what was kept from earlier hooks. Never
/// for a bare-metal step.
pub fn task_init(plugin: &mut Plugin, host: &mut dyn Host) -> Result<(), Error> {
    match become_step(plugin, host) {
        Err(Error::Slurm(error)) if !plugin.wish.wants_vm() => {
            host.log(Level::Admin, &error.to_string());
            Ok(())
        }
        result => result,
    }
}

fn become_step(plugin: &mut Plugin, host: &mut dyn Host) -> Result<(), Error> {
    let step = host.step()?;
    if step == Step::Extern {
        return Ok(());
    }
    adopt_lost_options(plugin, host, step)?;
    let sent = take_job_env(host, COMMAND_ENV)?;
    let multi_prog = take_job_env(host, MULTI_PROG_ENV)?.is_some();
    let verbose = take_job_env(host, VERBOSE_ENV)?.is_some();
    let argv = host.argv()?;
    let replaced = !multi_prog && argv.first().is_some_and(|word| word == STEP_PROGRAM);
    let Some(mut request) = plugin.wish.vms()? else {
        return if replaced { Err(Error::LostOption) } else { Ok(()) };
    };
    if let Some(error) = plugin.parked.take() {
        return Err(error);
    }
    let args = plugin.args()?;
    let program = args.step_program();
    is_executable(&program).map_err(|source| Error::NoProgram { path: program.clone(), source })?;
    if multi_prog && !host.can_prepend_argv() {
        // There the tasks' command lines are out of reach and would run as they are.
        return Err(Error::MultiProg);
    }
    let command = if replaced { Some(sent.ok_or(Error::LostCommand)?) } else { argv.first().cloned() };

    request.verbose = verbose;
    request.batch_script = step == Step::Batch;
    request.memory_mib = task_memory(host)?;
    request.state_dir = plugin.state_dir.clone();
    request.config = args.config.clone();
    if !host.can_prepend_argv() {
        request.argv0 = command.clone();
    }
    host.set_job_env(REQUEST_ENV, request.to_string().as_ref())?;
    if host.can_prepend_argv() {
        if let (true, Some(command)) = (replaced, &command) {
            host.set_argv0(command)?;
        }
        host.prepend_argv(&[program.as_os_str()])?;
    } else {
        host.set_argv0(program.as_os_str())?;
    }
    Ok(())
}

/// As root, after the task's end: removes what a killed runner left.
pub fn task_exit(plugin: &mut Plugin, host: &mut dyn Host) {
    let path = sweeps(plugin, host).and_then(|args| match args {
        Some((parent, job, step)) => Ok(Some(state_dir::path(&parent, job, step, host.task_id()?))),
        None => Ok(None),
    });
    match path {
        Ok(Some(path)) => sweep(host, &path),
        Ok(None) => {}
        Err(error) => host.log(Level::Admin, &format!("not swept: {error}")),
    }
}

/// As root, after the step's end: likewise for all its tasks on this node, for those that were
/// never started or whose end was missed.
pub fn exit(plugin: &mut Plugin, host: &mut dyn Host) {
    let paths = sweeps(plugin, host).and_then(|args| {
        let Some((parent, job, step)) = args else { return Ok(Vec::new()) };
        (0..host.local_tasks()?)
            .map(|local| Ok(state_dir::path(&parent, job, step, host.global_task_id(local)?)))
            .collect()
    });
    match paths {
        Ok(paths) => paths.iter().for_each(|path| sweep(host, path)),
        Err(error) => host.log(Level::Admin, &format!("not swept: {error}")),
    }
}

type Swept = Option<(std::path::PathBuf, u32, Step)>;

/// Whether there is anything to sweep, and where. A bare-metal step costs nothing.
fn sweeps(plugin: &mut Plugin, host: &dyn Host) -> Result<Swept, SpankError> {
    let step = host.step()?;
    adopt_lost_options(plugin, host, step)?;
    match &plugin.args {
        Ok(args) if plugin.wish.wants_vm() && step != Step::Extern => {
            Ok(Some((args.state_dir.clone(), host.job_id()?, step)))
        }
        _ => Ok(None),
    }
}

/// A job must not fail because of what is left behind it.
fn sweep(host: &dyn Host, path: &Path) {
    if let Err(error) = state_dir::remove(path) {
        host.log(Level::Admin, &format!("cannot remove {}: {error}", path.display()));
    }
}

/// Memory of one task, when Slurm manages memory.
fn task_memory(host: &dyn Host) -> Result<Option<u64>, Error> {
    let (step, tasks) = (host.step_memory_mib()?, host.local_tasks()?);
    Ok((step > 0).then(|| step / u64::from(tasks.max(1))))
}

/// `sbatch --export=NONE` before Slurm 23.11 loses a plugin's options on the way to the batch
/// step, which would then run on the host. The variables for the srun inside do arrive.
fn adopt_lost_options(plugin: &mut Plugin, host: &dyn Host, step: Step) -> Result<(), SpankError> {
    if !matches!(step, Step::Batch | Step::Interactive) || plugin.wish.has(IMAGE) {
        return Ok(());
    }
    for (number, option) in TABLE.iter().enumerate() {
        if plugin.wish.has(number) {
            continue;
        }
        if let Some(value) = host.job_env(&option.slurm_variable())? {
            plugin.wish.set(number, Some(&value.to_string_lossy()));
        }
    }
    Ok(())
}

fn take_job_env(host: &mut dyn Host, name: &str) -> Result<Option<OsString>, SpankError> {
    let value = host.job_env(name)?;
    if value.is_some() {
        host.unset_job_env(name)?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::VmRequest;
    use crate::spank::Context;
    use crate::spank::testing::FakeHost;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    /// A node: the programs, and a state directory.
    struct Node {
        root: tempfile::TempDir,
        plugin: Plugin,
        host: FakeHost,
    }

    impl Node {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let program = root.path().join(STEP_PROGRAM);
            fs::write(&program, "").unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            let mut host = FakeHost::new(Context::Stepd);
            let meta = fs::metadata(root.path()).unwrap();
            host.owner = (meta.uid(), meta.gid());
            let place = root.path().display();
            let words = [("libexec", ""), ("state_dir", "/state"), ("template_dir", "/templates")];
            let plugin = Plugin::new(&words.map(|(key, below)| format!("{key}={place}{below}").into()));
            Self { root, plugin, host }
        }

        fn with_image(mut self) -> Self {
            self.plugin.wish.set(IMAGE, Some("debian12"));
            self
        }

        /// A Slurm that has spank_prepend_task_argv.
        fn with_prepend(mut self) -> Self {
            self.host.prepended = Some(Vec::new());
            self
        }

        fn sent_by_srun(mut self) -> Self {
            self.host.job_env.insert(COMMAND_ENV.into(), "sleep".into());
            self.host.argv[0] = STEP_PROGRAM.into();
            self
        }

        fn start(&mut self) -> Result<(), Error> {
            task_init_privileged(&mut self.plugin, &mut self.host);
            task_init(&mut self.plugin, &mut self.host)
        }

        fn request(&self) -> VmRequest {
            self.host.job_env[REQUEST_ENV].to_str().unwrap().parse().unwrap()
        }

        /// The command line with the programs' directory cut off.
        fn command(&self) -> String {
            self.host.command().replace(&format!("{}/", self.root.path().display()), "LIBEXEC/")
        }

        fn state_dirs(&self) -> Vec<String> {
            let Ok(entries) = fs::read_dir(self.root.path().join("state")) else { return Vec::new() };
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn a_bare_metal_step_is_left_alone() {
        let mut node = Node::new();
        node.start().unwrap();
        exit(&mut node.plugin, &mut node.host);
        assert_eq!((node.command().as_str(), node.host.job_env.len()), ("sleep 1", 0));
        assert_eq!(node.host.lines.into_inner(), []);
    }

    #[test]
    fn the_step_program_is_put_before_the_command() {
        let mut node = Node::new().with_image().with_prepend().sent_by_srun();
        node.start().unwrap();
        assert_eq!(node.command(), "LIBEXEC/spank-vm-step sleep 1");
        assert_eq!(node.request().argv0, None);
        assert!(!node.host.job_env.contains_key(COMMAND_ENV));
    }

    #[test]
    fn an_old_slurm_gets_it_in_the_command_s_place() {
        let mut node = Node::new().with_image().sent_by_srun();
        node.start().unwrap();
        assert_eq!(node.command(), "LIBEXEC/spank-vm-step 1");
        assert_eq!(node.request().argv0, Some("sleep".into()));
        assert!(!node.host.job_env.contains_key(COMMAND_ENV));
    }

    #[test]
    fn a_batch_script_is_marked_as_such() {
        let mut node = Node::new().with_image();
        node.host.step = Step::Batch;
        node.host.argv = vec!["/var/spool/slurmd/job00007/slurm_script".into(), "a".into()];
        node.start().unwrap();
        let request = node.request();
        assert!(request.batch_script);
        assert_eq!(request.argv0, Some("/var/spool/slurmd/job00007/slurm_script".into()));
        assert_eq!(node.state_dirs(), ["7.batch.0"]);
    }

    #[test]
    fn each_task_gets_its_share_of_the_memory_and_a_directory_of_its_own() {
        let mut node = Node::new().with_image();
        (node.host.memory_mib, node.host.local_tasks, node.host.task) = (4100, 4, 2);
        node.start().unwrap();
        let request = node.request();
        assert_eq!(request.memory_mib, Some(1025));
        assert_eq!(request.state_dir, Some(node.root.path().join("state/7.0.2")));
        task_exit(&mut node.plugin, &mut node.host);
        assert_eq!(node.state_dirs(), [""; 0]);
    }

    #[test]
    fn without_managed_memory_the_request_names_none() {
        let mut node = Node::new().with_image();
        node.start().unwrap();
        assert_eq!(node.request().memory_mib, None);
    }

    #[test]
    fn the_end_of_the_step_removes_the_directories_of_all_its_tasks_and_no_others() {
        let mut node = Node::new().with_image();
        node.host.local_tasks = 2;
        node.start().unwrap();
        let state = node.root.path().join("state");
        for name in ["7.0.1", "7.0.2", "7.1.0", "8.0.0"] {
            fs::create_dir_all(state.join(name).join("overlay")).unwrap();
        }
        exit(&mut node.plugin, &mut node.host);
        assert_eq!(node.state_dirs(), ["7.0.2", "7.1.0", "8.0.0"]);
        exit(&mut node.plugin, &mut node.host);
        assert_eq!(node.host.lines.into_inner(), []);
    }

    #[test]
    fn options_lost_by_export_none_are_found_again_in_the_batch_step() {
        let mut node = Node::new();
        node.host.step = Step::Batch;
        for (option, value) in TABLE.iter().zip(["debian12", "3"]) {
            node.host.job_env.insert(option.slurm_variable(), value.into());
        }
        node.start().unwrap();
        assert_eq!((node.request().image.as_str(), node.request().vms_per_slot), ("debian12", 3));
    }

    #[test]
    fn a_step_of_srun_does_not_take_options_from_its_environment() {
        let mut node = Node::new();
        node.host.job_env.insert(TABLE[IMAGE].slurm_variable(), "debian12".into());
        node.start().unwrap();
        assert_eq!(node.command(), "sleep 1");
    }

    #[test]
    fn an_option_that_did_arrive_is_not_overridden_from_the_environment() {
        let mut node = Node::new();
        node.host.step = Step::Batch;
        node.plugin.wish.set(IMAGE, Some("none"));
        node.host.job_env.insert(TABLE[IMAGE].slurm_variable(), "debian12".into());
        node.start().unwrap();
        assert_eq!(node.command(), "sleep 1");
    }

    #[test]
    fn the_placeholder_without_the_command_fails() {
        for node in [Node::new(), Node::new().with_prepend()] {
            let mut node = node.with_image().sent_by_srun();
            node.host.job_env.clear();
            assert!(matches!(node.start(), Err(Error::LostCommand)));
        }
    }

    #[test]
    fn the_placeholder_without_the_option_fails() {
        assert!(matches!(Node::new().sent_by_srun().start(), Err(Error::LostOption)));
    }

    #[test]
    fn a_command_that_bcast_put_in_the_placeholder_s_place_is_kept() {
        let mut node = Node::new().with_image().sent_by_srun();
        node.host.argv[0] = "/tmp/bcast".into();
        node.start().unwrap();
        assert_eq!(node.request().argv0, Some("/tmp/bcast".into()));
        assert!(!node.host.job_env.contains_key(COMMAND_ENV));
    }

    #[test]
    fn multi_prog_needs_a_slurm_that_can_prepend() {
        let mut node = Node::new().with_image();
        node.host.job_env.insert(MULTI_PROG_ENV.into(), "1".into());
        assert!(matches!(node.start(), Err(Error::MultiProg)));
        let mut node = Node::new().with_image().with_prepend();
        node.host.job_env.insert(MULTI_PROG_ENV.into(), "1".into());
        node.start().unwrap();
        assert_eq!(node.command(), "LIBEXEC/spank-vm-step sleep 1");
        assert!(!node.host.job_env.contains_key(MULTI_PROG_ENV));
    }

    #[test]
    fn a_node_without_the_step_program_says_which_file_is_missing() {
        let mut node = Node::new().with_image();
        fs::remove_file(node.root.path().join(STEP_PROGRAM)).unwrap();
        let error = node.start().unwrap_err().to_string();
        assert!(error.contains("/spank-vm-step: No such file or directory;"), "{error}");
        assert_eq!(node.command(), "sleep 1");
    }

    #[test]
    fn a_bad_value_or_a_bad_plugstack_stops_the_task() {
        let mut node = Node::new();
        node.plugin.wish.set(IMAGE, Some("../etc"));
        assert!(matches!(node.start(), Err(Error::Request(_))));
        let mut node = Node::new().with_image();
        node.plugin.args = super::super::args::Args::parse(&["x=1".into()]);
        assert!(matches!(node.start(), Err(Error::Args(_))));
    }

    #[test]
    fn what_went_wrong_as_root_is_said_by_the_task() {
        let mut node = Node::new().with_image();
        let state = node.root.path().join("state");
        fs::create_dir(&state).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
        let error = node.start().unwrap_err().to_string();
        assert!(error.contains("must belong to root"), "{error}");
    }

    #[test]
    fn the_extern_step_is_none_of_our_business() {
        let mut node = Node::new().with_image();
        node.host.step = Step::Extern;
        node.start().unwrap();
        assert_eq!((node.command().as_str(), node.state_dirs().len()), ("sleep 1", 0));
    }
}
