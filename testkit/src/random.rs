//! Moments by chance, which can be had once more.

use std::time::SystemTime;

/// Random moments, different in each run. A run can be repeated: the seed is printed.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Another one in each run; `SPANK_VM_SEED` makes it the one of an earlier run, which has printed it.
    pub fn seeded() -> Self {
        let seed = std::env::var("SPANK_VM_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = || SystemTime::UNIX_EPOCH.elapsed().map_or(1, |now| now.as_nanos() as u64 | 1);
        let seed = seed.unwrap_or_else(now);
        println!("SPANK_VM_SEED={seed}");
        Self(seed)
    }

    /// A number less than `end` (xorshift).
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
