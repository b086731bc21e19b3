//! Marks, and the switch of the process.

use std::env;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Once, OnceLock};

/// Announces events by writing them to `/dev/null`, opened for reading only.
///
/// Each such `write` fails with EBADF and touches nothing, yet strace shows it, text and all, in exact
/// order between the real system calls.
///
/// [`mark`] makes those of the whole process; this is for marks that have a switch of their own.
#[derive(Debug)]
pub struct Marks(Option<File>);

impl Marks {
    /// Marks that are made if `wanted`, and cost a comparison if not.
    ///
    /// # Errors
    ///
    /// When `/dev/null` cannot be opened.
    pub fn open(wanted: bool) -> io::Result<Self> {
        Ok(Self(if wanted { Some(File::open("/dev/null")?) } else { None }))
    }

    /// Makes a mark.
    #[inline]
    pub fn mark(&self, text: &str) {
        if let Some(file) = &self.0 {
            // It fails on purpose: the attempt is what strace shows.
            let _ = (&*file).write(text.as_bytes());
        }
    }

    /// Whether marks are made, for a caller that would have to format one first.
    pub fn wanted(&self) -> bool {
        self.0.is_some()
    }
}

/// The marks of the process, once somebody has asked for them.
static PROCESS: OnceLock<Marks> = OnceLock::new();

/// Done once: whether the environment asks for marks.
static ENVIRONMENT: Once = Once::new();

/// Turns marks on for the whole process. To turn them on again changes nothing.
///
/// # Errors
///
/// When `/dev/null` cannot be opened.
pub fn turn_on() -> io::Result<()> {
    if PROCESS.get().is_none() {
        // Whoever was quicker has opened the same.
        let _ = PROCESS.set(Marks::open(true)?);
    }
    Ok(())
}

/// Makes a mark, if marks are on: by [`turn_on`], or by `TRACE_MARKS` in the environment.
#[inline]
pub fn mark(text: &str) {
    if let Some(marks) = process() {
        marks.mark(text);
    }
}

/// Makes the mark `WHAT NAME`, if marks are on; formats it only then.
#[inline]
pub fn mark_of(what: &str, name: impl fmt::Display) {
    if let Some(marks) = process() {
        marks.mark(&format!("{what} {name}"));
    }
}

/// Whether marks are on, for a caller that would have to prepare one first.
#[inline]
pub fn are_on() -> bool {
    process().is_some()
}

#[inline]
fn process() -> Option<&'static Marks> {
    ENVIRONMENT.call_once(|| {
        if env::var_os("TRACE_MARKS").is_some_and(|value| !value.is_empty()) {
            // Without a descriptor to spare the program goes on unmarked.
            let _ = turn_on();
        }
    });
    PROCESS.get()
}
