//! Where one HTTP/1.1 response ends (RFC 9112, section 6), without keeping any of it: the head is parsed by `httparse`,
//! the body is counted and thrown away.

use std::mem::MaybeUninit;

/// The largest head, and the largest line of a chunk's size or of the trailers, in bytes.
pub const LARGEST_HEAD: usize = 64 * 1024;

/// The most header fields of one head.
pub const MOST_FIELDS: usize = 100;

/// Why bytes are no response that can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// They are no HTTP/1.1.
    Malformed,
    /// More than [`MOST_FIELDS`] header fields.
    TooManyFields,
    /// A head above [`LARGEST_HEAD`].
    HeadTooLarge,
}

impl Unusable {
    /// The class under which it is counted.
    pub fn class(self) -> &'static str {
        match self {
            Self::Malformed => "malformed response",
            Self::TooManyFields => "more than 100 response fields",
            Self::HeadTooLarge => "response head above 64 KiB",
        }
    }
}

impl From<httparse::Error> for Unusable {
    fn from(error: httparse::Error) -> Self {
        if error == httparse::Error::TooManyHeaders { Self::TooManyFields } else { Self::Malformed }
    }
}

impl From<httparse::InvalidChunkSize> for Unusable {
    fn from(_: httparse::InvalidChunkSize) -> Self {
        Self::Malformed
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Head,
    /// So many bytes of the body are still to come.
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// The end of the connection is the end of the body.
    ToTheEnd,
    Done,
}

/// A response that arrives in pieces.
#[derive(Clone, Debug)]
pub struct Response {
    stage: Stage,
    /// It answers a HEAD request: whatever its fields say, it has no body.
    head_only: bool,
    status: u16,
    /// Bytes of the body so far.
    body: u64,
    keep_alive: bool,
}

impl Response {
    /// A response of which nothing is there yet; `head_only`: to a HEAD request.
    pub fn new(head_only: bool) -> Self {
        Self { stage: Stage::Head, head_only, status: 0, body: 0, keep_alive: false }
    }

    /// All of it is there.
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Its status; 0 before its head is there.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// How many bytes of its body are there.
    pub fn body(&self) -> u64 {
        self.body
    }

    /// The connection can take another request afterwards.
    pub fn keeps_alive(&self) -> bool {
        self.keep_alive
    }

    /// Takes what belongs to this response from the front of `data`; returns how many bytes that were. What is left
    /// while it is not [done](Response::is_done) is the beginning of something whose end is not there yet: give it again,
    /// with more behind it.
    ///
    /// # Errors
    /// Bytes that are no response.
    pub fn take(&mut self, data: &[u8]) -> Result<usize, Unusable> {
        let mut taken = 0;
        loop {
            let rest = &data[taken..];
            let step = match self.stage {
                Stage::Head => self.head(rest)?,
                Stage::Length(left) => {
                    let some = left.min(rest.len() as u64);
                    self.stage = if some == left { Stage::Done } else { Stage::Length(left - some) };
                    self.body += some;
                    some as usize
                }
                Stage::ChunkSize => match httparse::parse_chunk_size(rest)? {
                    httparse::Status::Partial => 0,
                    httparse::Status::Complete((length, size)) => {
                        self.stage = if size == 0 { Stage::Trailers } else { Stage::Chunk(size) };
                        length
                    }
                },
                Stage::Chunk(left) => {
                    let some = left.min(rest.len() as u64);
                    self.stage = if some == left { Stage::ChunkEnd } else { Stage::Chunk(left - some) };
                    self.body += some;
                    some as usize
                }
                Stage::ChunkEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        self.stage = Stage::ChunkSize;
                        2
                    }
                    [] | [b'\r'] => 0,
                    _ => return Err(Unusable::Malformed),
                },
                Stage::Trailers => {
                    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
                    match httparse::parse_headers(rest, &mut fields)? {
                        httparse::Status::Partial => 0,
                        httparse::Status::Complete((length, _)) => {
                            self.stage = Stage::Done;
                            length
                        }
                    }
                }
                Stage::ToTheEnd => {
                    self.body += rest.len() as u64;
                    rest.len()
                }
                Stage::Done => 0,
            };
            taken += step;
            if step == 0 || self.stage == Stage::Done {
                return Ok(taken);
            }
        }
    }

    /// The connection has ended. True when that is where the response ends, too.
    pub fn end(&mut self) -> bool {
        if self.stage == Stage::ToTheEnd {
            self.stage = Stage::Done;
        }
        self.is_done()
    }

    fn head(&mut self, data: &[u8]) -> Result<usize, Unusable> {
        let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
        let mut parsed = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let head = match parser.parse_response_with_uninit_headers(&mut parsed, data, &mut fields)? {
            httparse::Status::Partial => return Ok(0),
            httparse::Status::Complete(length) => length,
        };
        self.status = parsed.code.ok_or(Unusable::Malformed)?;
        // In HTTP/1.1 a connection persists unless one side says otherwise, in HTTP/1.0 only if both say so.
        self.keep_alive = parsed.version == Some(1);
        let (mut content_length, mut encoded, mut chunked) = (None, false, false);
        for field in parsed.headers.iter() {
            let named = |name: &str| field.name.eq_ignore_ascii_case(name);
            if named("content-length") {
                let number = length(field.value);
                content_length = match content_length {
                    Some(other) if other != number => Some(Err(Unusable::Malformed)),
                    _ => Some(number),
                };
            } else if named("transfer-encoding") {
                encoded = true;
                // The last coding of the last field decides.
                chunked =
                    tokens(field.value).last().is_some_and(|token| token.eq_ignore_ascii_case(b"chunked"));
            } else if named("connection") {
                for token in tokens(field.value) {
                    if token.eq_ignore_ascii_case(b"close") {
                        self.keep_alive = false;
                    } else if token.eq_ignore_ascii_case(b"keep-alive") && parsed.version == Some(0) {
                        self.keep_alive = true;
                    }
                }
            }
        }
        self.stage = match self.status {
            // The connection speaks something else from here on.
            101 => {
                self.keep_alive = false;
                Stage::Done
            }
            // Informational: the response proper is still to come.
            100..=199 => Stage::Head,
            204 | 304 => Stage::Done,
            _ if self.head_only => Stage::Done,
            _ if chunked => Stage::ChunkSize,
            _ if encoded => Stage::ToTheEnd,
            // A length is looked at only here, where it decides.
            _ => match content_length {
                Some(length) => match length? {
                    0 => Stage::Done,
                    length => Stage::Length(length),
                },
                None => Stage::ToTheEnd,
            },
        };
        if self.stage == Stage::ToTheEnd {
            self.keep_alive = false;
        }
        Ok(head)
    }
}

