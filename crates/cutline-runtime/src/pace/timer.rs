//! Sleeps as exact as the machine allows.

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
