//! The flags that `run`, `search` and `compare` share, and what they amount to.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use bytes::Bytes;
use serde::Deserialize;

use crate::clock::nanos;
use crate::engine::Closed;
use crate::exit::WrongUsage;
use crate::pacer::PacerKind;
use crate::protocol::stream::{self, TlsSettings};
use crate::protocol::{Client, Route, udp};
use crate::replay;
use crate::result::PlannedRequest;
use crate::schedule::{Arrival, Rate, Schedule, Share};
use crate::slo::Objective;
use crate::spec::{RequestKind, Spec};
use crate::target::{Scheme, Target, answering};
use crate::template::{Data, Described, Requests, Statuses};
use crate::units::Span;

/// What is measured: a URL, or a scenario file that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetArg {
    /// A URL.
    Url(Target),
    /// `*.toml`.
    Scenario(PathBuf),
}

impl FromStr for TargetArg {
    type Err = crate::target::BadTarget;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.contains("://") && text.ends_with(".toml") {
            return Ok(Self::Scenario(text.into()));
        }
        text.parse().map(Self::Url)
    }
}

/// Distribution of the arrivals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ArrivalArg {
    /// Evenly spaced
    Constant,
    /// Exponential gaps, from the seed
    Poisson,
}

fn connections(text: &str) -> Result<Option<usize>, String> {
    match text {
        "auto" => Ok(None),
        _ => match text.parse() {
            Ok(n @ 1..=1_000_000) => Ok(Some(n)),
            _ => Err(format!("{text:?} is no number of connections: give auto or 1 to 1000000")),
        },
    }
}

fn shard(text: &str) -> Result<Share, String> {
    let parse = || {
        let (part, of) = text.split_once('/')?;
        let share = Share { part: part.parse().ok()?, of: of.parse().ok()? };
        (share.part < share.of && share.of <= 1_000_000).then_some(share)
    };
    parse().ok_or_else(|| format!("{text:?} is no shard: give I/N with I from 0 to N - 1, such as 0/4"))
}

fn start_at(text: &str) -> Result<SystemTime, String> {
    if let Ok(seconds) = text.parse::<f64>()
        && (0.0..1e12).contains(&seconds)
    {
        return Ok(UNIX_EPOCH + Duration::from_secs_f64(seconds));
    }
    humantime::parse_rfc3339_weak(text)
        .map_err(|_| format!("{text:?} is no moment: give seconds since 1970, or 2030-01-31T12:00:00Z (UTC)"))
}

fn percentile(text: &str) -> Result<f64, String> {
    if text == "max" {
        return Ok(100.0);
    }
    let number = text.strip_prefix('p').unwrap_or(text);
    match number.parse::<f64>() {
        Ok(p) if p > 0.0 && p <= 100.0 => Ok(p),
        _ => Err(format!(
            "{text:?} is no percentile: give max, or a number above 0 and up to 100 such as 99.9"
        )),
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("{text:?} is no ratio: give a number from 0 to 1 such as 0.001")),
    }
}

/// A width as `1%` or `0.01`.
pub(crate) fn width(text: &str) -> Result<f64, String> {
    let number = match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().map(|p| p / 100.0),
        None => text.parse(),
    };
    match number {
        Ok(width) if (0.0005..=0.5).contains(&width) => Ok(width),
        _ => Err(format!("{text:?} is no width: give 0.05% to 50%, such as 1%")),
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err(format!("{text:?} is no header: give 'Name: value'")),
    }
}

fn method(text: &str) -> Result<String, String> {
    match ::http::Method::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("{text:?} is no HTTP method: give GET, POST or another token")),
    }
}

fn host_port(text: &str) -> Result<(String, u16), String> {
    let parse = || {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse().ok())??;
        (!host.is_empty() && port != 0).then(|| (host.to_owned(), port))
    };
    parse().ok_or_else(|| format!("{text:?} is no address: give HOST:PORT, such as 127.0.0.1:8080"))
}

/// `--resolve HOST:PORT:IP`, as curl has it.
fn resolve(text: &str) -> Result<(String, u16, IpAddr), String> {
    let parse = || {
        let mut parts = text.splitn(3, ':');
        let (host, port, address) = (parts.next()?, parts.next()?, parts.next()?);
        let address = address.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        let (host, port) = host_port(&format!("{host}:{port}")).ok()?;
        Some((host, port, address))
    };
    parse().ok_or_else(|| {
        format!("{text:?} names no address: give HOST:PORT:IP, such as example.org:443:127.0.0.1")
    })
}

