//! Who the user is in a VM, whatever the image knows of other people.

use std::fs;
use std::path::Path;
use std::process::Command;

use testkit::place::built;
use testkit::{Cluster, ran, system};

use crate::Case;

pub const CASES: &[Case] = &[
    ("a_user_of_many_groups_and_a_large_uid_is_who_it_is_on_the_host", many_groups),
    ("an_image_s_own_accounts_do_not_hide_the_user", other_accounts),
    ("su_knows_the_user_in_a_vm_of_root", su),
];

/// It fetches a package, from where the images' packages come from, and makes an image with it.
pub const LONG_CASES: &[Case] = &[("sudo_and_su_in_an_image_let_the_user_do_what_the_image_allows", sudo)];

const USER: &str = "vmmany";
const GROUPS: u32 = 70;

/// An account of this machine that is removed again.
struct Account;

impl Account {
    fn add(home: &Path) -> Self {
        let account = Self;
        let script = format!(
            "for i in $(seq 1 {GROUPS}); do groupadd -g $((60000 + i)) vmproj$i; done; \
             useradd -M -d {} -s /bin/sh -c 'Many Groups' -u 3000000000 -g vmproj1 \
             -G $(seq -s, -f 'vmproj%g' 2 {GROUPS}) {USER} 2>/dev/null",
            home.display()
        );
        system(&["bash", "-c", &script]);
        account
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let script =
            format!("userdel {USER}; for i in $(seq 1 {GROUPS}); do groupdel vmproj$i; done 2>/dev/null; true");
        let _ = Command::new("bash").args(["-c", &script]).output();
    }
}

fn many_groups(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let _account = Account::add(&dir);
    system(&["chown", USER, dir.to_str().unwrap()]);
    let asked = "id; id -Gn; umask 022; : > f; chgrp vmproj64 f; stat -c '%U %G %u' f; getent passwd $(id -u) | cut -d: -f1,3-7";
    let of = |image: &str| {
        let option = format!("--vm-image={image}");
        ran(cluster.command_as(USER, &dir, &["srun", "-Q", &option, "sh", "-c", asked]).output().unwrap()).ok()
    };
    let bare = of("none");
    assert!(
        bare.contains("uid=3000000000(vmmany) gid=60001(vmproj1)") && bare.contains("vmproj64 3000000000"),
        "{bare}"
    );
    assert_eq!(of("debian12"), bare);
}

/// The user's number and name are other people's in the image, and its last line asks a name service.
fn other_accounts(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let uid = testkit::cluster::uid(&cluster.user);
    let root = built("rootfs").join("tiny.tar");
    let script = format!(
        "mkdir r && tar -C r -xf {} && printf 'other:x:{uid}:7:Other:/home/other:/bin/false\\n\
         {}:x:7777:7:Other:/home/other:/bin/false\\n+::::::\\n' >> r/etc/passwd && printf 'others:x:{uid}:other\\n+:::\\n' >> r/etc/group \
         && tar -C r -cf root.tar .",
        root.display(),
        cluster.user
    );
    ran(Command::new("bash").args(["-c", &script]).current_dir(&dir).output().unwrap()).ok();
    let images = cluster.dir.join("images");
    let archive = dir.join("root.tar");
    let words = ["image", "import", archive.to_str().unwrap(), "--name", "others", "--dir", images.to_str().unwrap()];
    cluster.tool("root", &words).ok();
    let asked =
        "id -un; id -gn; eval echo ~$(id -un); grep -c ^other: /etc/passwd; tail -n 1 /etc/passwd; : > f; stat -c %U f";
    let seen = cluster.run_in(&cluster.work_dir(), &["srun", "-Q", "--vm-image=others", "sh", "-c", asked]).ok();
    let bare = cluster.run(&["sh", "-c", "id -un; id -gn; eval echo ~$(id -un)"]).ok();
    assert_eq!(seen, format!("{bare}1\n+::::::\n{}\n", cluster.user));
    for name in fs::read_dir(&images).unwrap().flatten().map(|entry| entry.path()) {
        if name.file_name().is_some_and(|name| name.to_string_lossy().starts_with("others")) {
            fs::remove_file(name).unwrap();
        }
    }
}

fn su(cluster: &Cluster) {
    let script = format!("su {0} -c 'id -un; echo ~' && su - {0} -s /bin/sh -c 'id -un'", cluster.user);
    let home = cluster.run(&["sh", "-c", "echo ~"]).ok();
    let stdout = cluster.srun(&["-Q", "--vm-image=debian12", "--vm-root", "sh", "-c", &script]).ok();
    assert_eq!(stdout, format!("{0}\n{home}{0}\n", cluster.user));
}

fn sudo(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let fetched = "apt-get -o APT::Sandbox::User=root download sudo && chmod 644 sudo_*.deb";
    ran(Command::new("sh").args(["-c", fetched]).current_dir(&dir).output().unwrap()).ok();
    let config = format!("image_dirs = ['{}/images', '{}']\n", cluster.dir.display(), dir.display());
    cluster.with_config(&config, || {
        let rule = format!("{} ALL=(ALL) NOPASSWD: /usr/bin/id", cluster.user);
        let script = format!(
            "PATH=$PATH:/usr/sbin:/sbin; dpkg -i sudo_*.deb && echo '{rule}' >/etc/sudoers.d/rule && chmod 440 /etc/sudoers.d/rule"
        );
        let save = format!("--vm-save={}/allows", dir.display());
        let step = |options: &[&str], script: &str| {
            cluster.run_in(&dir, &[&["srun", "-Q", "--mem=700"], options, &["sh", "-c", script]].concat())
        };
        step(&["--vm-image=debian12", "--vm-root", &save], &script).ok();
        let script = "sudo -n id -u; sudo -n true; echo $?; echo wrong | su -c true; echo $?; sudo -n id -un; id -un";
        let asked = step(&["--vm-image=allows"], script);
        assert_eq!(asked.stdout, format!("0\n1\n1\nroot\n{}\n", cluster.user), "{asked:?}");
        let words = ["a password is required", "Authentication failure"];
        assert!(words.iter().all(|word| asked.stderr.contains(word)), "{asked:?}");
    });
}