/// What has come of a connection and is not taken yet.
#[derive(Debug)]
pub struct Inbox {
    bytes: Box<[u8]>,
    filled: usize,
}

impl Inbox {
    /// An empty one that takes so many bytes at once, and more when that many came: up to [`LARGEST_HEAD`].
    pub fn new(size: usize) -> Self {
        Self { bytes: vec![0; size].into(), filled: 0 }
    }

    /// Nothing waits in it.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Where the next bytes go; then say how many they were by [`Inbox::came`].
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.filled..]
    }

    /// So many bytes were put at the front of [`Inbox::space`].
    pub fn came(&mut self, n: usize) {
        self.filled += n;
    }

    /// The beginning of what waits, as text that a terminal can show.
    pub fn glimpse(&self) -> String {
        self.bytes[..self.filled.min(40)].escape_ascii().to_string()
    }

    /// Gives `response` what there is of it, and makes room for more.
    ///
    /// # Errors
    /// Bytes that are no response, or a head above [`LARGEST_HEAD`].
    pub fn feed(&mut self, response: &mut Response) -> Result<(), Unusable> {
        let taken = response.take(&self.bytes[..self.filled])?;
        let was_full = self.filled == self.bytes.len();
        self.bytes.copy_within(taken..self.filled, 0);
        self.filled -= taken;
        if was_full && self.bytes.len() < LARGEST_HEAD {
            // A head that needs the room, or a long body, of which fewer and larger pieces are cheaper.
            let mut larger = vec![0; 2 * self.bytes.len()];
            larger[..self.filled].copy_from_slice(&self.bytes[..self.filled]);
            self.bytes = larger.into();
        }
        if self.filled == self.bytes.len() { Err(Unusable::HeadTooLarge) } else { Ok(()) }
    }
}

/// The value of Content-Length: digits, and nothing else (the parser of numbers would take a sign).
fn length(value: &[u8]) -> Result<u64, Unusable> {
    let text = std::str::from_utf8(value).map_err(|_| Unusable::Malformed)?.trim();
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Unusable::Malformed);
    }
    text.parse().map_err(|_| Unusable::Malformed)
}

