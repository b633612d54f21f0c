//! The processors of tasks that share a VM: the VM has those of all of them, and each task runs on its own.

use crate::limits;

/// Bits of a word of a mask.
const WORD: usize = u64::BITS as usize;

/// The processors of all tasks together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Union(Vec<u64>);

impl Union {
    /// Adds a task's.
    pub fn add(&mut self, mask: &[u64]) {
        if self.0.len() < mask.len() {
            self.0.resize(mask.len(), 0);
        }
        self.0.iter_mut().zip(mask).for_each(|(all, own)| *all |= own);
    }

    /// Lets this process, and QEMU, run on them. If that is not allowed, on what this process has.
    pub fn take(&self) {
        if let Err(error) = limits::run_on(&self.0) {
            tracing::warn!("the VM runs on the processors of one task: {error}");
        }
    }

    /// The numbers that a task's processors have in a VM of `cpus` processors, as a mask of bytes; `None` if the task may
    /// use all of them. The VM's processors are these, in their order.
    pub fn in_vm(&self, mask: &[u64], cpus: u32) -> Option<Vec<u8>> {
        let cpus = cpus.max(1) as usize;
        let numbers = (0..self.0.len() * WORD).filter(|&cpu| has(&self.0, cpu)).enumerate();
        let own: Vec<usize> = numbers.filter(|(_, cpu)| has(mask, *cpu)).map(|(number, _)| number % cpus).collect();
        let mut bytes = vec![0; cpus.div_ceil(8)];
        own.iter().for_each(|number| bytes[number / 8] |= 1 << (number % 8));
        let count: u32 = bytes.iter().map(|byte: &u8| byte.count_ones()).sum();
        (count > 0 && count < cpus as u32).then_some(bytes)
    }
}

fn has(mask: &[u64], cpu: usize) -> bool {
    mask.get(cpu / WORD).is_some_and(|word| word & 1 << (cpu % WORD) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn union(masks: &[&[u64]]) -> Union {
        let mut union = Union::default();
        masks.iter().for_each(|mask| union.add(mask));
        union
    }

    #[test]
    fn a_task_s_processors_are_numbered_as_the_vm_s() {
        // Processors 4, 6 | 70 of the node are 0, 1 | 2 of the VM.
        let (first, second) = ([0b101_0000], [0, 1 << 6]);
        let union = union(&[&first, &second]);
        assert_eq!(union.in_vm(&first, 3), Some(vec![0b011]));
        assert_eq!(union.in_vm(&second, 3), Some(vec![0b100]));
    }

    #[test]
    fn a_task_that_may_use_all_is_not_bound() {
        let union = union(&[&[0b11], &[0b11]]);
        assert_eq!(union.in_vm(&[0b11], 2), None);
        // One that came late, with processors that the VM does not have.
        assert_eq!(union.in_vm(&[0b1100], 2), None);
    }

    #[test]
    fn a_smaller_vm_is_shared_evenly() {
        let union = union(&[&[0b0011], &[0b1100]]);
        assert_eq!(union.in_vm(&[0b0010], 2), Some(vec![0b10]));
        assert_eq!(union.in_vm(&[0b1000], 2), Some(vec![0b10]));
        assert_eq!(union.in_vm(&[0b1100], 2), None);
    }
}
