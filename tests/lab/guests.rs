//! What KVM provides: real guests, clones, their clock and their memory.

use std::collections::BTreeSet;

use testkit::clock;
use testkit::lab::Lab;

use crate::spoilt::spoilt;
use crate::{Case, case};

pub const CASES: &[Case] = &[
    case("the_node_has_cgroup_v2_systemd_and_a_dev_kvm_that_only_its_group_may_open", as_debian_has_it),
    case("the_file_built_once_is_what_this_slurm_loads", one_file),
    case("an_ordinary_user_s_step_runs_in_a_kvm_guest", kvm),
    case("the_second_step_is_a_clone_of_what_the_first_one_booted", clone),
    case("a_full_debian_is_booted_once_and_cloned_as_well", debian).once(),
    case("spank_vm_check_finds_nothing_wrong_for_a_user_with_kvm", check),
    case("kvm_that_ran_a_guest_on_this_boot_is_not_called_broken_by_a_slow_one", proven).once(),
    case("clones_have_nothing_in_common_that_should_differ", differ),
    case("a_guest_has_the_step_s_memory_and_processors", sizes),
    case("qemu_is_in_the_step_s_control_group_and_under_its_limit", control_group),
    case("a_site_s_cap_on_a_step_s_memory_is_the_guest_s_too", capped).once(),
    case("an_idle_vm_has_little_memory_of_its_own", idle_memory).once(),
    case("after_suspend_and_resume_the_guest_s_clock_is_right", suspended),
    case("a_clock_under_kvm_that_is_set_or_drifts_is_held_to_the_node_s", clock_held).nightly(),
];

fn as_debian_has_it(lab: &Lab) {
    assert_eq!(lab.root("stat -c '%a %U:%G' /dev/kvm"), "660 root:kvm\n");
    assert_eq!(lab.root("stat -fc %T /sys/fs/cgroup"), "cgroup2fs\n");
    assert_eq!(lab.root("cat /proc/1/comm"), "systemd\n");
    for unit in ["munge", "slurmctld", "slurmd"] {
        assert_eq!(lab.root(&format!("systemctl is-active {unit}")), "active\n");
    }
    println!("{}", lab.root("slurmd -V; qemu-system-x86_64 --version | head -1; uname -r").trim().replace('\n', ", "));
}

fn one_file(lab: &Lab) {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/target/stage/lib/spank_vm.so");
    let digest = std::process::Command::new("sha256sum").arg(built).output().unwrap().stdout;
    let digest = String::from_utf8(digest).unwrap();
    let loaded = lab.root("sha256sum /usr/lib/x86_64-linux-gnu/slurm-wlm/spank_vm.so");
    assert_eq!(loaded.split(' ').next(), digest.split(' ').next(), "{loaded} {digest}");
    assert!(lab.sh("ada", "srun --help").ok().contains("--vm-image="));
}

fn kvm(lab: &Lab) {
    let script = "srun --vm-image=tiny sh -c '. /etc/os-release; echo $ID; id -un; \
                  cat /sys/devices/system/clocksource/clocksource0/current_clocksource'";
    assert_eq!(lab.sh("ada", script).ok(), "tiny\nada\nkvm-clock\n");
}

fn clone(lab: &Lab) {
    lab.sh("ada", "srun --vm-image=tiny true").ok();
    let step = lab.sh("ada", "SPANK_VM_TIMING=1 srun --vm-image=tiny true");
    assert!(step.stderr.contains(" wake=") && !step.stderr.contains(" kernel="), "{step:?}");
    print!("{}", step.stderr);
    let templates = step_templates(lab);
    assert_eq!(templates.lines().filter(|line| line.contains("tiny")).count(), 1, "{templates}");
}

fn step_templates(lab: &Lab) -> String {
    lab.sh("ada", "spank-vm template list").ok()
}

fn debian(lab: &Lab) {
    let script = "srun --mem=700 --vm-image=debian12 bash -c '. /etc/os-release; echo $VERSION_CODENAME'";
    assert_eq!(lab.sh("ada", script).ok(), "bookworm\n");
    let timed = lab.sh("ada", &format!("SPANK_VM_TIMING=1 {script}"));
    assert!(timed.stderr.contains(" wake="), "{timed:?}");
}

