//! The jokes file: indexed at start, read joke by joke.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Lines, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use echo_service::limit_hint;

/// The longest line that a jokes file may have, in bytes without its end: what an act that reads by
/// lines holds at once.
pub const LONGEST_LINE: usize = 1 << 20;

/// What some editors put before the first line of a file in UTF-8. It is no part of a joke.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A jokes file and where its jokes stand in it.
///
/// The file is opened once, so the index stays true when another file is given its name. Who writes into
/// the file itself while it is served gets what [`Joke::lines`] says.
#[derive(Debug)]
pub struct Jokes {
    file: Arc<File>,
    index: Vec<Entry>,
    slow_disk: Duration,
}

/// Where a joke stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// Its lines, the first of the file being 1.
    first: u64,
    last: u64,
    /// Its bytes.
    start: u64,
    end: u64,
}

/// One joke of a [`Jokes`] file: not its text, only where that stands.
#[derive(Clone, Debug)]
pub struct Joke {
    file: Arc<File>,
    number: usize,
    entry: Entry,
    slow_disk: Duration,
}

impl Jokes {
    /// Opens the file at `path` and finds the first and last line of each joke.
    ///
    /// Jokes are separated by lines of dashes, or by lines of a single `%`; if a file has both, those of
    /// which there are more separate, and the others are text. Spaces behind a separator do not count, nor
    /// does a byte order mark at the beginning of the file.
    /// What is empty or blank between two separators is no joke; a file without a separator is one joke.
    ///
    /// Each read of a joke later takes `slow_disk` longer than it takes; indexing does not.
    ///
    /// # Errors
    ///
    /// A sentence with a next step, when the file cannot be read, is not text in UTF-8, has a line longer
    /// than [`LONGEST_LINE`], or holds no joke.
    pub fn open(path: &Path, slow_disk: Duration) -> Result<Self, String> {
        let shown = path.display();
        let failed = |error: io::Error| {
            let step = match error.kind() {
                io::ErrorKind::NotFound => "; name a file of jokes with --file PATH".to_owned(),
                io::ErrorKind::PermissionDenied => format!("; `ls -l {shown}` shows who may read it"),
                _ => match limit_hint(&error) {
                    none if none.is_empty() => "; try another file with --file PATH".to_owned(),
                    hint => hint,
                },
            };
            format!("cannot read the jokes in {shown}: {error}{step}")
        };
        // Asked before it is opened: to open a pipe would wait for a writer.
        if !fs::metadata(path).map_err(failed)?.is_file() {
            return Err(format!(
                "cannot read the jokes in {shown}: it is not a regular file; name one with --file PATH"
            ));
        }
        let file = File::open(path).map_err(failed)?;
        let index = match index(BufReader::new(&file)) {
            Ok(index) => index,
            Err(Unfit::Unreadable(error)) => return Err(failed(error)),
            Err(Unfit::NotUtf8 { line }) => {
                return Err(format!(
                    "line {line} of {shown} is not UTF-8: convert the file, for example with \
                     `iconv -f latin1 -t utf8`"
                ));
            }
            Err(Unfit::LongLine { line }) => {
                return Err(format!(
                    "line {line} of {shown} is longer than {LONGEST_LINE} bytes: break it, for example with \
                     `fold -s`"
                ));
            }
        };
        if index.is_empty() {
            return Err(format!(
                "{shown} holds no joke: write some, with lines of dashes between them, or name another file \
                 with --file PATH"
            ));
        }
        Ok(Self { file: Arc::new(file), index, slow_disk })
    }

    /// How many there are; at least one.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// One of them, by chance.
    pub fn pick(&self) -> Joke {
        self.get(rand::random_range(0..self.index.len()))
    }

    /// All of them, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = Joke> {
        (0..self.index.len()).map(|number| self.get(number))
    }

    /// The texts of all of them, in the order of the file. Blocks, with `slow_disk` once: they are read in
    /// one go.
    ///
    /// # Errors
    ///
    /// Those of [`Joke::lines`].
    pub fn texts<Texts: FromIterator<String>>(&self) -> io::Result<Texts> {
        thread::sleep(self.slow_disk);
        self.iter().map(|joke| Joke { slow_disk: Duration::ZERO, ..joke }.text()).collect()
    }

    fn get(&self, number: usize) -> Joke {
        let entry = self.index[number];
        Joke { file: Arc::clone(&self.file), number, entry, slow_disk: self.slow_disk }
    }
}

impl Joke {
    /// Its place among the jokes of the file, the first being 0.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Its first and last line in the file, the first of the file being 1.
    pub fn span(&self) -> (u64, u64) {
        (self.entry.first, self.entry.last)
    }

