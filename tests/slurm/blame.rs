//! Whose fault an error is: a fault of the node has its own exit code, requeues the job if the site wants it, and
//! drains the node.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use testkit::place::repository;
use testkit::undo::{Undo, afterwards, with_text};
use testkit::{Cluster, ran};

use crate::Case;

pub const CASES: &[Case] = &[
    ("a_node_s_fault_and_a_user_s_fault_end_differently", exit_codes),
    ("a_job_that_met_a_broken_node_is_requeued_where_the_site_wants_it_and_a_wrong_one_is_not", requeued),
    ("an_interactive_step_that_met_a_broken_node_is_requeued_by_slurm_but_not_for_ever", interactive),
    ("a_batch_script_never_runs_on_a_node_without_the_plugin_which_is_drained", prolog_without_plugin),
    ("a_node_that_lacks_qemu_is_drained_with_the_reason_before_the_job_starts", prolog_without_qemu),
    ("jobs_with_an_image_go_to_nodes_with_the_feature", feature),
    ("the_image_of_a_job_is_in_its_admin_comment_where_the_site_uses_the_sample", image_in_comment),
    ("a_partition_without_vms_refuses_such_jobs_at_submission", no_vms_in_partition),
];

/// The shipped Prolog's decisions are tested beside the program; this is the same once with Slurm.
pub const LONG_CASES: &[Case] =
    &[("what_only_stalls_when_a_job_starts_drains_no_node_and_is_in_the_journal", prolog_and_a_stall)];

fn exit_codes(cluster: &Cluster) {
    let nodes = [
        "qemu = '/nonexistent/qemu'\n",
        "kit = '/nonexistent/kit'\n",
        "scratch_dir = '/nonexistent/scratch'\n",
        "cpu_model = 'EPIC-Rome'\n",
        "colour = 'red'\n",
    ];
    for config in nodes {
        cluster.with_config(config, || {
            // The submit host reads the same configuration; a request that it refuses never becomes a job.
            let ended = cluster.srun(&["--vm-image=tiny", "true"]);
            if config.starts_with("colour") {
                return assert_eq!(ended.code, 1, "{ended:?}");
            }
            assert_eq!(ended.code, 75, "{config}: {ended:?}");
            ended.fails_with_one_line(&["this node (", "cannot run VMs", config.split('\'').nth(1).unwrap()]);
        });
    }
    cluster.with_config("boot_timeout_s = 60\nmax_vms_per_slot = 1\n", || {
        assert_eq!(cluster.srun(&["--vm-image=tiny", "--vms-per-slot=2", "true"]).code, 125);
    });
    assert_eq!(cluster.srun(&["--vm-image=tiny", "--vm-mem=40G", "true"]).code, 125);
}

/// Runs `work` while slurm.conf has these additional lines; the daemons have read them.
fn with_slurm_conf(cluster: &Cluster, lines: &str, work: impl FnOnce()) {
    let path = cluster.slurm_conf();
    let before = fs::read_to_string(&path).unwrap();
    let reconfigure = || {
        as_root(cluster, &["scontrol", "reconfigure"]);
    };
    // Dropped last, when the file is as before.
    let _old = afterwards(reconfigure);
    // In one step: an epilog that is still under way reads slurm.conf too, and drains its node if it finds half of it.
    let _file = with_text(&path, &format!("{before}\n{lines}\n"));
    reconfigure();
    work();
}

fn as_root(cluster: &Cluster, argv: &[&str]) -> String {
    ran(cluster.command_as("root", Path::new("/"), argv).output().unwrap()).ok()
}

