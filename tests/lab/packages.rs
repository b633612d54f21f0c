//! The Debian package on a node: installed, enabled, upgraded under a running job, and removed without residue.
//!
//! The lab's node has an installation by 'make install'. It is taken away first, so that the package is alone. The kit
//! goes with the package in the end, so these cases are the last ones of a node.

use testkit::lab::Lab;

use crate::{Case, case};

pub const CASES: &[Case] = &[
    case("the_package_alone_and_one_line_run_a_vm_job", installed),
    case("the_rule_for_udev_opens_kvm_to_all_users", opened),
    case("a_job_that_runs_while_the_package_is_upgraded_ends_well", upgraded),
    case("metrics_and_the_journal_count_what_ran_and_what_failed", counted),
    case("a_removed_package_leaves_nothing_but_images", removed),
];

const INSTALL: &str = include_str!("../../docs/install.md");

/// Words of its lines that are not typed, each with the reason.
const LEFT_OUT: [(&str, &str); 4] = [
    ("dnf ", "not Debian"),
    ("kit build", "the lab has a kit"),
    ("image import", "the lab has images"),
    ("srun ", "root may have no VM; ada types it"),
];

/// Where 'make lab-tree' puts the two packages.
const DIR: &str = "/usr/local/lib/spank-vm-packages";

/// What docs/install.md tells root to type in the part of this title, with this package.
fn typed(title: &str, package: &str) -> Vec<String> {
    let (_, part) = INSTALL.split_once(&format!("\n## {title}\n")).expect("a part of docs/install.md");
    let part = part.split("\n## ").next().unwrap_or_default();
    let lines = part.lines().filter_map(|line| line.strip_prefix("    ").map(str::trim));
    let lines = lines.filter(|line| !LEFT_OUT.iter().any(|(word, _)| line.contains(word)));
    // Nobody is there to say yes, nothing can be fetched, and the package is another file here.
    let here = |line: &str| match line.split_once("apt install ") {
        Some(_) => {
            format!("apt-get install --yes --no-install-recommends -o Dpkg::Options::=--force-confold {package}")
        }
        None => line.replace("apt purge", "apt-get purge --yes"),
    };
    lines.map(here).collect()
}

/// Types the lines, and waits for slurmd where one restarts it.
fn type_all(lab: &Lab, lines: &[String]) {
    for line in lines {
        lab.root(line);
        if line.contains("restart slurmd") {
            lab.wait_until("slurmd is back", "sinfo -h -o %T | grep -x idle");
        }
    }
}