fn check(lab: &Lab) {
    let checked = lab.sh("ada", "spank-vm check");
    assert_eq!(checked.code, 0, "{checked:?}");
    assert!(!checked.stdout.contains("emulated"), "{checked:?}");
}

fn proven(lab: &Lab) {
    let script = "sed 's/^kvm_timeout_s.*/kvm_timeout_s = 1/' /etc/slurm/spank-vm.toml >impatient.toml; \
                  spank-vm --config impatient.toml check";
    let checked = lab.sh("ada", script);
    assert!(checked.code == 0 && !checked.stdout.contains("does not run guests"), "{checked:?}");
}

fn differ(lab: &Lab) {
    let script = "srun --mem=1200 --vm-image=tiny --vms-per-slot=4 sh -c 'echo $(hostname) $(cat /etc/machine-id \
                  /proc/sys/kernel/random/boot_id) $(head -c 16 /dev/urandom | od -An -tx1 | tr -d \" \")'";
    let stdout = lab.sh("ada", script).ok();
    let lines: Vec<Vec<&str>> = stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 4, "{stdout}");
    for column in 0..4 {
        let different: BTreeSet<&str> = lines.iter().map(|words| words[column]).collect();
        assert_eq!(different.len(), 4, "column {column} of {stdout}");
    }
}

/// What a step of ada's with one VM of `options` has of memory, in MiB.
fn memory(lab: &Lab, options: &str) -> u64 {
    // Memory is plugged while the command runs.
    let script = r#"
        last=0; for try in $(seq 50); do
            kib=$(awk "/MemTotal/ { print \$2 }" /proc/meminfo); [ $kib -ne $last -o $try -lt 15 ] || break; last=$kib; sleep 0.2
        done; echo $kib"#;
    let stdout = lab.sh("ada", &format!("srun {options} --vm-image=tiny sh -c '{script}'")).ok();
    stdout.trim().parse::<u64>().unwrap() / 1024
}

fn sizes(lab: &Lab) {
    assert_eq!(lab.sh("ada", "srun -c2 --mem=500 --vm-image=tiny nproc").ok(), "2\n");
    // 1200 MiB minus 128 for QEMU and 5 for page tables, minus what the guest's kernel takes for itself.
    let mib = memory(lab, "--mem=1200");
    assert!((1000..=1067).contains(&mib), "{mib} MiB");
}

fn capped(lab: &Lab) {
    let spoil = "cp /etc/slurm/cgroup.conf /root/; echo AllowedRAMSpace=80 >>/etc/slurm/cgroup.conf; systemctl restart slurmd; sleep 3";
    let mend = "mv /root/cgroup.conf /etc/slurm/; systemctl restart slurmd; sleep 3";
    let mib = spoilt(lab, spoil, mend, || memory(lab, "--mem=1000"));
    // 800 MiB less 128 for QEMU, less what the guest's kernel takes for itself.
    assert!((600..=672).contains(&mib), "{mib} MiB");
}

/// Starts a VM step of ada's that sleeps, runs `script` as root, and ends the step.
fn beside_an_idle_vm(lab: &Lab, script: &str) -> String {
    lab.sh("ada", "rm -f started; sbatch -Q --mem=500 --vm-image=tiny -o /dev/null --wrap ': > started; sleep 600'")
        .ok();
    lab.wait_until("the job runs", "[ -e /home/ada/started ]");
    let said = lab.sh("root", script);
    lab.root("scancel -u ada");
    said.ok()
}

