//! The ways in which a VM starts: each is taken where it works, and the next one where it does not.

use testkit::lab::Lab;

use crate::{Case, case};

pub const CASES: &[Case] = &[
    case("a_small_vm_starts_by_the_small_program_and_a_large_one_by_qemu_itself", by_size),
    case("a_small_program_without_seccomp_is_held_by_the_runner_and_not_used_unconfined", without_seccomp),
    case("a_small_vm_has_to_the_mebibyte_the_memory_that_it_should", memory).nightly(),
    case("without_the_small_program_a_small_vm_starts_by_the_small_machine_of_qemu", without_program).nightly(),
    case("a_small_program_that_fails_is_left_out_and_check_says_so", failing_program).once(),
    case("where_no_small_machine_works_all_vms_start_as_a_pc", no_small_machine).nightly(),
    case("a_small_program_that_hangs_costs_one_trial_and_no_step", hanging_program).nightly(),
    case("a_site_that_wants_a_pc_gets_no_small_machine", pinned).nightly(),
    case("a_program_in_qemu_s_place_opens_no_file_of_its_user_and_the_vm_runs", walled),
];

/// Program and machine of the QEMU of a step of ada's with these options, while it runs, and how many filters of system calls.
fn seen(lab: &Lab, options: &str) -> String {
    let wrap = "--wrap ': > up; sleep 600'";
    lab.sh("ada", &format!("rm -f up; sbatch -Q {options} --vm-image=tiny -o /dev/null {wrap}")).ok();
    lab.wait_until("the step runs", "[ -e /home/ada/up ]");
    let said = lab.root(
        "pid=$(pgrep -o qemu-system); basename $(readlink /proc/$pid/exe); \
         tr '\\0' '\\n' </proc/$pid/cmdline | grep -A1 -x -e -machine | tail -1 | cut -d, -f1; \
         awk '/^Seccomp_filters:/ { print $2 }' /proc/$pid/status",
    );
    lab.root("scancel -u ada; while pgrep qemu-system >/dev/null; do sleep 0.2; done; rm -f /home/ada/up");
    said.trim().replace('\n', " ")
}

fn by_size(lab: &Lab) {
    assert_eq!(seen(lab, "--mem=500"), "qemu-system-x86_64-microvm microvm 1");
    assert_eq!(seen(lab, "--mem=1000"), "qemu-system-x86_64 q35 1");
    let checked = lab.sh("ada", "spank-vm check").ok();
    assert!(
        checked.contains("VMs of up to 512 MiB by machine microvm of /usr/bin/qemu-system-x86_64-microvm"),
        "{checked}"
    );
}

/// Debian 12's is built without, Debian 13's is not.
fn without_seccomp(lab: &Lab) {
    let is_named = |checked: &str| checked.contains("built without seccomp");
    if lab.root("ldd /usr/bin/qemu-system-x86_64-microvm").contains("libseccomp") {
        let off = "sed 's/^confine_qemu.*/confine_qemu = \"off\"/' /etc/slurm/spank-vm.toml >off.toml; \
                   grep -q off off.toml || echo 'confine_qemu = \"off\"' >>off.toml; \
                   spank-vm --config off.toml check; rm off.toml";
        let checked = lab.sh("ada", off).stdout;
        let used = "by machine microvm of /usr/bin/qemu-system-x86_64-microvm";
        assert!(checked.contains(used) && !is_named(&checked), "{checked}");
        return;
    }
    let said = with_programs(
        lab,
        &format!("{REAL}; cp /usr/bin/qemu-system-x86_64-microvm qemu-microvm"),
        "confine_qemu = \"off\"",
    );
    let refused = "/opt/ways/qemu-microvm has no sandbox (it is built without seccomp), and is not confined, which one needs: \
                   the site has switched it off";
    assert!(said.contains(refused) && said.contains("machine microvm of /opt/ways/qemu;"), "{said}");
    let checked = lab.sh("ada", "spank-vm --config /opt/ways/site.toml check").stdout;
    assert!(is_named(&checked), "{checked}");
    forget(lab);
}

fn memory(lab: &Lab) {
    let of = |mib: u64| {
        let script =
            format!("spank-vm run --image tiny --vm-mem {mib} -- awk '/MemTotal/ {{ print $2 }}' /proc/meminfo");
        lab.sh("ada", &script).ok().trim().parse::<u64>().unwrap()
    };
    // The kernel's own part is the same in all VMs of a class.
    let least = of(256);
    assert!((190 << 10..256 << 10).contains(&least), "{least} KiB");
    for mib in [257, 370, 511, 512] {
        assert_eq!(of(mib), least + ((mib - 256) << 10), "{mib} MiB");
    }
}

