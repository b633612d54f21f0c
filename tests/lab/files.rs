//! Directories of the host in a guest.

use testkit::lab::Lab;

use crate::{Case, case};

pub const CASES: &[Case] = &[
    case("what_a_vm_writes_into_the_home_is_the_user_s_file_on_the_host", home),
    case("what_a_vm_writes_elsewhere_dies_with_it", elsewhere).once(),
    case("a_saved_vm_is_an_image_of_its_user", save).nightly(),
    case("a_file_of_the_user_s_own_is_an_image", own_file).nightly(),
    case("a_lock_on_a_file_holds_between_a_vm_and_the_node_s_processes", flocks).nightly(),
    case("a_lock_on_a_part_of_a_file_holds_between_a_vm_and_the_node_s_processes", range_locks).nightly(),
    case("a_removed_file_is_still_a_file_for_who_has_it_open", unlinked).once(),
    case("room_for_a_file_is_set_aside_and_given_back_on_the_node", fallocate).nightly(),
    case("the_time_of_a_file_has_its_nanoseconds_on_both_sides", times).nightly(),
];

/// A step of ada's with a full Debian, which has these programs.
const STEP: &str = "srun --mem=700 --vm-image=debian12";

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

/// Both take the same lock: while one has it the other is refused, and who waits gets it when the other ends.
fn both_ways(lab: &Lab, lock: &str, try_lock: &str) {
    let script = format!(
        r#"
        rm -f lock held go; : > lock
        hold() {{ {lock} sh -c ': > held; until [ -e go ]; do sleep 0.1; done'; }}
        # The node has it.
        hold & until [ -e held ]; do sleep 0.1; done
        {STEP} {try_lock} echo in vain; echo "in a VM $?"
        {STEP} {lock} sh -c '[ -e go ] && echo waited' & sleep 3; : > go; wait
        # A VM has it.
        rm -f held go
        {STEP} {lock} sh -c ': > held; until [ -e go ]; do sleep 0.1; done' & until [ -e held ]; do sleep 0.1; done
        {try_lock} echo in vain; echo "on the node $?"
        : > go; wait; {try_lock} echo free"#
    );
    let ended = lab.sh("ada", &script);
    lab.root("touch /home/ada/go");
    assert_eq!(ended.stdout, "in a VM 1\nwaited\non the node 1\nfree\n", "{ended:?}");
}

fn flocks(lab: &Lab) {
    both_ways(lab, "flock lock", "flock -n lock");
}

/// The same with fcntl's locks, of the second byte. `take` and `try` run a command while they have it.
fn range_locks(lab: &Lab) {
    let program = r#"
        use Fcntl; my $how = shift; open(my $file, "+<", "lock") or die;
        my $second_byte = pack("s s x4 q q i x4", F_WRLCK, 0, 1, 1, 0);
        fcntl($file, $how eq "try" ? F_SETLK : F_SETLKW, $second_byte) or exit 1;
        exit(system(@ARGV) >> 8);"#;
    lab.sh("ada", &format!("cat >range.pl <<'END'{program}\nEND\n")).ok();
    both_ways(lab, "perl range.pl take", "perl range.pl try");
}

fn unlinked(lab: &Lab) {
    let program = r#"
        open(my $file, "+>", "unlinked") or die; unlink "unlinked" or die;
        syswrite($file, "text " x 1000) == 5000 or die "write: $!";
        my @is = stat($file) or die "stat: $!"; print "$is[3] links, $is[7] bytes\n";
        truncate($file, 4) or die "truncate: $!"; chmod(0600, $file) or die "chmod: $!";
        open(my $again, "<", "/proc/self/fd/" . fileno($file)) or die "open again: $!";
        print readline($again), "\n"; sysseek($file, 0, 0); sysread($file, my $text, 9); print "$text\n";"#;
    let script =
        format!("cat >unlinked.pl <<'END'{program}\nEND\n{STEP} perl unlinked.pl; ls unlinked .nfs* 2>/dev/null");
    let ended = lab.sh("ada", &script);
    assert_eq!(ended.stdout, "0 links, 5000 bytes\ntext\ntext\n", "{ended:?}");
}

fn fallocate(lab: &Lab) {
    let script = format!(
        "rm -f room; {STEP} sh -c 'fallocate -l 1M room && fallocate -n -o 1M -l 1M room' && stat -c '%s %b' room
         {STEP} fallocate -p -o 0 -l 512K room && stat -c '%s %b' room; rm -f room"
    );
    let ended = lab.sh("ada", &script);
    assert_eq!(ended.stdout, "1048576 4096\n1048576 3072\n", "{ended:?}");
}

fn times(lab: &Lab) {
    let script = format!(
        "rm -f timed; touch -d '2024-02-03 04:05:06.123456789 UTC' timed-here
         {STEP} sh -c 'touch -d \"2024-02-03 04:05:06.987654321 UTC\" timed; stat -c %.9Y timed timed-here'
         stat -c %.9Y timed; rm -f timed timed-here"
    );
    let ended = lab.sh("ada", &script);
    let expected = "1706933106.987654321\n1706933106.123456789\n1706933106.987654321\n";
    assert_eq!(ended.stdout, expected, "{ended:?}");
}