/// Waits until Slurm reports this text about a job or node, and returns all it reports.
fn wait_for_words(cluster: &Cluster, what: &[&str], words: &[&str]) -> String {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let said = as_root(cluster, &[&["scontrol", "-o", "show"], what].concat());
        if words.iter().all(|word| said.contains(word)) {
            return said;
        }
        assert!(Instant::now() < deadline, "{words:?} not in: {said}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn first_node(cluster: &Cluster) -> String {
    cluster.nodes().remove(0)
}

/// Submits a held batch job for `node`; the job says where it ran.
fn submit_held(cluster: &Cluster, dir: &Path, node: &str, image: &str) -> String {
    let option = format!("--vm-image={image}");
    let script = "grep ^ID= /etc/os-release";
    let argv = ["sbatch", "--parsable", "-H", "-w", node, "--mem=500", &option, "-o", "out", "--wrap", script];
    cluster.run_in(dir, &argv).ok().trim().to_owned()
}

fn requeued(cluster: &Cluster) {
    let node = first_node(cluster);
    with_slurm_conf(cluster, "RequeueExit=75", || {
        let dir = cluster.work_dir();
        let job = submit_held(cluster, &dir, &node, "tiny");
        let waiting = afterwards(|| drop(cluster.run(&["scancel", &job])));
        cluster.with_config("kit = '/nonexistent/kit'\n", || {
            cluster.run(&["scontrol", "release", &job]).ok();
            wait_for_words(cluster, &["job", &job], &["Restarts=1"]);
        });
        drop(waiting);
        let told = fs::read_to_string(dir.join("out")).unwrap();
        assert!(told.contains("this node (") && told.contains("/nonexistent/kit"), "{told}");
        // The image is removed while the job waits: no node is broken.
        let entry = cluster.dir.join("images/other.toml");
        let image = with_text(&entry, &fs::read_to_string(cluster.dir.join("images/tiny.toml")).unwrap());
        let dir = cluster.work_dir();
        let job = submit_held(cluster, &dir, &node, "other");
        drop(image);
        cluster.run(&["scontrol", "release", &job]).ok();
        let said = wait_for_words(cluster, &["job", &job], &["JobState=FAILED"]);
        assert!(said.contains("Restarts=0") && said.contains("ExitCode=125:0"), "{said}");
        let node = wait_for_words(cluster, &["node", &node], &["State=IDLE"]);
        assert!(!node.contains("DRAIN"), "{node}");
    });
}

/// Slurm requeues whatever ended with that code, also an allocation whose srun has gone: that one starts again, and ends
/// by itself when Slurm has noticed that nobody is there.
fn interactive(cluster: &Cluster) {
    let node = &cluster.nodes()[1];
    with_slurm_conf(cluster, "RequeueExit=75", || {
        // The daemons listen again.
        testkit::wait::wait_for("the node takes steps", || {
            (cluster.srun(&["-w", node, "true"]).code == 0).then_some(())
        });
        cluster.with_config("kit = '/nonexistent/kit'\n", || {
            let options = ["-w", node, "-J", "interactive", "--mem=500", "--vm-image=tiny", "true"];
            assert_eq!(cluster.srun(&options).code, 75);
        });
        let job = as_root(cluster, &["sh", "-c", "scontrol -o show job | grep JobName=interactive | tail -n 1"]);
        let job = job.split_whitespace().find_map(|word| word.strip_prefix("JobId=")).unwrap();
        let said = wait_for_words(cluster, &["job", job], &["Restarts=1", "JobState=FAILED"]);
        assert!(said.contains("BatchFlag=0"), "{said}");
        wait_for_words(cluster, &["node", node], &["State=IDLE"]);
    });
}

/// The shipped Prolog, for this cluster's paths.
fn with_prolog(cluster: &Cluster, work: impl FnOnce()) {
    let shipped = fs::read_to_string(repository().join("slurm-conf/prolog")).unwrap();
    let stage = cluster.dir.join("stage/libexec/spank-vm").display().to_string();
    let config = cluster.dir.join("spank-vm.toml").display().to_string();
    let text = shipped
        .replace("program=/usr/libexec/spank-vm/spank-vm", &format!("program={stage}"))
        .replace("config=/etc/slurm/spank-vm.toml", &format!("config={config}"))
        .replace("check --node 2", "check --node --within 3 2")
        .replace("logger ", &format!("{} ", cluster.dir.join("logger").display()));
    assert!(text.contains(&stage) && text.contains(&config));
    let path = cluster.dir.join("prolog");
    let _prolog = with_text(&path, &text);
    assert!(Command::new("chmod").arg("755").arg(&path).status().unwrap().success());
    let lines = format!(
        "Prolog={}\nSchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,nohold_on_prolog_fail",
        path.display()
    );
    with_slurm_conf(cluster, &lines, work);
}

/// A job waits, the node breaks, the job is released, the node is repaired.
fn drained_by_prolog<'a>(cluster: &Cluster, break_node: impl FnOnce() -> Undo<'a>, reason: &str) {
    let node = first_node(cluster);
    with_prolog(cluster, || {
        // Bare-metal jobs do not notice.
        cluster.srun(&["-w", &node, "true"]).ok();
        let dir = cluster.work_dir();
        let job = submit_held(cluster, &dir, &node, "tiny");
        let job_and_node = afterwards(|| {
            cluster.run(&["scancel", &job]).ok();
            wait_for_words(cluster, &["job", &job], &["JobState=CANCELLED"]);
            as_root(cluster, &["scontrol", "update", &format!("nodename={node}"), "state=resume"]);
        });
        let broken = break_node();
        cluster.run(&["scontrol", "release", &job]).ok();
        let said = wait_for_words(cluster, &["node", &node], &["DRAIN", "Reason=spank-vm: "]);
        assert!(said.contains(reason), "{said}");
        wait_for_words(cluster, &["job", &job], &["JobState=PENDING"]);
        // In it, slurmd may say that the Prolog failed.
        let out = fs::read_to_string(dir.join("out")).unwrap_or_default();
        assert!(!out.contains("ID="), "{out}");
        drop(broken);
        drop(job_and_node);
        let ok = cluster.srun(&["-w", &node, "--vm-image=tiny", "grep", "^ID=", "/etc/os-release"]).ok();
        assert_eq!(ok, "ID=tiny\n");
    });
}