/// `--ramp A:B:DUR`.
fn ramp(text: &str) -> Result<(Rate, Rate, Span), String> {
    let parts: Vec<&str> = text.splitn(3, ':').collect();
    let [from, to, span] = parts[..] else {
        return Err(format!("{text:?} is no ramp: give FROM:TO:DURATION, such as 100:2000:30s"));
    };
    let rate = |text: &str| text.parse::<Rate>().map_err(|e| e.to_string());
    Ok((rate(from)?, rate(to)?, Span::above_zero(span)?))
}

/// `--steps R,R..:DUR`.
fn steps(text: &str) -> Result<(Vec<Rate>, Span), String> {
    let (rates, span) = text.rsplit_once(':').ok_or_else(|| {
        format!("{text:?} are no steps: give RATE,RATE,...:DURATION, such as 100,200,400:10s")
    })?;
    let rates =
        rates.split(',').map(str::parse::<Rate>).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    Ok((rates, Span::above_zero(span)?))
}

/// When requests start.
#[derive(clap::Args, Clone, Debug)]
pub struct ScheduleArgs {
    /// Requests a second: 1000, 2k, 0.5, or 600/m
    #[arg(long, value_name = "R", help_heading = "Load")]
    pub rate: Option<Rate>,
    /// Length of the measured schedule
    #[arg(long, value_name = "DUR", default_value = "10s", value_parser = Span::above_zero, help_heading = "Load")]
    pub duration: Span,
    /// The rate moves from A to B over DUR
    #[arg(long, value_name = "A:B:DUR", value_parser = ramp, conflicts_with_all = ["rate", "duration", "steps"], help_heading = "Load")]
    pub ramp: Option<(Rate, Rate, Span)>,
    /// These rates one after the other, each for DUR
    #[arg(long, value_name = "R,R..:DUR", value_parser = steps, conflicts_with_all = ["rate", "duration"], help_heading = "Load")]
    pub steps: Option<(Vec<Rate>, Span)>,
    /// The start times in FILE: a CSV file or a log in the common format
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rate", "duration", "ramp", "steps"], help_heading = "Load")]
    pub replay: Option<PathBuf>,
    /// Replay so many times as fast
    #[arg(long, value_name = "2x", default_value = "1x", value_parser = replay::speed, requires = "replay", help_heading = "Load")]
    pub speed: f64,
    /// For comparison only: send when the reply before has come (with --rate: skip starts for which no connection is
    /// free)
    #[arg(long, help_heading = "Load")]
    pub closed_loop: bool,
}

impl ScheduleArgs {
    /// The schedule, and whether the loop is closed.
    ///
    /// # Errors
    /// No rate at all, which is wrong usage; a file that holds no start times.
    pub fn schedule(&self, arrival: ArrivalArg, seed: u64) -> anyhow::Result<(Schedule, Option<Closed>)> {
        let duration = self.duration.0;
        let closed = self.closed_loop.then_some(if self.rate.is_some() {
            Closed::Paced
        } else {
            Closed::AsFastAsPossible
        });
        if let Some(file) = &self.replay {
            if self.closed_loop {
                return Err(WrongUsage(
                    "--closed-loop goes with --rate or alone, not with --replay".to_owned(),
                )
                .into());
            }
            let times = replay::read(file, self.speed)?;
            // The last of them is within the schedule.
            let duration = times.last().map_or(1, |last| last + 1);
            return Ok((Schedule { arrival: Arrival::Trace(times), duration }, None));
        }
        let schedule = match (self.rate, self.ramp, &self.steps) {
            (Some(rate), ..) => {
                let arrival = match arrival {
                    ArrivalArg::Constant => Arrival::Constant(rate),
                    ArrivalArg::Poisson => Arrival::Poisson(rate, seed),
                };
                Schedule { arrival, duration }
            }
            (None, Some((from, to, span)), _) => {
                Schedule { arrival: Arrival::Ramp(from, to), duration: span.0 }
            }
            (None, None, Some((rates, span))) => {
                let duration = span.0.saturating_mul(rates.len() as u64);
                Schedule { arrival: Arrival::Steps(rates.clone().into(), span.0), duration }
            }
            // The loop itself decides: its schedule holds only the duration.
            (None, None, None) if self.closed_loop => {
                Schedule { arrival: Arrival::Trace(Arc::new([])), duration }
            }
            (None, None, None) => {
                let what = "give --rate R (or --ramp, --steps, --replay, or --closed-loop)";
                return Err(WrongUsage(what.to_owned()).into());
            }
        };
        if self.closed_loop && (self.ramp.is_some() || self.steps.is_some()) {
            let what = "--closed-loop goes with --rate or alone, not with --ramp or --steps";
            return Err(WrongUsage(what.to_owned()).into());
        }
        Ok((schedule, closed))
    }

