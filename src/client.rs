//! In srun, sbatch and salloc: defaults, submit-time checks, and the placeholder command.

use super::error::Error;
use super::imagecheck::{self, Verdict};
use super::interactive;
use super::plugin::Plugin;
use super::variables::{
    COMMAND_ENV, COMPONENTS_ENV, IMAGE_DIR_ENV, JOB_IMAGE_ENV, MPI_ENV, MULTI_PROG_ENV, VERBOSE_ENV,
};
use super::{component, mpi, multiprog};
use crate::spank::{Context, Host, Level};
use request::{IMAGE, ImageRef, OPTIONS, STEP_PROGRAM, VmRequest};
use std::env;
use std::ffi::{OsStr, OsString, c_int};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a submission waits for the check of its image. The nodes check again, so a slow file
/// system on the login node does not prevent a submission.
const CHECK_TIME: Duration = Duration::from_secs(10);

/// Start of a client: turns the users' default variables into those Slurm itself reads, right after
/// this hook. Slurm then does the rest: the command line overrides them, nodes and inner srun get
/// them. Returns true if the user asks only for the catalogue.
pub fn start(plugin: &mut Plugin, host: &mut dyn Host) -> bool {
    if !matches!(host.context(), Context::Srun | Context::Allocator) {
        return false;
    }
    for option in &OPTIONS {
        let Some(default) = host.own_env(&option.default_variable()).filter(|value| !value.is_empty()) else {
            continue;
        };
        let variable = option.slurm_variable();
        // An enclosing sbatch or salloc has already decided.
        if host.own_env(&variable).is_none() {
            host.set_own_env(&variable, &default);
        }
    }
    resolve_inherited_image(host);
    // Later srun sets it too, to the site's default. And a step passes its own interface on, which may be that as well.
    plugin.mpi = host.own_env(mpi::TYPE_ENV).filter(|_| host.own_env("SLURM_STEP_ID").is_none());
    plugin.image_of_job = interactive::take_image_of_shell(host);
    if host.own_env(COMPONENTS_ENV).is_some() {
        // It belongs to the step in which this client was started, and nobody removed it.
        host.set_own_env(COMPONENTS_ENV, OsStr::new(""));
    }
    // sbatch reads its script, if necessary from the terminal, before it looks at plugin options.
    env::args_os().skip(1).eq(["--vm-image=list"])
}

/// A relative path from the environment starts in the directory of the outer submission, or else in the current
/// one. After this call a path that is still relative can only come from the command line or the script.
fn resolve_inherited_image(host: &mut dyn Host) {
    let variable = OPTIONS[IMAGE].slurm_variable();
    let inherited = host.own_env(&variable).and_then(|value| value.to_str()?.parse::<ImageRef>().ok());
    let Some(image) = inherited.filter(|image| image.relative_path().is_some()) else { return };
    let dir = host.own_env(IMAGE_DIR_ENV).map(PathBuf::from).or_else(|| env::current_dir().ok());
    if let Some(dir) = dir {
        host.set_own_env(&variable, OsStr::new(image.seen_from(&dir).as_str()));
    }
}

/// All options are known.
///
/// # Errors
/// What the user has to change.
pub fn check_options(plugin: &mut Plugin, host: &mut dyn Host) -> Result<(), Error> {
    // No value has come since then, so this component has none: Slurm calls this hook once per component.
    plugin.begin_component();
    if let Some(image) = &plugin.image_of_job {
        interactive::return_image(host, image);
    }
    plugin.forget_inherited(host);
    plugin.given.refuse_strays(|name| host.own_env(name))?;
    let mut vms = plugin.given.vms()?;
    if let Some(vms) = &mut vms {
        if vms.image.relative_path().is_some() {
            let dir = env::current_dir().map_err(|source| Error::NoWorkDir { path: vms.image.to_string(), source })?;
            host.set_own_env(IMAGE_DIR_ENV, dir.as_os_str());
            vms.image = vms.image.clone().seen_from(&dir);
        }
        check_image(plugin, host, vms)?;
    }
    plugin.complete = true;
    remember_for_job(plugin, host)?;
    plugin.add_component(host, vms)
}

