//! Devices and drivers of a guest that programs expect.

use testkit::Cluster;

use crate::Case;

pub const CASES: &[Case] = &[("programs_find_fuse_and_tun_and_root_finds_loop_devices", devices)];

fn devices(cluster: &Cluster) {
    // The mount is what the programs of AppImages and containers do without a right of root.
    let script = "for d in /dev/fuse /dev/net/tun; do ( : <>$d ) && echo $d; done; grep -wo fuse /proc/filesystems; \
                  unshare -Urm sh -c 'exec 3<>/dev/fuse; o=fd=3,rootmode=40000,user_id=0,group_id=0; \
                  mount -i -t fuse -o $o f /mnt && grep -o \"^f /mnt fuse\" /proc/mounts'";
    let stdout = cluster.srun(&["--vm-image=debian12", "--mem=600", "sh", "-c", script]).ok();
    assert_eq!(stdout, "/dev/fuse\n/dev/net/tun\nfuse\nf /mnt fuse\n");
    let script =
        "PATH=$PATH:/usr/sbin; truncate -s 1M /var/disk && losetup -f --show /var/disk && losetup -n -O BACK-FILE";
    let stdout = cluster.srun(&["--vm-image=debian12", "--mem=600", "--vm-root", "sh", "-c", script]).ok();
    assert_eq!(stdout, "/dev/loop0\n/var/disk\n");
}
