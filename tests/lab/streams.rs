//! Exit status, signals, bytes and terminals.

use testkit::lab::Lab;

use crate::{Case, case};

pub const CASES: &[Case] = &[
    case("exit_codes_and_deaths_by_signal_are_those_of_a_bare_step", ends),
    case("stdout_and_stderr_stay_apart", two_outputs).once(),
    case("10_MB_pass_through_the_standard_streams_unchanged", bytes).nightly(),
    case("a_signal_sent_with_scancel_reaches_the_command", signal).once(),
    case("scancel_ends_a_vm_step", cancel).once(),
    case("an_interactive_step_has_a_terminal_of_the_user_s_size", terminal),
];

fn ends(lab: &Lab) {
    let script = r#"
        for how in 'exit 7' 'kill -SEGV $$' 'exec no-such-command'; do
            for image in none tiny; do
                srun --mem=500 --vm-image=$image sh -c "ulimit -c 0; $how" 2>err
                echo $? $(grep -o 'task 0: .*' err)
            done
        done"#;
    let stdout = lab.sh("ada", script).ok();
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 6, "{stdout}");
    for pair in lines.chunks(2) {
        assert_eq!(pair[0], pair[1], "bare and in a VM");
    }
    assert!(lines[0].starts_with("7 "), "{stdout}");
}

fn two_outputs(lab: &Lab) {
    let step = lab.sh("ada", "srun --mem=500 --vm-image=tiny sh -c 'echo out; echo err >&2'");
    assert_eq!((step.stdout.as_str(), step.stderr.as_str()), ("out\n", "err\n"));
}

fn bytes(lab: &Lab) {
    let script = r"
        head -c 10000000 /dev/urandom > bytes
        srun --mem=500 --vm-image=tiny cat < bytes | cmp - bytes && echo equal; rm bytes";
    assert_eq!(lab.sh("ada", script).ok(), "equal\n");
}

fn signal(lab: &Lab) {
    let script = r#"
        rm -f started
        srun --mem=500 -J signalled --vm-image=tiny sh -c 'trap "echo got USR1; exit 3" USR1; : > started; while :; do sleep 0.1; done' &
        until [ -e started ]; do sleep 0.1; done
        scancel -s USR1 -n signalled; wait $!; echo $?"#;
    assert_eq!(lab.sh("ada", script).ok(), "got USR1\n3\n");
}

fn cancel(lab: &Lab) {
    let script = r#"
        rm -f started
        srun --mem=500 -J cancelled --vm-image=tiny sh -c ': > started; exec sleep 1000' &
        until [ -e started ]; do sleep 0.1; done
        scancel -n cancelled; wait $!; [ $? -ne 0 ] && echo ended"#;
    assert_eq!(lab.sh("ada", script).ok(), "ended\n");
}

fn terminal(lab: &Lab) {
    let inner = "stty rows 33 cols 99; exec srun --mem=500 --vm-image=tiny --pty sh -c \"tty; stty size; exit 5\"";
    let step = lab.sh("ada", &format!("script -qec '{inner}' /dev/null"));
    assert_eq!(step.code, 5, "{step:?}");
    assert!(step.stdout.contains("/dev/") && step.stdout.contains("33 99"), "{step:?}");
}
