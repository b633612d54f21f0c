//! How the value of an option goes through the hooks, as tables: what srun reads and sends for each component, and what
//! a node does with it. Slurm's part in between is played as it is in every release: all components get the values that
//! were given last. tests/slurm/ways.rs has the ways that need a real Slurm.

use super::stand_in::{INIT, Node, Slurm, fake};
use std::fs;
use std::process::Command;

const LIST: &str = "SLURM_SPANK_VM_COMPONENTS";

/// A component of an srun: its command, and the options that are given to it.
type Component = (&'static str, &'static [(&'static str, &'static str)]);

/// The result of an srun: an error line, or for each component what its node executes.
enum End {
    Refused(&'static str),
    Runs(&'static [&'static str]),
}
use End::{Refused, Runs};

const A: &[(&str, &str)] = &[("vm-image", "debian12")];
const NONE: &[(&str, &str)] = &[("vm-image", "none")];
const A4: &[(&str, &str)] = &[("vm-image", "debian12"), ("vms-per-slot", "4")];

/// Called as, components, end.
const STEPS: &[(&str, &[Component], End)] = &[
    ("./a x", &[("./a x", A)], Runs(&["vm debian12 1: ./a x"])),
    ("./a x", &[("./a x", NONE)], Runs(&["host: ./a x"])),
    ("./a x : b", &[("./a x", A), ("b", A)], Runs(&["vm debian12 1: ./a x", "vm debian12 1: b"])),
    ("./a x : b", &[("./a x", A), ("b", NONE)], Runs(&["vm debian12 1: ./a x", "host: b"])),
    ("./a x : b", &[("./a x", NONE), ("b", A)], Runs(&["host: ./a x", "vm debian12 1: b"])),
    ("./a x : b", &[("./a x", NONE), ("b", NONE)], Runs(&["host: ./a x", "host: b"])),
    ("./a x : b", &[("./a x", &[]), ("b", &[])], Runs(&["host: ./a x", "host: b"])),
    ("a : a : a", &[("a", NONE), ("a", A4), ("a", A)], Runs(&["host: a", "vm debian12 4: a", "vm debian12 1: a"])),
    ("a : b", &[("a", A4), ("b", A)], Runs(&["vm debian12 4: a", "vm debian12 1: b"])),
    // One set of arguments for two components: --het-group=0,1.
    ("--het-group=0,1 a", &[("a", A), ("a", A)], Runs(&["vm debian12 1: a", "vm debian12 1: a"])),
    ("--het-group=1 a", &[("a", A)], Runs(&["vm debian12 1: a"])),
    // srun has looked the command up.
    ("a x : b", &[("/usr/bin/a x", A), ("/bin/b", NONE)], Runs(&["vm debian12 1: /usr/bin/a x", "host: /bin/b"])),
    ("a : b", &[("a", A), ("b", &[])], Refused("component 1 of this step has no --vm-image")),
    ("a : b", &[("a", &[]), ("b", A)], Refused("component 0 of this step has no --vm-image")),
    ("a : b", &[("a", A), ("b", &[("vm-image", "other")])], Refused("no image 'other'")),
    ("a : b", &[("a", A), ("b", &[("vms-per-slot", "4")])], Refused("--vms-per-slot=4 needs an image")),
    // Components without a command, or with one that is not on the command line.
    (": b", &[("", A), ("b", A)], Refused("the command of component 0 of this step")),
    ("a : b", &[("c", A), ("b", A)], Refused("the command of component 0 of this step")),
    ("a : b", &[("c", NONE), ("b", A)], Refused("the command of component 0 of this step")),
    ("--bcast a : b", &[("a", A), ("b", A)], Refused("--bcast")),
    ("a : --bcast=/x b", &[("a", A), ("b", NONE)], Refused("--bcast")),
    (
        "a --bcast : b --het",
        &[("a --bcast", A), ("b --het", A)],
        Runs(&["vm debian12 1: a --bcast", "vm debian12 1: b --het"]),
    ),
];

