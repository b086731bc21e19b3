//! The question "which of these is ready?", put to select, poll and epoll.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc::FD_SETSIZE;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::select::{FdSet, select};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::Serialize;

use crate::sources::Sources;

/// The ways to find the one that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// select(2): sets of bits, up to descriptor 1,023
    Select,
    /// poll(2): a list, handed over at each wait
    Poll,
    /// epoll(7): a list that the kernel keeps
    Epoll,
    /// A thread for each, which sleeps in its receive
    Threads,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Select => "select",
            Self::Poll => "poll",
            Self::Epoll => "epoll",
            Self::Threads => "a thread for each",
        })
    }
}

/// Whether epoll reports what is, or what has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    Level,
    Edge,
}

/// One way to wait, set up for all descriptors.
pub struct Waiter<'a> {
    how: How<'a>,
    /// What the last wait found: places in the list of descriptors.
    found: Vec<usize>,
}

enum How<'a> {
    Select(Vec<BorrowedFd<'a>>),
    Poll(Vec<PollFd<'a>>),
    Epoll(Epoll, Vec<EpollEvent>),
}

impl<'a> Waiter<'a> {
    /// Sets up `wait` for all of `sources`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, and when select cannot hold one of the descriptors.
    pub fn new(wait: Wait, trigger: Trigger, sources: &'a Sources) -> io::Result<Self> {
        let mut descriptors = sources.descriptors();
        let how = match wait {
            Wait::Select => {
                let fits = |descriptor: &BorrowedFd<'_>| (descriptor.as_raw_fd() as usize) < FD_SETSIZE;
                let all: Vec<_> = descriptors.by_ref().take_while(fits).collect();
                if all.len() < sources.len() {
                    return Err(io::Error::other(format!(
                        "select holds {} of {} sockets: its sets end at descriptor {} (FD_SETSIZE): ask for fewer \
                         with --sockets, or wait in poll",
                        all.len(),
                        sources.len(),
                        FD_SETSIZE - 1
                    )));
                }
                How::Select(all)
            }
            Wait::Poll => How::Poll(descriptors.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect()),
            // A thread has no wait: there is nothing to set up.
            Wait::Epoll | Wait::Threads => {
                let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
                let mut interest = EpollFlags::EPOLLIN;
                interest.set(EpollFlags::EPOLLET, trigger == Trigger::Edge);
                for (index, descriptor) in descriptors.enumerate() {
                    epoll.add(descriptor, EpollEvent::new(interest, index as u64))?;
                }
                How::Epoll(epoll, vec![EpollEvent::empty(); sources.len()])
            }
        };
        Ok(Self { how, found: Vec::new() })
    }

    /// Asks which are ready, and sleeps until one is if `sleep`. Returns their places.
    ///
    /// # Errors
    ///
    /// Those of the call, save that it was interrupted.
    pub fn wait(&mut self, sleep: bool) -> io::Result<&[usize]> {
        self.found.clear();
        loop {
            match self.ask(sleep) {
                Ok(()) => return Ok(&self.found),
                // Stopped and continued, or looked at by a debugger.
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    // region: ask
    fn ask(&mut self, sleep: bool) -> nix::Result<()> {
        match &mut self.how {
            How::Select(descriptors) => {
                // The kernel writes its answer over the question, so the question is written anew each time.
                let mut set = FdSet::new();
                descriptors.iter().for_each(|&descriptor| set.insert(descriptor));
                let mut zero = TimeVal::zero();
                let end = descriptors.iter().map(|descriptor| descriptor.as_raw_fd() + 1).max();
                select(end, &mut set, None, None, if sleep { None } else { Some(&mut zero) })?;
                self.found.extend((0..descriptors.len()).filter(|&index| set.contains(descriptors[index])));
            }
            How::Poll(list) => {
                poll(list, if sleep { PollTimeout::NONE } else { PollTimeout::ZERO })?;
                self.found.extend((0..list.len()).filter(|&index| list[index].any().unwrap_or(true)));
            }
            How::Epoll(epoll, events) => {
                let count =
                    epoll.wait(events, if sleep { EpollTimeout::NONE } else { EpollTimeout::ZERO })?;
                self.found.extend(events[..count].iter().map(|event| event.data() as usize));
            }
        }
        Ok(())
    }
    // endregion: ask
}
