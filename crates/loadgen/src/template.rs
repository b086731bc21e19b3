//! The requests of an HTTP run: one from flags, or several weighted ones from a scenario file, with `{{templates}}`
//! filled from the rows of a CSV file.
//!
//! Which request, and which row, belongs to an index of the schedule follows from the index and the seed alone, so
//! that the shards of a run agree and a run can be repeated.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, USER_AGENT,
};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::record::{Ending, Failure};
use crate::result::PlannedRequest;

/// A text with places for values of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// A value as it stands.
    Raw(usize),
    /// A value, percent-encoded: it cannot change the path around it.
    Encoded(usize),
}

/// A text that may hold `{{column}}`, or `{{{column}}}` for a value that is not to be encoded in a path.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Template(Vec<Piece>);

/// Percent-encodes what is not in `allowed`, letters and digits apart (RFC 3986, section 2).
fn percent_encode(text: &str, allowed: &[u8]) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || allowed.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// What stands for itself in a value: the unreserved characters.
const IN_A_VALUE: &[u8] = b"-._~";

/// What stands for itself in a path with its query; `%` too, so that what is encoded already stays as it is.
const IN_A_PATH: &[u8] = b"-._~!$&'()*+,;=:@/?%";

impl Template {
    /// Parses `text`; `{{name}}` must be one of `columns`.
    ///
    /// # Errors
    /// An unknown name, or braces that do not close.
    pub fn parse(text: &str, columns: &[String]) -> anyhow::Result<Self> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once("{{") {
            let raw = after.starts_with('{');
            let (after, end) = if raw { (&after[1..], "}}}") } else { (after, "}}") };
            let (name, after) =
                after.split_once(end).with_context(|| format!("{text:?} opens {{{{ without }}}}"))?;
            let column = columns.iter().position(|column| column == name.trim()).with_context(|| {
                let known = if columns.is_empty() {
                    "there is no CSV: give one by --data".to_owned()
                } else {
                    columns.join(", ")
                };
                format!("{text:?} asks for the column {:?} ({known})", name.trim())
            })?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(if raw { Piece::Raw(column) } else { Piece::Encoded(column) });
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self(pieces))
    }

    /// Parses a path with its query. What cannot stand in one is percent-encoded; `{{name}}` will be, too.
    ///
    /// # Errors
    /// As [`Template::parse`]'s; a text that is no path.
    fn path(text: &str, columns: &[String]) -> anyhow::Result<Self> {
        anyhow::ensure!(
            !text.contains("://"),
            "{text:?} is a whole address: write its path alone, the target names the host"
        );
        anyhow::ensure!(text.starts_with(['/', '{']), "{text:?} is no path: begin it with /");
        anyhow::ensure!(
            !text.contains('#'),
            "{text:?} has a #, which no client sends: leave out what follows it, or write %23"
        );
        let mut template = Self::parse(text, columns)?;
        for piece in &mut template.0 {
            if let Piece::Text(text) = piece {
                *text = percent_encode(text, IN_A_PATH);
            }
        }
        Ok(template)
    }

    /// Parses a header's value or a body, in which values stand as they are.
    fn plain(text: &str, columns: &[String]) -> anyhow::Result<Self> {
        let raw = |piece| if let Piece::Encoded(column) = piece { Piece::Raw(column) } else { piece };
        Ok(Self(Self::parse(text, columns)?.0.into_iter().map(raw).collect()))
    }

    fn is_fixed(&self) -> bool {
        self.0.iter().all(|piece| matches!(piece, Piece::Text(_)))
    }

    /// Fills the places from `row`; a column that the row lacks is empty.
    pub fn fill(&self, row: &[String]) -> String {
        let value = |column: &usize| row.get(*column).map_or("", String::as_str);
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Raw(column) => value(column).to_owned(),
            Piece::Encoded(column) => percent_encode(value(column), IN_A_VALUE),
        };
        self.0.iter().map(piece).collect()
    }
}

/// The columns and rows of a CSV file.
#[derive(Clone, Debug, Default)]
pub struct Data {
    /// The first line.
    pub columns: Vec<String>,
    /// The others; taken in turn, from the first again after the last.
    pub rows: Vec<Vec<String>>,
}

