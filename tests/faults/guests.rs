//! Guests die, hang or attack the host.

use std::time::Instant;

use testkit::Cluster;
use testkit::undo::with_text;
use testkit::wait::wait_for_file;

use crate::rogue;
use crate::step::{Shown, Step, UNTIL_TOLD};
use crate::{Fault, Saw};

const fn guest(name: &'static str, tries: u32, run: fn(&Cluster) -> Saw) -> Fault {
    Fault { area: "guest", name, tries, run }
}

pub const FAULTS: &[Fault] = &[
    guest("the kernel panics", 3, panic),
    guest("root powers it off", 1, power_off),
    guest("root reboots it", 1, reboot),
    guest("root kills the agent (signal 9)", 1, agent_killed),
    guest("root overwrites the agent's memory", 1, agent_overwritten),
    guest("root takes the channel away from the agent", 1, channel_gone),
    guest("root freezes the agent and the step is cancelled", 1, agent_frozen),
    guest("root freezes the agent, where silence_timeout_s is 3", 1, agent_given_up),
    guest("its clock is set to 2001", 1, clock),
    guest("its kernel finds no init", 1, no_init),
    guest("its kernel hangs before the agent runs", 1, boot_hang),
    guest("the agent never answers", 1, silent),
    guest("the agent sends garbage while it starts", 1, garbage_first),
    guest("the agent sends garbage while the command runs", 1, garbage),
    guest("the agent goes away while the command runs", 1, farewell),
];

/// Runs `script` as root of a guest; the last line of the script is the fault.
fn as_root(cluster: &Cluster, script: &str) -> (Step, Instant) {
    let step = Step::running(cluster, &["--vm-root"], &format!("{UNTIL_TOLD} {script}"));
    step.tell();
    (step, Instant::now())
}

fn panic(cluster: &Cluster) -> Saw {
    let (step, since) = as_root(cluster, "echo c > /proc/sysrq-trigger; sleep 1000");
    step.end().saw(
        since,
        125,
        &["vm: error: image 'tiny' on ", "the guest's kernel panicked: \"sysrq triggered crash\""],
    )
}

fn power_off(cluster: &Cluster) -> Saw {
    let (step, since) = as_root(cluster, "poweroff -f; sleep 1000");
    step.end().saw(since, 125, &["the guest powered itself off before the command ended"])
}

fn reboot(cluster: &Cluster) -> Saw {
    let (step, since) = as_root(cluster, "reboot -f; sleep 1000");
    step.end().saw(since, 125, &["the guest rebooted, which ends a VM, before the command ended"])
}

fn agent_killed(cluster: &Cluster) -> Saw {
    let (step, since) = as_root(cluster, "kill -9 1; kill -STOP 1; echo PID 1 does not take signals from below");
    step.end().saw(since, 0, &["does not take signals"])
}

fn agent_overwritten(cluster: &Cluster) -> Saw {
    // Overwrites all of its code: it wakes up when the command ends, and finds no instructions.
    let script = "text=$(grep -m1 r-xp /proc/1/maps); range=${text%% *}; begin=$((0x${range%-*} / 4096)); \
                  pages=$((0x${range#*-} / 4096 - begin)); \
                  dd if=/dev/zero of=/proc/1/mem bs=4096 seek=$begin count=$pages conv=notrunc 2>/dev/null";
    let (step, since) = as_root(cluster, script);
    step.end().saw(since, 125, &["the guest's kernel panicked: \"Attempted to kill init!"])
}

fn channel_gone(cluster: &Cluster) -> Saw {
    let script = "cd /sys/bus/virtio/drivers/virtio_console; echo virtio* > unbind; sleep 1000";
    let (step, since) = as_root(cluster, script);
    step.end().saw(since, 125, &["the guest's kernel panicked: \"Attempted to kill init!"])
}

