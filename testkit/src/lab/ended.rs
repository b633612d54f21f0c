//! How a script in a node VM ended.

/// Exit code and output of a script.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; 128 + signal when killed; 124 when it took too long; 255 when the node could not be reached.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ended {
    /// Asserts success and returns standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }

    /// Asserts failure, and that standard error has exactly one line of ours ("vm: …"), with all of `words` in it.
    #[track_caller]
    pub fn fails_saying(self, words: &[&str]) {
        assert_ne!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        let ours: Vec<&str> = self.stderr.lines().filter(|line| line.starts_with("vm: ")).collect();
        assert_eq!(ours.len(), 1, "one line of 'vm:' expected, got:\n{}", self.stderr);
        for word in words {
            assert!(ours[0].contains(word), "'{word}' is not in: {}", ours[0]);
        }
    }
}
