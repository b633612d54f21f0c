//! Text that others wrote and that root reads on a terminal; what is said of mistyped words.

use std::fs;
use std::process::Command;

/// Runs the program with somebody else's entry and returns what it wrote to stdout and stderr.
fn run(entry: &str, arguments: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("spank-vm.toml");
    fs::write(&config, format!("image_dirs = ['{}']\n", dir.path().display())).unwrap();
    fs::write(dir.path().join("theirs.toml"), entry).unwrap();
    // Enough of a squashfs for the file to be opened.
    fs::write(dir.path().join("theirs.squashfs"), b"hsqs").unwrap();
    fs::rename(&config, dir.path().join("config")).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_spank-vm"));
    let output = program.arg("--config").arg(dir.path().join("config")).args(arguments).output().unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[test]
fn an_entry_gives_the_terminal_no_orders_and_feigns_no_line() {
    let entry = "disk = 'theirs.squashfs'\nformat = 'squashfs'\n\
                 description = \"\\u001b[2Jcleared\\u009b31m \\u202eback\\ndebian12  1 G  site  yes  feigned\"\n";
    for arguments in [&["image", "list"][..], &["image", "show", "theirs"], &["image", "verify", "theirs"]] {
        let said = run(entry, arguments);
        assert!(said.contains("theirs"), "{arguments:?}: {said:?}");
        assert!(!said.contains(['\u{1b}', '\u{9b}', '\u{202e}', '\r']), "{arguments:?}: {said:?}");
        assert!(!said.lines().any(|line| line.starts_with("debian12")), "{arguments:?}: {said}");
    }
}

#[test]
fn an_entry_that_cannot_be_read_gives_none_either() {
    // The message shows the line.
    for entry in ["disk = \u{1b}[2J\n", "disk = 'x'\n\u{1b}]0;title\u{7} = 1\n"] {
        for arguments in [&["image", "list"][..], &["image", "show", "theirs"]] {
            let said = run(entry, arguments);
            assert!(said.contains("theirs") && !said.contains(['\u{1b}', '\u{7}']), "{arguments:?}: {said:?}");
        }
    }
}

#[test]
fn a_mistyped_option_of_run_is_a_mistake_and_no_command() {
    let said = run("", &["run", "--image=tiny", "--vm-meme=500M", "true"]);
    assert!(said.contains("'--vm-meme'") && said.contains("'--vm-mem'"), "{said}");
    // Behind the command's name, and behind two hyphens, they are the command's.
    for command in [&["ls", "--color"][..], &["--", "ls", "--color"], &["ls", "--", "-l"]] {
        let said = run("", &[&["run", "--image=tiny"], command].concat());
        assert!(said.contains("no image 'tiny'"), "{said}");
    }
}

#[test]
fn what_is_done_for_all_images_leaves_out_those_of_another_processor() {
    let entry = "disk = 'theirs.squashfs'\nformat = 'squashfs'\narch = 'sparc'\n";
    let why = "theirs: left out: it is for sparc, this node is ";
    let said = run(entry, &["image", "fetch", "--all"]);
    assert!(said.starts_with(why) && said.lines().count() == 1, "{said}");
    // Whoever names it is told that it is of no use here.
    let said = run(entry, &["image", "fetch", "theirs"]);
    assert!(said.contains("image 'theirs' is for sparc, this node is "), "{said}");
}