fn frozen(cluster: &Cluster) -> (Step, Instant) {
    let script = "mkdir /sys/fs/cgroup/ice && echo 1 > /sys/fs/cgroup/ice/cgroup.procs; echo > iced; \
                  echo 1 > /sys/fs/cgroup/ice/cgroup.freeze; sleep 1000";
    let (step, since) = as_root(cluster, script);
    wait_for_file(&step.dir.join("iced"));
    (step, since)
}

fn agent_frozen(cluster: &Cluster) -> Saw {
    let (step, since) = frozen(cluster);
    let ended = step.cancel(cluster);
    let code = ended.code;
    assert_ne!(code, 0, "{ended:?}");
    ended.saw(since, code, &["CANCELLED"])
}

fn agent_given_up(cluster: &Cluster) -> Saw {
    let mut found = None;
    cluster.with_config("silence_timeout_s = 3\n", || {
        let (step, since) = frozen(cluster);
        found = Some(step.end().saw(since, 125, &["the guest has not answered for 3 s"]));
    });
    found.unwrap()
}

fn clock(cluster: &Cluster) -> Saw {
    let script = "date -s '2001-01-01 00:00:00' > /dev/null; date +%Y; sleep 1";
    let (step, since) = as_root(cluster, script);
    let saw = step.end().saw(since, 0, &["2001"]);
    assert!(
        std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() > 1_600_000_000,
        "the host's clock is the host's"
    );
    saw
}

/// The image 'tiny' with other words for the kernel.
fn with_kernel_words(cluster: &Cluster, words: &str, timeout_s: u32) -> Saw {
    let tiny = std::fs::read_to_string(cluster.dir.join("images/tiny.toml")).unwrap();
    let entry = cluster.dir.join("images/stuck.toml");
    let _entry = with_text(&entry, &format!("{tiny}append = '{words}'\n"));
    let mut found = None;
    cluster.with_config(&format!("start = 'boot'\nboot_timeout_s = {timeout_s}\n"), || {
        let since = Instant::now();
        found = Some((since, cluster.srun(&["-w", &crate::step::node(cluster), "--vm-image=stuck", "true"])));
    });
    let (since, ran) = found.unwrap();
    ran.saw(since, 125, &["vm: error: image 'stuck' on "])
}

fn no_init(cluster: &Cluster) -> Saw {
    let saw = with_kernel_words(cluster, "rdinit=/no/such/init", 600);
    assert!(saw.text.contains("the guest's kernel panicked: "), "{saw:?}");
    saw
}

fn boot_hang(cluster: &Cluster) -> Saw {
    // A kernel that panics and does not reboot hangs.
    let saw = with_kernel_words(cluster, "panic=0 rdinit=/no/such/init", 6);
    assert!(saw.text.contains("no answer within 6 s; its console "), "{saw:?}");
    saw
}

/// A step whose QEMU is this program, in a role.
fn with_rogue(cluster: &Cluster, role: &str, code: i32, words: &[&str]) -> Saw {
    let qemu = rogue::install(cluster, role);
    let mut found = None;
    cluster.with_config(&format!("qemu = '{}'\nstart = 'boot'\nboot_timeout_s = 3\n", qemu.display()), || {
        let since = Instant::now();
        found = Some((since, cluster.srun(&["-w", &crate::step::node(cluster), "--vm-image=tiny", "true"])));
    });
    let (since, ran) = found.unwrap();
    ran.saw(since, code, words)
}

fn silent(cluster: &Cluster) -> Saw {
    with_rogue(cluster, rogue::SILENT, 125, &["no answer within 3 s; its console is empty"])
}

fn garbage_first(cluster: &Cluster) -> Saw {
    with_rogue(cluster, rogue::NOISE, 125, &["no answer within 3 s"])
}

fn garbage(cluster: &Cluster) -> Saw {
    with_rogue(cluster, rogue::GARBAGE, 125, &["the guest does not speak the protocol: "])
}

fn farewell(cluster: &Cluster) -> Saw {
    with_rogue(cluster, rogue::FAREWELL, 125, &["QEMU failed with code 7"])
}
