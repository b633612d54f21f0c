//! `--vm-publish`: ports of the node that lead into the virtual machine.

use crate::error::RequestError;
use crate::values::{entries, shown};
use crate::vm_option::{About, VmOption};

/// `--vm-publish`.
#[derive(Debug)]
pub struct VmPublish;

/// A TCP port of the node, on all its addresses, that leads to a port of the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// On the node.
    pub host: u16,
    /// In the VM.
    pub guest: u16,
}

/// Lower ports are root's.
const FIRST_HOST_PORT: u16 = 1024;

/// Most ports of a VM.
const MOST: usize = 64;

impl VmOption for VmPublish {
    const ABOUT: About = About {
        name: "vm-publish",
        argument: Some("HOSTPORT:GUESTPORT,..."),
        is_list: true,
        help: "[vm] TCP ports of the node that lead to ports of the virtual machine (with --vm-net=user)",
        readme: "TCP ports of the node that lead to ports of the VM, with `--vm-net=user`",
        run_name: "publish",
        run_help: "TCP ports of this host that lead to ports of the VM, with --net=user (repeatable)",
    };

    type Value = Vec<Published>;

    /// Reads entries separated by commas; names the first that is not valid.
    fn parse(text: &str) -> Result<Vec<Published>, RequestError> {
        let wrong = |entry: &str, why: &str| RequestError(format!("--vm-publish='{}': {why}", shown(entry)));
        let mut ports: Vec<Published> = Vec::new();
        for entry in entries(text) {
            let port = parse_entry(&entry).ok_or_else(|| {
                let why =
                    "HOSTPORT:GUESTPORT is needed, a host port from 1024 to 65535 and a guest port from 1 to 65535";
                wrong(&entry, why)
            })?;
            if ports.iter().any(|other| other.host == port.host) {
                return Err(wrong(&entry, "this port of the node is published already: give each one once"));
            }
            ports.push(port);
        }
        if ports.len() > MOST {
            return Err(wrong(text, &format!("{} ports, and at most {MOST} can be published", ports.len())));
        }
        Ok(ports)
    }

    fn text(value: &Vec<Published>) -> String {
        let entry = |port: &Published| format!("{}:{}", port.host, port.guest);
        value.iter().map(entry).collect::<Vec<_>>().join(",")
    }
}

fn parse_entry(entry: &str) -> Option<Published> {
    let (host, guest) = entry.split_once(':')?;
    // Digits only: "+80" and " 80" are typing errors.
    let port = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
    let (host, guest) = (port(host)?, port(guest)?);
    (host >= FIRST_HOST_PORT && guest > 0).then_some(Published { host, guest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_in_pairs_and_are_read_back() {
        let ports = VmPublish::parse("8080:80,65535:1").unwrap();
        assert_eq!(ports, [Published { host: 8080, guest: 80 }, Published { host: 65535, guest: 1 }]);
        assert_eq!(VmPublish::text(&ports), "8080:80,65535:1");
    }

    #[test]
    fn what_is_no_pair_of_ports_is_refused_with_its_text() {
        for bad in ["", "80", "80:80", "1023:1", "8080:0", "8080:65536", "8080:80:1", "+8080:80", "a:b", "8080:80,"] {
            let error = VmPublish::parse(bad).unwrap_err().to_string();
            assert!(error.starts_with("--vm-publish='") && error.contains("from 1024 to 65535"), "{error}");
        }
        let twice = VmPublish::parse("8080:80,8080:81").unwrap_err().to_string();
        assert!(twice.starts_with("--vm-publish='8080:81': this port of the node"), "{twice}");
        let many: Vec<String> = (0..65).map(|n| format!("{}:80", 2000 + n)).collect();
        assert!(VmPublish::parse(&many.join(",")).unwrap_err().to_string().contains("at most 64"));
    }
}
