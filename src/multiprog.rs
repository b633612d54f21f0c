//! The programs of `srun --multi-prog`: a text with a line for each range of tasks, from which each node takes the
//! command lines of its own tasks.

use request::STEP_PROGRAM;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The text with [`STEP_PROGRAM`] before every program. A node without the plugin finds no such program; the runner
/// drops the word. Lines are split as slurmstepd does (`multi_prog_get_argv`): a line after a backslash continues the
/// one before, `#` begins a comment.
pub fn hidden(text: &OsStr) -> OsString {
    let mut hidden = Vec::with_capacity(text.len() + 64);
    let mut continues = false;
    for line in text.as_bytes().split_inclusive(|&byte| byte == b'\n') {
        let content = line.strip_suffix(b"\n").unwrap_or(line);
        let program = if continues { None } else { program_in(content) };
        // Slurm skips empty lines.
        if !content.is_empty() {
            continues = content.ends_with(b"\\");
        }
        let (tasks, rest) = line.split_at(program.unwrap_or(0));
        hidden.extend_from_slice(tasks);
        if program.is_some() {
            hidden.extend_from_slice(STEP_PROGRAM.as_bytes());
            hidden.push(b' ');
        }
        hidden.extend_from_slice(rest);
    }
    OsString::from_vec(hidden)
}

/// Where the program begins on a line that has one.
fn program_in(line: &[u8]) -> Option<usize> {
    let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let tasks = line.iter().position(|byte| !is_space(byte)).filter(|&begin| line[begin] != b'#')?;
    let end = tasks + line[tasks..].iter().position(is_space)?;
    Some(end + line[end..].iter().position(|byte| !is_space(byte)).unwrap_or(line.len() - end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &str) -> String {
        hidden(OsStr::new(text)).into_string().unwrap()
    }

    #[test]
    fn every_program_gets_the_word_before_it() {
        assert_eq!(
            after("0 ./a x\n1-3\t sh -c 'b'\n* c"),
            "0 spank-vm-step ./a x\n1-3\t spank-vm-step sh -c 'b'\n* spank-vm-step c"
        );
        assert_eq!(after("0 \n"), "0 spank-vm-step \n", "nothing to run is not run either");
    }

    #[test]
    fn comments_empty_lines_and_continued_ones_have_no_program() {
        let text = "# 0 a\n\n  0 a \\\n1 b\n  # \\\n2 c\n3 d\\\n\n4 e\n5 f\nbroken\n";
        let expected = "# 0 a\n\n  0 spank-vm-step a \\\n1 b\n  # \\\n2 c\n3 spank-vm-step d\\\n\n4 e\n5 spank-vm-step f\nbroken\n";
        assert_eq!(after(text), expected);
    }
}