fn prolog_without_plugin(cluster: &Cluster) {
    let plugstack = cluster.dir.join("plugstack.conf");
    drained_by_prolog(cluster, || with_text(&plugstack, ""), "Slurm does not load the plugin on this node");
}

fn prolog_without_qemu(cluster: &Cluster) {
    let break_node = || {
        cluster.configure("qemu = '/nonexistent/qemu'\n", "");
        afterwards(|| cluster.configure("", ""))
    };
    drained_by_prolog(cluster, break_node, "no QEMU at '/nonexistent/qemu'");
}

/// A pipe that nobody writes to stands for a file server that is down, and comes back when the warning has been written.
fn prolog_and_a_stall(cluster: &Cluster) {
    let node = first_node(cluster);
    let kit = cluster.dir.join("stalled-kit");
    fs::create_dir(&kit).unwrap();
    let _kit = afterwards(|| fs::remove_dir_all(&kit).unwrap());
    assert!(Command::new("mkfifo").arg(kit.join("kit.toml")).status().unwrap().success());
    let (journal, logger) = (cluster.dir.join("journal"), cluster.dir.join("logger"));
    let [config, good] = [cluster.config_file(), cluster.dir.join("good.toml")];
    let _good = with_text(&good, &fs::read_to_string(&config).unwrap());
    let _logger = with_text(
        &logger,
        &format!("#!/bin/sh\ncp {} {}\necho \"$*\" >{}\n", good.display(), config.display(), journal.display()),
    );
    let _journal = afterwards(|| drop(fs::remove_file(&journal)));
    assert!(Command::new("chmod").arg("755").arg(&logger).status().unwrap().success());
    with_prolog(cluster, || {
        let dir = cluster.work_dir();
        let job = submit_held(cluster, &dir, &node, "tiny");
        cluster.with_config(&format!("kit = '{}'\n", kit.display()), || {
            cluster.run(&["scontrol", "release", &job]).ok();
            wait_for_words(cluster, &["job", &job], &["JobState=COMPLETED", "Restarts=0"]);
        });
        assert_eq!(fs::read_to_string(dir.join("out")).unwrap(), "ID=tiny\n");
        let told = fs::read_to_string(&journal).unwrap();
        let words = ["daemon.warning", "--vm-image=tiny", &kit.display().to_string(), "no answer within 3 s"];
        assert!(words.iter().all(|word| told.contains(word)), "{told}");
        let said = wait_for_words(cluster, &["node", &node], &["State=IDLE"]);
        assert!(!said.contains("DRAIN"), "{said}");
    });
}

