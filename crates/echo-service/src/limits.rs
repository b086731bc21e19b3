//! The system's limits on descriptors and threads: raised where they can be, explained where they are met.

use std::any::Any;
use std::fs::File;
use std::io;
use std::panic;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::output::print_to_stderr;

/// Raises the soft limit of open descriptors to the hard one.
pub fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // If it fails, the lower limit holds, and what needs more descriptors says so.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// What the system says of `error` and, where there is something to do about it, what: the end of a sentence.
pub fn explain(error: &io::Error) -> String {
    format!("{error}{}", limit_hint(error))
}

/// The end of a sentence about `error`: what to do if it says that descriptors, threads or something else of the
/// system has run out, or that only a mistake in the code can cause it; else nothing.
///
/// `EAGAIN` is taken for the answer to a thread that could not be started, so it has no place behind a call that
/// says with it that it would block.
pub fn limit_hint(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE) => {
            let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
            format!(
                "; the limit is {limit} descriptors: raise it before the start, for example `ulimit -n 20000`"
            )
        }
        Some(Errno::ENFILE) => {
            "; the whole system has no descriptor left: raise the sysctl fs.file-max".to_owned()
        }
        Some(Errno::EAGAIN) => "; no further thread can be started: raise the limit of this user's threads \
                                before the start, for example `ulimit -u 4096`"
            .to_owned(),
        Some(Errno::ENOSPC) => "; this user may watch no more descriptors with epoll: raise the sysctl \
                                fs.epoll.max_user_watches"
            .to_owned(),
        Some(Errno::ENOMEM) => "; the system has no memory left: end other programs, and start again".to_owned(),
        Some(Errno::ENETUNREACH | Errno::EADDRNOTAVAIL) => {
            "; no interface leads there: `ip address` lists those that are up, `ip link set lo up` starts loopback"
                .to_owned()
        }
        Some(Errno::EBADF | Errno::ENOTSOCK | Errno::EFAULT) => {
            "; this is a bug of the program: please report it with what `strace` shows last".to_owned()
        }
        _ => String::new(),
    }
}

/// How many descriptors tokio opens while a runtime starts: epoll and a second name of it, an eventfd, a pair
/// of sockets for signals and a second name of one.
const OF_A_RUNTIME: usize = 6;

/// Makes sure that a runtime can start: tokio panics where it finds no descriptor for its signals.
///
/// # Errors
///
/// The error of the first descriptor that could not be opened.
pub fn spare_descriptors() -> io::Result<()> {
    let opened: io::Result<Vec<File>> = (0..OF_A_RUNTIME).map(|_| File::open("/dev/null")).collect();
    opened.map(drop)
}

/// Calls `start`, which makes a runtime; returns what it returns. A thread that is refused ends `program`, as in
/// [`start_threads`].
///
/// # Errors
///
/// Those of `start`, and of too few descriptors.
pub fn start_runtime<T>(program: &'static str, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    spare_descriptors()?;
    start_threads(program, start)
}

/// Calls `start`, which starts the threads of a runtime; returns what it returns.
///
/// tokio panics when the system refuses it a thread, and its unwinding waits for the threads that it did get,
/// which wait for work: the program would hang and keep its port. So it ends before it unwinds, with one line on
/// stderr and status 1.
pub fn start_threads<T>(program: &'static str, start: impl FnOnce() -> T) -> T {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        match refused_thread(info.payload()) {
            Some(error) => {
                print_to_stderr(
                    program,
                    format_args!("cannot start the runtime: {error}{}", limit_hint(&error)),
                );
            }
            None => print_to_stderr(program, format_args!("cannot start the runtime: {info}")),
        }
        std::process::exit(1)
    }));
    let started = start();
    panic::set_hook(before);
    started
}

/// The system's error, if `payload` is that of a panic with which tokio answers a refused thread.
pub fn refused_thread(payload: &(dyn Any + Send)) -> Option<io::Error> {
    let text = payload.downcast_ref::<String>()?.strip_prefix("OS can't spawn worker thread: ")?;
    let number =
        text.rsplit_once("(os error ").and_then(|(_, number)| number.strip_suffix(')')?.parse().ok());
    Some(io::Error::from_raw_os_error(number.unwrap_or(Errno::EAGAIN as i32)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_explained_with_the_way_to_raise_it() {
        for (errno, next_step) in [
            (Errno::EMFILE, "`ulimit -n 20000`"),
            (Errno::ENFILE, "fs.file-max"),
            (Errno::EAGAIN, "`ulimit -u 4096`"),
            (Errno::ENOSPC, "fs.epoll.max_user_watches"),
            (Errno::ENETUNREACH, "`ip link set lo up`"),
        ] {
            let error = io::Error::from(errno);
            let said = explain(&error);
            assert!(said.starts_with(&error.to_string()) && said.contains(next_step), "{said}");
        }
    }

    #[test]
    fn refused_threads_are_told_from_other_panics() {
        let refused: Box<dyn Any + Send> = Box::new(
            "OS can't spawn worker thread: Resource temporarily unavailable (os error 11)".to_owned(),
        );
        let error = refused_thread(&*refused).expect("tokio's words");
        assert_eq!(error.raw_os_error(), Some(Errno::EAGAIN as i32));
        assert!(limit_hint(&error).contains("ulimit -u"));
        let other: Box<dyn Any + Send> = Box::new("index out of bounds".to_owned());
        assert!(refused_thread(&*other).is_none());
    }
}
