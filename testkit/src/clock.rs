//! A guest's clock beside its node's: what is done to it, and how wrong it certainly is.

/// The function `mark N` of a guest's shell: it makes the file markN, and notes in the file `times` the guest's time before and after that.
pub const MARK: &str = "mark() { a=$(date +%s.%N); : > mark$1; b=$(date +%s.%N); echo $a $b >> times; }";

/// Sets the clock an hour forward and back, with marks 0 to 4; after marks 1 and 3 it has nine seconds to come back.
pub const STEPS: &str = "sleep 3; mark 0; date -s '+1 hour' > /dev/null || exit 1; mark 1; sleep 9; mark 2; \
                         date -s '-1 hour' > /dev/null || exit 1; mark 3; sleep 9; mark 4";

/// Makes the clock 0.5 % too fast, with marks 0 to 6: it gains in half a minute what a bad one gains in an hour.
/// The call is adjtimex (159) with ADJ_TICK and a tick of 10050 µs.
pub const DRIFTS: &str = "mark 0; perl -e '$t = pack(\"L x4 q q q q l x4 q q q q q q\", 0x4000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10050) . \
                          \"\\0\" x 120; exit(syscall(159, $t) < 0)' || exit 1; for i in 1 2 3 4 5 6; do sleep 5; mark $i; done";

/// By how many milliseconds the clock was certainly wrong at each mark: `times` as the guest noted them, and when the node
/// saw the marks made, in seconds.
///
/// # Panics
/// When they are not as many, or no times.
pub fn errors_ms(times: &str, made: &[f64]) -> Vec<f64> {
    assert_eq!(times.lines().count(), made.len(), "{times}");
    let of = |(line, &node): (&str, &f64)| {
        let (before, after) = line.split_once(' ').unwrap();
        let (before, after): (f64, f64) = (before.parse().unwrap(), after.parse().unwrap());
        1000.0 * if node < before { before - node } else { (node - after).max(0.0) }
    };
    times.lines().zip(made).map(of).collect()
}

/// Whether the marks of [`STEPS`] were wrong where the clock had just been set, and nowhere else.
pub fn came_back(errors_ms: &[f64]) -> bool {
    let is_as_set = |(number, error): (usize, &f64)| match number {
        1 | 3 => *error > 3_000_000.0,
        _ => *error < MOST_MS,
    };
    errors_ms.len() == 5 && errors_ms.iter().enumerate().all(is_as_set)
}

/// Whether all marks were right.
pub fn held(errors_ms: &[f64]) -> bool {
    errors_ms.iter().all(|error| *error < MOST_MS)
}

/// How wrong a clock may be.
const MOST_MS: f64 = 50.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_wrong_by_what_lies_outside_the_guest_s_two_times() {
        assert_eq!(errors_ms("10.0 10.5\n20.0 20.5\n30.0 30.5\n", &[10.25, 19.0, 31.0]), [0.0, 1000.0, 500.0]);
    }

    #[test]
    fn a_clock_that_does_not_come_back_is_seen() {
        assert!(came_back(&[0.0, 3_600_000.0, 1.0, 3_600_000.0, 49.0]));
        for bad in [[0.0, 3_600_000.0, 3_600_000.0, 0.0, 0.0], [0.0, 3_600_000.0, 0.0, 60.0, 0.0], [0.0; 5]] {
            assert!(!came_back(&bad));
        }
        assert!(held(&[0.0, 49.0]) && !held(&[0.0, 51.0]));
    }
}
