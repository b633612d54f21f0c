use super::*;
use crate::spank::Context;
use crate::spank::testing::FakeHost;
use request::VmRequest;
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
        // Users pass through it, as through /var.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = root.path().join(STEP_PROGRAM);
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut host = FakeHost::new(Context::Stepd);
        let meta = fs::metadata(root.path()).unwrap();
        host.owner = (meta.uid(), meta.gid());
        let place = root.path().display();
        let words = [
            ("libexec", ""),
            ("state_dir", "/state"),
            ("template_dir", "/templates"),
            ("image_cache_dir", "/images-%n"),
        ];
        let plugin = Plugin::new(&words.map(|(key, below)| format!("{key}={place}{below}").into()));
        Self { root, plugin, host }
    }

    fn with_image(mut self) -> Self {
        self.plugin.given.set(IMAGE, Some("debian12"));
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
    let status = fs::read_to_string(node.root.path().join("state/7.0.2/status.toml")).unwrap();
    let expected = format!("vms = 1\nuid = {}\nrunner = \"{}-", node.host.owner.0, std::process::id());
    assert!(status.starts_with("image = \"") && status.contains(&expected), "{status}");
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
    for (option, value) in OPTIONS.iter().zip(["debian12", "3"]) {
        node.host.job_env.insert(option.slurm_variable(), value.into());
    }
    node.start().unwrap();
    assert_eq!((node.request().image.as_str(), node.request().asked.vms()), ("debian12", 3));
}

#[test]
fn a_step_of_srun_does_not_take_options_from_its_environment() {
    let mut node = Node::new();
    node.host.job_env.insert(OPTIONS[IMAGE].slurm_variable(), "debian12".into());
    node.start().unwrap();
    assert_eq!(node.command(), "sleep 1");
}

#[test]
fn an_option_that_did_arrive_is_not_overridden_from_the_environment() {
    let mut node = Node::new();
    node.host.step = Step::Batch;
    node.plugin.given.set(IMAGE, Some("debian12"));
    node.host.job_env.insert(OPTIONS[IMAGE].slurm_variable(), "other".into());
    node.start().unwrap();
    assert_eq!(node.request().image.as_str(), "debian12");
}

#[test]
fn an_option_that_contradicts_the_environment_does_not_send_a_script_to_the_host() {
    for (variable, is_bare) in [("debian12", false), ("none", true)] {
        let mut node = Node::new();
        node.host.step = Step::Batch;
        node.plugin.given.set(IMAGE, Some("none"));
        node.host.job_env.insert(OPTIONS[IMAGE].slurm_variable(), variable.into());
        match node.start() {
            Ok(()) => assert!(is_bare && node.command() == "sleep 1"),
            Err(error) => assert!(!is_bare && matches!(error, Error::LostOption)),
        }
    }
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
fn the_request_says_whether_the_user_asked_for_mpi() {
    for asked in [true, false] {
        let mut node = Node::new().with_image();
        if asked {
            node.host.job_env.insert(MPI_ENV.into(), "1".into());
        }
        node.start().unwrap();
        assert_eq!(node.request().wants_mpi, asked);
        assert!(!node.host.job_env.contains_key(MPI_ENV));
    }
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
    node.plugin.given.set(IMAGE, Some("a;b"));
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

#[test]
fn a_relative_path_starts_in_the_directory_of_the_submission() {
    let mut node = Node::new();
    node.plugin.given.set(IMAGE, Some("../my.qcow2"));
    assert!(matches!(node.start(), Err(Error::LostImageDir(_))));
    node.host.job_env.insert(IMAGE_DIR_ENV.into(), "not/absolute".into());
    assert!(matches!(node.start(), Err(Error::LostImageDir(_))));
    node.host.job_env.insert(IMAGE_DIR_ENV.into(), "/home/ada/x".into());
    node.start().unwrap();
    assert_eq!(node.request().image.as_str(), "/home/ada/x/../my.qcow2");
    assert!(!node.host.job_env.contains_key(IMAGE_DIR_ENV));
}

#[test]
fn each_node_has_a_directory_for_copies_of_images_that_no_environment_leads_elsewhere() {
    for (pattern, address, name) in
        [("node", "n1", "n1"), ("switch.node", "s0.n1.example", "n1.example"), ("node", "../x", "")]
    {
        let mut node = Node::new().with_image();
        node.host.job_env.insert("SLURM_TOPOLOGY_ADDR_PATTERN".into(), pattern.into());
        node.host.job_env.insert("SLURM_TOPOLOGY_ADDR".into(), address.into());
        node.start().unwrap();
        let (root, request) = (node.root.path(), node.request());
        let dir = request.image_cache_dir.unwrap();
        assert_eq!(dir.parent(), Some(root), "{address}");
        if !name.is_empty() {
            assert_eq!(dir, root.join(format!("images-{name}")));
        }
        assert!(dir.join("users").join(node.host.owner.0.to_string()).is_dir());
        assert_eq!(request.job.unwrap().id, 7);
    }
}

#[test]
fn a_cache_that_no_user_gets_to_is_told_to_the_administrator_and_the_step_starts() {
    let mut node = Node::new().with_image();
    let templates = node.root.path().join("templates");
    fs::create_dir(&templates).unwrap();
    fs::set_permissions(&templates, fs::Permissions::from_mode(0o700)).unwrap();
    node.start().unwrap();
    let lines = node.host.lines.into_inner();
    let [(level, line)] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(*level, Level::Warning);
    assert!(
        line.contains("every VM of user") && line.ends_with(&format!("'chmod 755 {}' opens it", templates.display())),
        "{line}"
    );
}