/// A job that asked for a VM says so in a second variable, whose name differs from those that Slurm makes for options.
/// If a step within the job no longer finds the first variable, this one shows that the user did not ask for the host.
fn remember_for_job(plugin: &Plugin, host: &mut dyn Host) -> Result<(), Error> {
    let image = &plugin.given.values()[IMAGE];
    let of_job = host.own_env(JOB_IMAGE_ENV).filter(|image| !image.is_empty());
    if host.context() == Context::Allocator {
        let image = image.clone().filter(|_| plugin.given.wants_vm()).unwrap_or_default();
        if of_job.is_some() || !image.is_empty() {
            host.set_own_env(JOB_IMAGE_ENV, image.as_ref());
        }
        return Ok(());
    }
    match of_job {
        Some(of_job) if image.is_none() && host.own_env("SLURM_JOB_ID").is_some() => {
            Err(Error::ForgottenByJob(of_job.to_string_lossy().into_owned()))
        }
        _ => Ok(()),
    }
}

fn check_image(plugin: &mut Plugin, host: &dyn Host, vms: &VmRequest) -> Result<(), Error> {
    let image = &vms.image;
    let save = vms.asked.vm_save.as_ref().map(|save| format!("--save={save}"));
    let words: Vec<&str> = ["image", "check", image.as_str()].into_iter().chain(save.as_deref()).collect();
    let asked = words.join(" ");
    if plugin.checked.as_deref() == Some(&asked) {
        return Ok(());
    }
    let args = plugin.args()?;
    let words = with_config(&words, args.config.as_deref());
    match imagecheck::run(&args.command_line(), &words, CHECK_TIME) {
        Verdict::Good => {}
        Verdict::Bad(why) => return Err(Error::ImageRefused(why)),
        // The nodes check it. A login node does not need QEMU and images.
        Verdict::NoProgram(error) => {
            host.log(Level::Admin, &format!("image '{image}' not checked: {}: {error}", args.command_line().display()));
        }
        Verdict::TooSlow => host.log(
            Level::Note,
            &format!("could not check image '{image}' within {} s; the node will", CHECK_TIME.as_secs()),
        ),
    }
    plugin.checked = Some(asked);
    Ok(())
}

/// srun is about to send the step: makes sure that a node without this plugin does not run the
/// command on the bare host. Such a node gets a command that does not exist; a node with the plugin
/// puts the real one back.
///
/// # Errors
/// When Slurm refuses, the command cannot be hidden, or VMs lack the step's interface for MPI.
pub fn hide_command(plugin: &mut Plugin, host: &mut dyn Host) -> Result<(), Error> {
    if !plugin.wants_vm() {
        return plugin.image_of_job.as_deref().map_or(Ok(()), |image| interactive::must_be_shell(host, image));
    }
    if host.is_verbose() {
        host.set_own_env(VERBOSE_ENV, OsStr::new("1"));
    }
    let argv = host.argv()?;
    let own = host.command_line();
    if let Some(kind) = mpi::asked(&own, &argv, plugin.mpi.clone()) {
        mpi::refusal(&kind, plugin.most_vms()).map_or(Ok(()), |why| Err(Error::Mpi(why)))?;
        host.set_own_env(MPI_ENV, OsStr::new("1"));
    }
    if plugin.are_hidden() {
        return component::verify(&plugin.components, &argv);
    }
    let Some(command) = argv.first() else {
        return Ok(());
    };
    if is_multi_prog(&argv) {
        host.set_own_env(MULTI_PROG_ENV, OsStr::new("1"));
        host.set_arg(1, &multiprog::hidden(&argv[1]))?;
        return Ok(());
    }
    // Otherwise it is a command that the plugin could not hide.
    if !argv[1..].iter().all(|word| own.contains(word)) {
        return Err(Error::OpenCommand);
    }
    host.set_own_env(COMMAND_ENV, command);
    host.set_arg(0, OsStr::new(STEP_PROGRAM))?;
    Ok(())
}

/// With `--multi-prog` srun puts the text of the file `argv[0]` behind it (`_load_multi`), and each
/// node takes its tasks' commands from that text: `argv[0]` means nothing.
fn is_multi_prog(argv: &[OsString]) -> bool {
    let [file, text, ..] = argv else { return false };
    // An ordinary command can be gigabytes long, and a pipe can be read only once.
    let may_be = fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.len() == text.len() as u64);
    !text.is_empty() && may_be && fs::read(file).is_ok_and(|content| content == text.as_bytes())
}