    /// Its first byte in the file, the first of the file being 0, and how many there are.
    pub fn bytes(&self) -> (u64, u64) {
        (self.entry.start, self.entry.end - self.entry.start)
    }

    /// Its lines, without their ends. Each call to `next` may block, for as long as the disk takes.
    ///
    /// A line comes back as an error of kind `UnexpectedEof` when the file has become shorter than it was
    /// when indexed, and `InvalidData` when what was written into it meanwhile is not UTF-8.
    pub fn lines(&self) -> Lines<Reader> {
        // A connection whose client does not read keeps one of these meanwhile.
        let capacity = (self.entry.end - self.entry.start).clamp(1, 4096) as usize;
        let section = Section { file: Arc::clone(&self.file), entry: self.entry, slow_disk: self.slow_disk };
        BufReader::with_capacity(capacity, section).lines()
    }

    /// The whole text, each line with its end. Blocks.
    ///
    /// # Errors
    ///
    /// Those of [`lines`](Self::lines).
    pub fn text(&self) -> io::Result<String> {
        let mut text = String::new();
        for line in self.lines() {
            text.push_str(&line?);
            text.push('\n');
        }
        Ok(text)
    }

    /// A path to open the file by. It leads to the file that was indexed, whatever has its name now.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// Sleeps as long as `--slow-disk` says. Blocks the thread, as a disk would.
    pub fn wait_for_disk(&self) {
        if !self.slow_disk.is_zero() {
            thread::sleep(self.slow_disk);
        }
    }

    /// Whether there is anything to wait for: `--slow-disk` was given.
    pub fn disk_is_slow(&self) -> bool {
        !self.slow_disk.is_zero()
    }
}

/// A blocking reader of one joke's bytes.
pub type Reader = BufReader<Section>;

/// The bytes of one joke in the file that all share: no descriptor and no file position of its own.
#[derive(Debug)]
pub struct Section {
    file: Arc<File>,
    /// Its `start` moves on while it is read.
    entry: Entry,
    slow_disk: Duration,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.entry.end - self.entry.start).unwrap_or(usize::MAX).min(buffer.len());
        if left == 0 {
            return Ok(0);
        }
        if !self.slow_disk.is_zero() {
            thread::sleep(self.slow_disk);
        }
        match self.file.read_at(&mut buffer[..left], self.entry.start)? {
            0 => Err(file_shrank()),
            read => {
                self.entry.start += read as u64;
                Ok(read)
            }
        }
    }
}

/// The error of a joke that no longer stands in the file as a whole.
pub fn file_shrank() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the jokes file has become shorter than it was when indexed: start the server again",
    )
}

/// Why a file cannot be indexed.
#[derive(Debug)]
enum Unfit {
    Unreadable(io::Error),
    NotUtf8 { line: u64 },
    LongLine { line: u64 },
}

/// Finds the jokes, in one pass that holds one line at a time.
fn index(mut reader: impl BufRead) -> Result<Vec<Entry>, Unfit> {
    // Which kind of separator it is shows only at the end, so both are followed.
    let mut dashes = Collector::default();
    let mut percents = Collector::default();
    let mut text = Vec::new();
    let (mut line, mut start) = (0, 0);
    if reader.fill_buf().map_err(Unfit::Unreadable)?.starts_with(BYTE_ORDER_MARK) {
        reader.consume(BYTE_ORDER_MARK.len());
        start = BYTE_ORDER_MARK.len() as u64;
    }
    loop {
        text.clear();
        // Two more than a line may have: its end, and one that shows that it is too long.
        let read = (&mut reader)
            .take(LONGEST_LINE as u64 + 2)
            .read_until(b'\n', &mut text)
            .map_err(Unfit::Unreadable)?;
        if read == 0 {
            break;
        }
        line += 1;
        let content = text.strip_suffix(b"\n").unwrap_or(&text);
        if content.len() > LONGEST_LINE {
            return Err(Unfit::LongLine { line });
        }
        let content = std::str::from_utf8(content).map_err(|_| Unfit::NotUtf8 { line })?;
        let end = start + read as u64;
        let separator = content.trim_end();
        dashes.line(
            !separator.is_empty() && separator.bytes().all(|byte| byte == b'-'),
            content,
            line,
            start,
            end,
        );
        percents.line(separator == "%", content, line, start, end);
        start = end;
    }
    Ok(if dashes.separators > percents.separators { dashes.finish() } else { percents.finish() })
}

/// Collects the jokes between the separators of one kind.
#[derive(Default)]
struct Collector {
    jokes: Vec<Entry>,
    open: Option<Entry>,
    /// Whether the open joke has more than blanks.
    something: bool,
    separators: u64,
}

