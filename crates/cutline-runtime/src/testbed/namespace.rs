//! Namespaces of Linux: making them, running programs in them, and leaving nothing behind.
//!
//! A test bed is one user namespace, in which its owner may do what root may, and a network namespace
//! for each device. A namespace lives while a process is in it or a file of it is open: there is
//! nothing to delete, whatever way the processes end.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use thiserror::Error;

/// Settings that may keep users from making namespaces: the file, what it says then, what to do.
const SWITCHES: [(&str, &str, &str); 3] = [
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
];

/// Why no test bed can be made here.
#[derive(Debug, Error)]
pub enum Refusal {
    /// A program is missing.
    #[error("`{0}` is not installed; the package iproute2 has it")]
    Tool(&'static str),
    /// The system does not let its users make namespaces.
    #[error("this system refuses to make a network namespace ({cause}); {advice}")]
    Namespaces {
        /// What the system said.
        cause: String,
        /// What may allow it.
        advice: String,
    },
}

/// Whether a test bed can be made here: tries it.
pub fn possible() -> Result<(), Refusal> {
    for name in ["ip", "tc"] {
        let mut probe = tool(name);
        probe.arg("-V").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        probe.status().map_err(|_| Refusal::Tool(name))?;
    }
    let mut probe = tool("ip");
    isolate(probe.args(["link", "add", "probe", "type", "veth"]).stdin(Stdio::null()));
    let cause = match probe.output() {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let says = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    Err(Refusal::Namespaces { cause, advice: advice(&says) })
}

/// What root may do to allow namespaces, by what the files of settings say.
fn advice(says: &dyn Fn(&str) -> String) -> String {
    let refusing = SWITCHES.iter().filter(|(path, refuses, _)| says(path) == *refuses);
    let commands: Vec<String> = refusing.map(|(_, _, command)| format!("`{command}`")).collect();
    match commands.is_empty() {
        true => "in a container, it needs a profile that allows user namespaces, such as \
                 `--security-opt seccomp=unconfined`, or run this as root"
            .to_owned(),
        false => format!("root can allow it: {}", commands.join(" and ")),
    }
}

/// A program of the system's administrator, who is not every user's `PATH`.
pub fn tool(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin:/usr/bin:/bin"));
    command
}

/// Has a program run as root of a new user namespace, in a new network namespace where only the
/// loopback interface is, and not yet up. It is asked to end (SIGTERM) when the thread ends that
/// started it.
pub fn isolate(command: &mut Command) {
    #[allow(unsafe_code)]
    // SAFETY: both calls take no arguments and cannot fail.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let maps = [
        // Without it an ordinary user may not map groups; absent in old kernels.
        (c"/proc/self/setgroups", b"deny".to_vec(), true),
        (c"/proc/self/uid_map", format!("0 {user} 1").into_bytes(), false),
        (c"/proc/self/gid_map", format!("0 {group} 1").into_bytes(), false),
    ];
    let enter = move || {
        unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)?;
        for (path, text, optional) in &maps {
            write(path, text).or_else(|error| if *optional { Ok(()) } else { Err(error) })?;
        }
        // Only now: a change of credentials clears it.
        end_with_parent(libc::SIGTERM)
    };
    #[allow(unsafe_code)]
    // SAFETY: between fork and exec the closure makes system calls only: it neither allocates nor
    // takes a lock, for what it writes was put together before.
    unsafe {
        command.pre_exec(enter);
    }
}

/// Has a program killed when the thread ends that started it.
pub fn end_with_thread(command: &mut Command) {
    #[allow(unsafe_code)]
    // SAFETY: the closure makes one system call.
    unsafe {
        command.pre_exec(|| end_with_parent(libc::SIGKILL));
    }
}

/// A network namespace; it lives as long as this value and the processes in it.
#[derive(Clone, Debug)]
pub struct Namespace {
    file: Arc<File>,
}

