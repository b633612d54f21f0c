//! Directories of the host in a guest.

use testkit::lab::Lab;

use crate::{Case, case};

pub const CASES: &[Case] = &[
    case("what_a_vm_writes_into_the_home_is_the_user_s_file_on_the_host", home),
    case("what_a_vm_writes_elsewhere_dies_with_it", elsewhere),
    case("a_saved_vm_is_an_image_of_its_user", save),
    case("a_file_of_the_user_s_own_is_an_image", own_file),
];

fn home(lab: &Lab) {
    let script = "rm -rf made; srun --mem=500 --vm-image=tiny sh -c 'mkdir made; cd made; echo text > file; ln -s file link; \
                  chmod 640 file' && stat -c '%U:%G %a %n' made/file && readlink made/link && cat made/link";
    assert_eq!(lab.sh("ada", script).ok(), "ada:ada 640 made/file\nfile\ntext\n");
}

fn elsewhere(lab: &Lab) {
    let script = "srun --mem=500 --vm-image=tiny sh -c 'echo x > /tmp/lost-in-a-vm && cat /tmp/lost-in-a-vm'; ls /tmp/lost-in-a-vm";
    let step = lab.sh("ada", script);
    assert!(step.code != 0 && step.stdout == "x\n", "{step:?}");
}

fn save(lab: &Lab) {
    let script = "rm -rf .local/share/spank-vm/images/mine*
        srun --mem=600 --vm-image=tiny --vm-root --vm-save=mine sh -c 'echo kept > /etc/kept' &&
        srun --mem=600 --vm-image=mine cat /etc/kept; code=$?; rm -rf .local/share/spank-vm/images/mine*; exit $code";
    assert_eq!(lab.sh("ada", script).ok(), "kept\n");
}

fn own_file(lab: &Lab) {
    let script = "cp /var/lib/spank-vm/images/tiny-*.squashfs own.squashfs
        srun --mem=500 --vm-image=./own.squashfs grep ^ID= /etc/os-release; code=$?; rm own.squashfs; exit $code";
    assert_eq!(lab.sh("ada", script).ok(), "ID=tiny\n");
}