/// Shows the catalogue on the client's own standard output. Returns the status to exit with.
///
/// # Errors
/// When that program cannot be run.
pub fn list_images(command: Result<(OsString, Vec<OsString>), Error>) -> Result<c_int, Error> {
    let (program, words) = command?;
    let status = Command::new(&program)
        .args(words)
        .status()
        .map_err(|source| Error::NoProgram { path: program.into(), source })?;
    Ok(status.code().unwrap_or(1))
}

impl Plugin {
    /// The program that shows the catalogue, with its arguments.
    pub(super) fn list_command(&self) -> Result<(OsString, Vec<OsString>), Error> {
        let args = self.args()?;
        Ok((args.command_line().into(), with_config(&["image", "list"], args.config.as_deref())))
    }
}

/// Status of a client that fails; users may have chosen one (srun(1), SLURM_EXIT_ERROR).
pub fn error_status(host: &dyn Host) -> c_int {
    let chosen = host.own_env("SLURM_EXIT_ERROR").and_then(|value| value.to_str()?.parse().ok());
    chosen.filter(|&status| status != 0).unwrap_or(1)
}

/// scrontab takes plugin options and then loses them: it never calls `spank_init_post_opt`.
pub fn is_scrontab() -> bool {
    env::current_exe().is_ok_and(|path| path.file_name() == Some(OsStr::new("scrontab")))
}