/// Both at once: a feature that is no longer available cannot be active.
fn set_features(cluster: &Cluster, node: &str, words: &str) {
    let (name, available, active) =
        (format!("nodename={node}"), format!("availablefeatures={words}"), format!("activefeatures={words}"));
    as_root(cluster, &["scontrol", "update", &name, &available, &active]);
}

fn feature(cluster: &Cluster) {
    let node = &cluster.nodes()[1];
    with_job_submit(
        cluster,
        |text| text,
        || {
            let refused = cluster.srun(&["--vm-image=tiny", "true"]);
            assert!(refused.code != 0 && refused.stderr.contains("Invalid feature specification"), "{refused:?}");
            let _none = afterwards(|| set_features(cluster, node, ""));
            set_features(cluster, node, "spank-vm,other");
            let command = ["sh", "-c", "echo $SLURMD_NODENAME"];
            for options in [&["--vm-image=tiny"][..], &["--vm-image=tiny", "-C", "other"]] {
                assert_eq!(cluster.srun(&[options, &command].concat()).ok(), format!("{node}\n"));
            }
            cluster.srun(&["-N4", "true"]).ok();
            cluster.srun(&["-N4", "--vm-image=none", "true"]).ok();
        },
    );
}

/// The sample, changed as its comments say that a site may.
fn with_job_submit(cluster: &Cluster, change: impl FnOnce(String) -> String, work: impl FnOnce()) {
    let script = cluster.slurm_conf().with_file_name("job_submit.lua");
    let sample = fs::read_to_string(repository().join("slurm-conf/job_submit.lua")).unwrap();
    let _script = with_text(&script, &change(sample));
    with_slurm_conf(cluster, "JobSubmitPlugins=lua", work);
}

/// What Slurm keeps of a job is what `sacct` has to show.
fn image_in_comment(cluster: &Cluster) {
    let everywhere = |text: String| text.replacen("FEATURE = \"spank-vm\"", "FEATURE = nil", 1);
    with_job_submit(cluster, everywhere, || {
        let comment = |arguments: &[&str]| {
            let submitted = [&["sbatch", "--parsable", "--wrap=true"], arguments].concat();
            let job = cluster.run(&submitted).ok();
            let _job = afterwards(|| drop(cluster.run(&["scancel", job.trim()])));
            let shown = cluster.run(&["scontrol", "show", "job", job.trim()]).ok();
            let line = shown.lines().find_map(|line| line.trim().strip_prefix("AdminComment="));
            line.unwrap_or_default().trim().to_owned()
        };
        assert_eq!(comment(&["--vm-image=tiny"]), "vm-image=tiny");
        assert_eq!(comment(&[]), "");
        assert_eq!(comment(&["--vm-image=none"]), "");
        // By the environment too, which the command line of sacct does not show.
        let by_environment = ["sh", "-c", "SPANK_VM_IMAGE=tiny sbatch --parsable --wrap=true"];
        let job = cluster.run(&by_environment).ok();
        let _job = afterwards(|| drop(cluster.run(&["scancel", job.trim()])));
        let shown = cluster.run(&["scontrol", "show", "job", job.trim()]).ok();
        assert!(shown.contains("AdminComment=vm-image=tiny"), "{shown}");
    });
}

fn no_vms_in_partition(cluster: &Cluster) {
    let partition = cluster.run(&["sinfo", "-h", "-o", "%R"]).ok().trim().to_owned();
    let closed = |text: String| {
        let text = text.replacen("FEATURE = \"spank-vm\"", "FEATURE = nil", 1);
        text.replacen("WITHOUT_VMS = {}", &format!("WITHOUT_VMS = {{ {partition} = true }}"), 1)
    };
    with_job_submit(cluster, closed, || {
        let named = format!("--partition={partition}");
        for options in [&["--vm-image=tiny"][..], &[&named, "--vm-image=tiny"]] {
            let refused = cluster.srun(&[options, &["true"]].concat());
            let told = format!("there are no VMs in partition '{partition}'");
            assert!(refused.code != 0 && refused.stderr.contains(&told), "{refused:?}");
        }
        cluster.srun(&["true"]).ok();
    });
}
