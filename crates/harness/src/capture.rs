//! An output of a program, read by a thread of its own, so that a full pipe does not stop the program.

use std::io::{ErrorKind, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What an output has carried so far. A clone sees the same.
#[derive(Clone, Default)]
pub(crate) struct Capture(Arc<(Mutex<Captured>, Condvar)>);

#[derive(Default)]
struct Captured {
    bytes: Vec<u8>,
    ended: bool,
}

impl Capture {
    /// Of an output that leads elsewhere.
    pub(crate) fn none() -> Self {
        let capture = Self::default();
        capture.lock().ended = true;
        capture
    }

    /// Of a pipe; closed after its first line if wished.
    pub(crate) fn of(mut pipe: impl Read + Send + 'static, first_line_only: bool) -> Self {
        let capture = Self::default();
        let shared = capture.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let read = match pipe.read(&mut buffer) {
                    Ok(read) => read,
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(_) => 0,
                };
                let mut captured = shared.lock();
                captured.bytes.extend_from_slice(&buffer[..read]);
                captured.ended = read == 0 || (first_line_only && captured.bytes.contains(&b'\n'));
                shared.0.1.notify_all();
                if captured.ended {
                    return;
                }
            }
        });
        capture
    }

    fn lock(&self) -> MutexGuard<'_, Captured> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is now.
    pub(crate) fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    /// What there is at the end of the output, or after `patience`.
    pub(crate) fn at_end(&self, patience: Duration) -> String {
        let captured = self.wait(patience, |_| false);
        String::from_utf8_lossy(&captured.bytes).into_owned()
    }

    /// The line that begins at byte `start`, without its newline, and where the next one begins. The end of the
    /// output ends a line too.
    pub(crate) fn line_at(&self, start: usize, patience: Duration) -> Line {
        let end_of_line = |bytes: &[u8]| bytes[start..].iter().position(|&byte| byte == b'\n');
        let captured = self.wait(patience, |bytes| end_of_line(bytes).is_some());
        let text = |end: usize| String::from_utf8_lossy(&captured.bytes[start..end]).into_owned();
        match end_of_line(&captured.bytes) {
            Some(length) => Line::Whole(text(start + length), start + length + 1),
            None if !captured.ended => Line::Late,
            None if captured.bytes.len() > start => {
                Line::Whole(text(captured.bytes.len()), captured.bytes.len())
            }
            None => Line::End,
        }
    }

    /// Waits until `enough`, or the end of the output, for at most `patience`.
    fn wait(&self, patience: Duration, enough: impl Fn(&[u8]) -> bool) -> MutexGuard<'_, Captured> {
        let deadline = Instant::now() + patience;
        let mut captured = self.lock();
        while !captured.ended && !enough(&captured.bytes) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            captured = self.0.1.wait_timeout(captured, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        captured
    }
}

/// What has become of a line that was waited for.
pub(crate) enum Line {
    /// It is there, and the next one begins at that byte.
    Whole(String, usize),
    /// It has not come in time.
    Late,
    /// The output has ended.
    End,
}
