//! Where the time of a VM goes.

use std::fmt;
use std::time::{Duration, Instant};

use proto::BootTimes;

/// The moments of one VM's life. Moments that were not reached stay empty.
#[derive(Debug, Clone)]
pub struct Moments {
    /// The runner began.
    pub begin: Instant,
    /// A template was there, found or made.
    pub template: Option<Instant>,
    /// QEMU was started.
    pub spawned: Option<Instant>,
    /// The guest of a clone continued where its template was stopped.
    pub resumed: Option<Instant>,
    /// The agent answered.
    pub ready: Option<Instant>,
    /// The guest's own account of its boot.
    pub boot: BootTimes,
    /// The command runs.
    pub started: Option<Instant>,
    /// The command's first byte arrived.
    pub first_output: Option<Instant>,
    /// The command has ended and its output is here.
    pub ended: Option<Instant>,
    /// QEMU is gone.
    pub gone: Option<Instant>,
}

impl Moments {
    /// A life that begins now.
    pub fn begin(begin: Instant) -> Self {
        Self {
            begin,
            template: None,
            spawned: None,
            resumed: None,
            ready: None,
            boot: BootTimes::default(),
            started: None,
            first_output: None,
            ended: None,
            gone: None,
        }
    }

    /// The phases that were reached, each with its length.
    pub fn phases(&self) -> Vec<(&'static str, Duration)> {
        let guest = |from: u32, to: u32| Duration::from_millis(to.saturating_sub(from).into());
        let mut phases = Vec::new();
        let mut since = self.begin;
        let mut until = |name, moment: Option<Instant>, phases: &mut Vec<_>| {
            if let Some(moment) = moment {
                phases.push((name, moment.duration_since(since)));
                since = moment;
            }
        };
        until("template", self.template, &mut phases);
        until("prepare", self.spawned, &mut phases);
        if self.template.is_some() {
            until("qemu", self.resumed, &mut phases);
            until("wake", self.ready, &mut phases);
        } else if self.ready.is_some() {
            let mut boot = Vec::new();
            until("boot", self.ready, &mut boot);
            let total: Duration = boot.iter().map(|(_, length)| *length).sum();
            // The guest's clock starts with its kernel: the time before it is QEMU and the kernel's loading.
            let inside = Duration::from_millis(self.boot.ready_ms.into());
            phases.push(("qemu", total.saturating_sub(inside)));
            phases.push(("kernel", guest(0, self.boot.agent_ms)));
            phases.push(("modules", guest(self.boot.agent_ms, self.boot.modules_ms)));
            phases.push(("root", guest(self.boot.modules_ms, self.boot.ready_ms)));
        }
        until("exec", self.started, &mut phases);
        until("command", self.ended, &mut phases);
        until("teardown", self.gone, &mut phases);
        phases
    }
}

impl fmt::Display for Moments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, length)) in self.phases().iter().enumerate() {
            let blank = if number == 0 { "" } else { " " };
            write!(f, "{blank}{name}={:.1}ms", length.as_secs_f64() * 1e3)?;
        }
        if let Some(first) = self.first_output {
            write!(f, " first_output={:.1}ms", first.duration_since(self.begin).as_secs_f64() * 1e3)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_has_no_kernel_phase() {
        let begin = Instant::now();
        let at = |ms| Some(begin + Duration::from_millis(ms));
        let moments = Moments {
            template: at(1),
            spawned: at(5),
            resumed: at(45),
            ready: at(65),
            boot: BootTimes { agent_ms: 700, modules_ms: 800, ready_ms: 850 },
            ..Moments::begin(begin)
        };
        assert_eq!(moments.to_string(), "template=1.0ms prepare=4.0ms qemu=40.0ms wake=20.0ms");
    }

    #[test]
    fn phases_add_up_and_split_the_boot_by_the_guests_clock() {
        let begin = Instant::now();
        let at = |ms| Some(begin + Duration::from_millis(ms));
        let moments = Moments {
            spawned: at(5),
            ready: at(1005),
            boot: BootTimes { agent_ms: 700, modules_ms: 800, ready_ms: 850 },
            started: at(1020),
            ended: at(1100),
            ..Moments::begin(begin)
        };
        let text = moments.to_string();
        assert_eq!(
            text,
            "prepare=5.0ms qemu=150.0ms kernel=700.0ms modules=100.0ms root=50.0ms exec=15.0ms command=80.0ms"
        );
    }
}