impl Data {
    /// Reads a CSV file with a header line.
    ///
    /// # Errors
    /// A file that is missing, malformed or without rows.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let what = || format!("cannot read the data file {}", path.display());
        let mut reader = csv::Reader::from_path(path).with_context(what)?;
        let columns =
            reader.headers().with_context(what)?.iter().map(|name| name.trim().to_owned()).collect();
        let mut rows = Vec::new();
        for record in reader.records() {
            rows.push(record.with_context(what)?.iter().map(str::to_owned).collect());
        }
        anyhow::ensure!(
            !rows.is_empty(),
            "the data file {} has no rows: give it some below its header",
            path.display()
        );
        Ok(Self { columns, rows })
    }
}

/// One kind of request, as flags or a scenario describe it.
#[derive(Clone, Debug, Default)]
pub struct Described {
    /// The name under which it is counted.
    pub name: Option<String>,
    /// Its share among all, relative to the other weights.
    pub weight: u32,
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `Name: value` pairs.
    pub headers: Vec<(String, String)>,
    /// Body; templates in it are filled when it is text.
    pub body: Bytes,
}

impl Described {
    /// As it stands in a result.
    pub fn planned(&self) -> PlannedRequest {
        PlannedRequest {
            name: self.name.clone(),
            weight: u64::from(self.weight),
            path: self.path.clone(),
            headers: self.headers.clone(),
            ..PlannedRequest::content(&self.method, &self.body)
        }
    }
}

#[derive(Clone, Debug)]
struct Prepared {
    name: Option<String>,
    method: Method,
    path: Template,
    uri: Option<Uri>,
    headers: HeaderMap,
    filled: Vec<(HeaderName, Template)>,
    body: Body,
    /// All of it, if no row changes it.
    wire: Option<(Bytes, Traits)>,
}

/// What a client must know of a request beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// A HEAD request: its reply has no body.
    pub head_only: bool,
    /// It says `Connection: close`, so its connection cannot be used again (RFC 9112, section 9.6).
    pub closes: bool,
    /// Its method is idempotent: it may be sent again when nobody knows whether it arrived (RFC 9110, section 9.2.2).
    pub repeatable: bool,
}

impl Traits {
    fn of(request: &Request<Bytes>) -> Self {
        const REPEATABLE: [Method; 6] =
            [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE];
        let says_close = |value: &HeaderValue| {
            value
                .as_bytes()
                .split(|b| *b == b',')
                .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
        };
        Self {
            head_only: request.method() == Method::HEAD,
            closes: request.headers().get_all(CONNECTION).iter().any(says_close),
            repeatable: REPEATABLE.contains(request.method()),
        }
    }
}

#[derive(Clone, Debug)]
enum Body {
    Fixed(Bytes),
    Filled(Template),
}

/// All requests of a run.
#[derive(Clone, Debug)]
pub struct Requests {
    prepared: Vec<Prepared>,
    /// Cumulated weights.
    weights: Vec<u64>,
    rows: Arc<Vec<Vec<String>>>,
    seed: u64,
    good: Option<Statuses>,
}

/// A request that is made: its name, itself, and what must be known of it.
type Built<'a, T> = (Option<&'a str>, T, Traits);

/// Statuses that count as good: `200,404,2xx`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(Vec<(u16, u16)>);

impl FromStr for Statuses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one = |item: &str| match item.strip_suffix("xx").map_or_else(|| item.parse(), str::parse::<u16>) {
            Ok(class @ 1..=5) if item.ends_with("xx") => Ok((100 * class, 100 * class + 99)),
            Ok(status @ 100..=599) if !item.ends_with("xx") => Ok((status, status)),
            _ => Err(format!("{item:?} is no status: give 200,404 or a class such as 2xx")),
        };
        text.split(',').map(|item| one(item.trim())).collect::<Result<_, _>>().map(Self)
    }
}

