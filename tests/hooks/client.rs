//! srun and sbatch: what they send, and how they end.

use super::stand_in::{ALL_WELL, INIT, Node, Slurm, after};

#[test]
fn srun_hides_the_command_of_a_vm_step() {
    let node = Node::new();
    let script = after(INIT, "option vm-image debian12\nhook init_post_opt\nhook local_user_init\nshow\nhook exit\n");
    let answer = node.play(Slurm::Old, "srun", &script);
    assert!(
        answer.ends_with("init_post_opt = 0\nlocal_user_init = 0\nspank-vm-step 1, for sleep\nexit = 0\nalive\n"),
        "{answer}"
    );
}

#[test]
fn a_client_with_a_bad_option_says_one_line_and_exits() {
    let node = Node::new();
    for (options, line) in [
        ("option vm-image a;b\n", "error: vm: --vm-image='a;b': an image name is"),
        ("option vms-per-slot 4\n", "error: vm: --vms-per-slot=4 needs an image: add --vm-image=NAME"),
        ("option vm-image debain12\n", "error: vm: no image 'debain12'"),
    ] {
        for program in ["srun", "sbatch"] {
            let output = node.run(Slurm::Old, program, &after(INIT, &format!("{options}hook init_post_opt\n")), &[]);
            let text = String::from_utf8(output.stdout).unwrap();
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(text.lines().last().unwrap().starts_with(line), "{text}");
            assert_eq!(text.matches("error: ").count(), 1, "{text}");
        }
    }
}

#[test]
fn list_prints_the_catalogue_and_ends_the_client() {
    let node = Node::new();
    node.install("spank-vm", "echo \"$*\"; exit 3");
    let output = node.run(Slurm::Old, "sbatch", &after(INIT, "option vm-image list\n"), &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!((text, output.status.code()), (after(ALL_WELL, "image list\n"), Some(3)));
}