#[test]
fn every_component_of_a_step_runs_where_it_asked_to_or_nothing_is_sent() {
    for (called, components, end) in STEPS {
        for slurm in [Slurm::Old, Slurm::New] {
            let what = format!("{slurm:?}: srun {called}");
            let sent = srun(slurm, called, components);
            match (end, sent) {
                (Refused(words), Err(said)) => {
                    assert!(said.contains(words) && said.matches("error: ").count() == 1, "{what}: {said}");
                }
                (Runs(expected), Ok(sent)) => {
                    let ran: Vec<String> = sent.iter().map(|step| node(slurm, step)).collect();
                    assert_eq!(ran, *expected, "{what}");
                    for (step, ran) in sent.iter().zip(*expected) {
                        let word = step.argv.split(' ').next().unwrap_or_default();
                        assert_eq!(word.starts_with("spank-vm-step"), ran.starts_with("vm"), "{what}: {}", step.argv);
                    }
                }
                (_, sent) => panic!("{what}: {sent:?}"),
            }
        }
    }
}

/// Since 23.02 srun replaces the command by the name of the copied file, without telling the plugin.
#[test]
fn a_command_that_srun_copies_is_refused_where_it_cannot_be_hidden() {
    for called in ["--bcast a", "--bcast=/tmp/x a", "-n1 --bcas a"] {
        assert!(srun(Slurm::New, called, &[("a", A)]).unwrap_err().contains("--bcast"), "{called}");
        assert_eq!(node(Slurm::Old, &srun(Slurm::Old, called, &[("a", A)]).unwrap()[0]), "vm debian12 1: a");
        assert_eq!(node(Slurm::New, &srun(Slurm::New, called, &[("a", NONE)]).unwrap()[0]), "host: a");
    }
    assert_eq!(
        node(Slurm::New, &srun(Slurm::New, "a --bcast", &[("a --bcast", A)]).unwrap()[0]),
        "vm debian12 1: a --bcast"
    );
}

/// scrontab accepts options of plugins and loses them.
#[test]
fn a_crontab_cannot_ask_for_a_vm_that_it_would_not_get() {
    let machine = Node::new();
    let program = machine.path("scrontab");
    fs::copy(fake(Slurm::New), &program).unwrap();
    for (options, taken) in [("vm-image debian12", false), ("vm-image none", true), ("vm-image list;", false)] {
        let script = format!("{INIT}option {options}\n");
        // In the place of the program that run_by puts first.
        let mut called = Command::new("sh");
        called.args(["-c", "shift; exec \"$0\" \"$@\""]).arg(&program);
        let output = machine.run_by(called, Slurm::New, "sbatch", &script, &[]);
        let answer = String::from_utf8(output.stdout).unwrap();
        assert_eq!(answer.contains("option vm-image = 0"), taken, "{answer}");
        assert_eq!(answer.contains("error: vm: scrontab does not pass --vm-image on"), !taken, "{answer}");
    }
}

/// What a node receives of a step, or of one component.
#[derive(Debug, Clone, Default)]
struct Step {
    argv: String,
    env: Vec<(String, String)>,
    options: Vec<(String, String)>,
}