fn installed(lab: &Lab) {
    // As Debian's own plugstack.conf is.
    let alone = r#"
        mkdir -p /etc/slurm/plugstack.conf.d
        echo 'include /etc/slurm/plugstack.conf.d/*' >/etc/slurm/plugstack.conf
        find /usr /etc/systemd -path /usr/local -prune -o \( -name "*spank-vm*" -o -name "spank_vm*" \) -print0 | xargs -0 rm -rf
        srun --help | grep -c -- --vm-image"#;
    assert_eq!(lab.sh("root", alone).stdout, "0\n");
    let lines = typed("From a package", &format!("{DIR}/old/*.deb"));
    let (package, rest) = lines.split_first().expect("lines");
    lab.root(package);
    assert_eq!(lab.root("srun --help | grep -c -- --vm-image || true"), "0\n", "nothing is in effect yet");
    type_all(lab, rest);
    assert_eq!(lab.sh("ada", "srun --mem=500 --vm-image=tiny echo fine").ok(), "fine\n");
    let checked = lab.sh("root", "spank-vm check --json --image tiny --user ada");
    assert!(checked.code == 0 && checked.stdout.contains(r#""name": "slurmd""#), "{checked:?}");
    assert!(!checked.stdout.contains(r#""state": "missing""#), "{checked:?}");
}

fn opened(lab: &Lab) {
    assert_ne!(lab.sh("bob", "test -w /dev/kvm").code, 0, "bob is not in the group");
    type_all(lab, &typed("KVM for all users", ""));
    lab.wait_until("KVM is open to all", "[ \"$(stat -c %a /dev/kvm)\" = 666 ]");
    let said = lab.sh("bob", "srun --mem=500 --vm-image=tiny echo fine");
    assert!(said.stderr.is_empty() && said.stdout == "fine\n", "{said:?}");
    lab.root("rm /etc/udev/rules.d/70-spank-vm-kvm.rules");
}

fn upgraded(lab: &Lab) {
    let script = "rm -f started go ended
        sbatch -Q --mem=500 --vm-image=tiny -o /dev/null --wrap ': > started; until [ -e go ]; do sleep 0.2; done; : > ended'";
    lab.sh("ada", script).ok();
    lab.wait_until("the job runs", "[ -e /home/ada/started ]");
    let listed = lab.root("spank-vm ps");
    assert!(listed.contains(" tiny ") && listed.contains(" run "), "{listed}");
    assert!(
        listed.lines().last().is_some_and(|line| line.starts_with("total: 1 ") && line.contains(" 1/1 ")),
        "{listed}"
    );
    lab.root(&format!(
        "sed -i 's/^boot_timeout_s = .*/boot_timeout_s = 179/' /etc/slurm/spank-vm.toml; \
         dpkg --force-confold --install {DIR}/new/*.deb"
    ));
    assert_eq!(lab.sh("ada", "srun --mem=400 --overcommit --vm-image=tiny echo new").ok(), "new\n");
    lab.root("touch /home/ada/go");
    lab.wait_until("the job ended", "[ -e /home/ada/ended ] && [ -z \"$(squeue -h)\" ]");
    lab.root("grep -x 'boot_timeout_s = 179' /etc/slurm/spank-vm.toml; systemctl restart slurmd");
    lab.wait_until("slurmd is back", "sinfo -h -o %T | grep -x idle");
}

fn counted(lab: &Lab) {
    let step = lab.sh("ada", "srun --mem=500 --vm-image=tiny no-such-command");
    assert_eq!(step.code, 127, "{step:?}");
    lab.root("journalctl --sync");
    let fields = lab.root("journalctl -t spank-vm -o json -n 200 --no-pager | grep F_REASON | tail -n1");
    for field in ["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID", "F_IMAGE", "F_VM", "F_PHASE", "F_REASON"] {
        assert!(fields.contains(&format!("\"{field}\"")), "{field} is not in {fields}");
    }
    assert!(fields.contains(r#""F_REASON":"not_found""#), "{fields}");
    let metrics = lab.root(
        "mkdir -p /var/lib/prometheus/node-exporter && systemctl start spank-vm-metrics && cat /var/lib/prometheus/node-exporter/*.prom",
    );
    let number = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).unwrap_or(-1.0)
    };
    assert!(number("spank_vm_start_seconds_count{way=\"clone\"}") >= 1.0, "{metrics}");
    assert!(number("spank_vm_failures_total{reason=\"not_found\"}") >= 1.0, "{metrics}");
    assert!(number("spank_vm_cache_bytes{cache=\"templates\",owner=\"users\"}") > 0.0, "{metrics}");
}

fn removed(lab: &Lab) {
    let refused = lab.sh("root", "dpkg --remove spank-vm");
    assert!(refused.code != 0 && refused.stderr.contains("take that line out first"), "{refused:?}");
    let lines = typed("Removal", "");
    let (plugstack, rest) = lines.split_first().expect("lines");
    lab.root(plugstack);
    let refused = lab.sh("root", "dpkg --remove spank-vm");
    assert!(refused.code != 0 && refused.stderr.contains("without its Prolog no job would start"), "{refused:?}");
    type_all(lab, rest);
    let left = r#"
        find / -xdev \( -path /proc -o -path /home -o -path /usr/local -o -path /var/log -o -path /var/lib/dpkg -o -path /tmp \) -prune \
            -o \( -name "*spank-vm*" -o -name "spank_vm*" \) ! -path /var/lib/spank-vm -print
        ls /var/lib/spank-vm"#;
    let left = lab.root(left);
    assert!(left.lines().all(|line| ["images", "lost+found", "root"].contains(&line)), "{left}");
    assert_eq!(lab.sh("ada", "srun --mem=500 echo bare").ok(), "bare\n");
}