    /// As it stands in a result.
    pub(crate) fn text(&self) -> String {
        if let Some(file) = &self.replay {
            return format!("{} at {}x", file.display(), self.speed);
        }
        match (&self.rate, &self.ramp, &self.steps) {
            (Some(rate), ..) => rate.to_string(),
            (_, Some((a, b, span)), _) => format!("{a}:{b}:{}s", span.seconds()),
            (_, _, Some((rates, span))) => {
                let rates: Vec<String> = rates.iter().map(Rate::to_string).collect();
                format!("{}:{}s", rates.join(","), span.seconds())
            }
            _ => String::new(),
        }
    }
}

/// How the generator goes about it.
#[derive(clap::Args, Clone, Debug)]
pub struct LoadArgs {
    /// Distribution of the arrivals
    #[arg(long, value_enum, default_value = "constant", help_heading = "Load")]
    pub arrival: ArrivalArg,
    /// Requests before the measured ones, in no count [run: 5s; search: a quarter of a trial, at most 1s]
    #[arg(long, value_name = "DUR", help_heading = "Load")]
    pub warmup: Option<Span>,
    /// Seed of everything random [chosen and printed]
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub seed: Option<u64>,
    /// How a worker waits for the next request
    #[arg(long, value_enum, default_value = "timerfd", help_heading = "Load")]
    pub pacer: PacerKind,
    /// Release all requests due within DUR at one wake: fewer wakes, and up to DUR of send lag
    #[arg(long, value_name = "DUR", default_value = "0s", help_heading = "Load")]
    pub coalesce: Span,
    /// Worker threads
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=512), help_heading = "Load")]
    pub threads: u16,
    /// Most connections (sockets for udp), or auto: one is opened whenever a request is due and none is idle
    #[arg(long, value_name = "N|auto", default_value = "auto", value_parser = connections, help_heading = "Load")]
    pub connections: ConnectionsArg,
    /// Cancel a request at this age, counted from its intended start
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = Span::above_zero, help_heading = "Load")]
    pub timeout: Span,
    /// Wait this long for unfinished requests at the end
    #[arg(long, value_name = "DUR", default_value = "5s", help_heading = "Load")]
    pub grace: Span,
    /// This process makes the requests i = I (mod N) of one schedule; merge the results with report
    #[arg(long, value_name = "I/N", value_parser = shard, help_heading = "Load")]
    pub shard: Option<Share>,
    /// Start at this moment (seconds since 1970, or 2030-01-31T12:00:00Z), so that several machines start together
    #[arg(long, value_name = "TIME", value_parser = start_at, help_heading = "Load")]
    pub start_at: Option<SystemTime>,
    /// What speaks HTTP/1.1
    #[arg(long, value_enum, default_value = "lean", help_heading = "Request")]
    pub client: Client,
    /// HTTP method [default: GET]
    #[arg(long, value_name = "M", value_parser = method, help_heading = "Request")]
    pub method: Option<String>,
    /// HTTP header, 'Name: value'; may be given several times
    #[arg(long, value_name = "H", value_parser = header, help_heading = "Request")]
    pub header: Vec<(String, String)>,
    /// Body (http), or what is sent after connecting (tcp)
    #[arg(long, value_name = "TEXT|@FILE", help_heading = "Request")]
    pub body: Option<String>,
    /// Size of a datagram [default: 64]
    #[arg(long, value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(udp::SMALLEST as i64..=udp::LARGEST as i64), help_heading = "Request")]
    pub size: Option<u32>,
    /// Statuses that are good: 200,404,2xx [default: all but 4xx and 5xx]
    #[arg(long, value_name = "LIST", help_heading = "Request")]
    pub ok: Option<Statuses>,
    /// Rows for {{templates}} in path, headers and body: a CSV file with a header line
    #[arg(long, value_name = "FILE", help_heading = "Request")]
    pub data: Option<PathBuf>,
    /// Local addresses to connect from, in turn
    #[arg(long, value_name = "IP", num_args = 1.., help_heading = "Target")]
    pub source: Vec<IpAddr>,
    /// Connect there; the requests still name the target
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port, help_heading = "Target")]
    pub connect_to: Option<(String, u16)>,
    /// The address of a name, in place of what the resolver says
    #[arg(long, value_name = "HOST:PORT:IP", value_parser = resolve, help_heading = "Target")]
    pub resolve: Vec<(String, u16, IpAddr)>,
    /// The name to ask of the certificate, in place of the target's
    #[arg(long, value_name = "NAME", help_heading = "Target")]
    pub sni: Option<String>,
    /// Trust the certificates in this PEM file instead of the system's roots
    #[arg(long, value_name = "FILE", help_heading = "Target")]
    pub cacert: Option<PathBuf>,
    /// Trust any certificate
    #[arg(long, help_heading = "Target")]
    pub insecure: bool,
    /// Our own certificate, for a server that asks for one
    #[arg(long, value_name = "FILE", requires = "key", help_heading = "Target")]
    pub cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = "Target")]
    pub key: Option<PathBuf>,
}