fn control_group(lab: &Lab) {
    let script = r#"
        path=/sys/fs/cgroup$(cut -d: -f3 /proc/$(pgrep qemu-system)/cgroup); echo $path
        # The limit may be set at any level between the job and its task.
        while [ "$path" != /sys/fs/cgroup ]; do cat $path/memory.max 2>/dev/null; path=${path%/*}; done | sort -n | grep -v max | head -1"#;
    let said = beside_an_idle_vm(lab, script);
    let (path, limit) = said.trim().split_once('\n').unwrap_or_else(|| panic!("no limit is set: {said}"));
    // Between them is the job's: by its number, or from 26.05 on by a name that only Slurm knows.
    assert!(path.contains("slurmstepd.scope/") && path.contains("/step_"), "{path}");
    assert_eq!(limit, (500 << 20).to_string(), "{said}");
}

fn idle_memory(lab: &Lab) {
    let script = r#"
        sleep 5
        awk '/^[0-9a-f]+-[0-9a-f]+ / { of = $6 ~ /\/ram$/ ? "guest" : "qemu" } /^Private_Dirty:/ { kib[of] += $2 } \
             END { print int(kib["qemu"] / 1024), int(kib["guest"] / 1024) }' /proc/$(pgrep qemu-system)/smaps
        awk '/^Private_Dirty:/ { print int($2 / 1024) }' /proc/$(pgrep -f 'spank-vm file-server')/smaps_rollup; spank-vm ps"#;
    let said = beside_an_idle_vm(lab, script);
    println!("an idle VM of 'tiny' has, in MiB of QEMU, of its guest, and of its file server: {said}");
    let mib: Vec<u64> = said.split_whitespace().take(3).map(|word| word.parse().unwrap()).collect();
    // Under KVM there is no translated code, and a guest's memory is its template's but for what it has written.
    assert!((1..=12).contains(&mib[0]) && (1..16).contains(&mib[1]) && mib[2] <= 2, "{said}");
}

fn suspended(lab: &Lab) {
    let script = r"
        rm -f started go inside
        sbatch -Q --mem=500 --vm-image=tiny -J sleepy -o /dev/null --wrap \
            ': > started; while [ ! -e go ]; do sleep 0.1; done; date +%s > inside'";
    lab.sh("ada", script).ok();
    lab.wait_until("the job runs", "[ -e /home/ada/started ]");
    let script = r"
        job=$(squeue -h -n sleepy -o %i)
        scontrol suspend $job; sleep 10; squeue -h -n sleepy -o %T; scontrol resume $job; touch /home/ada/go";
    assert_eq!(lab.root(script), "SUSPENDED\n");
    lab.wait_until("the job told the time", "[ -s /home/ada/inside ]");
    let late = lab.root("echo $(($(stat -c %Y /home/ada/inside) - $(cat /home/ada/inside)))");
    // Suspended for 10 seconds; a slow guest may need two to write what it has read.
    assert!(late.trim().parse::<i64>().unwrap().abs() <= 3, "the clock is {} s late", late.trim());
}

/// Heartbeats every two seconds, so that ten of them take no ten minutes.
fn clock_held(lab: &Lab) {
    let errors_ms = |script: &str| {
        let run = format!(
            "rm -rf clock; mkdir clock; cd clock; {{ cat /etc/slurm/spank-vm.toml; echo 'silence_timeout_s = 6'; echo 'allow_root = true'; }} >../fast.toml
             cat >script <<'END'\n{}; {script}\nEND\n\
             spank-vm --config ../fast.toml run --image debian12 --vm-mem 700 --root -- bash script; rm ../fast.toml",
            clock::MARK
        );
        lab.sh("ada", &run).ok();
        let times = lab.root("cat /home/ada/clock/times");
        let made = lab.root("cd /home/ada/clock; for n in $(seq 0 $(($(wc -l <times) - 1))); do stat -c %.9Y mark$n; done; rm -r /home/ada/clock");
        clock::errors_ms(&times, &made.lines().map(|line| line.parse().unwrap()).collect::<Vec<_>>())
    };
    let set = errors_ms(clock::STEPS);
    assert!(clock::came_back(&set), "{set:?}");
    let drifting = errors_ms(clock::DRIFTS);
    assert!(drifting.len() == 7 && clock::held(&drifting), "{drifting:?}");
    println!("certainly wrong under KVM, in ms: {set:?} with steps, {drifting:?} with a drift of 0.5 %");
}