/// Runs a small VM of ada's with a QEMU of the name `qemu` in a directory of its own, that these lines of a shell make
/// there, and a line for the configuration. Returns what it explains.
fn with_programs(lab: &Lab, make: &str, more: &str) -> String {
    // A first boot takes longer in an emulated node than on any other.
    let trial = if more.contains("kvm_timeout_s") { "" } else { "kvm_timeout_s = 100" };
    lab.root(&format!(
        "rm -rf /opt/ways; mkdir -p /opt/ways; cd /opt/ways; {make}; chmod -R a+rX .; \
         {{ sed '/^kvm_timeout_s/d' /etc/slurm/spank-vm.toml; echo 'qemu = \"/opt/ways/qemu\"'; echo '{trial}'; echo '{more}'; }} >site.toml"
    ));
    let ran = lab.sh("ada", "spank-vm --config /opt/ways/site.toml run -v --image tiny --vm-mem 300 -- echo here");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "here\n"), "{ran:?}");
    ran.stderr
}

const REAL: &str = "ln -s /usr/bin/qemu-system-x86_64 qemu";

fn forget(lab: &Lab) {
    lab.root("rm -rf /opt/ways /var/cache/spank-vm/templates/users/*/*microvm.verdict");
    // There is none before a first job of hers has made the directory for it.
    lab.sh("ada", "spank-vm template remove tiny");
}

fn without_program(lab: &Lab) {
    let said = with_programs(lab, REAL, "");
    assert!(said.contains("qemu-microvm: /opt/ways/qemu-microvm is not there"), "{said}");
    assert!(said.contains("machine microvm of /opt/ways/qemu;"), "{said}");
    forget(lab);
}

fn failing_program(lab: &Lab) {
    let make =
        format!("{REAL}; printf '#!/bin/sh\\necho out of order >&2; exit 1\\n' >qemu-microvm; chmod +x qemu-microvm");
    let said = with_programs(lab, &make, "");
    assert!(
        said.contains("not started by machine microvm of /opt/ways/qemu-microvm") && said.contains("out of order"),
        "{said}"
    );
    assert!(said.contains("machine microvm of /opt/ways/qemu;"), "{said}");
    assert!(!said.contains("warning:"), "users are not told: {said}");
    let again = lab.sh("ada", "spank-vm --config /opt/ways/site.toml run -v --image tiny --vm-mem 300 -- true").stderr;
    assert!(again.contains("did not come up by it") && !again.contains("out of order"), "{again}");
    let checked = lab.sh("ada", "spank-vm --config /opt/ways/site.toml check").stdout;
    assert!(checked.contains("small-microvm.verdict says so"), "{checked}");
    forget(lab);
}

fn no_small_machine(lab: &Lab) {
    let wrapper = "#!/bin/sh\\ncase \"$*\" in *\"-machine microvm\"*) exit 1 ;; esac\\nexec /usr/bin/qemu-system-x86_64 \"$@\"\\n";
    let said = with_programs(lab, &format!("printf '{wrapper}' >qemu; cp qemu qemu-microvm; chmod +x qemu*"), "");
    assert!(said.contains("machine q35 of /opt/ways/qemu;"), "{said}");
    forget(lab);
}

fn hanging_program(lab: &Lab) {
    let make = format!("{REAL}; printf '#!/bin/sh\\nexec sleep 1000\\n' >qemu-microvm; chmod +x qemu-microvm");
    let said = with_programs(lab, &make, "kvm_timeout_s = 30");
    assert!(
        said.contains("not started by machine microvm of /opt/ways/qemu-microvm: ")
            && said.contains("no answer within"),
        "{said}"
    );
    forget(lab);
}

fn pinned(lab: &Lab) {
    let small = "cp /usr/bin/qemu-system-x86_64-microvm qemu-microvm";
    let said = with_programs(lab, &format!("{REAL}; {small}"), "machine = \"q35\"");
    assert!(said.contains("machine q35 of /opt/ways/qemu;") && !said.contains("not started by"), "{said}");
    forget(lab);
}

/// A script in QEMU's place gives up if it can do what a guest would that has broken out.
fn walled(lab: &Lab) {
    let script = "#!/bin/sh\n\
        case \"$*\" in *-sandbox*)\n\
            cat /home/ada/secret && exit 9\n\
            ls /home/ada && exit 9\n\
            (: >/home/ada/new) && exit 9 ;;\n\
        esac >/dev/null 2>&1\n\
        exec /usr/bin/qemu-system-x86_64 \"$@\"\n";
    lab.sh("ada", "echo secret >secret; chmod 600 secret").ok();
    let make = format!("cat >qemu <<'END'\n{script}END\nchmod +x qemu");
    let said = with_programs(lab, &make, "confine_qemu = \"require\"");
    assert!(said.contains("machine microvm of /opt/ways/qemu;"), "{said}");
    let off = "sed s/require/off/ /opt/ways/site.toml >off.toml; \
               spank-vm --config off.toml run --image tiny --vm-mem 300 -- true || rm -f off.toml new secret";
    let off = lab.sh("ada", off);
    assert!(off.code == 0 && off.stderr.contains("QEMU failed with code 9"), "{off:?}");
    // QEMU itself, in all other tests.
    let checked = lab.sh("ada", "spank-vm check --node --json").stdout;
    assert!(checked.contains("QEMU opens no file of its user (Landlock ABI "), "{checked}");
    lab.sh("ada", "spank-vm --config /opt/ways/site.toml template remove tiny");
    lab.root("rm -rf /opt/ways /var/cache/spank-vm/templates/users/*/*microvm.verdict");
}
