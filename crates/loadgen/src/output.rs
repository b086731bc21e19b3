//! Where results go, so that none is lost: the standard output, whose failures count, and files that are opened before
//! there is anything to write and appear whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::NamedTempFile;

/// Prints a result on stdout. A reader that has closed the pipe has what it wanted; a full disk has lost the result.
///
/// # Errors
/// Whatever keeps it from being written.
pub(crate) fn print_result(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.write_all(b"\n"))
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context(
            "the result could not be written to the standard output: make room, or send it elsewhere",
        ),
        _ => Ok(()),
    }
}

/// A text as a terminal may get it: control characters, which could be anybody's, as escapes.
pub(crate) fn printable(text: &str) -> String {
    let show =
        |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(show).collect()
}

/// A file for a result.
#[derive(Debug)]
pub(crate) struct ResultFile {
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// Beside its place, until it is whole.
    Beside(NamedTempFile),
    /// A device or a pipe, which cannot be replaced.
    There(File),
}

impl ResultFile {
    /// Opens the file `path`, and changes nothing yet.
    ///
    /// # Errors
    /// A place where it could not be written.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let context = || format!("cannot write {}: choose another place", path.display());
        let there = fs::metadata(path);
        if there.is_ok() {
            // It may be replaced only by who may write it.
            let file = OpenOptions::new().write(true).open(path).with_context(context)?;
            if there.is_ok_and(|there| !there.is_file()) {
                return Ok(Self { path: path.to_owned(), place: Place::There(file) });
            }
        }
        // A link stays a link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        anyhow::ensure!(path.file_name().is_some(), "{}: it names no file", context());
        // As any new file's: less what the umask takes.
        let permissions = fs::Permissions::from_mode(0o666);
        let mut builder = tempfile::Builder::new();
        let file = builder
            .prefix(".loadgen-")
            .permissions(permissions)
            .tempfile_in(directory)
            .with_context(context)?;
        Ok(Self { path, place: Place::Beside(file) })
    }

    /// Fills it, and puts it into its place.
    ///
    /// # Errors
    /// What `fill` says, or what keeps the bytes from the disk; then what stood there before still does.
    pub(crate) fn write(self, fill: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let context = || format!("cannot write {}", self.path.display());
        let file = match &self.place {
            Place::Beside(file) => file.as_file(),
            Place::There(file) => file,
        };
        let mut out = BufWriter::new(file);
        fill(&mut out).and_then(|()| Ok(out.flush()?)).with_context(context)?;
        drop(out);
        if let Place::Beside(file) = self.place {
            // A disk may say only now that it is full.
            file.as_file()
                .sync_all()
                .and_then(|()| Ok(file.persist(&self.path).map(|_| ())?))
                .with_context(|| format!("cannot write {}", self.path.display()))?;
        }
        Ok(())
    }
}