fn with_config(words: &[&str], config: Option<&Path>) -> Vec<OsString> {
    let mut words: Vec<OsString> = words.iter().map(OsString::from).collect();
    if let Some(config) = config {
        words.push("--config".into());
        words.push(config.into());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spank::testing::FakeHost;
    use std::io::Write;

    /// A plugin whose `spank-vm` is this shell script.
    fn plugin(script: &str) -> (tempfile::TempDir, Plugin) {
        let dir = tempfile::tempdir().unwrap();
        node::testing::program(&dir.path().join("spank-vm"), &format!("#!/bin/sh\n{script}\n")).unwrap();
        let mut libexec = OsString::from("libexec=");
        libexec.push(dir.path());
        (dir, Plugin::new(&[libexec, "config=/site.toml".into()]))
    }

    #[test]
    fn a_default_in_the_environment_becomes_the_variable_slurm_reads() {
        let mut host = FakeHost::new(Context::Allocator);
        host.own_env.insert("SPANK_VM_IMAGE".into(), "debian12".into());
        host.own_env.insert("SPANK_VMS_PER_SLOT".into(), "".into());
        start(&mut Plugin::new(&[]), &mut host);
        assert_eq!(host.own_env[&OPTIONS[IMAGE].slurm_variable()], "debian12");
        assert_eq!(host.own_env.len(), 3, "an empty default is no default: {:?}", host.own_env);
    }

    #[test]
    fn the_choice_of_an_enclosing_job_beats_the_default() {
        let mut host = FakeHost::new(Context::Srun);
        host.own_env.insert("SPANK_VM_IMAGE".into(), "debian12".into());
        host.own_env.insert(OPTIONS[IMAGE].slurm_variable(), "none".into());
        start(&mut Plugin::new(&[]), &mut host);
        assert_eq!(host.own_env[&OPTIONS[IMAGE].slurm_variable()], "none");
    }

    #[test]
    fn a_relative_path_starts_where_it_was_written() {
        let variable = OPTIONS[IMAGE].slurm_variable();
        let here = env::current_dir().unwrap();
        let mut host = FakeHost::new(Context::Allocator);
        host.own_env.insert("SPANK_VM_IMAGE".into(), "./my.qcow2".into());
        start(&mut Plugin::new(&[]), &mut host);
        assert_eq!(host.own_env[&variable], here.join("my.qcow2"), "a default starts here");
        host.own_env.insert(variable.clone(), "./my.qcow2".into());
        host.own_env.insert(IMAGE_DIR_ENV.into(), "/of/salloc".into());
        start(&mut Plugin::new(&[]), &mut host);
        assert_eq!(host.own_env[&variable], "/of/salloc/my.qcow2", "an inherited one where the job was submitted");

        let (_dir, mut plugin) = plugin(&format!("[ \"$3\" = {}/my.qcow2 ]", here.display()));
        plugin.given.set(IMAGE, Some("./my.qcow2"));
        check_options(&mut plugin, &mut host).unwrap();
        assert_eq!(host.own_env[IMAGE_DIR_ENV], here.as_os_str(), "one from the command line here");
    }

    #[test]
    fn slurmstepd_takes_no_defaults_from_the_daemon_s_environment() {
        let mut host = FakeHost::new(Context::Stepd);
        host.own_env.insert("SPANK_VM_IMAGE".into(), "debian12".into());
        start(&mut Plugin::new(&[]), &mut host);
        assert_eq!(host.own_env.len(), 1);
    }

    #[test]
    fn a_good_image_passes_and_the_program_got_the_site_s_configuration() {
        let (_dir, mut plugin) = plugin(r#"[ "$*" = "image check debian12 --config /site.toml" ]"#);
        plugin.given.set(IMAGE, Some("debian12"));
        let mut host = FakeHost::new(Context::Srun);
        check_options(&mut plugin, &mut host).unwrap();
        assert_eq!(host.lines.into_inner(), []);
    }

    #[test]
    fn an_unknown_image_is_refused_in_the_words_of_the_program() {
        let (_dir, mut plugin) = plugin("echo \"no image '$3'; did you mean 'debian12'?\" >&2; exit 1");
        plugin.given.set(IMAGE, Some("debain12"));
        let error = check_options(&mut plugin, &mut FakeHost::new(Context::Srun)).unwrap_err();
        assert_eq!(error.to_string(), "no image 'debain12'; did you mean 'debian12'?");
    }

    #[test]
    fn a_submit_host_without_the_program_leaves_the_check_to_the_node() {
        let mut plugin = Plugin::new(&["libexec=/nonexistent".into()]);
        plugin.given.set(IMAGE, Some("debian12"));
        let mut host = FakeHost::new(Context::Allocator);
        check_options(&mut plugin, &mut host).unwrap();
        let lines = host.lines.borrow();
        assert!(matches!(&lines[..], [(Level::Admin, line)] if line.contains("/nonexistent/spank-vm")), "{lines:?}");
    }

    #[test]
    fn wrong_arguments_in_plugstack_hurt_vm_jobs_only() {
        let mut plugin = Plugin::new(&["colour=red".into()]);
        let mut host = FakeHost::new(Context::Allocator);
        check_options(&mut plugin, &mut host).unwrap();
        plugin.take(IMAGE, Some("debian12"));
        let error = check_options(&mut plugin, &mut host).unwrap_err().to_string();
        assert!(error.contains("colour=red"), "{error}");
    }

    #[test]
    fn srun_sends_a_placeholder_for_the_command_of_a_vm_step_only() {
        let mut host = FakeHost::new(Context::Srun);
        let mut plugin = Plugin::new(&[]);
        hide_command(&mut plugin, &mut host).unwrap();
        assert_eq!((host.command().as_str(), host.own_env.len()), ("sleep 1", 0));
        plugin.given.set(IMAGE, Some("debian12"));
        hide_command(&mut plugin, &mut host).unwrap();
        assert_eq!(host.command(), "spank-vm-step 1");
        assert_eq!(host.own_env[COMMAND_ENV], "sleep");
        assert!(!host.own_env.contains_key(VERBOSE_ENV));
        host.verbose = true;
        hide_command(&mut plugin, &mut host).unwrap();
        assert_eq!(host.own_env[VERBOSE_ENV], "1");
    }

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn an_mpi_interface_that_vms_do_not_have_is_refused_before_the_step_is_sent() {
        let mut host = FakeHost::new(Context::Srun);
        host.command_line = words("srun --mpi=cray_shasta sleep 1");
        let mut plugin = Plugin::new(&[]);
        hide_command(&mut plugin, &mut host).unwrap();
        plugin.take(IMAGE, Some("debian12"));
        let error = hide_command(&mut plugin, &mut host).unwrap_err().to_string();
        assert!(error.starts_with("--mpi=cray_shasta with --vm-image: "), "{error}");
        assert_eq!(host.command(), "sleep 1");
        host.command_line = words("srun sleep 1");
        let (_dir, mut plugin) = self::plugin("true");
        host.own_env.insert(mpi::TYPE_ENV.into(), "cray_shasta".into());
        start(&mut plugin, &mut host);
        plugin.take(IMAGE, Some("debian12"));
        check_options(&mut plugin, &mut host).unwrap();
        // srun sets it before it sends the step.
        host.own_env.insert("SLURM_STEP_ID".into(), "0".into());
        assert!(hide_command(&mut plugin, &mut host).is_err());
        // An outer step's interface, which may be the site's default, is no wish for the inner one.
        let (_dir, mut plugin) = self::plugin("true");
        start(&mut plugin, &mut host);
        plugin.take(IMAGE, Some("debian12"));
        check_options(&mut plugin, &mut host).unwrap();
        hide_command(&mut plugin, &mut host).unwrap();
        assert_eq!(host.command(), "spank-vm-step 1");
        // Nor is the site's default, which srun puts there when it knows its options.
        let (_dir, mut plugin) = self::plugin("true");
        let mut host = FakeHost::new(Context::Srun);
        start(&mut plugin, &mut host);
        host.own_env.insert(mpi::TYPE_ENV.into(), "cray_shasta".into());
        plugin.take(IMAGE, Some("debian12"));
        check_options(&mut plugin, &mut host).unwrap();
        hide_command(&mut plugin, &mut host).unwrap();
        assert!(!host.own_env.contains_key(MPI_ENV));
    }

    #[test]
    fn the_interface_that_vms_have_is_sent_unless_a_task_has_several() {
        for (vms, refusal) in [(None, None), (Some("1"), None), (Some("3"), Some("--mpi=pmi2 with --vms-per-slot=3: "))]
        {
            let mut host = FakeHost::new(Context::Srun);
            host.command_line = words("srun --mpi=pmi2 sleep 1");
            let (_dir, mut plugin) = self::plugin("true");
            plugin.take(IMAGE, Some("debian12"));
            if vms.is_some() {
                plugin.take(OPTIONS.iter().position(|row| row.about.name == "vms-per-slot").unwrap(), vms);
            }
            check_options(&mut plugin, &mut host).unwrap();
            let error = hide_command(&mut plugin, &mut host).err().map(|error| error.to_string());
            assert_eq!(
                error.as_ref().map(|error| error.starts_with(refusal.unwrap_or("?"))),
                refusal.map(|_| true),
                "{error:?}"
            );
            assert_eq!(host.command() == "sleep 1", refusal.is_some());
            assert_eq!(host.own_env.contains_key(MPI_ENV), refusal.is_none());
        }
    }

    #[test]
    fn a_multi_prog_step_is_marked_instead() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"0 hostname\n1 sleep 1\n").unwrap();
        let mut host = FakeHost::new(Context::Srun);
        host.argv = vec![file.path().into(), "0 hostname\n1 sleep 1\n".into()];
        let mut plugin = Plugin::new(&[]);
        plugin.given.set(IMAGE, Some("debian12"));
        hide_command(&mut plugin, &mut host).unwrap();
        assert_eq!(
            host.argv,
            [file.path().as_os_str(), OsStr::new("0 spank-vm-step hostname\n1 spank-vm-step sleep 1\n")]
        );
        assert_eq!(host.own_env[MULTI_PROG_ENV], "1");
    }

    #[test]
    fn a_command_line_that_is_not_the_user_s_is_not_sent() {
        let mut host = FakeHost::new(Context::Srun);
        // As of --multi-prog with a file that can be read only once.
        host.argv = vec!["/dev/fd/63".into(), "0 hostname\n".into()];
        let mut plugin = Plugin::new(&[]);
        hide_command(&mut plugin, &mut host).unwrap();
        plugin.given.set(IMAGE, Some("debian12"));
        assert!(matches!(hide_command(&mut plugin, &mut host), Err(Error::OpenCommand)));
    }

    #[test]
    fn a_failing_client_exits_as_the_user_chose() {
        let mut host = FakeHost::new(Context::Srun);
        assert_eq!(error_status(&host), 1);
        for (value, status) in [("7", 7), ("0", 1), ("x", 1)] {
            host.own_env.insert("SLURM_EXIT_ERROR".into(), value.into());
            assert_eq!(error_status(&host), status);
        }
    }

    #[test]
    fn a_command_is_not_read_to_see_whether_it_is_a_list_of_programs() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let (sender, answer) = std::sync::mpsc::channel();
        let argv = [pipe.into_os_string(), "0 hostname\n".into()];
        // Reading this pipe would take for ever.
        std::thread::spawn(move || sender.send(is_multi_prog(&argv)));
        assert_eq!(answer.recv_timeout(Duration::from_secs(20)), Ok(false));
    }
}
