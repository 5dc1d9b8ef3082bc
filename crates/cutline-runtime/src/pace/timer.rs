//! Threads as exact as the machine allows: their sleeps, and the processors they run on.

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
}
