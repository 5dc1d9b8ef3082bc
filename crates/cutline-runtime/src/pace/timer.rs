//! Threads as exact as the machine allows: their sleeps, their turns, and the processors they run on.

use std::time::Duration;

/// Asks the kernel to end this thread's sleeps as soon as they are due, rather than up to 50
/// microseconds later to save wake-ups. Does nothing where there is no such setting.
pub fn precise_sleeps() {
    #[cfg(target_os = "linux")]
    #[allow(unsafe_code)]
    // SAFETY: PR_SET_TIMERSLACK takes one integer, touches no memory of ours, and changes only the
    // calling thread; its failure leaves the default in place, which is harmless.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong, 0, 0, 0);
    }
}

/// How long this thread has been ready to run while others had its processors, as the kernel counts
/// it; `None` where it does not tell.
pub fn waited() -> Option<Duration> {
    let line = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanos = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

/// Asks the kernel for short turns of this thread and of those that it starts: where a thread that
/// computes holds the processor, this one gets it as soon as it has something to do, not when the
/// other's turn of milliseconds is over. For threads that serve sockets, which do little at a time:
/// a message that crosses between two busy processors needs many turns on both. Shares of the
/// processor stay what they are. Does nothing where the kernel knows no such setting (Linux before
/// 6.12).
pub fn short_turns() {
    // The shortest that the kernel grants.
    turns_of(100_000);
}

/// Takes back what [`short_turns`] asked for, for a thread that computes.
pub fn usual_turns() {
    turns_of(0);
}

/// Turns of so many nanoseconds; 0 is the kernel's own choice.
fn turns_of(nanos: u64) {
    #[cfg(target_os = "linux")]
    {
        /// The first version of the kernel's `struct sched_attr`.
        #[repr(C)]
        struct Attributes {
            size: u32,
            policy: u32,
            flags: u64,
            nice: i32,
            priority: u32,
            runtime: u64,
            deadline: u64,
            period: u64,
        }
        #[allow(unsafe_code)]
        // SAFETY: getpriority takes integers only. sched_setattr reads `size` bytes of a structure
        // of exactly that size and layout, keeps no pointer to it, and changes only the calling
        // thread; its failure leaves the default in place, which is harmless.
        unsafe {
            let attributes = Attributes {
                size: size_of::<Attributes>() as u32,
                policy: libc::SCHED_OTHER as u32,
                flags: 0,
                nice: libc::getpriority(libc::PRIO_PROCESS, 0),
                priority: 0,
                runtime: nanos,
                deadline: 0,
                period: 0,
            };
            libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = nanos;
}

/// Binds this thread, and the threads that it starts, to these processors; none means all. Does
/// nothing where the system has no such setting or no such processor.
pub fn pin(cores: &[usize]) {
    #[cfg(target_os = "linux")]
    if !cores.is_empty() {
        #[allow(unsafe_code)]
        // SAFETY: an all-zero `cpu_set_t` is an empty set; CPU_SET is given only indices below its
        // size, and sched_setaffinity reads exactly that set for the calling thread.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            for &core in cores.iter().filter(|&&core| core < libc::CPU_SETSIZE as usize) {
                libc::CPU_SET(core, &mut set);
            }
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = cores;
}

/// The processors that this thread may run on, in ascending order; empty where the system does not
/// say.
pub fn allowed() -> Vec<usize> {
    #[cfg(target_os = "linux")]
    {
        #[allow(unsafe_code)]
        // SAFETY: an all-zero `cpu_set_t` is an empty set, sched_getaffinity writes at most its
        // size, and CPU_ISSET is given only indices below it.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
                return Vec::new();
            }
            (0..libc::CPU_SETSIZE as usize).filter(|&core| libc::CPU_ISSET(core, &set)).collect()
        }
    }
    #[cfg(not(target_os = "linux"))]
    Vec::new()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_may_run_where_it_is_bound_to() {
        let all = allowed();
        let last = *all.last().unwrap();
        let bound = std::thread::spawn(move || {
            pin(&[last]);
            allowed()
        });
        assert_eq!(bound.join().unwrap(), [last]);
        assert_eq!(allowed(), all, "other threads are left alone");
    }

    #[test]
    fn turns_leave_a_threads_share_as_it_is() {
        // SAFETY: takes and returns integers only.
        #[allow(unsafe_code)]
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        std::thread::spawn(move || {
            let before = nice();
            short_turns();
            assert_eq!(nice(), before);
            usual_turns();
            assert_eq!(nice(), before);
        })
        .join()
        .unwrap();
    }
}
