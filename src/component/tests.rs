use super::*;
use crate::client;
use crate::plugin::Plugin;
use crate::spank::testing::FakeHost;
use crate::variables::JOB_IMAGE_ENV;

/// sbatch or salloc with one component after the other: script, environment and command line give it values, then
/// Slurm puts its values into its own environment.
struct Allocator {
    _dir: tempfile::TempDir,
    plugin: Plugin,
    host: FakeHost,
}

impl Allocator {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("spank-vm");
        node::testing::program(&program, "#!/bin/sh\n").unwrap();
        let plugin = Plugin::new(&[format!("libexec={}", dir.path().display()).into()]);
        Self { _dir: dir, plugin, host: FakeHost::new(Context::Allocator) }
    }

    fn component(&mut self, script: &[&str], command_line: &[&str]) -> Result<(), Error> {
        let variable = OPTIONS[IMAGE].slurm_variable();
        let inherited = self.host.own_env.get(&variable).map(|value| value.to_str().unwrap().to_owned());
        for value in script.iter().copied().chain(inherited.as_deref()).chain(command_line.iter().copied()) {
            self.plugin.take(IMAGE, Some(value));
        }
        let slurms = self.plugin.given.values()[IMAGE].clone();
        client::check_options(&mut self.plugin, &mut self.host)?;
        if let Some(value) = slurms {
            self.host.own_env.insert(variable, value);
        }
        Ok(())
    }
}

fn differ(first: (&[&str], &[&str]), second: (&[&str], &[&str]), default: Option<&str>) -> bool {
    let mut allocator = Allocator::new();
    if let Some(default) = default {
        allocator.host.own_env.insert(OPTIONS[IMAGE].slurm_variable(), default.into());
    }
    allocator.component(first.0, first.1).unwrap();
    match allocator.component(second.0, second.1) {
        Ok(()) => false,
        Err(Error::ComponentsDiffer { .. }) => true,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn components_of_a_job_are_told_apart_though_slurm_hands_the_first_one_s_value_on() {
    let none: (&[&str], &[&str]) = (&[], &[]);
    // From directives of the script, and from the command line.
    assert!(!differ((&["a"], &[]), (&["a"], &[]), None));
    assert!(!differ((&[], &["a"]), (&[], &["a"]), None));
    assert!(differ((&["a"], &[]), (&["none"], &[]), None));
    assert!(differ((&["none"], &[]), (&["a"], &[]), None));
    assert!(differ((&[], &["a"]), (&[], &["b"]), None));
    assert!(differ((&["a"], &[]), none, None));
    assert!(differ(none, (&["a"], &[]), None));
    assert!(!differ((&["none"], &[]), none, None), "both run on the host");
    // With a default of the user's.
    assert!(!differ(none, none, Some("a")));
    assert!(!differ(none, (&[], &["a"]), Some("a")));
    assert!(differ(none, (&[], &["none"]), Some("a")));
    assert!(differ((&[], &["none"]), none, Some("a")), "the second one's default is as it was");
    assert!(!differ((&[], &["a"]), (&[], &["a"]), Some("none")));
}

#[test]
fn a_job_remembers_its_image_under_a_second_name() {
    let mut allocator = Allocator::new();
    allocator.component(&[], &["a"]).unwrap();
    let image = allocator.host.own_env[JOB_IMAGE_ENV].clone();
    assert_eq!(image, "a");
    let step = |variable: Option<&str>, job: bool| {
        let mut srun = Allocator::new();
        srun.host.context = Context::Srun;
        srun.host.own_env.insert(JOB_IMAGE_ENV.into(), image.clone());
        if job {
            srun.host.own_env.insert("SLURM_JOB_ID".into(), "7".into());
        }
        if let Some(value) = variable {
            srun.host.own_env.insert(OPTIONS[IMAGE].slurm_variable(), value.into());
        }
        srun.component(&[], &[])
    };
    assert!(matches!(step(None, true), Err(Error::ForgottenByJob(image)) if image == "a"));
    step(Some("a"), true).unwrap();
    step(Some("none"), true).unwrap();
    step(None, false).unwrap();
    let mut inner = Allocator::new();
    inner.host.own_env.insert(JOB_IMAGE_ENV.into(), image.clone());
    inner.component(&[], &["none"]).unwrap();
    assert_eq!(inner.host.own_env[JOB_IMAGE_ENV], "", "a job of its own within");
}

#[test]
fn only_numbers_of_components_are_markers() {
    assert_eq!(marked(marker(12).as_ref()), Some(12));
    for other in ["spank-vm-step", "spank-vm-step.", "spank-vm-step.x", "spank-vm-step.-1", "/x/spank-vm-step.1", "a"] {
        assert_eq!(marked(other.as_ref()), None, "{other}");
    }
}

#[test]
fn a_list_keeps_commands_apart_whatever_bytes_they_have() {
    let odd = OsString::from("./a;host b=%3b c");
    let component = |vms: Option<VmRequest>, command: &OsString| Component {
        given: Default::default(),
        vms,
        command: Some(command.clone()),
        hidden: true,
        copies: false,
    };
    let request = VmRequest::new("debian12".parse().unwrap());
    let list = list(&[component(None, &odd), component(Some(request.clone()), &odd)]);
    assert_eq!(asked(&list, &odd), Decision::Host);
    assert_eq!(asked(&list, marker(1).as_ref()), Decision::Vms(Box::new(VmRequest { argv0: Some(odd), ..request })));
    for lost in ["b", "host", "", "spank-vm-step.0", "spank-vm-step.2", "spank-vm-step"] {
        assert_eq!(asked(&list, lost.as_ref()), Decision::Lost, "{lost}");
    }
}