impl Collector {
    fn line(&mut self, is_separator: bool, content: &str, line: u64, start: u64, end: u64) {
        if is_separator {
            self.separators += 1;
            self.close();
        } else {
            let open = self.open.get_or_insert(Entry { first: line, last: line, start, end });
            (open.last, open.end) = (line, end);
            self.something |= !content.trim().is_empty();
        }
    }

    fn close(&mut self) {
        if let Some(joke) = self.open.take()
            && std::mem::take(&mut self.something)
        {
            self.jokes.push(joke);
        }
    }

    fn finish(mut self) -> Vec<Entry> {
        self.close();
        self.jokes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The first and last lines of the jokes in `text`.
    fn spans(text: &[u8]) -> Vec<(u64, u64)> {
        let index = index(text).expect("the table holds readable texts");
        index.iter().map(|entry| (entry.first, entry.last)).collect()
    }

    #[test]
    fn finds_first_and_last_lines() {
        for (text, expected) in [
            ("", vec![]),
            ("\n\n", vec![]),
            ("---\n-\n%\n", vec![(3, 3)]),
            ("one\n", vec![(1, 1)]),
            ("one", vec![(1, 1)]),
            ("one\ntwo\n---\nthree\n", vec![(1, 2), (4, 4)]),
            ("---\none\n---\n", vec![(2, 2)]),
            ("one\n-\n\n-----  \r\ntwo", vec![(1, 1), (5, 5)]),
            ("one\n%\ntwo\n%\n", vec![(1, 1), (3, 3)]),
            // Fortunes may have ruled lines, and jokes may be about per cent.
            ("a\n---\nb\n%\nc\n%\nd\n", vec![(1, 3), (5, 5), (7, 7)]),
            ("a\n---\nb\n---\n%\n", vec![(1, 1), (3, 3), (5, 5)]),
            ("a\n---\nb\n%\nc\n", vec![(1, 3), (5, 5)]),
            ("- a dash before\n--- not alone\n", vec![(1, 2)]),
            ("%%\n% a comment\n", vec![(1, 2)]),
            ("\u{feff}---\none\n---\ntwo\n", vec![(2, 2), (4, 4)]),
            ("\u{feff}%\none\n", vec![(2, 2)]),
            ("\u{feff}", vec![]),
        ] {
            assert_eq!(spans(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn refuses_what_cannot_be_sent_as_lines_of_text() {
        assert!(matches!(index(&b"one\n---\n\xff\xfe\n"[..]), Err(Unfit::NotUtf8 { line: 3 })));
        let longest = "x".repeat(LONGEST_LINE);
        assert_eq!(spans(longest.as_bytes()), [(1, 1)]);
        assert_eq!(spans(format!("{longest}\n---\ny\n").as_bytes()), [(1, 1), (3, 3)]);
        let longer = format!("one\n{longest}x\n");
        assert!(matches!(index(longer.as_bytes()), Err(Unfit::LongLine { line: 2 })));
    }

    #[test]
    fn bundled_jokes_are_many_short_and_different() {
        let jokes = Jokes::open(Path::new(crate::flags::BUNDLED), Duration::ZERO).expect("they are here");
        assert!(jokes.len() >= 200, "{} jokes", jokes.len());
        let mut texts: Vec<_> = jokes.iter().map(|joke| joke.text().expect("readable")).collect();
        for text in &texts {
            assert!(text.len() <= 600, "a short joke is not {} bytes long: {text}", text.len());
            assert!(text.lines().all(|line| line.len() <= 100), "a line does not fit a terminal: {text}");
        }
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), jokes.len(), "one is there twice");
    }

    proptest! {
        /// Any bytes are an index or an error, and the index covers each line that is not a separator.
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(prop_oneof![Just(b'-'), Just(b'%'), Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200)) {
            if let Ok(index) = index(&bytes[..]) {
                let mut last = 0;
                for entry in index {
                    prop_assert!(entry.first > last && entry.first <= entry.last);
                    prop_assert!(entry.start < entry.end && entry.end <= bytes.len() as u64);
                    last = entry.last;
                }
            }
        }

        /// What stands between separators comes out as it went in.
        #[test]
        fn jokes_come_out_as_they_went_in(jokes in proptest::collection::vec("[a-z%]{1,9} [a-z]{1,9}(\n[ -~]{0,9} [a-z]{1,9}){0,3}", 1..9)) {
            let text = jokes.join("\n---\n");
            let index = index(text.as_bytes()).expect("readable");
            let found: Vec<_> =
                index.iter().map(|entry| text[entry.start as usize..entry.end as usize].trim_end_matches('\n')).collect();
            prop_assert_eq!(found, jokes);
        }
    }
}
