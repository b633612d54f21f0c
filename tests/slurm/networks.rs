//! `--vm-net`: none and user.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use testkit::wait::wait_for;
use testkit::{Cluster, system};

use crate::Case;
use crate::documents::{code, type_in};

pub const CASES: &[Case] = &[
    ("a_vm_without_a_network_has_no_device_but_the_loopback", none),
    ("a_user_network_leads_out_of_the_vm_and_a_published_port_leads_in", user),
    ("a_network_that_cannot_be_had_is_refused_in_one_line", refused),
];

/// It unpacks and installs for half a minute.
pub const LONG_CASES: &[Case] = &[("the_line_that_installs_a_package_works_as_it_is_written", package)];

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

/// The line of docs/images.md. Instead of Debian's mirror, the VM is told of one on the node, which has one package.
fn package(cluster: &Cluster) {
    let lines: Vec<String> = code("docs/images.md").into_iter().filter(|line| line.contains("apt-get")).collect();
    assert!(lines.len() == 1 && lines[0].contains("install -y jq"), "{lines:?}");
    let dir = cluster.work_dir();
    let port = mirror(&dir.join("mirror"));
    fs::write(dir.join("sources"), format!("deb [trusted=yes] http://10.0.2.2:{port}/ ./\n")).unwrap();
    let sources = format!("export SPANK_VM_MOUNT='{}/sources:/etc/apt/sources.list:ro'; ", dir.display());
    type_in(cluster, &dir, &sources, "", &lines);
    type_in(cluster, &dir, "", "", &["[ \"$(srun -Q --vm-image=mine jq)\" = 'of the mirror' ]".to_owned()]);
}

/// Serves a repository of Debian packages that has a program `jq`, and returns its port.
fn mirror(dir: &Path) -> u16 {
    let root = dir.join("root");
    fs::create_dir_all(root.join("DEBIAN")).unwrap();
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    let control =
        "Package: jq\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: test\n";
    fs::write(root.join("DEBIAN/control"), control).unwrap();
    fs::write(root.join("usr/bin/jq"), "#!/bin/sh\necho of the mirror\n").unwrap();
    system(&["chmod", "755", root.join("usr/bin/jq").to_str().unwrap()]);
    let file = dir.join("jq.deb");
    system(&["dpkg-deb", "--root-owner-group", "--build", root.to_str().unwrap(), file.to_str().unwrap()]);
    let sum = system(&["sha256sum", file.to_str().unwrap()]);
    let (sum, deb) = (sum.split_whitespace().next().unwrap(), fs::read(&file).unwrap());
    let index = format!("{control}Filename: ./jq.deb\nSize: {}\nSHA256: {sum}\n\n", deb.len());
    let files = HashMap::from([("/./Packages", index.into_bytes()), ("/./jq.deb", deb)]);
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = service.local_addr().unwrap().port();
    thread::spawn(move || {
        for peer in service.incoming().flatten() {
            let files = files.clone();
            thread::spawn(move || serve(&peer, &files));
        }
    });
    port
}

/// Answers one request after the other, until the peer has no more.
fn serve(mut peer: &TcpStream, files: &HashMap<&str, Vec<u8>>) {
    let mut lines = BufReader::new(peer).lines().map_while(Result::ok);
    while let Some(request) = lines.next() {
        let _ = lines.by_ref().take_while(|line| !line.is_empty()).count();
        let name = request.split(' ').nth(1).unwrap_or_default();
        let (code, data) = files.get(name).map_or(("404 Not Found", &[][..]), |data| ("200 OK", data));
        let head = format!("HTTP/1.1 {code}\r\nContent-Length: {}\r\n\r\n", data.len());
        if peer.write_all(head.as_bytes()).and_then(|()| peer.write_all(data)).is_err() {
            return;
        }
    }
}
