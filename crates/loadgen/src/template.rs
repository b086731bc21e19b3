//! The requests of an HTTP run: one from flags, or several weighted ones from a scenario file, with `{{templates}}`
//! filled from the rows of a CSV file.
//!
//! Which request, and which row, belongs to an index of the schedule follows from the index and the seed alone, so
//! that the shards of a run agree and a run can be repeated.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, USER_AGENT};
use http::{Method, Request, Uri};
use http_body_util::Full;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

/// A text with places for values of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Column(usize),
}

/// A text that may hold `{{column}}`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Template(Vec<Piece>);

impl Template {
    /// Parses `text`; `{{name}}` must be one of `columns`.
    ///
    /// # Errors
    /// An unknown name, or braces that do not close.
    pub fn parse(text: &str, columns: &[String]) -> anyhow::Result<Self> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, after) =
                after.split_once("}}").with_context(|| format!("{text:?} opens {{{{ without }}}}"))?;
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
            pieces.push(Piece::Column(column));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self(pieces))
    }

    fn is_fixed(&self) -> bool {
        self.0.iter().all(|piece| matches!(piece, Piece::Text(_)))
    }

    /// Fills the places from `row`; a column that the row lacks is empty.
    pub fn fill(&self, row: &[String]) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Column(column) => row.get(*column).cloned().unwrap_or_default(),
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
    wire: Option<Bytes>,
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
            let path = Template::parse(&one.path, &data.columns)?;
            let uri = match path.is_fixed() {
                true => Some(one.path.parse().with_context(|| format!("{:?} is not a path", one.path))?),
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
                let template = Template::parse(value, &data.columns)?;
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
                Some(text) => Body::Filled(Template::parse(text, &data.columns)?),
                None => Body::Fixed(one.body.clone()),
            };
            total += u64::from(one.weight);
            weights.push(total);
            let name = one.name.clone();
            let mut one = Prepared { name, method, path, uri, headers, filled, body, wire: None };
            if one.uri.is_some() && one.filled.is_empty() && matches!(one.body, Body::Fixed(_)) {
                one.wire = one.fill(&[]).ok().as_ref().map(wire);
            }
            prepared.push(one);
        }
        anyhow::ensure!(total > 0, "a scenario needs at least one request with a weight above zero");
        Ok(Self { prepared, weights, rows: Arc::new(data.rows.clone()), seed })
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
    /// A row that fills a template with what cannot stand there; the text is an error class.
    pub fn build(&self, index: u64) -> Result<(Option<&str>, Request<Full<Bytes>>), String> {
        let (one, row) = self.choose(index);
        Ok((one.name.as_deref(), one.fill(row)?.map(Full::new)))
    }

    /// The same as the bytes that go to the server, and whether it is a HEAD request, whose reply has no body.
    ///
    /// # Errors
    /// As [`Requests::build`]'s.
    pub fn wire(&self, index: u64) -> Result<(Option<&str>, Bytes, bool), String> {
        let (one, row) = self.choose(index);
        let bytes = match &one.wire {
            Some(bytes) => bytes.clone(),
            None => wire(&one.fill(row)?),
        };
        Ok((one.name.as_deref(), bytes, one.method == Method::HEAD))
    }
}

impl Prepared {
    fn fill(&self, row: &[String]) -> Result<Request<Bytes>, String> {
        let uri = match &self.uri {
            Some(uri) => uri.clone(),
            None => self.path.fill(row).parse().map_err(|_| "template gives no path".to_owned())?,
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
            let value = HeaderValue::from_str(&template.fill(row))
                .map_err(|_| "template gives no header".to_owned())?;
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