impl Requests {
    /// Checks and prepares `described` for a target of this authority.
    ///
    /// # Errors
    /// A method, path, header or template that cannot be used.
    pub fn new(described: &[Described], authority: &str, data: &Data, seed: u64) -> anyhow::Result<Self> {
        let mut prepared = Vec::new();
        let (mut weights, mut total) = (Vec::new(), 0_u64);
        for one in described {
            let method = Method::from_bytes(one.method.as_bytes())
                .with_context(|| format!("{:?} is not an HTTP method", one.method))?;
            let path = Template::path(&one.path, &data.columns)?;
            let uri = match path.is_fixed() {
                true => {
                    Some(path.fill(&[]).parse().with_context(|| format!("{:?} is not a path", one.path))?)
                }
                false => None,
            };
            let mut headers = HeaderMap::new();
            let host =
                HeaderValue::from_str(authority).with_context(|| format!("{authority:?} is not a host"))?;
            headers.insert(HOST, host);
            headers
                .insert(USER_AGENT, HeaderValue::from_static(concat!("loadgen/", env!("CARGO_PKG_VERSION"))));
            let mut filled = Vec::new();
            for (name, value) in &one.headers {
                let name = HeaderName::from_bytes(name.as_bytes()).with_context(|| {
                    format!("{name:?} is not a header's name: write --header 'Name: value'")
                })?;
                let template = Template::plain(value, &data.columns)?;
                if template.is_fixed() {
                    let value = HeaderValue::from_str(value)
                        .with_context(|| format!("{value:?} cannot be the value of the header {name}"))?;
                    // Host and User-Agent are ours until they are given.
                    if headers.contains_key(&name) && (name == HOST || name == USER_AGENT) {
                        headers.insert(name, value);
                    } else {
                        headers.append(name, value);
                    }
                } else {
                    filled.push((name, template));
                }
            }
            let body = match std::str::from_utf8(&one.body)
                .ok()
                .filter(|text| !data.columns.is_empty() && text.contains("{{"))
            {
                Some(text) => Body::Filled(Template::plain(text, &data.columns)?),
                None => Body::Fixed(one.body.clone()),
            };
            total += u64::from(one.weight);
            weights.push(total);
            let name = one.name.clone();
            let mut one = Prepared { name, method, path, uri, headers, filled, body, wire: None };
            if one.uri.is_some() && one.filled.is_empty() && matches!(one.body, Body::Fixed(_)) {
                one.wire = one.fill(&[]).ok().map(|request| (wire(&request), Traits::of(&request)));
            } else {
                for (number, row) in data.rows.iter().enumerate() {
                    one.fill(row).map_err(|failure| {
                        anyhow::anyhow!("row {} of the data gives no request: {}", number + 1, failure.detail)
                    })?;
                }
            }
            prepared.push(one);
        }
        anyhow::ensure!(total > 0, "a scenario needs at least one request with a weight above zero");
        Ok(Self { prepared, weights, rows: Arc::new(data.rows.clone()), seed, good: None })
    }

    /// The same, and what counts as a good reply; otherwise all but 4xx and 5xx do.
    pub fn with_good(self, good: Option<Statuses>) -> Self {
        Self { good, ..self }
    }

    /// Whether a reply of this status is good.
    ///
    /// # Errors
    /// It is not.
    pub fn judge(&self, status: u16) -> Result<Ending, Failure> {
        let good = match &self.good {
            Some(Statuses(ranges)) => ranges.iter().any(|(first, last)| (*first..=*last).contains(&status)),
            None => status < 400,
        };
        if good {
            return Ok(Ending::Ok);
        }
        let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        Err(Failure::new(format!("http {status}"), format!("{status} {}", reason.unwrap_or(""))))
    }

    /// Whether somebody has said what is good.
    pub fn says_good(&self) -> bool {
        self.good.is_some()
    }

    /// Whether all requests are the same, so that their replies should be.
    pub fn is_one(&self) -> bool {
        matches!(&self.prepared[..], [Prepared { wire: Some(_), .. }])
    }

