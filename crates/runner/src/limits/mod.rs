//! What the task may really use: the memory that its control groups allow, its processors, and its resource limits.
//!
//! Slurm tells a plugin what a step was promised. The enforced limit may differ: a site caps steps with its own
//! percentages, steps of a job share the job's memory (`srun --overlap`, a batch script beside its steps), and
//! slurmd itself may live in a limited slice or container. The guest must fit into the tightest limit, or the
//! kernel ends the step.

mod affinity;
mod cgroup;
mod resources;

use std::path::Path;

use crate::error::{Context, RunError};

pub(crate) use self::affinity::{mask, priority, run_on};
use self::cgroup::{Level, Owner};
pub use self::resources::take;
pub(crate) use self::resources::{Limit, OutputLimit, allow_mapping, allow_vm, blame, of_task, raise};

/// Memory that others in a job may use without making a share smaller: a batch script's shell must not
/// change a guest's size.
const NEGLIGIBLE_MIB: u64 = 16;

/// Memory of one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// In MiB.
    pub mib: u64,
    /// Why it is less than Slurm promised, as the end of a sentence; empty if it is not.
    pub because: String,
}

/// Memory of this task, one of `tasks` of its step on this node; `promised_mib` is Slurm's value.
/// `None` if there is no limit.
pub fn memory(promised_mib: Option<u64>, tasks: u32) -> Option<Memory> {
    divide(&cgroup::levels(Path::new("/")), promised_mib, u64::from(tasks.max(1)))
}

/// Whether the kernel has killed a process of this task because the memory that it may use was used up.
pub fn ran_out_of_memory() -> bool {
    cgroup::oom_kills(Path::new("/")) > 0
}

fn divide(levels: &[Level], promised_mib: Option<u64>, tasks: u64) -> Option<Memory> {
    let enforced = levels.iter().filter(|level| level.owner != Owner::Node).filter_map(|level| {
        let limit = level.limit_mib?;
        let because = format!(" (the limit of {} is {limit} MiB, shared by {tasks} tasks)", level.name);
        Some(Memory { mib: limit / tasks, because: if promised_mib.is_some() { because } else { String::new() } })
    });
    let promised = promised_mib.map(|mib| Memory { mib, because: String::new() });
    // Of equal limits the first: Slurm's value, which needs no explanation. A limit of the whole node is no task's share.
    let share = promised.into_iter().chain(enforced).min_by_key(|memory| memory.mib)?;
    // But above the step, memory that others use is not available.
    let step_uses = levels.iter().rfind(|level| level.owner == Owner::Step).map_or(0, |step| step.used_mib);
    let room = levels.iter().filter(|level| level.owner != Owner::Step).filter_map(|level| {
        let limit = level.limit_mib?;
        let others = level.used_mib.saturating_sub(step_uses);
        let because = format!(" (of the {limit} MiB of {}, {others} MiB are in use by others)", level.name);
        (others > NEGLIGIBLE_MIB).then_some(Memory { mib: limit.saturating_sub(others) / tasks, because })
    });
    [share].into_iter().chain(room).min_by_key(|memory| memory.mib)
}

/// Processors this process may run on: those that Slurm bound the task to. The kernel keeps this set within the
/// cpuset.
///
/// # Errors
/// When the system does not tell.
pub fn processors() -> Result<u32, RunError> {
    Ok(affinity::processors().context("processor affinity")?.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(owner: Owner, limit_mib: impl Into<Option<u64>>, used_mib: u64) -> Level {
        let name = match owner {
            Owner::Step => "step_0",
            Owner::Job => "job_7",
            Owner::Node => "system.slice",
        };
        Level { name: name.into(), owner, limit_mib: limit_mib.into(), used_mib }
    }

    fn mib(levels: &[Level], promised: impl Into<Option<u64>>, tasks: u64) -> Option<u64> {
        divide(levels, promised.into(), tasks).map(|memory| memory.mib)
    }

    #[test]
    fn tasks_share_what_is_enforced_for_their_step() {
        let step = [level(Owner::Step, None, 2), level(Owner::Step, 600, 4), level(Owner::Job, 600, 5)];
        assert_eq!(divide(&step, Some(300), 2), Some(Memory { mib: 300, because: String::new() }));
        assert_eq!(mib(&step, None, 2), Some(300));
    }

    #[test]
    fn the_tighter_of_promise_and_enforcement_counts() {
        let step = [level(Owner::Step, 900, 4), level(Owner::Job, 1000, 5)];
        let memory = divide(&step, Some(1000), 1).unwrap();
        assert_eq!(memory.mib, 900);
        assert_eq!(memory.because, " (the limit of step_0 is 900 MiB, shared by 1 tasks)");
        // A site that allows steps more than they asked for has not promised that memory.
        assert_eq!(mib(&step, 800, 1), Some(800));
    }

    #[test]
    fn what_other_steps_of_the_job_use_is_not_there() {
        let step = [level(Owner::Step, 2000, 4), level(Owner::Job, 2000, 804)];
        let memory = divide(&step, Some(2000), 1).unwrap();
        assert_eq!(memory.mib, 1200);
        assert_eq!(memory.because, " (of the 2000 MiB of job_7, 800 MiB are in use by others)");
        let beside_a_script = [level(Owner::Step, 2000, 4), level(Owner::Job, 2000, 12)];
        assert_eq!(mib(&beside_a_script, 2000, 1), Some(2000));
    }

    #[test]
    fn the_limit_of_a_container_is_no_share_but_must_be_kept() {
        let container = level(Owner::Node, 4000, 3000);
        assert_eq!(mib(std::slice::from_ref(&container), None, 1), None);
        assert_eq!(mib(&[level(Owner::Step, None, 10), container], 2000, 1), Some(1010));
    }

    #[test]
    fn without_any_limit_there_is_none() {
        assert_eq!(mib(&[], None, 1), None);
        assert_eq!(mib(&[level(Owner::Step, None, 10), level(Owner::Node, None, 900)], None, 4), None);
    }

    #[test]
    fn this_process_has_a_processor() {
        assert!(processors().unwrap() >= 1);
    }
}
