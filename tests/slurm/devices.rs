//! Devices and drivers of a guest that programs expect.

use testkit::Cluster;

use crate::Case;

pub const CASES: &[Case] = &[("programs_find_fuse_and_tun_and_root_finds_loop_devices", devices)];

fn devices(cluster: &Cluster) {
    let script = "for d in /dev/fuse /dev/net/tun; do ( : <>$d ) && echo $d; done; grep -wo fuse /proc/filesystems";
    let stdout = cluster.srun(&["--vm-image=debian12", "--mem=600", "sh", "-c", script]).ok();
    assert_eq!(stdout, "/dev/fuse\n/dev/net/tun\nfuse\n");
    let script =
        "PATH=$PATH:/usr/sbin; truncate -s 1M /var/disk && losetup -f --show /var/disk && losetup -n -O BACK-FILE";
    let stdout = cluster.srun(&["--vm-image=debian12", "--mem=600", "--vm-root", "sh", "-c", script]).ok();
    assert_eq!(stdout, "/dev/loop0\n/var/disk\n");
}