    fn choose(&self, index: u64) -> (&Prepared, &[String]) {
        let chosen = match self.weights.as_slice() {
            [_] => 0,
            weights => {
                let total = weights.last().copied().unwrap_or(1);
                let draw = SmallRng::seed_from_u64(self.seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15))
                    .random_range(0..total);
                weights.partition_point(|weight| *weight <= draw)
            }
        };
        let row = match self.rows.len() as u64 {
            0 => [].as_slice(),
            n => &self.rows[(index % n) as usize],
        };
        (&self.prepared[chosen], row)
    }

    /// The request for an index of the schedule, and its name.
    ///
    /// # Errors
    /// A row that fills a template with what cannot stand there; all rows were tried before the run.
    pub fn build(&self, index: u64) -> Result<Built<'_, Request<Full<Bytes>>>, Failure> {
        let (one, row) = self.choose(index);
        let request = one.fill(row)?;
        let traits = Traits::of(&request);
        Ok((one.name.as_deref(), request.map(Full::new), traits))
    }

    /// The same as the bytes that go to the server.
    ///
    /// # Errors
    /// As [`Requests::build`]'s.
    pub fn wire(&self, index: u64) -> Result<Built<'_, Bytes>, Failure> {
        let (one, row) = self.choose(index);
        let (bytes, traits) = match &one.wire {
            Some(prepared) => prepared.clone(),
            None => {
                let request = one.fill(row)?;
                (wire(&request), Traits::of(&request))
            }
        };
        Ok((one.name.as_deref(), bytes, traits))
    }
}