impl Namespace {
    /// Makes one, with its loopback interface down.
    pub fn new() -> io::Result<Self> {
        // A thread may be in another network namespace than its process; this one leaves for good.
        let made = thread::spawn(|| {
            unshare(libc::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let file = made.join().map_err(|_| io::Error::other("the thread failed"))??;
        Ok(Self { file: Arc::new(file) })
    }

    /// A program that will run in it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        self.contain(&mut command);
        command
    }

    /// Has a program run in it.
    pub fn contain(&self, command: &mut Command) {
        let file = Arc::clone(&self.file);
        #[allow(unsafe_code)]
        // SAFETY: the closure makes one system call, on a file that it keeps open.
        unsafe {
            command.pre_exec(move || set_namespace(file.as_raw_fd(), libc::CLONE_NEWNET));
        }
    }

    /// Moves this thread there, and with it those that it starts.
    pub fn enter(&self) -> io::Result<()> {
        set_namespace(self.file.as_raw_fd(), libc::CLONE_NEWNET)
    }

    /// Writes a setting of the namespace, e.g. `net/ipv4/ip_forward`.
    pub fn set(&self, setting: &str, value: &str) -> io::Result<()> {
        let (path, value) = (Path::new("/proc/sys").join(setting), value.to_owned());
        let here = self.clone();
        // Such a file is that of the reading thread's namespace.
        let set = thread::spawn(move || here.enter().and_then(|()| fs::write(path, value)));
        set.join().map_err(|_| io::Error::other("the thread failed"))?
    }

    /// A path by which others can open it while this process lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }
}

/// Has a program run in the user namespace of a process and in one of its network namespaces, as
/// root of both. The caller must have started that process, or be in its namespace already.
pub fn join(command: &mut Command, process: u32, network: &Path) -> io::Result<()> {
    let user = File::open(format!("/proc/{process}/ns/user"))?;
    let network = File::open(network)?;
    let there = user_namespace(process)? == user_namespace(std::process::id())?;
    let enter = move || {
        if !there {
            set_namespace(user.as_raw_fd(), libc::CLONE_NEWUSER)?;
        }
        set_namespace(network.as_raw_fd(), libc::CLONE_NEWNET)
    };
    #[allow(unsafe_code)]
    // SAFETY: the closure makes system calls only, on files that it keeps open.
    unsafe {
        command.pre_exec(enter);
    }
    Ok(())
}

/// Names the user namespace of a process.
pub fn user_namespace(process: u32) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/user"))
}

/// Kills every process of a user namespace but this one, until there is none.
pub fn sweep(namespace: &Path) {
    // More rounds than a program can fork itself ahead of by accident.
    for _ in 0..100 {
        let mut found = false;
        for process in processes().into_iter().filter(|&process| process != std::process::id()) {
            // Another's process cannot be looked at, and is not ours.
            if user_namespace(process).is_ok_and(|here| here == namespace) && !is_dead(process) {
                found = true;
                // It may have ended by itself.
                let _ = signal(process, Signal::Kill);
            }
        }
        if !found {
            return;
        }
        thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Whether only its parent's interest keeps a process listed.
fn is_dead(process: u32) -> bool {
    let Ok(text) = fs::read_to_string(format!("/proc/{process}/stat")) else { return true };
    text.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
}

/// What a process can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ends it at once, as a power cut would.
    Kill,
    /// Asks it to end.
    Terminate,
    /// What Ctrl-C sends.
    Interrupt,
    /// Freezes it.
    Stop,
    /// Lets it go on.
    Continue,
}

/// Sends a process a signal.
pub fn signal(process: u32, signal: Signal) -> io::Result<()> {
    let number = match signal {
        Signal::Kill => libc::SIGKILL,
        Signal::Terminate => libc::SIGTERM,
        Signal::Interrupt => libc::SIGINT,
        Signal::Stop => libc::SIGSTOP,
        Signal::Continue => libc::SIGCONT,
    };
    let process = libc::pid_t::try_from(process).map_err(io::Error::other)?;
    #[allow(unsafe_code)]
    // SAFETY: kill takes integers only.
    checked(unsafe { libc::kill(process, number) })
}

/// The user that this process acts as, in its own namespace.
pub fn user() -> u32 {
    #[allow(unsafe_code)]
    // SAFETY: the call takes no arguments and cannot fail.
    unsafe {
        libc::geteuid()
    }
}

fn unshare(flags: i32) -> io::Result<()> {
    #[allow(unsafe_code)]
    // SAFETY: unshare takes an integer and touches no memory.
    checked(unsafe { libc::unshare(flags) })
}

fn set_namespace(file: RawFd, kind: i32) -> io::Result<()> {
    #[allow(unsafe_code)]
    // SAFETY: setns takes integers and touches no memory; a bad descriptor is an error.
    checked(unsafe { libc::setns(file, kind) })
}

fn end_with_parent(signal: i32) -> io::Result<()> {
    #[allow(unsafe_code)]
    // SAFETY: PR_SET_PDEATHSIG takes one integer and touches no memory.
    checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong, 0, 0, 0) })
}

/// Writes a whole file at once, without allocating.
fn write(path: &std::ffi::CStr, text: &[u8]) -> io::Result<()> {
    #[allow(unsafe_code)]
    // SAFETY: `path` ends with a zero byte, `text` is as long as is said, and both outlive the
    // calls; the descriptor is closed once.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        checked(file)?;
        let written = libc::write(file, text.as_ptr().cast(), text.len());
        let result = checked(if written < 0 { -1 } else { 0 });
        libc::close(file);
        result
    }
}

fn checked(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_that_refuse_are_named() {
        let all = |path: &str| match path.rsplit('/').next() {
            Some("apparmor_restrict_unprivileged_userns") => "1".to_owned(),
            Some("max_user_namespaces") => "0".to_owned(),
            _ => String::new(),
        };
        assert_eq!(
            advice(&all),
            "root can allow it: `sysctl -w user.max_user_namespaces=10000` and `sysctl -w \
             kernel.apparmor_restrict_unprivileged_userns=0`"
        );
        let none = |_: &str| "15000".to_owned();
        assert!(advice(&none).contains("container"), "{}", advice(&none));
    }

    #[test]
    fn a_program_runs_as_root_of_a_namespace_without_a_network() {
        if let Err(refusal) = possible() {
            return eprintln!("skipped: {refusal}");
        }
        let mut command = Command::new("sh");
        isolate(command.args(["-c", "id -u; grep -c : /proc/net/dev"]));
        let output = command.output().unwrap();
        // Only the loopback interface is there.
        assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n1\n");
    }

    #[test]
    fn what_runs_in_a_user_namespace_is_swept_away() {
        if let Err(refusal) = possible() {
            return eprintln!("skipped: {refusal}");
        }
        let mut command = Command::new("sh");
        // The first ends with a status of its own, but leaves another behind.
        isolate(command.args(["-c", "sleep 1000 & read wait"]).stdin(Stdio::piped()));
        let mut child = command.spawn().unwrap();
        let namespace = user_namespace(child.id()).unwrap();
        assert_ne!(namespace, user_namespace(std::process::id()).unwrap());
        let inside = || {
            let here = |&process: &u32| user_namespace(process).is_ok_and(|n| n == namespace);
            processes().into_iter().filter(here).filter(|&process| !is_dead(process)).count()
        };
        while inside() < 2 {
            thread::yield_now();
        }
        sweep(&namespace);
        assert_eq!(inside(), 0);
        assert_eq!(child.wait().unwrap().code(), None);
    }
}