/// What `--connections` says; `None` is auto. (An alias: clap takes a plain `Option` for an optional flag.)
pub type ConnectionsArg = std::option::Option<usize>;

/// The objective.
#[derive(clap::Args, Clone, Debug)]
pub struct SloArgs {
    /// The limit on the latency
    #[arg(long, value_name = "L", value_parser = Span::above_zero, help_heading = "Objective")]
    pub max_latency: Option<Span>,
    /// The percentile that it is asked of
    #[arg(long, value_name = "P", default_value = "max", value_parser = percentile, help_heading = "Objective")]
    pub percentile: f64,
    /// The largest share of errors, timeouts and unfinished requests; always judged [default: 0.001]
    #[arg(long, value_name = "E", value_parser = ratio, help_heading = "Objective")]
    pub error_ratio: Option<f64>,
}

/// What `--error-ratio` is when nobody says.
const ERROR_RATIO: f64 = 0.001;

impl SloArgs {
    /// The objective.
    pub fn objective(&self) -> Objective {
        Objective {
            max_latency: self.max_latency.map(|span| span.0),
            percentile: self.percentile,
            error_ratio: self.error_ratio.unwrap_or(ERROR_RATIO),
            given: self.max_latency.is_some() || self.error_ratio.is_some(),
        }
    }
}

/// A scenario file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    target: String,
    data: Option<PathBuf>,
    #[serde(default)]
    headers: toml::Table,
    request: Vec<ScenarioRequest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioRequest {
    name: Option<String>,
    #[serde(default = "one")]
    weight: u32,
    #[serde(default = "get")]
    method: String,
    path: Option<String>,
    #[serde(default)]
    headers: toml::Table,
    body: Option<String>,
    body_file: Option<PathBuf>,
}

fn one() -> u32 {
    1
}

fn get() -> String {
    "GET".to_owned()
}