/// Plays srun from its start to the moment when the step is sent.
fn srun(slurm: Slurm, called: &str, components: &[Component]) -> Result<Vec<Step>, String> {
    let machine = Node::new();
    let mut script = INIT.to_owned();
    let mut last: Vec<(String, String)> = Vec::new();
    for (command, options) in components {
        script += &format!("component {command}\n");
        for (name, value) in *options {
            script += &format!("option {name} {value}\n");
            last.retain(|(other, _)| other != name);
            last.push(((*name).to_owned(), (*value).to_owned()));
        }
        script += "hook init_post_opt\ncopied\n";
    }
    let called: Vec<&str> = called.split(' ').collect();
    let read = machine.play_called(slurm, "srun", &called, &script);
    if !read.ends_with("alive\n") {
        return Err(read);
    }
    let copies: Vec<&str> = read.lines().filter_map(|line| line.strip_prefix("copied")).map(str::trim_start).collect();
    // Slurm calls the last hook only for the component that comes first, and sends the others unchanged.
    let mut sent = Vec::new();
    for copy in &copies {
        let launch = format!("{script}argv {copy}\nhook local_user_init\nshow\ngetenv {LIST}\n");
        let answer = machine.play_called(slurm, "srun", &called, &launch);
        if !answer.ends_with("alive\n") {
            return Err(answer);
        }
        let (shown, command) = answer.lines().find_map(|line| line.split_once(", for ")).unwrap();
        let list = answer.lines().find_map(|line| line.strip_prefix(&format!("{LIST}="))).unwrap();
        let mut env = vec![(LIST.to_owned(), list.to_owned())];
        if components.len() == 1 && command != "nobody" {
            env.push(("SLURM_SPANK_VM_COMMAND".to_owned(), command.to_owned()));
        }
        env.retain(|(_, value)| !value.is_empty());
        sent.push(Step { argv: shown.to_owned(), env, options: last.clone() });
    }
    Ok(sent)
}

/// Plays the node: what is executed in the end.
fn node(slurm: Slurm, step: &Step) -> String {
    node_as(slurm, step, "0")
}

fn node_as(slurm: Slurm, step: &Step, number: &str) -> String {
    let machine = Node::new();
    let mut script = format!("{INIT}set step {number}\nargv {}\n", step.argv);
    for (name, value) in &step.options {
        script += &format!("option {name} {value}\n");
    }
    for (name, value) in &step.env {
        script += &format!("env {name}={value}\n");
    }
    let answer = machine.play(slurm, "stepd", &format!("{script}task\nhook task_exit\nhook exit\n"));
    assert!(answer.ends_with("alive\n"), "{answer}");
    let Some(executed) = answer.lines().find_map(|line| line.strip_prefix("execve ")) else {
        assert_eq!(answer.matches("error: ").count(), 1, "{answer}");
        return "nothing".to_owned();
    };
    assert!(!answer.contains(&format!("with {LIST}")), "the task sees what is none of its business: {answer}");
    let Some(request) = answer.lines().find_map(|line| line.strip_prefix("with SPANK_VM_REQUEST=")) else {
        return format!("host: {executed}");
    };
    let value = |key: &str| request.split(' ').find_map(|pair| pair.strip_prefix(key)).unwrap_or_default().to_owned();
    let rest = executed.strip_prefix("LIBEXEC/spank-vm-step").unwrap();
    let command = if value("argv0=").is_empty() { rest.trim_start().to_owned() } else { value("argv0=") + rest };
    let vms = Some(value("vms-per-slot=")).filter(|vms| !vms.is_empty());
    format!("vm {} {}: {command}", value("vm-image="), vms.as_deref().unwrap_or("1"))
}

const BATCH: &str = "0xfffffffb";
const INTERACTIVE: &str = "0xfffffffa";
const SRUN: &str = "0";
const VARIABLE: &str = "SLURM_SPANK__SLURM_SPANK_OPTION_spank_vm_vm_image";
const TWO: &str = "vm-image=debian12 argv0=a;host b";

/// Step, command line, variables of the job, options that Slurm brings; what is executed.
type Arrival =
    (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static [(&'static str, &'static str)]);