impl Prepared {
    fn fill(&self, row: &[String]) -> Result<Request<Bytes>, Failure> {
        let uri = match &self.uri {
            Some(uri) => uri.clone(),
            None => {
                let path = self.path.fill(row);
                let uri = path.starts_with('/').then(|| path.parse().ok()).flatten();
                uri.ok_or_else(|| Failure::new("template gives no path", format!("{path:?} is no path")))?
            }
        };
        let body = match &self.body {
            Body::Fixed(body) => body.clone(),
            Body::Filled(template) => Bytes::from(template.fill(row)),
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        for (name, template) in &self.filled {
            let value = template.fill(row);
            let value = HeaderValue::from_str(&value).map_err(|_| {
                Failure::new("template gives no header", format!("{value:?} cannot be the value of {name}"))
            })?;
            request.headers_mut().append(name.clone(), value);
        }
        Ok(request)
    }
}

/// `request` as it goes over an HTTP/1.1 connection (RFC 9112). Its length is told unless its headers tell it.
fn wire(request: &Request<Bytes>) -> Bytes {
    let (headers, body) = (request.headers(), request.body());
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let mut bytes = format!("{} {path} HTTP/1.1\r\n", request.method()).into_bytes();
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    let means_content = [Method::POST, Method::PUT, Method::PATCH].contains(request.method());
    if headers.contains_key(TRANSFER_ENCODING) {
        // The user wants it encoded: then one chunk is as good as many.
        bytes.extend_from_slice(b"\r\n");
        if !body.is_empty() {
            bytes.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
            bytes.extend_from_slice(body);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
    } else {
        if !headers.contains_key(CONTENT_LENGTH) && (means_content || !body.is_empty()) {
            bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data() -> Data {
        Data {
            columns: vec!["user".into(), "id".into()],
            rows: vec![vec!["ann".into(), "7".into()], vec!["bob".into(), "8".into()]],
        }
    }

    #[test]
    fn templates_take_the_rows_in_turn() {
        let one = Described {
            weight: 1,
            method: "POST".into(),
            path: "/u/{{user}}?id={{ id }}".into(),
            headers: vec![("x-id".into(), "n{{id}}".into())],
            body: Bytes::from_static(b"hello {{user}}"),
            ..Described::default()
        };
        let requests = Requests::new(&[one], "h", &data(), 1).unwrap();
        let paths: Vec<String> = (0..3).map(|i| requests.build(i).unwrap().1.uri().to_string()).collect();
        assert_eq!(paths, ["/u/ann?id=7", "/u/bob?id=8", "/u/ann?id=7"]);
        assert_eq!(requests.build(1).unwrap().1.headers()["x-id"], "n8");
    }

    /// One rule for both clients: what cannot stand in a path is encoded, and a value cannot change the path around it.
    #[test]
    fn a_path_is_what_was_written() {
        let data = Data { columns: vec!["v".into()], rows: vec![vec!["a b/ü?#".into()]] };
        for (path, sent) in [
            ("/a b", "/a%20b"),
            ("/ü?q=ä", "/%C3%BC?q=%C3%A4"),
            ("/a%20b", "/a%20b"),
            ("/{{v}}", "/a%20b%2F%C3%BC%3F%23"),
            ("/x?{{ v }}", "/x?a%20b%2F%C3%BC%3F%23"),
            ("/a|b<c>\"", "/a%7Cb%3Cc%3E%22"),
        ] {
            let one =
                Described { weight: 1, method: "GET".into(), path: path.into(), ..Described::default() };
            let requests = Requests::new(&[one], "h", &data, 0).unwrap();
            assert_eq!(requests.build(0).unwrap().1.uri(), sent, "{path}");
            let wire = requests.wire(0).unwrap().1;
            assert!(wire.starts_with(format!("GET {sent} HTTP/1.1\r\n").as_bytes()), "{path}");
        }
        let raw = Data { columns: vec!["v".into()], rows: vec![vec!["a/b?c=1".into()]] };
        let one =
            Described { weight: 1, method: "GET".into(), path: "/{{{v}}}".into(), ..Described::default() };
        let requests = Requests::new(std::slice::from_ref(&one), "h", &raw, 0).unwrap();
        assert_eq!(requests.build(0).unwrap().1.uri(), "/a/b?c=1");
        for bad in ["users", "http://h/users", "/a#b", "{{v}}"] {
            let bad = Described { path: bad.into(), ..one.clone() };
            assert!(Requests::new(std::slice::from_ref(&bad), "h", &raw, 0).is_err(), "{bad:?}");
        }
        let spaced = Data { columns: vec!["v".into()], rows: vec![vec!["fine".into()], vec!["a b".into()]] };
        let error = Requests::new(&[one], "h", &spaced, 0).unwrap_err().to_string();
        assert!(error.contains("row 2"), "{error}");
    }

    #[test]
    fn statuses_are_numbers_and_classes() {
        let good: Statuses = "204, 404,2xx".parse().unwrap();
        let one = Described { weight: 1, method: "GET".into(), path: "/".into(), ..Described::default() };
        let requests = Requests::new(&[one], "h", &Data::default(), 0).unwrap().with_good(Some(good));
        let judged = [200, 204, 299, 301, 404, 500].map(|status| requests.judge(status).is_ok());
        assert_eq!(judged, [true, true, true, false, true, false]);
        for bad in ["", "2x", "6xx", "99", "600", "200,", "xx"] {
            assert!(bad.parse::<Statuses>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn weights_are_kept_and_follow_from_the_index_alone() {
        let kind = |name: &str, weight| Described {
            name: Some(name.into()),
            weight,
            method: "GET".into(),
            path: "/".into(),
            ..Described::default()
        };
        let requests = Requests::new(&[kind("a", 3), kind("b", 1)], "h", &Data::default(), 9).unwrap();
        let names =
            || (0..10_000).map(|i| requests.build(i).unwrap().0.unwrap().to_owned()).collect::<Vec<_>>();
        let share = names().iter().filter(|name| *name == "a").count();
        assert!((7_300..7_700).contains(&share), "three quarters of 10,000: {share}");
        assert_eq!(names(), names());
    }

    #[test]
    fn what_cannot_be_sent_is_refused_before_the_run() {
        let good = Described { weight: 1, method: "GET".into(), path: "/".into(), ..Described::default() };
        for bad in [
            Described { method: "G T".into(), ..good.clone() },
            Described { path: "/{{nobody}}".into(), ..good.clone() },
            Described { path: "/{{".into(), ..good.clone() },
            Described { headers: vec![("a b".into(), "c".into())], ..good.clone() },
            Described { headers: vec![("a".into(), "b\nc".into())], ..good.clone() },
            Described { weight: 0, ..good.clone() },
        ] {
            assert!(Requests::new(std::slice::from_ref(&bad), "h", &data(), 0).is_err(), "{bad:?}");
        }
        assert!(Requests::new(&[good], "h", &data(), 0).is_ok());
    }

    proptest! {
        /// R23: no text makes the parser panic; without braces it is itself.
        #[test]
        fn any_text_is_a_template_or_an_error(text in "[a{} ]{0,12}|\\PC{0,12}") {
            if let Ok(template) = Template::parse(&text, &["a".into()])
                && !text.contains("{{")
            {
                prop_assert_eq!(template.fill(&[]), text);
            }
        }
    }
}