/// The members of a comma-separated list.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `bytes` in pieces that end at `cuts`, as a connection would, then its end if `closed`. How many bytes were
    /// taken, and the response.
    fn fed(
        bytes: &[u8],
        cuts: &[usize],
        head_only: bool,
        closed: bool,
    ) -> Result<(usize, Response), Unusable> {
        let mut response = Response::new(head_only);
        // So small that every head makes it grow.
        let (mut inbox, mut at) = (Inbox::new(8), 0);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.push(bytes.len());
        cuts.sort_unstable();
        for cut in cuts {
            while at < cut {
                let space = inbox.space();
                let some = space.len().min(cut - at);
                space[..some].copy_from_slice(&bytes[at..at + some]);
                inbox.came(some);
                at += some;
                inbox.feed(&mut response)?;
            }
        }
        let taken = bytes.len() - inbox.filled;
        if closed {
            response.end();
        }
        Ok((taken, response))
    }

    /// (bytes, to a HEAD request, status, the connection can be used again): each ends where the text does.
    const WHOLE: &[(&str, bool, u16, bool)] = &[
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, 200, true),
        ("HTTP/1.1 200 OK\r\ncontent-length:5\r\nContent-Length: 5\r\n\r\nhello", false, 200, true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n", false, 200, false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", false, 200, false),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", false, 200, true),
        ("HTTP/1.1 204 No Content\r\n\r\n", false, 204, true),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", false, 304, true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", true, 200, true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", true, 200, true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false, 200, true),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\nContent-Length: 3\r\n\r\n\
             5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 1\r\n\r\n",
            false,
            200,
            true,
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
             HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\n-",
            false,
            404,
            true,
        ),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", false, 101, false),
    ];

    #[test]
    fn a_response_ends_where_the_rfc_says() {
        for (text, head_only, status, keeps) in WHOLE {
            for behind in ["", "HTTP/1.1 500 unasked"] {
                let bytes = [text.as_bytes(), behind.as_bytes()].concat();
                let (taken, response) = fed(&bytes, &[], *head_only, false).expect(text);
                assert_eq!((taken, response.is_done()), (text.len(), true), "{text}");
                assert_eq!((response.status(), response.keeps_alive()), (*status, *keeps), "{text}");
            }
            // Without its last byte it is not done, not even at the end of the connection.
            let (_, response) = fed(&text.as_bytes()[..text.len() - 1], &[], *head_only, true).expect(text);
            assert!(!response.is_done(), "{text}");
        }
    }

    #[test]
    fn without_a_length_the_end_of_the_connection_is_the_end() {
        for head in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"] {
            let bytes = format!("{head}any bytes");
            let (taken, open) = fed(bytes.as_bytes(), &[], false, false).expect(head);
            assert_eq!((taken, open.is_done()), (bytes.len(), false), "{head}");
            let (_, closed) = fed(bytes.as_bytes(), &[], false, true).expect(head);
            assert!(closed.is_done() && !closed.keeps_alive(), "{head}");
        }
    }

    #[test]
    fn what_is_no_response_is_malformed() {
        for text in [
            "this is not HTTP at all\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!!",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        ] {
            assert!(fed(text.as_bytes(), &[], false, true).is_err(), "{text}");
        }
    }

    #[test]
    fn a_head_without_end_is_refused_at_64_kib() {
        let mut bytes = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
        bytes.resize(LARGEST_HEAD - 4, b'x');
        let good = [&bytes[..], b"\r\n\r\n"].concat();
        assert!(fed(&good, &[], true, false).is_ok_and(|(_, response)| response.is_done()));
        bytes.resize(LARGEST_HEAD, b'x');
        assert_eq!(fed(&bytes, &[], false, false).err(), Some(Unusable::HeadTooLarge));
    }

    #[test]
    fn more_fields_than_are_taken_have_a_class_of_their_own() {
        let fields = |n: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(n));
        assert!(fed(fields(MOST_FIELDS).as_bytes(), &[], true, false).is_ok());
        let error = fed(fields(MOST_FIELDS + 1).as_bytes(), &[], true, false).err();
        assert_eq!(error, Some(Unusable::TooManyFields));
    }

    proptest! {
        /// Where a connection cuts a response makes no difference.
        #[test]
        fn pieces_make_the_same_response(which in 0..WHOLE.len(), cuts in prop::collection::vec(0_usize..200, 0..6)) {
            let (text, head_only, status, _) = WHOLE[which];
            let (taken, response) = fed(text.as_bytes(), &cuts, head_only, false).expect("it is one");
            prop_assert_eq!((taken, response.is_done(), response.status()), (text.len(), true, status));
        }

        /// R23: no bytes make it panic, and a piece more never makes good what was malformed or undoes what was done.
        #[test]
        fn any_bytes_are_a_response_or_an_error(
            head in "HTTP/1\\.[012] [0-9]{1,4} ?[A-Z]{0,2}\r\n|\\PC{0,8}",
            fields in prop::collection::vec(
                "(Content-Length|Transfer-Encoding|Connection): ?(chunked|close|[0-9a-f+,-]{0,20})\r\n", 0..4),
            body in prop::collection::vec(any::<u8>(), 0..40),
            cuts in prop::collection::vec(0_usize..200, 0..6),
            head_only: bool,
        ) {
            let bytes = [head.as_bytes(), fields.concat().as_bytes(), b"\r\n", &body].concat();
            let (whole, pieces) = (fed(&bytes, &[], head_only, true), fed(&bytes, &cuts, head_only, true));
            let outcome = |fed: &Result<(usize, Response), Unusable>| {
                fed.as_ref().ok().map(|(taken, r)| (*taken, r.is_done(), r.status(), r.keeps_alive()))
            };
            prop_assert_eq!(outcome(&whole), outcome(&pieces));
        }
    }
}
