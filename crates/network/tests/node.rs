//! A step's network on a node, made for real: as root, in network namespaces of its own. Each test is a process that leaves its
//! network, so that nothing of the machine is touched.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use network::make::{Made, Part, make};
use network::plan::{NODES_MOST, mac};
use network::trial;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sched::{CloneFlags, setns, unshare};

const BROADCAST: [u8; 6] = [0xff; 6];

/// Bytes before the frame: `struct virtio_net_hdr`.
const VNET: usize = 10;

/// A case in a process of its own.
const CASE: &str = "SPANK_VM_NETWORK_CASE";

type Case = (&'static str, fn());

const CASES: &[Case] = &[
    ("vms_on_one_node_reach_each_other_and_forged_addresses_catch_nothing", one_node),
    ("vms_on_two_nodes_reach_each_other_through_the_tunnel", two_nodes),
    ("another_step_hears_nothing_and_a_user_s_packets_are_no_frames", hostile),
    ("a_step_of_as_many_nodes_as_there_may_be_has_its_part_on_each", many_nodes),
    ("a_node_whose_users_may_send_from_root_s_ports_has_no_tunnels", open_ports),
    ("everything_is_gone_when_the_last_descriptor_is_closed", gone),
    ("what_cannot_be_is_said_in_one_line", refused),
    ("a_port_that_another_program_has_is_named", taken),
    ("nobody_but_root_makes_a_network", powerless),
    ("a_trial_says_what_is_possible_and_leaves_the_network_as_it_was", tried),
];

fn main() {
    if let Ok(name) = std::env::var(CASE) {
        let (_, case) = CASES.iter().find(|(case, _)| *case == name).expect("a case");
        unshare(CloneFlags::CLONE_NEWNET).expect("root is needed");
        return case();
    }
    let arguments = Arguments::from_args();
    let trials = CASES.iter().map(|(name, _)| Trial::test(*name, || in_a_process(name)));
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

fn in_a_process(name: &str) -> Result<(), Failed> {
    let output = Command::new("/proc/self/exe").env(CASE, name).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
    }
}

fn ip(words: &str) {
    let done = Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(done.success(), "ip {words}");
}

/// This process's network, to come back to.
fn here() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

/// A new network that is joined to others by a bridge, as a node is: `10.77.0.NUMBER` on `eth0`.
fn node(switch: &File, number: u8) -> File {
    setns(switch, CloneFlags::CLONE_NEWNET).unwrap();
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let node = here();
    ip("link set lo up");
    setns(switch, CloneFlags::CLONE_NEWNET).unwrap();
    // Moved by this process's number while it is there.
    ip(&format!("link add port{number} type veth peer name eth0"));
    let mut child = in_network(&node, &["sleep", "5"]);
    ip(&format!("link set eth0 netns {}", child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
    ip(&format!("link set port{number} master switch up"));
    setns(&node, CloneFlags::CLONE_NEWNET).unwrap();
    ip(&format!("addr add 10.77.0.{number}/24 dev eth0"));
    ip("link set eth0 up");
    node
}

fn in_network(network: &File, command: &[&str]) -> std::process::Child {
    let back = here();
    setns(network, CloneFlags::CLONE_NEWNET).unwrap();
    let child = Command::new(command[0]).args(&command[1..]).spawn().unwrap();
    setns(&back, CloneFlags::CLONE_NEWNET).unwrap();
    child
}

fn switch() -> File {
    ip("link add switch type bridge");
    ip("link set switch up");
    here()
}

fn part(job: u32, vms: &[u32], node: usize) -> Part {
    let address = |number: usize| Ipv4Addr::new(10, 77, 0, number as u8 + 1);
    Part {
        job,
        step: 0,
        vms: vms.to_vec(),
        node,
        addresses: (0..vms.len()).map(address).collect(),
        port: 4789,
        range: "100.80.0.0/16".parse().unwrap(),
    }
}

fn made_on(node: &File, part: &Part) -> Made {
    setns(node, CloneFlags::CLONE_NEWNET).unwrap();
    make(part).unwrap()
}

/// A guest on a tap.
struct Guest(File);

impl Guest {
    fn on(tap: &OwnedFd) -> Self {
        fcntl(tap, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        Self(File::from(tap.try_clone().unwrap()))
    }

    fn send(&mut self, from: [u8; 6], to: [u8; 6], text: &str) {
        let mut frame = vec![0; VNET];
        frame.extend(to);
        frame.extend(from);
        // A type that nobody else uses.
        frame.extend([0x88, 0xb5]);
        frame.extend(format!("{text:<60}").into_bytes());
        self.0.write_all(&frame).unwrap();
    }

    /// The texts that come within a while; the first ends the wait.
    fn hears(&mut self, within: Duration) -> Vec<String> {
        let deadline = Instant::now() + within;
        let mut heard = Vec::new();
        let mut buffer = [0; 4096];
        while Instant::now() < deadline && heard.is_empty() {
            while let Ok(count) = self.0.read(&mut buffer) {
                if count > VNET + 14 && buffer[VNET + 12..VNET + 14] == [0x88, 0xb5] {
                    heard.push(String::from_utf8_lossy(&buffer[VNET + 14..count]).trim().to_owned());
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        heard
    }
}

const SOON: Duration = Duration::from_secs(5);
const A_WHILE: Duration = Duration::from_millis(500);

fn one_node() {
    let made = make(&part(1, &[3], 0)).unwrap();
    assert_eq!((made.taps.len(), made.mtu, made.guard.is_none()), (3, 1500, true));
    let [mut a, mut b, mut c] = [0, 1, 2].map(|index| Guest::on(&made.taps[index]));
    a.send(mac(0, 0), mac(0, 1), "to b");
    assert_eq!(b.hears(SOON), ["to b"]);
    a.send(mac(0, 0), BROADCAST, "to all");
    assert_eq!((b.hears(SOON), c.hears(SOON)), (vec!["to all".to_owned()], vec!["to all".to_owned()]));
    assert!(c.hears(Duration::ZERO).is_empty(), "what was for b only");
    // A guest that claims another's address gets none of its frames.
    c.send(mac(0, 1), BROADCAST, "I am b");
    assert_eq!(a.hears(SOON), ["I am b"]);
    b.hears(SOON);
    a.send(mac(0, 0), mac(0, 1), "secret");
    assert_eq!(b.hears(SOON), ["secret"]);
    assert!(c.hears(A_WHILE).is_empty());
    // Addresses without end are learnt by nobody, and frames to strangers reach nobody.
    for n in 0..1000_u16 {
        let [x, y] = n.to_be_bytes();
        c.send([2, 9, 9, 9, x, y], [2, 8, 8, 8, x, y], "flood");
    }
    assert!(a.hears(A_WHILE).is_empty() && b.hears(Duration::ZERO).is_empty());
    let known = Command::new("bridge").args(["fdb", "show", "br", "br"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&known.stdout).contains("02:09:09"), "{known:?}");
}

fn two_nodes() {
    let switch = switch();
    let nodes = [node(&switch, 1), node(&switch, 2)];
    let vms = [2, 1];
    let [first, second] = [0, 1].map(|place| made_on(&nodes[place], &part(7, &vms, place)));
    assert_eq!(first.mtu, 1450);
    let (mut a, mut c) = (Guest::on(&first.taps[0]), Guest::on(&second.taps[0]));
    a.send(mac(0, 0), mac(1, 0), "across");
    assert_eq!(c.hears(SOON), ["across"]);
    c.send(mac(1, 0), BROADCAST, "back");
    assert_eq!(a.hears(SOON), ["back"]);
}

fn hostile() {
    let switch = switch();
    let nodes = [node(&switch, 1), node(&switch, 2), node(&switch, 3)];
    let victims = [0, 1].map(|place| made_on(&nodes[place], &part(7, &[1, 1], place)));
    let others = [0, 1].map(|place| made_on(&nodes[place], &part(8, &[1, 1], place)));
    let mut victim = Guest::on(&victims[1].taps[0]);
    let mut other = Guest::on(&others[0].taps[0]);
    // The other step's guest, with the addresses of the victim's.
    other.send(mac(0, 0), mac(1, 0), "forged");
    other.send(mac(0, 0), BROADCAST, "forged");
    assert_eq!(Guest::on(&others[1].taps[0]).hears(SOON)[0], "forged");
    assert!(victim.hears(A_WHILE).is_empty());
    // VXLAN in UDP, to each of the nodes: from a user's port of a node of the step, and from root's of a node that is none.
    let mut frame = vec![8, 0, 0, 0];
    frame.extend(&network::plan::number(7, 0).to_be_bytes()[1..]);
    frame.push(0);
    frame.extend(mac(1, 0));
    frame.extend(mac(0, 0));
    frame.extend([0x88, 0xb5]);
    frame.extend([b'x'; 60]);
    for (from, address, port) in [(0, "10.77.0.1", 5000), (1, "10.77.0.2", 5000), (2, "10.77.0.3", 600)] {
        setns(&nodes[from], CloneFlags::CLONE_NEWNET).unwrap();
        let socket = std::net::UdpSocket::bind((address, port)).unwrap();
        socket.send_to(&frame, "10.77.0.2:4789").unwrap();
        assert!(victim.hears(A_WHILE).is_empty(), "from {address}:{port}");
    }
    // The same from root's port of a node of the step is the tunnel's own: so it was the table that refused the others.
    setns(&nodes[0], CloneFlags::CLONE_NEWNET).unwrap();
    std::net::UdpSocket::bind("10.77.0.1:600").unwrap().send_to(&frame, "10.77.0.2:4789").unwrap();
    assert_eq!(victim.hears(SOON), ["x".repeat(60)]);
    // And the victims still reach each other.
    Guest::on(&victims[0].taps[0]).send(mac(0, 0), mac(1, 0), "friend");
    assert_eq!(victim.hears(SOON), ["friend"]);
}

fn many_nodes() {
    let switch = switch();
    let node = node(&switch, 1);
    setns(&node, CloneFlags::CLONE_NEWNET).unwrap();
    ip("route add 10.77.0.0/16 dev eth0");
    let address = |number: usize| Ipv4Addr::new(10, 77, (number / 200) as u8, (number % 200) as u8 + 1);
    let addresses = (0..NODES_MOST).map(address).collect();
    let part = Part { vms: vec![1; NODES_MOST], addresses, ..part(7, &[1], 0) };
    assert_eq!(made_on(&node, &part).taps.len(), 1);
}

fn open_ports() {
    const FIRST_OF_USERS: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    let switch = switch();
    let node = node(&switch, 1);
    setns(&node, CloneFlags::CLONE_NEWNET).unwrap();
    std::fs::write(FIRST_OF_USERS, "1023").unwrap();
    make(&part(7, &[1], 0)).unwrap();
    setns(&node, CloneFlags::CLONE_NEWNET).unwrap();
    let error = make(&part(7, &[1, 1], 0)).unwrap_err().to_string();
    assert!(error.contains("net.ipv4.ip_unprivileged_port_start = 1023"), "{error}");
    let range = part(1, &[1], 0).range;
    let tried = trial::run(range, 4789);
    let error = tried.across_nodes.unwrap().unwrap_err().to_string();
    assert!(error.contains("net.ipv4.ip_unprivileged_port_start = 1023"), "{error}");
    std::fs::write(FIRST_OF_USERS, "1024").unwrap();
    make(&part(7, &[1, 1], 0)).unwrap();
}

fn gone() {
    let switch = switch();
    let nodes = [node(&switch, 1), node(&switch, 2)];
    let part = part(9, &[2, 1], 0);
    let made = made_on(&nodes[0], &part);
    setns(&nodes[0], CloneFlags::CLONE_NEWNET).unwrap();
    let error = make(&part).unwrap_err().to_string();
    assert!(error.contains("nftables") || error.contains("another network"), "{error}");
    drop(made);
    // The kernel takes a namespace back in its own time.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        setns(&nodes[0], CloneFlags::CLONE_NEWNET).unwrap();
        match make(&part) {
            Ok(_) => return,
            Err(error) if Instant::now() > deadline => panic!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn refused() {
    ip("link set lo up");
    let error = |part: &Part| make(part).unwrap_err().to_string();
    let same = Part { addresses: vec![[127, 0, 0, 1].into(); 2], ..part(1, &[1, 1], 0) };
    assert!(error(&same).contains("the address 127.0.0.1 (NodeAddr)"), "{}", error(&same));
    let nowhere = part(1, &[1, 1], 0);
    assert!(
        error(&nowhere).contains("no way from 10.77.0.1 (this node's NodeAddr) to 10.77.0.2"),
        "{}",
        error(&nowhere)
    );
    ip("addr add 100.80.3.4/32 dev lo");
    let error = error(&part(1, &[1], 0));
    assert!(error.contains("the address 100.80.3.4 (lo) in the range of VMs, 100.80.0.0/16"), "{error}");
}

fn taken() {
    let switch = switch();
    let nodes = [node(&switch, 1), node(&switch, 2)];
    setns(&nodes[0], CloneFlags::CLONE_NEWNET).unwrap();
    let _other = std::net::UdpSocket::bind("0.0.0.0:4789").unwrap();
    let error = make(&part(1, &[1, 1], 0)).unwrap_err().to_string();
    assert!(error.contains("UDP port 4789") && error.contains("'job_network_port'"), "{error}");
}

fn powerless() {
    let switch = switch();
    let nodes = [node(&switch, 1), node(&switch, 2)];
    setns(&nodes[0], CloneFlags::CLONE_NEWNET).unwrap();
    let nobody = nix::unistd::Uid::from_raw(65534);
    nix::unistd::setresuid(nobody, nobody, nobody).unwrap();
    let error = |part: &Part| make(part).unwrap_err().to_string();
    let [alone, across] = [error(&part(1, &[1], 0)), error(&part(1, &[1, 1], 0))];
    assert!(alone.contains("is slurmd root?") && across.contains("nftables"), "{alone}\n{across}");
}

fn tried() {
    let links = || Command::new("ip").args(["-brief", "link"]).output().unwrap().stdout;
    let before = links();
    let range = part(1, &[1], 0).range;
    let whole = trial::run(range, 4789);
    assert!(whole.on_a_node.is_ok() && matches!(whole.across_nodes, Some(Ok(()))), "{whole:?}");
    ip("link set lo up");
    ip("addr add 100.80.3.4/32 dev lo");
    let lacks = trial::run(range, 4789);
    assert!(lacks.on_a_node.is_err() && lacks.across_nodes.is_none(), "{lacks:?}");
    ip("addr del 100.80.3.4/32 dev lo");
    ip("link set lo down");
    assert_eq!(links(), before);
}
