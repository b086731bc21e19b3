//! Trace marks: user-space events that show in strace.

use std::fs::File;
use std::io::{self, Write};

/// Announces events by writing them to `/dev/null`, opened for reading only.
///
/// Each such `write` fails with EBADF and touches nothing, yet strace shows it, text and all, in exact
/// order between the real system calls.
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