fn table(headers: &toml::Table) -> Vec<(String, String)> {
    let text = |value: &toml::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    headers.iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

fn body_file(path: &Path) -> anyhow::Result<Bytes> {
    let read = std::fs::read(path);
    Ok(read.with_context(|| format!("cannot read the body file {}: check its name", path.display()))?.into())
}

impl LoadArgs {
    fn body(&self) -> anyhow::Result<Bytes> {
        match self.body.as_deref() {
            None => Ok(Bytes::new()),
            Some(text) => match text.strip_prefix('@') {
                Some(path) => body_file(Path::new(path)),
                None => Ok(Bytes::copy_from_slice(text.as_bytes())),
            },
        }
    }

    /// The target, the kinds of requests and their data.
    fn requests(&self, target: &TargetArg) -> anyhow::Result<(Target, Vec<Described>, Data)> {
        let data = |path: &Option<PathBuf>| path.as_deref().map_or_else(|| Ok(Data::default()), Data::read);
        match target {
            TargetArg::Url(target) => {
                let described = Described {
                    name: None,
                    weight: 1,
                    method: self.method.clone().unwrap_or_else(get),
                    path: target.path.clone(),
                    headers: self.header.clone(),
                    body: self.body()?,
                };
                Ok((target.clone(), vec![described], data(&self.data)?))
            }
            TargetArg::Scenario(path) => {
                let what = || format!("cannot use the scenario {}", path.display());
                let text = std::fs::read_to_string(path).with_context(what)?;
                let scenario: Scenario = toml::from_str(&text).with_context(what)?;
                let target: Target = scenario.target.parse().with_context(what)?;
                let http = matches!(target.scheme, Scheme::Http | Scheme::Https);
                anyhow::ensure!(http, "{}: only http and https targets have scenarios", what());
                // Files are named relative to the scenario.
                let beside = |file: &PathBuf| path.parent().unwrap_or(Path::new("")).join(file);
                let mut described = Vec::new();
                for (i, request) in scenario.request.iter().enumerate() {
                    let mut headers = table(&scenario.headers);
                    headers.extend(table(&request.headers));
                    headers.extend(self.header.iter().cloned());
                    let body = match (&request.body, &request.body_file) {
                        (Some(text), _) => Bytes::copy_from_slice(text.as_bytes()),
                        (None, Some(file)) => body_file(&beside(file))?,
                        (None, None) => Bytes::new(),
                    };
                    described.push(Described {
                        name: Some(request.name.clone().unwrap_or_else(|| format!("request {}", i + 1))),
                        weight: request.weight,
                        method: request.method.clone(),
                        path: request.path.clone().unwrap_or_else(|| target.path.clone()),
                        headers,
                        body,
                    });
                }
                let rows = self.data.clone().or_else(|| scenario.data.as_ref().map(beside));
                Ok((target, described, data(&rows)?))
            }
        }
    }

    /// The seed given, or one from the clock, which is printed with the result.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            // Short enough to be typed again.
            since.as_nanos() as u64 % 1_000_000_007
        })
    }

    /// What a target of this kind has no use for: to ignore a flag would measure something else than what was written.
    fn check(&self, scheme: Scheme, of_scenario: bool) -> Result<(), WrongUsage> {
        let http = matches!(scheme, Scheme::Http | Scheme::Https);
        let (method, body) = (self.method.is_some(), self.body.is_some());
        let given = [
            ("--method", method && (!http || of_scenario)),
            ("--body", body && (scheme == Scheme::Udp || of_scenario)),
            ("--header", !self.header.is_empty() && !http),
            ("--data", self.data.is_some() && !http),
            ("--ok", self.ok.is_some() && !http),
            ("--size", self.size.is_some() && scheme != Scheme::Udp),
            ("--cacert", self.cacert.is_some() && scheme != Scheme::Https),
            ("--insecure", self.insecure && scheme != Scheme::Https),
            ("--cert", self.cert.is_some() && scheme != Scheme::Https),
            ("--sni", self.sni.is_some() && scheme != Scheme::Https),
        ];
        let what = if of_scenario { "the scenario, which says it itself" } else { scheme.name() };
        match given.iter().find(|(_, unused)| *unused) {
            Some((flag, _)) => Err(WrongUsage(format!("{flag} is not for {what}: leave it out"))),
            None => Ok(()),
        }
    }

    /// Where to connect to.
    fn address(&self, target: &Target) -> anyhow::Result<SocketAddr> {
        let known = |host: &str, port: u16| {
            let found = self.resolve.iter().find(|(h, p, _)| h.eq_ignore_ascii_case(host) && *p == port);
            found.map(|(.., address)| SocketAddr::new(*address, port))
        };
        let (host, port) = match &self.connect_to {
            Some((host, port)) => (host.as_str(), *port),
            None => (target.host.as_str(), target.port),
        };
        known(host, port).map_or_else(|| answering(host, port, target.scheme == Scheme::Udp), Ok)
    }

    fn tls(&self, host: &str) -> anyhow::Result<stream::Tls> {
        let client = self.cert.as_deref().zip(self.key.as_deref());
        let settings = TlsSettings { roots: self.cacert.as_deref(), insecure: self.insecure, client };
        stream::tls(self.sni.as_deref().unwrap_or(host), &settings)
    }

    /// Everything for a run against `target`.
    ///
    /// # Errors
    /// A host that does not resolve, a file that cannot be read, a request that cannot be made.
    pub fn spec(
        &self,
        target: &TargetArg,
        schedule: Schedule,
        closed: Option<Closed>,
        objective: Objective,
        seed: u64,
    ) -> anyhow::Result<(Spec, Target)> {
        let of_scenario = matches!(target, TargetArg::Scenario(_));
        let (target, described, data) = self.requests(target)?;
        self.check(target.scheme, of_scenario)?;
        let to = self.address(&target)?;
        if let Some(source) = self.source.iter().find(|source| source.is_ipv4() != to.is_ipv4()) {
            anyhow::bail!("--source {source} cannot reach {to}: give addresses of the same family");
        }
        let route = Arc::new(Route { to, from: self.source.clone() });
        let kind = match target.scheme {
            Scheme::Http | Scheme::Https => {
                let requests = Requests::new(&described, &target.authority(), &data, seed)?;
                let requests = Arc::new(requests.with_good(self.ok.clone()));
                let tls = match target.scheme {
                    Scheme::Https => Some(self.tls(&target.host)?),
                    _ => None,
                };
                RequestKind::Http(self.client, route, requests, tls)
            }
            Scheme::Udp => RequestKind::Udp(route, self.size.unwrap_or(64) as usize),
            Scheme::Tcp => RequestKind::Line(route, self.body()?),
        };
        anyhow::ensure!(
            !(closed.is_some() && target.scheme == Scheme::Udp),
            "--closed-loop needs a connection to wait on: give an http or tcp target"
        );
        let planned = match (&kind, target.scheme) {
            (RequestKind::Udp(_, size), _) => vec![PlannedRequest::content("datagram", &size.to_be_bytes())],
            (RequestKind::Line(_, body), _) => vec![PlannedRequest::content("connection", body)],
            _ => described.iter().map(Described::planned).collect(),
        };
        let spec = Spec {
            kind,
            planned,
            schedule,
            share: self.shard.unwrap_or(Share::ALL),
            warm_up: self.warmup.map_or(nanos(5.0), |span| span.0),
            start_at: self.start_at,
            pacer: self.pacer,
            coalesce: self.coalesce.0,
            threads: self.threads as usize,
            connections: self.connections,
            timeout: self.timeout.0,
            grace: self.grace.0,
            closed,
            objective,
            trial: false,
            stop_if_unanswered: true,
        };
        Ok((spec, target))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn flags_that_are_none_are_refused_with_a_next_step() {
        for (text, error) in [
            ("3", Span::above_zero("3").unwrap_err()),
            ("0s", Span::above_zero("0s").unwrap_err()),
            ("4/4", shard("4/4").unwrap_err()),
            ("x", percentile("x").unwrap_err()),
            ("2", ratio("2").unwrap_err()),
            ("0", connections("0").unwrap_err()),
            ("90%", width("90%").unwrap_err()),
            ("1:2", ramp("1:2").unwrap_err()),
            ("1,0:3s", steps("1,0:3s").unwrap_err()),
            ("yesterday", start_at("yesterday").unwrap_err()),
        ] {
            assert!(error.contains(": "), "{text}: {error}");
        }
        assert_eq!(percentile("p99.9"), Ok(99.9));
        assert_eq!(width("1%"), Ok(0.01));
        assert_eq!(shard("3/4"), Ok(Share { part: 3, of: 4 }));
    }

    proptest! {
        /// R23: no text makes a parser of flags panic.
        #[test]
        fn any_text_is_a_flag_or_an_error(text in "\\PC{0,16}|[0-9.,:/%smhp]{0,16}") {
            let _ = (text.parse::<Span>(), shard(&text), percentile(&text), ratio(&text), connections(&text));
            let _ = (width(&text), ramp(&text), steps(&text), start_at(&text), header(&text), method(&text));
            let _ = text.parse::<TargetArg>();
        }
    }
}
