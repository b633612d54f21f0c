//! `--vm-net`: none and user.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use testkit::Cluster;
use testkit::wait::wait_for;

use crate::Case;

pub const CASES: &[Case] = &[
    ("a_vm_without_a_network_has_no_device_but_the_loopback", none),
    ("a_user_network_leads_out_of_the_vm_and_a_published_port_leads_in", user),
    ("a_network_that_cannot_be_had_is_refused_in_one_line", refused),
];

const DEVICES: &str = "ls /sys/class/net";

fn none(cluster: &Cluster) {
    assert_eq!(cluster.srun(&["--vm-image=tiny", "sh", "-c", DEVICES]).ok(), "lo\n");
    cluster.with_config("default_network = 'user'\n", || {
        assert_eq!(cluster.srun(&["--vm-image=tiny", "sh", "-c", DEVICES]).ok(), "eth0\nlo\n");
        assert_eq!(cluster.srun(&["--vm-image=tiny", "--vm-net=none", "sh", "-c", DEVICES]).ok(), "lo\n");
    });
}

fn user(cluster: &Cluster) {
    // A service of the host, which the guest finds at its gateway.
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = service.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut peer in service.incoming().flatten() {
            let _ = peer.write_all(b"outside\n");
        }
    });
    // Some port that nobody has now.
    let free = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let publish = format!("--vm-publish={free}:80");
    let script = format!("nc 10.0.2.2 {port} </dev/null; head -1 /etc/resolv.conf; echo inside | nc -l -p 80");
    let step = ["srun", "-Q", "--vm-image=tiny", "--vm-root", "--vm-net=user", &publish, "sh", "-c", &script];
    let mut command = cluster.command_in(&cluster.work_dir(), &step);
    let running = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    // QEMU takes the connection before anybody listens in the guest, and closes it again.
    let heard = wait_for("the answer of the guest", || {
        let mut peer = TcpStream::connect(("127.0.0.1", free)).ok()?;
        peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut text = String::new();
        peer.read_to_string(&mut text).ok().filter(|&bytes| bytes > 0).map(|_| text)
    });
    assert_eq!(heard, "inside\n");
    let output = running.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "outside\nnameserver 10.0.2.3\n");
    assert!(output.status.success(), "{output:?}");
}

fn refused(cluster: &Cluster) {
    let srun = |options: &[&str], expected: &[&str]| {
        cluster.srun(&[&["-Q", "--vm-image=tiny"], options, &["true"]].concat()).fails_with_one_line(expected);
    };
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let publish = format!("--vm-publish={port}:80");
    srun(&["--vm-net=user", &publish], &["--vm-publish: port", &port.to_string(), "is taken", "choose another"]);
    srun(&[&publish], &["--vm-publish=", "only VMs with --vm-net=user"]);
    srun(&["--vm-net=user", &publish, "--vms-per-slot=2"], &["--vm-publish with --vms-per-slot=2", "one VM only"]);
    srun(&["--vm-net=bridge"], &["--vm-net='bridge'", "is needed"]);
    srun(&["--vm-net=user", "--vm-publish=80:80"], &["--vm-publish='80:80'", "from 1024"]);
    cluster.with_config("allowed_networks = []\n", || {
        srun(&["--vm-net=user"], &["--vm-net=user: this site allows no network", "'allowed_networks'"]);
    });
}