/// Whatever is lost, forged or contradictory on the way: a command runs on the host only if the user asked for that.
const ARRIVALS: &[(Arrival, &str)] = &[
    ((SRUN, "spank-vm-step.0 x", &[(LIST, TWO)], A), "vm debian12 1: a x"),
    ((SRUN, "spank-vm-step.0 x", &[(LIST, TWO)], NONE), "vm debian12 1: a x"),
    ((SRUN, "spank-vm-step.0 x", &[(LIST, TWO)], &[]), "vm debian12 1: a x"),
    ((SRUN, "b y", &[(LIST, TWO)], A), "host: b y"),
    ((SRUN, "b y", &[(LIST, TWO)], NONE), "host: b y"),
    // A command that is in no list of commands for the host.
    ((SRUN, "a x", &[(LIST, TWO)], A), "nothing"),
    ((SRUN, "a x", &[(LIST, TWO)], NONE), "nothing"),
    ((SRUN, "spank-vm-step.1 x", &[(LIST, TWO)], A), "nothing"),
    ((SRUN, "spank-vm-step.2 x", &[(LIST, TWO)], A), "nothing"),
    ((SRUN, "spank-vm-step. x", &[(LIST, TWO)], A), "nothing"),
    ((SRUN, "spank-vm-step x", &[(LIST, TWO)], A), "nothing"),
    ((SRUN, "spank-vm-step.0 x", &[], A), "nothing"),
    ((SRUN, "spank-vm-step.0 x", &[], NONE), "nothing"),
    ((SRUN, "spank-vm-step.0 x", &[("SLURM_SPANK_VM_COMMAND", "a")], A), "nothing"),
    ((SRUN, "spank-vm-step.0 x", &[(LIST, "vm-image=debian12")], A), "nothing"),
    ((SRUN, "spank-vm-step.0 x", &[(LIST, "vm-image=debian12 colour=red argv0=a")], A), "nothing"),
    ((SRUN, "spank-vm-step.0 x", &[(LIST, "host a")], NONE), "nothing"),
    ((SRUN, "b", &[(LIST, "host")], NONE), "nothing"),
    ((SRUN, "b", &[(LIST, "%;%;%")], NONE), "nothing"),
    // One command line, as most are.
    ((SRUN, "spank-vm-step x", &[("SLURM_SPANK_VM_COMMAND", "a")], A), "vm debian12 1: a x"),
    ((SRUN, "spank-vm-step x", &[("SLURM_SPANK_VM_COMMAND", "a")], NONE), "nothing"),
    ((SRUN, "spank-vm-step x", &[("SLURM_SPANK_VM_COMMAND", "a")], &[]), "nothing"),
    ((SRUN, "spank-vm-step x", &[], A), "nothing"),
    ((SRUN, "a x", &[], &[("vm-image", "(null)")]), "nothing"),
    ((SRUN, "a x", &[], &[("vm-image", "list")]), "nothing"),
    ((SRUN, "a x", &[], &[("vm-image", "none"), ("vm-image", "debian12")]), "vm debian12 1: a x"),
    ((SRUN, "a x", &[], &[("vm-image", "debian12"), ("vm-image", "none")]), "host: a x"),
    ((SRUN, "a x", &[(VARIABLE, "debian12")], &[]), "host: a x"),
    // Scripts, which have no word in the command line.
    ((BATCH, "/script", &[], A), "vm debian12 1: /script"),
    ((BATCH, "/script", &[(VARIABLE, "debian12")], A), "vm debian12 1: /script"),
    ((BATCH, "/script", &[(VARIABLE, "debian12")], &[]), "vm debian12 1: /script"),
    ((BATCH, "/script", &[(VARIABLE, "debian12")], NONE), "nothing"),
    ((BATCH, "/script", &[(VARIABLE, "none")], A), "vm debian12 1: /script"),
    ((BATCH, "/script", &[(VARIABLE, "none")], NONE), "host: /script"),
    ((BATCH, "/script", &[(VARIABLE, "(null)")], &[]), "nothing"),
    ((BATCH, "/script", &[], &[]), "host: /script"),
    ((INTERACTIVE, "bash", &[(VARIABLE, "debian12")], &[]), "vm debian12 1: bash"),
    ((INTERACTIVE, "bash", &[(VARIABLE, "debian12")], NONE), "host: bash"),
];

#[test]
fn what_arrives_torn_on_a_node_is_not_run_on_it() {
    for ((number, argv, env, options), expected) in ARRIVALS {
        let owned = |pairs: &[(&str, &str)]| pairs.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect();
        let step = Step { argv: (*argv).to_owned(), env: owned(env), options: owned(options) };
        for slurm in [Slurm::Old, Slurm::New] {
            assert_eq!(node_as(slurm, &step, number), *expected, "{slurm:?}: {number} {argv} {env:?} {options:?}");
        }
    }
}
