//! The processors of this process, on machines of any size: `cpu_set_t` ends at 1024.

#![allow(unsafe_code)]

use std::io;

/// Bytes of the first mask that the kernel is asked to fill: 1024 processors, as `cpu_set_t`.
const FIRST_BYTES: usize = 128;

/// And of the last: far more than any kernel can be built for (8192 processors).
const MOST_BYTES: usize = 64 << 10;

/// How many processors this process may run on.
///
/// # Errors
/// When the system does not tell.
pub(super) fn processors() -> io::Result<u32> {
    Ok(mask()?.iter().map(|word| word.count_ones()).sum())
}

/// The processors that this process may run on, a bit for each.
///
/// # Errors
/// When the system does not tell.
pub fn mask() -> io::Result<Vec<u64>> {
    ask_for_mask(|mask| {
        // SAFETY: the kernel writes at most as many bytes as it is told the mask has, and it is borrowed mutably.
        // The raw call, because libc's wants a mask of its own size.
        let filled = unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(mask), mask.as_mut_ptr()) };
        usize::try_from(filled).map_err(|_| io::Error::last_os_error())
    })
}

/// Lets this process, and what it starts from now on, run on these processors.
///
/// # Errors
/// When its cpuset has none of them.
pub fn run_on(mask: &[u64]) -> io::Result<()> {
    // SAFETY: the kernel only reads the mask, of which it is told the length.
    match unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask), mask.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How this process competes with others: its nice value, and class and level of its input and output.
pub fn priority() -> (i8, u16) {
    /// `IOPRIO_WHO_PROCESS` of `<linux/ioprio.h>`.
    const WHO_PROCESS: libc::c_int = 1;
    // SAFETY: both calls take numbers and touch no memory.
    let (nice, io) =
        unsafe { (libc::getpriority(libc::PRIO_PROCESS, 0), libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0)) };
    // An answer of -1 is also a nice value; what the system does not tell is the usual one.
    (i8::try_from(nice).unwrap_or(0), u16::try_from(io).unwrap_or(0))
}

/// What `ask` fills in, with masks that grow until the kernel takes one: it refuses (`EINVAL`) those that do not
/// have a bit for every processor that the machine could have. `ask` returns the number of bytes it wrote.
fn ask_for_mask(mut ask: impl FnMut(&mut [u64]) -> io::Result<usize>) -> io::Result<Vec<u64>> {
    let mut bytes = FIRST_BYTES;
    loop {
        let mut mask = vec![0u64; bytes / size_of::<u64>()];
        match ask(&mut mask) {
            Ok(filled) => {
                mask.truncate(filled.div_ceil(size_of::<u64>()));
                return Ok(mask);
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && bytes < MOST_BYTES => bytes *= 2,
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(ask: impl FnMut(&mut [u64]) -> io::Result<usize>) -> io::Result<u32> {
        Ok(ask_for_mask(ask)?.iter().map(|word| word.count_ones()).sum())
    }

    /// A kernel of so many possible processors that lets this process run on some of them.
    fn kernel(possible: usize, allowed: &[usize]) -> impl FnMut(&mut [u64]) -> io::Result<usize> {
        move |mask| {
            if mask.len() * 64 < possible {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            allowed.iter().for_each(|cpu| mask[cpu / 64] |= 1 << (cpu % 64));
            Ok(possible.div_ceil(64) * 8)
        }
    }

    #[test]
    fn processors_beyond_1024_are_counted() {
        assert_eq!(count(kernel(2, &[0, 1])).unwrap(), 2);
        assert_eq!(count(kernel(1024, &[1023])).unwrap(), 1);
        assert_eq!(count(kernel(1025, &[0, 1024])).unwrap(), 2);
        let all: Vec<usize> = (0..8192).collect();
        assert_eq!(count(kernel(8192, &all)).unwrap(), 8192);
    }

    #[test]
    fn a_kernel_that_takes_no_mask_is_not_asked_for_ever() {
        let mut asked = 0;
        let refuse = |_: &mut [u64]| {
            asked += 1;
            Err(io::Error::from_raw_os_error(libc::EINVAL))
        };
        assert_eq!(count(refuse).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert_eq!(asked, 10);
    }

    #[test]
    fn it_is_what_the_system_says_of_this_thread() {
        use nix::sched::{CpuSet, sched_getaffinity};
        let set = sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
        let known = (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap()).count();
        assert_eq!(processors().unwrap() as usize, known);
    }
}
