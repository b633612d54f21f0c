//! Namespaces, devices and networks.

use super::{Case, differs, same};

pub const CASES: &[Case] = &[
    same("devices", "root in a user namespace", "srun $VM unshare -Ur sh -c 'id -u; cat /proc/self/uid_map | wc -l'"),
    same(
        "devices",
        "mounts in a user namespace",
        "srun $VM unshare -Urm sh -c 'mount -t tmpfs none /mnt && : > /mnt/f && mount --bind /mnt /srv && ls /srv'; ls /srv",
    ),
    same(
        "devices",
        "processes in a namespace of their own",
        "srun $VM unshare -Urpf --mount-proc sh -c 'echo $$; ls -d /proc/[0-9]*'",
    ),
    same("devices", "a network namespace", "srun $VM unshare -Urn sh -c 'grep -c : /proc/net/dev; id -u'"),
    same(
        "devices",
        "another root directory in a user namespace",
        "srun $VM sh -c 'd=$(mktemp -d); unshare -Urm sh -c \"mount --rbind / $d && /usr/sbin/chroot $d /usr/bin/id -u\"; rmdir $d'",
    ),
    same(
        "devices",
        "an overlay in a user namespace, as containers use it",
        "srun $VM unshare -Urm sh -c 'mount -t tmpfs t /mnt; cd /mnt; mkdir l u w m; echo lower > l/f; \
         mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w m && echo upper >> m/f && cat m/f l/f'",
    ),
    same(
        "devices",
        "all namespaces and another root, as bubblewrap makes them",
        "srun $VM unshare -UrmpiunC --fork sh -c 'mount --rbind / /mnt && cd /mnt && /usr/sbin/pivot_root . mnt && \
         umount -l /mnt && mount -t proc proc /proc && mount -t tmpfs tmpfs /tmp && mount -o remount,bind,ro / && \
         echo $$ $(id -u) $(ls -A /tmp | wc -l)'",
    ),
    same(
        "devices",
        "random numbers, null, zero and full",
        "srun $VM sh -c 'head -c 3 /dev/urandom | wc -c; head -c 2 /dev/zero | od -An -tx1; \
         cat /dev/null; ! echo x 2> /dev/null > /dev/full'",
    ),
    differs(
        "devices",
        "networks",
        "srun $VM sh -c 'ls /sys/class/net | grep -vc ^lo'",
        "a VM has no network but its own loopback unless --vm-net asks for one",
    ),
];
